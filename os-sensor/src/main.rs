//! The OS-sensor: a host's own traffic, one copy of each packet, to a vSensor.

use clap::{CommandFactory, Parser, Subcommand};
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use thymus_os_sensor::{join, run, service, status, system, waiting};

/// The unit that starts it once it has joined: the package's, or that of `install`.
const UNITS: [&str; 2] = ["/usr/lib/systemd/system/thymus-os-sensor.path", "/etc/systemd/system/thymus-os-sensor.path"];

/// Sends this host's traffic to a vSensor, each packet once, however many hosts see it.
#[derive(Parser)]
#[command(name = "thymus-os-sensor", version, about)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Join with a token made by 'thymus-master token create --agent'; the vSensor alone must be reachable.
    Join {
        /// The token, or '-' to read it from stdin.
        token: String,
        /// State folder; made if it is not there.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
    },
    /// Capture and send until SIGTERM.
    Run {
        /// State folder that 'join' made.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
        /// Where there is no identity yet, join with the token in this file first; its vSensor is waited for.
        #[arg(long)]
        join_token_file: Option<PathBuf>,
        /// Room on disk for packets while no vSensor is there, e.g. 64MiB; 0 for none.
        #[arg(long, value_parser = waiting::parse_bytes, default_value = "64MiB")]
        spool: u64,
    },
    /// Write the manual pages into a folder, for packages.
    #[command(hide = true)]
    Man {
        /// The folder.
        folder: PathBuf,
    },
    /// Answer the running agent which process holds a socket; optional, and needs more privilege than capturing:
    /// CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN.
    #[cfg(target_os = "linux")]
    Names {
        /// State folder of the agent.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
    },
    /// What the running agent says of itself; 0 once packets flow.
    Status {
        /// State folder of the agent.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
    },
    /// Set the service up with this program, and start it.
    Install {
        /// State folder of the agent.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
    },
    /// Stop the service and take it away, with the agent's identity.
    Uninstall {
        /// State folder of the agent.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
        /// Keep the identity.
        #[arg(long)]
        keep: bool,
    },
    /// Give the agent's identity up: its folder goes.
    Forget {
        /// State folder of the agent.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
    },
    /// Run as the service: for the service manager alone.
    #[cfg(windows)]
    #[command(hide = true)]
    Service {
        /// State folder of the agent.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
    },
}

fn main() -> ExitCode {
    let verb = CommandLine::parse().verb;
    #[cfg(windows)]
    let has_console = !matches!(verb, Verb::Service { .. });
    #[cfg(not(windows))]
    let has_console = true;
    if has_console {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    }
    let done = match verb {
        Verb::Join { token, state } => join_by_hand(&token, &state),
        Verb::Run { state, join_token_file, spool } => system::stop_signal()
            .and_then(|stop| {
                let joined = join_token_file.as_ref().map_or(Ok(true), |file| join::with_file(file, &state, &stop));
                if joined? { run::run(&state, spool, &stop) } else { Ok(()) }
            })
            .map(|()| true),
        Verb::Man { folder } => {
            let written = clap_mangen::generate_to(CommandLine::command(), &folder);
            written.map(|()| true).map_err(|error| format!("{}: {error}", folder.display()))
        }
        #[cfg(target_os = "linux")]
        Verb::Names { state } => {
            system::stop_signal().and_then(|stop| thymus_os_sensor::names::run(&state, &stop)).map(|()| true)
        }
        Verb::Status { state } => status::read(&state).map(|(words, flows)| {
            print!("{words}");
            flows
        }),
        Verb::Install { state } => service::install(&state).map(|()| true),
        Verb::Uninstall { state, keep } => service::uninstall((!keep).then_some(&*state)).map(|()| true),
        Verb::Forget { state } => service::forget(&state).map(|()| true),
        #[cfg(windows)]
        Verb::Service { state } => service::serve(state).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("thymus-os-sensor: {why}");
            ExitCode::FAILURE
        }
    }
}

fn join_by_hand(token: &str, state: &std::path::Path) -> Result<bool, String> {
    thymus_link::owner::become_owner(state)?;
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        std::io::stdin().take(64 << 10).read_to_string(&mut text).map_err(|error| format!("stdin: {error}"))?;
    }
    let identity = join::join(&text, state).map_err(|error| error.to_string())?;
    let start = if state == system::default_state() && UNITS.iter().any(|unit| std::path::Path::new(unit).exists()) {
        "the service starts by itself".to_owned()
    } else {
        format!("start it with: thymus-os-sensor run --state {}", state.display())
    };
    eprintln!("joined as agent {} in group {}; {start}", identity.sensor.0, identity.group);
    Ok(true)
}
