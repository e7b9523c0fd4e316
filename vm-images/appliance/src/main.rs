//! `thymus-settings`: reads what the appliance was given, changes a setting, divides the machine, looks at its cards.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use thymus_appliance::backdoor::Backdoor;
use thymus_appliance::cards;
use thymus_appliance::guestinfo::info_get;
use thymus_appliance::plan::{Machine, Role, divide};
use thymus_appliance::settings::Settings;
use thymus_appliance::source::{self, Given};

/// Longest file of a source.
const SOURCE_BYTES_MAX: u64 = 1 << 20;

/// Settings of a Thymus appliance.
#[derive(Parser)]
#[command(name = "thymus-settings", version, about)]
struct CommandLine {
    /// Where the settings are kept.
    #[arg(long, default_value = "/etc/thymus")]
    folder: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Take what sources say; what is wrong with it goes to stdout, a line each.
    Take {
        /// Files: ovf-env.xml, user-data, or key=value lines. The last value of a key counts.
        files: Vec<PathBuf>,
        /// Where the firmware's tables are; VMware's guestinfo is asked where they name VMware.
        #[arg(long, default_value = "/sys/class/dmi/id")]
        dmi: PathBuf,
    },
    /// Print a setting.
    Get {
        /// Its name.
        key: String,
    },
    /// Change a setting; an empty value takes it away.
    Set {
        /// Its name.
        key: String,
        /// Its value.
        value: String,
    },
    /// Name the network cards that are not captured from, and why, a line each on stdout.
    Cards {
        /// Where the kernel shows them.
        #[arg(long, default_value = "/sys")]
        sys: PathBuf,
        /// Ports made at the start, as in a configuration.
        #[arg(long, default_value = "/run/thymus/ports")]
        taken: PathBuf,
    },
    /// Divide the machine; assignments for a shell on stdout, what does not fit on stderr.
    Plan {
        /// What runs on it.
        #[arg(long)]
        role: RoleName,
        /// Cores.
        #[arg(long)]
        cpus: usize,
        /// Memory.
        #[arg(long)]
        memory_mib: u64,
        /// The data partition.
        #[arg(long)]
        disk_gib: u64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleName {
    Sensor,
    Master,
    Both,
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let mut settings = Settings::open(&line.folder);
    let done = match line.verb {
        Verb::Take { files, dmi } => {
            let given = files.iter().fold(guestinfo(&dmi), |given, file| given.and(read(file)));
            settings.take(given).iter().for_each(|problem| println!("{problem}"));
            settings.save().map_err(|error| error.to_string())
        }
        Verb::Get { key } => {
            settings.get(&key).iter().for_each(|value| println!("{value}"));
            Ok(())
        }
        Verb::Set { key, value } => settings
            .set(&key, value.trim())
            .and_then(|()| settings.save().map_err(|error| format!("it cannot be kept: {error}"))),
        Verb::Cards { sys, taken } => {
            let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
            let taken = cards::configured(&format!("[capture]\nports = [{}]\n", text(&taken).trim()));
            let named = cards::configured(&text(&line.folder.join("sensor.toml")));
            let said = cards::judge(&cards::found(&sys), &taken.unwrap_or_default(), &named.unwrap_or_default());
            said.iter().for_each(|sentence| println!("{sentence}"));
            Ok(())
        }
        Verb::Plan { role, cpus, memory_mib, disk_gib } => {
            let role = match role {
                RoleName::Sensor => Role::Sensor,
                RoleName::Master => Role::Master,
                RoleName::Both => Role::Both,
            };
            let plan = divide(role, Machine { cpus, memory_mib, disk_gib }, settings.get("tier"));
            plan.problems.iter().for_each(|problem| eprintln!("{problem}"));
            print!("{}", plan.shell());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// What VMware hands over, on its machines: an OVF environment, or `guestinfo.thymus` as key=value lines.
fn guestinfo(dmi: &Path) -> Given {
    let Ok(mut backdoor) = Backdoor::open(dmi) else { return Given::default() };
    let mut given = Given::default();
    for (name, read) in [("guestinfo.ovfEnv", source::ovf as fn(&str) -> Given), ("guestinfo.thymus", source::lines)] {
        match info_get(&mut backdoor, name) {
            Ok(Some(text)) if !text.trim().is_empty() => given = given.and(read(&text)),
            Ok(_) => {}
            Err(why) => given.complaints.push(why),
        }
    }
    given
}

fn read(file: &Path) -> Given {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let complaint = |why: String| Given { complaints: vec![why], ..Given::default() };
    match std::fs::metadata(file) {
        Ok(meta) if meta.len() > SOURCE_BYTES_MAX => {
            return complaint(format!("{}: it is too long for settings", file.display()));
        }
        _ => {}
    }
    match std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
        Err(error) => complaint(format!("{}: {error}", file.display())),
        Ok(text) if name.starts_with("ovf") => source::ovf(&text),
        Ok(text) if name.starts_with("user") => source::cloud(&text),
        Ok(text) => source::lines(&text),
    }
}
