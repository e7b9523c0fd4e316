//! The ring's identity and shape, in two copies, so that a torn write leaves one.
//!
//! ```text
//! copy = "THYMRNG1" | ring u64 | key 16 B | slots u64 | slots a file u64 | crc32c u32, padded to 512 B
//! ```

use super::layout::{SLOT_BYTES, u32_at, u64_at};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"THYMRNG1";
const COPY: usize = 512;
const FIELDS: usize = 48;
/// Slots in a ring file: 1 GiB.
const FILE_SLOTS: u64 = 256;
/// Bytes of a slot's index: 1.46 % of the slot.
pub(crate) const INDEX_BYTES: usize = 60 << 10;

/// The ring's identity and shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    /// Random name of the ring.
    pub(crate) ring: u64,
    /// Key of the index's hashes.
    pub(crate) key: [u64; 2],
    /// Slots in all files.
    pub(crate) slots: u64,
    /// Slots in a file.
    pub(crate) file_slots: u64,
}

impl Superblock {
    /// Reads the folder's superblock; an empty folder gets one of a ring that has no slots yet.
    pub(crate) fn open_or_create(dir: &Path) -> Result<Superblock, String> {
        if let Some(old) = Superblock::read(dir)? {
            return Ok(old);
        }
        let foreign = std::fs::read_dir(dir)
            .map_err(|error| error.to_string())?
            .flatten()
            .any(|entry| entry.file_name() != "lock" && entry.file_name() != "superblock.part");
        if foreign {
            return Err("the folder holds something else than a ring: choose an empty one".to_owned());
        }
        let mut random = [0u8; 24];
        let mut source = std::fs::File::open("/dev/urandom").map_err(|error| error.to_string())?;
        std::io::Read::read_exact(&mut source, &mut random).map_err(|error| error.to_string())?;
        let word = |at| u64_at(&random, at).unwrap_or_default();
        let new = Superblock { ring: word(0), key: [word(8), word(16)], slots: 0, file_slots: FILE_SLOTS };
        new.write(dir).map(|()| new)
    }

    /// The same ring in this many bytes, index included; a ring does not shrink.
    pub(crate) fn sized(self, bytes: u64) -> Result<Superblock, String> {
        let slots = bytes / (SLOT_BYTES + INDEX_BYTES) as u64;
        if slots < 4 {
            return Err(format!("{bytes} bytes are too few: a ring needs at least 17 MiB"));
        }
        if slots < self.slots {
            return Err(format!(
                "it has {} slots of 4 MiB, and the configuration asks for {slots}: a ring cannot shrink; keep its size, or move the folder away",
                self.slots
            ));
        }
        Ok(Superblock { slots, ..self })
    }

    /// Reads the superblock of a folder; `None` where there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Superblock>, String> {
        let bytes = match std::fs::read(dir.join("superblock")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| format!("its superblock cannot be read: {error}"))?,
        };
        let copies = [bytes.get(..COPY), bytes.get(COPY..)];
        let found = copies.into_iter().flatten().find_map(Superblock::parse);
        found.map(Some).ok_or_else(|| "its superblock is damaged or of another software".to_owned())
    }

    fn parse(copy: &[u8]) -> Option<Superblock> {
        let fields = copy.get(..FIELDS)?;
        if fields.get(..8)? != MAGIC || crc32c::crc32c(fields) != u32_at(copy, FIELDS)? {
            return None;
        }
        let word = |at| u64_at(fields, at);
        let key = [word(16)?, word(24)?];
        Some(Superblock { ring: word(8)?, key, slots: word(32)?, file_slots: word(40)?.max(1) })
    }

    /// Puts it in the place of the folder's superblock, whole or not at all.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), String> {
        let mut copy = MAGIC.to_vec();
        for word in [self.ring, self.key[0], self.key[1], self.slots, self.file_slots] {
            copy.extend_from_slice(&word.to_le_bytes());
        }
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
        copy.resize(COPY, 0);
        let part = dir.join("superblock.part");
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(&copy)?;
            file.write_all(&copy)?;
            file.sync_all()?;
            std::fs::rename(&part, dir.join("superblock"))?;
            std::fs::File::open(dir)?.sync_all()
        };
        write().map_err(|error: std::io::Error| error.to_string())
    }
}
