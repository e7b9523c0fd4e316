//! A vSensor between its agents and the master: it tells the master who is there and what passed, and its agents who the
//! master says is there. What it knows better it says at once: an agent of its own that is gone, does not send what is
//! left to it, or whose addresses a span covers. While the master is silent the last epoch goes on for its own agents;
//! others' are not relied on, since nobody could tell when they go.

use crate::choice::{Witness, claim_of, is_shared};
use crate::claims::Claims;
use crate::copies::Copies;
use crate::digest::digest;
use crate::packet::{ends_of, passed_of};
use crate::roster::{CLAIMS_MAX, Roster};
use crate::span::{SpanWatch, Track, Wanted};
use std::collections::BTreeMap;
use std::sync::Arc;
use thymus_dissect::Frame;
use thymus_dissect::decode::decode;
use thymus_record::message::{AgentEvent, Home, Members, Passed};
use thymus_record::time::SECOND;
use thymus_record::{Address, Mac, Time};

/// What is told to agents and to the master.
mod telling;

/// A master that is silent for longer is not there: less than half of what agents remember.
pub const LEASE: u64 = 1_200_000_000;
/// Groups of one vSensor's agents.
pub const GROUPS_MAX: usize = 256;
/// Agents whose group is known.
const HOMES_MAX: usize = 1 << 17;
/// Pairs that are summed up in a second; further ones are not compared.
const PAIRS_MAX: usize = 1 << 16;

/// What passed, by the member that it is shared with.
pub type ByMember<'a> = &'a [(u32, Passed)];

/// What is to be told.
#[derive(Clone, PartialEq, Debug)]
pub enum Out {
    /// To this agent.
    Agent(u32, Members),
    /// To the master.
    Master(AgentEvent),
}

/// What a frame of an agent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// A copy of one that came from another agent.
    pub copy: bool,
    /// The agent's group, by number.
    pub group: usize,
    /// The agent owns neither end.
    pub unverified: bool,
}

#[derive(Default)]
struct Sums {
    left: BTreeMap<(u32, u32), Passed>,
    came: BTreeMap<(u32, u32), Passed>,
    declared: BTreeMap<u32, Passed>,
}

#[derive(Default)]
struct Group {
    name: String,
    /// As the master says.
    master: Roster,
    /// As our agents were told.
    told: Roster,
    witness: Witness,
    copies: Copies,
    claims: Claims,
    sums: Sums,
    changed: bool,
}

struct Agent {
    group: usize,
    /// All its addresses, by hash.
    owns: Vec<u64>,
    /// Those that count.
    claims: Vec<u64>,
    claims_told: bool,
    tracks: BTreeMap<u64, (Wanted, Track)>,
    /// The master has not answered its coming yet.
    is_new: bool,
}

/// The vSensor's side.
pub struct Relay {
    me: u32,
    span_group: String,
    watch: Arc<SpanWatch>,
    homes: BTreeMap<u32, usize>,
    groups: Vec<Group>,
    agents: BTreeMap<u32, Agent>,
    heard: Option<Time>,
    is_alone: bool,
    turned: Time,
    turns: u64,
    voided: Vec<u32>,
    out: Vec<Out>,
}

fn add(sums: &mut BTreeMap<(u32, u32), Passed>, pair: (u32, u32), passed: Passed) {
    if sums.len() < PAIRS_MAX || sums.contains_key(&pair) {
        *sums.entry(pair).or_default() += passed;
    }
}

