//! Records on their way out, of a vSensor and of an OS-sensor in metadata mode: batched beside the packet loop, kept
//! within the budget, encoded and spooled by a thread of their own.
#![forbid(unsafe_code)]

/// Certificates told so far.
pub mod certificates;
/// The 1 % budget, and rows rolled up to keep it.
pub mod budget;
/// Records gathered by a worker into chunks.
pub mod batcher;
/// Who holds the ends of flows.
pub mod owners;
/// Chunks encoded into batches and handed to the spool.
pub mod forwarder;

pub use batcher::{Batcher, Chunk};
pub use budget::Budget;
pub use certificates::Certificates;
pub use forwarder::{Forwarder, Outlet, RecordCounts};
pub use owners::SharedOwners;
