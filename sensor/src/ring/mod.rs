//! The rolling capture: packets are copied into staging segments in shared memory, and a thread writes sealed segments
//! with O_DIRECT into ring files of a fixed size, reused in place. The poll loop never waits for the disk and never takes
//! a page fault; kill -9 loses nothing that was appended, since staging outlives the process.
//!
//! ```text
//! DIR/superblock       identity, key of the index, shape; two copies, each with its CRC (0600)
//! DIR/lock             held by the sensor that writes
//! DIR/ring-0000.pcapng slots of 4 MiB, each a whole pcapng section (layout.rs): tcpdump reads the file as it is
//! DIR/index-0000       60 KiB a slot: hashes of the flows in it, or a Bloom filter where they are too many
//! /dev/shm/thymus-ring-ID   staging
//! ```

mod layout;
mod map;
mod superblock;
mod disk;
mod rotation;
mod index;
mod appender;
mod writer;
mod reader;
mod matching;
mod pcapng;
#[cfg(test)]
mod tests;

pub use appender::{Appended, RingAppender};
pub use layout::{SLOT_BYTES, SNAPLEN};
pub use pcapng::PcapngWriter;
pub use reader::{Found, RingReader};

use crossbeam::channel::{Sender, bounded, unbounded};
use crossbeam::queue::ArrayQueue;
use disk::Disk;
use map::{Map, Staged};
use rotation::Rotation;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use superblock::Superblock;
use thymus_dissect::flow::Roots;
use thymus_record::Time;
use thymus_record::ledger::Count;
use writer::{Task, Writer};

/// Staging segments beside two a writer: 100 MB, which is 2 s of a stalled disk at 400 Mbit/s.
const SPARE_SEGMENTS: usize = 24;
/// The same where appenders wait for the disk.
const SPARE_SEGMENTS_WAITING: usize = 6;

/// How a ring is opened.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Its folder.
    pub dir: PathBuf,
    /// Its size on disk, index included.
    pub bytes: u64,
    /// Appenders that will be taken.
    pub writers: usize,
    /// Name and group of each capture port.
    pub ports: Vec<(String, String)>,
    /// Groups of agents.
    pub roots: Arc<Roots>,
    /// Its appenders wait for the disk, as for capture files; live ones shed.
    pub waits: bool,
}

/// The ring cannot be used; the text says why and what to do.
#[derive(Debug, thiserror::Error)]
#[error("the ring {dir}: {why}")]
pub struct RingError {
    dir: String,
    why: String,
}

impl RingError {
    pub(crate) fn new(dir: &Path, why: impl std::fmt::Display) -> RingError {
        RingError { dir: dir.display().to_string(), why: why.to_string() }
    }
}

/// What was written and lost since the ring was opened.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RingCounts {
    /// Bytes written to slots, sealed and open.
    pub ring_bytes: u64,
    /// Bytes written to the index.
    pub index_bytes: u64,
    /// Packets that were appended and that the disk then refused.
    pub lost: Count,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) ring_bytes: AtomicU64,
    pub(crate) index_bytes: AtomicU64,
    pub(crate) lost_packets: AtomicU64,
    pub(crate) lost_bytes: AtomicU64,
}

/// What appenders and the writer thread share.
pub(crate) struct Core {
    pub(crate) superblock: Superblock,
    pub(crate) disk: Disk,
    pub(crate) rotation: Rotation,
    pub(crate) map: Arc<Map>,
    pub(crate) free: ArrayQueue<Staged>,
    pub(crate) counters: Counters,
    pub(crate) next_segment: AtomicU64,
    pub(crate) next_order: AtomicU64,
    /// Open segments by appender: segment of the map, order, bytes already on disk.
    pub(crate) open: Mutex<Vec<Option<writer::Open>>>,
    /// First packets of slots on disk, oldest first.
    pub(crate) ages: Mutex<std::collections::VecDeque<(u64, Time)>>,
    pub(crate) ports: Vec<(String, String)>,
    pub(crate) roots: Arc<Roots>,
}

/// An open ring; one process writes it at a time.
pub struct Ring {
    core: Arc<Core>,
    tasks: Sender<Task>,
    writer: Mutex<Option<JoinHandle<()>>>,
    staging: PathBuf,
    _lock: File,
}

