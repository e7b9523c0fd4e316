//! TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792) and ICMPv6 (RFC 4443).
//!
//! ```text
//! TCP:  source [2], target [2], sequence [4], acknowledged [4], head length in words 4 bits, 0 4 bits, flags [1],
//!       window [2], checksum [2], urgent [2], options
//! UDP:  source [2], target [2], length [2], checksum [2]
//! ICMP: type [1], code [1], checksum [2], rest of head [4]
//! ```

use super::{Icmp, Tcp, TcpFlags, Transport, Udp, Weird};
use thymus_record::column::Proto;

/// Reads a transport from what was captured of it; `length` is its length by the IP head.
#[inline(always)]
pub(super) fn read<'a>(proto: Proto, bytes: &'a [u8], length: u32, weird: &mut Weird) -> Transport<'a> {
    let transport = match proto {
        Proto::TCP => tcp(bytes, length).map(Transport::Tcp),
        Proto::UDP => udp(bytes, length, weird).map(Transport::Udp),
        Proto::ICMP | Proto::ICMP6 => icmp(bytes, length).map(Transport::Icmp),
        _ => Some(Transport::Other(bytes)),
    };
    transport.unwrap_or_else(|| {
        weird.note(Weird::TRANSPORT_DAMAGED);
        Transport::Damaged
    })
}

#[inline(always)]
pub(super) fn tcp(bytes: &[u8], length: u32) -> Option<Tcp<'_>> {
    let (head, _) = bytes.split_first_chunk::<20>()?;
    let [s0, s1, t0, t1, q0, q1, q2, q3, a0, a1, a2, a3, words, flags, w0, w1, ..] = *head;
    let head_len = (words >> 4) * 4;
    if head_len < 20 {
        return None;
    }
    Some(Tcp {
        source: u16::from_be_bytes([s0, s1]),
        target: u16::from_be_bytes([t0, t1]),
        seq: u32::from_be_bytes([q0, q1, q2, q3]),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        flags: TcpFlags(flags),
        window: u16::from_be_bytes([w0, w1]),
        // Empty where the capture ends within the options.
        payload: bytes.get(usize::from(head_len)..).unwrap_or_default(),
        payload_len: length.checked_sub(u32::from(head_len))?,
    })
}

#[inline(always)]
pub(super) fn udp<'a>(bytes: &'a [u8], length: u32, weird: &mut Weird) -> Option<Udp<'a>> {
    let (&[s0, s1, t0, t1, l0, l1, _, _], rest) = bytes.split_first_chunk::<8>()?;
    let room = length.checked_sub(8)?;
    let payload_len = match u32::from(u16::from_be_bytes([l0, l1])) {
        // Segmentation offload and jumbograms (RFC 2675) leave it 0.
        0 => room,
        said if (8..=length).contains(&said) => said - 8,
        _ => {
            weird.note(Weird::TRANSPORT_DAMAGED);
            room
        }
    };
    let payload = usize::try_from(payload_len).ok().and_then(|end| rest.get(..end)).unwrap_or(rest);
    Some(Udp { source: u16::from_be_bytes([s0, s1]), target: u16::from_be_bytes([t0, t1]), payload, payload_len })
}

fn icmp(bytes: &[u8], length: u32) -> Option<Icmp<'_>> {
    let (&[kind, code, ..], payload) = bytes.split_first_chunk::<8>()?;
    Some(Icmp { kind, code, payload, payload_len: length.checked_sub(8)? })
}
