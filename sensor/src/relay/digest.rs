//! A packet's keyed digest, by which the copies of several witnesses are known.

use thymus_dissect::decode::{Content, Packet, Transport};
use thymus_witness::ends_of;

/// Beside the secret seed.
const SECOND_KEY: u64 = 0xe703_7ed1_a0b4_28db;

/// A keyed digest of a packet: what a router or NIC changes on the way (link layer, TTL, checksums) is left out.
pub(super) fn digest(seed: u64, bytes: &[u8], packet: &Packet<'_>) -> u64 {
    let (Content::Ip(datagram), Some(ends)) = (&packet.content, ends_of(packet)) else {
        return crate::duplicate::hash_of([seed, SECOND_KEY], bytes);
    };
    let ends = thymus_witness::flow_hash(seed, &ends);
    let about = (u64::from(datagram.id) << 32 | u64::from(datagram.ip_len)) ^ ends.rotate_left(17);
    let behind = match &datagram.transport {
        Transport::Tcp(tcp) => {
            let head = u64::from(tcp.seq) << 32 | u64::from(tcp.ack);
            crate::duplicate::hash_of([seed ^ head, u64::from(tcp.flags.0) << 16 | u64::from(tcp.window)], tcp.payload)
        }
        Transport::Udp(udp) => crate::duplicate::hash_of([seed, SECOND_KEY], udp.payload),
        _ => {
            let at = datagram.fragment.map_or(0, |fragment| fragment.offset);
            let data = datagram.bytes.get(if datagram.v6 { 40 } else { 20 }..).unwrap_or_default();
            crate::duplicate::hash_of([seed, u64::from(at)], data)
        }
    };
    about ^ behind
}
