//! One measure of what a member left to another, beside what came from that one, turn by turn.
//!
//! What is left and what comes is told by two sides, so that a turn's sums differ by what is on its way, and a transfer
//! that ends leaves the one sum behind the other for a moment. So no turn is compared with itself: of several turns the
//! least that was open is compared with the most that was open in turns before, less what may be on its way all the time.
//! What is late drops out of that, and what never comes remains.

use std::collections::VecDeque;

/// What is on its way has come after fewer turns than these.
const CLOSE: usize = 4;
/// What is open now is compared with what was open so many turns ago: the short ones find much soon, the long ones little.
const APART: [usize; 4] = [6, 16, 32, 64];
/// Turns that are remembered.
const TURNS_MAX: usize = 64 + CLOSE;
/// Turns that count as lately: about as long as what was declared is remembered.
const LATELY: usize = 8;

#[derive(Clone, Copy, Default)]
struct Turn {
    /// Left and not come, since the beginning; less than nothing where what came was not left.
    open: i64,
    left: u64,
}

/// The last turns of one measure.
#[derive(Default)]
pub(crate) struct Balance {
    /// The newest first.
    turns: VecDeque<Turn>,
    /// Turns since anything was left or came.
    idle: usize,
    has_come: bool,
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Balance {
    /// Books a turn; gives what has not come beyond `slack` and one percent.
    pub(crate) fn turn(&mut self, left: u64, came: u64, slack: u64) -> u64 {
        if self.turns.is_empty() {
            // Before, nothing was open.
            self.turns.extend([Turn::default(); CLOSE + CLOSE]);
        }
        let before = self.turns.front().map_or(0, |turn| turn.open);
        let open = before.saturating_add(signed(left)).saturating_sub(signed(came));
        self.turns.push_front(Turn { open, left });
        self.idle = if left == 0 && came == 0 { self.idle + 1 } else { 0 };
        self.has_come |= came > 0;
        self.turns.truncate(TURNS_MAX);
        APART.into_iter().map(|apart| self.missing(apart, slack)).max().unwrap_or(0)
    }

    fn missing(&self, apart: usize, slack: u64) -> u64 {
        let open = |from: usize| self.turns.iter().skip(from).take(CLOSE).map(|turn| turn.open);
        let apart = apart.min(self.turns.len().saturating_sub(CLOSE));
        let (Some(now), Some(then)) = (open(0).min(), open(apart).max()) else { return 0 };
        let left: u64 = self.turns.iter().take(apart).map(|turn| turn.left).sum();
        // Two vSensors may tell the same second a turn apart.
        let on_its_way = self.turns.iter().take(apart).map(|turn| turn.left).max().unwrap_or(0);
        let grown = u64::try_from(now.saturating_sub(then)).unwrap_or(0);
        grown.saturating_sub(left / 100).saturating_sub(on_its_way.max(slack))
    }

    /// What was left in the last turns.
    pub(crate) fn left_lately(&self) -> u64 {
        self.turns.iter().take(LATELY).map(|turn| turn.left).sum()
    }

    /// True once something came that another one left, and had time to come.
    pub(crate) fn is_compared(&self) -> bool {
        self.has_come && self.turns.iter().skip(2).any(|turn| turn.left > 0)
    }

    /// True if nothing was left and nothing came for as long as is remembered.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle > TURNS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the bursts, and whichever of the sums is told a turn later.
        #[test]
        fn what_is_late_is_not_missing(bursts in prop::collection::vec((0u64..1 << 30, 0usize..2, 0usize..2), 1..200)) {
            let mut balance = Balance::default();
            let len = bursts.len() + 4;
            let (mut left, mut came) = (vec![0; len], vec![0; len]);
            for (at, (bytes, told, arrived)) in bursts.into_iter().enumerate() {
                left[at + told] += bytes;
                came[at + arrived] += bytes;
            }
            for (left, came) in left.into_iter().zip(came) {
                prop_assert_eq!(balance.turn(left, came, 0), 0);
            }
        }
    }

    #[test]
    fn what_never_comes_is_missing_whatever_came_before() {
        let mut balance = Balance::default();
        (0..50).for_each(|_| assert_eq!(balance.turn(1_000, 3_000, 0), 0));
        let found = (0..40).position(|_| balance.turn(1_000, 950, 0) > 0);
        assert!(found.is_some_and(|turns| turns < 70), "{found:?}");
        (0..80).for_each(|_| assert!(balance.turn(0, 0, 0) < 2_000));
        assert!(balance.is_idle() && balance.left_lately() == 0);
    }
}
