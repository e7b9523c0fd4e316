//! What OS-sensors are to do: a policy for each group, and one of its own for each agent that has one. They are kept in
//! the book, and every vSensor that takes agents hears of a change at once.

use crate::book::SensorEntry;
use crate::server::Master;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;
use thymus_record::message::{AgentOrders, Policy};

/// Policies in all.
const POLICIES_MAX: usize = 4_096;
/// How long a vSensor may take to look at a filter.
const CHECK_MAX: Duration = Duration::from_secs(3);

/// All policies.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Policies {
    /// By group.
    pub groups: BTreeMap<String, Policy>,
    /// By the number of an agent; it replaces the one of the group.
    pub agents: BTreeMap<u32, Policy>,
}

/// Whose policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// That of all agents of a group that have none of their own.
    Group(String),
    /// An agent's own.
    Agent(u32),
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Whose::Group(group) => write!(f, "group {group}"),
            Whose::Agent(agent) => write!(f, "agent {agent}"),
        }
    }
}

/// Why a policy is not taken, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyError {
    /// It is wrong.
    Wrong(String),
    /// There is no such agent.
    Unknown(String),
    /// It cannot be checked now.
    Away(String),
    /// The book.
    Failed(String),
}

impl std::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (PolicyError::Wrong(why) | PolicyError::Unknown(why) | PolicyError::Away(why) | PolicyError::Failed(why)) =
            self;
        f.write_str(why)
    }
}

impl Policies {
    /// The policy that is set for somebody.
    pub fn set_for(&self, whose: &Whose) -> Option<&Policy> {
        match whose {
            Whose::Group(group) => self.groups.get(group),
            Whose::Agent(agent) => self.agents.get(agent),
        }
    }

    /// What an agent follows, and whether that is its own, its group's or the plain one.
    pub fn resolve(&self, agent: u32, group: &str) -> (Policy, &'static str) {
        let own = self.agents.get(&agent).map(|policy| (policy.clone(), "agent"));
        let of_group = || self.groups.get(group).map(|policy| (policy.clone(), "group"));
        own.or_else(of_group).unwrap_or_else(|| (Policy::default(), "default"))
    }

    /// What the vSensors hear.
    pub fn orders(&self, entries: &[SensorEntry]) -> AgentOrders {
        let mut orders = AgentOrders { policies: vec![Policy::default()], ..AgentOrders::default() };
        for entry in entries.iter().filter(|entry| entry.agent) {
            if entry.revoked {
                orders.revoked.push(entry.id);
                continue;
            }
            let (policy, _) = self.resolve(entry.id, &entry.group);
            let place = orders.policies.iter().position(|known| *known == policy).unwrap_or_else(|| {
                orders.policies.push(policy);
                orders.policies.len() - 1
            });
            if place > 0 {
                orders.agents.push((entry.id, u32::try_from(place).unwrap_or_default()));
            }
        }
        orders
    }
}

/// The policies as they are now.
pub fn current(master: &Master) -> Policies {
    master.policies.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Sets a policy, or with `None` takes it away; waits for a vSensor that looks at its filter. Gives what was done.
pub fn change(master: &Master, whose: &Whose, policy: Option<Policy>, who: &str) -> Result<String, PolicyError> {
    match whose {
        Whose::Group(group) => crate::admin::check_group(group).map_err(PolicyError::Wrong)?,
        Whose::Agent(id) => agent_entry(master, *id).map(|_| ())?,
    }
    let before = current(master).set_for(whose).cloned();
    if let Some(policy) = &policy {
        policy.check().map_err(PolicyError::Wrong)?;
        if !policy.program.is_empty() || policy.sees_tags {
            return Err(PolicyError::Wrong("the vSensor compiles the filter: give its text alone".to_owned()));
        }
        let known = before.as_ref().is_some_and(|before| before.filter == policy.filter);
        if !known && !policy.filter.trim().is_empty() {
            check_filter(master, &policy.filter)?;
        }
    }
    let failed = |error: crate::book::BookError| PolicyError::Failed(error.to_string());
    {
        let mut policies = master.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = policies.clone();
        match (whose, policy.clone()) {
            (Whose::Group(group), Some(policy)) => drop(next.groups.insert(group.clone(), policy)),
            (Whose::Group(group), None) => drop(next.groups.remove(group)),
            (Whose::Agent(agent), Some(policy)) => drop(next.agents.insert(*agent, policy)),
            (Whose::Agent(agent), None) => drop(next.agents.remove(agent)),
        }
        if next.groups.len() + next.agents.len() > POLICIES_MAX {
            return Err(PolicyError::Wrong(format!("there are {POLICIES_MAX} policies already: take some away")));
        }
        master.book.put_meta("policies", &next).map_err(failed)?;
        *policies = next;
    }
    let words = policy.map_or_else(|| "taken away".to_owned(), |policy| policy.words());
    master.tell_vsensors();
    master.book.audit(who, "policy", &format!("{whose}: {words}")).map_err(failed)?;
    Ok(format!("{whose}: {words}"))
}

/// An agent that is in the book.
pub fn agent_entry(master: &Master, id: u32) -> Result<SensorEntry, PolicyError> {
    let entry = master.book.sensor(thymus_record::SensorId(id));
    let entry = entry.map_err(|error| PolicyError::Failed(error.to_string()))?.filter(|entry| entry.agent);
    entry.ok_or_else(|| {
        PolicyError::Unknown(format!(
            "no OS-sensor has the number {id}: 'thymus-master agent list' and the page list them"
        ))
    })
}

fn check_filter(master: &Master, filter: &str) -> Result<(), PolicyError> {
    let away = |why: &str| {
        PolicyError::Away(format!("{why}: a filter is checked by the compiler of a vSensor that takes OS-sensors"))
    };
    let answer = master.sensors.check_filter(filter).ok_or_else(|| away("no such vSensor is connected"))?;
    match answer.recv_timeout(CHECK_MAX) {
        Ok(None) => Ok(()),
        Ok(Some(wrong)) => Err(PolicyError::Wrong(wrong)),
        Err(_) => Err(away("the vSensor does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_record::Time;
    use thymus_record::message::Mode;

    fn entry(id: u32, group: &str, revoked: bool) -> SensorEntry {
        SensorEntry {
            id,
            name: format!("host-{id}"),
            group: group.to_owned(),
            joined: Time(0),
            last_seen: None,
            software: String::new(),
            revoked,
            agent: true,
        }
    }

    #[test]
    fn an_agents_own_policy_comes_before_its_groups_and_equal_ones_travel_once() {
        let mut policies = Policies::default();
        let metadata = Policy { mode: Mode::Metadata, ..Policy::default() };
        policies.groups.insert("blue".to_owned(), metadata.clone());
        policies.agents.insert(3, Policy::default());
        policies.agents.insert(5, metadata);
        let entries = [entry(2, "blue", false), entry(3, "blue", false), entry(4, "red", true), entry(5, "red", false)];
        let orders = policies.orders(&entries);
        assert_eq!((orders.policies.len(), orders.revoked.as_slice()), (2, &[4][..]));
        assert_eq!(orders.agents, [(2, 1), (5, 1)]);
        assert_eq!(policies.resolve(3, "blue").1, "agent");
        assert_eq!(policies.resolve(2, "blue").1, "group");
        assert_eq!(policies.resolve(4, "red").1, "default");
    }
}
