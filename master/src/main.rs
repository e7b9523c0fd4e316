//! The command line of the master.

use clap::{Args, CommandFactory, Parser, Subcommand};
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use thymus_link::owner::become_owner;
use thymus_master::admin::{Request, ask};
use thymus_master::agents::AgentVerb;
use thymus_master::api::parse_duration;
use thymus_master::book::AccessRole;
use thymus_master::server::{Options, run};

/// Where the package's service keeps what the master knows.
const DEFAULT_DATA: &str = "/var/lib/thymus/master";

/// Enrols sensors, stores and searches what they send, knows devices, fetches packets back.
#[derive(Parser)]
#[command(name = "thymus-master", version, about)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the master until SIGTERM; prints the URL, on the first run the link that makes the administrator.
    Run {
        /// Data folder; made if it is not there.
        #[arg(long, default_value = DEFAULT_DATA)]
        data: PathBuf,
        /// Where to listen, for sensors and browsers alike.
        #[arg(long, default_value = "0.0.0.0:443")]
        listen: SocketAddr,
        /// HOST:PORT under which sensors and browsers reach it; may be given several times. 'auto': this host's own
        /// addresses, and its name where it has a full one.
        #[arg(long)]
        advertise: Vec<String>,
    },
    /// The page's URL; until there is an administrator, the one-time link that makes one (a new one each time).
    SetupLink {
        /// Wait this many seconds for a master that is starting.
        #[arg(long, default_value = "0")]
        wait: u64,
        #[command(flatten)]
        data: Data,
    },
    /// Tokens that let sensors join.
    #[command(subcommand)]
    Token(TokenVerb),
    /// People who may sign in.
    #[command(subcommand)]
    User(UserVerb),
    /// Tokens for programs that use the API.
    #[command(subcommand)]
    ApiToken(ApiTokenVerb),
    /// Sensors that joined.
    #[command(subcommand)]
    Sensor(SensorVerb),
    /// OS-sensors that joined, and what they are to do.
    Agent {
        #[command(subcommand)]
        verb: AgentVerb,
        /// Data folder of the master.
        #[arg(long, global = true, default_value = DEFAULT_DATA)]
        data: PathBuf,
    },
    /// Write all that the master knows, its authority included, into one file; the master may run meanwhile.
    Backup {
        /// The file to make, readable by its owner alone, or '-' for stdout.
        file: PathBuf,
        #[command(flatten)]
        data: Data,
    },
    /// Make a data folder from a backup.
    Restore {
        /// The backup, or '-' for stdin.
        file: PathBuf,
        /// The folder to make; it must be empty or not be there.
        #[arg(long, default_value = DEFAULT_DATA)]
        data: PathBuf,
    },
    /// Write the manual pages into a folder, for packages.
    #[command(hide = true)]
    Man {
        /// The folder.
        folder: PathBuf,
    },
    /// Look at everything that the master needs, and name the cure of what is wrong.
    Doctor {
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Subcommand)]
enum SensorVerb {
    /// Let a sensor in no more: its certificate is refused from now on, and what it sent stays.
    Revoke {
        /// Its number or name.
        sensor: String,
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Subcommand)]
enum TokenVerb {
    /// Make a token; it alone goes to stdout.
    Create {
        /// For OS-sensors.
        #[arg(long)]
        agent: bool,
        /// How often it can be used: a number, or 'unlimited'.
        #[arg(long, default_value = "1")]
        uses: String,
        /// How long it is good: 30s, 10m, 24h, 7d.
        #[arg(long, default_value = "24h")]
        expires: String,
        /// The joiners' group.
        #[arg(long, default_value = "default")]
        group: String,
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Subcommand)]
enum UserVerb {
    /// Make a user, or give one a new password.
    Create {
        /// Name.
        name: String,
        /// What they may do.
        #[arg(long)]
        role: AccessRole,
        /// A network that they see; may be given several times; none: all.
        #[arg(long)]
        network: Vec<String>,
        /// Read the password from stdin (the default as well where stdin is no terminal).
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Subcommand)]
enum ApiTokenVerb {
    /// Make an API token; it alone goes to stdout.
    Create {
        /// What it may do.
        #[arg(long)]
        role: AccessRole,
        /// A network that it sees; may be given several times; none: all.
        #[arg(long)]
        network: Vec<String>,
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Args)]
struct Data {
    /// Data folder of the master.
    #[arg(long, default_value = DEFAULT_DATA)]
    data: PathBuf,
}

