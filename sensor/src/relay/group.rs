//! The agents of a vSensor: their frames, one copy each, and who of them sends what.

use super::homes;
use super::runs::Runs;
use super::source::{AgentSource, RelayNotes};
use super::speaker::speaks_for;
use super::strangers::Strangers;
use crate::clock::Clock;
use crate::deal::{Dealer, deal_to};
use crate::offset::Offset;
use crate::orders::Orders;
use crate::own::OwnTransport;
use crate::source::{BURST_MAX, Burst};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thymus_dissect::flow::Roots;
use thymus_dissect::{Frame, Origin};
use thymus_forward::SharedOwners;
use thymus_link::Exchange;
use thymus_link::agent::{count_frames, take_frame};
use thymus_link::relay::{AgentSender, Agents, Ends};
use thymus_record::message::{AgentEvent, AgentHealth, AgentInterface, Policy, ToAgent, ToMaster, ToRelay};
use thymus_record::owner::Owner;
use thymus_record::{SensorId, Time};
use thymus_witness::{FrameVerdict, Out, Relay, SpanWatch};

/// Agents at once.
const AGENTS_MAX: usize = 2_000;
/// Interfaces that one agent may tell.
const INTERFACES_MAX: usize = 64;
/// Interfaces of it that are shown.
const SHOWN_MAX: usize = 16;
/// Owners taken of one message.
const OWNERS_MAX: usize = 256;
/// Events of one message to the master, each of at most 16 KiB.
const EVENTS_BYTES: usize = 32 << 10;
const NOT_RELIED_ON: &str = "it does not send what others leave to it: it is not relied on for a minute, and then tried \
                             again: look at its interfaces";

/// One agent.
pub(super) struct Agent {
    /// A restarted agent may be back before its old connection is seen to end.
    connections: u32,
    pub(super) sender: AgentSender,
    /// Its group's number.
    pub(super) root: u16,
    /// The policy that it was told.
    pub(super) policy: Option<Policy>,
    /// When it asked for a certificate, in ticks.
    pub(super) renewed: Option<u64>,
    offset: Offset,
}

/// The agents of this vSensor.
pub struct Group {
    port: u16,
    /// Who sends what.
    pub(super) relay: Relay,
    pub(super) agents: BTreeMap<u32, Agent>,
    dealer: Dealer,
    pub(super) notes: Arc<RelayNotes>,
    /// Each agent's run, and what was lost in it.
    runs: Runs,
    strangers: Strangers,
    pub(super) homes: PathBuf,
    pub(super) roots: Arc<Roots>,
    pub(super) orders: Orders,
    pub(super) exchange: Arc<Exchange>,
    /// Where agents' words on owners go.
    pub(super) owners: Option<SharedOwners>,
    own: Arc<OwnTransport>,
    last: Time,
    pub(super) ticks: u64,
    clock: Arc<dyn Clock>,
}

/// What a group is made of.
pub struct GroupParts {
    /// The port that its frames come to.
    pub port: u16,
    /// This sensor's number, and the group of its own ports.
    pub sensor: (u32, String),
    /// What is said with the master.
    pub exchange: Arc<Exchange>,
    /// The agents' groups, for all workers.
    pub roots: Arc<Roots>,
    /// What the spans look for.
    pub watch: Arc<SpanWatch>,
    /// Where the agents' groups are written down.
    pub homes: PathBuf,
    /// Which connections are our own transport.
    pub own: Arc<OwnTransport>,
    /// What the agents are to do.
    pub orders: Orders,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// The agents, and the source that gives their frames.
pub fn group(parts: GroupParts) -> (Group, AgentSource) {
    let GroupParts { port, sensor: (me, group), exchange, roots, watch, homes, own, orders, clock } = parts;
    let (dealer, mut sources) = deal_to(1);
    let notes: Arc<RelayNotes> = Arc::default();
    let mut relay = Relay::new(me, &group, watch);
    relay.homes(&homes::load(&homes));
    let group = Group {
        port,
        relay,
        agents: BTreeMap::new(),
        dealer,
        notes: Arc::clone(&notes),
        runs: Runs::new(me),
        strangers: Strangers::default(),
        homes,
        roots,
        orders,
        exchange,
        owners: None,
        own,
        last: Time(0),
        ticks: 0,
        clock,
    };
    // One worker was asked for, so one source is there.
    let dealt = sources.remove(0);
    (group, AgentSource { dealt, notes })
}

impl Group {
    /// What the poll loop's side reads.
    pub fn notes(&self) -> Arc<RelayNotes> {
        Arc::clone(&self.notes)
    }

    /// Agents' words on who holds the ends of flows go to `owners`.
    pub fn tell_owners(&mut self, owners: SharedOwners) {
        self.owners = Some(owners);
    }

