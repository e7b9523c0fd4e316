//! A question for packets, and what was found.

use crate::Time;
use serde::{Deserialize, Serialize};

/// Which packets to fetch from a sensor's ring.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PcapQuery {
    /// From this time on, inclusive.
    pub from: Option<Time>,
    /// Until this time, inclusive.
    pub until: Option<Time>,
    /// A packet filter (tcpdump subset), empty for all packets.
    pub filter: String,
    /// The flow asked for. Holds beside the filter.
    pub flow: Option<FlowMatch>,
    /// Network paths (text form) that the asker may see; `None` is all, an empty list none.
    pub scope: Option<Vec<String>>,
    /// Stop after this many bytes of packets; 0 is no limit.
    pub bytes_max: u64,
}

/// One flow's packets, by what its packets show.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowMatch {
    /// Network path, text form.
    pub network: String,
    /// An end's address, text form.
    pub a: String,
    /// Its port; ICMP: 0.
    pub a_port: u16,
    /// The other end's address.
    pub b: String,
    /// Its port; ICMP: 0.
    pub b_port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// The flow's last packet: a SYN after it begins another flow with the same ends.
    pub last: Option<Time>,
}

/// What a query found.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryReport {
    /// Packets given.
    pub packets: u64,
    /// Their captured bytes.
    pub bytes: u64,
    /// The oldest packet that the ring still holds.
    pub oldest: Option<Time>,
    /// Why the answer is not whole, if it is not.
    pub cut_short: Option<String>,
}
