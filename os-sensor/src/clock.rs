//! The clock of the agent; nothing else reads it.
#![expect(clippy::disallowed_methods, reason = "this is where time comes from")]

use std::time::{Duration, Instant, SystemTime};
use thymus_record::Time;

/// Two looks so close are at the same moment.
const SAME: Duration = Duration::from_millis(1);
/// After so many looks the machine is too busy to be waited for.
const LOOKS_MAX: u32 = 10;

/// Wall and monotonic time.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    /// A clock whose monotonic time begins now.
    pub fn new() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Since the start.
    pub fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    /// Epoch time, and the time since the start, of the same moment: whoever is held up between the two looks again.
    pub fn both(&self) -> (Time, Duration) {
        let mut before = self.monotonic();
        for _ in 0..LOOKS_MAX {
            let (wall, after) = (Clock::wall(), self.monotonic());
            if after.saturating_sub(before) < SAME {
                return (wall, after);
            }
            before = after;
        }
        (Clock::wall(), self.monotonic())
    }

    /// Epoch time.
    pub fn wall() -> Time {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
