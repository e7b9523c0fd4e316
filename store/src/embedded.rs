//! The store itself: ingest, durability, opening and replay.

use crate::columns::{Rows, build};
use crate::conversation::{Conversations, Key, Sighting};
use crate::file::DataFile;
use crate::journal::{Entry, Journal, io, read_segment};
use crate::keeper;
use crate::known::{Known, Verdict, assigned};
use crate::manifest::Manifest;
use crate::scan::Snapshot;
use crate::types::{Arrival, Counts, Ingested, IngestedBatch, Mark, StoreError, StoreEvent, StoreOptions};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use thymus_record::batch::{self, Batch};
use thymus_record::message::Held;
use thymus_record::table::EndReason;
use thymus_record::{BootId, FlowUid, Record, SensorId, Table};
use tokio::sync::broadcast;

/// Batches that a slow subscriber may lag behind before it misses some.
const SUBSCRIBER_LAG: usize = 4096;
/// Events kept until somebody takes them; the oldest go.
const EVENTS_MAX: usize = 256;

/// The embedded store. All methods may be called from any thread.
pub struct Embedded {
    pub(crate) core: Arc<Core>,
    keeper: Option<JoinHandle<()>>,
}

/// What the keeper shares with the callers.
pub(crate) struct Core {
    pub(crate) dir: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) state: Mutex<State>,
    pub(crate) wake: Condvar,
    /// Held while files are made or the manifest changes: one at a time.
    pub(crate) keeping: Mutex<Manifest>,
    events: Mutex<VecDeque<StoreEvent>>,
    subscribers: broadcast::Sender<Arc<IngestedBatch>>,
    lock: File,
}

/// What changes with each batch.
pub(crate) struct State {
    pub(crate) journal: Journal,
    pub(crate) known: Known,
    conversations: Conversations,
    /// Batches not yet in files, each with the position behind it.
    pub(crate) memory: VecDeque<(u64, Arc<Vec<Rows>>)>,
    pub(crate) memory_rows: usize,
    pub(crate) files: Vec<Arc<DataFile>>,
    pub(crate) counts: Counts,
    pub(crate) flushed: u64,
    pub(crate) stopping: bool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Embedded {
    /// Opens the store in a folder, making it if the folder is empty or absent.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Embedded, StoreError> {
        fs::create_dir_all(dir).map_err(io("creating", dir))?;
        let lock = take_lock(dir)?;
        let manifest = Manifest::open(dir)?;
        let files = open_files(dir, &manifest)?;
        let mut known = manifest.known.clone();
        let mut conversations = Conversations::new(options.conversations_max);
        let mut memory = VecDeque::new();
        let mut memory_rows = 0;
        let (journal, cut) = Journal::open(&dir.join("journal"), |entry| {
            let Entry { position, arrival, boot, bytes } = entry;
            let mut batch = batch::decode(&bytes)?;
            batch.head.boot = boot;
            let marks = mark(&batch, &arrival, &mut conversations);
            if position >= manifest.flushed {
                let crc = batch::identity(&batch.head, &bytes);
                known.remember(batch.head.sensor, boot, batch.head.sequence, crc);
                memory_rows += batch.records.len();
                memory.push_back((position + 1, Arc::new(tables_of(&batch, &arrival, &marks)?)));
            }
            Ok(())
        })?;
        let flushed = manifest.flushed;
        let counts = Counts::default();
        let state =
            State { journal, known, conversations, memory, memory_rows, files, counts, flushed, stopping: false };
        let core = Arc::new(Core {
            dir: dir.to_owned(),
            options,
            state: Mutex::new(state),
            wake: Condvar::new(),
            keeping: Mutex::new(manifest),
            events: Mutex::default(),
            subscribers: broadcast::channel(SUBSCRIBER_LAG).0,
            lock,
        });
        if cut > 0 {
            core.tell(StoreEvent::TornTail { bytes: cut });
        }
        let of_keeper = Arc::clone(&core);
        let keeper = std::thread::Builder::new().name("store-keeper".into()).spawn(move || keeper::run(&of_keeper));
        let keeper = Some(keeper.map_err(io("starting the keeper of", dir))?);
        Ok(Embedded { core, keeper })
    }

