//! Who of a group's agents is there: what the master tells vSensors, vSensors tell their agents, and back.

use crate::ledger::Count;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Packets that passed, in a measure that stays the same however segments were put together or cut on their way.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Passed {
    /// Payload bytes.
    pub bytes: u64,
    /// Packets with payload; as many as they are, so never compared.
    pub packets: u64,
    /// Packets without payload.
    pub bare: u64,
}

impl AddAssign for Passed {
    fn add_assign(&mut self, other: Passed) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.packets = self.packets.saturating_add(other.packets);
        self.bare = self.bare.saturating_add(other.bare);
    }
}

/// A change of a group: from the epoch before to this one, or, told anew, all of it.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Members {
    /// Grows with every change.
    pub epoch: u64,
    /// Secret of the group's hashes.
    pub seed: u64,
    /// What was known before is forgotten.
    pub anew: bool,
    /// Another part of this epoch follows.
    pub more: bool,
    /// Who came or changed.
    pub members: Vec<Member>,
    /// Who is gone: what was left to them in the last seconds is sent now.
    pub gone: Vec<u32>,
}

/// A member of a group.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its number.
    pub id: u32,
    /// Number of its vSensor.
    pub relay: u32,
    /// The epoch in which it came; 0 where its vSensor says that it was there before.
    pub since: u64,
    /// Hashes of the addresses that it claims.
    pub claims: Vec<u64>,
    /// Those of them whose packets a span sees: all agents leave these alone.
    pub covered: Vec<u64>,
    /// Its claims have not been checked yet: all witnesses send.
    pub provisional: bool,
}

/// What one member left to another, or sent of what the other saw too.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Shared {
    /// Who sends it.
    pub owner: u32,
    /// Who sees it too.
    pub second: u32,
    /// How much.
    pub passed: Passed,
}

/// What a vSensor tells of its agents. Told once each, in order; all of it again when a connection begins.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum AgentEvent {
    /// It connected.
    Enter {
        /// Its number.
        agent: u32,
        /// Its claims were checked in the last epoch, in which it was there already.
        held: bool,
    },
    /// It claims these addresses, by their hashes under the group's seed.
    Claims {
        /// Its number.
        agent: u32,
        /// All of them.
        claims: Vec<u64>,
    },
    /// A span of the vSensor sees these of its addresses.
    Covered {
        /// Its number.
        agent: u32,
        /// All of them.
        covered: Vec<u64>,
    },
    /// It is gone.
    Leave {
        /// Its number.
        agent: u32,
    },
    /// What passed in the last second.
    Sums {
        /// What agents say that they left to others.
        left: Vec<Shared>,
        /// What came from owners.
        came: Vec<Shared>,
        /// What agents say that they gave up.
        declared: Vec<(u32, Passed)>,
    },
    /// An event of a newer vSensor.
    #[serde(other)]
    Unknown,
}

/// Which agents belong to a group, from their enrolment.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Home {
    /// The group.
    pub group: String,
    /// Secret of its hashes.
    pub seed: u64,
    /// Numbers of its agents.
    pub agents: Vec<u32>,
}

/// An agent's network interface.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentInterface {
    /// Name.
    pub name: String,
    /// Addresses on it, as text.
    pub addresses: Vec<String>,
    /// Its Ethernet address, as text; empty where it has none.
    pub mac: String,
}

/// What an agent's run had done when it last wrote that down, for the case that it is ended without warning.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// That run.
    pub boot: u64,
    /// Packets sent, those in its memory included and those that it put on its disk left out.
    pub sent: Count,
    /// What each vSensor said it took of them.
    pub taken: Vec<(u32, Count)>,
    /// The vSensor of its last connection, 0 where there was none; and where it was.
    pub last: u32,
    /// See `last`.
    pub at: String,
}
