//! Runs of agents: what each gave up, and what one that was killed took with it. A killed run's successor tells what the
//! run had sent as it last wrote that down, and what each vSensor said it took. Of what was sent to us we know better
//! what came: a connection begins with what the agent knows we took, and sends all else again.

use std::collections::{HashMap, VecDeque};
use thymus_link::agent::ENDED_MAX;
use thymus_record::ledger::{AgentLedger, Count};
use thymus_record::message::Ended;

/// Agents whose runs are remembered.
const AGENTS_MAX: usize = 16_384;
/// Runs of each: the old connection of a killed one may still be read.
const RUNS_MAX: usize = 3;
/// Runs of each whose loss was counted.
const SETTLED_MAX: usize = 2 * ENDED_MAX;
/// vSensors of a run that are looked at.
const TAKEN_MAX: usize = 64;
/// No agent loses more in a second, and no killed one had more in its memory: nothing that it says makes counters
/// overflow.
const LOST_MAX: Count = Count { packets: 100_000_000, bytes: 1 << 40 };

struct Run {
    boot: u64,
    /// Given up, as last told.
    shed: Count,
    came: Count,
}

#[derive(Default)]
struct Agent {
    /// The newest last.
    runs: VecDeque<Run>,
    /// Ended without warning, and not counted yet.
    ended: Vec<Ended>,
    settled: VecDeque<u64>,
}

/// The runs of all agents.
pub(super) struct Runs {
    me: u32,
    agents: HashMap<u32, Agent>,
}

fn less(from: Count, count: Count) -> Count {
    Count { packets: from.packets.saturating_sub(count.packets), bytes: from.bytes.saturating_sub(count.bytes) }
}

fn at_most(count: Count) -> Count {
    Count { packets: count.packets.min(LOST_MAX.packets), bytes: count.bytes.min(LOST_MAX.bytes) }
}

impl Agent {
    fn run(&mut self, boot: u64) -> Option<&mut Run> {
        self.runs.iter_mut().rev().find(|run| run.boot == boot)
    }

    /// What this run took with it, as vSensor `me` knows it.
    fn lost(&mut self, ended: &Ended, me: u32) -> Count {
        let came = self.run(ended.boot).filter(|_| ended.last == me).map(|run| run.came);
        let mut left = ended.sent;
        for (vsensor, taken) in &ended.taken {
            // Ours is told a moment late.
            if came.is_none() || *vsensor != me {
                left = less(left, *taken);
            }
        }
        at_most(less(left, came.unwrap_or_default()))
    }
}

impl Runs {
    /// As vSensor `me` knows them.
    pub(super) fn new(me: u32) -> Runs {
        Runs { me, agents: HashMap::new() }
    }

    /// A connection of this run begins, of which we said that we took so much; what was not said comes again. `ended`:
    /// runs that ended without warning.
    pub(super) fn begin(&mut self, agent: u32, (boot, taken): (u64, Count), ended: Vec<Ended>) {
        let known = self.agents.entry(agent).or_default();
        let at = known.runs.iter().position(|run| run.boot == boot);
        let shed = at.and_then(|at| known.runs.remove(at)).map(|run| run.shed).unwrap_or_default();
        known.runs.push_back(Run { boot, shed, came: taken });
        for mut ended in ended.into_iter().take(ENDED_MAX).filter(|each| each.boot != boot) {
            ended.taken.truncate(TAKEN_MAX);
            ended.at = String::new();
            if !known.settled.contains(&ended.boot) && !known.ended.iter().any(|each| each.boot == ended.boot) {
                known.ended.push(ended);
            }
        }
        known.ended.drain(..known.ended.len().saturating_sub(ENDED_MAX));
        known.runs.drain(..known.runs.len().saturating_sub(RUNS_MAX));
    }

    /// Forgets agents that are not here, where there are too many.
    pub(super) fn tidy(&mut self, is_here: impl Fn(&u32) -> bool) {
        if self.agents.len() >= AGENTS_MAX {
            self.agents.retain(|known, _| is_here(known));
        }
    }

    /// Frames of this run came, on no disk between; or came again, since the agent does not know that we have them.
    pub(super) fn came(&mut self, (agent, boot): (u32, u64), frames: Count) {
        if let Some(run) = self.agents.get_mut(&agent).and_then(|known| known.run(boot)) {
            run.came += frames;
        }
    }

