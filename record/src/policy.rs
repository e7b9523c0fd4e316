//! What OS-sensors are to take, as people set it at the master and as their vSensor hands it on.

use crate::ledger::Count;
use serde::{Deserialize, Serialize};

/// Most instructions of a filter: what Linux takes is 4,096, and an agent adds some of its own.
pub const PROGRAM_MAX: usize = 2_048;
/// Longest text of a filter: one of 2 KiB takes libpcap a second to compile, one of 5 KiB ten.
pub const FILTER_TEXT_MAX: usize = 2_048;
/// Most patterns for interfaces in each list, and the longest of them.
pub const PATTERNS_MAX: usize = 64;
/// Longest pattern for interfaces.
pub const PATTERN_TEXT_MAX: usize = 64;
/// Members that an agent names when it says how it fares.
pub const MEMBERS_TOLD: usize = 16;
/// Fewest bytes of a frame that are worth sending: the heads of all layers.
pub const SNAPLEN_MIN: u32 = 64;

/// How much of what passes the filter is sent.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Packets, each up to the policy's `snaplen`.
    #[default]
    Full,
    /// Of each flow, packets until `head_bytes` of it were sent; of what follows the heads of all layers, without payload.
    Head,
    /// Metadata alone: the agent makes the records, and no packet leaves the host.
    Metadata,
}

impl Mode {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Full => "full",
            Mode::Head => "head",
            Mode::Metadata => "metadata",
        }
    }
}

/// An instruction of classic BPF.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// Instructions skipped where a comparison holds.
    pub jt: u8,
    /// Instructions skipped where it does not.
    pub jf: u8,
    /// Its constant.
    pub k: u32,
}

/// What an agent is to take.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// How much is sent.
    pub mode: Mode,
    /// Bytes of each frame that are sent; the rest is cut off, and counted.
    pub snaplen: u32,
    /// Wire bytes of a flow, both directions, that are sent in mode `head`.
    pub head_bytes: u64,
    /// What is taken, in tcpdump's language; empty: everything. Addresses and ports are numbers.
    pub filter: String,
    /// Interfaces to take: names, where `*` stands for any text and `?` for one letter; none: all but loopback.
    pub include: Vec<String>,
    /// Interfaces to leave out, likewise.
    pub exclude: Vec<String>,
    /// Percent of one core that the agent may use; 0 for no limit. What is beyond is shed and counted.
    pub cpu_percent_max: f64,
    /// Megabits a second that the agent may send; 0 for no limit. What is beyond is shed and counted.
    pub mbps_max: f64,
    /// The filter, compiled by the vSensor; empty: everything is taken. Never set by people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub program: Vec<Instruction>,
    /// The filter looks at VLAN tags: it is run on frames with their tags in place. Else the outermost tag is not there
    /// for it, as where a kernel took it off.
    #[serde(skip_serializing_if = "is_false")]
    pub sees_tags: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            mode: Mode::Full,
            snaplen: u32::MAX,
            head_bytes: 64 << 10,
            filter: String::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            cpu_percent_max: 0.0,
            mbps_max: 0.0,
            program: Vec::new(),
            sees_tags: false,
        }
    }
}

impl Policy {
    /// What no agent could follow, in words; the filter's language is the vSensor's to check.
    pub fn check(&self) -> Result<(), String> {
        if !(SNAPLEN_MIN..).contains(&self.snaplen) {
            return Err(format!("snaplen {} is too short: give at least {SNAPLEN_MIN} bytes", self.snaplen));
        }
        if self.filter.len() > FILTER_TEXT_MAX {
            return Err(format!("the filter is longer than {FILTER_TEXT_MAX} bytes"));
        }
        for (name, patterns) in [("include", &self.include), ("exclude", &self.exclude)] {
            let good = |text: &String| {
                !text.is_empty() && text.len() <= PATTERN_TEXT_MAX && !text.chars().any(|letter| letter.is_control())
            };
            if patterns.len() > PATTERNS_MAX || !patterns.iter().all(good) {
                return Err(format!(
                    "{name} takes at most {PATTERNS_MAX} interface names of 1 to {PATTERN_TEXT_MAX} letters"
                ));
            }
        }
        // A core is 100 %; who wants several of them sets no limit.
        if !(self.cpu_percent_max == 0.0 || (0.1..=10_000.0).contains(&self.cpu_percent_max)) {
            return Err("cpu_percent_max is a share of one core from 0.1 to 10000, or 0 for no limit".to_owned());
        }
        if !(self.mbps_max == 0.0 || (0.01..=1_000_000.0).contains(&self.mbps_max)) {
            return Err("mbps_max is from 0.01 to 1000000, or 0 for no limit".to_owned());
        }
        Ok(())
    }

