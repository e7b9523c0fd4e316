//! What callers hand in and get back.

use serde_json::value::RawValue;
use std::path::PathBuf;
use std::sync::Arc;
use thymus_record::batch::{Batch, BatchError};
use thymus_record::column::Proto;
use thymus_record::{Address, FlowUid, NetworkPath, Scope, Table, Time};

/// Limits of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Most bytes on disk; the oldest files by arrival go first.
    pub bytes_max: u64,
    /// Rows kept in memory before they are written as files.
    pub memory_rows_max: usize,
    /// Bytes of the journal kept behind the last flush, from which derived state is rebuilt at a start.
    pub journal_tail_bytes: u64,
    /// Conversations remembered to join what several sensors saw.
    pub conversations_max: usize,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            bytes_max: 32 << 30,
            memory_rows_max: 200_000,
            journal_tail_bytes: 16 << 20,
            conversations_max: 400_000,
        }
    }
}

/// When and from whom a batch came.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Arrival {
    /// The master's wall time.
    pub time: Time,
    /// The sensor's name, for people.
    pub sensor_name: String,
    /// The sensor's group.
    pub group: String,
}

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingested {
    /// Stored.
    New,
    /// Already held; nothing was done, and it may be acknowledged again.
    SeenBefore,
    /// The same sequence with other content: stored under a boot that the store assigned.
    Fork,
}

/// How a row takes part in its conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Counts in volumes, rates and detectors.
    pub primary: bool,
    /// The conversation that the row belongs to, if another flow began it: start and uid of that flow.
    pub joined: Option<(Time, FlowUid)>,
}

/// A batch as it was stored, for whoever derives state from rows.
#[derive(Clone, Debug)]
pub struct IngestedBatch {
    /// Where it begins in the journal; positions only grow.
    pub position: u64,
    /// Its rows; a fork carries its assigned boot in the head.
    pub batch: Batch,
    /// When and from whom it came.
    pub arrival: Arrival,
    /// One mark for each record.
    pub marks: Vec<Mark>,
}

/// A question for one page of a table.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which table; [`Table::Flow`] gives whole flows.
    pub table: Table,
    /// What the asker may see.
    pub scope: Scope,
    /// The query language's text.
    pub q: Option<String>,
    /// Rows and flows whose `ts` is not before this.
    pub from: Option<Time>,
    /// Rows and flows whose `ts` is before this.
    pub to: Option<Time>,
    /// Most items; above 1,000 is cut to 1,000.
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// One page, by `ts` descending, then uid.
#[derive(Clone, Debug)]
pub struct Page {
    /// JSON objects, numbers as Zeek prints them.
    pub items: Vec<Box<RawValue>>,
    /// The next page's cursor, if there may be more.
    pub next: Option<String>,
}

/// A flow, as far as fetching its packets needs it.
#[derive(Clone, PartialEq, Debug)]
pub struct FlowDetail {
    /// The conversation's uid.
    pub uid: FlowUid,
    /// Its network.
    pub network: NetworkPath,
    /// Originator's address and port.
    pub orig: (Address, u16),
    /// Responder's address and port.
    pub resp: (Address, u16),
    /// IP protocol.
    pub proto: Proto,
    /// First packet.
    pub first: Time,
    /// Last packet so far.
    pub last: Time,
    /// Every sensor that saw it, by id and name, the primary first.
    pub sensors: Vec<(thymus_record::SensorId, String)>,
}

/// What an endpoint moved in one span of time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct VolumeBucket {
    /// Start of the span.
    pub ts: Time,
    /// IP bytes towards the endpoint.
    pub in_bytes: u64,
    /// IP bytes from the endpoint.
    pub out_bytes: u64,
    /// Flows that began in the span.
    pub flows: u64,
}

/// Whom an endpoint talked to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The other end.
    pub address: Address,
    /// IP bytes both ways.
    pub bytes: u64,
    /// Flows.
    pub flows: u64,
    /// The responder's ports, lowest first, 16 at most.
    pub ports: Vec<u16>,
}

/// What the store holds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Batches stored since the start.
    pub batches: u64,
    /// Batches that were already held.
    pub seen_before: u64,
    /// Forked batches.
    pub forks: u64,
    /// Rows in memory, not yet in files.
    pub memory_rows: u64,
    /// Rows in files.
    pub file_rows: u64,
    /// Files in force.
    pub files: u64,
    /// Bytes on disk, journal and files.
    pub bytes: u64,
    /// Rows dropped by retention since the start.
    pub rows_retired: u64,
}

/// Something that people should hear of.
#[derive(Clone, PartialEq, Debug)]
pub enum StoreEvent {
    /// The journal ended in the middle of a batch that was never acknowledged; it was cut.
    TornTail {
        /// Bytes cut.
        bytes: u64,
    },
    /// The disk budget is spent: the oldest rows by arrival were dropped.
    Retired {
        /// Rows dropped.
        rows: u64,
        /// Bytes freed.
        bytes: u64,
        /// Their newest arrival.
        arrived: Time,
    },
    /// A sensor's boot came with two contents for one sequence.
    Fork {
        /// The sensor.
        sensor: thymus_record::SensorId,
        /// The boot that forked.
        boot: thymus_record::BootId,
        /// The boot assigned.
        assigned: thymus_record::BootId,
    },
    /// Flush, compaction or retention failed; it is tried again.
    Failed(Arc<str>),
}

/// The store cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder belongs to something else.
    #[error("{0} is not a store of this software: {1}; choose an empty folder or restore a backup")]
    Foreign(PathBuf, String),
    /// Another process has it open.
    #[error("{0} is in use by another process; stop it first")]
    InUse(PathBuf),
    /// The bytes are not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The disk is full.
    #[error("the disk of {0} is full; nothing more is stored until there is room, reading goes on")]
    Full(PathBuf),
    /// Reading or writing failed.
    #[error("{what}: {error}")]
    Io {
        /// What was done, with the path.
        what: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// A file's content is damaged.
    #[error("{0}: {1}")]
    Parquet(PathBuf, String),
}

/// The question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The question is wrong; the text says where.
    #[error("{0}")]
    Bad(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
