//! What a capture port shows beside its packets: whose frames come, and its link. The poll loop notes it, the watcher
//! (`silence.rs`) reads it and judges.
//!
//! Frames are looked at until the port has shown enough of other hosts' traffic, anew at each observation; a port with
//! traffic costs one load a burst.

use crate::source::Card;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use thymus_dissect::Frame;

/// Frames between other hosts in one observation that show a working span.
pub const ENOUGH: u64 = 16;

/// The link of a port.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Link {
    /// Not asked yet, or nothing that has one.
    #[default]
    Unknown,
    /// Something is connected.
    Up,
    /// Nothing is connected.
    Down,
    /// Linux has switched the interface off.
    Off,
}

/// VLANs of the frames looked at.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Tags {
    /// No frame yet.
    #[default]
    None,
    /// All in this one; 0 is without a tag.
    One(u16),
    /// Of several.
    Several,
}

impl Tags {
    /// With those of other frames.
    #[must_use]
    pub fn and(self, other: Tags) -> Tags {
        match (self, other) {
            (Tags::None, only) | (only, Tags::None) => only,
            (Tags::One(a), Tags::One(b)) if a == b => self,
            _ => Tags::Several,
        }
    }

    fn to_word(self) -> u32 {
        match self {
            Tags::None => 0,
            Tags::One(id) => u32::from(id) + 1,
            Tags::Several => u32::MAX,
        }
    }

    fn from_word(word: u32) -> Tags {
        match word {
            0 => Tags::None,
            word => u16::try_from(word - 1).map_or(Tags::Several, Tags::One),
        }
    }
}

/// Frames by whose they are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Seen {
    /// To all or to many.
    pub group: u64,
    /// From or to the card itself.
    pub own: u64,
    /// Between other hosts; what a span is for.
    pub others: u64,
    /// Their VLANs.
    pub tags: Tags,
}

impl Seen {
    /// With more of them.
    #[must_use]
    pub fn and(self, more: Seen) -> Seen {
        Seen {
            group: self.group + more.group,
            own: self.own + more.own,
            others: self.others + more.others,
            tags: self.tags.and(more.tags),
        }
    }

    /// All of them.
    pub fn frames(&self) -> u64 {
        self.group + self.own + self.others
    }

    fn add(&mut self, frame: &Frame<'_>, card: Option<[u8; 6]>) {
        let Some((target, rest)) = frame.bytes.split_first_chunk::<6>() else { return };
        let Some((source, rest)) = rest.split_first_chunk::<6>() else { return };
        let tag = match *rest {
            [0x81, 0x00, high, low, ..] | [0x88, 0xa8, high, low, ..] => u16::from_be_bytes([high, low]) & 0xfff,
            _ => 0,
        };
        self.tags = self.tags.and(Tags::One(tag));
        match target {
            [first, ..] if first & 1 == 1 => self.group += 1,
            _ if card.is_some_and(|card| card == *target || card == *source) => self.own += 1,
            _ => self.others += 1,
        }
    }
}

/// What a port shows, by its poll loop to the watcher.
#[derive(Debug)]
pub struct Sight {
    card: Card,
    wanted: AtomicU64,
    group: AtomicU64,
    own: AtomicU64,
    others: AtomicU64,
    tags: AtomicU32,
    asked: AtomicBool,
    link: AtomicU8,
}

impl Sight {
    /// Of a port on this card.
    pub fn new(card: Card) -> Sight {
        Sight {
            card,
            wanted: AtomicU64::new(ENOUGH),
            group: AtomicU64::new(0),
            own: AtomicU64::new(0),
            others: AtomicU64::new(0),
            tags: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            link: AtomicU8::new(0),
        }
    }

    /// Looks at a burst; by the poll loop.
    pub fn look(&self, frames: &[Frame<'_>]) {
        let wanted = self.wanted.load(Relaxed);
        if wanted == 0 || frames.is_empty() {
            return;
        }
        let mut seen = Seen { tags: Tags::from_word(self.tags.load(Relaxed)), ..Seen::default() };
        frames.iter().for_each(|frame| seen.add(frame, self.card.address));
        for (place, more) in [(&self.group, seen.group), (&self.own, seen.own), (&self.others, seen.others)] {
            place.fetch_add(more, Relaxed);
        }
        self.tags.store(seen.tags.to_word(), Relaxed);
        self.wanted.store(wanted.saturating_sub(seen.others), Relaxed);
    }

    /// Whether the watcher wants to know the link; by the poll loop, which then tells it.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed) && self.asked.swap(false, Relaxed)
    }

    /// The link is so.
    pub fn tell(&self, link: Link) {
        self.link.store(if link == Link::Unknown { 0 } else { 1 + u8::from(link == Link::Down) }, Relaxed);
    }

