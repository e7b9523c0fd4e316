//! The ring's files: preallocated and formatted once, then written in place, never truncated or removed.

use super::layout::{Head, RECORDS_AT, SLOT_BYTES, empty};
use super::map::Map;
use super::superblock::{INDEX_BYTES, Superblock};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files of a ring.
pub(crate) struct Disk {
    slots: Vec<File>,
    direct: Vec<Option<File>>,
    index: Vec<File>,
    file_slots: u64,
    count: u64,
}

fn path(dir: &Path, name: &str, number: u64) -> PathBuf {
    dir.join(if name == "ring" { format!("ring-{number:04}.pcapng") } else { format!("index-{number:04}") })
}

/// Gives a file its blocks, so that no later write can find the disk full.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    match crate::memory::allocate(file.as_raw_fd(), length) {
        // Some file systems cannot: then the length alone is set, and a full disk shows at the write.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(bytes),
        other => other,
    }
}

impl Disk {
    /// Opens the files of a ring of this shape. Those of the slots from `formatted` on may be missing, too short, or be
    /// left half made by a crash: they are made, and what lies before stays as it is.
    pub(crate) fn open(dir: &Path, superblock: &Superblock, formatted: u64) -> Result<Disk, String> {
        let Superblock { slots: count, file_slots, ring, .. } = *superblock;
        let mut disk = Disk { slots: Vec::new(), direct: Vec::new(), index: Vec::new(), file_slots, count };
        for number in 0..count.div_ceil(file_slots) {
            let slots = file_slots.min(count - number * file_slots);
            let (ring_path, index_path) = (path(dir, "ring", number), path(dir, "index", number));
            let said = |path: &Path, error: io::Error| match error.kind() {
                io::ErrorKind::StorageFull => {
                    format!("there is no room for {count} slots of 4 MiB: make room, or set [ring] bytes lower")
                }
                _ => format!("{}: {error}", path.display()),
            };
            let file = make(&ring_path, slots * SLOT_BYTES as u64).map_err(|error| said(&ring_path, error))?;
            let index = make(&index_path, slots * INDEX_BYTES as u64).map_err(|error| said(&index_path, error))?;
            let known = formatted.saturating_sub(number * file_slots).min(slots);
            format_slots(&file, known..slots, ring).map_err(|error| said(&ring_path, error))?;
            let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&ring_path).ok();
            disk.slots.push(file);
            disk.direct.push(direct);
            disk.index.push(index);
        }
        Ok(disk)
    }

    /// Opens the files to be read.
    pub(crate) fn open_read(dir: &Path, superblock: &Superblock) -> io::Result<Disk> {
        let Superblock { slots: count, file_slots, .. } = *superblock;
        let mut disk = Disk { slots: Vec::new(), direct: Vec::new(), index: Vec::new(), file_slots, count };
        for number in 0..count.div_ceil(file_slots) {
            disk.slots.push(File::open(path(dir, "ring", number))?);
            disk.index.push(File::open(path(dir, "index", number))?);
        }
        Ok(disk)
    }

    /// Slots in all files.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn place(&self, slot: u64) -> (usize, u64) {
        let (file, at) = (slot / self.file_slots, slot % self.file_slots);
        (usize::try_from(file).unwrap_or(usize::MAX), at)
    }

    /// Writes a whole slot, past the page cache where the file system allows it.
    pub(crate) fn write_slot(&self, slot: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, at) = self.place(slot);
        let offset = at * SLOT_BYTES as u64;
        if let Some(Some(direct)) = self.direct.get(file) {
            match direct.write_all_at(bytes, offset) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                other => return other,
            }
        }
        self.file(file)?.write_all_at(bytes, offset)
    }

    /// Writes a part of a slot.
    pub(crate) fn write_part(&self, slot: u64, from: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, at) = self.place(slot);
        self.file(file)?.write_all_at(bytes, at * SLOT_BYTES as u64 + from)
    }

    /// Reads a part of a slot.
    pub(crate) fn read_part(&self, slot: u64, from: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (file, at) = self.place(slot);
        self.file(file)?.read_exact_at(bytes, at * SLOT_BYTES as u64 + from)
    }

    /// Writes a slot's index.
    pub(crate) fn write_index(&self, slot: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, at) = self.place(slot);
        let file = self.index.get(file).ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(bytes, at * INDEX_BYTES as u64)
    }

    /// Reads the beginning of a slot's index.
    pub(crate) fn read_index(&self, slot: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (file, at) = self.place(slot);
        let file = self.index.get(file).ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(bytes, at * INDEX_BYTES as u64)
    }

    fn file(&self, number: usize) -> io::Result<&File> {
        self.slots.get(number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Opens a file of this length at least; a new part of it is allocated. Without room it stays as it was.
fn make(path: &Path, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let old = file.metadata()?.len();
    if old < bytes
        && let Err(error) = allocate(&file, bytes)
    {
        let _ = file.set_len(old);
        return Err(error);
    }
    Ok(file)
}

/// Formats those of the slots as empty sections that are not yet, and waits until that is on disk.
fn format_slots(file: &File, slots: Range<u64>, ring: u64) -> io::Result<()> {
    if slots.is_empty() {
        return Ok(());
    }
    let (head, tail) = empty(ring);
    for slot in slots {
        let start = slot * SLOT_BYTES as u64;
        let mut there = [0; RECORDS_AT];
        file.read_exact_at(&mut there, start)?;
        if Head::decode(&there).is_ok_and(|head| head.ring == ring) {
            continue;
        }
        file.write_all_at(&tail, start + (SLOT_BYTES - tail.len()) as u64)?;
        file.write_all_at(&head, start)?;
    }
    file.sync_all()
}

/// Makes a fresh staging file and maps it.
pub(crate) fn staging(path: &Path, count: usize) -> Result<Map, String> {
    let said = |error: io::Error| {
        format!(
            "staging in {}: {error}; make room there (a segment takes 4 MiB, and {count} are needed)",
            path.display()
        )
    };
    let _ = std::fs::remove_file(path);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(said)?;
    let bytes = (count * SLOT_BYTES) as u64;
    if let Err(error) = allocate(&file, bytes) {
        let _ = std::fs::remove_file(path);
        return Err(said(error));
    }
    Map::new(&file, count).map_err(said)
}
