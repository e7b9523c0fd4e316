//! The command line of the vSensor: one verb a module.

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;
use thymus_sensor::{doctor, join, query, read, replay, run, status};

/// The version, and whether DPDK is in this build.
const VERSION: &str =
    if cfg!(feature = "dpdk") { concat!(env!("CARGO_PKG_VERSION"), " (dpdk)") } else { env!("CARGO_PKG_VERSION") };

/// Captures packets, keeps them in a rolling capture, and sends metadata to a master.
#[derive(Parser)]
#[command(name = "thymus-sensor", version = VERSION, about)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Join a master with a token.
    Join(join::JoinArgs),
    /// Capture, record, forward, until SIGTERM.
    Run(run::RunArgs),
    /// Capture files through the whole pipeline.
    Replay(replay::ReplayArgs),
    /// Read capture files: Zeek logs or JSON lines.
    Read(read::ReadArgs),
    /// Packets of a ring as pcapng.
    Query(query::QueryArgs),
    /// Write the manual pages into a folder, for packages.
    #[command(hide = true)]
    Man {
        /// The folder.
        folder: std::path::PathBuf,
    },
    /// What the running sensor says of itself; 0 once packets flow.
    Status(status::StatusArgs),
    /// Look at everything that a sensor needs, and name the cure of what is missing.
    Doctor(doctor::DoctorArgs),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    match CommandLine::parse().verb {
        Verb::Join(args) => join::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Replay(args) => replay::run(&args),
        Verb::Read(args) => read::run(args),
        Verb::Query(args) => query::run(&args),
        Verb::Man { folder } => match clap_mangen::generate_to(CommandLine::command(), &folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => thymus_sensor::failed("man", &format!("{}: {error}", folder.display())),
        },
        Verb::Status(args) => status::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
    }
}