impl Relay {
    /// vSensor `me`, whose spans belong to a group and look for what agents of that group claim.
    pub fn new(me: u32, span_group: &str, watch: Arc<SpanWatch>) -> Relay {
        Relay {
            me,
            span_group: span_group.to_owned(),
            watch,
            homes: BTreeMap::new(),
            groups: Vec::new(),
            agents: BTreeMap::new(),
            heard: None,
            is_alone: true,
            turned: Time(0),
            turns: 0,
            voided: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Agents belong to these groups: as the master says, or as it said before the last start.
    pub fn homes(&mut self, homes: &[Home]) {
        for home in homes {
            let known = self.groups.iter().position(|group| group.name == home.group);
            let Some(at) = known.or_else(|| (self.groups.len() < GROUPS_MAX).then_some(self.groups.len())) else {
                continue;
            };
            if known.is_none() {
                let (master, told) = (Roster::new(home.seed), Roster::new(home.seed));
                self.groups.push(Group { name: home.group.clone(), master, told, ..Group::default() });
            }
            for agent in &home.agents {
                if self.homes.len() < HOMES_MAX || self.homes.contains_key(agent) {
                    self.homes.insert(*agent, at);
                }
            }
        }
    }

    /// What the master said of homes so far.
    pub fn known_homes(&self) -> Vec<Home> {
        let mut homes: Vec<Home> = self
            .groups
            .iter()
            .map(|group| Home { group: group.name.clone(), seed: group.told.seed, agents: Vec::new() })
            .collect();
        for (agent, at) in &self.homes {
            if let Some(home) = homes.get_mut(*at) {
                home.agents.push(*agent);
            }
        }
        homes
    }

    /// An agent connected; its group's number, or why it is not taken.
    pub fn enter(&mut self, agent: u32) -> Result<usize, String> {
        let Some(at) = self.homes.get(&agent).copied() else {
            return Err("the master has not told this vSensor yet which group the agent belongs to: \
                        it is asked again by itself; look at the vSensor's link if that lasts"
                .to_owned());
        };
        let Some(group) = self.groups.get_mut(at) else { return Err("its group is not known".to_owned()) };
        group.claims.enter(agent, false);
        group.changed = true;
        let new = Agent {
            group: at,
            owns: Vec::new(),
            claims: Vec::new(),
            claims_told: true,
            tracks: BTreeMap::new(),
            is_new: true,
        };
        let back = self.agents.insert(agent, new).is_some();
        self.out.push(Out::Master(AgentEvent::Enter { agent, held: false }));
        if back {
            // Its old connection is not seen to end yet: what was left to that one is sent.
            self.publish();
            self.look_for();
        }
        if let Some(group) = self.groups.get(at) {
            self.out.extend(group.told.whole().into_iter().map(|part| Out::Agent(agent, part)));
        }
        Ok(at)
    }

    /// An agent's addresses, each with the Ethernet address of its interface.
    pub fn addresses(&mut self, agent: u32, addresses: &[(Address, Option<Mac>)]) {
        let Some(known) = self.agents.get_mut(&agent) else { return };
        let Some(group) = self.groups.get_mut(known.group) else { return };
        let seed = group.told.seed;
        let addresses = addresses.get(..addresses.len().min(CLAIMS_MAX)).unwrap_or_default();
        known.owns = addresses.iter().map(|(address, _)| claim_of(seed, *address)).collect();
        let counted = addresses.iter().filter(|(address, _)| !is_shared(*address));
        let mut claims: Vec<u64> = counted.clone().map(|(address, _)| claim_of(seed, *address)).collect();
        claims.sort_unstable();
        claims.dedup();
        let mut tracks = BTreeMap::new();
        for (address, mac) in counted.filter(|_| group.name == self.span_group) {
            let Some(mac) = *mac else { continue };
            let claim = claim_of(seed, *address);
            let same = |(wanted, _): &(Wanted, Track)| wanted.mac == mac;
            let kept = known.tracks.remove(&claim).filter(same).unwrap_or_else(|| {
                let wanted = Wanted { address: *address, mac, counts: Arc::default() };
                let track = Track::new(Arc::clone(&wanted.counts));
                (wanted, track)
            });
            tracks.insert(claim, kept);
        }
        known.tracks = tracks;
        if known.claims != claims {
            known.claims = claims;
            known.claims_told = false;
            group.claims.enter(agent, false);
            group.changed = true;
        }
        self.look_for();
    }

    /// Tells the poll loops what to look for.
    fn look_for(&self) {
        let tracks = self.agents.values().flat_map(|agent| agent.tracks.values());
        self.watch.want(&tracks.map(|(wanted, _)| wanted.clone()).collect::<Vec<Wanted>>());
    }

    /// An agent's report: what it left to others, gave up, and saw of its own addresses.
    pub fn report(
        &mut self,
        agent: u32,
        (left, metered): (ByMember<'_>, ByMember<'_>),
        dropped: Passed,
        own: &[(u64, Passed)],
        now: Time,
    ) {
        let Some(known) = self.agents.get_mut(&agent) else { return };
        let Some(group) = self.groups.get_mut(known.group) else { return };
        for (owner, passed) in left {
            if group.told.member(*owner).is_some() {
                add(&mut group.sums.left, (*owner, agent), *passed);
            }
        }
        // What it made rows of instead of sending it.
        for (second, passed) in metered {
            if group.told.member(*second).is_some() {
                add(&mut group.sums.came, (agent, *second), *passed);
            }
        }
        if dropped != Passed::default() {
            *group.sums.declared.entry(agent).or_default() += dropped;
        }
        let own = own.get(..own.len().min(CLAIMS_MAX)).unwrap_or_default();
        let mut changed = false;
        for (claim, (_, track)) in &mut known.tracks {
            let passed = own.iter().find(|each| each.0 == *claim).map(|each| each.1).unwrap_or_default();
            changed |= track.report(passed, now);
        }
        if changed {
            group.changed = true;
            let covered = covered_of(known);
            self.out.push(Out::Master(AgentEvent::Covered { agent, covered }));
            self.publish();
        }
    }

    /// A frame came from an agent. `shared`: it says that others may send it too; `again`: it had left it to another.
    pub fn frame(&mut self, agent: u32, (shared, again): (bool, bool), frame: &Frame<'_>) -> Option<Verdict> {
        let known = self.agents.get(&agent)?;
        let group = self.groups.get_mut(known.group)?;
        let packet = decode(frame);
        let ends = ends_of(&packet);
        // Where two are known to see a packet, its owner must send it. While claims are unchecked both do, and what
        // the other one sends is what it would have left to the owner.
        if !again && let Some((owner, second)) = ends.and_then(|ends| group.witness.pair(&ends)) {
            let passed = passed_of(&packet);
            if owner == agent {
                add(&mut group.sums.came, (owner, second), passed);
            } else if second == agent && shared {
                add(&mut group.sums.left, (owner, second), passed);
            }
        }
        let seed = group.told.seed;
        let owns = ends.is_some_and(|ends| {
            [ends.source, ends.target].iter().any(|end| known.owns.contains(&claim_of(seed, *end)))
        });
        let copy = group.copies.is_copy(digest(seed, frame.bytes, &packet), agent, owns);
        Some(Verdict { copy, group: known.group, unverified: !owns })
    }

    /// The hash of an address in an agent's group.
    pub fn claim_of(&self, agent: u32, address: Address) -> Option<u64> {
        let group = self.groups.get(self.agents.get(&agent)?.group)?;
        Some(claim_of(group.told.seed, address))
    }

    /// Agents of this agent's group, and the hashes of all their addresses.
    pub fn owns_beside(&self, agent: u32) -> impl Iterator<Item = (u32, &[u64])> {
        let group = self.agents.get(&agent).map(|known| known.group);
        let beside = self.agents.iter().filter(move |(_, each)| Some(each.group) == group);
        beside.map(|(id, each)| (*id, each.owns.as_slice()))
    }

    /// An agent is gone: others take over at once.
    pub fn leave(&mut self, agent: u32) {
        let Some(known) = self.agents.remove(&agent) else { return };
        if let Some(group) = self.groups.get_mut(known.group) {
            group.claims.leave(agent);
            group.changed = true;
        }
        self.out.push(Out::Master(AgentEvent::Leave { agent }));
        self.look_for();
        self.publish();
    }

    /// The master is there.
    pub fn heard(&mut self, now: Time) {
        self.heard = Some(now);
    }

    /// The master says who is there.
    pub fn members(&mut self, name: &str, part: &Members) {
        let Some(group) = self.groups.iter_mut().find(|group| group.name == name) else { return };
        for member in part.members.iter().filter(|member| member.relay == self.me) {
            if let Some(agent) = self.agents.get_mut(&member.id) {
                agent.is_new = false;
            }
        }
        if group.master.apply(part) {
            group.changed = true;
            self.publish();
        }
    }

    /// A moment has passed: called about ten times a second.
    pub fn tick(&mut self, now: Time) {
        let alone = self.heard.is_none_or(|heard| now.since(heard) > LEASE);
        if alone != self.is_alone {
            self.is_alone = alone;
            self.groups.iter_mut().for_each(|group| group.changed = true);
        }
        if now.since(self.turned) >= SECOND {
            self.turned = now;
            self.turns += 1;
            self.turn();
        }
        self.publish();
    }

    /// Whether the master is there.
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// A group's name, by number.
    pub fn group_name(&self, at: usize) -> Option<&str> {
        self.groups.get(at).map(|group| group.name.as_str())
    }

    /// Agents whose claims turned out wrong since the call before.
    pub fn take_voided(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.voided)
    }

    /// What is to be told since the call before, in order.
    pub fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }
}

fn covered_of(agent: &Agent) -> Vec<u64> {
    agent.tracks.iter().filter(|(_, (_, track))| track.is_covered()).map(|(claim, _)| *claim).collect()
}
