//! Packet → flow: the shard's table, TCP state with Zeek's semantics, timers, stream reassembly.
//!
//! A shard belongs to one worker. A burst is decoded whole, then hashed whole (the table's tags are loaded in a pass of
//! their own, so that cache misses overlap), then each packet updates its flow. Nothing allocates for a packet of an
//! established flow, and all memory has a limit that is fixed at the start.
//!
//! Every frame is counted in exactly one flow (the innermost) or as "no flow". A short flow has one row, its end;
//! a flow that lives on has an interim row every five minutes of packet time.

mod network;
mod key;
mod wheel;
mod table;
mod ports;
mod history;
mod tcp_end;
mod tcp;
mod stream;
mod fragment;
mod host;
mod weird;
mod entry;
mod transport;
mod shard;
mod own;
mod handover;

pub use key::{FlowKey, Side};
pub use network::{NetworkTable, Root, Roots};
pub use own::OwnEnds;
pub use shard::{FlowShard, FlowTag, ShardConfig, ShardCounters};
