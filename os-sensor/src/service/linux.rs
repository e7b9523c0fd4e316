//! A service of systemd, where no package has set it up: the package's own units, for this program in `/usr/local/bin`.

use crate::service;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNITS: [(&str, &str); 2] = [
    ("thymus-os-sensor.service", include_str!("../../../packaging/systemd/thymus-os-sensor.service")),
    ("thymus-os-sensor.path", include_str!("../../../packaging/systemd/thymus-os-sensor.path")),
];
/// Where the units say that the program is, and where it is then.
const PACKAGED: &str = "/usr/bin/thymus-os-sensor";
const PROGRAM: &str = "/usr/local/bin/thymus-os-sensor";
const FOLDER: &str = "/etc/systemd/system";
const USER: &str = "thymus-os-sensor";

/// Sets the service up, and starts it once this host has joined.
pub fn install(state: &Path) -> Result<(), String> {
    if Path::new(PACKAGED).exists() {
        return Err("a package has set the service up: use 'systemctl enable --now thymus-os-sensor.path'".to_owned());
    }
    is_default(state)?;
    let program = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    if program != Path::new(PROGRAM) {
        run("install", &["-m", "755", &program.to_string_lossy(), PROGRAM])?;
    }
    if run("id", &["-u", USER]).is_err() {
        let home = state.to_string_lossy();
        run(
            "useradd",
            &[
                "--system",
                "--user-group",
                "--no-create-home",
                "--home-dir",
                &home,
                "--shell",
                "/usr/sbin/nologin",
                USER,
            ],
        )?;
    }
    run("install", &["-d", "-m", "755", "/var/lib/thymus"])?;
    run("install", &["-d", "-o", USER, "-g", USER, "-m", "700", &state.to_string_lossy()])?;
    for (name, text) in UNITS {
        let path = unit(name);
        std::fs::write(&path, text.replace(PACKAGED, PROGRAM))
            .map_err(|error| format!("{}: {error}; run as root", path.display()))?;
    }
    run("systemctl", &["daemon-reload"])?;
    run("systemctl", &["enable", "--now", "thymus-os-sensor.path", "thymus-os-sensor.service"])
}

/// Stops the service and takes it away, and with it, unless it is to stay, what the agent wrote.
pub fn uninstall(state: Option<&Path>) -> Result<(), String> {
    if !unit(UNITS[0].0).exists() {
        return Err(format!("'install' has not set a service up here: there is no {FOLDER}/{}", UNITS[0].0));
    }
    state.map_or(Ok(()), is_default)?;
    run("systemctl", &["disable", "--now", "thymus-os-sensor.path", "thymus-os-sensor.service"])?;
    for path in UNITS.map(|(name, _)| unit(name)).iter().map(PathBuf::as_path).chain([Path::new(PROGRAM)]) {
        std::fs::remove_file(path).map_err(|error| format!("{}: {error}; run as root", path.display()))?;
    }
    run("systemctl", &["daemon-reload"])?;
    let Some(state) = state else { return Ok(()) };
    service::forget(state)?;
    run("userdel", &[USER])
}

fn unit(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn is_default(state: &Path) -> Result<(), String> {
    let folder = crate::system::default_state();
    if state == folder {
        return Ok(());
    }
    Err(format!("the service keeps its state in {}: leave --state out, or use 'run'", folder.display()))
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(arguments).output();
    let done = done.map_err(|error| format!("{program}: {error}; the service needs systemd, else use 'run'"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{program} {}: {}; run as root", arguments.join(" "), said.trim()))
}
