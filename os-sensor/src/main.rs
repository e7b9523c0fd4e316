//! The OS-sensor: a host's own traffic, one copy of each packet, to a vSensor.

use clap::{Parser, Subcommand};
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use thymus_os_sensor::{run, status, system};

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
    },
    /// What the running agent says of itself; 0 once packets flow.
    Status {
        /// State folder of the agent.
        #[arg(long, default_value_os_t = system::default_state())]
        state: PathBuf,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    let done = match CommandLine::parse().verb {
        Verb::Join { token, state } => join(&token, &state),
        Verb::Run { state } => system::stop_signal().and_then(|stop| run::run(&state, &stop)).map(|()| true),
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
    system::make_private(state).map_err(|error| format!("{}: {error}", state.display()))?;
    let joined = thymus_link::enrol::join(text.trim(), state, None, &system::host_name());
    let identity = joined.map_err(|error| {
        // An empty folder was made for this join alone.
        let _ = std::fs::remove_dir(state);
        error.to_string()
    })?;
    eprintln!(
        "joined as agent {} in group {}; start it with: thymus-os-sensor run --state {}",
        identity.sensor.0,
        identity.group,
        state.display()
    );
    Ok(true)
}
