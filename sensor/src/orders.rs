//! What the master ordered for this vSensor's agents, kept in the state folder, so that a restart while the master is
//! away goes on with the last word; and the filters in it, compiled.

use crate::filter::{Compiled, compile};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use thymus_record::message::{AgentOrders, Policy};

/// The orders.
#[derive(Default)]
pub struct Orders {
    path: PathBuf,
    orders: AgentOrders,
    revoked: HashSet<u32>,
    compiled: HashMap<String, Result<Compiled, String>>,
}

impl Orders {
    /// What is kept in this state folder; nothing where nothing was ordered yet.
    pub fn load(state: &Path) -> Orders {
        let path = state.join("agents.json");
        let orders = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!("{}: {error}; agents have the plain policy until the master is there", path.display());
                AgentOrders::default()
            }),
            Err(_) => AgentOrders::default(),
        };
        let mut loaded = Orders { path, ..Orders::default() };
        loaded.set(orders);
        loaded
    }

    fn set(&mut self, orders: AgentOrders) {
        self.revoked = orders.revoked.iter().copied().collect();
        let before = std::mem::take(&mut self.compiled);
        let known = |filter: &String| before.get(filter).cloned().unwrap_or_else(|| compile(filter));
        self.compiled = orders.policies.iter().map(|each| (each.filter.clone(), known(&each.filter))).collect();
        self.orders = orders;
    }

    /// New orders; they count at once, and are kept.
    pub fn take(&mut self, orders: AgentOrders) {
        if orders == self.orders {
            return;
        }
        self.set(orders);
        let part = self.path.with_extension("part");
        let write = || -> std::io::Result<()> {
            use std::io::Write;
            let mut file = std::fs::File::create(&part)?;
            file.write_all(&serde_json::to_vec(&self.orders)?)?;
            file.sync_all()?;
            std::fs::rename(&part, &self.path)
        };
        if let Err(error) = write() {
            tracing::warn!("{}: {error}: the agents' policies are lost at the next start", self.path.display());
        }
    }

    /// True if the agent is not let in.
    pub fn is_revoked(&self, agent: u32) -> bool {
        self.revoked.contains(&agent)
    }

    /// The policy of an agent, with its filter compiled; one that cannot be compiled leaves the filter as it was, and
    /// says so.
    pub fn policy_of(&self, agent: u32, before: Option<&Policy>) -> (Policy, Option<String>) {
        let mut policy = self.orders.policy_of(agent).cloned().unwrap_or_default();
        policy.program.clear();
        match self.compiled.get(&policy.filter) {
            Some(Ok(compiled)) => {
                policy.program.clone_from(&compiled.program);
                policy.sees_tags = compiled.sees_tags;
                (policy, None)
            }
            Some(Err(why)) => {
                let goes_on = before.map_or("everything is taken", |_| "the filter before goes on");
                let item = format!("its filter cannot be used, and {goes_on}: {why}");
                let Policy { filter, program, sees_tags, .. } = before.cloned().unwrap_or_default();
                (Policy { filter, program, sees_tags, ..policy }, Some(item))
            }
            None => (policy, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(filter: &str) -> AgentOrders {
        let policy = Policy { filter: filter.to_owned(), ..Policy::default() };
        AgentOrders { policies: vec![Policy::default(), policy], agents: vec![(7, 1)], revoked: vec![9] }
    }

    #[test]
    fn orders_survive_a_restart_and_a_damaged_file_is_no_order() {
        let dir = tempfile::tempdir().unwrap();
        Orders::load(dir.path()).take(orders("tcp port 80"));
        let kept = Orders::load(dir.path());
        assert!(kept.is_revoked(9) && !kept.is_revoked(7));
        let (policy, item) = kept.policy_of(7, None);
        assert!(item.is_none() && policy.filter == "tcp port 80" && policy.program.len() > 5, "{policy:?}");
        assert_eq!(kept.policy_of(8, None).0, Policy::default());
        std::fs::write(dir.path().join("agents.json"), "{torn").unwrap();
        let lost = Orders::load(dir.path());
        assert!(!lost.is_revoked(9));
        assert_eq!(lost.policy_of(7, None), (Policy::default(), None));
    }

    #[test]
    fn a_filter_that_cannot_be_compiled_leaves_the_one_before_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Orders::load(dir.path());
        kept.take(orders("udp"));
        let (before, _) = kept.policy_of(7, None);
        kept.take(orders("udp prot"));
        let (policy, item) = kept.policy_of(7, Some(&before));
        assert!(policy.filter == "udp" && policy.program == before.program);
        assert!(item.unwrap().contains("the filter before goes on"));
        let (policy, item) = kept.policy_of(7, None);
        assert!(policy.program.is_empty() && item.unwrap().contains("everything is taken"));
    }
}
