//! The clock of the agent; nothing else reads it.
#![expect(clippy::disallowed_methods, reason = "this is where time comes from")]

use std::time::{Duration, Instant, SystemTime};
use thymus_record::Time;

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

    /// Epoch time.
    pub fn wall() -> Time {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
