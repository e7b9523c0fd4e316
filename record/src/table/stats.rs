//! The ledger by port and minute of packet time, as deltas since the port's and minute's row before.

use crate::Time;
use crate::column::table;

table! {
    /// What became of the packets of one port in one minute. Bytes are wire lengths.
    Stats: StatsRow {
        /// The minute's start.
        1 ts: Time = "ts",
        /// Capture port.
        2 port: u16 = "port",
        /// Its name.
        3 port_name: String = "port_name",
        /// Number of this row in its port and minute, from 0.
        4 ordinal: u32 = "ordinal",
        /// Network path of the port, by number in this batch.
        5 network: u32 = "network",
        /// Packets at the source: received + missed.
        6 offered_pkts: u64 = "offered_pkts",
        /// Bytes at the source, as far as it counts them.
        7 offered_bytes: u64 = "offered_bytes",
        /// Packets dropped before us by NIC or kernel.
        8 missed_pkts: u64 = "missed_pkts",
        /// Their bytes, as far as the source counts them.
        9 missed_bytes: u64 = "missed_bytes",
        /// Packets that reached the sensor.
        10 received_pkts: u64 = "received_pkts",
        /// Their bytes.
        11 received_bytes: u64 = "received_bytes",
        /// Packets that went to their end: in the ring or not kept.
        12 stored_pkts: u64 = "stored_pkts",
        /// Their bytes.
        13 stored_bytes: u64 = "stored_bytes",
        /// Packets in the ring.
        14 in_ring_pkts: u64 = "in_ring_pkts",
        /// Their bytes.
        15 in_ring_bytes: u64 = "in_ring_bytes",
        /// Packets not kept by a rule, or for want of a ring.
        16 not_kept_pkts: u64 = "not_kept_pkts",
        /// Their bytes.
        17 not_kept_bytes: u64 = "not_kept_bytes",
        /// Packets removed as duplicates.
        18 duplicate_pkts: u64 = "duplicate_pkts",
        /// Their bytes.
        19 duplicate_bytes: u64 = "duplicate_bytes",
        /// Packets removed by a filter, or our own transport.
        20 filtered_pkts: u64 = "filtered_pkts",
        /// Their bytes.
        21 filtered_bytes: u64 = "filtered_bytes",
        /// Packets given up under load or for a late disk.
        22 shed_pkts: u64 = "shed_pkts",
        /// Their bytes.
        23 shed_bytes: u64 = "shed_bytes",
        /// Packets that the source could not deliver whole.
        24 error_pkts: u64 = "error_pkts",
        /// Their bytes.
        25 error_bytes: u64 = "error_bytes",
        /// Bytes that truncation took.
        26 cut_bytes: u64 = "cut_bytes",
        /// Packets that belong to no flow (ARP, LLDP, damaged heads): with the flow rows they add up to received.
        27 no_flow_pkts: u64 = "no_flow_pkts",
        /// Their bytes.
        28 no_flow_bytes: u64 = "no_flow_bytes",
        /// Records made in this span.
        29 records_made: u64 = "records_made",
        /// Records shed in this span.
        30 records_shed: u64 = "records_shed",
        /// Encoded bytes of batches in this span.
        31 metadata_bytes: u64 = "metadata_bytes",
    }
}
