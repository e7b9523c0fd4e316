//! Two views of one packet. A host that routes, bridges or translates between two of its interfaces sees a packet come in
//! by one and go out by another. The first view is taken: the one that comes in, or, where addresses are translated, the
//! inner one. The second is left out, and how a conversation was translated is told.
//!
//! Views are joined by what a router or translator does not change: IP id, TCP's numbers, the payload. Once a flow's two
//! views are known, the second is left out even where packets were put together or cut between them, as long as the
//! first is seen; but what another agent leaves to us is sent in whichever view. Fragments are joined by their bytes. Bounded: packets in a direct-mapped table, flows in two
//! generations; what is forgotten is sent, never lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use thymus_dissect::Frame;
use thymus_dissect::decode::{Content, Datagram, Packet, Transport};
use thymus_record::time::SECOND;
use thymus_record::view::View;
use thymus_record::{Address, Mac, Time};
use thymus_witness::{Ends, ends_of, hash_of, is_shared};

/// Packets of late that are remembered.
const PACKETS: usize = 4_096;
/// The two views of a packet are not farther apart.
const APART: u64 = SECOND;
/// A first view that was not seen for so long is gone: the second is sent.
const LAPSES_AFTER: u64 = 2 * SECOND;
/// Flows of each generation.
const FLOWS_MAX: usize = 8_192;
/// Views waiting to be told; a conversation that finds no room is looked at again with its next packet.
const TOLD_MAX: usize = 256;
/// Payload that counts for a packet's content.
const PAYLOAD_MAX: usize = 128;

/// An interface that is captured.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

#[derive(Clone, Copy)]
struct Sight {
    content: u64,
    time: Time,
    card: usize,
    is_outgoing: bool,
    ends: Ends,
}

#[derive(Clone, Copy)]
struct Flow {
    last: Time,
    learnt: Time,
    /// For a second view: the first one.
    first: Option<u64>,
}

/// The views of this host's packets; idle with fewer than two interfaces.
#[derive(Default)]
pub struct Views {
    seed: u64,
    cards: Vec<Card>,
    packets: Box<[Option<Sight>]>,
    young: HashMap<u64, Flow>,
    old: HashMap<u64, Flow>,
    told: Vec<View>,
    /// The interface that is looked at.
    card: usize,
}

impl Views {
    /// With a secret, so that nobody makes a packet pass for another one's second view.
    pub fn new(seed: u64) -> Views {
        Views { seed, ..Views::default() }
    }

    /// The interfaces that are captured, by number. What was known of others is forgotten.
    pub fn set_cards(&mut self, cards: Vec<Card>) {
        if cards == self.cards {
            return;
        }
        self.forget();
        self.packets = if cards.len() > 1 { vec![None; PACKETS].into() } else { Box::default() };
        self.cards = cards;
    }

    /// What comes now is of the interface with this number.
    pub fn look_at(&mut self, card: usize) {
        self.card = card;
    }

    /// What was learnt is learnt and told anew.
    pub fn forget(&mut self) {
        self.packets.fill(None);
        (self.young, self.old) = Default::default();
    }

    /// Conversations that turned out to be translated, since the call before.
    pub fn take_told(&mut self) -> Vec<View> {
        std::mem::take(&mut self.told)
    }

