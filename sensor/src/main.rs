//! The command line of the vSensor: one verb a module.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use thymus_sensor::read;

/// Captures packets, keeps them in a rolling capture, and sends metadata to a master.
#[derive(Parser)]
#[command(name = "thymus-sensor", version, about)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Read capture files: Zeek logs or JSON lines.
    Read(read::ReadArgs),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    match CommandLine::parse().verb {
        Verb::Read(args) => read::run(args),
    }
}