    /// Stores a batch: in the journal, visible to queries, handed to subscribers. Safe only after [`Embedded::sync`].
    /// Blocks while memory is full and not yet flushed.
    pub fn ingest(&self, batch_bytes: &[u8], arrival: Arrival) -> Result<Ingested, StoreError> {
        let mut batch = batch::decode(batch_bytes)?;
        let crc = batch::identity(&batch.head, batch_bytes);
        let (sensor, own, sequence) = (batch.head.sensor, batch.head.boot, batch.head.sequence);
        if lock(&self.core.state).memory_rows > self.core.options.memory_rows_max.saturating_mul(4) {
            keeper::flush(&self.core)?;
        }
        let mut state = lock(&self.core.state);
        let Verdict::New(boot) = state.known.judge(sensor, own, sequence, crc) else {
            state.counts.seen_before += 1;
            return Ok(Ingested::SeenBefore);
        };
        batch.head.boot = boot;
        let position = state.journal.append(&arrival, boot, batch_bytes)?;
        state.known.remember(sensor, boot, sequence, crc);
        let marks = mark(&batch, &arrival, &mut state.conversations);
        let tables = tables_of(&batch, &arrival, &marks)?;
        let end = state.journal.end();
        state.memory.push_back((end, Arc::new(tables)));
        state.memory_rows += batch.records.len();
        state.counts.batches += 1;
        state.counts.forks += u64::from(boot != own);
        if keeper::is_due(&state, &self.core.options) {
            self.core.wake.notify_all();
        }
        let _ = self.core.subscribers.send(Arc::new(IngestedBatch { position, batch, arrival, marks }));
        drop(state);
        if boot == own {
            return Ok(Ingested::New);
        }
        self.core.tell(StoreEvent::Fork { sensor, boot: own, assigned: assigned(own) });
        Ok(Ingested::Fork)
    }

    /// Makes all batches ingested so far safe on disk: they may be acknowledged when this returns.
    pub fn sync(&self) -> Result<(), StoreError> {
        let file = lock(&self.core.state).journal.to_sync();
        file.sync_data().map_err(io("syncing the journal of", &self.core.dir))
    }

    /// The batches held of a sensor, by boot. Call [`Embedded::sync`] first to tell a sensor only what is safe.
    pub fn held(&self, sensor: SensorId) -> Vec<Held> {
        lock(&self.core.state).known.held(sensor)
    }

    /// Batches from now on, in journal order. Who lags too far misses some and can [`Embedded::replay`] them.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<IngestedBatch>> {
        self.core.subscribers.subscribe()
    }

    /// Gives the batches that the journal still has at or after a position, oldest first, to rebuild derived state.
    /// Returns the position behind the last.
    pub fn replay(&self, from: u64, mut each: impl FnMut(IngestedBatch)) -> Result<u64, StoreError> {
        let (files, end) = {
            let state = lock(&self.core.state);
            (state.journal.files_from(0), state.journal.end())
        };
        let mut conversations = Conversations::new(self.core.options.conversations_max);
        for (start, path) in files {
            read_segment(&path, start, &mut |entry| {
                let Entry { position, arrival, boot, bytes } = entry;
                if position >= end {
                    return Ok(());
                }
                let mut batch = batch::decode(&bytes)?;
                batch.head.boot = boot;
                let marks = mark(&batch, &arrival, &mut conversations);
                if position >= from {
                    each(IngestedBatch { position, batch, arrival, marks });
                }
                Ok(())
            })?;
        }
        Ok(end)
    }

    /// What the store holds.
    pub fn counts(&self) -> Counts {
        let state = lock(&self.core.state);
        Counts {
            memory_rows: state.memory_rows as u64,
            file_rows: state.files.iter().map(|file| file.meta.rows).sum(),
            files: state.files.len() as u64,
            bytes: state.journal.bytes() + state.files.iter().map(|file| file.meta.bytes).sum::<u64>(),
            ..state.counts
        }
    }

    /// What happened since the last call that people should hear of.
    pub fn take_events(&self) -> Vec<StoreEvent> {
        lock(&self.core.events).drain(..).collect()
    }

    /// Writes rows in memory to files, merges small files and applies the disk budget now, rather than when it is due.
    pub fn flush(&self) -> Result<(), StoreError> {
        keeper::flush(&self.core)?;
        keeper::compact(&self.core)?;
        keeper::retain(&self.core)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = lock(&self.core.state);
        let memory = state.memory.iter().map(|(_, tables)| Arc::clone(tables)).collect();
        Snapshot { memory, files: state.files.clone() }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        lock(&self.core.state).stopping = true;
        self.core.wake.notify_all();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        // Not left to the file's close: a process started just now may still hold a copy of it.
        let _ = self.core.lock.unlock();
    }
}

