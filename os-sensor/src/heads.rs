//! The head of each flow: how much of it was sent already. A fixed table of [`PLACES`] flows (1 MiB); where two flows
//! want one place, the one that was quiet longer is forgotten and sends another head: more than asked for, never less.

use thymus_dissect::Frame;
use thymus_dissect::decode::{Content, Packet, TcpFlags, Transport};
use thymus_record::Time;
use thymus_record::time::SECOND;

/// Flows remembered, in pairs of places.
pub const PLACES: usize = 1 << 16;
/// A flow that was quiet for so long begins anew.
const QUIET: u32 = 300;
/// Kept of what has no payload that we know.
const PLAIN: usize = 64;

#[derive(Clone, Copy, Default)]
struct Place {
    tag: u32,
    sent: u32,
    /// Seconds of its last packet; 0 for none.
    last: u32,
}

/// The table.
pub struct Heads {
    pairs: Vec<[Place; 2]>,
}

impl Default for Heads {
    fn default() -> Heads {
        Heads { pairs: vec![[Place::default(); 2]; PLACES / 2] }
    }
}

impl Heads {
    /// True if a packet of the flow with this hash is still within its head of `bytes_max`; then it counts for it.
    pub fn is_head(&mut self, flow: u64, packet: &Packet<'_>, time: Time, wire_len: u32, bytes_max: u64) -> bool {
        let now = u32::try_from(time.0 / SECOND).unwrap_or(u32::MAX).max(1);
        let at = usize::try_from(flow % self.pairs.len() as u64).unwrap_or_default();
        let tag = u32::try_from(flow >> 32).unwrap_or_default();
        let Some(pair) = self.pairs.get_mut(at) else { return true };
        let known = pair.iter().position(|place| place.last != 0 && place.tag == tag);
        let older = usize::from(pair[1].last < pair[0].last);
        let Some(place) = pair.get_mut(known.unwrap_or(older)) else { return true };
        let anew = known.is_none() || now.saturating_sub(place.last) > QUIET || begins(packet);
        if anew {
            *place = Place { tag, sent: 0, last: now };
        }
        place.last = place.last.max(now);
        let is_head = u64::from(place.sent) < bytes_max;
        if is_head {
            place.sent = place.sent.saturating_add(wire_len);
        }
        is_head
    }
}

/// True for the first packet of a TCP connection.
fn begins(packet: &Packet<'_>) -> bool {
    let Content::Ip(datagram) = &packet.content else { return false };
    matches!(&datagram.transport, Transport::Tcp(tcp) if tcp.flags.any(TcpFlags::SYN) && !tcp.flags.any(TcpFlags::ACK))
}

/// Bytes of a frame before its payload: the heads of all layers.
pub fn heads_len(frame: &Frame<'_>, packet: &Packet<'_>) -> usize {
    let Content::Ip(datagram) = &packet.content else { return frame.bytes.len().min(PLAIN) };
    let payload = match &datagram.transport {
        Transport::Tcp(tcp) => tcp.payload,
        Transport::Udp(udp) => udp.payload,
        _ => return frame.bytes.len().min(PLAIN + offset_of(frame.bytes, datagram.bytes).unwrap_or_default()),
    };
    if payload.is_empty() { frame.bytes.len() } else { offset_of(frame.bytes, payload).unwrap_or(PLAIN) }
}

/// Where a part of these bytes begins in them.
fn offset_of(bytes: &[u8], part: &[u8]) -> Option<usize> {
    (part.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize).filter(|at| *at <= bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_dissect::LinkType;
    use thymus_dissect::decode::decode;

    fn tcp(flags: u8, payload: usize) -> Vec<u8> {
        let length = u16::try_from(40 + payload).unwrap().to_be_bytes();
        let mut bytes =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, 6, 0, 0];
        bytes.extend_from_slice(&[
            10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x40, 1, 187, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0,
        ]);
        bytes.resize(54 + payload, 7);
        bytes
    }

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame {
            bytes,
            wire_len: u32::try_from(bytes.len()).unwrap(),
            time: Time(SECOND),
            link: LinkType::Ethernet,
            ..Frame::default()
        }
    }

    #[test]
    fn the_head_is_whole_what_follows_is_not_and_a_new_connection_begins_anew() {
        let (syn, data) = (tcp(2, 0), tcp(0x18, 1_000));
        let (syn, data) = (frame(&syn), frame(&data));
        let (opening, more) = (decode(&syn), decode(&data));
        let mut heads = Heads::default();
        assert!(heads.is_head(9, &opening, Time(SECOND), 54, 2_000));
        assert!(heads.is_head(9, &more, Time(SECOND), 1_054, 2_000));
        assert!(heads.is_head(9, &more, Time(SECOND), 1_054, 2_000));
        assert!(!heads.is_head(9, &more, Time(SECOND), 1_054, 2_000));
        assert!(heads.is_head(9, &opening, Time(2 * SECOND), 54, 2_000), "another connection over the same ports");
        assert!(heads.is_head(9, &more, Time(2 * SECOND), 2_000, 2_000));
        assert!(!heads.is_head(9, &more, Time(3 * SECOND), 1_054, 2_000));
        assert!(heads.is_head(9, &more, Time(400 * SECOND), 1_054, 2_000), "after a long silence");
        assert_eq!((heads_len(&data, &more), heads_len(&syn, &opening)), (54, 54));
    }

    #[test]
    fn a_scan_takes_no_more_memory_and_a_busy_flow_is_not_forgotten_for_it_at_once() {
        let data = tcp(0x18, 1_000);
        let data = frame(&data);
        let more = decode(&data);
        let mut heads = Heads::default();
        let mut again = 0;
        for n in 0..200_000u64 {
            heads.is_head(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), &more, Time((1 + n / 1_000) * SECOND), 60, 1);
            again += u32::from(heads.is_head(3, &more, Time((1 + n / 1_000) * SECOND), 60, 1));
        }
        assert_eq!(heads.pairs.len(), PLACES / 2);
        assert!(again < 100, "{again} heads of one busy flow");
    }
}
