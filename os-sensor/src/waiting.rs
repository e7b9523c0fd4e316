//! What waits on this host's disk while no vSensor, or no master, takes it: parcels of frames, and batches of metadata.
//! Each has its limit; a disk that takes nothing is said in words, and what finds no room is shed and counted.

use std::path::Path;
use std::sync::Arc;
use thymus_link::Spool;
use thymus_link::spool::SpoolLimits;

/// Parcels wait up to this size, unless told otherwise: five seconds at 100 Mbit/s, an hour at 150 kbit/s.
pub const PARCELS_BYTES: u64 = 64 << 20;
/// Batches wait up to this size: at 1 % of 100 Mbit/s nine minutes, at a typical 0.1 % an hour and a half.
const BATCHES_BYTES: u64 = 64 << 20;

/// Both spools.
#[derive(Default)]
pub struct Waiting {
    /// Parcels of frames; without it they wait in memory alone.
    pub parcels: Option<Arc<Spool>>,
    /// Batches of metadata; without it there is no metadata mode.
    pub batches: Option<Arc<Spool>>,
    items: Vec<String>,
}

impl Waiting {
    /// Opens what is there from earlier runs, or makes it. What cannot be opened is left out and said.
    pub fn open(state: &Path, parcels_bytes: u64) -> Waiting {
        let mut waiting = Waiting::default();
        let mut open = |name: &str, bytes_max| {
            let opened = Spool::open(&state.join(name), SpoolLimits { bytes_max });
            opened
                .map(Arc::new)
                .map_err(|error| waiting.items.push(format!("{error}: see to the disk and start again")))
                .ok()
        };
        let parcels = if parcels_bytes == 0 { None } else { open("parcels", parcels_bytes) };
        let batches = open("batches", BATCHES_BYTES);
        (waiting.parcels, waiting.batches) = (parcels, batches);
        waiting
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.parcels.iter().chain(&self.batches).map(|spool| spool.counts().bytes).sum()
    }

    /// What is wrong, in words.
    pub fn items(&self) -> Vec<String> {
        let troubles = self.parcels.iter().chain(&self.batches).filter_map(|spool| spool.trouble());
        let cure = |trouble| format!("{trouble}: make room; what finds no room is shed and counted");
        self.items.iter().cloned().chain(troubles.map(cure)).collect()
    }
}

/// A size as people write it: 0, 1048576, 64KiB, 64MiB, 1GiB.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match text.get(digits.len()..).unwrap_or_default().trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        other => return Err(format!("'{other}' is no unit: give KiB, MiB or GiB")),
    };
    let number: u64 = digits.parse().map_err(|_error| format!("'{text}' is no size: give one like 64MiB"))?;
    number.checked_mul(1 << unit).ok_or_else(|| format!("'{text}' is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_bytes("3 KiB"), Ok(3 << 10));
        for wrong in ["", "MiB", "64MB", "-1", "99999999999GiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_item_and_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("parcels"), b"in the way").unwrap();
        let waiting = Waiting::open(dir.path(), PARCELS_BYTES);
        assert!(waiting.parcels.is_none() && waiting.batches.is_some());
        assert!(waiting.items().iter().any(|item| item.contains("parcels")), "{:?}", waiting.items());
    }
}