impl Ring {
    /// Opens a ring, or makes it: preallocated, so that it can never fill the disk. Takes over what a killed process left.
    /// A ring that is there grows to the size asked for; it keeps all that it holds.
    pub fn open(config: RingConfig) -> Result<Ring, RingError> {
        let dir = config.dir.as_path();
        let failed = |why: String| RingError::new(dir, why);
        if dir.exists() && !dir.is_dir() {
            return Err(failed("is a file: give a folder for the ring".to_owned()));
        }
        std::fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
        let lock = lock(dir)?;
        let old = Superblock::open_or_create(dir).map_err(failed)?;
        let superblock = old.sized(config.bytes).map_err(failed)?;
        let disk = Disk::open(dir, &superblock, old.slots).map_err(failed)?;
        if superblock != old {
            // Only now are all its slots there.
            superblock.write(dir).map_err(failed)?;
        }
        let staging = staging_path(dir, superblock.ring);
        let left = writer::take_over(&disk, &superblock, &staging).map_err(failed)?;
        let spare = if config.waits { SPARE_SEGMENTS_WAITING } else { SPARE_SEGMENTS };
        let count = config.writers * 2 + spare.min(usize::try_from(superblock.slots).unwrap_or(usize::MAX));
        let map = Arc::new(disk::staging(&staging, count).map_err(failed)?);
        let free = ArrayQueue::new(count);
        for staged in Staged::all(&map) {
            let _ = free.push(staged);
        }
        let core = Arc::new(Core {
            superblock,
            disk,
            rotation: left.rotation,
            map,
            free,
            counters: Counters::default(),
            next_segment: AtomicU64::new(left.next_segment),
            next_order: AtomicU64::new(left.next_order),
            open: Mutex::new((0..config.writers).map(|_| None).collect()),
            ages: Mutex::new(left.ages),
            ports: config.ports,
            roots: config.roots,
        });
        let (tasks, inbox) = unbounded();
        let writer = Writer::new(Arc::clone(&core));
        let thread = std::thread::Builder::new().name("ring-writer".to_owned()).spawn(move || writer.run(&inbox));
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        Ok(Ring { core, tasks, writer: Mutex::new(Some(thread)), staging, _lock: lock })
    }

    /// The appender of one worker.
    pub fn appender(&self, worker: usize) -> Result<RingAppender, RingError> {
        Ok(RingAppender::new(Arc::clone(&self.core), self.tasks.clone(), worker))
    }

    /// Waits until everything sealed so far is on disk.
    pub fn flush(&self) {
        let (done, wait) = bounded(1);
        if self.tasks.send(Task::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    /// Takes all free segments away, as a disk does that stands still.
    #[cfg(test)]
    pub(crate) fn hold_free_segments(&self) -> Vec<map::Staged> {
        std::iter::from_fn(|| self.core.free.pop()).collect()
    }

    /// What was written and lost.
    pub fn counts(&self) -> RingCounts {
        let counters = &self.core.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lost = Count { packets: load(&counters.lost_packets), bytes: load(&counters.lost_bytes) };
        RingCounts { ring_bytes: load(&counters.ring_bytes), index_bytes: load(&counters.index_bytes), lost }
    }

    /// The oldest packet that is still there.
    pub fn oldest(&self) -> Option<Time> {
        let ages = self.core.ages.lock().unwrap_or_else(PoisonError::into_inner);
        ages.front().map(|age| age.1)
    }
}

impl Drop for Ring {
    /// Everything sealed goes to disk, and staging, which then holds nothing more, goes.
    fn drop(&mut self) {
        let _ = self.tasks.send(Task::Stop);
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        let empty = (0..self.core.map.count()).all(|number| self.core.map.state(number) == layout::State::Free);
        if empty {
            let _ = std::fs::remove_file(&self.staging);
        }
    }
}

fn lock(dir: &Path) -> Result<File, RingError> {
    let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock"));
    let file = file.map_err(|error| RingError::new(dir, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(RingError::new(dir, "another sensor writes it: stop that one, or choose another folder"))
        }
        Err(TryLockError::Error(error)) => Err(RingError::new(dir, error)),
    }
}

/// How the names of rings' staging begin.
pub(crate) const STAGING: &str = "thymus-ring-";

/// Where a ring's staging is: in shared memory, or, where there is none, beside the ring.
pub(crate) fn staging_path(dir: &Path, ring: u64) -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.join(format!("{STAGING}{ring:016x}")) } else { dir.join("staging") }
}
