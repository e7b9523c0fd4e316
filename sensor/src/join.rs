//! `thymus-sensor join`: makes the key, proves that it holds the token, gets the certificate.

use clap::Args;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

/// Joins a master with a token.
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// The token that 'thymus-master token create' printed, or '-' to read it from stdin.
    token: String,
    /// The state folder to make.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
    /// Reach the master at HOST:PORT instead of the token's addresses.
    #[arg(long)]
    via: Option<String>,
}

/// Runs the verb.
pub fn run(args: &JoinArgs) -> ExitCode {
    if let Err(why) = thymus_link::owner::become_owner(&args.state) {
        return crate::failed("join", &why);
    }
    let mut token = args.token.clone();
    if token == "-" {
        token.clear();
        if let Err(error) = std::io::stdin().take(8_192).read_to_string(&mut token) {
            return crate::failed("join", &format!("no token on stdin: {error}"));
        }
    }
    match thymus_link::enrol::join(&token, &args.state, args.via.as_deref(), &crate::pipeline::host_name()) {
        Ok(identity) => {
            eprintln!(
                "joined as sensor {} in group {}; start it with: thymus-sensor run --config FILE --state {}",
                identity.sensor.0,
                identity.group,
                args.state.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => crate::failed("join", &error.to_string()),
    }
}
