//! Which MAC holds an address: from ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861 §4.3, §4.4), told when it is
//! new or changed, and again each hour.

use crate::decode::{Arp, Datagram, Icmp, Transport};
use std::collections::HashMap;
use thymus_record::table::{HostRow, HostSource};
use thymus_record::time::SECOND;
use thymus_record::{Address, Mac, RecordSink, Time};

/// Hosts remembered; beyond them facts are told again.
const HOSTS_MAX: usize = 65_536;
const AGAIN: u64 = 3_600 * SECOND;

/// Facts told so far.
#[derive(Default)]
pub(super) struct Hosts {
    told: HashMap<(u32, Address), (Mac, Time)>,
    ordinal: u32,
}

impl Hosts {
    /// A fact from ARP: the sender says what it holds, in a request too.
    pub(super) fn arp(&mut self, network: u32, arp: &Arp, now: Time, shard: u8, sink: &mut dyn RecordSink) {
        self.tell(network, (arp.sender, arp.sender_mac), HostSource::Arp, now, shard, sink);
    }

    /// A fact from neighbour discovery, if the packet is one: an advertisement's target, a solicitation's source.
    pub(super) fn neighbour(
        &mut self,
        network: u32,
        datagram: &Datagram<'_>,
        now: Time,
        shard: u8,
        sink: &mut dyn RecordSink,
    ) {
        let Transport::Icmp(icmp) = &datagram.transport else { return };
        if !datagram.v6 || datagram.ttl != 255 {
            return;
        }
        let (address, wanted) = match icmp.kind {
            136 => (target_of(icmp), 2),
            135 => (Some(datagram.source), 1),
            _ => return,
        };
        if let (Some(address), Some(mac)) = (address, link_layer_option(icmp, wanted)) {
            self.tell(network, (address, mac), HostSource::Nd, now, shard, sink);
        }
    }

    fn tell(
        &mut self,
        network: u32,
        (address, mac): (Address, Mac),
        source: HostSource,
        now: Time,
        shard: u8,
        sink: &mut dyn RecordSink,
    ) {
        let nobody = address.as_v4() == Some([0; 4]) || address == Address::default() || mac == Mac::default();
        let known =
            self.told.get(&(network, address)).is_some_and(|(before, at)| *before == mac && now.since(*at) < AGAIN);
        if nobody || known || mac.0[0] & 1 == 1 {
            return;
        }
        if self.told.len() >= HOSTS_MAX {
            self.told.clear();
        }
        self.told.insert((network, address), (mac, now));
        let row = HostRow {
            ts: now,
            network,
            address,
            mac: Some(mac),
            source,
            shard,
            ordinal: self.ordinal,
            ..HostRow::default()
        };
        self.ordinal += 1;
        sink.emit(row.into());
    }
}

fn target_of(icmp: &Icmp<'_>) -> Option<Address> {
    icmp.payload.first_chunk::<16>().copied().map(Address)
}

fn link_layer_option(icmp: &Icmp<'_>, wanted: u8) -> Option<Mac> {
    let mut options = icmp.payload.get(16..)?;
    while let [kind, length, ..] = *options {
        let length = usize::from(length) * 8;
        if length == 0 {
            return None;
        }
        let option = options.get(..length)?;
        if kind == wanted {
            return option.get(2..)?.first_chunk::<6>().copied().map(Mac);
        }
        options = options.get(length..)?;
    }
    None
}
