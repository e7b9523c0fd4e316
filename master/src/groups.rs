//! Groups of agents over all vSensors: who is there, under which epoch, told to every vSensor that has agents of the
//! group. The seed of a group and the greatest epoch are in the book, so that no restart takes an epoch back.

use crate::book::Book;
use crate::clock::{monotonic, wall};
use crate::server::Master;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thymus_record::message::{AgentEvent, Home, Passed, ToSensor};
use thymus_record::time::SECOND;
use thymus_record::{SensorId, Time};
use thymus_witness::Group;

/// Between two looks at what changed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks between two words to vSensors that nothing changed, and between two checks of claims.
const STEADY_EVERY: u64 = 3;
const TURN_EVERY: u64 = 10;
/// Epochs reserved in the book at a time.
const EPOCHS: u64 = 1_000;
/// More than there are in a second: a master whose book is an old copy begins above what was given out since.
const EPOCHS_A_SECOND: u64 = 16;
/// Agents named in one message.
const HOMES_MAX: usize = 4_000;
const NOT_RELIED_ON: &str = "it does not send what others leave to it, so that all who see its packets send them: look \
                             at its load and its interfaces";

/// What the book keeps.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Kept {
    /// Epochs below this may have been given out.
    epochs: u64,
    seeds: BTreeMap<String, u64>,
}

#[derive(Default)]
struct State {
    kept: Kept,
    epoch: u64,
    groups: BTreeMap<String, Group>,
    /// Each agent's group, as it was enrolled.
    homes: BTreeMap<u32, String>,
    items: BTreeMap<u32, &'static str>,
    looks: u64,
}

/// All of them.
#[derive(Default)]
pub struct Groups(Mutex<State>);

/// What is to be said to a vSensor.
type Say = (u32, ToSensor);

impl Groups {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups of the agents in the book.
    pub fn load(book: &Book) -> Result<Groups, crate::book::BookError> {
        let kept: Kept = book.meta("groups")?.unwrap_or_default();
        let by_clock = wall().0 / SECOND * EPOCHS_A_SECOND;
        let mut state = State { epoch: kept.epochs.max(by_clock), kept, ..State::default() };
        for entry in book.sensors()?.into_iter().filter(|entry| entry.agent) {
            state.homes.insert(entry.id, entry.group);
        }
        Ok(Groups(Mutex::new(state)))
    }

    /// An agent was enrolled.
    pub fn enrol(&self, agent: u32, group: &str) {
        self.state().homes.insert(agent, group.to_owned());
    }

    /// What a vSensor must know when it connects: which agent belongs to which group. From now on it is told all anew.
    pub fn welcome(&self, relay: u32, book: &Book, now: Time) -> Vec<ToSensor> {
        let mut state = self.state();
        state.groups.values_mut().for_each(|group| group.welcome(relay, now));
        let mut agents: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (agent, group) in &state.homes {
            agents.entry(group.clone()).or_default().push(*agent);
        }
        let pieces = agents.into_iter().flat_map(|(group, agents)| {
            let seed = state.seed(&group, book);
            let homes = agents.chunks(HOMES_MAX).map(move |piece| (group.clone(), seed, piece.to_vec()));
            homes.collect::<Vec<_>>()
        });
        pieces.map(|(group, seed, agents)| ToSensor::Homes { homes: vec![Home { group, seed, agents }] }).collect()
    }

    /// A group and its seed, for the vSensors that may be asked by its newest agent.
    pub fn home(&self, agent: u32, book: &Book) -> Option<ToSensor> {
        let mut state = self.state();
        let group = state.homes.get(&agent)?.clone();
        let seed = state.seed(&group, book);
        Some(ToSensor::Homes { homes: vec![Home { group, seed, agents: vec![agent] }] })
    }

    /// A vSensor tells what happened to its agents.
    pub fn hear(&self, relay: u32, events: &[AgentEvent], book: &Book, now: Time) {
        let state = &mut *self.state();
        state.groups.values_mut().for_each(|group| group.alive(relay, now));
        for event in events {
            match event {
                AgentEvent::Enter { agent, .. }
                | AgentEvent::Claims { agent, .. }
                | AgentEvent::Covered { agent, .. }
                | AgentEvent::Leave { agent } => {
                    // An agent's group is that of its enrolment, whatever anybody says.
                    let Some(name) = state.homes.get(agent).cloned() else { continue };
                    let seed = state.seed(&name, book);
                    state.groups.entry(name).or_insert_with(|| Group::new(seed)).hear(relay, event, now);
                }
                AgentEvent::Sums { .. } => {
                    state.groups.values_mut().for_each(|group| group.hear(relay, event, now));
                }
                AgentEvent::Unknown => {}
            }
        }
    }

