//! The frame that most are: Ethernet, at most one VLAN tag, IP without options, TCP or UDP, whole and no tunnel.
//!
//! It is read in one expression, so that each field is written once to its last place; the walk, which takes a frame
//! head by head, is several times slower. Whatever is unusual is left to the walk, and both must agree (a test).

use super::{Content, Datagram, Layers, Packet, Transport, Weird, link, transport, tunnel};
use crate::{Frame, LinkType};
use thymus_record::column::Proto;
use thymus_record::{Address, Layer};

const VERSION_AND_LENGTH: u8 = 0x45;

#[inline(always)]
pub(super) fn read<'a>(frame: &Frame<'a>) -> Option<Packet<'a>> {
    if frame.link != LinkType::Ethernet {
        return None;
    }
    let (ends, rest) = frame.bytes.split_first_chunk::<12>()?;
    let (ether_type, mut rest) = rest.split_first_chunk::<2>()?;
    let mut ether_type = u16::from_be_bytes(*ether_type);
    let mut layers = Layers::default();
    if ether_type == link::VLAN {
        let (&[v0, v1, y0, y1], behind) = rest.split_first_chunk::<4>()?;
        let id = u16::from_be_bytes([v0, v1]) & 0x0fff;
        if id != 0 {
            layers.push(Layer::Vlan(id));
        }
        ether_type = u16::from_be_bytes([y0, y1]);
        rest = behind;
    }
    let datagram = match ether_type {
        link::IPV4 => v4(rest)?,
        link::IPV6 => v6(rest)?,
        _ => return None,
    };
    let mut packet =
        Packet { layers, tunnel: None, macs: None, content: Content::Ip(datagram), weird: Weird::default() };
    link::write_macs(&mut packet.macs, ends);
    Some(packet)
}

/// An IPv4 packet without options that is whole and no fragment.
#[inline(always)]
pub(super) fn v4(bytes: &[u8]) -> Option<Datagram<'_>> {
    let (head, _) = bytes.split_first_chunk::<20>()?;
    let (&[version, _, l0, l1, i0, i1, f0, f1, ttl, proto, _, _], ends) = head.split_first_chunk::<12>()?;
    // "Don't fragment" alone may be set.
    if version != VERSION_AND_LENGTH || u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
        return None;
    }
    let ip_len = u16::from_be_bytes([l0, l1]);
    let bytes = bytes.get(..usize::from(ip_len))?;
    Some(Datagram {
        source: Address::from_v4(*ends.first_chunk::<4>()?),
        target: Address::from_v4(*ends.last_chunk::<4>()?),
        v6: false,
        proto: Proto(proto),
        ttl,
        id: u32::from(u16::from_be_bytes([i0, i1])),
        ip_len: u32::from(ip_len),
        fragment: None,
        transport: transport(Proto(proto), bytes.get(20..)?, u32::from(ip_len) - 20)?,
        bytes,
    })
}

/// An IPv6 packet without extension heads that is whole.
#[inline(always)]
pub(super) fn v6(bytes: &[u8]) -> Option<Datagram<'_>> {
    let (&[version, _, _, _, l0, l1, next, ttl], rest) = bytes.split_first_chunk::<8>()?;
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (target, data) = rest.split_first_chunk::<16>()?;
    let data_len = u16::from_be_bytes([l0, l1]);
    if version >> 4 != 6 || data_len == 0 {
        return None;
    }
    Some(Datagram {
        source: Address(*source),
        target: Address(*target),
        v6: true,
        proto: Proto(next),
        ttl,
        id: 0,
        ip_len: u32::from(data_len) + 40,
        fragment: None,
        transport: transport(Proto(next), data.get(..usize::from(data_len))?, u32::from(data_len))?,
        bytes: bytes.get(..usize::from(data_len) + 40)?,
    })
}

#[inline(always)]
fn transport(proto: Proto, data: &[u8], data_len: u32) -> Option<Transport<'_>> {
    match proto {
        Proto::TCP => transport::tcp(data, data_len).map(Transport::Tcp),
        Proto::UDP => {
            let mut weird = Weird::default();
            let udp = transport::udp(data, data_len, &mut weird)?;
            (weird == Weird::default() && !tunnel::may_be_in(&udp)).then_some(Transport::Udp(udp))
        }
        _ => None,
    }
}