    /// True if this packet is the second view of one that another interface shows.
    pub fn is_second(&mut self, packet: &Packet<'_>, frame: &Frame<'_>) -> bool {
        let card = self.card;
        let (true, Content::Ip(datagram)) = (self.cards.len() > 1, &packet.content) else { return false };
        let Some(ends) = ends_of(packet).filter(|ends| !is_shared(ends.source) && !is_shared(ends.target)) else {
            return false;
        };
        let key = self.key(&ends, card);
        let known = self.flow(key).map(|flow| {
            flow.last = flow.last.max(frame.time);
            *flow
        });
        // What was sent in the other view before both were known is left out in this one.
        if known.is_some_and(|flow| flow.first.is_none() && frame.time.since(flow.learnt) >= APART) {
            return false;
        }
        let first = known.and_then(|flow| flow.first).and_then(|first| self.flow(first).copied());
        if first.is_some_and(|first| frame.time.since(first.last) < LAPSES_AFTER) {
            return true;
        }
        let content = content_of(self.seed, datagram);
        let mac = self.cards.get(card).and_then(|card| card.mac);
        let is_outgoing = mac.is_some_and(|mac| frame.bytes.get(6..12) == Some(mac.0.as_slice()));
        let now = Sight { content, time: frame.time, card, is_outgoing, ends };
        let at = usize::try_from(content % PACKETS as u64).unwrap_or_default();
        let Some(place) = self.packets.get_mut(at) else { return false };
        let is_other =
            |seen: &Sight| seen.content == content && seen.card != card && seen.time.0.abs_diff(now.time.0) < APART;
        match place.filter(is_other) {
            Some(seen) if known.is_some() => seen.ends == now.ends,
            Some(seen) => self.join(&seen, &now),
            None => {
                *place = Some(now);
                false
            }
        }
    }

    /// The same content by two interfaces; true if the one at hand is left out.
    fn join(&mut self, seen: &Sight, now: &Sight) -> bool {
        if seen.ends == now.ends {
            let (first, second) = if seen.is_outgoing && !now.is_outgoing { (now, seen) } else { (seen, now) };
            self.learn(first, second);
            return true;
        }
        if seen.is_outgoing == now.is_outgoing || self.told.len() >= TOLD_MAX {
            return false;
        }
        let owns = |sight: &Sight| {
            let mut addresses = self.cards.iter().flat_map(|card| &card.addresses);
            addresses.any(|own| *own == sight.ends.source || *own == sight.ends.target)
        };
        let is_outer = match (owns(seen), owns(now)) {
            (true, false) => false,
            (false, true) => true,
            _ => now.is_outgoing,
        };
        let (inner, outer) = if is_outer { (seen, now) } else { (now, seen) };
        let view =
            View { proto: now.ends.proto, inner: sockets(&inner.ends), outer: sockets(&outer.ends), time: now.time };
        let has_ports = |ends: &Ends| ends.source_port != 0 && ends.target_port != 0;
        if !view.is_sound() || inner.ends.proto != outer.ends.proto || !has_ports(&inner.ends) {
            return false;
        }
        self.told.push(view);
        self.learn(inner, outer);
        is_outer
    }

    fn learn(&mut self, first: &Sight, second: &Sight) {
        if self.young.len() >= FLOWS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        let last = first.time.max(second.time);
        let keys = [first, second].map(|sight| self.key(&sight.ends, sight.card));
        let [first, second] = keys;
        self.young.insert(first, Flow { last, learnt: last, first: None });
        self.young.insert(second, Flow { last, learnt: last, first: Some(first) });
    }

    fn flow(&mut self, key: u64) -> Option<&mut Flow> {
        if let Some(known) = self.old.remove(&key) {
            self.young.insert(key, known);
        }
        self.young.get_mut(&key)
    }

    /// A direction of a flow on an interface.
    fn key(&self, ends: &Ends, card: usize) -> u64 {
        let Ends { source, target, source_port, target_port, proto } = *ends;
        let mut bytes = [0; 37];
        let ports = source_port.to_be_bytes().into_iter().chain(target_port.to_be_bytes());
        let parts = source.0.into_iter().chain(target.0).chain(ports).chain([proto]);
        bytes.iter_mut().zip(parts).for_each(|(place, byte)| *place = byte);
        hash_of([self.seed, card as u64], &bytes)
    }
}

fn sockets(ends: &Ends) -> [SocketAddr; 2] {
    [(ends.source, ends.source_port), (ends.target, ends.target_port)].map(|(ip, port)| (ip.to_ip(), port).into())
}

