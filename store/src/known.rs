//! Which batches are held: ranges of sequences per sensor and boot, and the CRCs of recent ones, by which a batch that
//! comes again is told from a fork.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thymus_record::message::Held;
use thymus_record::{BootId, SensorId};

/// CRCs remembered per boot; older sequences count as seen before.
const RECENT_MAX: usize = 1024;
/// Boots whose CRCs are remembered, per sensor.
const RECENT_BOOTS: usize = 4;

/// All batches that the store holds.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    sensors: BTreeMap<u32, Vec<Boot>>,
}

/// The batches of one boot. A sensor's boots are kept in the order first seen.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
struct Boot {
    boot: u64,
    ranges: Vec<(u64, u64)>,
    recent: BTreeMap<u64, u32>,
}

/// What a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Not held; to be stored under this boot, which is another than its own after a fork.
    New(BootId),
    /// Held.
    SeenBefore,
}

impl Known {
    /// Judges a batch without remembering it.
    pub(crate) fn judge(&self, sensor: SensorId, boot: BootId, sequence: u64, crc: u32) -> Verdict {
        let boots = self.sensors.get(&sensor.0).map_or(&[][..], Vec::as_slice);
        let mut under = boot;
        loop {
            let Some(known) = boots.iter().find(|known| known.boot == under.0) else { return Verdict::New(under) };
            if !known.holds(sequence) {
                return Verdict::New(under);
            }
            match known.recent.get(&sequence) {
                Some(&other) if other != crc => under = assigned(under),
                _ => return Verdict::SeenBefore,
            }
        }
    }

    /// Remembers a batch as held.
    pub(crate) fn remember(&mut self, sensor: SensorId, boot: BootId, sequence: u64, crc: u32) {
        let boots = self.sensors.entry(sensor.0).or_default();
        if !boots.iter().any(|known| known.boot == boot.0) {
            boots.push(Boot { boot: boot.0, ..Boot::default() });
            if let Some(old) = boots.len().checked_sub(RECENT_BOOTS + 1).and_then(|at| boots.get_mut(at)) {
                old.recent.clear();
            }
        }
        if let Some(known) = boots.iter_mut().find(|known| known.boot == boot.0) {
            known.add(sequence, crc);
        }
    }

    /// What is held of a sensor, in the link's form.
    pub(crate) fn held(&self, sensor: SensorId) -> Vec<Held> {
        let boots = self.sensors.get(&sensor.0).map_or(&[][..], Vec::as_slice);
        boots.iter().map(|known| Held { sensor, boot: BootId(known.boot), ranges: known.ranges.clone() }).collect()
    }
}

/// The boot that a forked boot's rows are stored under: always the same, so that a fork that comes again is known.
pub(crate) fn assigned(boot: BootId) -> BootId {
    let mut mixed = boot.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    BootId(mixed ^ (mixed >> 31))
}

impl Boot {
    fn holds(&self, sequence: u64) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= sequence);
        after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|&(_, last)| sequence <= last)
    }

    fn add(&mut self, sequence: u64, crc: u32) {
        self.recent.insert(sequence, crc);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_first();
        }
        if self.holds(sequence) {
            return;
        }
        let at = self.ranges.partition_point(|&(first, _)| first <= sequence);
        let joins_next = self.ranges.get(at).is_some_and(|&(first, _)| first == sequence.saturating_add(1));
        let before = at.checked_sub(1).and_then(|before| self.ranges.get_mut(before));
        match before {
            Some(range) if range.1.checked_add(1) == Some(sequence) => {
                range.1 = sequence;
                if joins_next {
                    let next = self.ranges.remove(at);
                    if let Some(range) = at.checked_sub(1).and_then(|before| self.ranges.get_mut(before)) {
                        range.1 = next.1;
                    }
                }
            }
            _ if joins_next => {
                if let Some(next) = self.ranges.get_mut(at) {
                    next.0 = sequence;
                }
            }
            _ => self.ranges.insert(at, (sequence, sequence)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SENSOR: SensorId = SensorId(1);
    const BOOT: BootId = BootId(5);

    proptest! {
        #[test]
        fn ranges_hold_exactly_what_was_added(added in prop::collection::vec(0u64..60, 0..80)) {
            let mut boot = Boot::default();
            added.iter().for_each(|&sequence| boot.add(sequence, 0));
            let set: BTreeSet<u64> = added.into_iter().collect();
            for sequence in 0..62 {
                prop_assert_eq!(boot.holds(sequence), set.contains(&sequence));
            }
            for pair in boot.ranges.windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0, "ranges are ascending and apart: {:?}", boot.ranges);
            }
        }
    }

    #[test]
    fn a_fork_is_stored_once_under_the_assigned_boot_and_known_when_it_comes_again() {
        let mut known = Known::default();
        assert_eq!(known.judge(SENSOR, BOOT, 3, 10), Verdict::New(BOOT));
        known.remember(SENSOR, BOOT, 3, 10);
        assert_eq!(known.judge(SENSOR, BOOT, 3, 10), Verdict::SeenBefore);
        let other = assigned(BOOT);
        assert_eq!(known.judge(SENSOR, BOOT, 3, 11), Verdict::New(other));
        known.remember(SENSOR, other, 3, 11);
        assert_eq!(known.judge(SENSOR, BOOT, 3, 11), Verdict::SeenBefore);
        assert_eq!(known.judge(SENSOR, BOOT, 3, 12), Verdict::New(assigned(other)));
    }

    #[test]
    fn memory_of_contents_is_bounded_and_older_sequences_count_as_seen() {
        let mut known = Known::default();
        (0..5000).for_each(|sequence| known.remember(SENSOR, BOOT, sequence, 1));
        assert_eq!(known.sensors[&1][0].recent.len(), RECENT_MAX);
        assert_eq!(known.judge(SENSOR, BOOT, 0, 2), Verdict::SeenBefore);
        assert_eq!(known.held(SENSOR), vec![Held { sensor: SENSOR, boot: BOOT, ranges: vec![(0, 4999)] }]);
    }
}
