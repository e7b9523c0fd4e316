//! The one clock of the master.
#![expect(clippy::disallowed_methods, reason = "this file is where the clock is read")]

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use thymus_record::Time;

/// Nanoseconds since 1970, by the wall clock.
pub fn wall() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since some start, by a clock that never steps.
pub fn monotonic() -> Time {
    Time(u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// A time as epoch seconds, for JSON.
#[expect(clippy::cast_precision_loss, reason = "shown to people")]
pub fn seconds(time: Time) -> f64 {
    (time.0 / 1_000) as f64 / 1e6
}
