//! Packet time. Every record, timeout and feature depends on this time alone; who needs the wall clock asks a `Clock`.

use std::fmt;
use std::ops::{Add, Sub};

/// Nanoseconds since 1970-01-01T00:00:00Z, good until the year 2554.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

/// Nanoseconds in one second.
pub const SECOND: u64 = 1_000_000_000;

impl Time {
    /// From whole seconds and nanoseconds; saturates.
    pub fn from_parts(seconds: u64, nanoseconds: u64) -> Time {
        Time(seconds.saturating_mul(SECOND).saturating_add(nanoseconds))
    }

    /// Nanoseconds from `earlier` to this time, 0 if `earlier` is later.
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The start of the minute (60 s of UTC) that this time lies in.
    pub fn minute(self) -> Time {
        Time(self.0 - self.0 % (60 * SECOND))
    }
}

/// Epoch seconds with 6 decimals, truncated, as Zeek writes times.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / SECOND, self.0 % SECOND / 1000)
    }
}

impl Add<u64> for Time {
    type Output = Time;
    fn add(self, nanoseconds: u64) -> Time {
        Time(self.0.saturating_add(nanoseconds))
    }
}

impl Sub<u64> for Time {
    type Output = Time;
    fn sub(self, nanoseconds: u64) -> Time {
        Time(self.0.saturating_sub(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_prints_as_epoch_seconds_with_six_decimals() {
        assert_eq!(Time(1_362_692_526_869_344_999).to_string(), "1362692526.869344");
        assert_eq!(Time::from_parts(7, 0).to_string(), "7.000000");
    }
}
