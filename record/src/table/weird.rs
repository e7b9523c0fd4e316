//! Protocol oddities, counted, at most one row a name, flow and minute.

use crate::column::table;
use crate::{Address, Time};

table! {
    /// Something that a protocol does not allow.
    Weird: WeirdRow {
        /// When it was first seen in its minute.
        1 ts: Time = "ts",
        /// Flow shard.
        2 shard: u8 = "shard",
        /// Number of the flow in its shard, if it belongs to one.
        3 sequence: Option<u64> = "sequence",
        /// Number of this row in its shard and table, from 0.
        4 ordinal: u32 = "ordinal",
        /// Network path, by number in this batch.
        5 network: u32 = "network",
        /// Source address, where there is one.
        6 orig_h: Option<Address> = "id.orig_h",
        /// Target address.
        7 resp_h: Option<Address> = "id.resp_h",
        /// What is odd, by Zeek's name where Zeek has one.
        8 name: String = "name",
        /// How often it was seen since the row before.
        9 count: u64 = "count",
    }
}
