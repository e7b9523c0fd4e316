//! The vSensor: packets in at a port, packets to the ring, metadata to the master. Modules in the order of the data.
#![deny(unsafe_code)]

/// Where packets come from: DPDK, AF_PACKET, capture files, the generator.
pub mod source;
/// The rolling capture: staging, slots, index, queries.
pub mod ring;
/// The one clock.
pub mod clock;
/// Memory that is not Rust's own.
pub mod memory;
/// What became of each packet.
pub mod counters;
/// `read`: capture files to Zeek logs or JSON lines.
pub mod read;
