//! Timers of all flows: a wheel of one-second places, each a list through the table's places. A flow's packets do not
//! touch it: its place is looked at when the second comes, and a flow whose deadline moved on is put where it belongs.

use thymus_record::Time;
use thymus_record::time::SECOND;

/// Places in the wheel; a longer deadline is looked at once more on the way.
const PLACES: usize = 512;
/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
    place: u32,
}

/// The wheel over a table of slots.
pub(super) struct Wheel {
    heads: Vec<u32>,
    links: Vec<Link>,
    /// The last second that was looked at.
    second: u64,
}

fn at(number: u32) -> usize {
    number as usize
}

impl Wheel {
    /// A wheel for so many slots.
    pub(super) fn new(slots: usize) -> Wheel {
        let free = Link { before: NONE, after: NONE, place: NONE };
        Wheel { heads: vec![NONE; PLACES], links: vec![free; slots], second: 0 }
    }

    /// Puts a slot where its deadline is; it must not be in the wheel.
    pub(super) fn insert(&mut self, slot: u32, deadline: Time) {
        let due = (deadline.0 / SECOND + 1).clamp(self.second + 1, self.second + PLACES as u64 - 1);
        let place = u32::try_from(due % PLACES as u64).unwrap_or_default();
        let Some(head) = self.heads.get_mut(at(place)) else { return };
        let after = std::mem::replace(head, slot);
        if let Some(link) = self.links.get_mut(at(after)) {
            link.before = slot;
        }
        if let Some(link) = self.links.get_mut(at(slot)) {
            *link = Link { before: NONE, after, place };
        }
    }

    /// Takes a slot out, if it is in.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(at(slot)) else { return };
        let Link { before, after, place } = std::mem::replace(link, Link { before: NONE, after: NONE, place: NONE });
        if place == NONE {
            return;
        }
        if let Some(link) = self.links.get_mut(at(after)) {
            link.before = before;
        }
        match self.links.get_mut(at(before)) {
            Some(link) => link.after = after,
            None => {
                if let Some(head) = self.heads.get_mut(at(place)) {
                    *head = after;
                }
            }
        }
    }

    /// The next slot whose second has passed at `now`, taken out of the wheel. Call until `None`.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<u32> {
        let target = now.0 / SECOND;
        if target > self.second + PLACES as u64 {
            // After a leap every place is looked at once.
            self.second = target - PLACES as u64;
        }
        while self.second < target {
            let place = usize::try_from((self.second + 1) % PLACES as u64).unwrap_or_default();
            match self.heads.get(place).copied() {
                Some(slot) if slot != NONE => {
                    self.remove(slot);
                    return Some(slot);
                }
                _ => self.second += 1,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_comes_up_once_after_its_deadline_and_not_before() {
        let mut wheel = Wheel::new(1000);
        let deadline = |slot: u32| Time(u64::from(slot * 7919 % 400) * SECOND + 5);
        (0..1000).for_each(|slot| wheel.insert(slot, deadline(slot)));
        wheel.remove(500);
        let mut seen = 0;
        for second in 0..450 {
            let now = Time(second * SECOND);
            while let Some(slot) = wheel.pop_due(now) {
                assert!(deadline(slot) <= now, "slot {slot} is early");
                assert_ne!(slot, 500);
                seen += 1;
            }
        }
        assert_eq!(seen, 999);
    }

    #[test]
    fn a_leap_in_time_brings_all() {
        let mut wheel = Wheel::new(10);
        (0..10).for_each(|slot| wheel.insert(slot, Time(u64::from(slot) * 30 * SECOND)));
        let mut seen = 0;
        while wheel.pop_due(Time(1 << 60)).is_some() {
            seen += 1;
        }
        assert_eq!(seen, 10);
    }
}
