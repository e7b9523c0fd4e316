//! Which agent belongs to which group, written down as the master says it, so that a restarted vSensor serves its agents
//! while the master is away.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use thymus_record::message::Home;

/// What was written down; nothing where nothing was, or it cannot be read: the master says it again.
pub(super) fn load(path: &Path) -> Vec<Home> {
    let bytes = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Writes it down, whole or not at all, for our eyes alone: the seeds are secret.
pub(super) fn save(path: &Path, homes: &[Home]) {
    let part = path.with_extension("part");
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .and_then(|mut file| file.write_all(&serde_json::to_vec(homes)?))
        .and_then(|()| std::fs::rename(&part, path));
    if let Err(error) = written {
        tracing::warn!("{}: {error}: after a restart without the master, agents wait for it", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_read_back_and_damage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("homes.json");
        assert!(load(&path).is_empty());
        let homes = [Home { group: "blue".into(), seed: 7, agents: vec![1, 5] }];
        save(&path, &homes);
        assert_eq!(load(&path), homes);
        std::fs::write(&path, b"[{").unwrap();
        assert!(load(&path).is_empty());
    }
}
