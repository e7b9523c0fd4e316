//! The cap on the agent's share of a core: a bucket of CPU time, looked at before any work is done on a frame.
//!
//! What the process used, its link's thread included, is taken out; what the cap allows flows in. With nothing left,
//! frames are counted and given up without being looked at; deeper in debt the ring is left alone, and the kernel drops.

use std::time::Duration;

/// Time whose allowance may be used at once.
const BURST: f64 = 0.1;
/// Time whose allowance may be owed before even giving up frames is too much.
const DEBT_SHED: f64 = 0.02;
/// Time whose allowance may be owed at most: what is beyond is forgiven, as after a suspend.
const DEBT_MAX: f64 = 5.0;

/// What may be done now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Everything.
    #[default]
    Work,
    /// Frames are given up.
    Shed,
    /// Nothing.
    Rest,
}

/// The bucket.
#[derive(Default)]
pub struct Throttle {
    /// Of one core; 0 for no cap.
    share: f64,
    /// Seconds of CPU time.
    level: f64,
    last: Option<(Duration, Duration)>,
    pace: Pace,
}

impl Throttle {
    /// Sets the cap, in percent of one core; 0 for none.
    pub fn set(&mut self, percent: f64) {
        let share = if percent.is_finite() { percent.max(0.0) / 100.0 } else { 0.0 };
        if (share - self.share).abs() > f64::EPSILON {
            *self = Throttle { share, last: self.last, ..Throttle::default() };
        }
    }

    /// True if there is a cap.
    pub fn is_set(&self) -> bool {
        self.share > 0.0
    }

    /// What was found the last time.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Looks at the clock and at the CPU time that the process has used since it started.
    pub fn look(&mut self, now: Duration, used: Duration) -> Pace {
        let Some((before, used_before)) = self.last.replace((now, used)) else { return Pace::Work };
        if !self.is_set() {
            return Pace::Work;
        }
        let allowed = self.share * now.saturating_sub(before).as_secs_f64();
        let level = self.level + allowed - used.saturating_sub(used_before).as_secs_f64();
        self.level = level.clamp(-DEBT_MAX * self.share, BURST * self.share);
        self.pace = if self.level >= 0.0 {
            Pace::Work
        } else if self.level > -DEBT_SHED * self.share {
            Pace::Shed
        } else {
            Pace::Rest
        };
        self.pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_cap_all_work_is_done() {
        let mut throttle = Throttle::default();
        let second = Duration::from_secs;
        assert!((0..9).all(|n| throttle.look(second(n), second(n)) == Pace::Work));
        throttle.set(f64::NAN);
        assert!(!throttle.is_set());
    }

    proptest! {
        /// A flood: work costs as much as there is time, giving up a tenth of it, resting nothing.
        #[test]
        fn the_cap_holds_under_a_flood(percent in 0.5f64..80.0, step_us in 200u64..20_000) {
            let mut throttle = Throttle::default();
            throttle.set(percent);
            let (mut now, mut used) = (Duration::ZERO, Duration::ZERO);
            throttle.look(now, used);
            while now < Duration::from_secs(20) {
                let step = Duration::from_micros(step_us);
                now += step;
                used += match throttle.pace() {
                    Pace::Work => step,
                    Pace::Shed => step / 10,
                    Pace::Rest => Duration::ZERO,
                };
                throttle.look(now, used);
            }
            let share = 100.0 * used.as_secs_f64() / now.as_secs_f64();
            prop_assert!((share - percent).abs() < 1.0, "{share} % at a cap of {percent} %");
        }
    }
}
