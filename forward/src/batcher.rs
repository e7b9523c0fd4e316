//! Records gathered by a worker into chunks of at most [`ROWS_MAX`] rows or a second of packet time, then handed over
//! a single-producer ring. A worker of a live port never waits: a full ring sheds the chunk and counts its rows.

use crate::budget::{Budget, Detail, Rollups};
use crate::certificates::Certificates;
use crossbeam::queue::ArrayQueue;
use ringbuf::HeapProd;
use ringbuf::traits::Producer;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thymus_dissect::flow::NetworkTable;
use thymus_record::batch::{BYTES_MAX, ROWS_MAX};
use thymus_record::time::SECOND;
use thymus_record::{NetworkPath, Record, RecordSink, Time};

/// Empty vectors on their way back to the worker, so that it takes no fresh memory for its rows.
type Pool = Arc<ArrayQueue<Vec<Record>>>;

/// Vectors kept for later.
const POOLED: usize = 8;

/// Rows on their way to become a batch; their network numbers are positions in `networks`.
#[derive(Debug)]
pub struct Chunk {
    /// The rows.
    pub records: Vec<Record>,
    /// Their network paths.
    pub networks: Vec<NetworkPath>,
    pool: Pool,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut records = std::mem::take(&mut self.records);
        records.clear();
        let _ = self.pool.push(records);
    }
}

/// What a worker's records became, readable by all threads.
#[derive(Debug, Default)]
pub struct BatcherCounts {
    /// Rows made: rows of a flow that was rolled up are not made, their rollup is.
    pub made: AtomicU64,
    /// Rows given up because the forwarder did not keep up.
    pub shed_late: AtomicU64,
    /// Rows left out to keep the budget.
    pub shed_budget: AtomicU64,
}

/// A worker's record sink.
pub struct Batcher {
    rows: Vec<Record>,
    pool: Pool,
    estimate: usize,
    opened: Option<Time>,
    linger: u64,
    budget: Budget,
    rollups: Rollups,
    certificates: Certificates,
    outbox: HeapProd<Chunk>,
    waits: bool,
    counts: Arc<BatcherCounts>,
}

impl RecordSink for Batcher {
    fn emit(&mut self, record: Record) {
        if self.certificates.is_known(&record) {
            return;
        }
        let detail = self.budget.detail();
        match record {
            Record::Flow(flow) if Rollups::takes(detail, &flow) => self.rollups.add(&flow),
            Record::Dns(_) | Record::Tls(_) | Record::Http(_) | Record::Cert(_) if detail == Detail::Flows => {
                self.counts.made.fetch_add(1, Ordering::Relaxed);
                self.counts.shed_budget.fetch_add(1, Ordering::Relaxed);
            }
            record => self.keep(record),
        }
    }
}

impl Batcher {
    /// A batcher that hands chunks to `outbox`. With `waits` a full outbox is waited for (capture files), else shed.
    pub fn new(shard: u8, outbox: HeapProd<Chunk>, waits: bool) -> Batcher {
        Batcher {
            rows: Vec::with_capacity(2 * ROWS_MAX),
            pool: Arc::new(ArrayQueue::new(POOLED)),
            estimate: 0,
            opened: None,
            linger: SECOND,
            budget: Budget::default(),
            rollups: Rollups::new(shard),
            certificates: Certificates::default(),
            outbox,
            waits,
            counts: Arc::default(),
        }
    }

    /// Where others read what the records became.
    pub fn counts(&self) -> Arc<BatcherCounts> {
        Arc::clone(&self.counts)
    }

    /// A chunk that is not full is handed over after so much packet time, a second unless this is called.
    pub fn set_linger(&mut self, linger: u64) {
        self.linger = linger;
    }

    /// So many bytes passed on the wire.
    pub fn earn(&mut self, wire_bytes: u64) {
        self.budget.earn(wire_bytes);
    }

    fn keep(&mut self, record: Record) {
        self.budget.spend(&record);
        self.estimate += 64;
        self.rows.push(record);
        self.counts.made.fetch_add(1, Ordering::Relaxed);
    }

    /// Hands over what is due at this packet time. Called once a burst.
    pub fn turn(&mut self, now: Time, networks: &NetworkTable) {
        if self.rollups.is_due(now) {
            self.close_rollups();
        }
        if self.rows.is_empty() {
            return;
        }
        let opened = *self.opened.get_or_insert(now);
        if self.rows.len() >= ROWS_MAX || self.estimate >= BYTES_MAX || now.since(opened) >= self.linger {
            self.hand_over(networks);
        }
    }

    /// Hands over everything.
    pub fn finish(&mut self, networks: &NetworkTable) {
        self.close_rollups();
        self.hand_over(networks);
    }

    fn close_rollups(&mut self) {
        let mut rollups = std::mem::take(&mut self.rollups);
        rollups.close(|row| self.keep(row.into()));
        self.rollups = rollups;
    }

    fn hand_over(&mut self, networks: &NetworkTable) {
        self.opened = None;
        self.estimate = 0;
        while !self.rows.is_empty() {
            let mut rest = self.pool.pop().unwrap_or_else(|| Vec::with_capacity(2 * ROWS_MAX));
            rest.extend(self.rows.drain(ROWS_MAX.min(self.rows.len())..));
            let rows = std::mem::replace(&mut self.rows, rest);
            let chunk = self.chunk_of(rows, networks);
            self.send(chunk);
        }
    }

    fn send(&mut self, mut chunk: Chunk) {
        loop {
            match self.outbox.try_push(chunk) {
                Ok(()) => return,
                Err(back) if self.waits => {
                    chunk = back;
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
                Err(back) => {
                    self.counts.shed_late.fetch_add(back.records.len() as u64, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Gives the rows network numbers of their own chunk.
    fn chunk_of(&self, mut records: Vec<Record>, table: &NetworkTable) -> Chunk {
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let mut networks = Vec::new();
        let mut last = None;
        for record in &mut records {
            let number = record.network();
            let local = match last {
                Some((known, local)) if known == number => local,
                _ => *numbers.entry(number).or_insert_with(|| {
                    networks.push(table.path(number));
                    u32::try_from(networks.len() - 1).unwrap_or_default()
                }),
            };
            last = Some((number, local));
            record.set_network(local);
        }
        Chunk { records, networks, pool: Arc::clone(&self.pool) }
    }
}