impl Core {
    /// Logs an event and keeps it until it is taken.
    pub(crate) fn tell(&self, event: StoreEvent) {
        tracing::warn!(?event, "store");
        let mut events = lock(&self.events);
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }

    pub(crate) fn tables(&self) -> PathBuf {
        self.dir.join("tables")
    }
}

fn take_lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(io("locking", &path)(error)),
    }
}

/// The manifest's files; what a crash left beside them is removed.
fn open_files(dir: &Path, manifest: &Manifest) -> Result<Vec<Arc<DataFile>>, StoreError> {
    let tables = dir.join("tables");
    fs::create_dir_all(&tables).map_err(io("creating", &tables))?;
    for file in fs::read_dir(&tables).map_err(io("listing", &tables))?.flatten() {
        let name = file.file_name();
        if !manifest.files.iter().any(|meta| name.to_str() == Some(&meta.name)) {
            fs::remove_file(file.path()).map_err(io("removing", &file.path()))?;
        }
    }
    let open = |meta: &crate::file::FileMeta| {
        let path = tables.join(&meta.name);
        let len = fs::metadata(&path).map_err(io("opening", &path))?.len();
        if len != meta.bytes {
            return Err(StoreError::Foreign(path, format!("it has {len} bytes instead of {}", meta.bytes)));
        }
        Ok(Arc::new(DataFile::new(&tables, meta.clone())))
    };
    manifest.files.iter().map(open).collect()
}

/// The batch's rows, by table.
fn tables_of(batch: &Batch, arrival: &Arrival, marks: &[Mark]) -> Result<Vec<Rows>, StoreError> {
    let built = Table::ALL.into_iter().map(|table| build(table, batch, arrival, marks).transpose());
    built.flatten().collect()
}

/// Marks each row by its conversation, in journal order.
fn mark(batch: &Batch, arrival: &Arrival, conversations: &mut Conversations) -> Vec<Mark> {
    let paths: Vec<Arc<str>> = batch.head.networks.iter().map(|path| Arc::from(path.as_str())).collect();
    let group: Arc<str> = Arc::from(arrival.group.as_str());
    let alone = Mark { primary: true, joined: None };
    let one = |record: &Record| {
        let network = paths.get(record.network() as usize).unwrap_or(&group);
        let Some((key, row)) = sighting(record, Arc::clone(network), batch.head.sensor, batch.head.boot) else {
            return alone;
        };
        conversations.mark(key, row)
    };
    batch.records.iter().map(one).collect()
}

/// Where a row stands in its conversation; `None` for rows of none.
fn sighting(record: &Record, network: Arc<str>, sensor: SensorId, boot: BootId) -> Option<(Key, Sighting)> {
    let (ends, proto, shard, sequence, start) = match record {
        Record::Flow(row) => {
            ((row.orig_h, row.orig_p, row.resp_h, row.resp_p), row.proto, row.shard, row.sequence, row.ts)
        }
        Record::Dns(row) => {
            ((row.orig_h, row.orig_p, row.resp_h, row.resp_p), row.proto, row.shard, row.sequence, row.ts)
        }
        Record::Tls(row) => {
            ((row.orig_h, row.orig_p, row.resp_h, row.resp_p), row.proto, row.shard, row.sequence, row.ts)
        }
        Record::Http(row) => {
            ((row.orig_h, row.orig_p, row.resp_h, row.resp_p), row.proto, row.shard, row.sequence, row.ts)
        }
        _ => return None,
    };
    let (orig_h, orig_p, resp_h, resp_p) = ends;
    let uid = FlowUid { sensor, boot, shard, sequence };
    let handed_over = matches!(record, Record::Flow(row) if row.reason == EndReason::Handover);
    let is_flow = matches!(record, Record::Flow(_));
    let is_view = matches!(record, Record::Flow(row) if row.view_of.is_some());
    let is_proven = matches!(record, Record::Flow(row) if row.unverified == 0 || row.unverified < row.frames);
    let sighting = Sighting { uid, start, until: record.time(), is_flow, handed_over, is_view, is_proven };
    Some((Key::new(network, (orig_h, orig_p), (resp_h, resp_p), proto), sighting))
}
