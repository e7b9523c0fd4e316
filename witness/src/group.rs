//! A group at the master: the agents of all vSensors as one set of members, checked against each other, numbered by
//! epochs. A vSensor that is silent is taken for gone with its agents; when it speaks again they are there again.

use crate::claims::Claims;
use crate::relay::LEASE;
use crate::roster::{CLAIMS_MAX, MEMBERS_MAX, Roster};
use std::collections::{BTreeMap, BTreeSet};
use thymus_record::Time;
use thymus_record::message::{AgentEvent, Member, Members, Passed};
use thymus_record::time::SECOND;

/// Pairs of one message that are looked at.
const SUMS_MAX: usize = 4_096;

struct Here {
    relay: u32,
    claims: Vec<u64>,
    covered: Vec<u64>,
    /// The epoch in which it came, once it was told.
    since: Option<u64>,
    /// Its vSensor has not told its claims since it came.
    is_new: bool,
    /// Since when its vSensor, which connected anew, has not told that it is there.
    untold: Option<Time>,
}

/// No epoch.
const NEW: u64 = u64::MAX;

/// What a vSensor that connected anew does not tell within this time is gone.
const RETOLD_WITHIN: u64 = SECOND;

/// What a second brought to light.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Notes {
    /// Agents that did not send what was left to them.
    pub void: Vec<u32>,
    /// Agents that are checked anew, or held: nothing is wrong with them any more.
    pub well: Vec<u32>,
}

/// A group.
pub struct Group {
    seed: u64,
    here: BTreeMap<u32, Here>,
    /// When each vSensor was last heard.
    relays: BTreeMap<u32, Time>,
    claims: Claims,
    told: Roster,
    /// vSensors that were told all of it.
    audience: BTreeSet<u32>,
    changed: bool,
    left_unsent: Passed,
}

impl Group {
    /// A group without agents. `seed` is secret.
    pub fn new(seed: u64) -> Group {
        Group {
            seed,
            here: BTreeMap::new(),
            relays: BTreeMap::new(),
            claims: Claims::default(),
            told: Roster::new(seed),
            audience: BTreeSet::new(),
            changed: false,
            left_unsent: Passed::default(),
        }
    }

    /// Secret of the group's hashes.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// vSensors with agents of the group.
    pub fn relays(&self) -> BTreeSet<u32> {
        self.here.values().map(|here| here.relay).collect()
    }

    /// A vSensor says something of an agent of this group; its connection counts as alive.
    pub fn hear(&mut self, relay: u32, event: &AgentEvent, now: Time) {
        self.alive(relay, now);
        match event {
            AgentEvent::Enter { agent, held } => {
                if self.here.len() >= MEMBERS_MAX && !self.here.contains_key(agent) {
                    return;
                }
                self.relays.insert(relay, now);
                // A vSensor tells the claims right behind; until then those known before are as good as any.
                let old = self.here.get(agent).filter(|_| *held);
                let claims = old.map(|here| here.claims.clone()).unwrap_or_default();
                let since = if *held { Some(old.and_then(|here| here.since).unwrap_or(0)) } else { None };
                let here = Here { relay, claims, covered: Vec::new(), since, is_new: true, untold: None };
                self.here.insert(*agent, here);
                self.claims.enter(*agent, *held);
            }
            AgentEvent::Claims { agent, claims } => {
                let Some(here) = self.here.get_mut(agent).filter(|here| here.relay == relay) else { return };
                let claims = claims.get(..claims.len().min(CLAIMS_MAX)).unwrap_or_default();
                if here.claims != claims {
                    here.claims = claims.to_vec();
                    here.covered.retain(|claim| claims.contains(claim));
                    if !here.is_new {
                        self.claims.enter(*agent, false);
                    }
                }
                here.is_new = false;
            }
            AgentEvent::Covered { agent, covered } => {
                let Some(here) = self.here.get_mut(agent).filter(|here| here.relay == relay) else { return };
                here.covered = covered.iter().copied().take(CLAIMS_MAX).collect();
            }
            AgentEvent::Leave { agent } => {
                if self.here.get(agent).is_some_and(|here| here.relay == relay) {
                    self.here.remove(agent);
                    self.claims.leave(*agent);
                }
            }
            AgentEvent::Sums { left, came, declared } => {
                // Only a member's own vSensor speaks for it.
                let speaks =
                    |agent: u32, here: &BTreeMap<u32, Here>| here.get(&agent).is_some_and(|it| it.relay == relay);
                for each in left.iter().take(SUMS_MAX).filter(|each| speaks(each.second, &self.here)) {
                    self.claims.left(each);
                }
                for each in came.iter().take(SUMS_MAX).filter(|each| speaks(each.owner, &self.here)) {
                    self.claims.came(each);
                }
                for (agent, passed) in declared.iter().take(SUMS_MAX) {
                    if speaks(*agent, &self.here) {
                        self.claims.declared(*agent, *passed);
                    }
                }
                return;
            }
            AgentEvent::Unknown => return,
        }
        self.changed = true;
    }

