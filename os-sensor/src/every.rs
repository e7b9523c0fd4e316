//! What is done every so often.

use std::time::Duration;

/// Happens every so often.
pub(crate) struct Every {
    period: Duration,
    next: Duration,
}

impl Every {
    pub(crate) fn new(period: Duration) -> Every {
        Every { period, next: Duration::ZERO }
    }

    pub(crate) fn is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.period;
        }
        due
    }
}
