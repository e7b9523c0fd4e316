//! Traffic made from a seed: devices of one network that resolve names, browse, speak TLS and move bulk data, among
//! each other and to the outside. The same seed gives the same bytes at the same packet times, on every machine.
//!
//! Conversations open at a steady rate; each is a script of packets with right checksums and sequence numbers, and
//! their bulk is sized so that the wire carries the wanted rate. Time is packet time: a burst is made as fast as it is
//! asked for. Nothing is allocated after the start: bulk frames lie ready and only their heads are written.

mod message;
mod script;
mod wire;

use super::{BURST_MAX, Burst, PacketSource, Received, SourceCounters, SourceError};
use message::Messages;
use script::Conversation;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;
use thymus_record::time::SECOND;

/// Most devices.
pub const DEVICES_MAX: u32 = 60_000;

/// Frames without FCS are no shorter.
const FRAME_BYTES_MIN: usize = 60;

/// What to generate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Decides everything that the other fields leave open.
    pub seed: u64,
    /// Devices that talk, 2 to [`DEVICES_MAX`].
    pub devices: u32,
    /// Mean rate on the wire, in Mbit/s of frames without FCS.
    pub mbps: u32,
    /// Conversations opened a minute.
    pub connections_per_minute: u32,
    /// Mean frame length aimed at, in bytes.
    pub frame_bytes_mean: u32,
    /// Packet time of the start.
    pub start: Time,
    /// The end.
    pub limit: Limit,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            seed: 1,
            devices: 10,
            mbps: 10,
            connections_per_minute: 1000,
            frame_bytes_mean: 700,
            start: Time::from_parts(1_700_000_000, 0),
            limit: Limit::Nanoseconds(60 * SECOND),
        }
    }
}

/// When the traffic ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// After so many packets.
    Packets(u64),
    /// After so much packet time.
    Nanoseconds(u64),
}

/// A frame's bytes, made anew for each burst.
struct Slot {
    /// Bulk payload behind room for the heads; only the heads change.
    bulk: Box<[u8]>,
    /// Any other frame.
    small: Box<[u8; message::FRAME_BYTES_MAX]>,
    /// Which of the two, its length and its time.
    is_bulk: bool,
    length: usize,
    time: Time,
}

/// The source.
pub struct Generate {
    traffic: Traffic,
    random: Random,
    messages: Messages,
    conversations: Vec<Conversation>,
    free: Vec<u32>,
    /// When each open conversation sends its next packet.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    next_open: u64,
    slots: Vec<Slot>,
    now: Time,
    counters: SourceCounters,
}

impl Generate {
    /// Takes all the memory that the traffic will need.
    pub fn new(traffic: Traffic) -> Result<Generate, SourceError> {
        let wrong = |what: &str| Err(SourceError(format!("generated traffic: {what}")));
        if !(2..=DEVICES_MAX).contains(&traffic.devices) {
            return wrong(&format!("devices must be 2 to {DEVICES_MAX}, not {}", traffic.devices));
        }
        if !(1..=100_000).contains(&traffic.mbps) {
            return wrong(&format!("mbps must be 1 to 100000, not {}", traffic.mbps));
        }
        if !(1..=6_000_000).contains(&traffic.connections_per_minute) {
            return wrong("connections per minute must be 1 to 6000000");
        }
        let segment = wire::segment_bytes(traffic.frame_bytes_mean);
        let messages = Messages::new(segment);
        let slot = |_| Slot {
            bulk: message::bulk_frame(segment),
            small: Box::new([0; message::FRAME_BYTES_MAX]),
            is_bulk: false,
            length: 0,
            time: traffic.start,
        };
        // A conversation lasts about two seconds; the rest is for heavy ones that overlap.
        let open_max = traffic.connections_per_minute / 60 * 8 + 256;
        Ok(Generate {
            traffic,
            random: Random(traffic.seed),
            messages,
            conversations: vec![Conversation::default(); usize::try_from(open_max).unwrap_or_default()],
            free: (0..open_max).rev().collect(),
            due: BinaryHeap::with_capacity(usize::try_from(open_max).unwrap_or_default()),
            next_open: traffic.start.0,
            slots: (0..BURST_MAX).map(slot).collect(),
            now: traffic.start,
            counters: SourceCounters::default(),
        })
    }

