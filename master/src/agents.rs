//! `thymus-master agent …`: OS-sensors and their policies, for who administers by the command line.

use crate::policies::{Whose, agent_entry, change, current};
use crate::server::Master;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use thymus_record::SensorId;
use thymus_record::message::{Mode, Policy};

/// What can be done with OS-sensors.
#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentVerb {
    /// List them: where they are, what they follow, what they take and cost.
    List,
    /// Policies: what they take, how much of it, and what it may cost.
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Let one in no more: it is cut off within seconds, and what it sent stays.
    Revoke {
        /// Its number or name.
        agent: String,
    },
}

/// What can be done with policies.
#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyVerb {
    /// Show all, or one.
    Show {
        /// Whose.
        #[command(flatten)]
        #[serde(flatten)]
        whose: WhoseArgs,
    },
    /// Change what is named, and leave the rest as it is; it takes effect at once.
    Set {
        /// Whose.
        #[command(flatten)]
        #[serde(flatten)]
        whose: WhoseArgs,
        /// What.
        #[command(flatten)]
        #[serde(flatten)]
        change: Box<PolicyArgs>,
    },
    /// Take it away: an agent then follows its group, a group the plain policy.
    Clear {
        /// Whose.
        #[command(flatten)]
        #[serde(flatten)]
        whose: WhoseArgs,
    },
}

/// Whose policy.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[group(multiple = false)]
pub struct WhoseArgs {
    /// That of a group.
    #[arg(long)]
    group: Option<String>,
    /// That of one agent, by its number.
    #[arg(long)]
    agent: Option<u32>,
}

impl WhoseArgs {
    fn named(&self) -> Result<Whose, String> {
        match (&self.group, self.agent) {
            (Some(group), None) => Ok(Whose::Group(group.clone())),
            (None, Some(agent)) => Ok(Whose::Agent(agent)),
            _ => Err("say whose policy: --group NAME or --agent NUMBER".to_owned()),
        }
    }
}

/// What of a policy is changed.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
pub struct PolicyArgs {
    /// How much is sent: full packets, the head of each flow and metadata of the rest, or metadata only.
    #[arg(long, value_parser = mode)]
    mode: Option<Mode>,
    /// Bytes of each frame that are sent, 'all' for whole frames.
    #[arg(long, value_parser = snaplen)]
    snaplen: Option<u32>,
    /// Bytes of each flow that are sent in mode 'head'.
    #[arg(long)]
    head_bytes: Option<u64>,
    /// What is taken, in tcpdump's language; '' for everything.
    #[arg(long)]
    filter: Option<String>,
    /// Interfaces to take, as names or patterns ('eth*'); may be given several times; '' for the usual ones.
    #[arg(long)]
    include: Option<Vec<String>>,
    /// Interfaces to leave out, likewise.
    #[arg(long)]
    exclude: Option<Vec<String>>,
    /// Percent of one core that the agent may use; 0 for no limit.
    #[arg(long)]
    cpu: Option<f64>,
    /// Megabits a second that it may send; 0 for no limit.
    #[arg(long)]
    mbps: Option<f64>,
}

fn mode(text: &str) -> Result<Mode, String> {
    let found = [Mode::Full, Mode::Head, Mode::Metadata].into_iter().find(|mode| mode.as_str() == text);
    found.ok_or_else(|| "full, head or metadata".to_owned())
}

fn snaplen(text: &str) -> Result<u32, String> {
    if text == "all" { Ok(u32::MAX) } else { text.parse().map_err(|_error| "a number of bytes, or 'all'".to_owned()) }
}