    /// An agent's ledger; gives what it gave up since the one before, and what runs of it took with them. `is_alone`: no
    /// older connection of it is still read.
    pub(super) fn ledger(&mut self, agent: u32, ledger: &AgentLedger, is_alone: bool) -> Count {
        let Some(known) = self.agents.get_mut(&agent) else { return Count::default() };
        let shed = known.runs.back_mut().map(|run| crate::counters::fresh(&mut run.shed, ledger.shed));
        let mut missed = at_most(shed.unwrap_or_default());
        if !is_alone {
            return missed;
        }
        for ended in std::mem::take(&mut known.ended) {
            let lost = known.lost(&ended, self.me);
            known.settled.push_back(ended.boot);
            known.settled.drain(..known.settled.len().saturating_sub(SETTLED_MAX));
            if lost.packets > 0 {
                let Count { packets, bytes } = lost;
                tracing::warn!(
                    "agent {agent} was ended with {packets} packets, {bytes} bytes, in its memory: they are missed"
                );
                missed += lost;
            }
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const AGENT: u32 = 7;

    fn packets(packets: u64) -> Count {
        Count { packets, bytes: packets * 100 }
    }

    fn shed(packets_shed: u64) -> AgentLedger {
        AgentLedger { shed: packets(packets_shed), ..AgentLedger::default() }
    }

    fn ended(sent: u64, taken: &[(u32, u64)], last: u32) -> Vec<Ended> {
        let taken = taken.iter().map(|(vsensor, taken)| (*vsensor, packets(*taken))).collect();
        vec![Ended { boot: 1, sent: packets(sent), taken, last, ..Ended::default() }]
    }

    #[test]
    fn what_a_killed_agent_had_in_its_memory_is_missed_once_and_at_once() {
        let mut runs = Runs::new(1);
        runs.begin(AGENT, (1, packets(0)), vec![]);
        runs.came((AGENT, 1), packets(100));
        assert_eq!(runs.ledger(AGENT, &shed(5), true).packets, 5, "given up");
        // Cut off and back: what it does not know to have come, came and comes again.
        runs.begin(AGENT, (1, packets(80)), vec![]);
        runs.came((AGENT, 1), packets(20));
        runs.came((AGENT, 1), packets(10));
        assert_eq!(runs.ledger(AGENT, &shed(5), true).packets, 0);
        // Its next run: it last wrote down that 100 of 150 were taken.
        runs.begin(AGENT, (2, packets(0)), ended(150, &[(1, 100)], 1));
        runs.came((AGENT, 2), packets(9));
        assert_eq!(runs.ledger(AGENT, &shed(1), false).packets, 1, "its old connection is still read");
        runs.came((AGENT, 1), packets(4));
        assert_eq!(runs.ledger(AGENT, &shed(1), true), packets(150 - 110 - 4));
        runs.begin(AGENT, (2, packets(9)), ended(150, &[(1, 100)], 1));
        assert_eq!(runs.ledger(AGENT, &shed(1), true).packets, 0, "it does not know yet that we heard it");
    }

    #[test]
    fn what_others_took_and_what_we_do_not_know_is_as_the_agent_says() {
        let missed = |runs: &mut Runs, ended| {
            runs.begin(AGENT, (2, packets(0)), ended);
            runs.ledger(AGENT, &shed(0), true).packets
        };
        assert_eq!(missed(&mut Runs::new(1), ended(150, &[(1, 100)], 1)), 50, "we were started anew");
        assert_eq!(missed(&mut Runs::new(3), ended(150, &[(1, 60), (2, 30)], 2)), 60);
        let mut runs = Runs::new(1);
        runs.begin(AGENT, (1, packets(60)), vec![]);
        runs.came((AGENT, 1), packets(15));
        assert_eq!(missed(&mut runs, ended(150, &[(1, 60), (2, 30)], 2)), 60, "what we did not say went on to 2");
        let mut runs = Runs::new(1);
        runs.begin(AGENT, (1, packets(60)), vec![]);
        runs.came((AGENT, 1), packets(15));
        assert_eq!(missed(&mut runs, ended(150, &[(1, 60), (2, 30)], 1)), 45);
    }

    #[test]
    fn a_liar_makes_nothing_overflow_and_memory_is_bounded() {
        let mut runs = Runs::new(1);
        let much = Count { packets: u64::MAX, bytes: u64::MAX };
        let lies = (0..1_000).map(|boot| Ended { boot, sent: much, ..Ended::default() }).collect();
        runs.begin(AGENT, (u64::MAX, much), lies);
        let missed = runs.ledger(AGENT, &AgentLedger { shed: much, ..AgentLedger::default() }, true);
        assert!(missed.packets <= 9 * LOST_MAX.packets && missed.bytes <= 9 * LOST_MAX.bytes);
        (0..100).for_each(|boot| runs.begin(AGENT, (boot, packets(0)), vec![]));
        assert!(runs.agents[&AGENT].runs.len() <= RUNS_MAX && runs.agents[&AGENT].settled.len() <= SETTLED_MAX);
        (0..100_000).for_each(|agent| {
            runs.tidy(|_| false);
            runs.begin(agent, (1, packets(0)), vec![]);
        });
        assert!(runs.agents.len() <= AGENTS_MAX);
    }

    /// What happens to an agent's parcels.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send(u64),
        /// The vSensor reads what was sent, up to so many parcels.
        Read(usize),
        /// The agent hears what was taken.
        Acknowledge,
        /// The connection breaks, and the next one is with this vSensor.
        Connect(u32),
        /// The vSensor at hand is started anew.
        Restart,
        /// The agent writes down where it is.
        Write,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u64..9).prop_map(Step::Send),
            (1u64..9).prop_map(Step::Send),
            (1usize..4).prop_map(Step::Read),
            Just(Step::Acknowledge),
            (1u32..4).prop_map(Step::Connect),
            Just(Step::Restart),
            Just(Step::Write),
        ]
    }

    proptest! {
        // The agent writes down where it is just before it is killed, so that the loss is exact: what no vSensor read.
        #[test]
        fn whoever_hears_of_a_killed_run_counts_what_nobody_took(steps in prop::collection::vec(step(), 1..60), killed_at in 1u32..4) {
            let mut vsensors: BTreeMap<u32, Runs> = (1..4).map(|me| (me, Runs::new(me))).collect();
            let (mut at, mut sent, mut taken) = (1, 0, BTreeMap::<u32, u64>::new());
            // Undecided parcels; so many of them were read over the connection at hand.
            let (mut undecided, mut read) = (VecDeque::<u64>::new(), 0);
            vsensors.get_mut(&1).unwrap().begin(AGENT, (1, packets(0)), vec![]);
            for step in steps.into_iter().chain([Step::Write]) {
                match step {
                    Step::Send(count) => {
                        sent += count;
                        undecided.push_back(count);
                    }
                    Step::Read(parcels) => {
                        for parcel in undecided.iter().skip(read).take(parcels) {
                            vsensors.get_mut(&at).unwrap().came((AGENT, 1), packets(*parcel));
                        }
                        read = undecided.len().min(read + parcels);
                    }
                    Step::Acknowledge => {
                        *taken.entry(at).or_default() += undecided.drain(..read).sum::<u64>();
                        read = 0;
                    }
                    Step::Connect(_) | Step::Restart => {
                        at = if let Step::Connect(to) = step { to } else { at };
                        if matches!(step, Step::Restart) {
                            vsensors.insert(at, Runs::new(at));
                        }
                        read = 0;
                        let known = taken.get(&at).copied().unwrap_or_default();
                        vsensors.get_mut(&at).unwrap().begin(AGENT, (1, packets(known)), vec![]);
                    }
                    Step::Write => {}
                }
            }
            let known: Vec<(u32, u64)> = taken.iter().map(|(vsensor, taken)| (*vsensor, *taken)).collect();
            let hears = vsensors.get_mut(&killed_at).unwrap();
            hears.begin(AGENT, (2, packets(0)), ended(sent, &known, at));
            let missed = hears.ledger(AGENT, &shed(0), true);
            let not_acknowledged: u64 = undecided.iter().sum();
            let not_read: u64 = undecided.iter().skip(read).sum();
            let expected = if killed_at == at { not_read } else { not_acknowledged };
            prop_assert_eq!(missed, packets(expected));
        }
    }
}
