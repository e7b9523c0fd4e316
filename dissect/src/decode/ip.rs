//! IPv4 (RFC 791) and IPv6 (RFC 8200).
//!
//! ```text
//! IPv4: version 4 bits, head length in words 4 bits, class [1], length [2], id [2], flags 3 bits, offset 13 bits,
//!       TTL [1], protocol [1], checksum [2], source [4], target [4], options
//! IPv6: version 4 bits, class and flow label 28 bits, payload length [2], next head [1], hop limit [1],
//!       source [16], target [16], extension heads
//! ```
//!
//! A length beyond the wire's frame is noted, and the packet is decoded as far as it goes. A length of 0 stands for a
//! frame that segmentation offload would have cut: then the frame's length counts.

use super::{Content, Datagram, Fragment, Next, State, Transport, Visit, Weird, extension, plain, transport, tunnel};
use thymus_record::Address;
use thymus_record::column::Proto;

const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

pub(super) fn by_version<'a, V: Visit>(state: &mut State<'a, '_, V>, bytes: &'a [u8]) -> Next<'a> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => v4(state, bytes),
        Some(6) => v6(state, bytes),
        _ => Next::Damaged(Weird::IP_DAMAGED),
    }
}

pub(super) fn v4<'a, V: Visit>(state: &mut State<'a, '_, V>, bytes: &'a [u8]) -> Next<'a> {
    if let Some(datagram) = plain::v4(bytes).filter(|_| !state.whole) {
        state.visit.datagram(&datagram);
        state.packet.content = Content::Ip(datagram);
        return Next::Done;
    }
    let Some((head, _)) = bytes.split_first_chunk::<20>() else { return Next::Damaged(Weird::IP_DAMAGED) };
    let [version, _, l0, l1, i0, i1, f0, f1, ttl, proto, _, _, s0, s1, s2, s3, t0, t1, t2, t3] = *head;
    let head_len = usize::from(version & 0x0f) * 4;
    if version >> 4 != 4 || head_len < 20 {
        return Next::Damaged(Weird::IP_DAMAGED);
    }
    let said = u32::from(u16::from_be_bytes([l0, l1]));
    let (bytes, ip_len) = state.cut(bytes, said);
    let Some(data) = bytes.get(head_len..) else { return Next::Damaged(Weird::IP_DAMAGED) };
    let (mut fragment, mut transport) = (None, Transport::Fragment);
    let (proto, data_len) = (Proto(proto), ip_len - u32::from(version & 0x0f) * 4);
    let place = u16::from_be_bytes([f0, f1]);
    if place & (MORE | OFFSET) != 0 && !state.whole {
        let data_at = u16::from(version & 0x0f) * 4;
        fragment = Some(Fragment { offset: u32::from(place & OFFSET) * 8, more: place & MORE != 0, data_at });
    } else if proto != extension::AUTHENTICATION {
        transport = transport::read(proto, data, data_len, &mut state.packet.weird);
    }
    state.packet.content = Content::Ip(Datagram {
        source: Address::from_v4([s0, s1, s2, s3]),
        target: Address::from_v4([t0, t1, t2, t3]),
        v6: false,
        proto,
        ttl,
        id: u32::from(u16::from_be_bytes([i0, i1])),
        ip_len,
        fragment,
        transport,
        bytes,
    });
    if proto == extension::AUTHENTICATION && fragment.is_none() {
        return behind_heads(state, data, data_len);
    }
    finish(state)
}

pub(super) fn v6<'a, V: Visit>(state: &mut State<'a, '_, V>, bytes: &'a [u8]) -> Next<'a> {
    let Some((head, _)) = bytes.split_first_chunk::<40>() else { return Next::Damaged(Weird::IP_DAMAGED) };
    let Some((&[version, _, _, _, l0, l1, next, ttl], ends)) = head.split_first_chunk::<8>() else {
        return Next::Damaged(Weird::IP_DAMAGED);
    };
    let (Some((source, _)), Some((_, target))) = (ends.split_first_chunk::<16>(), ends.split_last_chunk::<16>()) else {
        return Next::Damaged(Weird::IP_DAMAGED);
    };
    if version >> 4 != 6 {
        return Next::Damaged(Weird::IP_DAMAGED);
    }
    let said = match u32::from(u16::from_be_bytes([l0, l1])) {
        0 if Proto(next) != extension::NO_NEXT => 0,
        payload => payload + 40,
    };
    let (bytes, ip_len) = state.cut(bytes, said);
    state.packet.content = Content::Ip(Datagram {
        source: Address(*source),
        target: Address(*target),
        v6: true,
        proto: Proto(next),
        ttl,
        id: 0,
        ip_len,
        fragment: None,
        transport: Transport::Fragment,
        bytes,
    });
    behind_heads(state, bytes.get(40..).unwrap_or_default(), ip_len - 40)
}

/// Walks the heads between IP and transport, then reads the transport.
#[inline]
fn behind_heads<'a, V: Visit>(state: &mut State<'a, '_, V>, data: &'a [u8], data_len: u32) -> Next<'a> {
    let Content::Ip(datagram) = &mut state.packet.content else { return Next::Done };
    match extension::skip(datagram, data, data_len, state.whole) {
        Ok((data, data_len)) if datagram.fragment.is_none() => {
            datagram.transport = transport::read(datagram.proto, data, data_len, &mut state.packet.weird);
        }
        Ok(_) => {}
        Err(weird) => {
            state.packet.weird.note(weird);
            datagram.transport = Transport::Damaged;
        }
    }
    finish(state)
}

/// Goes into a tunnel if the datagram just read is one.
#[inline]
fn finish<'a, V: Visit>(state: &mut State<'a, '_, V>) -> Next<'a> {
    state.whole = false;
    let Content::Ip(datagram) = &state.packet.content else { return Next::Done };
    state.visit.datagram(datagram);
    match &datagram.transport {
        Transport::Tcp(_) | Transport::Icmp(_) | Transport::Fragment | Transport::Damaged => Next::Done,
        Transport::Udp(udp) if tunnel::may_be_in(udp) => {
            let found = tunnel::in_udp(udp, datagram.v6);
            tunnel::enter(state, found)
        }
        Transport::Udp(_) => Next::Done,
        Transport::Other(payload) => {
            let (proto, payload) = (datagram.proto, *payload);
            tunnel::in_ip(state, proto, payload)
        }
    }
}

impl<'a, V: Visit> State<'a, '_, V> {
    /// Cuts an IP packet to the length that its head says, and gives the length that counts: never less than what is
    /// captured of the packet.
    #[inline]
    fn cut(&mut self, bytes: &'a [u8], said: u32) -> (&'a [u8], u32) {
        let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let on_wire = captured.saturating_add(self.missing);
        let ip_len = if said == 0 || self.whole { on_wire } else { said };
        if ip_len > on_wire {
            self.packet.weird.note(Weird::IP_TRUNCATED);
        }
        match usize::try_from(ip_len).ok().and_then(|length| bytes.get(..length)) {
            Some(cut) => {
                self.missing = 0;
                (cut, ip_len)
            }
            None => {
                self.missing = ip_len - captured;
                (bytes, ip_len)
            }
        }
    }
}
