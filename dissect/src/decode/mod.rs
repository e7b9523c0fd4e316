//! Frame → packet. A [`Packet`] exists only for what was checked; its fields cannot fail.
//!
//! Decoding is a walk from head to head, not a recursion: each head names the next one, and the walk ends after
//! [`HEADS_MAX`] heads or [`TUNNELS_MAX`] tunnels. What comes out is the innermost packet that could be read. A tunnel
//! whose inside cannot be read, or is no packet of ours, counts as the packet that carries it.
//!
//! Lengths are the headers', payloads are what was captured; a checksum never makes a packet invalid, since virtual
//! machines on one host leave them to a NIC that does not exist.

mod packet;
mod plain;
mod link;
mod label;
mod ip;
mod extension;
mod transport;
mod tunnel;
mod gre;
mod checksum;
#[cfg(test)]
mod tests;

pub use packet::{
    Arp, Content, Datagram, Fragment, Icmp, LAYERS_MAX, Layers, Packet, Tcp, TcpFlags, Transport, Tunnel, TunnelKind,
    Udp, Weird,
};

use crate::{Frame, LinkType};
use thymus_record::{Address, Layer, Mac};

/// Most tunnels inside one another; what lies deeper counts as the packet that carries it.
pub const TUNNELS_MAX: u8 = 4;

/// Most link, label and IP heads in one frame.
pub const HEADS_MAX: usize = 32;

/// Who wants to see what lies on the way, not only the innermost packet. Calls come from the outermost in; what a
/// tunnel that turns out to be damaged held is shown too.
pub trait Visit {
    /// An Ethernet head.
    fn ethernet(&mut self, _source: Mac, _target: Mac) {}
    /// An encapsulation id.
    fn layer(&mut self, _layer: Layer) {}
    /// An IP packet, a tunnel's carrier included.
    fn datagram(&mut self, _datagram: &Datagram<'_>) {}
    /// An ARP packet.
    fn arp(&mut self, _arp: &Arp) {}
}

impl Visit for () {}

/// Decodes a frame as far as it can be.
#[inline]
pub fn decode<'a>(frame: &Frame<'a>) -> Packet<'a> {
    match plain::read(frame) {
        Some(packet) => packet,
        None => walk(frame, &mut ()),
    }
}

/// Decodes a frame and shows `visit` each head on the way.
pub fn walk<'a, V: Visit>(frame: &Frame<'a>, visit: &mut V) -> Packet<'a> {
    let captured = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
    let mut packet = Packet::default();
    let mut state = State::new(&mut packet, frame.wire_len.saturating_sub(captured), visit);
    let first = match frame.link {
        LinkType::Ethernet => Next::Ethernet(frame.bytes),
        LinkType::Ip => Next::Ip(frame.bytes),
        LinkType::LinuxSll => link::linux_sll(frame.bytes),
        LinkType::LinuxSll2 => link::linux_sll2(frame.bytes),
        LinkType::Loopback => link::loopback(frame.bytes),
        LinkType::Ppp => Next::Ppp(frame.bytes),
        LinkType::Unknown(_) => Next::Damaged(Weird::LINK_UNKNOWN),
    };
    state.run(first);
    packet
}

/// Decodes an IP datagram put together from fragments; layers, MACs and tunnel are `outer`'s, those of a fragment.
///
/// `bytes` is the head of the first fragment (its bytes before [`Fragment::data_at`]) followed by the data. Its length
/// counts, not the one in the head, and fields that say "fragment" are taken as dealt with.
pub fn decode_datagram<'a>(bytes: &'a [u8], outer: &Packet<'_>) -> Packet<'a> {
    let Packet { layers, tunnel, macs, .. } = *outer;
    let mut packet = Packet { layers, tunnel, macs, content: Content::Other, weird: Weird::default() };
    let mut visit = ();
    let mut state = State::new(&mut packet, 0, &mut visit);
    state.whole = true;
    state.run(Next::Ip(bytes));
    packet
}