    /// Time that never steps: what members and claims go by.
    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Tells agents and master what there is to tell.
    fn tell(&mut self) {
        let mut events = Vec::new();
        for out in self.relay.take_out() {
            match out {
                Out::Agent(agent, part) => {
                    if let Some(known) = self.agents.get(&agent) {
                        known.sender.send(ToAgent::Members(part));
                    }
                }
                Out::Master(event) => events.push(event),
            }
        }
        if !events.is_empty() {
            self.report(events);
        }
    }

    /// Tells the master, in messages that each fit a frame.
    fn report(&self, events: Vec<AgentEvent>) {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        for event in events {
            bytes += serde_json::to_vec(&event).map_or(0, |text| text.len());
            piece.push(event);
            if bytes > EVENTS_BYTES {
                self.exchange.tell(&ToMaster::Group { events: std::mem::take(&mut piece) });
                bytes = 0;
            }
        }
        self.exchange.tell(&ToMaster::Group { events: piece });
    }

    /// Agents whose claims turned out wrong are shown.
    fn show_voided(&mut self) {
        for agent in self.relay.take_voided() {
            tracing::warn!("agent {agent} did not send what was left to it: all witnesses send its packets now");
            if let Some(health) = self.notes.agents().get_mut(&agent)
                && !health.items.iter().any(|item| item == NOT_RELIED_ON)
            {
                health.items.push(NOT_RELIED_ON.to_owned());
            }
        }
    }

    /// Passes frames on, waiting while the worker is late.
    fn deal(&mut self, frames: &[Frame<'_>]) {
        let Some(last) = frames.last() else { return };
        self.dealer.deal_all(Burst { frames, now: self.last.max(last.time) }, || {
            std::thread::sleep(Duration::from_micros(500))
        });
    }

    /// Who holds its ends of connections. An agent speaks for its own addresses, and for those that no other claims.
    fn owners(&self, agent: u32, owners: Vec<Owner>) {
        let Some(book) = &self.owners else { return };
        let root = self.agents.get(&agent).and_then(|known| self.roots.group(known.root));
        let Some(root) = root else { return };
        for owner in owners.into_iter().take(OWNERS_MAX) {
            let claim = self.relay.claim_of(agent, owner.local.ip().into());
            if claim.is_some_and(|claim| speaks_for(agent, claim, self.relay.owns_beside(agent))) {
                book.add(&root, owner);
            } else {
                self.notes.refuse_owner();
            }
        }
    }

    /// Frames of an agent, one copy each, as they come or late.
    fn take_frames(&mut self, agent: u32, parcel: &[u8], is_late: bool) {
        let Some(root) = self.agents.get(&agent).map(|known| known.root) else { return };
        let mut rest = parcel;
        let mut frames = Vec::with_capacity(BURST_MAX);
        while let Some((head, bytes)) = take_frame(&mut rest) {
            // Agents' clocks differ, and a port's time never goes back; but what comes late happened when it happened.
            let stamp = self.agents.get(&agent).map_or(head.time, |known| known.offset.apply(head.time));
            let time =
                if is_late { stamp.min(self.last) } else { stamp.max(self.last).min(self.clock.wall().max(self.last)) };
            self.last = self.last.max(time);
            let wire_len = head.wire_len.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            let mut frame = Frame { bytes, wire_len, time, port: self.port, ..Frame::default() };
            let verdict = self.relay.frame(agent, (head.shared, head.again || is_late), &frame);
            let Some(FrameVerdict { copy: false, unverified, .. }) = verdict else {
                self.notes.count(|counters| counters.duplicate.add(u64::from(wire_len)));
                continue;
            };
            frame.origin = Origin { agent, root, unverified };
            frames.push(frame);
            if frames.len() == BURST_MAX {
                self.deal(&frames);
                frames.clear();
            }
        }
        self.deal(&frames);
        if !rest.is_empty() {
            tracing::warn!("agent {agent} sent a damaged parcel: {} bytes of it are lost", rest.len());
            self.notes.count(|counters| counters.error.add(rest.len() as u64));
        }
    }

    /// An agent's clock as it sent a heartbeat; it hears how far it is off.
    fn heartbeat(&mut self, agent: u32, theirs: Option<Time>) {
        let (Some(known), Some(theirs)) = (self.agents.get_mut(&agent), theirs) else { return };
        if let Some(nanoseconds) = known.offset.heartbeat(self.clock.wall(), theirs) {
            known.sender.send(ToAgent::Offset { nanoseconds });
        }
    }

    /// Tells agents what the master said of their batches.
    fn pass_on(&self) {
        for (SensorId(agent), message) in self.notes.passing.take_relayed() {
            if let Some(known) = self.agents.get(&agent) {
                known.sender.send(message);
            }
        }
    }

    fn interfaces(&mut self, agent: u32, interfaces: &[AgentInterface]) {
        let mut addresses = Vec::new();
        for interface in interfaces.iter().take(INTERFACES_MAX) {
            let mac = interface.mac.parse().ok();
            let parsed = interface.addresses.iter().filter_map(|text| text.parse().ok());
            addresses.extend(parsed.map(|address| (address, mac)));
        }
        self.relay.addresses(agent, &addresses);
        self.strangers.learn(agent, addresses.iter().map(|each| each.0), self.now());
        let words = interfaces.iter().take(SHOWN_MAX);
        let words = words.map(|each| format!("{} {}", each.name, each.addresses.join(" ")));
        let words = words.map(|words| words.chars().take(200).collect()).collect();
        if let Some(health) = self.notes.agents().get_mut(&agent) {
            health.interfaces = words;
        }
    }
}

impl Agents for Group {
    fn enter(&mut self, agent: u32, name: &str, ends: Ends, sender: AgentSender) -> Result<(), String> {
        let address = ends.1;
        if self.agents.len() >= AGENTS_MAX && !self.agents.contains_key(&agent) {
            return Err(format!("this vSensor serves {AGENTS_MAX} agents already: give this one to another vSensor"));
        }
        if self.orders.is_revoked(agent) {
            return Err(super::control::REVOKED.to_owned());
        }
        let group = self.relay.enter(agent)?;
        let root = self.relay.group_name(group).map_or(0, |name| self.roots.number(name));
        sender.send(ToAgent::Hello { name: crate::pipeline::host_name() });
        let connections = self.agents.get(&agent).map_or(0, |known| known.connections) + 1;
        let offset = Offset::default();
        self.agents.insert(agent, Agent { connections, sender, root, policy: None, renewed: None, offset });
        self.tell();
        let health =
            AgentHealth { id: agent, name: name.to_owned(), address: address.to_string(), ..AgentHealth::default() };
        self.notes.agents().insert(agent, health);
        self.instruct(agent);
        self.own.enter(agent, ends);
        tracing::info!("agent {agent} ({name}) connected from {address}");
        Ok(())
    }

