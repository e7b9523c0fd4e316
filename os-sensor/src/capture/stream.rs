//! What Packet Monitor's real-time stream hands over for each packet.
//!
//! ```text
//! metadata = group u64 | count u16 | appearance u16 | direction u16 | type u16 | component u16 | edge u16 | reserved u16 |
//!            drop reason u32 | drop location u32 | processor u16 | time u64        little-endian, packed: 40 bytes
//! type     = 1 Ethernet, 3 IP; time = 100 ns since 1601
//! ```
//! From <https://learn.microsoft.com/en-us/windows/win32/pktmon/packetmonitor/nf-packetmonitor-packetmonitorcreaterealtimestream>,
//! which does not say that the fields are packed; users of the interface found it.

use std::collections::HashMap;
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;

/// Longest part of a packet that the stream takes; the vendor's maximum.
pub(crate) const TRUNCATION_BYTES: u16 = 9_000;
const METADATA_BYTES: usize = 40;
/// From 1601 to 1970, in 100 ns.
const EPOCH: u64 = 116_444_736_000_000_000;
/// Bytes and packets that wait for the next `drain`; what is beyond is missed, and counted.
const WAITING_BYTES_MAX: usize = 8 << 20;
const WAITING_MAX: usize = 65_536;

/// What stands before a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Metadata {
    direction: u16,
    packet_type: u16,
    component: u16,
    edge: u16,
    dropped: bool,
    time: Time,
}

impl Metadata {
    fn parse(bytes: &[u8]) -> Option<Metadata> {
        let bytes = bytes.first_chunk::<METADATA_BYTES>()?;
        let half = |at: usize| bytes.get(at..at + 2).and_then(|part| part.try_into().ok()).map(u16::from_le_bytes);
        let time = u64::from_le_bytes(*bytes.last_chunk::<8>()?);
        Some(Metadata {
            direction: half(12)?,
            packet_type: half(14)?,
            component: half(16)?,
            edge: half(18)?,
            dropped: half(22)? != 0 || half(24)? != 0,
            time: Time(time.saturating_sub(EPOCH).saturating_mul(100)),
        })
    }
}

struct Waiting {
    time: Time,
    wire_len: u32,
    end: usize,
}

/// Packets that came and wait to be drained.
#[derive(Default)]
pub(crate) struct Stream {
    packets: Vec<Waiting>,
    bytes: Vec<u8>,
    /// The first edge at which a component showed packets of a direction: further ones show the same packets again.
    edges: HashMap<(u16, u16), u16>,
    missed: u64,
}

impl Stream {
    /// A packet as the stream gives it: where metadata and packet are in `blob`, and how many were missed before.
    pub(crate) fn take(&mut self, blob: &[u8], metadata: usize, packet: (usize, usize), missed: u64) {
        self.missed += missed;
        let metadata = blob.get(metadata..).and_then(Metadata::parse);
        let bytes = packet.0.checked_add(packet.1).and_then(|end| blob.get(packet.0..end));
        let (Some(metadata), Some(bytes)) = (metadata, bytes) else {
            self.missed += 1;
            return;
        };
        let first = *self.edges.entry((metadata.component, metadata.direction)).or_insert(metadata.edge);
        if metadata.dropped || metadata.edge != first {
            return;
        }
        // An adapter without Ethernet (a VPN's) shows IP alone: it gets an empty head, as the link carries Ethernet.
        let head: &[u8] = match (metadata.packet_type, bytes.first().map(|first| first >> 4)) {
            (1, _) => &[],
            (3, Some(4)) => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00],
            (3, Some(6)) => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd],
            _ => {
                self.missed += 1;
                return;
            }
        };
        if self.bytes.len() + head.len() + bytes.len() > WAITING_BYTES_MAX || self.packets.len() >= WAITING_MAX {
            self.missed += 1;
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(bytes);
        let wire_len = wire_len(self.bytes.get(start..).unwrap_or_default());
        self.packets.push(Waiting { time: metadata.time, wire_len, end: self.bytes.len() });
    }

    /// Gives what waits to the other stream, which must be empty, and takes its memory.
    pub(crate) fn swap(&mut self, other: &mut Stream) {
        std::mem::swap(&mut self.packets, &mut other.packets);
        std::mem::swap(&mut self.bytes, &mut other.bytes);
    }

    /// Packets missed since the call before.
    pub(crate) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Lends every packet, and is empty then.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&Frame<'_>)) {
        let mut from = 0;
        for Waiting { time, wire_len, end } in self.packets.drain(..) {
            let bytes = self.bytes.get(from..end).unwrap_or_default();
            each(&Frame { bytes, wire_len, time, link: LinkType::Ethernet, port: 0, ..Frame::default() });
            from = end;
        }
        self.bytes.clear();
    }
}