    /// A moment has passed: what is to be said to whom.
    fn look(&self, book: &Book, now: Time) -> Vec<Say> {
        let state = &mut *self.state();
        state.looks += 1;
        let (turns, steady) = (state.looks.is_multiple_of(TURN_EVERY), state.looks.is_multiple_of(STEADY_EVERY));
        let (mut say, mut relays) = (Vec::new(), BTreeSet::new());
        for (name, group) in &mut state.groups {
            if turns {
                let notes = group.turn();
                notes.void.iter().for_each(|agent| {
                    tracing::warn!(
                        "agent {agent} did not send what was left to it: all witnesses send its packets now"
                    );
                    state.items.insert(*agent, NOT_RELIED_ON);
                });
                state.items.retain(|agent, _| !notes.well.contains(agent));
            }
            let (epoch, kept) = (&mut state.epoch, &mut state.kept);
            let told = group.publish(now, || next_epoch(epoch, kept, book));
            let message = |(relay, members)| (relay, ToSensor::Members { group: name.clone(), members });
            say.extend(told.into_iter().map(message));
            relays.extend(group.relays());
        }
        if steady {
            say.extend(relays.into_iter().map(|relay| (relay, ToSensor::Steady {})));
        }
        say
    }

    /// A vSensor did not keep up: it is told all anew.
    fn missed(&self, relay: u32) {
        self.state().groups.values_mut().for_each(|group| group.missed(relay));
    }

    /// What is wrong with an agent, in words.
    pub fn item(&self, agent: u32) -> Option<&'static str> {
        self.state().items.get(&agent).copied()
    }

    /// Left to agents that did not send it.
    pub fn left_unsent(&self) -> Passed {
        let mut sum = Passed::default();
        self.state().groups.values().for_each(|group| sum += group.left_unsent());
        sum
    }
}

impl State {
    /// A group's seed, which is made once.
    fn seed(&mut self, group: &str, book: &Book) -> u64 {
        if let Some(seed) = self.kept.seeds.get(group) {
            return *seed;
        }
        let seed = rand::random();
        self.kept.seeds.insert(group.to_owned(), seed);
        keep(&self.kept, book);
        seed
    }
}

fn keep(kept: &Kept, book: &Book) {
    if let Err(error) = book.put_meta("groups", kept) {
        tracing::error!("the groups of agents could not be written down: {error}");
    }
}

/// The next epoch; written down before it is given out, many at a time.
fn next_epoch(epoch: &mut u64, kept: &mut Kept, book: &Book) -> u64 {
    *epoch += 1;
    if *epoch >= kept.epochs {
        kept.epochs = *epoch + EPOCHS;
        keep(kept, book);
    }
    *epoch
}

/// Looks several times a second at what is to be said, until the master ends.
pub async fn run(master: Arc<Master>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut missed: BTreeSet<u32> = BTreeSet::new();
    loop {
        looks.tick().await;
        for (relay, message) in master.groups.look(&master.book, monotonic()) {
            // What comes behind a message that was lost would not fit.
            if !missed.contains(&relay) && !master.sensors.tell(SensorId(relay), message) {
                missed.insert(relay);
            }
        }
        std::mem::take(&mut missed).into_iter().for_each(|relay| master.groups.missed(relay));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(agent: u32) -> AgentEvent {
        AgentEvent::Enter { agent, held: true }
    }

    fn epochs(said: &[Say]) -> Vec<u64> {
        let epoch = |say: &Say| match &say.1 {
            ToSensor::Members { members, .. } => Some(members.epoch),
            _ => None,
        };
        said.iter().filter_map(epoch).collect()
    }

    #[test]
    fn a_group_is_of_all_vsensors_and_an_agent_of_the_group_that_it_was_enrolled_in() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("book")).unwrap();
        let groups = Groups::load(&book).unwrap();
        [(1, "blue"), (2, "blue"), (3, "green")].iter().for_each(|(agent, group)| groups.enrol(*agent, group));
        groups.hear(10, &[enter(1), enter(3), enter(4)], &book, Time(SECOND));
        groups.hear(11, &[enter(2)], &book, Time(SECOND));
        let said = groups.look(&book, Time(SECOND));
        let heard: Vec<(u32, String, Vec<u32>)> = said
            .iter()
            .filter_map(|(relay, message)| match message {
                ToSensor::Members { group, members } => {
                    Some((*relay, group.clone(), members.members.iter().map(|member| member.id).collect()))
                }
                _ => None,
            })
            .collect();
        let expected = [(10, "blue", vec![1, 2]), (11, "blue", vec![1, 2]), (10, "green", vec![3])];
        assert_eq!(heard, expected.map(|(relay, group, ids)| (relay, group.to_owned(), ids)));
        assert!(epochs(&groups.look(&book, Time(SECOND))).is_empty(), "nothing changed");
        // A silent vSensor is gone with its agents.
        groups.hear(10, &[], &book, Time(3 * SECOND));
        assert_eq!(epochs(&groups.look(&book, Time(3 * SECOND))).len(), 2);
    }

    #[test]
    fn epochs_never_go_back_and_seeds_stay() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("book")).unwrap();
        let (mut last, mut seeds) = (0, BTreeSet::new());
        for run in 0..5u64 {
            let groups = Groups::load(&book).unwrap();
            groups.enrol(1, "blue");
            for step in 0..=run * 400 {
                let event = if step % 2 == 0 { enter(1) } else { AgentEvent::Leave { agent: 1 } };
                groups.hear(10, &[event], &book, Time(SECOND));
                for epoch in epochs(&groups.look(&book, Time(SECOND))) {
                    assert!(epoch > last, "{epoch} after {last}");
                    last = epoch;
                }
            }
            let Some(ToSensor::Homes { homes }) = groups.home(1, &book) else { panic!("no home") };
            seeds.insert(homes[0].seed);
        }
        assert_eq!(seeds.len(), 1);
    }
}
