//! Duplicates of a span: a virtual switch shows a frame at its ingress and again at its egress port, microseconds apart
//! and equal from the IP head on (link-layer tags may differ). A retransmission has another IP id and comes later, so a
//! short window keeps it. Bounded: a direct-mapped table with two places a bucket; a forgotten frame is kept, not lost.

use thymus_dissect::decode::{Content, Packet};
use thymus_record::Time;
use thymus_witness::hash_of;

/// Copies of a frame farther apart than this are not duplicates.
pub const WINDOW_NS: u64 = 1_000_000;
const BUCKETS: usize = 1 << 13;

#[derive(Clone, Copy, Default)]
struct Seen {
    hash: u64,
    time: Time,
}

/// Frames of the last millisecond, by hash.
pub struct DuplicateWindow {
    key: [u64; 2],
    buckets: Box<[[Seen; 2]]>,
}

impl DuplicateWindow {
    /// An empty window. The key is secret.
    pub fn new(key: [u64; 2]) -> DuplicateWindow {
        DuplicateWindow { key, buckets: vec![[Seen::default(); 2]; BUCKETS].into_boxed_slice() }
    }

    /// True if the same IP packet was seen within the window. Frames without an IP packet are never duplicates.
    pub fn is_duplicate(&mut self, packet: &Packet<'_>, time: Time) -> bool {
        let Content::Ip(datagram) = &packet.content else { return false };
        let layers = packet.tunnel.map_or(0, |tunnel| tunnel.id.wrapping_add(1));
        let hash = hash_of(self.key, datagram.bytes) ^ layers.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let at = (hash >> 40) as usize % BUCKETS;
        let Some(bucket) = self.buckets.get_mut(at) else { return false };
        let [new, old] = *bucket;
        let same = |seen: Seen| seen.hash == hash && seen.time.0 != 0 && time.since(seen.time) <= WINDOW_NS;
        if same(new) || same(old) {
            // The copy of a copy is counted too, but a pair uses its entry up: a third equal frame starts anew.
            *bucket = [new, old].map(|seen| if same(seen) { Seen::default() } else { seen });
            return true;
        }
        *bucket = [Seen { hash, time }, new];
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_dissect::decode::decode;
    use thymus_dissect::{Frame, LinkType};

    fn packet(id: u8) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        bytes.extend_from_slice(&[0x45, 0, 0, 30, 0, id, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend_from_slice(&[4, 0, 0, 53, 0, 10, 0, 0, 1, 2]);
        bytes
    }

    fn seen(window: &mut DuplicateWindow, bytes: &[u8], time: u64) -> bool {
        let frame =
            Frame { bytes, wire_len: 44, time: Time(time), link: LinkType::Ethernet, port: 0, ..Frame::default() };
        window.is_duplicate(&decode(&frame), frame.time)
    }

    #[test]
    fn the_second_copy_goes_and_retransmissions_stay() {
        let mut window = DuplicateWindow::new([11, 22]);
        assert!(!seen(&mut window, &packet(1), 1_000));
        assert!(seen(&mut window, &packet(1), 9_000), "egress copy, tags aside");
        assert!(!seen(&mut window, &packet(2), 9_500), "another IP id");
        assert!(!seen(&mut window, &packet(2), 9_500 + WINDOW_NS + 1), "later than the window");
    }
}