/// The stream does not say how long a cut packet was; its IP header does.
fn wire_len(frame: &[u8]) -> u32 {
    let captured = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    if frame.len() < usize::from(TRUNCATION_BYTES) {
        return captured;
    }
    let half = |at: usize| match frame.get(at..at + 2) {
        Some(&[high, low]) => u32::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    match half(12) {
        0x0800 => captured.max(14 + half(16)),
        0x86dd => captured.max(54 + half(18)),
        _ => captured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(packet_type: u16, edge: u16, drop_reason: u32, packet: &[u8]) -> Vec<u8> {
        let mut blob = vec![0; METADATA_BYTES];
        blob[12..14].copy_from_slice(&3u16.to_le_bytes());
        blob[14..16].copy_from_slice(&packet_type.to_le_bytes());
        blob[16..18].copy_from_slice(&7u16.to_le_bytes());
        blob[18..20].copy_from_slice(&edge.to_le_bytes());
        blob[22..26].copy_from_slice(&drop_reason.to_le_bytes());
        blob[32..].copy_from_slice(&(EPOCH + 20_000_000).to_le_bytes());
        blob.extend_from_slice(packet);
        blob
    }

    fn feed(stream: &mut Stream, blob: &[u8], missed: u64) {
        stream.take(blob, 0, (METADATA_BYTES, blob.len() - METADATA_BYTES), missed);
    }

    fn drained(stream: &mut Stream) -> Vec<(Vec<u8>, u32, Time)> {
        let (mut out, mut taken) = (Vec::new(), Stream::default());
        stream.swap(&mut taken);
        taken.drain(|frame| out.push((frame.bytes.to_vec(), frame.wire_len, frame.time)));
        out
    }

    #[test]
    fn a_packet_comes_once_however_many_edges_show_it_and_never_as_dropped() {
        let mut stream = Stream::default();
        let frame = [9; 60];
        feed(&mut stream, &blob(1, 2, 0, &frame), 0);
        feed(&mut stream, &blob(1, 5, 0, &frame), 0);
        feed(&mut stream, &blob(1, 2, 77, &frame), 0);
        assert_eq!(drained(&mut stream), [(frame.to_vec(), 60, Time::from_parts(2, 0))]);
        assert_eq!(stream.take_missed(), 0);
    }

    #[test]
    fn what_is_missed_is_counted_by_the_driver_by_us_and_for_what_cannot_be_read() {
        let mut stream = Stream::default();
        feed(&mut stream, &blob(1, 2, 0, &[1; 60]), 41);
        feed(&mut stream, &blob(2, 2, 0, &[1; 60]), 0);
        stream.take(&[0; 20], 0, (40, 60), 0);
        stream.take(&[0; 60], 0, (usize::MAX, 60), 0);
        assert_eq!((stream.take_missed(), stream.take_missed()), (44, 0));
        let large = blob(1, 2, 0, &[1; 9_000]);
        (0..1_000).for_each(|_| feed(&mut stream, &large, 0));
        let got = drained(&mut stream).len() as u64;
        assert_eq!(got - 1 + stream.take_missed(), 1_000);
        feed(&mut stream, &large, 0);
        assert_eq!(drained(&mut stream).len(), 1, "there is room again");
    }

    #[test]
    fn packets_without_ethernet_get_a_head_and_cut_ones_their_length_from_ip() {
        let mut stream = Stream::default();
        feed(&mut stream, &blob(3, 2, 0, &[0x45; 40]), 0);
        let mut long = vec![0; 9_000];
        long[12] = 8;
        long[16..18].copy_from_slice(&20_000u16.to_be_bytes());
        feed(&mut stream, &blob(1, 2, 0, &long), 0);
        let got = drained(&mut stream);
        assert_eq!((got[0].0.len(), &got[0].0[12..15], got[0].1), (54, [8, 0, 0x45].as_slice(), 54));
        assert_eq!((got[1].0.len(), got[1].1), (9_000, 20_014));
    }
}
