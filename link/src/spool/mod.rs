//! Batches waiting for the master: a queue on disk with a byte limit. A batch is written before it is sent and goes
//! only when it was acknowledged, so that kill -9 loses nothing that was pushed; a power cut may lose what the kernel
//! had not written yet. A full spool takes no new batch: the caller counts its records as shed.
//!
//! ```text
//! segment = records, 8 MiB or a little more, named by number; removed when all of it was acknowledged
//! record  = "TSP1" | length u32 | crc32c u32 of what follows | boot u64 | sequence u64 | records u32 | batch
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thymus_record::BootId;
use thymus_record::message::Held;
use tokio::sync::Notify;

const MAGIC: &[u8; 4] = b"TSP1";
const HEAD: usize = 32;
const SEGMENT_BYTES: u64 = 8 << 20;

/// How much the spool may hold.
#[derive(Clone, Copy, Debug)]
pub struct SpoolLimits {
    /// Bytes on disk.
    pub bytes_max: u64,
}

impl Default for SpoolLimits {
    /// 1 GiB: a day at the largest tier's 1 % would be 43 GB, at a typical 0.1 % it is 4; the smallest tier's day fits.
    fn default() -> SpoolLimits {
        SpoolLimits { bytes_max: 1 << 30 }
    }
}

/// A batch on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpooledBatch {
    /// The boot that numbered it.
    pub boot: BootId,
    /// Its number.
    pub sequence: u64,
    /// Its rows.
    pub records: u32,
    /// The encoded batch.
    pub bytes: Vec<u8>,
}

/// What became of a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It is on disk.
    Stored,
    /// There is no room, by limit or disk.
    Full,
}

/// What the spool holds and has delivered.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SpoolCounts {
    /// Batches waiting.
    pub batches: u64,
    /// Their rows.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Batches acknowledged since it was opened.
    pub acknowledged_batches: u64,
    /// Rows acknowledged since it was opened.
    pub acknowledged_records: u64,
    /// Bytes at its opening that were no whole record: a torn tail.
    pub torn_bytes: u64,
}

/// The spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the spool {path}: {why}")]
pub struct SpoolError {
    path: String,
    why: String,
}

#[derive(Clone, Copy)]
struct Entry {
    segment: u64,
    offset: u64,
    len: u32,
    records: u32,
}

struct Segment {
    file: File,
    len: u64,
    waiting: u64,
}

#[derive(Default)]
struct State {
    segments: BTreeMap<u64, Segment>,
    entries: BTreeMap<(BootId, u64), Entry>,
    live: VecDeque<(BootId, u64)>,
    backlog: VecDeque<(BootId, u64)>,
    in_flight: u64,
    acknowledged: BTreeMap<BootId, u64>,
    counts: SpoolCounts,
}

/// The queue.
pub struct Spool {
    dir: PathBuf,
    limits: SpoolLimits,
    state: Mutex<State>,
    room: Condvar,
    filled: Notify,
}

