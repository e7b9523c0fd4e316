//! What a vSensor's span sees of its agents' addresses. Poll loops count it, by address, only where the Ethernet address
//! is the agent's too; whoever serves the agents compares it with what they see, and says which addresses the span covers.
//!
//! A poll loop pays one load a burst where no agent claims anything, else two multiplications and two loads a frame.

use crate::packet::passed_of;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use thymus_dissect::Frame;
use thymus_dissect::decode::decode;
use thymus_record::message::Passed;
use thymus_record::time::SECOND;
use thymus_record::{Address, Mac, Time};

/// A span that has not seen both directions of an address for this long does not cover it.
const LAPSES_AFTER: u64 = 10 * SECOND;
/// It covers what it has seen all of for this long.
const HOLDS_AFTER: u64 = 3 * SECOND;
/// What is compared: what passed between now and at least so long ago.
const COMPARED: u64 = SECOND / 2;
/// A span is ahead of an agent's reports by up to so much.
const AHEAD: u64 = SECOND / 5;
/// Reports in a row that must show a deficit.
const SHORT_REPORTS: u32 = 3;
/// After a deficit an address is not covered for so long, twice as long each time, until it was covered well once.
const WAITS: (u64, u64) = (5 * SECOND, 300 * SECOND);
const COVERED_WELL: u64 = 60 * SECOND;
/// Reports that are remembered.
const POINTS_MAX: usize = 32;

/// What a span has seen of one address.
#[derive(Default, Debug)]
pub struct Counts {
    bytes: AtomicU64,
    bare: AtomicU64,
    from: AtomicU64,
    to: AtomicU64,
}

impl Counts {
    fn add(&self, passed: Passed, is_source: bool) {
        self.bytes.fetch_add(passed.bytes, Ordering::Relaxed);
        self.bare.fetch_add(passed.bare, Ordering::Relaxed);
        (if is_source { &self.from } else { &self.to }).fetch_add(1, Ordering::Relaxed);
    }

    fn passed(&self) -> Passed {
        let (bytes, bare) = (self.bytes.load(Ordering::Relaxed), self.bare.load(Ordering::Relaxed));
        Passed { bytes, packets: 0, bare }
    }
}

/// An address that is looked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The address.
    pub address: Address,
    /// The Ethernet address that it must have.
    pub mac: Mac,
    /// Where it is counted.
    pub counts: Arc<Counts>,
}

/// Bits of the filter in front of the table.
const FILTER_BITS: u64 = 4_096;

#[derive(Debug)]
struct Table {
    filter: Box<[u64]>,
    slots: Box<[Option<Wanted>]>,
}

