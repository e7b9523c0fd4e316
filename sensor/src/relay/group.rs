//! The agents of a vSensor: their frames, one copy each, and who of them sends what.

use super::digest::digest;
use super::source::{AgentSource, RelayNotes};
use super::speaker::speaks_for;
use crate::clock::Clock;
use crate::deal::{Dealer, deal_to};
use crate::offset::Offset;
use crate::orders::Orders;
use crate::source::{BURST_MAX, Burst};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thymus_dissect::decode::decode;
use thymus_dissect::{Frame, LinkType};
use thymus_forward::SharedOwners;
use thymus_link::Exchange;
use thymus_link::agent::{FrameHead, take_frame};
use thymus_link::relay::{AgentSender, Agents};
use thymus_record::ledger::Count;
use thymus_record::message::{AgentHealth, AgentInterface, Member, Members, Policy, ToAgent, ToRelay};
use thymus_record::owner::Owner;
use thymus_record::{SensorId, Time};
use thymus_witness::{Claims, Copies, Witness, claim_of, ends_of, weight_of};

/// Agents at once.
const AGENTS_MAX: usize = 2_000;
/// Addresses that one agent may claim.
const CLAIMS_MAX: usize = 256;
/// Interfaces that one agent may tell.
const INTERFACES_MAX: usize = 64;
/// Interfaces of it that are shown.
const SHOWN_MAX: usize = 16;
/// Owners taken of one message.
const OWNERS_MAX: usize = 256;
/// Runs of agents whose drops are remembered.
const RUNS_MAX: usize = 16_384;
/// Ticks (tenths of a second) between two looks at claims, and at old copies.
const CLAIMS_EVERY: u64 = 10;
const COPIES_EVERY: u64 = 20;

/// One agent.
pub(super) struct Agent {
    /// A restarted agent may be back before its old connection is seen to end.
    connections: u32,
    pub(super) sender: AgentSender,
    claims: Vec<u64>,
    /// The policy that it was told.
    pub(super) policy: Option<Policy>,
    /// When it asked for a certificate, in ticks.
    pub(super) renewed: Option<u64>,
    offset: Offset,
}

/// The agents of this vSensor.
pub struct Group {
    port: u16,
    seed: u64,
    epoch: u64,
    pub(super) agents: BTreeMap<u32, Agent>,
    claims: Claims,
    copies: Copies,
    witness: Witness,
    dealer: Dealer,
    pub(super) notes: Arc<RelayNotes>,
    /// Each agent's run, and what it gave up in it, as last told.
    dropped: HashMap<u32, (u64, Count)>,
    pub(super) orders: Orders,
    pub(super) exchange: Arc<Exchange>,
    /// Where agents' words on owners go, and the network that they are of.
    owners: Option<(String, SharedOwners)>,
    last: Time,
    pub(super) ticks: u64,
    clock: Arc<dyn Clock>,
}

/// A group whose frames come to port `port`, and the source that gives them. `seed` is secret.
pub fn group(port: u16, seed: u64, clock: Arc<dyn Clock>) -> (Group, AgentSource) {
    let (dealer, mut sources) = deal_to(1);
    let notes: Arc<RelayNotes> = Arc::default();
    let group = Group {
        port,
        seed,
        epoch: 0,
        agents: BTreeMap::new(),
        claims: Claims::default(),
        copies: Copies::default(),
        witness: Witness::default(),
        dealer,
        notes: Arc::clone(&notes),
        dropped: HashMap::new(),
        orders: Orders::default(),
        exchange: Arc::default(),
        owners: None,
        last: Time(0),
        ticks: 0,
        clock,
    };
    // One worker was asked for, so one source is there.
    let dealt = sources.remove(0);
    (group, AgentSource { dealt, notes })
}

impl Group {
    /// Follows these orders, and those that come.
    pub fn obey(&mut self, orders: Orders, exchange: Arc<Exchange>) {
        self.orders = orders;
        self.exchange = exchange;
    }

    /// What the poll loop's side reads.
    pub fn notes(&self) -> Arc<RelayNotes> {
        Arc::clone(&self.notes)
    }

    /// Agents' words on who holds the ends of flows of network `root` go to `owners`.
    pub fn tell_owners(&mut self, root: String, owners: SharedOwners) {
        self.owners = Some((root, owners));
    }

