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

use super::{Content, Datagram, Fragment, Next, State, Transport, Visit, Weird, extension, transport, tunnel};
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

#[inline]
pub(super) fn v4<'a, V: Visit>(state: &mut State<'a, '_, V>, bytes: &'a [u8]) -> Next<'a> {
    let Some((head, _)) = bytes.split_first_chunk::<20>() else { return Next::Damaged(Weird::IP_DAMAGED) };
    let [version, _, l0, l1, i0, i1, f0, f1, ttl, proto, _, _, s0, s1, s2, s3, t0, t1, t2, t3] = *head;
    let head_len = usize::from(version & 0x0f) * 4;
    if version >> 4 != 4 || head_len < 20 {
        return Next::Damaged(Weird::IP_DAMAGED);
    }
    let said = u32::from(u16::from_be_bytes([l0, l1]));
    let (bytes, ip_len) = state.cut(bytes, said);
    let Some(data) = bytes.get(head_len..) else { return Next::Damaged(Weird::IP_DAMAGED) };
    let mut datagram = Datagram {
        source: Address::from_v4([s0, s1, s2, s3]),
        target: Address::from_v4([t0, t1, t2, t3]),
        v6: false,
        proto: Proto(proto),
        ttl,
        id: u32::from(u16::from_be_bytes([i0, i1])),
        ip_len,
        fragment: None,
        transport: Transport::Fragment,
        bytes,
    };
    let place = u16::from_be_bytes([f0, f1]);
    if place & (MORE | OFFSET) != 0 && !std::mem::take(&mut state.whole) {
        datagram.fragment = Some(Fragment {
            offset: u32::from(place & OFFSET) * 8,
            more: place & MORE != 0,
            data_at: u16::from(version & 0x0f) * 4,
        });
        return finish(state, datagram);
    }
    state.whole = false;
    let data_len = ip_len - u32::from(version & 0x0f) * 4;
    if datagram.proto == extension::AUTHENTICATION {
        return behind_heads(state, datagram, data, data_len);
    }
    datagram.transport = transport::read(datagram.proto, data, data_len, &mut state.packet.weird);
    finish(state, datagram)
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
    let datagram = Datagram {
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
    };
    let data = bytes.get(40..).unwrap_or_default();
    behind_heads(state, datagram, data, ip_len - 40)
}

/// Walks the heads between IP and transport, then reads the transport.
fn behind_heads<'a, V: Visit>(
    state: &mut State<'a, '_, V>,
    mut datagram: Datagram<'a>,
    data: &'a [u8],
    data_len: u32,
) -> Next<'a> {
    let whole = std::mem::take(&mut state.whole);
    let (data, data_len) = match extension::skip(&mut datagram, data, data_len, whole) {
        Ok(transport) => transport,
        Err(weird) => {
            state.packet.weird.note(weird);
            datagram.transport = Transport::Damaged;
            return finish(state, datagram);
        }
    };
    if datagram.fragment.is_none() {
        datagram.transport = transport::read(datagram.proto, data, data_len, &mut state.packet.weird);
    }
    finish(state, datagram)
}

/// Sets the content, and goes into a tunnel if this is one.
#[inline]
fn finish<'a, V: Visit>(state: &mut State<'a, '_, V>, datagram: Datagram<'a>) -> Next<'a> {
    state.visit.datagram(&datagram);
    state.packet.content = Content::Ip(datagram);
    match datagram.transport {
        Transport::Tcp(_) | Transport::Icmp(_) => Next::Done,
        Transport::Udp(udp) => tunnel::in_udp(state, &datagram, &udp),
        Transport::Other(payload) => tunnel::in_ip(state, &datagram, payload),
        Transport::Fragment | Transport::Damaged => Next::Done,
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
