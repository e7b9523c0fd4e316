//! What the spool knows of its segments, and how a record stands in one.

use super::{Pushed, SpoolCounts, SpoolLimits, SpooledBatch};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use thymus_record::{BootId, SensorId};

const MAGIC: &[u8; 4] = b"TSP2";
const HEAD: usize = 36;
const SEGMENT_BYTES: u64 = 8 << 20;

/// What a batch is known by.
pub(super) type Key = (SensorId, BootId, u64);

impl SpooledBatch {
    fn key(&self) -> Key {
        (self.sensor, self.boot, self.sequence)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) segment: u64,
    pub(super) offset: u64,
    len: u32,
    records: u32,
}

struct Segment {
    file: File,
    len: u64,
    waiting: u64,
}

#[derive(Default)]
pub(super) struct State {
    segments: BTreeMap<u64, Segment>,
    pub(super) entries: BTreeMap<Key, Entry>,
    pub(super) live: VecDeque<Key>,
    pub(super) backlog: VecDeque<Key>,
    pub(super) in_flight: u64,
    /// Rows acknowledged, of boots that counted here.
    pub(super) acknowledged: BTreeMap<(SensorId, BootId), u64>,
    /// Why the disk takes nothing now.
    pub(super) trouble: Option<String>,
    pub(super) counts: SpoolCounts,
}

pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.spool"))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

impl State {
    /// Reads a segment left by an earlier run; a torn tail is cut off.
    pub(super) fn load(&mut self, number: u64, path: &Path) -> io::Result<()> {
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

    pub(super) fn push(&mut self, dir: &Path, limits: SpoolLimits, batch: &SpooledBatch) -> Pushed {
        if self.entries.contains_key(&batch.key()) {
            return Pushed::Stored;
        }
        let len = u64::try_from(HEAD + batch.bytes.len()).unwrap_or(u64::MAX);
        if self.counts.bytes.saturating_add(len) > limits.bytes_max {
            return Pushed::Full;
        }
        match self.write(dir, batch, len) {
            Ok(entry) => {
                self.entries.insert(batch.key(), entry);
                self.live.push_back(batch.key());
                self.trouble = None;
                self.counts.batches += 1;
                self.counts.records += u64::from(batch.records);
                self.counts.bytes += len;
                Pushed::Stored
            }
            Err(error) => {
                let words = format!("the spool {} cannot write: {error}", dir.display());
                if self.trouble.as_ref() != Some(&words) {
                    tracing::warn!("{words}");
                }
                self.trouble = Some(words);
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

    pub(super) fn read(&self, key: Key) -> Option<SpooledBatch> {
        let entry = self.entries.get(&key)?;
        let mut bytes = vec![0; entry.len as usize];
        let segment = self.segments.get(&entry.segment)?;
        let mut file = &segment.file;
        file.seek(SeekFrom::Start(entry.offset + HEAD as u64)).ok()?;
        file.read_exact(&mut bytes).ok()?;
        Some(SpooledBatch { sensor: key.0, boot: key.1, sequence: key.2, records: entry.records, bytes })
    }

    pub(super) fn drop_entry(&mut self, dir: &Path, key: Key) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.counts.batches -= 1;
        self.counts.records -= u64::from(entry.records);
        self.counts.acknowledged_batches += 1;
        self.counts.acknowledged_records += u64::from(entry.records);
        if let Some(rows) = self.acknowledged.get_mut(&(key.0, key.1)) {
            *rows += u64::from(entry.records);
        }
        let Some(segment) = self.segments.get_mut(&entry.segment) else { return };
        segment.waiting -= 1;
        if segment.waiting == 0 {
            self.counts.bytes -= segment.len;
            self.segments.remove(&entry.segment);
            let _ = std::fs::remove_file(segment_path(dir, entry.segment));
        }
    }
}

pub(super) fn record_of(batch: &SpooledBatch) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEAD + batch.bytes.len());
    body.extend_from_slice(&batch.boot.0.to_le_bytes());
    body.extend_from_slice(&batch.sequence.to_le_bytes());
    body.extend_from_slice(&batch.records.to_le_bytes());
    body.extend_from_slice(&batch.sensor.0.to_le_bytes());
    body.extend_from_slice(&batch.bytes);
    let mut record = Vec::with_capacity(12 + body.len());
    let _ = record.write_all(MAGIC);
    record.extend_from_slice(&u32::try_from(batch.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

/// The record at this place, if it is whole.
fn parse(bytes: &[u8], at: usize, segment: u64) -> Option<(Key, Entry)> {
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
    let sensor = SensorId(u32::from_le_bytes(field(body, 20)?));
    Some(((sensor, boot, sequence), Entry { segment, offset: at as u64, len, records }))
}
