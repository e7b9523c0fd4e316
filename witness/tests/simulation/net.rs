//! Chance from a seed, and the network.

use std::collections::VecDeque;

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }
}

/// One direction of a connection: in order, each message with its delay.
pub(super) struct Pipe<T>(pub(super) VecDeque<(u64, T)>);

impl<T> Default for Pipe<T> {
    fn default() -> Pipe<T> {
        Pipe(VecDeque::new())
    }
}

impl<T> Pipe<T> {
    pub(super) fn send(&mut self, now: u64, random: &mut Random, message: T) {
        let due = (now + random.between(1, 60)).max(self.0.back().map_or(0, |last| last.0));
        self.0.push_back((due, message));
    }

    pub(super) fn receive(&mut self, now: u64) -> Option<T> {
        if self.0.front()?.0 > now { None } else { self.0.pop_front().map(|each| each.1) }
    }
}