impl PolicyArgs {
    fn apply(self, policy: &mut Policy) {
        let lines = |texts: Vec<String>| texts.into_iter().filter(|text| !text.is_empty()).collect();
        policy.mode = self.mode.unwrap_or(policy.mode);
        policy.snaplen = self.snaplen.unwrap_or(policy.snaplen);
        policy.head_bytes = self.head_bytes.unwrap_or(policy.head_bytes);
        policy.filter = self.filter.unwrap_or_else(|| policy.filter.clone());
        policy.include = self.include.map_or_else(|| policy.include.clone(), lines);
        policy.exclude = self.exclude.map_or_else(|| policy.exclude.clone(), lines);
        policy.cpu_percent_max = self.cpu.unwrap_or(policy.cpu_percent_max);
        policy.mbps_max = self.mbps.unwrap_or(policy.mbps_max);
    }
}

/// Carries a verb out; gives what is shown.
pub fn carry_out(master: &Master, verb: AgentVerb) -> Result<String, String> {
    let said = |error: crate::policies::PolicyError| error.to_string();
    match verb {
        AgentVerb::List => list(master),
        AgentVerb::Revoke { agent } => crate::admin::revoke(master, &agent, "console"),
        AgentVerb::Policy(PolicyVerb::Show { whose }) => show(master, &whose),
        AgentVerb::Policy(PolicyVerb::Clear { whose }) => {
            change(master, &whose.named()?, None, "console").map_err(said)
        }
        AgentVerb::Policy(PolicyVerb::Set { whose, change: changes }) => {
            let whose = whose.named()?;
            let mut policy = match (current(master).set_for(&whose), &whose) {
                (Some(policy), _) => policy.clone(),
                // An agent's own begins as what it follows now.
                (None, Whose::Agent(agent)) => {
                    let entry = agent_entry(master, *agent).map_err(said)?;
                    current(master).resolve(*agent, &entry.group).0
                }
                (None, Whose::Group(_)) => Policy::default(),
            };
            changes.apply(&mut policy);
            change(master, &whose, Some(policy), "console").map_err(said)
        }
    }
}

fn list(master: &Master) -> Result<String, String> {
    let entries = master.book.sensors().map_err(|error| error.to_string())?;
    let policies = current(master);
    let mut out = String::new();
    for entry in entries.iter().filter(|entry| entry.agent) {
        let found = master.sensors.agent(SensorId(entry.id));
        let state = match &found {
            _ if entry.revoked => "revoked".to_owned(),
            None => "away".to_owned(),
            Some((sensor, health)) => format!(
                "through {}: {:.2} Mbit/s sent of {:.2} seen, {:.1} % of a core, shares with {}, {} of them relied on",
                master.sensor_name(*sensor),
                health.state.sent_mbps,
                health.state.seen_mbps,
                health.state.cpu_percent,
                health.state.members_count,
                health.state.members_relied
            ),
        };
        let (policy, from) = policies.resolve(entry.id, &entry.group);
        let _ = writeln!(out, "{:>5}  {}  in {}: {state}", entry.id, entry.name, entry.group);
        let _ = writeln!(out, "       policy ({from}): {}", policy.words());
        for item in found.iter().flat_map(|(_, health)| health.items.iter().chain(&health.state.items)) {
            let _ = writeln!(out, "       ! {item}");
        }
    }
    Ok(if out.is_empty() { "no OS-sensor has joined".to_owned() } else { out.trim_end().to_owned() })
}

fn show(master: &Master, whose: &WhoseArgs) -> Result<String, String> {
    let policies = current(master);
    if whose.group.is_none() && whose.agent.is_none() {
        let groups = policies.groups.iter().map(|(group, policy)| format!("group {group}: {}", policy.words()));
        let agents = policies.agents.iter().map(|(agent, policy)| format!("agent {agent}: {}", policy.words()));
        let all: Vec<String> = groups.chain(agents).collect();
        return Ok(if all.is_empty() { format!("none is set: {}", Policy::default().words()) } else { all.join("\n") });
    }
    let whose = whose.named()?;
    let none = || format!("{whose} has none of its own");
    Ok(policies.set_for(&whose).map_or_else(none, |policy| format!("{whose}: {}", policy.words())))
}
