//! The host's clock without its steps: whoever sets it, packet time goes on, and the vSensor, which hears this time in
//! every heartbeat, measures how far it is from its own. A suspended host wakes with an old time here, until the vSensor
//! has measured again.

use std::time::Duration;
use thymus_record::Time;

/// Wall and monotonic time drift apart by less than this between two looks; more is a step.
const STEP: i128 = 200_000_000;

/// What is added to the host's clock.
#[derive(Default)]
pub struct Steady {
    base: Option<i128>,
    shift: i64,
    steps: u64,
}

impl Steady {
    /// Looks at both clocks, a few times a second.
    pub fn look(&mut self, wall: Time, monotonic: Duration) {
        let apart = i128::from(wall.0) - i128::try_from(monotonic.as_nanos()).unwrap_or(i128::MAX);
        let base = *self.base.get_or_insert(apart);
        if (apart - base).abs() >= STEP {
            self.shift = self.shift.saturating_sub(i64::try_from(apart - base).unwrap_or(0));
            self.steps += 1;
        }
        // Slow drift is the clock being disciplined, and is followed.
        self.base = Some(apart);
    }

    /// A time of the host's clock, as if it had never been set since the start.
    pub fn apply(&self, wall: Time) -> Time {
        Time(wall.0.saturating_add_signed(self.shift))
    }

    /// How often the clock was set.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thymus_record::time::SECOND;

    proptest! {
        /// Fault points: when the clock is set, and how far.
        #[test]
        fn time_goes_on_whenever_and_however_far_the_clock_is_set(
            steps in prop::collection::vec((1u64..500, prop_oneof![-3_600_000i64..-300, 300i64..3_600_000]), 0..5)
        ) {
            let mut steady = Steady::default();
            let start = 1_800_000_000 * SECOND;
            let mut set = 0i64;
            for look in 0..500u64 {
                for (_, by) in steps.iter().filter(|(at, _)| *at == look) {
                    set += by * 1_000_000;
                    let real = start + look * SECOND / 50;
                    steady.look(Time(real.saturating_add_signed(set)), Duration::from_nanos(look * SECOND / 50));
                }
                let real = start + look * SECOND / 50;
                steady.look(Time(real.saturating_add_signed(set)), Duration::from_nanos(look * SECOND / 50));
                prop_assert_eq!(steady.apply(Time(real.saturating_add_signed(set))), Time(real));
            }
            prop_assert_eq!(steady.steps(), steps.len() as u64);
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_followed() {
        let mut steady = Steady::default();
        for look in 0..1_000u64 {
            // Half a millisecond a second.
            let wall = Time(SECOND * 1_000 + look * SECOND / 50 + look * 10_000);
            steady.look(wall, Duration::from_nanos(look * SECOND / 50));
            assert_eq!(steady.apply(wall), wall);
        }
    }
}
