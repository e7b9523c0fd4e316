//! Dealing: a virtual NIC with one queue gets one receiving core, which deals frames to workers by a hash of the
//! innermost address pair. Both directions of a flow, its fragments and its ICMP errors' carriers meet in one worker,
//! also across ports. Frames are copied into parcels, and whole parcels travel over single-producer rings; emptied
//! parcels come back the same way, so nothing is allocated after the start.

use crate::source::{BURST_MAX, Burst, PacketSource, Received, SourceCounters, SourceError};
use crate::worker::LoopBody;
use ringbuf::traits::{Consumer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use thymus_dissect::decode::{Content, decode};
use thymus_dissect::{Frame, LinkType, Origin};
use thymus_record::ledger::Count;
use thymus_record::{Address, Time};

/// Bytes of frames in a parcel; a larger frame gets a parcel of its own size once, which then stays as large.
const PARCEL_BYTES: usize = 256 << 10;
/// A worker without frames hears of the time this often: 10 ms.
const TICK: u64 = 10_000_000;
/// Parcels on their way to a worker, full and empty together: 16 MiB, which is 300 ms at 400 Mbit/s.
const PARCELS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    len: usize,
    wire_len: u32,
    time: Time,
    link: LinkType,
    port: u16,
    origin: Origin,
}

/// Frames copied for one worker.
#[derive(Debug, Default)]
struct Parcel {
    bytes: Vec<u8>,
    frames: Vec<Place>,
    now: Time,
}

impl Parcel {
    fn sized() -> Parcel {
        Parcel { bytes: Vec::with_capacity(PARCEL_BYTES), frames: Vec::with_capacity(BURST_MAX), now: Time(0) }
    }

    fn is_full(&self) -> bool {
        self.frames.len() >= BURST_MAX || self.bytes.len() >= PARCEL_BYTES / 2
    }

    fn push(&mut self, frame: &Frame<'_>) {
        let Frame { bytes, wire_len, time, link, port, origin } = *frame;
        let (start, len) = (self.bytes.len(), bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.frames.push(Place { start, len, wire_len, time, link, port, origin });
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
    }
}

/// The receiving core's end of one worker.
struct Hand {
    filling: Option<Parcel>,
    full: HeapProd<Parcel>,
    empty: HeapCons<Parcel>,
    /// The time that the worker was told last.
    told: Time,
}

impl Hand {
    /// Adds a frame; false if the worker is so late that no parcel is free.
    fn add(&mut self, frame: &Frame<'_>, now: Time) -> bool {
        if self.filling.as_ref().is_some_and(Parcel::is_full) {
            self.send(now);
        }
        if self.filling.is_none() {
            self.filling = self.empty.try_pop();
        }
        match &mut self.filling {
            Some(parcel) if !parcel.is_full() => {
                parcel.push(frame);
                true
            }
            _ => false,
        }
    }

    /// Sends what is there, or now and then an empty parcel as a tick. Ticks are few, so that a loop that finds nothing
    /// does not fill the ring with them before a worker that naps.
    fn send(&mut self, now: Time) {
        if self.filling.is_none() && now.since(self.told) < TICK {
            return;
        }
        self.told = now;
        let Some(mut parcel) = self.filling.take().or_else(|| self.empty.try_pop()) else { return };
        parcel.now = now;
        self.filling = self.full.try_push(parcel).err();
    }
}

/// What the receiving core counts, for the worker that keeps its account: frames given up, and the sources' counters.
pub type DealNotes = Mutex<Vec<(Count, SourceCounters)>>;

/// The receiving core's ends of all workers.
pub struct Dealer {
    hands: Vec<Hand>,
    ended: Arc<AtomicBool>,
    notes: Arc<DealNotes>,
}

/// A worker's end: a source of the frames dealt to it.
pub struct DealtSource {
    full: HeapCons<Parcel>,
    empty: HeapProd<Parcel>,
    ended: Arc<AtomicBool>,
    now: Time,
}

/// A dealer and its workers' sources.
pub fn deal_to(workers: usize) -> (Dealer, Vec<DealtSource>) {
    let ended = Arc::new(AtomicBool::new(false));
    let (mut hands, mut sources) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let (full_in, full_out) = HeapRb::new(PARCELS).split();
        let (mut empty_in, empty_out) = HeapRb::new(PARCELS).split();
        for _ in 0..PARCELS {
            let _ = empty_in.try_push(Parcel::sized());
        }
        hands.push(Hand { filling: None, full: full_in, empty: empty_out, told: Time(0) });
        sources.push(DealtSource { full: full_out, empty: empty_in, ended: Arc::clone(&ended), now: Time(0) });
    }
    (Dealer { hands, ended, notes: Arc::default() }, sources)
}