fn hash_of(Address(bytes): Address) -> u64 {
    let (high, low) = bytes.split_at(8);
    let half = |half: &[u8]| half.first_chunk::<8>().copied().map_or(0, u64::from_le_bytes);
    let word = (half(high) ^ half(low).rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ word >> 32
}

impl Table {
    fn new(wanted: &[Wanted]) -> Table {
        let size = (wanted.len() * 2 + 1).next_power_of_two();
        let mut slots: Box<[Option<Wanted>]> = vec![None; size].into_boxed_slice();
        let mut filter = vec![0u64; 64].into_boxed_slice();
        for each in wanted {
            let hash = hash_of(each.address);
            if let Some(word) = filter.get_mut(usize::try_from(hash % FILTER_BITS / 64).unwrap_or_default()) {
                *word |= 1 << (hash % 64);
            }
            let place = (0..size).map(|step| place_of(hash, step, size));
            for at in place {
                if let Some(slot) = slots.get_mut(at)
                    && slot.is_none()
                {
                    *slot = Some(each.clone());
                    break;
                }
            }
        }
        Table { filter, slots }
    }

    /// Where an address is counted, if it has this Ethernet address. One that several agents have is several times here.
    #[inline]
    fn find(&self, address: Address, mac: &[u8]) -> Option<&Counts> {
        // What is sent to all reaches the address too.
        let to_all = mac.first().is_some_and(|first| first & 1 != 0);
        let hash = hash_of(address);
        let word = self.filter.get(usize::try_from(hash % FILTER_BITS / 64).unwrap_or_default())?;
        if word & 1 << (hash % 64) == 0 {
            return None;
        }
        let size = self.slots.len();
        (0..size).map_while(|step| self.slots.get(place_of(hash, step, size))?.as_ref()).find_map(|wanted| {
            (wanted.address == address && (to_all || wanted.mac.0 == mac)).then_some(wanted.counts.as_ref())
        })
    }
}

fn place_of(hash: u64, step: usize, size: usize) -> usize {
    (usize::try_from(hash >> 12).unwrap_or_default().wrapping_add(step)) & (size - 1)
}

/// What is looked for, shared by those who want it and those who look.
#[derive(Default, Debug)]
pub struct SpanWatch {
    generation: AtomicU64,
    table: RwLock<Option<Arc<Table>>>,
}

impl SpanWatch {
    /// From now on these are looked for.
    pub fn want(&self, wanted: &[Wanted]) {
        let table = (!wanted.is_empty()).then(|| Arc::new(Table::new(wanted)));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// A poll loop's look at a watch.
#[derive(Default, Debug)]
pub struct SpanEye {
    watch: Arc<SpanWatch>,
    generation: u64,
    table: Option<Arc<Table>>,
}

impl SpanEye {
    /// An eye of this watch.
    pub fn new(watch: Arc<SpanWatch>) -> SpanEye {
        SpanEye { watch, ..SpanEye::default() }
    }

    /// True if anything is looked for. Called once a burst.
    #[inline]
    pub fn is_open(&mut self) -> bool {
        let generation = self.watch.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.table.clone_from(&self.watch.table.read().unwrap_or_else(PoisonError::into_inner));
        }
        self.table.is_some()
    }

    /// A frame between two hosts, as an Ethernet port delivered it.
    #[inline]
    pub fn see(&self, frame: &Frame<'_>, (source, target): (Address, Address)) {
        let Some(table) = &self.table else { return };
        let (Some(to), Some(from)) = (frame.bytes.get(..6), frame.bytes.get(6..12)) else { return };
        let (source, target) = (table.find(source, from), table.find(target, to));
        if source.is_some() || target.is_some() {
            let passed = passed_of(&decode(frame));
            for (counts, is_source) in [(source, true), (target, false)] {
                if let Some(counts) = counts {
                    counts.add(passed, is_source);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Time,
    own: Passed,
    span: Passed,
}

/// One address of an agent: what the agent sees of it beside what the span sees.
#[derive(Debug)]
pub struct Track {
    counts: Arc<Counts>,
    own: Passed,
    /// Packets of each direction, and when the last one was there.
    directions: [(u64, Option<Time>); 2],
    points: VecDeque<Point>,
    short: u32,
    /// Since when nothing was missing, and what the agent had seen then.
    held: Option<(Time, Passed)>,
    waits_until: Time,
    waits: u64,
    is_covered: bool,
    covered_since: Time,
}

impl Track {
    /// A track of what is counted here.
    pub fn new(counts: Arc<Counts>) -> Track {
        Track {
            counts,
            own: Passed::default(),
            directions: [(0, None); 2],
            points: VecDeque::with_capacity(POINTS_MAX),
            short: 0,
            held: None,
            waits_until: Time(0),
            waits: WAITS.0,
            is_covered: false,
            covered_since: Time(0),
        }
    }

    /// Where the span counts it.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// True if the span covers it.
    pub fn is_covered(&self) -> bool {
        self.is_covered
    }

    /// The agent has seen so much since its last report; true if that changes whether the span covers the address.
    pub fn report(&mut self, own: Passed, now: Time) -> bool {
        self.own += own;
        let is_fresh = self.is_fresh(now);
        let point = Point { at: now, own: self.own, span: self.counts.passed() };
        if self.points.len() >= POINTS_MAX {
            self.points.pop_front();
        }
        let then = self.points.iter().rposition(|point| now.since(point.at) >= COMPARED);
        self.points.push_back(point);
        let Some(then) = then else { return false };
        let Some(from) = self.points.get(then).copied() else { return false };
        let earlier = self.points.iter().take(then + 1).rev().find(|point| from.at.since(point.at) >= AHEAD);
        let Some(earlier) = earlier else { return false };
        let seen = minus(point.own, from.own);
        let spanned = minus(point.span, earlier.span);
        let is_short = spanned.bytes < seen.bytes - seen.bytes / 100 || spanned.bare < seen.bare - seen.bare / 100;
        self.short = if is_short { self.short + 1 } else { 0 };
        let was = self.is_covered;
        if is_short {
            self.held = None;
        } else if self.held.is_none() {
            self.held = Some((now, self.own));
        }
        if self.is_covered && self.short >= SHORT_REPORTS {
            self.is_covered = false;
            if now.since(self.covered_since) > COVERED_WELL {
                self.waits = WAITS.0;
            }
            self.waits_until = now + self.waits;
            self.waits = (self.waits * 2).min(WAITS.1);
        }
        self.is_covered &= is_fresh;
        let (since, before) = self.held.unwrap_or((now, self.own));
        if !self.is_covered && is_fresh && now >= self.waits_until {
            self.is_covered = now.since(since) >= HOLDS_AFTER && before != self.own;
            self.covered_since = now;
        }
        was != self.is_covered
    }

    /// True if both directions were seen in the last seconds.
    fn is_fresh(&mut self, now: Time) -> bool {
        for ((known, at), counted) in self.directions.iter_mut().zip([&self.counts.from, &self.counts.to]) {
            let counted = counted.load(Ordering::Relaxed);
            if counted != *known {
                (*known, *at) = (counted, Some(now));
            }
        }
        self.directions.iter().all(|(_, at)| at.is_some_and(|at| now.since(at) < LAPSES_AFTER))
    }
}

fn minus(all: Passed, part: Passed) -> Passed {
    let (bytes, bare) = (all.bytes.saturating_sub(part.bytes), all.bare.saturating_sub(part.bare));
    Passed { bytes, packets: 0, bare }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = SECOND / 10;

    fn pass(counts: &Counts) {
        counts.add(Passed { bytes: 600, packets: 0, bare: 1 }, true);
        counts.add(Passed { bytes: 400, packets: 0, bare: 1 }, false);
    }

    #[test]
    fn a_span_covers_what_it_sees_all_of_and_a_dead_one_is_known_within_a_second() {
        let mut track = Track::new(Arc::default());
        let (mut covered_at, mut void_at) = (None, None);
        for step in 0..200u64 {
            let now = Time(SECOND + step * STEP);
            if step < 100 {
                pass(&track.counts);
            }
            let changed = track.report(Passed { bytes: 1_000, packets: 0, bare: 2 }, now);
            match (changed, track.is_covered()) {
                (true, true) => covered_at = covered_at.or(Some(step)),
                (true, false) => void_at = void_at.or(Some(step)),
                _ => {}
            }
        }
        assert!((30..50).contains(&covered_at.unwrap()), "{covered_at:?}");
        assert!((100..110).contains(&void_at.unwrap()), "{void_at:?}");
    }

    #[test]
    fn a_span_that_fails_often_is_trusted_later_each_time_and_one_that_fails_rarely_is_not() {
        for (covered_for, seconds) in [(10, [4..=6, 9..=11, 19..=21]), (90, [4..=6, 4..=6, 4..=6])] {
            let (mut track, mut step) = (Track::new(Arc::default()), 0);
            let mut report = |spanned: bool| {
                step += 1;
                if spanned {
                    pass(&track.counts);
                }
                track.report(Passed { bytes: 1_000, packets: 0, bare: 2 }, Time(SECOND + step * STEP));
                track.is_covered()
            };
            while !report(true) {}
            for expected in seconds {
                (0..covered_for * 10).for_each(|_| assert!(report(true)));
                while report(false) {}
                let mut waited = 0;
                while !report(true) {
                    waited += 1;
                }
                assert!(expected.contains(&(waited / 10)), "{covered_for} s covered: {waited}");
            }
        }
    }

    #[test]
    fn a_span_that_sees_a_part_or_one_direction_covers_nothing() {
        for part in [2, 3] {
            let mut track = Track::new(Arc::default());
            for step in 0..400u64 {
                let now = Time(SECOND + step * STEP);
                if part == 3 {
                    track.counts.add(Passed { bytes: 2_000, packets: 0, bare: 4 }, true);
                } else if step % part == 0 {
                    pass(&track.counts);
                }
                track.report(Passed { bytes: 1_000, packets: 0, bare: 2 }, now);
                assert!(!track.is_covered(), "step {step}");
            }
        }
    }

    #[test]
    fn an_address_is_found_among_others_by_its_ethernet_address() {
        let wanted: Vec<Wanted> = (0..200u8)
            .map(|n| Wanted {
                address: Address::from_v4([10, 0, 0, n]),
                mac: Mac([2, 0, 0, 0, 0, n]),
                counts: Arc::default(),
            })
            .collect();
        let table = Table::new(&wanted);
        for n in 0..=255u8 {
            let found = table.find(Address::from_v4([10, 0, 0, n]), &[2, 0, 0, 0, 0, n]);
            assert_eq!(found.is_some(), n < 200, "{n}");
            assert!(table.find(Address::from_v4([10, 0, 0, n]), &[2, 9, 0, 0, 0, n]).is_none());
            assert_eq!(table.find(Address::from_v4([10, 0, 0, n]), &[0xff; 6]).is_some(), n < 200, "asked for by ARP");
        }
    }
}
