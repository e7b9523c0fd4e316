//! Joining: by hand with a token, or at the start of `run` with a token in a file, for machines that are set up by others.

use crate::system::{host_name, make_private};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thymus_link::Identity;
use thymus_link::enrol::JoinError;

const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// Between two tries; the wait doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(100);

/// Joins with a token's text.
pub fn join(token: &str, state: &Path) -> Result<Identity, JoinError> {
    make_private(state).map_err(|error| JoinError::Broken(format!("{}: {error}", state.display())))?;
    let joined = thymus_link::enrol::join(token.trim(), state, None, &host_name());
    if joined.is_err() {
        // An empty folder was made for this join alone.
        let _ = std::fs::remove_dir(state);
    }
    // An agent's token leads to vSensors, which pass it on to the master.
    joined.map_err(|error| match error {
        JoinError::Unreachable(_, at) => JoinError::Unreachable("vSensor", at),
        other => other,
    })
}

/// Where the state folder holds no identity, joins with the token in a file. A vSensor that does not answer is waited
/// for; what it refuses ends this. False: told to stop before it was done.
pub fn with_file(file: &Path, state: &Path, stop: &AtomicBool) -> Result<bool, String> {
    if state.join("identity.toml").exists() {
        return Ok(true);
    }
    let token = read(file)?;
    let mut wait = FIRST_WAIT;
    while !stop.load(Ordering::Relaxed) {
        match join(&token, state) {
            Ok(identity) => {
                tracing::info!("joined as agent {} in group {}", identity.sensor.0, identity.group);
                return Ok(true);
            }
            Err(error @ JoinError::Unreachable(..)) => tracing::warn!("{error}; tried again in {} s", wait.as_secs()),
            Err(error) => return Err(format!("{}: {error}", file.display())),
        }
        let steps = wait.as_millis() / STEP.as_millis();
        for _ in 0..steps {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            std::thread::sleep(STEP);
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    Ok(false)
}

fn read(file: &Path) -> Result<String, String> {
    let cure = "make one with 'thymus-master token create --agent' and write it there";
    let said = |error: std::io::Error| format!("no identity yet, and no token in {}: {error}; {cure}", file.display());
    let bytes = std::fs::metadata(file).map_err(said)?.len();
    if bytes > TOKEN_BYTES_MAX {
        return Err(format!("{} holds {bytes} bytes, which is no token; {cure}", file.display()));
    }
    let token = std::fs::read_to_string(file).map_err(said)?;
    if token.trim().is_empty() { Err(format!("{} is empty; {cure}", file.display())) } else { Ok(token) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_empty_or_wrong_token_file_is_named_with_its_cure() {
        let room = tempfile::tempdir().unwrap();
        let (file, state, stop) = (room.path().join("token"), room.path().join("state"), AtomicBool::new(false));
        let said = |stop: &AtomicBool| with_file(&file, &state, stop).unwrap_err();
        assert!(said(&stop).contains("no token in"), "{}", said(&stop));
        std::fs::write(&file, " \n").unwrap();
        assert!(said(&stop).contains("is empty"), "{}", said(&stop));
        std::fs::write(&file, "not a token\n").unwrap();
        assert!(said(&stop).contains("token"), "{}", said(&stop));
        assert!(!state.exists());
    }

    #[test]
    fn an_identity_makes_the_token_file_needless_and_a_stop_ends_the_wait() {
        let room = tempfile::tempdir().unwrap();
        let (file, stop) = (room.path().join("token"), AtomicBool::new(true));
        std::fs::write(&file, "anything").unwrap();
        assert_eq!(with_file(&file, room.path(), &stop), Ok(false));
        std::fs::write(room.path().join("identity.toml"), "").unwrap();
        assert_eq!(with_file(&room.path().join("missing"), room.path(), &stop), Ok(true));
    }
}
