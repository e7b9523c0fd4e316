//! Self-contained columnar batches: no shared state, so loss, spooling and reconnects need none.

use crate::{BootId, NetworkPath, Record, SensorId};

/// A batch closes at this many rows.
pub const ROWS_MAX: usize = 1_000;
/// A batch closes when its rows are estimated at this many encoded bytes.
pub const BYTES_MAX: usize = 64 * 1024;

/// Who made a batch, and the paths that its rows' network numbers stand for.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Head {
    /// The sensor.
    pub sensor: SensorId,
    /// Its run.
    pub boot: BootId,
    /// Counts the batches of this boot, from 0.
    pub sequence: u64,
    /// Network paths; a row's `network` is a position here.
    pub networks: Vec<NetworkPath>,
}

/// A batch, decoded.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Batch {
    /// Who made it.
    pub head: Head,
    /// Its rows, by table, each table in the order made.
    pub records: Vec<Record>,
}

/// The bytes are not a batch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// Ends early, or a length points outside.
    #[error("the batch ends inside its {0}")]
    Truncated(&'static str),
    /// Not a batch at all.
    #[error("not a batch: it does not start with the batch magic")]
    Foreign,
    /// The CRC does not match.
    #[error("the batch is damaged: its CRC does not match")]
    Damaged,
    /// A format that this build cannot read.
    #[error("batch format {0} is newer than this software; upgrade it")]
    Newer(u16),
    /// A length or count beyond its bound.
    #[error("the batch claims {what} {claimed}, more than the {bound} allowed")]
    Oversized {
        /// Which length.
        what: &'static str,
        /// The claim.
        claimed: u64,
        /// The bound.
        bound: u64,
    },
    /// A value that its column cannot hold.
    #[error("the batch holds a value that does not fit column {0}")]
    Misfit(&'static str),
}
