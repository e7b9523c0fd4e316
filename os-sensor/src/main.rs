//! The OS-sensor: a host's own traffic, one copy of each packet, to a vSensor.

use clap::{Parser, Subcommand};
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use thymus_os_sensor::{run, status};

/// Where an agent's key and certificate are unless it is told otherwise.
const DEFAULT_STATE: &str = "/var/lib/thymus/os-sensor";

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
        #[arg(long, default_value = DEFAULT_STATE)]
        state: PathBuf,
    },
    /// Capture and send until SIGTERM.
    Run {
        /// State folder that 'join' made.
        #[arg(long, default_value = DEFAULT_STATE)]
        state: PathBuf,
    },
    /// What the running agent says of itself; 0 once packets flow.
    Status {
        /// State folder of the agent.
        #[arg(long, default_value = DEFAULT_STATE)]
        state: PathBuf,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    let done = match CommandLine::parse().verb {
        Verb::Join { token, state } => join(&token, &state),
        Verb::Run { state } => run::stop_signal().and_then(|stop| run::run(&state, &stop)).map(|()| true),
        Verb::Status { state } => status::read(&state).map(|(words, flows)| {
            print!("{words}");
            flows
        }),
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

fn join(token: &str, state: &std::path::Path) -> Result<bool, String> {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        std::io::stdin().take(64 << 10).read_to_string(&mut text).map_err(|error| format!("stdin: {error}"))?;
    }
    let joined = thymus_link::enrol::join(text.trim(), state, None, &run::host_name());
    let identity = joined.map_err(|error| error.to_string())?;
    eprintln!(
        "joined as agent {} in group {}; start it with: thymus-os-sensor run --state {}",
        identity.sensor.0,
        identity.group,
        state.display()
    );
    Ok(true)
}
