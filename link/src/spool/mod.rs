//! Batches waiting for the master: a queue on disk with a byte limit. A batch is written before it is sent and goes
//! only when it was acknowledged, so that kill -9 loses nothing that was pushed; a power cut may lose what the kernel
//! had not written yet. A full spool takes no new batch: the caller counts its records as shed.
//!
//! ```text
//! segment = records, 8 MiB or a little more, named by number; removed when all of it was acknowledged
//! record  = "TSP2" | length u32 | crc32c u32 of what follows | boot u64 | sequence u64 | records u32 | sensor u32 | batch
//! ```
//!
//! A vSensor's spool also holds the batches of its OS-sensors, as they came; an OS-sensor keeps in one what its vSensor
//! has not taken: batches, and parcels of frames, which go in the order in which they were put in.

mod state;

use state::{Key, State, segment_path};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thymus_record::message::Held;
use thymus_record::{BootId, SensorId};
use tokio::sync::Notify;

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
    /// Who made it.
    pub sensor: SensorId,
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
        self.state().acknowledged.entry((batch.sensor, batch.boot)).or_default();
        self.push_relayed(batch)
    }

    /// Puts somebody else's batch on disk, if there is room; one that is there already stays as it is.
    pub fn push_relayed(&self, batch: SpooledBatch) -> Result<Pushed, SpoolError> {
        let pushed = self.state().push(&self.dir, self.limits, &batch);
        if pushed == Pushed::Stored {
            self.filled.notify_one();
        }
        Ok(pushed)
    }

    /// Puts a batch on disk, waiting for room as long as it takes.
    pub fn push_waiting(&self, batch: SpooledBatch) -> Result<Pushed, SpoolError> {
        let mut state = self.state();
        state.acknowledged.entry((batch.sensor, batch.boot)).or_default();
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
        // In the order in which they were put in.
        let mut order: Vec<(u64, u64, Key)> =
            state.entries.iter().map(|(key, entry)| (entry.segment, entry.offset, *key)).collect();
        order.sort_unstable();
        state.backlog = order.into_iter().map(|(_, _, key)| key).collect();
        state.in_flight = 0;
        self.filled.notify_one();
    }

    /// The next batch to send, live before backlog, while fewer than `window` are under way.
    pub fn take_next(&self, window: u64) -> Option<SpooledBatch> {
        self.take(window, |state| state.live.pop_front().or_else(|| state.backlog.pop_front()))
    }

    /// The oldest that was not taken, while fewer than `window` are under way.
    pub fn take_oldest(&self, window: u64) -> Option<SpooledBatch> {
        self.take(window, |state| state.backlog.pop_front().or_else(|| state.live.pop_front()))
    }

    fn take(&self, window: u64, mut next: impl FnMut(&mut State) -> Option<Key>) -> Option<SpooledBatch> {
        let mut state = self.state();
        if state.in_flight >= window {
            return None;
        }
        loop {
            let key = next(&mut state)?;
            if let Some(batch) = state.read(key) {
                state.in_flight += 1;
                return Some(batch);
            }
        }
    }

    /// The other side had no room for this one: it is sent again.
    pub fn put_back(&self, sensor: SensorId, boot: BootId, sequence: u64) {
        let mut state = self.state();
        let key = (sensor, boot, sequence);
        if state.entries.contains_key(&key) {
            state.in_flight = state.in_flight.saturating_sub(1);
            state.backlog.push_front(key);
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
            let (from, to) = ((held.sensor, held.boot, *from), (held.sensor, held.boot, *to));
            if from > to {
                continue;
            }
            let keys: Vec<Key> = state.entries.range(from..=to).map(|entry| *entry.0).collect();
            for key in keys {
                state.drop_entry(&self.dir, key);
            }
        }
        drop(state);
        self.room.notify_all();
        self.filled.notify_one();
    }

    /// Nobody wants these: they go. Gives the rows of boots that counted here.
    pub fn give_up(&self, held: &Held) -> u64 {
        let key = (held.sensor, held.boot);
        let before = self.state().acknowledged.get(&key).copied();
        self.acknowledge(held);
        let mut state = self.state();
        let (Some(before), Some(rows)) = (before, state.acknowledged.get_mut(&key)) else { return 0 };
        std::mem::replace(rows, before).saturating_sub(before)
    }

    /// Rows of one boot that were acknowledged since it was opened.
    pub fn acknowledged_of(&self, sensor: SensorId, boot: BootId) -> u64 {
        self.state().acknowledged.get(&(sensor, boot)).copied().unwrap_or_default()
    }

    /// Why the disk takes nothing now, in words.
    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// How much it may hold.
    pub fn limits(&self) -> SpoolLimits {
        self.limits
    }

    /// What it holds and has delivered.
    pub fn counts(&self) -> SpoolCounts {
        self.state().counts
    }
}

#[cfg(test)]
mod tests;
