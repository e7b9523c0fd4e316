//! Facts about hosts: which MAC holds an address, and what it calls itself.

use crate::column::{table, text_enum};
use crate::{Address, Mac, Time};

text_enum! {
    /// What a fact was learnt from.
    pub enum HostSource {
        /// ARP (RFC 826).
        Arp = "arp",
        /// IPv6 neighbour discovery (RFC 4861).
        Nd = "nd",
        /// DHCP (RFC 2131).
        Dhcp = "dhcp",
        /// Multicast DNS.
        Mdns = "mdns",
    }
}

table! {
    /// A fact about a host, told when it is new or changed, and again each hour that it holds.
    Host: HostRow {
        /// When it was seen.
        1 ts: Time = "ts",
        /// Network path, by number in this batch.
        2 network: u32 = "network",
        /// The host's address.
        3 address: Address = "address",
        /// The MAC that claims it.
        4 mac: Option<Mac> = "mac",
        /// The name that the host gives itself.
        5 name: Option<String> = "name",
        /// What it was learnt from.
        6 source: HostSource = "source",
        /// Flow shard that saw it.
        7 shard: u8 = "shard",
        /// Number of this row in its shard and table, from 0.
        8 ordinal: u32 = "ordinal",
        /// From an OS-sensor that has not this address: forged, or overheard.
        9 unverified: Option<bool> = "unverified",
    }
}