    /// Tells all agents who is there now.
    fn publish(&mut self, gone: Vec<u32>) {
        self.epoch += 1;
        let member = |(id, agent): (&u32, &Agent)| Member {
            id: *id,
            claims: if self.claims.is_void(*id) { Vec::new() } else { agent.claims.clone() },
            provisional: self.claims.is_provisional(*id) && !self.claims.is_void(*id),
        };
        let members = self.agents.iter().map(member).collect();
        let members = Members { epoch: self.epoch, seed: self.seed, members, gone };
        self.witness = Witness::new(0, &members);
        self.agents.values().for_each(|agent| agent.sender.send(ToAgent::Members(members.clone())));
    }

    /// Passes frames on, waiting while the worker is late.
    fn deal(&mut self, frames: &[Frame<'_>]) {
        let Some(last) = frames.last() else { return };
        self.dealer.deal_all(Burst { frames, now: self.last.max(last.time) }, || {
            std::thread::sleep(Duration::from_micros(500))
        });
    }

    /// True if the frame is a copy of one that came from another agent; else its payload is put to the agent's account.
    fn is_copy(&mut self, agent: u32, head: &FrameHead, frame: &Frame<'_>) -> bool {
        let packet = decode(frame);
        // Where two are known to see a packet, its owner must send it. While claims are unchecked both do, and what
        // the other one sends is what it would have left to the owner.
        match ends_of(&packet).and_then(|ends| self.witness.pair(&ends)) {
            Some((owner, _)) if owner == agent => self.claims.delivered(agent, weight_of(&packet)),
            Some((owner, second)) if second == agent && head.shared => self.claims.left_to(owner, weight_of(&packet)),
            _ => {}
        }
        self.copies.is_copy(digest(self.seed, frame.bytes, &packet), agent)
    }

    /// Who holds its ends of connections. An agent speaks for its own addresses, and for those that no other claims.
    fn owners(&self, agent: u32, owners: Vec<Owner>) {
        let Some((root, book)) = &self.owners else { return };
        for owner in owners.into_iter().take(OWNERS_MAX) {
            let claim = claim_of(self.seed, owner.local.ip().into());
            let claims = self.agents.iter().map(|(id, each)| (*id, each.claims.as_slice()));
            if speaks_for(agent, claim, claims) {
                book.add(root, owner);
            } else {
                self.notes.refuse_owner();
            }
        }
    }

    /// Frames of an agent, one copy each, as they come or late.
    fn take_frames(&mut self, agent: u32, parcel: &[u8], is_late: bool) {
        let mut rest = parcel;
        let mut frames = Vec::with_capacity(BURST_MAX);
        while let Some((head, bytes)) = take_frame(&mut rest) {
            // Agents' clocks differ, and a port's time never goes back; but what comes late happened when it happened.
            let stamp = self.agents.get(&agent).map_or(head.time, |known| known.offset.apply(head.time));
            let time =
                if is_late { stamp.min(self.last) } else { stamp.max(self.last).min(self.clock.wall().max(self.last)) };
            self.last = self.last.max(time);
            let wire_len = head.wire_len.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            let frame = Frame { bytes, wire_len, time, link: LinkType::Ethernet, port: self.port };
            if self.is_copy(agent, &head, &frame) {
                self.notes.count(|counters| counters.duplicate.add(u64::from(wire_len)));
                continue;
            }
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

    /// What an agent gave up in its run so far.
    fn note_drops(&mut self, agent: u32, shed: Count) {
        let known = &mut self.dropped.entry(agent).or_default().1;
        let fresh = crate::counters::fresh(known, shed);
        self.notes.count(|counters| counters.missed += fresh);
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
        let Some(known) = self.agents.get_mut(&agent) else { return };
        let addresses = interfaces.iter().take(INTERFACES_MAX).flat_map(|each| &each.addresses);
        let addresses = addresses.filter_map(|text| text.parse::<std::net::IpAddr>().ok()).take(CLAIMS_MAX);
        known.claims = addresses.map(|address| claim_of(self.seed, address.into())).collect();
        let words = interfaces.iter().take(SHOWN_MAX);
        let words = words.map(|each| format!("{} {}", each.name, each.addresses.join(" ")));
        let words = words.map(|words| words.chars().take(200).collect()).collect();
        if let Some(health) = self.notes.agents().get_mut(&agent) {
            health.interfaces = words;
        }
        // New addresses are claims that nobody has checked.
        self.claims.enter(agent);
        self.publish(Vec::new());
    }
}

impl Agents for Group {
    fn enter(&mut self, agent: u32, name: &str, address: SocketAddr, sender: AgentSender) -> Result<(), String> {
        if self.agents.len() >= AGENTS_MAX && !self.agents.contains_key(&agent) {
            return Err(format!("this vSensor serves {AGENTS_MAX} agents already: give this one to another vSensor"));
        }
        if self.orders.is_revoked(agent) {
            return Err(super::control::REVOKED.to_owned());
        }
        sender.send(ToAgent::Hello { name: crate::pipeline::host_name() });
        let connections = self.agents.get(&agent).map_or(0, |known| known.connections) + 1;
        let (claims, offset) = (Vec::new(), Offset::default());
        self.agents.insert(agent, Agent { connections, sender, claims, policy: None, renewed: None, offset });
        let health =
            AgentHealth { id: agent, name: name.to_owned(), address: address.to_string(), ..AgentHealth::default() };
        self.notes.agents().insert(agent, health);
        self.instruct(agent);
        tracing::info!("agent {agent} ({name}) connected from {address}");
        Ok(())
    }

    fn hear(&mut self, agent: u32, message: ToRelay) {
        match message {
            ToRelay::Interfaces { interfaces } => self.interfaces(agent, &interfaces),
            ToRelay::Alive { ledger, left, dropped, metered, time } => {
                self.heartbeat(agent, time);
                left.iter().take(AGENTS_MAX).for_each(|(owner, bytes)| self.claims.left_to(*owner, *bytes));
                self.claims.declared(agent, dropped);
                self.claims.delivered(agent, metered);
                let Some(ledger) = ledger else { return };
                self.note_drops(agent, ledger.shed);
                if let Some(health) = self.notes.agents().get_mut(&agent) {
                    health.ledger = ledger;
                }
            }
            ToRelay::State(state) => self.state(agent, *state),
            ToRelay::Renew { request, chain } => self.renew(agent, request, chain),
            ToRelay::Owners { owners } => self.owners(agent, owners),
            // The drops of an agent that was cut off and comes again are not counted twice.
            ToRelay::Hello { boot, .. } => {
                if self.dropped.len() >= RUNS_MAX {
                    self.dropped.retain(|known, _| self.agents.contains_key(known));
                }
                let known = self.dropped.entry(agent).or_default();
                if known.0 != boot {
                    *known = (boot, Count::default());
                }
            }
            ToRelay::Unknown => {}
        }
    }

    fn take(&mut self, agent: u32, parcel: &[u8]) {
        self.take_frames(agent, parcel, false);
    }

    fn take_late(&mut self, agent: u32, parcel: &[u8]) {
        self.take_frames(agent, parcel, true);
    }

    fn batch(&mut self, agent: u32, bytes: Vec<u8>) -> Result<(), String> {
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
        self.claims.leave(agent);
        self.notes.agents().remove(&agent);
        tracing::info!("agent {agent} is gone");
        self.publish(vec![agent]);
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.exchange.heard().into_iter().for_each(|message| self.command(message));
        self.pass_on();
        self.last = self.last.max(self.clock.wall());
        self.dealer.deal(Burst { frames: &[], now: self.last }, |_| ());
        if self.ticks.is_multiple_of(COPIES_EVERY) {
            self.copies.turn();
        }
        if self.ticks.is_multiple_of(CLAIMS_EVERY) {
            let verdict = self.claims.turn();
            for agent in &verdict.void {
                tracing::warn!("agent {agent} did not send what was left to it: all witnesses send its packets now");
                let mut health = self.notes.agents();
                if let Some(health) = health.get_mut(agent) {
                    health.items.push("it does not send what others leave to it: it is not relied on for a minute, and then tried again: look at its interfaces".to_owned());
                }
            }
            let changed = [&verdict.held, &verdict.void, &verdict.anew].iter().any(|members| !members.is_empty());
            if changed {
                self.publish(verdict.void);
            }
        }
    }
}