impl Dealer {
    /// Deals a burst and loses nothing: while a worker has no room, `wait` is called.
    pub fn deal_all(&mut self, burst: Burst<'_>, wait: impl Fn()) {
        let workers = self.hands.len().max(1) as u64;
        for frame in burst.frames {
            let worker = usize::try_from(pair_hash(frame) % workers).unwrap_or_default();
            let Some(hand) = self.hands.get_mut(worker) else { return };
            while !hand.add(frame, burst.now) {
                wait();
            }
        }
        self.hands.iter_mut().for_each(|hand| hand.send(burst.now));
    }

    /// Deals a burst. `late` is told of every frame that its worker has no room for.
    pub fn deal(&mut self, burst: Burst<'_>, mut late: impl FnMut(&Frame<'_>)) {
        for frame in burst.frames {
            let worker = usize::try_from(pair_hash(frame) % self.hands.len().max(1) as u64).unwrap_or_default();
            if !self.hands.get_mut(worker).is_some_and(|hand| hand.add(frame, burst.now)) {
                late(frame);
            }
        }
        for hand in &mut self.hands {
            hand.send(burst.now);
        }
    }
}

impl Dealer {
    /// Where its counts are read.
    pub fn notes(&self) -> Arc<DealNotes> {
        Arc::clone(&self.notes)
    }

    fn note(&self, port: u16, change: impl FnOnce(&mut (Count, SourceCounters))) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::from(port);
        if notes.len() <= at {
            notes.resize(at + 1, Default::default());
        }
        if let Some(entry) = notes.get_mut(at) {
            change(entry);
        }
    }
}

impl LoopBody for Dealer {
    fn burst(&mut self, burst: Burst<'_>) {
        let mut late: Vec<(u16, u32)> = Vec::new();
        self.deal(burst, |frame| late.push((frame.port, frame.wire_len)));
        for (port, wire_len) in late {
            self.note(port, |entry| entry.0.add(u64::from(wire_len)));
        }
    }

    fn settle(&mut self, port: u16, counters: &SourceCounters) {
        self.note(port, |entry| entry.1 = *counters);
    }
}

