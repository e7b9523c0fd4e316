//! What the master and the agents say to each other through this vSensor: policies, revocations, certificates, and how
//! each agent fares.

use super::group::Group;
use super::homes;
use crate::filter::compile;
use std::sync::Arc;
use thymus_record::message::{AgentState, ToAgent, ToMaster, ToSensor};
use thymus_record::policy::MEMBERS_TOLD;
use thymus_record::view::View;

/// Views taken of one message.
const VIEWS_MAX: usize = 256;
/// Sentences that one agent may tell.
const ITEMS_MAX: usize = 16;
/// Ticks between two requests of an agent for a certificate, and their largest.
const RENEW_EVERY: u64 = 50;
const RENEW_BYTES_MAX: usize = 16 << 10;
pub(super) const REVOKED: &str =
    "this OS-sensor was revoked at the master: to let it in again, join with a new token and an empty state folder";

impl Group {
    /// The master says something about agents.
    pub(super) fn command(&mut self, message: ToSensor) {
        let now = self.now();
        self.relay.heard(now);
        match message {
            // A connection begins.
            ToSensor::Hello(_) => self.relay.connected(),
            ToSensor::Homes { homes } => {
                self.relay.homes(&homes);
                homes::save(&self.homes, &self.relay.known_homes());
            }
            ToSensor::Members { group, members } => self.relay.members(&group, &members),
            ToSensor::Agents(orders) => {
                self.orders.take(*orders);
                let agents: Vec<u32> = self.agents.keys().copied().collect();
                agents.into_iter().for_each(|agent| self.instruct(agent));
            }
            ToSensor::CheckFilter { id, filter } => {
                // On a thread of its own: a long filter takes a second.
                let exchange = Arc::clone(&self.exchange);
                let check = move || exchange.tell(&ToMaster::FilterChecked { id, wrong: compile(&filter).err() });
                if let Err(error) = std::thread::Builder::new().name("filter".to_owned()).spawn(check) {
                    tracing::warn!("no thread to look at a filter: {error}");
                }
            }
            ToSensor::AgentRenewed { agent, chain } => self.say(agent, ToAgent::Renewed { chain }),
            ToSensor::AgentRenewRefused { agent, why } => self.say(agent, ToAgent::RenewRefused { why }),
            _ => {}
        }
    }

    fn say(&self, agent: u32, message: ToAgent) {
        if let Some(known) = self.agents.get(&agent) {
            known.sender.send(message);
        }
    }

    /// Tells an agent its policy where it is another than before; cuts a revoked one off.
    pub(super) fn instruct(&mut self, agent: u32) {
        if self.orders.is_revoked(agent) {
            tracing::info!("agent {agent} was revoked: it is cut off");
            return self.say(agent, ToAgent::Refused { why: REVOKED.to_owned() });
        }
        let Some(known) = self.agents.get_mut(&agent) else { return };
        let (policy, item) = self.orders.policy_of(agent, known.policy.as_ref());
        if known.policy.as_ref() != Some(&policy) {
            known.sender.send(ToAgent::Policy(policy.clone()));
            known.policy = Some(policy);
        }
        if let Some(health) = self.notes.agents().get_mut(&agent) {
            health.items.retain(|known| !known.starts_with("its filter"));
            health.items.extend(item);
        }
    }

    /// Passes an agent's request for its next certificate on to the master, who alone judges it.
    pub(super) fn renew(&mut self, agent: u32, request: String, chain: String) {
        let Some(known) = self.agents.get_mut(&agent) else { return };
        let soon = known.renewed.is_some_and(|before| self.ticks < before + RENEW_EVERY);
        if soon || request.len() + chain.len() > RENEW_BYTES_MAX {
            return;
        }
        known.renewed = Some(self.ticks);
        if !self.exchange.tell(&ToMaster::AgentRenew { agent, request, chain }) {
            let why = "the vSensor cannot reach the master; it is tried again within the hour".to_owned();
            self.say(agent, ToAgent::RenewRefused { why });
        }
    }

    /// How it translates conversations between its interfaces. It speaks for its own addresses alone.
    pub(super) fn views(&self, agent: u32, views: &[View]) {
        let root = self.agents.get(&agent).and_then(|known| self.roots.group(known.root));
        let (Some(book), Some(root)) = (&self.owners, root) else { return };
        for view in views.iter().take(VIEWS_MAX).filter(|view| view.is_sound()) {
            let owns = view.outer.iter().any(|end| {
                let claim = self.relay.claim_of(agent, end.ip().into());
                let mut all = self.relay.owns_beside(agent).filter(|(id, _)| *id == agent);
                claim.is_some_and(|claim| all.any(|(_, owns)| owns.contains(&claim)))
            });
            if owns {
                book.add_view(&root, Some(agent), view);
            }
        }
    }

    pub(super) fn state(&self, agent: u32, state: AgentState) {
        if let Some(health) = self.notes.agents().get_mut(&agent) {
            health.state = bounded(state);
        }
    }
}

/// What an agent says of itself, cut to what a person reads.
fn bounded(mut state: AgentState) -> AgentState {
    let cut = |text: &mut String, letters: usize| {
        *text = text.chars().filter(|letter| !letter.is_control()).take(letters).collect();
    };
    state.items.truncate(ITEMS_MAX);
    state.items.iter_mut().for_each(|item| cut(item, 300));
    cut(&mut state.filter, 300);
    state.members.truncate(MEMBERS_TOLD);
    state
}
