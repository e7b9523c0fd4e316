//! What the running agent shows of itself.

use super::Agent;
use crate::clock::Clock;
use crate::owners::Owners;
use crate::status::Status;
use thymus_link::process::Process;
use thymus_record::message::{AgentState, Policy};
use thymus_record::policy::MEMBERS_TOLD;

impl Agent {
    pub(super) fn status(&self) -> Status {
        let link = self.link.state();
        Status {
            connected: link.connected,
            link: link.words,
            vsensor: self.vsensor.clone(),
            id: self.identity.sensor.0,
            group: self.identity.group.clone(),
            interfaces: self.interfaces.clone(),
            epoch: self.select.member().epoch(),
            covered: self.select.member().is_covered(),
            ledger: self.select.ledger(),
            state: self.state_now(),
            policy: Policy { program: Vec::new(), ..self.policy.clone() },
            owners: self.owners.as_ref().map(Owners::words).unwrap_or_default(),
            taken: Clock::wall(),
            pid: std::process::id(),
            process: Process::current(),
            ended: self.link.if_ended(self.select.ledger().sent),
        }
    }

    fn state_now(&self) -> AgentState {
        let mut items = self.items.concat();
        items.extend(self.waiting.items().into_iter().chain(self.select.trouble()));
        let Policy { cpu_percent_max, mbps_max, .. } = self.policy;
        let others = self.select.member().others();
        items.extend(self.capped.items(&self.policy));
        AgentState {
            mode: self.policy.mode,
            filter: self.policy.filter.clone(),
            snaplen: self.policy.snaplen,
            cpu_percent_max,
            mbps_max,
            seen_mbps: self.cost.seen_mbps,
            sent_mbps: self.cost.sent_mbps,
            cpu_percent: self.cost.cpu_percent,
            rss_bytes: self.cost.rss_bytes,
            members_count: u32::try_from(self.select.member().others().count()).unwrap_or(u32::MAX),
            members_relied: u32::try_from(self.select.member().relied_on()).unwrap_or(u32::MAX),
            members: others.take(MEMBERS_TOLD).collect(),
            shed: self.select.shed_reasons(),
            items,
        }
    }
}