impl Drop for Dealer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// A hash of the innermost address pair, the same in both directions; of nothing for frames without addresses.
fn pair_hash(frame: &Frame<'_>) -> u64 {
    let mix = |Address(bytes): Address| {
        let (high, low) = bytes.split_at(8);
        let half = |half: &[u8]| half.first_chunk::<8>().copied().map_or(0, u64::from_ne_bytes);
        let folded = half(high) ^ half(low);
        folded.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    match decode(frame).content {
        Content::Ip(datagram) => {
            let sum = mix(datagram.source).wrapping_add(mix(datagram.target));
            sum ^ (sum >> 32)
        }
        Content::Arp(arp) => mix(arp.sender).wrapping_add(mix(arp.target)),
        Content::Other => 0,
    }
}

impl PacketSource for DealtSource {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        let ended = self.ended.load(Ordering::Acquire);
        let Some(mut parcel) = self.full.try_pop() else {
            if ended {
                return Ok(Received::End);
            }
            each(Burst { frames: &[], now: self.now });
            return Ok(Received::Frames(0));
        };
        self.now = self.now.max(parcel.now);
        let count = parcel.frames.len();
        let none =
            Frame { bytes: &[], wire_len: 0, time: self.now, link: LinkType::Ethernet, port: 0, ..Frame::default() };
        let mut frames = [none; BURST_MAX];
        for (frame, place) in frames.iter_mut().zip(&parcel.frames) {
            let Place { start, len, wire_len, time, link, port, origin } = *place;
            let bytes = parcel.bytes.get(start..start + len).unwrap_or_default();
            *frame = Frame { bytes, wire_len, time, link, port, origin };
        }
        each(Burst { frames: frames.get(..count).unwrap_or_default(), now: self.now });
        parcel.clear();
        let _ = self.empty.try_push(parcel);
        Ok(Received::Frames(count))
    }

    fn counters(&mut self) -> SourceCounters {
        SourceCounters::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with IPv4 and UDP from one host to another.
    fn udp(source: u8, target: u8, port: u16) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, target, 2, 0, 0, 0, 0, source, 8, 0];
        bytes.extend_from_slice(&[0x45, 0, 0, 30, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, source, 10, 0, 0, target]);
        bytes.extend_from_slice(&[port.to_be_bytes()[0], port.to_be_bytes()[1], 0, 53, 0, 10, 0, 0, 1, 2]);
        bytes
    }

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame { bytes, wire_len: 44, time: Time(1), link: LinkType::Ethernet, port: 3, ..Frame::default() }
    }

    #[test]
    fn both_directions_meet_in_one_worker_and_no_frame_is_lost_unseen() {
        let (mut dealer, mut sources) = deal_to(3);
        let mut late = 0;
        for n in 0..200u8 {
            let (there, back) = (udp(n, 255 - n, 1000), udp(255 - n, n, 1000));
            dealer.deal(Burst { frames: &[frame(&there), frame(&back)], now: Time(1) }, |_| late += 1);
            let mut seen = 0;
            for source in &mut sources {
                source
                    .receive_burst(|burst| {
                        assert!(matches!(burst.frames.len(), 0 | 2), "a pair was split");
                        seen += burst.frames.len();
                        for got in burst.frames {
                            assert!(got.bytes == there || got.bytes == back);
                        }
                    })
                    .unwrap();
            }
            assert_eq!(seen, 2);
        }
        assert_eq!(late, 0);
        drop(dealer);
        assert_eq!(sources[0].receive_burst(|_| ()).unwrap(), Received::End);
    }

    #[test]
    fn a_loop_that_finds_nothing_leaves_room_for_what_comes() {
        let (mut dealer, mut sources) = deal_to(1);
        (0..100_000u64).for_each(|at| dealer.deal(Burst { frames: &[], now: Time(at) }, |_| ()));
        let one = udp(1, 2, 3);
        dealer.deal(Burst { frames: &[frame(&one)], now: Time(100_000) }, |_| panic!("no room after ticks"));
        let mut seen = 0;
        while seen == 0 {
            sources[0].receive_burst(|burst| seen += burst.frames.len()).unwrap();
        }
    }

    #[test]
    fn a_worker_that_never_takes_makes_frames_late_not_memory_larger() {
        let (mut dealer, sources) = deal_to(1);
        let (one, mut late) = (udp(1, 2, 3), 0);
        let total = PARCELS * 2;
        for _ in 0..total {
            dealer.deal(Burst { frames: &[frame(&one)], now: Time(1) }, |_| late += 1);
        }
        let mut taken = 0;
        for mut source in sources {
            while let Ok(Received::Frames(count @ 1..)) = source.receive_burst(|_| ()) {
                taken += count;
            }
        }
        assert_eq!(taken + late, total);
        assert!(late > 0);
    }
}