    /// What was seen since the call before; by the watcher.
    pub fn take(&self) -> Seen {
        let seen = Seen {
            group: self.group.swap(0, Relaxed),
            own: self.own.swap(0, Relaxed),
            others: self.others.swap(0, Relaxed),
            tags: Tags::from_word(self.tags.swap(0, Relaxed)),
        };
        self.wanted.store(ENOUGH, Relaxed);
        seen
    }

    /// The link: what Linux says of an interface, else what the poll loop said last; it is asked for the next time.
    pub fn link(&self) -> Link {
        if let Some(interface) = &self.card.interface {
            return link_of(&Path::new("/sys/class/net").join(interface));
        }
        self.asked.store(true, Relaxed);
        match self.link.load(Relaxed) {
            0 => Link::Unknown,
            1 => Link::Up,
            _ => Link::Down,
        }
    }

    /// The card's address as its machine's settings show it; empty where it has none.
    pub fn address(&self) -> String {
        let Some(address) = self.card.address else { return String::new() };
        address.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// The link of a Linux interface, by its folder in /sys/class/net. An interface that is off has no carrier to read.
fn link_of(folder: &Path) -> Link {
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default().trim().to_owned();
    let flags = u32::from_str_radix(read("flags").trim_start_matches("0x"), 16);
    match (flags, read("carrier").as_str(), read("operstate").as_str()) {
        (Ok(flags), ..) if flags & 1 == 0 => Link::Off,
        (_, "0", _) | (_, _, "down" | "lowerlayerdown") => Link::Down,
        (_, "1", _) => Link::Up,
        _ => Link::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn frame(target: [u8; 6], source: [u8; 6], rest: &[u8]) -> Vec<u8> {
        [&target[..], &source, rest].concat()
    }

    fn seen(frames: &[Vec<u8>]) -> (Sight, Seen) {
        let sight = Sight::new(Card { address: Some(CARD), interface: None });
        let frames: Vec<Frame<'_>> = frames.iter().map(|bytes| Frame { bytes, ..Frame::default() }).collect();
        sight.look(&frames);
        let seen = sight.take();
        (sight, seen)
    }

    #[test]
    fn frames_are_told_apart_by_whose_they_are_and_by_vlan() {
        let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let plain = [8, 0, 0x45];
        let tagged = [0x81, 0, 0x20, 12, 8, 0];
        let (sight, all) = seen(&[
            frame([255; 6], a, &plain),
            frame([0x33, 0x33, 0, 0, 0, 1], a, &plain),
            frame(CARD, a, &plain),
            frame(a, CARD, &plain),
            frame(b, a, &plain),
            vec![1, 2, 3],
        ]);
        assert_eq!(all, Seen { group: 2, own: 2, others: 1, tags: Tags::One(0) });
        assert_eq!(sight.take(), Seen::default(), "each is told once");
        assert_eq!(seen(&[frame(b, a, &tagged), frame([255; 6], a, &tagged)]).1.tags, Tags::One(12));
        assert_eq!(seen(&[frame(b, a, &tagged), frame(b, a, &plain)]).1.tags, Tags::Several);
    }

    #[test]
    fn a_port_with_traffic_is_looked_at_no_longer_until_the_next_observation() {
        let bytes = frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], &[8, 0]);
        let frames = [Frame { bytes: &bytes, ..Frame::default() }; 8];
        let sight = Sight::new(Card::default());
        (0..50).for_each(|_| sight.look(&frames));
        assert_eq!(sight.take().others, ENOUGH);
        sight.look(&frames);
        assert_eq!(sight.take().others, 8);
    }

    #[test]
    fn linux_interfaces_that_are_up_unplugged_and_off_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let with = |flags: &str, carrier: &str, state: &str| {
            for (file, text) in [("flags", flags), ("carrier", carrier), ("operstate", state)] {
                std::fs::write(folder.path().join(file), format!("{text}\n")).unwrap();
            }
            link_of(folder.path())
        };
        assert_eq!(with("0x1103", "1", "up"), Link::Up);
        assert_eq!(with("0x1103", "1", "unknown"), Link::Up);
        assert_eq!(with("0x1103", "0", "down"), Link::Down);
        assert_eq!(with("0x1002", "", "down"), Link::Off);
        assert_eq!(link_of(Path::new("/nowhere")), Link::Unknown);
    }

    #[test]
    fn the_poll_loop_is_asked_for_a_link_that_linux_does_not_know() {
        let sight = Sight::new(Card::default());
        assert!(!sight.is_asked());
        assert_eq!(sight.link(), Link::Unknown);
        assert!(sight.is_asked() && !sight.is_asked());
        for link in [Link::Up, Link::Down, Link::Unknown] {
            sight.tell(link);
            assert_eq!(sight.link(), link);
        }
    }
}
