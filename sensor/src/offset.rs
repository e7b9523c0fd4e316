//! How far an agent's clock is from ours, by its heartbeats: a heartbeat comes later than it was sent, never earlier, so
//! the least difference of the last five seconds is nearest the truth. A clock that steps ahead shows in the next
//! heartbeat, one that steps back when the window has passed; until then a port's time, which never goes back, holds.

use std::collections::VecDeque;
use thymus_record::Time;

/// Heartbeats looked at, ten a second.
const WINDOW: usize = 50;
/// Differences below this are what a heartbeat's way may take: 10 ms.
const NOTHING: i64 = 10_000_000;

/// The offset of one agent.
#[derive(Default)]
pub struct Offset {
    differences: VecDeque<i64>,
    told: i64,
}

impl Offset {
    /// A heartbeat sent at `theirs` came at `ours`. Gives the offset if it is another than the agent was told.
    pub fn heartbeat(&mut self, ours: Time, theirs: Time) -> Option<i64> {
        if self.differences.len() >= WINDOW {
            self.differences.pop_front();
        }
        let difference = i128::from(ours.0) - i128::from(theirs.0);
        self.differences.push_back(i64::try_from(difference).unwrap_or(if difference < 0 {
            i64::MIN
        } else {
            i64::MAX
        }));
        let offset = self.nanoseconds();
        if offset.abs_diff(self.told) < NOTHING.unsigned_abs() {
            return None;
        }
        self.told = offset;
        Some(offset)
    }

    /// What is added to the agent's clock to get ours.
    pub fn nanoseconds(&self) -> i64 {
        self.differences
            .iter()
            .min()
            .copied()
            .filter(|least| least.unsigned_abs() >= NOTHING.unsigned_abs())
            .unwrap_or(0)
    }

    /// The agent's time in ours.
    pub fn apply(&self, theirs: Time) -> Time {
        Time(theirs.0.saturating_add_signed(self.nanoseconds()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thymus_record::time::SECOND;

    const NOW: u64 = 1_800_000_000 * SECOND;

    proptest! {
        /// Fault points: how far the clock is off, how long each heartbeat is on its way, when and how far it steps.
        #[test]
        fn the_offset_is_off_by_no_more_than_the_fastest_heartbeats_way(
            off in -3_600i64..3_600, steps in -3_600i64..3_600, at in 60usize..100,
            ways in prop::collection::vec(0u64..400, 200),
        ) {
            let mut offset = Offset::default();
            for (beat, way) in ways.iter().enumerate() {
                let sent = NOW + beat as u64 * SECOND / 10;
                let off = if beat < at { off } else { off + steps };
                let theirs = Time(sent.saturating_add_signed(-off * SECOND.cast_signed()));
                offset.heartbeat(Time(sent + way * 1_000_000), theirs);
                let settled = beat + 1 >= WINDOW && (beat < at || beat >= at + WINDOW || steps <= 0);
                if settled && beat >= at.min(WINDOW) {
                    let window = if beat < at { &ways[beat + 1 - WINDOW..=beat] } else { &ways[at.max((beat + 1).saturating_sub(WINDOW))..=beat] };
                    let fastest = window.iter().min().unwrap() * 1_000_000;
                    let error = offset.apply(theirs).0.abs_diff(sent);
                    prop_assert!(error <= fastest.max(NOTHING as u64), "beat {beat}: {error} ns off, fastest way {fastest}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_is_right_is_left_alone_and_one_that_is_off_is_told_once() {
        let mut offset = Offset::default();
        assert_eq!(offset.heartbeat(Time(NOW + 400_000), Time(NOW)), None);
        assert_eq!(offset.apply(Time(NOW)), Time(NOW));
        assert_eq!(offset.heartbeat(Time(NOW), Time(NOW + 2 * SECOND)), Some(-2_000_000_000));
        assert_eq!(offset.heartbeat(Time(NOW + SECOND), Time(NOW + 3 * SECOND)), None);
        assert_eq!(offset.apply(Time(NOW + 5 * SECOND)), Time(NOW + 3 * SECOND));
        // A hostile time does no harm.
        offset.heartbeat(Time(NOW), Time(u64::MAX));
        offset.heartbeat(Time(NOW), Time(0));
        assert!(offset.apply(Time(u64::MAX)) <= Time(u64::MAX));
    }
}
