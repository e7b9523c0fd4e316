//! Primitives: what one layer is asked.

use crate::Frame;
use crate::decode::{Arp, Datagram, Transport};
use thymus_record::column::Proto;
use thymus_record::{Address, Layer, Mac};

pub(super) const SCTP: Proto = Proto(132);

/// Which end must match.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) enum Side {
    #[default]
    Either,
    Source,
    Target,
}

impl Side {
    fn any<T>(self, source: T, target: T, is_met: impl Fn(T) -> bool) -> bool {
        match self {
            Side::Either => is_met(source) || is_met(target),
            Side::Source => is_met(source),
            Side::Target => is_met(target),
        }
    }
}

/// The protocol that an address stands in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
    Arp,
}

/// Addresses with the same first bits, IPv4 counted within the mapped form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Net {
    pub(super) base: u128,
    pub(super) mask: u128,
    pub(super) v6: bool,
}

impl Net {
    /// The net of `address` and its first `bits` bits (0–32 for IPv4, 0–128 for IPv6); `None` for more bits.
    pub(super) fn new(address: Address, bits: u32) -> Option<Net> {
        let v6 = address.as_v4().is_none();
        let host_bits = if v6 { 128u32 } else { 32 }.checked_sub(bits)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Net { base: u128::from_be_bytes(address.0) & mask, mask, v6 })
    }

    fn has(&self, address: Address) -> bool {
        u128::from_be_bytes(address.0) & self.mask == self.base
    }

    /// The address, if the net is a single one.
    pub(super) fn single(&self) -> Option<Address> {
        (self.mask == u128::MAX).then_some(Address(self.base.to_be_bytes()))
    }
}

/// A primitive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Test {
    Host { family: Option<Family>, side: Side, net: Net },
    Port { proto: Option<Proto>, side: Side, low: u16, high: u16 },
    Family(Family),
    Proto { family: Option<Family>, proto: Proto },
    Ether { side: Side, mac: Mac },
    Vlan(Option<u16>),
    Vni(Option<u32>),
    AtMost(u32),
    AtLeast(u32),
}

impl Test {
    pub(super) fn is_frame(&self, frame: &Frame<'_>) -> bool {
        match self {
            Test::AtMost(bytes) => frame.wire_len <= *bytes,
            Test::AtLeast(bytes) => frame.wire_len >= *bytes,
            _ => false,
        }
    }

    pub(super) fn is_ethernet(&self, source: Mac, target: Mac) -> bool {
        matches!(self, Test::Ether { side, mac } if side.any(source, target, |end| end == *mac))
    }

    pub(super) fn is_layer(&self, layer: Layer) -> bool {
        match (self, layer) {
            (Test::Vlan(wanted), Layer::Vlan(id)) => wanted.is_none_or(|wanted| wanted == id),
            (Test::Vni(wanted), Layer::Vxlan(id) | Layer::Geneve(id) | Layer::Nvgre(id)) => {
                wanted.is_none_or(|wanted| wanted == id)
            }
            (Test::Vni(None), Layer::Gwlb(_)) => true,
            _ => false,
        }
    }

    pub(super) fn is_datagram(&self, datagram: &Datagram<'_>, ports: Option<(u16, u16)>) -> bool {
        let of_family = |family: &Option<Family>| match family {
            None => true,
            Some(Family::V4) => !datagram.v6,
            Some(Family::V6) => datagram.v6,
            Some(Family::Arp) => false,
        };
        match self {
            Test::Host { family, side, net } => {
                let ends = side.any(datagram.source, datagram.target, |end| net.has(end));
                ends && datagram.v6 == net.v6 && of_family(family)
            }
            Test::Port { proto, side, low, high } => ports.is_some_and(|(source, target)| {
                proto.is_none_or(|proto| proto == datagram.proto)
                    && side.any(source, target, |port| (*low..=*high).contains(&port))
            }),
            Test::Family(family) => of_family(&Some(*family)),
            Test::Proto { family, proto } => datagram.proto == *proto && of_family(family),
            _ => false,
        }
    }

    pub(super) fn is_arp(&self, arp: &Arp) -> bool {
        match self {
            Test::Host { family: None | Some(Family::Arp), side, net } => {
                !net.v6 && side.any(arp.sender, arp.target, |end| net.has(end))
            }
            Test::Family(Family::Arp) => true,
            _ => false,
        }
    }
}

/// The ports of a packet, also of a first fragment and of SCTP, which stand first in each of these transports.
pub(super) fn ports(datagram: &Datagram<'_>) -> Option<(u16, u16)> {
    let head = match (datagram.transport, datagram.fragment) {
        (Transport::Tcp(tcp), _) => return Some((tcp.source, tcp.target)),
        (Transport::Udp(udp), _) => return Some((udp.source, udp.target)),
        (Transport::Other(head), _) if datagram.proto == SCTP => head,
        (Transport::Fragment, Some(fragment))
            if fragment.offset == 0 && [Proto::TCP, Proto::UDP, SCTP].contains(&datagram.proto) =>
        {
            datagram.bytes.get(usize::from(fragment.data_at)..)?
        }
        _ => return None,
    };
    let [s0, s1, t0, t1] = *head.first_chunk::<4>()?;
    Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([t0, t1])))
}
