//! Flows rolled up to keep the metadata budget: many small flows of one pattern in one row.

use crate::column::{Proto, table};
use crate::{Address, Time};

table! {
    /// Flows of one originator, protocol, responder port and state, summed over up to a minute.
    Rollup: RollupRow {
        /// First packet.
        1 ts: Time = "ts",
        /// Flow shard.
        2 shard: u8 = "shard",
        /// Number of this row in its shard and table, from 0.
        3 ordinal: u32 = "ordinal",
        /// Network path, by number in this batch.
        4 network: u32 = "network",
        /// Last packet.
        5 until: Time = "until",
        /// Originator's address.
        6 orig_h: Address = "id.orig_h",
        /// Responder's port.
        7 resp_p: u16 = "id.resp_p",
        /// IP protocol.
        8 proto: Proto = "proto",
        /// Zeek's summary that all these flows share.
        9 conn_state: String = "conn_state",
        /// How many flows.
        10 flows: u64 = "flows",
        /// Responders, as text, at most 64 and then `…`.
        11 responders: Vec<String> = "responders",
        /// Packets, both ways.
        12 pkts: u64 = "pkts",
        /// Frames, both ways: they add up to the packets received.
        13 frames: u64 = "frames",
        /// Frame bytes on the wire: they add up to the bytes received.
        14 wire_bytes: u64 = "wire_bytes",
    }
}
