//! The append-only journal: what the store acknowledged, in the order it came.
//!
//! ```text
//! segment file  `<position of its first byte, 20 digits>.log`
//! entry         length u32 | crc32c u32 | payload          little-endian, the CRC over the payload
//! payload       arrival time u64 | boot to store under u64 | name length u16 | name | group length u16 | group | batch
//! ```
//!
//! A position counts bytes from the first entry ever, so it only grows. Written entries are readable at once; they are
//! safe after [`Journal::sync`]. An entry that a crash cut short at the end was never acknowledged: it is cut off at
//! open and reported. Damage before the end is an error, never skipped.

use crate::types::{Arrival, StoreError};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thymus_record::{BootId, Time};

/// A new segment begins when the last passes this.
const SEGMENT_BYTES: u64 = 8 << 20;
/// No entry is longer: the longest batch that the link carries, with room.
const ENTRY_MAX: u32 = 64 << 20;

/// The journal, open for writing.
pub(crate) struct Journal {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    file: Arc<File>,
    end: u64,
    /// A write failed half way and could not be undone: nothing more is appended until the next open.
    broken: bool,
}

#[derive(Clone, Copy)]
struct Segment {
    start: u64,
    end: u64,
}

/// One batch as the journal has it.
pub(crate) struct Entry {
    pub(crate) position: u64,
    pub(crate) arrival: Arrival,
    /// The boot that the rows are stored under; differs from the batch's own after a fork.
    pub(crate) boot: BootId,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let (what, path) = (format!("{what} {}", path.display()), path.to_owned());
    move |error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full(path),
        _ => StoreError::Io { what, error },
    }
}

/// Makes a rename or a new file in the folder survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("syncing", dir))
}

impl Journal {
    /// Opens the journal in `dir`, giving each entry at or after `from` to `each`, oldest first. Returns the bytes of a
    /// torn tail that was cut.
    pub(crate) fn open(
        dir: &Path,
        mut each: impl FnMut(Entry) -> Result<(), StoreError>,
    ) -> Result<(Journal, u64), StoreError> {
        fs::create_dir_all(dir).map_err(io("creating", dir))?;
        let mut starts = Vec::new();
        for file in fs::read_dir(dir).map_err(io("listing", dir))? {
            let name = file.map_err(io("listing", dir))?.file_name();
            let start: Option<u64> =
                name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|digits| digits.parse().ok());
            starts.extend(start);
        }
        starts.sort_unstable();
        if starts.is_empty() {
            starts.push(0);
        }
        let mut segments = VecDeque::new();
        let mut cut = 0;
        for (at, &start) in starts.iter().enumerate() {
            let path = segment_path(dir, start);
            let intact = read_segment(&path, start, &mut each)?;
            let len = fs::metadata(&path).map_or(0, |meta| meta.len());
            if intact < len {
                if at + 1 < starts.len() {
                    return Err(StoreError::Foreign(path, format!("its journal is damaged at byte {intact}")));
                }
                cut = len - intact;
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(intact))
                    .map_err(io("cutting", &path))?;
            }
            segments.push_back(Segment { start, end: start + intact });
        }
        let (start, end) = segments.back().map_or((0, 0), |last| (last.start, last.end));
        let file = Arc::new(append_to(&segment_path(dir, start))?);
        sync_dir(dir)?;
        Ok((Journal { dir: dir.to_owned(), segments, file, end, broken: false }, cut))
    }

    /// Appends a batch; safe only after a sync.
    pub(crate) fn append(&mut self, arrival: &Arrival, boot: BootId, bytes: &[u8]) -> Result<u64, StoreError> {
        let path = self.last_path();
        if self.broken {
            return Err(StoreError::Full(path));
        }
        if self.segments.back().is_some_and(|last| last.end - last.start >= SEGMENT_BYTES) {
            self.begin_segment()?;
        }
        let framed = frame(arrival, boot, bytes);
        let position = self.end;
        if let Err(error) = (&*self.file).write_all(&framed) {
            // A short write leaves a torn entry in front of what comes next: take it back.
            let whole = self.segments.back().map_or(0, |last| last.end - last.start);
            self.broken = self.file.set_len(whole).is_err();
            return Err(io("writing", &path)(error));
        }
        self.end += framed.len() as u64;
        if let Some(last) = self.segments.back_mut() {
            last.end = self.end;
        }
        Ok(position)
    }

    /// The file to sync so that all appended so far is safe. Sync it without holding the journal.
    pub(crate) fn to_sync(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// One past the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end - segment.start).sum()
    }

    /// Drops whole segments before `position`.
    pub(crate) fn drop_before(&mut self, position: u64) -> Result<(), StoreError> {
        while self.segments.len() > 1 && self.segments.front().is_some_and(|first| first.end <= position) {
            if let Some(first) = self.segments.pop_front() {
                let path = segment_path(&self.dir, first.start);
                fs::remove_file(&path).map_err(io("removing", &path))?;
            }
        }
        Ok(())
    }

    /// The files that hold what is after `position`, to be read while writing goes on.
    pub(crate) fn files_from(&self, position: u64) -> Vec<(u64, PathBuf)> {
        let held = self.segments.iter().filter(|segment| segment.end > position);
        held.map(|segment| (segment.start, segment_path(&self.dir, segment.start))).collect()
    }

    fn begin_segment(&mut self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(io("syncing", &self.last_path()))?;
        let file = append_to(&segment_path(&self.dir, self.end))?;
        sync_dir(&self.dir)?;
        self.file = Arc::new(file);
        self.segments.push_back(Segment { start: self.end, end: self.end });
        Ok(())
    }

    fn last_path(&self) -> PathBuf {
        segment_path(&self.dir, self.segments.back().map_or(0, |last| last.start))
    }
}

