//! In front of all work on a frame: the cap on CPU, then the policy's filter. What does not pass is counted here.

use crate::capture::Taker;
use crate::clock::Clock;
use crate::filter::{Filter, Verdict};
use crate::select::Select;
use crate::system::cpu_time;
use crate::throttle::{Pace, Throttle};
use std::net::SocketAddr;
use std::time::Duration;
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

    /// Since the start.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Time passes: called before each look at what was captured.
    pub fn turn(&self, select: &mut Select, is_connected: bool) {
        let (wall, monotonic) = self.clock.both();
        select.turn(wall, monotonic, is_connected);
    }

    /// What takes the frames of a ring; full parcels go to `send`.
    pub fn intake<'a, F>(&'a mut self, select: &'a mut Select, in_kernel: bool, send: F) -> Intake<'a, F> {
        Intake { gate: self, select, in_kernel, send }
    }

    /// True if the frame is to be worked on; else it was counted. `in_kernel` where the kernel runs the filter.
    fn admits(&mut self, frame: &Frame<'_>, in_kernel: bool, select: &mut Select) -> bool {
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

/// Frames on their way through the gate.
pub struct Intake<'a, F> {
    gate: &'a mut Gate,
    select: &'a mut Select,
    in_kernel: bool,
    send: F,
}

impl<F: FnMut(Vec<u8>) -> Result<(), Vec<u8>>> Taker for Intake<'_, F> {
    /// Whoever stops us asks nobody what we are at: it may be in the midst of a look at a ring.
    fn begin(&mut self) {
        if self.select.is_late(self.gate.now()) {
            let (wall, monotonic) = self.gate.clock.both();
            self.select.catch_up(wall, monotonic);
        }
    }

    fn take(&mut self, frame: &Frame<'_>) {
        if self.gate.admits(frame, self.in_kernel, self.select) {
            self.select.take(frame, &mut self.send);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_dissect::LinkType;
    use thymus_record::message::{Member as Known, Members};
    use thymus_record::{Address, Time};
    use thymus_witness::claim_of;

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

    #[test]
    fn what_came_while_we_were_stopped_in_the_midst_of_a_look_is_left_to_who_took_over() {
        let claims = |id: u8| vec![claim_of(9, Address::from_v4([10, 0, 0, id]))];
        let member = |id: u8| Known { id: u32::from(id), claims: claims(id), ..Known::default() };
        let members = Members { epoch: 2, seed: 9, members: vec![member(1), member(2)], ..Members::default() };
        let (mut gate, mut select) = (Gate::new(&Policy::default(), &[]).unwrap(), Select::new(1));
        select.members(Some(&members), &mut |_| Ok(()));
        let mut datagram = [0; 60];
        datagram[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17]);
        datagram[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        datagram[38..40].copy_from_slice(&[0, 26]);
        let mut feed = |gate: &mut Gate, select: &mut Select| {
            let time = Clock::wall();
            let mut intake = gate.intake(select, true, |_| Ok(()));
            intake.begin();
            for port in 0..100 {
                datagram[35] = port;
                intake.take(&Frame { time, ..frame(&datagram) });
            }
            select.ledger().sent.packets
        };
        gate.turn(&mut select, true);
        let before = feed(&mut gate, &mut select);
        assert!((20..80).contains(&before), "one of two sends each flow: {before}");
        std::thread::sleep(Duration::from_millis(1_600));
        assert_eq!(feed(&mut gate, &mut select), before);
        assert_eq!(select.ledger().left.packets, 200 - before);
        gate.turn(&mut select, true);
        assert_eq!(feed(&mut gate, &mut select), 2 * before, "what comes now is sent");
    }
}
