//! The one clock: wall time and monotonic time come from here and are handed in everywhere else.
#![expect(clippy::disallowed_methods, reason = "this file is where the clock is read")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thymus_record::Time;

/// Wall and monotonic time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since 1970, by the wall clock.
    fn wall(&self) -> Time;
    /// Time since an arbitrary start, never backwards.
    fn monotonic(&self) -> Duration;
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Wall time now in epoch seconds, for people.
#[expect(clippy::cast_precision_loss, reason = "shown to people")]
pub(crate) fn now_seconds() -> f64 {
    SystemClock::default().wall().0 as f64 / 1e9
}