    /// A vSensor connected, and is about to tell all of its agents.
    pub fn welcome(&mut self, relay: u32, now: Time) {
        self.audience.remove(&relay);
        for here in self.here.values_mut().filter(|here| here.relay == relay) {
            here.untold.get_or_insert(now);
        }
    }

    /// A vSensor is there, whether it has anything to say or not.
    pub fn alive(&mut self, relay: u32, now: Time) {
        let Some(heard) = self.relays.get_mut(&relay) else { return };
        self.changed |= now.since(*heard) > LEASE;
        *heard = now.max(*heard);
    }

    /// A second has passed.
    pub fn turn(&mut self) -> Notes {
        let verdict = self.claims.turn();
        self.changed |= verdict.is_news();
        self.left_unsent += verdict.unsent;
        let well = verdict.held.into_iter().chain(verdict.anew).collect();
        Notes { void: verdict.void, well }
    }

    /// A vSensor did not hear what it was told: it is told all anew.
    pub fn missed(&mut self, relay: u32) {
        self.audience.remove(&relay);
    }

    /// What is to be told to which vSensor: where anything changed, under the next epoch.
    pub fn publish(&mut self, now: Time, epoch: impl FnOnce() -> u64) -> Vec<(u32, Members)> {
        let change = self.change(now, epoch).unwrap_or_default();
        let relays = self.relays();
        let mut told = Vec::new();
        for relay in &relays {
            let parts = if self.audience.contains(relay) { change.clone() } else { self.told.whole() };
            told.extend(parts.into_iter().map(|part| (*relay, part)));
        }
        // A vSensor without agents of the group hears of it again when it has some.
        self.audience = relays;
        told
    }

    fn change(&mut self, now: Time, epoch: impl FnOnce() -> u64) -> Option<Vec<Members>> {
        let late = |here: &Here| here.untold.is_some_and(|since| now.since(since) > RETOLD_WITHIN);
        let gone: Vec<u32> = self.here.iter().filter(|(_, here)| late(here)).map(|(id, _)| *id).collect();
        for id in &gone {
            self.here.remove(id);
            self.claims.leave(*id);
        }
        self.changed |= !gone.is_empty();
        let silent = |heard: &Time| now.since(*heard) > LEASE;
        let lapsed: Vec<u32> = self.relays.iter().filter(|(_, heard)| silent(heard)).map(|(relay, _)| *relay).collect();
        let is_told = |relay: &u32| self.told.members().any(|member| member.relay == *relay);
        if !self.changed && !lapsed.iter().any(is_told) {
            return None;
        }
        self.changed = false;
        let mut next = Roster::new(self.seed);
        for (id, here) in self.here.iter().filter(|(_, here)| !lapsed.contains(&here.relay)) {
            let counts = !self.claims.is_void(*id);
            let (claims, covered) =
                if counts { (here.claims.clone(), here.covered.clone()) } else { Default::default() };
            let provisional = counts && self.claims.is_provisional(*id);
            let since = here.since.unwrap_or(NEW);
            next.put(Member { id: *id, relay: here.relay, since, claims, covered, provisional });
        }
        if next.is_like(&self.told) {
            return None;
        }
        next.changed_since(&self.told).into_iter().for_each(|member| self.claims.unsettle(member));
        next.epoch = epoch();
        for (id, here) in self.here.iter_mut().filter(|(_, here)| here.since.is_none()) {
            here.since = Some(next.epoch);
            if let Some(member) = next.member(*id).cloned() {
                next.put(Member { since: next.epoch, ..member });
            }
        }
        let parts = next.since(&self.told);
        self.told = next;
        Some(parts)
    }

    /// The members as they were told.
    pub fn told(&self) -> &Roster {
        &self.told
    }

    /// Left to members that did not send it.
    pub fn left_unsent(&self) -> Passed {
        self.left_unsent
    }
}
