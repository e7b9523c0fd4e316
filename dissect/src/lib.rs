//! Bytes become records: frames are decoded, packets join flows, streams are read by extractors.
//!
//! No clock, thread or I/O; works in memory lent to it at start; whatever the packets hold, it neither panics nor grows.
#![forbid(unsafe_code)]

/// A frame as its source lends it.
pub mod frame;
/// Frame → packet: link layers, tunnels, IP, transport.
pub mod decode;
/// Which frames: a subset of tcpdump's filter language over the decoder.
pub mod filter;
/// Classic BPF, for where no kernel runs it.
pub mod bpf;
/// Packet → flow: the shard's table, TCP state with Zeek's semantics, timers, stream reassembly.
pub mod flow;
/// Stream → record: one folder a protocol.
pub mod extract;

pub use frame::{Frame, LinkType, Origin};
