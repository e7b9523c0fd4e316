//! DNS transactions (RFC 1035): a query with its answer, where both were seen.

use crate::column::{Proto, table};
use crate::{Address, Time};

table! {
    /// A DNS query with its answer.
    Dns: DnsRow {
        /// The query, or the answer where no query was seen.
        1 ts: Time = "ts",
        /// Flow shard, part of the uid.
        2 shard: u8 = "shard",
        /// Number of the flow in its shard, part of the uid.
        3 sequence: u64 = "sequence",
        /// Number of this row in its flow and table, from 0.
        4 ordinal: u32 = "ordinal",
        /// Network path, by number in this batch.
        5 network: u32 = "network",
        /// Originator's address.
        6 orig_h: Address = "id.orig_h",
        /// Originator's port.
        7 orig_p: u16 = "id.orig_p",
        /// Responder's address.
        8 resp_h: Address = "id.resp_h",
        /// Responder's port.
        9 resp_p: u16 = "id.resp_p",
        /// IP protocol.
        10 proto: Proto = "proto",
        /// Transaction id.
        11 trans_id: u16 = "trans_id",
        /// From query to answer, in nanoseconds.
        12 rtt: Option<Time> = "rtt",
        /// Name asked for, escaped to printable UTF-8, at most 255 bytes of name.
        13 query: Option<String> = "query",
        /// Class asked for.
        14 qclass: Option<u16> = "qclass",
        /// Type asked for.
        15 qtype: Option<u16> = "qtype",
        /// Zeek's name of the type asked for.
        16 qtype_name: Option<String> = "qtype_name",
        /// Response code.
        17 rcode: Option<u16> = "rcode",
        /// Zeek's name of the response code.
        18 rcode_name: Option<String> = "rcode_name",
        /// Authoritative answer.
        19 aa: bool = "AA",
        /// Truncated.
        20 tc: bool = "TC",
        /// Recursion desired.
        21 rd: bool = "RD",
        /// Recursion available.
        22 ra: bool = "RA",
        /// The reserved bits.
        23 z: u8 = "Z",
        /// Answers, as text.
        24 answers: Vec<String> = "answers",
        /// Time to live of each answer, in seconds.
        25 ttls: Vec<u64> = "TTLs",
        /// The server refused.
        26 rejected: bool = "rejected",
        /// Its answer, or the query where none came, is from an OS-sensor that owns neither end: forged, or forwarded.
        27 unverified: Option<bool> = "unverified",
    }
}