fn segment_path(dir: &Path, start: u64) -> PathBuf {
    dir.join(format!("{start:020}.log"))
}

fn append_to(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(io("opening", path))
}

fn frame(arrival: &Arrival, boot: BootId, bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(bytes.len() + 64);
    framed.extend_from_slice(&[0; 8]);
    framed.extend_from_slice(&arrival.time.0.to_le_bytes());
    framed.extend_from_slice(&boot.0.to_le_bytes());
    for text in [&arrival.sensor_name, &arrival.group] {
        let text = text.as_bytes().get(..usize::from(u16::MAX)).unwrap_or(text.as_bytes());
        framed.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
        framed.extend_from_slice(text);
    }
    framed.extend_from_slice(bytes);
    let (head, payload) = framed.split_at_mut(8);
    let crc = crc32c::crc32c(payload).to_le_bytes();
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    for (place, byte) in head.iter_mut().zip(len.into_iter().chain(crc)) {
        *place = byte;
    }
    framed
}

/// Gives each whole entry of a segment to `each`; returns how many bytes were whole.
pub(crate) fn read_segment(
    path: &Path,
    start: u64,
    each: &mut impl FnMut(Entry) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(io("opening", path)(error)),
    };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut intact = 0;
    loop {
        let mut head = [0; 8];
        if reader.read_exact(&mut head).is_err() {
            return Ok(intact);
        }
        let [a, b, c, d, e, f, g, h] = head;
        let (len, crc) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let mut payload = Vec::new();
        if len > ENTRY_MAX || reader.by_ref().take(u64::from(len)).read_to_end(&mut payload).is_err() {
            return Ok(intact);
        }
        if payload.len() as u64 != u64::from(len) || crc32c::crc32c(&payload) != crc {
            return Ok(intact);
        }
        let Some(entry) = unframe(start + intact, &payload) else { return Ok(intact) };
        each(entry)?;
        intact += 8 + u64::from(len);
    }
}

fn unframe(position: u64, payload: &[u8]) -> Option<Entry> {
    let (time, rest) = payload.split_first_chunk::<8>()?;
    let (boot, mut rest) = rest.split_first_chunk::<8>()?;
    let mut text = || {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        rest = after;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let (sensor_name, group) = (text()?, text()?);
    let arrival = Arrival { time: Time(u64::from_le_bytes(*time)), sensor_name, group };
    Some(Entry { position, arrival, boot: BootId(u64::from_le_bytes(*boot)), bytes: rest.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(time: u64) -> Arrival {
        Arrival { time: Time(time), sensor_name: "rack 1".into(), group: "default".into() }
    }

    fn reopen(dir: &Path) -> (Journal, u64, Vec<Entry>) {
        let mut entries = Vec::new();
        let (journal, cut) = Journal::open(dir, |entry| {
            entries.push(entry);
            Ok(())
        })
        .unwrap();
        (journal, cut, entries)
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_and_all_before_it_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, ..) = reopen(dir.path());
        journal.append(&arrival(1), BootId(7), b"first").unwrap();
        let second = journal.append(&arrival(2), BootId(8), b"second").unwrap();
        let path = journal.last_path();
        let whole = fs::read(&path).unwrap();
        drop(journal);
        for len in second..whole.len() as u64 {
            fs::write(&path, &whole[..usize::try_from(len).unwrap()]).unwrap();
            let (mut journal, cut, entries) = reopen(dir.path());
            assert_eq!((cut, entries.len()), (len - second, 1));
            assert_eq!((entries[0].bytes.as_slice(), entries[0].boot), (b"first".as_slice(), BootId(7)));
            assert_eq!(entries[0].arrival, arrival(1));
            assert_eq!(journal.append(&arrival(3), BootId(9), b"third").unwrap(), second);
            assert_eq!(reopen(dir.path()).2.len(), 2);
        }
    }

    #[test]
    fn damage_before_the_last_segment_is_an_error_and_never_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, ..) = reopen(dir.path());
        let big = vec![1; 5 << 20];
        for time in 0..3 {
            journal.append(&arrival(time), BootId(1), &big).unwrap();
        }
        assert_eq!(journal.segments.len(), 2);
        let path = segment_path(dir.path(), 0);
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(Journal::open(dir.path(), |_| Ok(())), Err(StoreError::Foreign(..))));
    }

    #[test]
    fn segments_are_dropped_only_when_all_of_them_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, ..) = reopen(dir.path());
        let big = vec![1; 5 << 20];
        let positions: Vec<u64> = (0..5).map(|time| journal.append(&arrival(time), BootId(1), &big).unwrap()).collect();
        journal.drop_before(positions[3]).unwrap();
        drop(journal);
        let kept: Vec<u64> = reopen(dir.path()).2.iter().map(|entry| entry.position).collect();
        assert_eq!(kept, positions[2..]);
    }
}