    /// The policy for people.
    pub fn words(&self) -> String {
        let mut words = match (self.mode, self.snaplen) {
            (Mode::Full, u32::MAX) => "full packets".to_owned(),
            (Mode::Full, snaplen) => format!("the first {snaplen} bytes of each frame"),
            (Mode::Head, _) => format!("the first {} bytes of each flow, then metadata", self.head_bytes),
            (Mode::Metadata, _) => "metadata only".to_owned(),
        };
        let mut add = |text: String| {
            words.push_str("; ");
            words.push_str(&text);
        };
        if !self.filter.is_empty() {
            add(format!("of what matches '{}'", self.filter));
        }
        if !self.include.is_empty() {
            add(format!("on {}", self.include.join(" ")));
        }
        if !self.exclude.is_empty() {
            add(format!("not on {}", self.exclude.join(" ")));
        }
        if self.cpu_percent_max > 0.0 {
            add(format!("at most {} % of a core", self.cpu_percent_max));
        }
        if self.mbps_max > 0.0 {
            add(format!("at most {} Mbit/s", self.mbps_max));
        }
        words
    }
}

/// What OS-sensors do and who of them is let in, from the master to each vSensor that takes some: when it connects, and
/// at each change.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentOrders {
    /// The policies in use; the first one is for agents that are not named.
    pub policies: Vec<Policy>,
    /// Agents, and the place of their policy in `policies`.
    pub agents: Vec<(u32, u32)>,
    /// Agents that are no longer let in.
    pub revoked: Vec<u32>,
}

impl AgentOrders {
    /// The policy of an agent.
    pub fn policy_of(&self, agent: u32) -> Option<&Policy> {
        let named = self.agents.iter().find(|(id, _)| *id == agent).map_or(0, |(_, place)| *place);
        self.policies.get(usize::try_from(named).unwrap_or(usize::MAX)).or(self.policies.first())
    }
}

/// Why packets were given up.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ShedReasons {
    /// The kernel had no room; their bytes are not known.
    pub kernel: Count,
    /// The way to the vSensor was full.
    pub link: Count,
    /// Beyond the policy's Mbit/s.
    pub mbps: Count,
    /// Beyond the policy's share of a core.
    pub cpu: Count,
}

/// How an agent fares, once a second.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// The mode that it is in.
    pub mode: Mode,
    /// The filter that it follows, as text.
    pub filter: String,
    /// Bytes of each frame that it sends at most.
    pub snaplen: u32,
    /// Its cap on a core, percent; 0 for none.
    pub cpu_percent_max: f64,
    /// Its cap on Mbit/s; 0 for none.
    pub mbps_max: f64,
    /// What its interfaces carry, Mbit/s of wire bytes.
    pub seen_mbps: f64,
    /// What it sends, Mbit/s before TLS.
    pub sent_mbps: f64,
    /// What it costs, percent of one core.
    pub cpu_percent: f64,
    /// Memory in use.
    pub rss_bytes: u64,
    /// Members with which it shares out packets.
    pub members_count: u32,
    /// Those of them that are relied on.
    pub members_relied: u32,
    /// Some of them, [`MEMBERS_TOLD`] at most.
    pub members: Vec<u32>,
    /// Packets given up, by reason.
    pub shed: ShedReasons,
    /// What is wrong and its cure, in sentences.
    pub items: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_policies_are_named() {
        assert_eq!(Policy::default().check(), Ok(()));
        let wrong = |change: fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            policy.check().unwrap_err()
        };
        assert!(wrong(|policy| policy.snaplen = 0).contains("snaplen"));
        assert!(wrong(|policy| policy.cpu_percent_max = -3.0).contains("cpu_percent_max"));
        assert!(wrong(|policy| policy.cpu_percent_max = f64::NAN).contains("cpu_percent_max"));
        assert!(wrong(|policy| policy.mbps_max = 1e300).contains("mbps_max"));
        assert!(wrong(|policy| policy.filter = "x".repeat(9_000)).contains("filter"));
        assert!(wrong(|policy| policy.include = vec![String::new()]).contains("include"));
        assert!(wrong(|policy| policy.exclude = vec!["e".to_owned(); 65]).contains("exclude"));
    }

    #[test]
    fn an_agent_that_is_not_named_has_the_first_policy() {
        let metadata = Policy { mode: Mode::Metadata, ..Policy::default() };
        let orders =
            AgentOrders { policies: vec![Policy::default(), metadata], agents: vec![(3, 1), (4, 9)], revoked: vec![] };
        let mode = |agent| orders.policy_of(agent).map(|policy| policy.mode);
        assert_eq!((mode(3), mode(4), mode(5)), (Some(Mode::Metadata), Some(Mode::Full), Some(Mode::Full)));
        assert_eq!(AgentOrders::default().policy_of(1), None);
    }

    #[test]
    fn a_policy_is_told_in_words() {
        let policy = Policy { filter: "tcp".into(), mbps_max: 2.5, exclude: vec!["eth*".into()], ..Policy::default() };
        assert_eq!(policy.words(), "full packets; of what matches 'tcp'; not on eth*; at most 2.5 Mbit/s");
        assert_eq!(Policy { mode: Mode::Metadata, ..Policy::default() }.words(), "metadata only");
    }

    #[test]
    fn a_policy_of_an_older_master_is_read() {
        let policy: Policy = serde_json::from_str(r#"{"snaplen":100,"mbps_max":5,"unknown":1}"#).unwrap();
        assert_eq!((policy.snaplen, policy.mbps_max, policy.mode), (100, 5.0, Mode::Full));
    }
}
