//! Sensors connected now: their health, and the way to ask them for packets.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thymus_link::LinkSender;
use thymus_record::message::{AgentHealth, Health, ToSensor};
use thymus_record::query::{PcapQuery, QueryReport};
use thymus_record::{SensorId, Time};
use tokio::sync::{broadcast, mpsc};

/// Longest address of a vSensor for its agents, and most of them in a token.
const ADDRESS_MAX: usize = 255;
const ADDRESSES_MAX: usize = 16;
/// Filters being looked at.
const CHECKS_MAX: usize = 256;

/// A part of an answer.
#[derive(Debug)]
pub enum AnswerPart {
    /// A piece of a pcapng stream.
    Piece(Vec<u8>),
    /// It is complete.
    End(QueryReport),
    /// It cannot be given.
    Failed(String),
}

/// A sensor's connection.
struct Connected {
    connection: u64,
    sender: LinkSender,
    since: Time,
    address: String,
    health: Option<Health>,
    clone_seen: bool,
    /// Where OS-sensors reach it.
    agents: Vec<String>,
    /// The OS-sensors that are connected to it.
    takes: BTreeMap<u32, AgentHealth>,
}

/// What the page shows of a connection.
#[derive(Clone, Debug)]
pub struct Live {
    /// Since when.
    pub since: Time,
    /// Where it dialled from.
    pub address: String,
    /// Its last health.
    pub health: Option<Health>,
}

#[derive(Default)]
struct State {
    connected: HashMap<SensorId, Connected>,
    asked: HashMap<u64, (SensorId, mpsc::Sender<AnswerPart>)>,
    /// Filters being looked at.
    checks: HashMap<u64, (SensorId, std::sync::mpsc::Sender<Option<String>>)>,
    last_health: HashMap<SensorId, Health>,
}

/// All of them.
pub struct Sensors {
    state: Mutex<State>,
    next: AtomicU64,
    cuts: broadcast::Sender<SensorId>,
}

impl Default for Sensors {
    fn default() -> Sensors {
        Sensors { state: Mutex::default(), next: AtomicU64::default(), cuts: broadcast::channel(64).0 }
    }
}

impl Sensors {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sensor connected; gives its connection's number. A second one with the same certificate replaces the first,
    /// and is shown as a clone while both try.
    pub fn connect(&self, sensor: SensorId, sender: LinkSender, address: String, agents: &[String], now: Time) -> u64 {
        let connection = self.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        let clone_seen = state.connected.get(&sensor).is_some_and(|other| other.address != address);
        let health = state.last_health.get(&sensor).cloned();
        let agents = agents.iter().filter(|text| text.len() <= ADDRESS_MAX).take(ADDRESSES_MAX).cloned().collect();
        let new =
            Connected { connection, sender, since: now, address, health, clone_seen, agents, takes: BTreeMap::new() };
        state.connected.insert(sensor, new);
        connection
    }

    /// A connection ended: its open answers fail.
    pub fn disconnect(&self, sensor: SensorId, connection: u64) {
        let mut state = self.state();
        if state.connected.get(&sensor).is_some_and(|each| each.connection == connection) {
            state.connected.remove(&sensor);
            let gone: Vec<u64> = state.asked.iter().filter(|(_, asked)| asked.0 == sensor).map(|(id, _)| *id).collect();
            for id in gone {
                if let Some((_, answers)) = state.asked.remove(&id) {
                    let _ = answers.try_send(AnswerPart::Failed("the sensor went away".to_owned()));
                }
            }
        }
    }

    /// A sensor told its health.
    pub fn set_health(&self, sensor: SensorId, mut health: Health) {
        let mut state = self.state();
        if let Some(connected) = state.connected.get_mut(&sensor) {
            if connected.clone_seen {
                health.items.push(
                    "two machines use this sensor's certificate (a cloned appliance?): join one of them anew"
                        .to_owned(),
                );
            }
            connected.health = Some(health.clone());
        }
        state.last_health.insert(sensor, health);
    }

    /// Where OS-sensors reach the vSensors that take them.
    pub fn agent_addresses(&self) -> Vec<String> {
        let state = self.state();
        let mut sensors: Vec<_> = state.connected.iter().collect();
        sensors.sort_by_key(|(sensor, _)| **sensor);
        sensors.into_iter().flat_map(|(_, connected)| connected.agents.clone()).take(ADDRESSES_MAX).collect()
    }

    /// Tells a sensor something; false if it is away or does not keep up.
    pub fn tell(&self, sensor: SensorId, message: ToSensor) -> bool {
        self.state().connected.get(&sensor).is_some_and(|connected| connected.sender.try_send(message))
    }

    /// Tells all vSensors that take OS-sensors something.
    pub fn tell_relays(&self, message: &ToSensor) {
        for connected in self.state().connected.values().filter(|connected| !connected.agents.is_empty()) {
            connected.sender.try_send(message.clone());
        }
    }

