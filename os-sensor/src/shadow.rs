//! What others own, for two seconds, in case they go.

use std::collections::VecDeque;
use thymus_dissect::Frame;
use thymus_record::Time;
use thymus_record::time::SECOND;

/// How long what others own is remembered, and how much of it.
const SHADOW: u64 = 2 * SECOND;
const SHADOW_BYTES: usize = 8 << 20;

/// A packet left to another member.
pub(crate) struct Left {
    pub(crate) owner: u32,
    pub(crate) time: Time,
    pub(crate) wire_len: u32,
    pub(crate) bytes: Box<[u8]>,
}

/// All of it, oldest first.
#[derive(Default)]
pub(crate) struct Shadow {
    left: VecDeque<Left>,
    bytes: usize,
}

impl Shadow {
    /// A packet was left to this member. Where there is no room, the oldest are forgotten.
    pub(crate) fn remember(&mut self, owner: u32, frame: &Frame<'_>) {
        let old = |left: &Left| frame.time.since(left.time) > SHADOW;
        while self.left.front().is_some_and(old) || self.bytes + frame.bytes.len() > SHADOW_BYTES {
            let Some(left) = self.left.pop_front() else { break };
            self.bytes -= left.bytes.len();
        }
        self.bytes += frame.bytes.len();
        let Frame { time, wire_len, .. } = *frame;
        self.left.push_back(Left { owner, time, wire_len, bytes: frame.bytes.into() });
    }

    /// What was left to members that are gone.
    pub(crate) fn take_of(&mut self, gone: &[u32]) -> Vec<Left> {
        let (taken, kept): (VecDeque<Left>, VecDeque<Left>) =
            std::mem::take(&mut self.left).into_iter().partition(|left| gone.contains(&left.owner));
        self.bytes = kept.iter().map(|left| left.bytes.len()).sum();
        self.left = kept;
        taken.into()
    }
}
