//! In front of all work on a frame: the cap on CPU, then the policy's filter. What does not pass is counted here.

use crate::clock::Clock;
use crate::filter::{Filter, Verdict};
use crate::select::Select;
use crate::system::cpu_time;
use crate::throttle::{Pace, Throttle};
use std::net::SocketAddr;
use thymus_dissect::Frame;
use thymus_dissect::bpf::BpfError;
use thymus_record::message::Policy;
use thymus_record::policy::Instruction;

/// Frames between two looks at the clocks.
const LOOK_EVERY: u32 = 128;

/// The gate.
pub struct Gate {
    filter: Filter,
    throttle: Throttle,
    clock: Clock,
    frames: u32,
    /// Frames were given up, or left to the kernel to drop, since the call to [`Gate::take_capped`].
    capped: bool,
}

impl Gate {
    /// For this policy, beside a stream with these ends.
    pub fn new(policy: &Policy, own: &[SocketAddr]) -> Result<Gate, BpfError> {
        let mut throttle = Throttle::default();
        throttle.set(policy.cpu_percent_max);
        Ok(Gate { filter: Filter::new(policy, own)?, throttle, clock: Clock::new(), frames: 0, capped: false })
    }

    /// Another policy, or other ends. One whose filter cannot be used changes nothing.
    pub fn set(&mut self, policy: &Policy, own: &[SocketAddr]) -> Result<(), BpfError> {
        self.filter = Filter::new(policy, own)?;
        self.throttle.set(policy.cpu_percent_max);
        Ok(())
    }

    /// What the kernel is to run.
    pub fn instructions(&self) -> &[Instruction] {
        self.filter.instructions()
    }

    /// Looks at the clocks; false while nothing may be done with frames.
    pub fn is_open(&mut self) -> bool {
        let pace = self.look();
        self.capped |= pace == Pace::Rest;
        pace != Pace::Rest
    }

    /// True if the cap on CPU held frames back since the call before.
    pub fn take_capped(&mut self) -> bool {
        std::mem::take(&mut self.capped)
    }

    fn look(&mut self) -> Pace {
        self.frames = 0;
        let used = if self.throttle.is_set() { cpu_time() } else { None };
        used.map_or(Pace::Work, |used| self.throttle.look(self.clock.monotonic(), used))
    }

    /// True if the frame is to be worked on; else it was counted. `in_kernel` where the kernel runs the filter.
    pub fn admits(&mut self, frame: &Frame<'_>, in_kernel: bool, select: &mut Select) -> bool {
        self.frames += 1;
        if self.frames >= LOOK_EVERY {
            self.look();
        }
        if self.throttle.is_set() && self.throttle.pace() != Pace::Work {
            self.capped = true;
            select.shed_cpu(frame.wire_len);
            return false;
        }
        match self.filter.verdict(frame, in_kernel) {
            Verdict::Taken => return true,
            Verdict::Filtered => select.filtered(frame.wire_len),
            Verdict::Own => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_dissect::LinkType;
    use thymus_record::Time;

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame { bytes, wire_len: 600, time: Time(0), link: LinkType::Ethernet, port: 0, ..Frame::default() }
    }

    #[test]
    fn every_frame_is_counted_whatever_the_gate_decides() {
        let none = Instruction { code: 6, jt: 0, jf: 0, k: 0 };
        let policy = Policy { program: vec![none], ..Policy::default() };
        let (mut gate, mut select) = (Gate::new(&policy, &[]).unwrap(), Select::new(1));
        assert!(!gate.admits(&frame(&[0; 60]), false, &mut select));
        assert!(!gate.admits(&frame(&[0]), true, &mut select));
        gate.set(&Policy { cpu_percent_max: 0.000_1, ..Policy::default() }, &[]).unwrap();
        assert!(gate.is_open(), "the first look knows of no time");
        let mut admitted = 0;
        for _ in 0..200_000u32 {
            admitted += u64::from(gate.admits(&frame(&[0; 60]), false, &mut select));
        }
        let ledger = select.ledger();
        assert_eq!((ledger.filtered.packets, ledger.filtered.bytes), (2, 1_200));
        assert!(ledger.shed.packets > 0 && select.shed_reasons().cpu == ledger.shed, "{ledger:?}");
        assert_eq!(ledger.seen.packets + admitted, 2 + 200_000, "what is admitted is counted by who takes it");
        assert!(gate.take_capped() && !gate.take_capped());
        let jump = Instruction { code: 5, jt: 0, jf: 0, k: 9 };
        assert!(gate.set(&Policy { program: vec![jump], ..Policy::default() }, &[]).is_err());
        assert_eq!(gate.instructions().len(), 1, "the filter before goes on");
    }
}
