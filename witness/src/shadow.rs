//! What was left to others, for three seconds: if its owner goes, it is sent after all. Chunks of fixed size that are used
//! again, so that nothing is allocated a packet; when all are full the oldest goes early, counted.

use crate::choice::Ends;
use std::collections::VecDeque;
use thymus_dissect::Frame;
use thymus_record::Time;
use thymus_record::ledger::Count;
use thymus_record::time::SECOND;

/// How long it is remembered: longer than two leases, since a vSensor may be taken for gone just before its master goes.
pub const SHADOW: u64 = 3 * SECOND;
/// Bytes of a chunk; a longer frame has a chunk of its own.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks at once: 10 MiB.
const CHUNKS_MAX: usize = 40;

#[derive(Clone, Copy)]
struct Entry {
    /// Who should send it; `None` once it was sent after all.
    owner: Option<u32>,
    ends: Ends,
    time: Time,
    wire_len: u32,
    end: usize,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// A packet that was left.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// When it passed.
    pub time: Time,
    /// Its length on the wire.
    pub wire_len: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// The last three seconds of what was left to others.
#[derive(Default)]
pub struct Shadow {
    chunks: VecDeque<Chunk>,
    spare: Vec<Chunk>,
    forgotten: Count,
}

impl Shadow {
    /// Remembers a frame left to `owner`.
    pub fn remember(&mut self, owner: u32, ends: Ends, frame: &Frame<'_>) {
        self.expire(frame.time);
        let full = |chunk: &Chunk| !chunk.entries.is_empty() && chunk.bytes.len() + frame.bytes.len() > CHUNK_BYTES;
        // A slow trickle turns chunks too, so that what is old goes.
        let old = |chunk: &Chunk| chunk.entries.first().is_some_and(|entry| frame.time.since(entry.time) > SHADOW / 8);
        if self.chunks.back().is_none_or(|chunk| full(chunk) || old(chunk)) {
            if self.chunks.len() >= CHUNKS_MAX
                && let Some(chunk) = self.chunks.pop_front()
            {
                chunk.entries.iter().filter(|entry| entry.owner.is_some()).for_each(|entry| {
                    self.forgotten.add(u64::from(entry.wire_len));
                });
                self.give_back(chunk);
            }
            let chunk = self.spare.pop().unwrap_or_default();
            self.chunks.push_back(chunk);
        }
        let Some(chunk) = self.chunks.back_mut() else { return };
        chunk.bytes.extend_from_slice(frame.bytes);
        let Frame { time, wire_len, .. } = *frame;
        chunk.entries.push(Entry { owner: Some(owner), ends, time, wire_len, end: chunk.bytes.len() });
    }

    /// Forgets what is older than three seconds.
    pub fn expire(&mut self, now: Time) {
        let old = |chunk: &Chunk| chunk.entries.last().is_none_or(|entry| now.since(entry.time) > SHADOW);
        while self.chunks.front().is_some_and(old) {
            let Some(chunk) = self.chunks.pop_front() else { return };
            self.give_back(chunk);
        }
    }

    fn give_back(&mut self, mut chunk: Chunk) {
        chunk.bytes.clear();
        chunk.entries.clear();
        // Memory for a burst goes back; a few chunks are kept for the next.
        if self.spare.len() < 4 && chunk.bytes.capacity() <= 2 * CHUNK_BYTES {
            self.spare.push(chunk);
        }
    }

    /// Asks for each frame, by its ends and who was to send it, who sends it now; where `owner_of` knows nobody, the frame
    /// is given to `send`.
    pub fn review(&mut self, owner_of: impl Fn(&Ends, u32) -> Option<u32>, mut send: impl FnMut(&Left<'_>)) {
        for chunk in &mut self.chunks {
            let mut start = 0;
            for entry in &mut chunk.entries {
                let bytes = chunk.bytes.get(start..entry.end).unwrap_or_default();
                start = entry.end;
                let Some(owner) = entry.owner else { continue };
                entry.owner = owner_of(&entry.ends, owner);
                if entry.owner.is_none() {
                    send(&Left { time: entry.time, wire_len: entry.wire_len, bytes });
                }
            }
        }
    }

    /// Takes out all that it remembers, for time to stand still there.
    pub fn set_aside(&mut self) -> Shadow {
        Shadow { chunks: std::mem::take(&mut self.chunks), ..Shadow::default() }
    }

    /// What had to be forgotten before three seconds had passed, for want of room.
    pub fn forgotten(&self) -> Count {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_dissect::LinkType;
    use thymus_record::Address;

    fn remember(shadow: &mut Shadow, number: u64, time: u64, len: usize) {
        let ends = Ends {
            source: Address::from_v4([10, 0, 0, 1]),
            target: Address::from_v4([10, 0, 0, 2]),
            source_port: u16::try_from(number % 65_536).unwrap(),
            target_port: 1,
            proto: 17,
        };
        let mut bytes = vec![0; len];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let frame = Frame {
            bytes: &bytes,
            wire_len: u32::try_from(len).unwrap(),
            time: Time(time),
            link: LinkType::Ethernet,
            ..Frame::default()
        };
        shadow.remember(9, ends, &frame);
    }

    #[test]
    fn what_was_left_in_the_last_three_seconds_comes_back_in_order_and_once() {
        let mut shadow = Shadow::default();
        (0..45_000u64).for_each(|n| remember(&mut shadow, n, n * SECOND / 10_000, 60));
        let mut back = Vec::new();
        // Half of the flows still have an owner.
        let odd = |ends: &Ends, _| (ends.source_port % 2 == 1).then_some(9);
        shadow.review(odd, |left| back.push(u64::from_le_bytes(*left.bytes.first_chunk().unwrap())));
        assert!(back.is_sorted() && back.iter().all(|n| n % 2 == 0));
        assert!((15_000..17_500).contains(&back.len()), "three seconds of every second frame: {}", back.len());
        assert_eq!(back.last(), Some(&44_998));
        let mut again = 0usize;
        shadow.review(odd, |_| again += 1);
        assert_eq!(again, 0);
        shadow.review(|_, _| None, |_| again += 1);
        assert!(again.abs_diff(back.len()) <= 1, "{again} of {}", back.len());
        assert_eq!(shadow.forgotten(), Count::default());
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_early_is_counted() {
        let mut shadow = Shadow::default();
        (0..20_000u64).for_each(|n| remember(&mut shadow, n, n, 1_500));
        assert!(shadow.chunks.len() <= CHUNKS_MAX && shadow.forgotten().packets > 10_000);
        let mut kept = 0;
        shadow.review(|_, _| None, |_| kept += 1);
        assert_eq!(kept + shadow.forgotten().packets, 20_000);
        // An old trickle does not hold what came before it.
        (0..100u64).for_each(|n| remember(&mut shadow, n, SECOND + n * SECOND / 10, 60));
        assert!(shadow.chunks.len() < 20);
    }
}