impl Spool {
    /// Opens the spool in this folder, or makes one.
    pub fn open(dir: &Path, limits: SpoolLimits) -> Result<Spool, SpoolError> {
        let failed =
            |path: &Path, error: io::Error| SpoolError { path: path.display().to_string(), why: error.to_string() };
        std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
        let mut state = State::default();
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(|error| failed(dir, error))?.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let number = name.strip_suffix(".spool").and_then(|name| u64::from_str_radix(name, 16).ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        for number in numbers {
            let path = segment_path(dir, number);
            state.load(number, &path).map_err(|error| failed(&path, error))?;
        }
        let spool = Spool {
            dir: dir.to_owned(),
            limits,
            state: Mutex::new(state),
            room: Condvar::new(),
            filled: Notify::new(),
        };
        spool.rewind();
        Ok(spool)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a batch on disk, if there is room.
    pub fn push(&self, batch: SpooledBatch) -> Result<Pushed, SpoolError> {
        let pushed = self.state().push(&self.dir, self.limits, &batch);
        if pushed == Pushed::Stored {
            self.filled.notify_one();
        }
        Ok(pushed)
    }

    /// Puts a batch on disk, waiting for room as long as it takes.
    pub fn push_waiting(&self, batch: SpooledBatch) -> Result<Pushed, SpoolError> {
        let mut state = self.state();
        while state.push(&self.dir, self.limits, &batch) == Pushed::Full {
            let waited = self.room.wait_timeout(state, Duration::from_millis(200));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.filled.notify_one();
        Ok(Pushed::Stored)
    }

    /// After a connect nothing is under way: everything waiting is backlog, what comes from now on is live.
    pub fn rewind(&self) {
        let mut state = self.state();
        state.live.clear();
        state.backlog = state.entries.keys().copied().collect();
        state.in_flight = 0;
        self.filled.notify_one();
    }

    /// The next batch to send, live before backlog, while fewer than `window` are under way.
    pub fn take_next(&self, window: u64) -> Option<SpooledBatch> {
        let mut state = self.state();
        if state.in_flight >= window {
            return None;
        }
        loop {
            let key = state.live.pop_front().or_else(|| state.backlog.pop_front())?;
            if let Some(batch) = state.read(key) {
                state.in_flight += 1;
                return Some(batch);
            }
        }
    }

    /// Waits until something may be there to send.
    pub async fn wait(&self) {
        self.filled.notified().await;
    }

    /// The master holds these: they go.
    pub fn acknowledge(&self, held: &Held) {
        let mut state = self.state();
        for (from, to) in &held.ranges {
            let keys: Vec<(BootId, u64)> =
                state.entries.range((held.boot, *from)..=(held.boot, *to)).map(|entry| *entry.0).collect();
            for key in keys {
                state.drop_entry(&self.dir, key);
            }
        }
        drop(state);
        self.room.notify_all();
        self.filled.notify_one();
    }

    /// Rows of one boot that were acknowledged since it was opened.
    pub fn acknowledged_of(&self, boot: BootId) -> u64 {
        self.state().acknowledged.get(&boot).copied().unwrap_or_default()
    }

    /// What it holds and has delivered.
    pub fn counts(&self) -> SpoolCounts {
        self.state().counts
    }
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.spool"))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

impl State {
    /// Reads a segment left by an earlier run; a torn tail is cut off.
    fn load(&mut self, number: u64, path: &Path) -> io::Result<()> {
        let bytes = std::fs::read(path)?;
        let (mut at, mut waiting) = (0usize, 0);
        while let Some((key, entry)) = parse(&bytes, at, number) {
            at += HEAD + entry.len as usize;
            if self.entries.insert(key, entry).is_none() {
                waiting += 1;
                self.counts.batches += 1;
                self.counts.records += u64::from(entry.records);
            }
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        self.counts.torn_bytes += (bytes.len() - at) as u64;
        if waiting == 0 {
            return std::fs::remove_file(path);
        }
        file.set_len(at as u64)?;
        self.counts.bytes += at as u64;
        self.segments.insert(number, Segment { file, len: at as u64, waiting });
        Ok(())
    }

    fn push(&mut self, dir: &Path, limits: SpoolLimits, batch: &SpooledBatch) -> Pushed {
        let len = u64::try_from(HEAD + batch.bytes.len()).unwrap_or(u64::MAX);
        if self.counts.bytes.saturating_add(len) > limits.bytes_max {
            return Pushed::Full;
        }
        match self.write(dir, batch, len) {
            Ok(entry) => {
                let key = (batch.boot, batch.sequence);
                self.entries.insert(key, entry);
                self.live.push_back(key);
                self.counts.batches += 1;
                self.counts.records += u64::from(batch.records);
                self.counts.bytes += len;
                Pushed::Stored
            }
            Err(error) => {
                tracing::warn!("the spool cannot write: {error}");
                Pushed::Full
            }
        }
    }

    fn write(&mut self, dir: &Path, batch: &SpooledBatch, len: u64) -> io::Result<Entry> {
        let last = self.segments.last_key_value().map(|(number, segment)| (*number, segment.len));
        let number = match last {
            Some((number, len)) if len < SEGMENT_BYTES => number,
            _ => {
                let number = last.map_or(0, |(number, _)| number + 1);
                let path = segment_path(dir, number);
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
                self.segments.insert(number, Segment { file, len: 0, waiting: 0 });
                number
            }
        };
        let segment = self.segments.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        let record = record_of(batch);
        let offset = segment.len;
        let written = segment.file.seek(SeekFrom::Start(offset)).and_then(|_| segment.file.write_all(&record));
        if let Err(error) = written {
            // What was written in part is cut off, so that the next record starts where this one did.
            let _ = segment.file.set_len(offset);
            return Err(error);
        }
        segment.len += len;
        segment.waiting += 1;
        let len = u32::try_from(batch.bytes.len()).unwrap_or(u32::MAX);
        Ok(Entry { segment: number, offset, len, records: batch.records })
    }

    fn read(&self, key: (BootId, u64)) -> Option<SpooledBatch> {
        let entry = self.entries.get(&key)?;
        let mut bytes = vec![0; entry.len as usize];
        let segment = self.segments.get(&entry.segment)?;
        let mut file = &segment.file;
        file.seek(SeekFrom::Start(entry.offset + HEAD as u64)).ok()?;
        file.read_exact(&mut bytes).ok()?;
        Some(SpooledBatch { boot: key.0, sequence: key.1, records: entry.records, bytes })
    }

    fn drop_entry(&mut self, dir: &Path, key: (BootId, u64)) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.counts.batches -= 1;
        self.counts.records -= u64::from(entry.records);
        self.counts.acknowledged_batches += 1;
        self.counts.acknowledged_records += u64::from(entry.records);
        *self.acknowledged.entry(key.0).or_default() += u64::from(entry.records);
        let Some(segment) = self.segments.get_mut(&entry.segment) else { return };
        segment.waiting -= 1;
        if segment.waiting == 0 {
            self.counts.bytes -= segment.len;
            self.segments.remove(&entry.segment);
            let _ = std::fs::remove_file(segment_path(dir, entry.segment));
        }
    }
}

fn record_of(batch: &SpooledBatch) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEAD + batch.bytes.len());
    body.extend_from_slice(&batch.boot.0.to_le_bytes());
    body.extend_from_slice(&batch.sequence.to_le_bytes());
    body.extend_from_slice(&batch.records.to_le_bytes());
    body.extend_from_slice(&batch.bytes);
    let mut record = Vec::with_capacity(12 + body.len());
    let _ = record.write_all(MAGIC);
    record.extend_from_slice(&u32::try_from(batch.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

/// The record at this place, if it is whole.
fn parse(bytes: &[u8], at: usize, segment: u64) -> Option<((BootId, u64), Entry)> {
    let record = bytes.get(at..)?;
    if field::<4>(record, 0)? != *MAGIC {
        return None;
    }
    let len = u32::from_le_bytes(field(record, 4)?);
    let crc = u32::from_le_bytes(field(record, 8)?);
    let body = record.get(12..HEAD + len as usize)?;
    if crc32c::crc32c(body) != crc {
        return None;
    }
    let boot = BootId(u64::from_le_bytes(field(body, 0)?));
    let sequence = u64::from_le_bytes(field(body, 8)?);
    let records = u32::from_le_bytes(field(body, 16)?);
    Some(((boot, sequence), Entry { segment, offset: at as u64, len, records }))
}

#[cfg(test)]
mod tests;
