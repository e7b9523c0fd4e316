//! What of a packet counts between witnesses.

use crate::choice::Ends;
use thymus_dissect::decode::{Content, Datagram, Packet, Transport};
use thymus_dissect::flow::FlowKey;
use thymus_record::column::Proto;
use thymus_record::message::Passed;

/// What decides who sends a packet; `None` where nothing does, and every witness sends. Fragments go by their addresses
/// alone, so that all of a datagram go one way.
pub fn ends_of(packet: &Packet<'_>) -> Option<Ends> {
    match &packet.content {
        Content::Ip(datagram) => Some(of_datagram(datagram)),
        Content::Arp(arp) => {
            Some(Ends { source: arp.sender, target: arp.target, source_port: 0, target_port: 0, proto: 0 })
        }
        Content::Other => None,
    }
}

fn of_datagram(datagram: &Datagram<'_>) -> Ends {
    let (source_port, target_port) = match &datagram.transport {
        _ if datagram.fragment.is_some() => (0, 0),
        Transport::Tcp(tcp) => (tcp.source, tcp.target),
        Transport::Udp(udp) => (udp.source, udp.target),
        _ => (0, 0),
    };
    let proto = if datagram.fragment.is_some() { 0 } else { datagram.proto.0 };
    Ends { source: datagram.source, target: datagram.target, source_port, target_port, proto }
}

/// The same of a flow, by its key.
pub fn ends_of_flow(key: &FlowKey) -> Ends {
    let has_ports = matches!(key.proto, Proto::TCP | Proto::UDP);
    let (source_port, target_port) = if has_ports { (key.a_port, key.b_port) } else { (0, 0) };
    Ends { source: key.a, target: key.b, source_port, target_port, proto: key.proto.0 }
}

/// What a packet adds to what passed: the same however a segment was cut or put together on its way.
pub fn passed_of(packet: &Packet<'_>) -> Passed {
    let bytes = match &packet.content {
        Content::Ip(datagram) => payload_of(datagram),
        Content::Arp(_) | Content::Other => 0,
    };
    Passed { bytes, packets: u64::from(bytes > 0), bare: u64::from(bytes == 0) }
}

fn payload_of(datagram: &Datagram<'_>) -> u64 {
    let behind = |head: u32| u64::from(datagram.ip_len.saturating_sub(head));
    match (&datagram.transport, datagram.fragment) {
        (_, Some(fragment)) => behind(u32::from(fragment.data_at)),
        (Transport::Tcp(tcp), _) => u64::from(tcp.payload_len),
        (Transport::Udp(udp), _) => u64::from(udp.payload_len),
        _ => behind(if datagram.v6 { 40 } else { 20 }),
    }
}