/// What a head says comes next.
enum Next<'a> {
    /// An Ethernet frame.
    Ethernet(&'a [u8]),
    /// What an EtherType names.
    Type(u16, &'a [u8]),
    /// An LLC head (IEEE 802.2).
    Llc(&'a [u8]),
    /// A PPP frame, from its address or protocol field on.
    Ppp(&'a [u8]),
    /// IPv4 or IPv6, by its version.
    Ip(&'a [u8]),
    /// The end: the content is set.
    Done,
    /// Something that is not ours to decode.
    Foreign,
    /// A head that is cut off or contradicts itself.
    Damaged(Weird),
}

/// A packet that carries a tunnel; it counts if the tunnel's inside cannot be read.
#[derive(Clone, Copy)]
struct Carrier<'a> {
    layers: Layers,
    tunnel: Option<Tunnel>,
    macs: Option<(Mac, Mac)>,
    content: Content<'a>,
}

/// The walk.
struct State<'a, 'v, V> {
    /// Written in place: it is large, and its copies would cost more than the reading.
    packet: &'v mut Packet<'a>,
    carrier: Option<Carrier<'a>>,
    /// Bytes of the current slice that the wire had but the capture has not.
    missing: u32,
    /// The next IP head is that of a datagram put together.
    whole: bool,
    visit: &'v mut V,
}

impl<'a, 'v, V: Visit> State<'a, 'v, V> {
    #[inline]
    fn new(packet: &'v mut Packet<'a>, missing: u32, visit: &'v mut V) -> Self {
        State { packet, carrier: None, missing, whole: false, visit }
    }

    #[inline]
    fn run(&mut self, first: Next<'a>) {
        let mut next = first;
        for _ in 0..HEADS_MAX {
            next = match next {
                Next::Ethernet(bytes) => link::ethernet(self, bytes),
                Next::Type(ether_type, bytes) => link::ether_type(self, ether_type, bytes),
                Next::Llc(bytes) => link::llc(bytes),
                Next::Ppp(bytes) => label::ppp(bytes),
                Next::Ip(bytes) => ip::by_version(self, bytes),
                Next::Done => return,
                Next::Foreign => return self.fall_back(Weird::default()),
                Next::Damaged(weird) => return self.fall_back(weird),
            };
        }
        if !matches!(next, Next::Done) {
            self.fall_back(Weird::TOO_DEEP);
        }
    }

    /// Goes into a tunnel, keeping what carries it.
    fn enter(&mut self, entry: &tunnel::Entry<'a>) -> Next<'a> {
        let depth = self.packet.tunnel.map_or(0, |outer| outer.depth) + 1;
        if depth > TUNNELS_MAX {
            self.packet.weird.note(Weird::TOO_DEEP);
            return Next::Done;
        }
        let Packet { layers, tunnel, macs, content, .. } = *self.packet;
        self.carrier = Some(Carrier { layers, tunnel, macs, content });
        let (source, target) = match content {
            Content::Ip(datagram) => (datagram.source, datagram.target),
            _ => (Address::default(), Address::default()),
        };
        self.packet.tunnel = Some(Tunnel { kind: entry.kind, id: entry.id, source, target, depth });
        self.missing = entry.missing;
        if let Some(layer) = entry.layer {
            self.push(layer);
        }
        match entry.inside {
            tunnel::Inside::Ethernet(bytes) => Next::Ethernet(bytes),
            tunnel::Inside::Type(ether_type, bytes) => Next::Type(ether_type, bytes),
            tunnel::Inside::Ppp(bytes) => Next::Ppp(bytes),
            tunnel::Inside::Ip(bytes) => Next::Ip(bytes),
        }
    }

    /// Ends the walk with what carries the current tunnel, or with nothing.
    #[cold]
    fn fall_back(&mut self, weird: Weird) {
        let Some(carrier) = self.carrier.take() else {
            self.packet.weird.note(weird);
            self.packet.content = Content::Other;
            return;
        };
        if weird.has(Weird::TOO_DEEP) {
            self.packet.weird.note(weird);
        } else if weird != Weird::default() {
            self.packet.weird.note(Weird::TUNNEL_DAMAGED);
        }
        self.packet.layers = carrier.layers;
        self.packet.tunnel = carrier.tunnel;
        self.packet.macs = carrier.macs;
        self.packet.content = carrier.content;
    }

    /// Adds an encapsulation that tells networks apart.
    fn push(&mut self, layer: Layer) {
        self.visit.layer(layer);
        if !self.packet.layers.push(layer) {
            self.packet.weird.note(Weird::TOO_DEEP);
        }
    }
}
