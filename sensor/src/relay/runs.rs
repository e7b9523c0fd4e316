//! Runs of agents: what each gave up, and what one that was killed took with it. A run's frames come in order with its
//! words, so that of the frames that it said it had sent those are lost that have not come when its next run speaks. Where
//! another vSensor took some, or its disk keeps some, that cannot be told, and nothing is said.

use std::collections::HashMap;
use thymus_record::ledger::{AgentLedger, Count};
use thymus_record::message::Ended;

/// Agents whose last run is remembered.
const RUNS_MAX: usize = 16_384;

#[derive(Default)]
struct Run {
    boot: u64,
    /// Given up, and sent, as last told.
    shed: Count,
    sent: Count,
    /// Frames that came, and parcels.
    came: Count,
    parcels: u64,
    /// What came tells nothing of what was lost.
    is_partial: bool,
    /// Some waited on the agent's disk, as last told.
    is_spooled: bool,
    /// The run before, and what it took with it, until it is certain that it does not wait on the agent's disk.
    lost_before: Option<(u64, Count)>,
}

impl Run {
    fn lost(&self) -> Option<Count> {
        let lost = Count {
            packets: self.sent.packets.saturating_sub(self.came.packets),
            bytes: self.sent.bytes.saturating_sub(self.came.bytes),
        };
        (!self.is_partial && !self.is_spooled && lost.packets > 0).then_some(lost)
    }
}

/// The last run of each agent.
#[derive(Default)]
pub(super) struct Runs(HashMap<u32, Run>);

impl Runs {
    /// A connection of this run begins, of which `taken` parcels came somewhere before; `before`: what the agent knows of
    /// the run before, which it may tell later than that run could. `is_alone`: no other connection of the agent is still
    /// read.
    pub(super) fn begin(&mut self, agent: u32, (boot, taken): (u64, u64), before: Option<&Ended>, is_alone: bool) {
        let known = self.0.entry(agent).or_default();
        if known.boot != boot {
            if let Some(before) = before.filter(|before| before.boot == known.boot) {
                known.sent.packets = known.sent.packets.max(before.sent.packets);
                known.sent.bytes = known.sent.bytes.max(before.sent.bytes);
                known.is_spooled = before.spooled_bytes > 0;
            }
            let lost_before = known.lost().filter(|_| is_alone).map(|lost| (known.boot, lost));
            *known = Run { boot, lost_before, is_partial: !is_alone, ..Run::default() };
        }
        known.is_partial |= taken > known.parcels;
    }

    /// Forgets agents that are not here, where there are too many.
    pub(super) fn tidy(&mut self, is_here: impl Fn(&u32) -> bool) {
        if self.0.len() >= RUNS_MAX {
            self.0.retain(|known, _| is_here(known));
        }
    }

    /// A parcel came.
    pub(super) fn parcel(&mut self, agent: u32) {
        self.0.entry(agent).or_default().parcels += 1;
    }

    /// A frame came as it was captured.
    pub(super) fn frame(&mut self, agent: u32, wire_len: u64) {
        self.0.entry(agent).or_default().came.add(wire_len);
    }

    /// A parcel came that this run had kept on the agent's disk.
    pub(super) fn late(&mut self, agent: u32, boot: u64) {
        let run = self.0.entry(agent).or_default();
        if boot == run.boot {
            run.is_partial = true;
        } else if run.lost_before.is_some_and(|(lost, _)| lost == boot) {
            run.lost_before = None;
        }
    }

    /// An agent's ledger; gives what it gave up since the one before, and what its run before took with it.
    pub(super) fn ledger(&mut self, agent: u32, ledger: &AgentLedger) -> Count {
        let run = self.0.entry(agent).or_default();
        run.sent = ledger.sent;
        run.is_spooled = ledger.spooled_bytes > 0;
        let mut missed = crate::counters::fresh(&mut run.shed, ledger.shed);
        if let Some((_, lost)) = run.lost_before.take().filter(|_| ledger.spooled_bytes == 0) {
            let Count { packets, bytes } = lost;
            tracing::warn!(
                "agent {agent} was ended with {packets} packets, {bytes} bytes, in its memory: they are missed"
            );
            missed += lost;
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sent: u64, shed: u64, spooled_bytes: u64) -> AgentLedger {
        let count = |packets| Count { packets, bytes: packets * 100 };
        AgentLedger { sent: count(sent), shed: count(shed), spooled_bytes, ..AgentLedger::default() }
    }

    /// A run of which ten parcels with ten frames each came, of 130 that were sent.
    fn killed() -> Runs {
        let mut runs = Runs::default();
        runs.begin(7, (1, 0), None, true);
        for _ in 0..10 {
            runs.parcel(7);
            (0..10).for_each(|_| runs.frame(7, 100));
        }
        assert_eq!(runs.ledger(7, &told(130, 5, 0)).packets, 5, "given up");
        runs
    }

    #[test]
    fn what_a_killed_agent_had_in_its_memory_is_missed_once_its_next_run_speaks() {
        let mut runs = killed();
        // Cut off and back: nothing is lost yet.
        runs.begin(7, (1, 8), None, true);
        assert_eq!(runs.ledger(7, &told(130, 5, 0)).packets, 0);
        runs.begin(7, (2, 0), None, true);
        let missed = runs.ledger(7, &told(3, 1, 0));
        assert_eq!((missed.packets, missed.bytes), (30 + 1, 3_100));
        assert_eq!(runs.ledger(7, &told(3, 1, 0)).packets, 0, "once");
        // What it wrote down after its last word counts, but not what an earlier run did.
        for (boot, missed) in [(1, 80), (9, 30)] {
            let mut runs = killed();
            let before = Ended { boot, sent: told(180, 0, 0).sent, spooled_bytes: 0 };
            runs.begin(7, (2, 0), Some(&before), true);
            assert_eq!(runs.ledger(7, &told(0, 0, 0)).packets, missed);
        }
    }

    #[test]
    fn what_may_have_come_elsewhere_or_waits_on_a_disk_is_not_called_missed() {
        let mut runs = killed();
        runs.begin(7, (1, 11), None, true);
        runs.begin(7, (2, 0), None, true);
        assert_eq!(runs.ledger(7, &told(0, 0, 0)).packets, 0, "another vSensor took a parcel");
        let mut runs = killed();
        runs.begin(7, (2, 0), None, true);
        assert_eq!(runs.ledger(7, &told(0, 0, 9)).packets, 0, "some waits on disk");
        let mut runs = killed();
        runs.begin(7, (2, 0), None, true);
        runs.late(7, 1);
        assert_eq!(runs.ledger(7, &told(0, 0, 0)).packets, 0, "some came off the disk");
        let mut runs = killed();
        runs.late(7, 1);
        runs.begin(7, (2, 0), None, true);
        assert_eq!(runs.ledger(7, &told(0, 0, 0)).packets, 0, "some had come off the disk");
        let mut runs = killed();
        runs.late(7, 99);
        runs.begin(7, (2, 0), None, true);
        runs.late(7, 99);
        assert_eq!(runs.ledger(7, &told(0, 0, 0)).packets, 30, "what an earlier run had kept says nothing");
        let mut runs = killed();
        runs.begin(7, (2, 0), None, false);
        assert_eq!(runs.ledger(7, &told(0, 0, 0)).packets, 0, "its old connection is still read");
    }

    #[test]
    fn memory_is_bounded() {
        let mut runs = Runs::default();
        (0..100_000).for_each(|agent| {
            runs.tidy(|_| false);
            runs.begin(agent, (1, 0), None, true);
        });
        assert!(runs.0.len() <= RUNS_MAX);
    }
}
