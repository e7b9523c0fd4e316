//! Records on their way out: batched beside the poll loop, kept within the budget, encoded and spooled by a thread of
//! their own.

/// The 1 % budget, and rows rolled up to keep it.
pub mod budget;
/// Records gathered by a worker into chunks.
pub mod batcher;
/// Chunks encoded into batches and handed to the spool.
pub mod forwarder;

pub use batcher::{Batcher, Chunk};
pub use budget::Budget;
pub use forwarder::{Forwarder, Outlet, RecordCounts};