    fn hear(&mut self, agent: u32, message: ToRelay) {
        match message {
            ToRelay::Interfaces { interfaces } => self.interfaces(agent, &interfaces),
            ToRelay::Alive { ledger, left, dropped, metered, own, time } => {
                self.heartbeat(agent, time);
                let left = left.get(..left.len().min(AGENTS_MAX)).unwrap_or_default();
                let metered = metered.get(..metered.len().min(AGENTS_MAX)).unwrap_or_default();
                let now = self.now();
                self.relay.report(agent, (left, metered), dropped, &own, now);
                self.tell();
                let Some(ledger) = ledger else { return };
                let is_alone = self.agents.get(&agent).is_none_or(|known| known.connections == 1);
                let missed = self.runs.ledger(agent, &ledger, is_alone);
                self.notes.count(|counters| counters.missed += missed);
                if let Some(health) = self.notes.agents().get_mut(&agent) {
                    health.ledger = *ledger;
                }
            }
            ToRelay::State(state) => self.state(agent, *state),
            ToRelay::Renew { request, chain } => self.renew(agent, request, chain),
            ToRelay::Owners { owners } => self.owners(agent, owners),
            ToRelay::Views { views } => self.views(agent, &views),
            ToRelay::Hello { boot, taken, ended, .. } => {
                self.runs.tidy(|known| self.agents.contains_key(known));
                self.runs.begin(agent, (boot, taken), ended);
            }
            ToRelay::Unknown => {}
        }
    }

    fn take(&mut self, run: (u32, u64), parcel: &[u8], is_new: bool) {
        self.runs.came(run, count_frames(parcel));
        if is_new {
            self.take_frames(run.0, parcel, false);
        }
    }

    fn take_late(&mut self, agent: u32, parcel: &[u8]) {
        self.take_frames(agent, parcel, true);
    }

    fn batch(&mut self, agent: u32, bytes: Vec<u8>) -> Result<(), String> {
        let bytes = self.strangers.mark(agent, bytes).map_err(|error| format!("its batch cannot be read: {error}"))?;
        let refused = self.notes.passing.batch(agent, bytes)?;
        if let (Some((boot, sequence)), Some(known)) = (refused, self.agents.get(&agent)) {
            known.sender.send(ToAgent::NoRoom { boot, sequence });
        }
        Ok(())
    }

    fn leave(&mut self, agent: u32) {
        let Some(known) = self.agents.get_mut(&agent) else { return };
        known.connections -= 1;
        if known.connections > 0 {
            return;
        }
        self.agents.remove(&agent);
        self.relay.leave(agent);
        self.tell();
        self.notes.agents().remove(&agent);
        self.own.leave(agent);
        tracing::info!("agent {agent} is gone");
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.pass_on();
        self.last = self.last.max(self.clock.wall());
        self.dealer.deal(Burst { frames: &[], now: self.last }, |_| ());
        self.exchange.heard().into_iter().for_each(|message| self.command(message));
        let now = self.now();
        self.relay.tick(now);
        self.tell();
        self.show_voided();
        if !self.agents.is_empty() {
            // The master hears that we are there.
            self.exchange.tell(&ToMaster::Group { events: Vec::new() });
        }
    }
}