    /// Writes all the traffic to a pcap file with nanoseconds. Gives the number of packets.
    pub fn write_pcap(mut self, file: &mut impl Write) -> io::Result<u64> {
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
            file.write_all(&word.to_le_bytes())?;
        }
        let mut result = Ok(());
        while let Ok(Received::Frames(_)) = self.receive_burst(|burst| {
            if result.is_ok() {
                result = burst.frames.iter().try_for_each(|frame| write_packet(file, frame));
            }
        }) {}
        result.map(|()| self.counters.received.packets)
    }

    /// Makes the next packet in a slot; false at the end of the traffic.
    fn make(&mut self, number: usize) -> bool {
        if let Limit::Packets(packets) = self.traffic.limit
            && self.counters.received.packets >= packets
        {
            return false;
        }
        loop {
            let due = self.due.peek().map_or(u64::MAX, |Reverse((time, _))| *time);
            if self.next_open.min(due) >= self.end() {
                return false;
            }
            if due < self.next_open {
                break;
            }
            self.open();
        }
        let (Some(Reverse((time, which))), Some(slot)) = (self.due.pop(), self.slots.get_mut(number)) else {
            return false;
        };
        let Some(conversation) = self.conversations.get_mut(usize::try_from(which).unwrap_or_default()) else {
            return false;
        };
        let (made, wait) = conversation.step(&self.messages, &mut slot.bulk, &mut slot.small[..]);
        (slot.is_bulk, slot.length, slot.time) = (made.is_bulk, made.length.max(FRAME_BYTES_MIN), Time(time));
        self.now = Time(time);
        match wait {
            Some(wait) => self.due.push(Reverse((time + wait, which))),
            None => self.free.push(which),
        }
        self.counters.received.add(u64::try_from(slot.length).unwrap_or_default());
        true
    }

    /// Packet time of the end.
    fn end(&self) -> u64 {
        match self.traffic.limit {
            Limit::Packets(_) => u64::MAX,
            Limit::Nanoseconds(length) => self.traffic.start.0.saturating_add(length),
        }
    }

    /// Opens a conversation; where all are in use the next one waits its turn.
    fn open(&mut self) {
        let gap = 60 * SECOND / u64::from(self.traffic.connections_per_minute);
        if let Some(which) = self.free.pop()
            && let Some(place) = self.conversations.get_mut(usize::try_from(which).unwrap_or_default())
        {
            *place = Conversation::new(&self.traffic, &mut self.random);
            self.due.push(Reverse((self.next_open, which)));
        }
        // Half to one and a half gaps.
        self.next_open += gap / 2 + self.random.below(gap.max(1));
    }
}

fn write_packet(file: &mut impl Write, frame: &Frame<'_>) -> io::Result<()> {
    let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
    let (seconds, nanoseconds) = (frame.time.0 / SECOND, frame.time.0 % SECOND);
    for word in [u32::try_from(seconds).unwrap_or(u32::MAX), u32::try_from(nanoseconds).unwrap_or_default(), length] {
        file.write_all(&word.to_le_bytes())?;
    }
    file.write_all(&frame.wire_len.to_le_bytes())?;
    file.write_all(frame.bytes)
}

impl PacketSource for Generate {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        let mut count = 0;
        while count < BURST_MAX && self.make(count) {
            count += 1;
        }
        if count == 0 {
            return Ok(Received::End);
        }
        let frames: [Frame<'_>; BURST_MAX] = std::array::from_fn(|number| {
            let Some(slot) = self.slots.get(number) else { return frame(&[], self.now) };
            let bytes = if slot.is_bulk { &slot.bulk[..] } else { &slot.small[..] };
            frame(bytes.get(..slot.length).unwrap_or_default(), slot.time)
        });
        each(Burst { frames: frames.get(..count).unwrap_or_default(), now: self.now });
        Ok(Received::Frames(count))
    }

    fn counters(&mut self) -> SourceCounters {
        self.counters
    }
}

fn frame(bytes: &[u8], time: Time) -> Frame<'_> {
    let wire_len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Frame { bytes, wire_len, time, link: LinkType::Ethernet, port: 0, ..Frame::default() }
}

/// Numbers from a seed (splitmix64): small, and the same for ever, which a library does not promise.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `bound` - 1.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

#[cfg(test)]
mod tests;