/// What neither a router nor a translator changes.
fn content_of(seed: u64, datagram: &Datagram<'_>) -> u64 {
    let about = u64::from(datagram.id) << 32 | u64::from(datagram.ip_len);
    let (head, payload) = match &datagram.transport {
        _ if datagram.fragment.is_some() => {
            let at = datagram.fragment.map_or(0, |fragment| fragment.offset);
            (u64::from(at), datagram.bytes.get(if datagram.v6 { 40 } else { 20 }..).unwrap_or_default())
        }
        Transport::Tcp(tcp) => {
            let numbers = u64::from(tcp.seq) << 32 | u64::from(tcp.ack);
            (numbers ^ (u64::from(tcp.flags.0) << 16 | u64::from(tcp.window)).rotate_left(24), tcp.payload)
        }
        Transport::Udp(udp) => (u64::from(udp.payload_len), udp.payload),
        _ => (1, datagram.bytes.get(if datagram.v6 { 40 } else { 20 }..).unwrap_or_default()),
    };
    hash_of([seed ^ about, head ^ u64::from(datagram.proto.0)], payload.get(..PAYLOAD_MAX).unwrap_or(payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_dissect::decode::decode;

    const OWN: [[u8; 4]; 2] = [[10, 0, 0, 1], [198, 51, 100, 1]];
    const MACS: [u8; 2] = [0xa, 0xb];

    /// A host between an inner network (interface 0) and an outer one (1).
    fn host() -> Views {
        let mut views = Views::new(7);
        let card =
            |at: usize| Card { mac: Some(Mac([2, 0, 0, 0, 0, MACS[at]])), addresses: vec![Address::from_v4(OWN[at])] };
        views.set_cards(vec![card(0), card(1)]);
        views
    }

    type End = ([u8; 4], u16);
    const CLIENT: End = ([10, 0, 0, 5], 4_000);
    const OUTSIDE: End = ([198, 51, 100, 1], 61_000);
    const SERVER: End = ([203, 0, 113, 5], 80);

    /// A TCP segment from one of these MACs.
    fn segment(mac: u8, id: u8, source: End, target: End, ttl: u8, seq: u8) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 0xf, 2, 0, 0, 0, 0, mac, 8, 0, 0x45, 0, 0, 44, 0, id, 0, 0, ttl, 6, 0, 0];
        bytes.extend([source.0, target.0].concat());
        bytes.extend([source.1.to_be_bytes(), target.1.to_be_bytes()].concat());
        bytes.extend([0, 0, 0, seq, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0, 1, 2, 3, seq]);
        bytes
    }

    fn sees(views: &mut Views, card: usize, bytes: &[u8], milliseconds: u64) -> bool {
        let wire_len = u32::try_from(bytes.len()).unwrap();
        let frame = Frame { bytes, wire_len, time: Time(SECOND + milliseconds * 1_000_000), ..Frame::default() };
        views.look_at(card);
        views.is_second(&decode(&frame), &frame)
    }

    #[test]
    fn of_a_routed_packet_one_view_is_taken_whichever_is_looked_at_first() {
        for out_first in [false, true] {
            let mut views = host();
            let inside = segment(1, 1, CLIENT, SERVER, 64, 1);
            let outside = segment(MACS[1], 1, CLIENT, SERVER, 63, 1);
            let order = if out_first { [(1, &outside), (0, &inside)] } else { [(0, &inside), (1, &outside)] };
            let second: Vec<bool> = order.iter().map(|(card, bytes)| sees(&mut views, *card, bytes, 0)).collect();
            assert_eq!(second, [false, true], "out first: {out_first}");
            // From now on it is what comes in, though two segments were put together on the way out.
            assert!(!sees(&mut views, 0, &segment(1, 2, CLIENT, SERVER, 64, 5), 10));
            assert!(!sees(&mut views, 0, &segment(1, 3, CLIENT, SERVER, 64, 9), 10));
            assert!(sees(&mut views, 1, &segment(MACS[1], 99, CLIENT, SERVER, 63, 77), 10));
            // What comes in no more is sent where it goes out.
            assert!(!sees(&mut views, 1, &segment(MACS[1], 100, CLIENT, SERVER, 63, 78), 3_000));
            assert!(views.take_told().is_empty(), "nothing was translated");
        }
    }

    #[test]
    fn of_packets_that_were_looked_at_where_they_go_out_before_any_came_in_each_is_taken_once() {
        let mut views = host();
        let view = |card: usize, n: u8| match card {
            0 => segment(1, n, CLIENT, SERVER, 64, n),
            _ => segment(MACS[1], n, CLIENT, SERVER, 63, n),
        };
        (1..5).for_each(|n| assert!(!sees(&mut views, 1, &view(1, n), 0)));
        (1..5).for_each(|n| assert!(sees(&mut views, 0, &view(0, n), 0), "{n}"));
        (5..9).for_each(|n| assert!(sees(&mut views, 1, &view(1, n), 1), "{n}"));
        (5..9).for_each(|n| assert!(!sees(&mut views, 0, &view(0, n), 1), "{n}"));
    }

    #[test]
    fn of_a_translated_conversation_the_inner_view_is_taken_and_the_other_is_told() {
        for out_first in [false, true] {
            let mut views = host();
            let inside = segment(1, 1, CLIENT, SERVER, 64, 1);
            let outside = segment(MACS[1], 1, OUTSIDE, SERVER, 63, 1);
            if out_first {
                assert!(!sees(&mut views, 1, &outside, 0), "it may be our own");
                assert!(!sees(&mut views, 0, &inside, 0));
            } else {
                assert!(!sees(&mut views, 0, &inside, 0));
                assert!(sees(&mut views, 1, &outside, 0));
            }
            assert!(!sees(&mut views, 1, &segment(1, 7, SERVER, OUTSIDE, 60, 3), 5), "an answer, from outside");
            assert!(!sees(&mut views, 0, &segment(MACS[0], 7, SERVER, CLIENT, 59, 3), 5));
            for n in 10..20 {
                assert!(!sees(&mut views, 0, &segment(1, n, CLIENT, SERVER, 64, n), 10));
                assert!(sees(&mut views, 1, &segment(MACS[1], n, OUTSIDE, SERVER, 63, n), 10));
                assert!(sees(&mut views, 1, &segment(1, n, SERVER, OUTSIDE, 60, n), 10));
                assert!(!sees(&mut views, 0, &segment(MACS[0], n, SERVER, CLIENT, 59, n), 10));
            }
            let told = views.take_told();
            assert_eq!(told.len(), 2, "each direction once");
            let ends = |ends: [End; 2]| ends.map(|(ip, port)| SocketAddr::from((ip, port)));
            assert_eq!((told[0].inner, told[0].outer), (ends([CLIENT, SERVER]), ends([OUTSIDE, SERVER])));
            assert_eq!((told[1].inner, told[1].outer), (ends([SERVER, CLIENT]), ends([SERVER, OUTSIDE])));
        }
    }

    #[test]
    fn packets_that_only_look_alike_are_all_taken() {
        let mut views = host();
        // Sent by ourselves out of both, a retransmission, and one that another host sends to a third.
        assert!(!sees(&mut views, 0, &segment(MACS[0], 1, (OWN[0], 9), SERVER, 64, 1), 0));
        assert!(!sees(&mut views, 1, &segment(MACS[1], 1, (OWN[1], 9), SERVER, 64, 1), 0));
        assert!(!sees(&mut views, 0, &segment(1, 2, CLIENT, SERVER, 64, 1), 0));
        assert!(!sees(&mut views, 0, &segment(1, 2, CLIENT, SERVER, 64, 1), 1));
        assert!(!sees(&mut views, 1, &segment(MACS[1], 2, ([9, 9, 9, 9], 1), ([8, 8, 8, 8], 1), 64, 1), 1));
        assert!(views.take_told().is_empty());
        let mut one = Views::new(7);
        one.set_cards(vec![Card::default()]);
        assert!(!sees(&mut one, 0, &segment(1, 2, CLIENT, SERVER, 64, 1), 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut views = host();
        for n in 0..100_000u32 {
            let [_, a, b, c] = n.to_be_bytes();
            let client = ([10, a, b, c], 4_000);
            sees(&mut views, 0, &segment(1, c, client, SERVER, 64, b), 0);
            sees(&mut views, 1, &segment(MACS[1], c, OUTSIDE, SERVER, 63, b), 0);
        }
        assert!(views.young.len() + views.old.len() <= 4 * FLOWS_MAX && views.told.len() <= TOLD_MAX);
    }
}