    /// A sensor told of some of its OS-sensors, and which are connected.
    pub fn set_agents(&self, sensor: SensorId, connected: &[u32], agents: Vec<AgentHealth>) {
        let mut state = self.state();
        let Some(known) = state.connected.get_mut(&sensor) else { return };
        let connected: HashSet<u32> = connected.iter().copied().collect();
        known.takes.retain(|id, _| connected.contains(id));
        known.takes.extend(agents.into_iter().map(|agent| (agent.id, agent)));
    }

    /// Lets a vSensor that takes OS-sensors look at a filter; `None` where none is connected. The answer is why it is
    /// none, in words, or nothing.
    pub fn check_filter(&self, filter: &str) -> Option<std::sync::mpsc::Receiver<Option<String>>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (verdict, answer) = std::sync::mpsc::channel();
        let mut state = self.state();
        let question = ToSensor::CheckFilter { id, filter: filter.to_owned() };
        let takes = |connected: &Connected| !connected.agents.is_empty();
        let mut able = state.connected.iter().filter(|(_, connected)| takes(connected));
        let sensor = able.find(|(_, connected)| connected.sender.try_send(question.clone())).map(|(id, _)| *id)?;
        // Who asked and went away is forgotten here.
        if state.checks.len() >= CHECKS_MAX {
            state.checks.clear();
        }
        state.checks.insert(id, (sensor, verdict));
        Some(answer)
    }

    /// A vSensor looked at a filter.
    pub fn filter_checked(&self, sensor: SensorId, id: u64, wrong: Option<String>) {
        let mut state = self.state();
        if state.checks.get(&id).is_some_and(|(asked, _)| *asked == sensor)
            && let Some((_, verdict)) = state.checks.remove(&id)
        {
            let _ = verdict.send(wrong.map(|why| why.chars().take(400).collect()));
        }
    }

    /// What an OS-sensor's vSensor tells of it, and that vSensor.
    pub fn agent(&self, agent: SensorId) -> Option<(SensorId, AgentHealth)> {
        let state = self.state();
        let mut found = state.connected.iter();
        found.find_map(|(sensor, connected)| Some((*sensor, connected.takes.get(&agent.0)?.clone())))
    }

    /// What is known of a sensor's connection.
    pub fn live(&self, sensor: SensorId) -> Option<Live> {
        let state = self.state();
        state.connected.get(&sensor).map(|each| Live {
            since: each.since,
            address: each.address.clone(),
            health: each.health.clone(),
        })
    }

    /// The last health that a sensor told, connected or not.
    pub fn last_health(&self, sensor: SensorId) -> Option<Health> {
        self.state().last_health.get(&sensor).cloned()
    }

    /// Sensors connected now.
    pub fn connected(&self) -> Vec<SensorId> {
        let mut sensors: Vec<SensorId> = self.state().connected.keys().copied().collect();
        sensors.sort_unstable();
        sensors
    }

    /// Cuts a sensor off; all its connections end.
    pub fn cut(&self, sensor: SensorId) {
        let _ = self.cuts.send(sensor);
    }

    /// Ends when this sensor is cut off, from the call on.
    pub fn cut_off(&self, sensor: SensorId) -> impl Future<Output = ()> + use<> {
        let mut cuts = self.cuts.subscribe();
        async move { while !matches!(cuts.recv().await, Ok(cut) if cut == sensor) {} }
    }

    /// Asks a sensor for packets; `None` if it is away.
    pub fn ask(&self, sensor: SensorId, query: PcapQuery) -> Option<Question<'_>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answers, parts) = mpsc::channel(64);
        let mut state = self.state();
        let sender = state.connected.get(&sensor)?.sender.clone();
        if !sender.try_send(ToSensor::Query { id, query }) {
            return None;
        }
        state.asked.insert(id, (sensor, answers));
        Some(Question { sensors: self, id, sender, parts })
    }

    /// A part of an answer came in; false if nobody waits for it. Waits while the asker is slow.
    pub async fn answered(&self, sensor: SensorId, id: u64, part: AnswerPart) -> bool {
        let answers = {
            let mut state = self.state();
            let ends = !matches!(part, AnswerPart::Piece(_));
            match state.asked.get(&id) {
                Some((asked, answers)) if *asked == sensor => {
                    let answers = answers.clone();
                    if ends {
                        state.asked.remove(&id);
                    }
                    answers
                }
                _ => return false,
            }
        };
        answers.send(part).await.is_ok()
    }
}

/// A question under way; dropped, it is cancelled.
pub struct Question<'a> {
    sensors: &'a Sensors,
    id: u64,
    sender: LinkSender,
    parts: mpsc::Receiver<AnswerPart>,
}

impl Question<'_> {
    /// The next part; pieces give the sensor credit for more.
    pub async fn next(&mut self) -> AnswerPart {
        let part = self.parts.recv().await.unwrap_or_else(|| AnswerPart::Failed("the sensor went away".to_owned()));
        if matches!(part, AnswerPart::Piece(_)) {
            self.sender.try_send(ToSensor::Credit { id: self.id, pieces: 1 });
        }
        part
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if self.sensors.state().asked.remove(&self.id).is_some() {
            self.sender.try_send(ToSensor::Cancel { id: self.id });
        }
    }
}
