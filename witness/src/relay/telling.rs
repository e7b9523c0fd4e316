//! What a vSensor tells: its agents who is there, and the master what happened to them.

use super::{Out, Relay, Sums, covered_of};
use crate::choice::Witness;
use crate::roster::Roster;
use thymus_record::message::{AgentEvent, Member, Passed, Shared};

/// Pairs told in one message.
const SUMS_MAX: usize = 256;

impl Relay {
    /// A connection to the master begins: it hears all that there is.
    pub fn connected(&mut self) {
        self.out.retain(|out| matches!(out, Out::Agent(..)));
        for (agent, known) in &mut self.agents {
            let group = self.groups.get(known.group);
            let held = group.and_then(|group| group.told.member(*agent)).is_some_and(|member| {
                // Who claims nothing may be void.
                !member.provisional && !member.claims.is_empty()
            });
            self.out.push(Out::Master(AgentEvent::Enter { agent: *agent, held }));
            self.out.push(Out::Master(AgentEvent::Claims { agent: *agent, claims: known.claims.clone() }));
            self.out.push(Out::Master(AgentEvent::Covered { agent: *agent, covered: covered_of(known) }));
            known.claims_told = true;
        }
    }

    /// A second has passed: sums are told, and claims of our own agents checked.
    pub(super) fn turn(&mut self) {
        for (agent, known) in self.agents.iter_mut().filter(|(_, known)| !known.claims_told) {
            known.claims_told = true;
            self.out.push(Out::Master(AgentEvent::Claims { agent: *agent, claims: known.claims.clone() }));
        }
        for group in &mut self.groups {
            let Sums { left, came, declared } = std::mem::take(&mut group.sums);
            let shared = |((owner, second), passed)| Shared { owner, second, passed };
            let (left, came): (Vec<Shared>, Vec<Shared>) =
                (left.into_iter().map(shared).collect(), came.into_iter().map(shared).collect());
            let declared: Vec<(u32, Passed)> = declared.into_iter().collect();
            left.iter().for_each(|each| group.claims.left(each));
            came.iter().for_each(|each| group.claims.came(each));
            declared.iter().for_each(|(agent, passed)| group.claims.declared(*agent, *passed));
            let verdict = group.claims.turn();
            group.changed |= verdict.is_news();
            self.voided.extend(verdict.void);
            let pieces = [left.len(), came.len(), declared.len()].into_iter().max().unwrap_or(0).div_ceil(SUMS_MAX);
            for piece in 0..pieces {
                self.out.push(Out::Master(AgentEvent::Sums {
                    left: piece_of(&left, piece),
                    came: piece_of(&came, piece),
                    declared: piece_of(&declared, piece),
                }));
            }
            // Longer than agents remember what they left to others.
            if self.turns.is_multiple_of(4) {
                group.copies.turn();
            }
        }
    }

    /// Tells agents what changed.
    pub(super) fn publish(&mut self) {
        for at in 0..self.groups.len() {
            if !self.groups.get(at).is_some_and(|group| group.changed) {
                continue;
            }
            let Some(now) = self.compose(at) else { continue };
            let Some(group) = self.groups.get_mut(at) else { continue };
            group.changed = false;
            let parts = if now.is_like(&group.told) && now.epoch == group.told.epoch {
                Vec::new()
            } else {
                now.since(&group.told)
            };
            now.changed_since(&group.told).into_iter().for_each(|member| group.claims.unsettle(member));
            group.witness = Witness::new(0, &now);
            group.told = now;
            for agent in self.agents.iter().filter(|(_, agent)| agent.group == at).map(|(id, _)| *id) {
                self.out.extend(parts.iter().map(|part| Out::Agent(agent, part.clone())));
            }
        }
    }

    /// Who is there, as far as we know: what the master says, but for what we know better.
    fn compose(&self, at: usize) -> Option<Roster> {
        let group = self.groups.get(at)?;
        let mut now = Roster::new(group.told.seed);
        now.epoch = group.master.epoch;
        for member in group.master.members() {
            if member.relay != self.me {
                if !self.is_alone {
                    now.put(member.clone());
                }
                continue;
            }
            let Some(agent) = self.agents.get(&member.id).filter(|agent| agent.group == at) else { continue };
            let mut member: Member = member.clone();
            member.provisional |= agent.is_new;
            member.claims.retain(|claim| agent.claims.contains(claim) && !group.claims.is_void(member.id));
            member.covered = covered_of(agent);
            member.covered.retain(|claim| member.claims.contains(claim));
            now.put(member);
        }
        Some(now)
    }
}

fn piece_of<T: Clone>(all: &[T], piece: usize) -> Vec<T> {
    all.chunks(SUMS_MAX).nth(piece).unwrap_or_default().to_vec()
}