impl Verb {
    /// Where root works on the folder of the service's user, the verb runs as that user. A backup is written by root,
    /// and 'restore' makes the folder anew.
    fn become_owner(&self) -> Result<(), String> {
        match self {
            Verb::Run { .. } | Verb::Backup { .. } | Verb::Restore { .. } | Verb::Man { .. } => Ok(()),
            Verb::Agent { data, .. } => become_owner(data),
            Verb::Doctor { data } | Verb::SetupLink { data, .. } => become_owner(&data.data),
            Verb::Token(TokenVerb::Create { data, .. })
            | Verb::User(UserVerb::Create { data, .. })
            | Verb::ApiToken(ApiTokenVerb::Create { data, .. })
            | Verb::Sensor(SensorVerb::Revoke { data, .. }) => become_owner(&data.data),
        }
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let verb = CommandLine::parse().verb;
    let done = verb.become_owner().and_then(|()| carry_out(verb));
    match done {
        Ok(text) => {
            if !text.is_empty() {
                println!("{text}");
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("thymus-master: {why}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(verb: Verb) -> Result<String, String> {
    match verb {
        Verb::Run { data, listen, advertise } => serve(Options { data, listen, advertise }),
        Verb::Token(TokenVerb::Create { agent, uses, expires, group, data }) => {
            token(agent, &uses, &expires, group, &data)
        }
        Verb::User(UserVerb::Create { name, role, network, password_stdin: _, data }) => {
            password().and_then(|password| ask(&data.data, Request::User { name, role, networks: network, password }))
        }
        Verb::ApiToken(ApiTokenVerb::Create { role, network, data }) => {
            ask(&data.data, Request::ApiToken { role, networks: network })
        }
        Verb::SetupLink { wait, data } => setup_link(wait, &data.data),
        Verb::Backup { file, data } => thymus_master::backup::command(&file, &data.data),
        Verb::Restore { file, data } => thymus_master::backup::restore(&file, &data),
        Verb::Man { folder } => {
            let written = clap_mangen::generate_to(CommandLine::command(), &folder);
            written.map(|()| String::new()).map_err(|error| format!("{}: {error}", folder.display()))
        }
        Verb::Doctor { data } => thymus_master::doctor::command(&data.data),
        Verb::Agent { verb, data } => ask(&data, Request::Agent { what: verb }),
        Verb::Sensor(SensorVerb::Revoke { sensor, data }) => ask(&data.data, Request::Revoke { sensor }),
    }
}

fn setup_link(wait: u64, data: &Path) -> Result<String, String> {
    let mut tries = wait;
    loop {
        match ask(data, Request::SetupLink) {
            Err(_) if tries > 0 => std::thread::sleep(Duration::from_secs(1)),
            answer => return answer,
        }
        tries -= 1;
    }
}

fn serve(options: Options) -> Result<String, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(run(options)).map(|()| String::new()).map_err(|error| error.to_string())
}

fn token(agent: bool, uses: &str, expires: &str, group: String, data: &Data) -> Result<String, String> {
    let uses = match uses {
        "unlimited" => None,
        number => Some(
            number.parse::<u32>().map_err(|_error| format!("--uses '{number}' is neither a number nor 'unlimited'"))?,
        ),
    };
    ask(&data.data, Request::Token { uses, expires: parse_duration(expires)?, group, agent })
}

/// The password: a line of stdin.
fn password() -> Result<String, String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| error.to_string())?;
    let password = line.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() { Err("no password on stdin: write it as one line".to_owned()) } else { Ok(password) }
}
