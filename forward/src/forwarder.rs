//! Chunks encoded into batches and handed on: to the spool, or, without a master, counted and dropped.

use crate::batcher::{BatcherCounts, Chunk};
use crate::owners::SharedOwners;
use ringbuf::HeapCons;
use ringbuf::traits::Consumer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use thymus_link::spool::{Pushed, Spool, SpooledBatch};
use thymus_record::batch::{Head, encode};
use thymus_record::ledger::Records;
use thymus_record::{BootId, SensorId};

/// How long the forwarder sleeps when no chunk is there: much less than a batch's second, and 100 wake-ups a second
/// cost 0.3 % of a core.
const NAP: Duration = Duration::from_millis(10);

/// Where batches go.
#[derive(Clone)]
pub enum Outlet {
    /// Nowhere: encoded, counted and dropped.
    Standalone,
    /// To the spool, which the uplink empties. With `waits` a full spool is waited for (capture files).
    Spool {
        /// The queue on disk.
        spool: Arc<Spool>,
        /// A full spool is waited for, not shed.
        waits: bool,
    },
}

/// What the forwarder did, readable by all threads.
#[derive(Debug, Default)]
pub struct RecordCounts {
    encoded: AtomicU64,
    shed: AtomicU64,
    metadata_bytes: AtomicU64,
    batches: AtomicU64,
    workers: std::sync::Mutex<Vec<Arc<BatcherCounts>>>,
    pushed: AtomicU64,
}

impl RecordCounts {
    /// Adds a worker's counts to the sums.
    pub fn watch(&self, worker: Arc<BatcherCounts>) {
        if let Ok(mut workers) = self.workers.lock() {
            workers.push(worker);
        }
    }

    /// Encoded bytes of all batches.
    pub fn metadata_bytes(&self) -> u64 {
        self.metadata_bytes.load(Ordering::Relaxed)
    }

    /// Records by fate. `acknowledged` is what the master has of this boot; `None` without a master.
    pub fn records(&self, acknowledged: Option<u64>) -> Records {
        let mut records = Records::default();
        if let Ok(workers) = self.workers.lock() {
            for worker in workers.iter() {
                records.made += worker.made.load(Ordering::Relaxed);
                records.shed += worker.shed_late.load(Ordering::Relaxed) + worker.shed_budget.load(Ordering::Relaxed);
            }
        }
        records.shed += self.shed.load(Ordering::Relaxed);
        records.sent = acknowledged.unwrap_or_else(|| self.encoded.load(Ordering::Relaxed));
        // On the way (in a chunk, in the encoder, or in the spool) is spooled as far as the outside can tell.
        records.spooled = records.made.saturating_sub(records.sent + records.shed);
        records
    }
}

/// The thread.
pub struct Forwarder {
    thread: JoinHandle<()>,
    finish: Arc<AtomicBool>,
}

/// What the thread works with.
pub struct ForwarderParts {
    /// The sensor.
    pub sensor: SensorId,
    /// Its run; the uplink changes it after a fork.
    pub boot: Arc<AtomicU64>,
    /// A ring from each worker.
    pub inboxes: Vec<HeapCons<Chunk>>,
    /// Where batches go.
    pub outlet: Outlet,
    /// Where it counts.
    pub counts: Arc<RecordCounts>,
    /// Who holds the ends of flows, as OS-sensors tell it.
    pub owners: SharedOwners,
}

impl Forwarder {
    /// Starts the thread.
    pub fn start(parts: ForwarderParts) -> std::io::Result<Forwarder> {
        let finish = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&finish);
        let thread = std::thread::Builder::new().name("forwarder".to_owned()).spawn(move || run(parts, &told))?;
        Ok(Forwarder { thread, finish })
    }

    /// Ends the thread after the last chunk. All batchers must have handed over before.
    pub fn finish(self) {
        self.finish.store(true, Ordering::Release);
        let _ = self.thread.join();
    }
}

fn run(mut parts: ForwarderParts, finish: &AtomicBool) {
    let (mut sequence, mut boot) = (0, parts.boot.load(Ordering::Acquire));
    loop {
        let finishing = finish.load(Ordering::Acquire);
        let mut taken = 0;
        for at in 0..parts.inboxes.len() {
            while let Some(mut chunk) = parts.inboxes.get_mut(at).and_then(Consumer::try_pop) {
                let now = parts.boot.load(Ordering::Acquire);
                if now != boot {
                    (sequence, boot) = (0, now);
                }
                parts.owners.fill(&mut chunk);
                forward(&parts, boot, sequence, &chunk);
                sequence += 1;
                taken += 1;
            }
        }
        if taken == 0 {
            if finishing {
                return;
            }
            std::thread::sleep(NAP);
        }
    }
}

fn forward(parts: &ForwarderParts, boot: u64, sequence: u64, chunk: &Chunk) {
    let rows = u32::try_from(chunk.records.len()).unwrap_or(u32::MAX);
    let head = Head {
        sensor: parts.sensor,
        boot: BootId(boot),
        sequence,
        rows,
        networks: chunk.networks.clone(),
        first_crc: None,
    };
    let bytes = encode(&head, &chunk.records);
    let counts = &parts.counts;
    counts.metadata_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    counts.batches.fetch_add(1, Ordering::Relaxed);
    counts.encoded.fetch_add(u64::from(rows), Ordering::Relaxed);
    let Outlet::Spool { spool, waits } = &parts.outlet else { return };
    let batch = SpooledBatch { sensor: parts.sensor, boot: BootId(boot), sequence, records: rows, bytes };
    let pushed = if *waits { spool.push_waiting(batch) } else { spool.push(batch) };
    match pushed {
        Ok(Pushed::Stored) => {
            counts.pushed.fetch_add(u64::from(rows), Ordering::Relaxed);
        }
        Ok(Pushed::Full) => {
            counts.shed.fetch_add(u64::from(rows), Ordering::Relaxed);
        }
        Err(error) => {
            counts.shed.fetch_add(u64::from(rows), Ordering::Relaxed);
            tracing::warn!("the spool took no batch: {error}");
        }
    }
}
