//! The limit on what an agent sends: a bucket of bytes, filled in the time of what is captured.
//!
//! What is captured now comes first, and is given up where there is not enough. Batches of metadata wait until anything is
//! there, and what waits on disk until half of it is: both then go whole, and what they take too much is owed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thymus_record::Time;

/// So much time's allowance may be used at once.
const BURST_SECONDS: f64 = 0.1;

#[derive(Default, Debug)]
struct Bucket {
    /// Bytes a second; 0 for no limit.
    rate: f64,
    level: f64,
    filled: Time,
}

impl Bucket {
    fn fill(&mut self, now: Time) {
        let passed = Duration::from_nanos(now.since(self.filled)).as_secs_f64();
        self.filled = now.max(self.filled);
        self.level = (self.level + self.rate * passed).min(self.rate * BURST_SECONDS);
    }
}

/// What may still be sent: the capture and the link's thread each have one.
#[derive(Clone, Default, Debug)]
pub struct Allowance(Arc<Mutex<Bucket>>);

impl Allowance {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the limit; 0 for none.
    pub fn set(&self, mbps_max: f64) {
        let rate = mbps_max.max(0.0) * 125_000.0;
        let mut bucket = self.bucket();
        // What was sent without a limit is not owed.
        let level = if bucket.rate > 0.0 { bucket.level.min(rate * BURST_SECONDS) } else { 0.0 };
        *bucket = Bucket { rate, level, filled: bucket.filled };
    }

    /// Time passes.
    pub fn turn(&self, now: Time) {
        self.bucket().fill(now);
    }

    /// True if so many bytes that were captured at this time may be sent; then they count.
    pub fn allows(&self, now: Time, bytes: usize) -> bool {
        let mut bucket = self.bucket();
        bucket.fill(now);
        let is_allowed = bucket.rate <= 0.0 || bucket.level >= of(bytes);
        if is_allowed {
            bucket.level -= of(bytes);
        }
        is_allowed
    }

    /// True if a batch of metadata may go.
    pub(crate) fn is_there(&self) -> bool {
        let bucket = self.bucket();
        bucket.rate <= 0.0 || bucket.level > 0.0
    }

    /// True if what waited on disk may go.
    pub(crate) fn is_ample(&self) -> bool {
        let bucket = self.bucket();
        bucket.rate <= 0.0 || bucket.level >= 0.5 * bucket.rate * BURST_SECONDS
    }

    /// So much is sent, whether it was there or not.
    pub(crate) fn spend(&self, bytes: usize) {
        self.bucket().level -= of(bytes);
    }
}

fn of(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thymus_record::time::SECOND;

    proptest! {
        /// A flood of packets, batches whenever they may, parcels off the disk whenever they may.
        #[test]
        fn whatever_goes_beside_the_limit_holds(
            mbps in 0.5f64..40.0, packet in 60usize..1_600, batch in 1usize..60_000, floods in any::<bool>(),
        ) {
            let allowance = Allowance::default();
            allowance.set(mbps);
            let (mut live, mut beside) = (0, 0);
            let from = 1_800_000_000 * SECOND;
            for step in 0..400u64 {
                let now = Time(from + step * SECOND / 40);
                allowance.turn(now);
                while floods && allowance.allows(now, packet) {
                    live += packet;
                }
                if step % 40 == 0 && allowance.is_there() {
                    allowance.spend(batch);
                    beside += batch;
                }
                while allowance.is_ample() {
                    allowance.spend(60 << 10);
                    beside += 60 << 10;
                }
            }
            let most = mbps * 125_000.0 * (10.0 + BURST_SECONDS);
            let sent = of(live + beside);
            prop_assert!(sent <= most + of(batch + (60 << 10)), "{sent} of {most}");
            prop_assert!(sent >= 0.8 * most - of(packet * 2), "the limit can be used: {sent} of {most}");
        }
    }

    #[test]
    fn without_a_limit_all_goes_and_with_one_again_nothing_is_left_over() {
        let allowance = Allowance::default();
        (0..1_000).for_each(|_| assert!(allowance.allows(Time(SECOND), 60_000) && allowance.is_ample()));
        allowance.set(8.0);
        allowance.turn(Time(SECOND));
        assert!(!allowance.is_there() && !allowance.allows(Time(SECOND), 60));
        allowance.turn(Time(1_000 * SECOND));
        assert!(allowance.is_ample());
        allowance.spend(1_150_000);
        assert!(!allowance.is_there());
        allowance.turn(Time(1_001 * SECOND));
        assert!(!allowance.is_there(), "a second makes up for a million bytes");
        allowance.turn(Time(1_001 * SECOND + SECOND / 12));
        assert!(allowance.is_there() && !allowance.is_ample());
    }
}
