//! Messages of the link. Control messages are JSON objects, in which a reader skips what it does not know and defaults
//! what is missing; batches and packets travel as bytes. The frame around them is `link`'s.

pub use crate::ledger::AgentLedger;
use crate::ledger::{Count, Ledger};
pub use crate::members::{AgentEvent, AgentInterface, Ended, Home, Member, Members, Passed, Shared};
pub use crate::policy::{AgentOrders, AgentState, Instruction, Mode, Policy, ShedReasons};
use crate::query::{PcapQuery, QueryReport};
use crate::{BootId, SensorId, Time};
use serde::{Deserialize, Serialize};

/// Versions of the link that this build speaks, newest first.
pub const VERSIONS: [u16; 1] = [1];

/// The first message of each side.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// Link versions spoken.
    pub versions: Vec<u16>,
    /// Software version, for people.
    pub software: String,
    /// The sensor (0 from a master that does not know it).
    pub sensor: SensorId,
    /// The sensor's run.
    pub boot: BootId,
    /// The sensor's host name, for people.
    pub name: String,
    /// From a sensor: where OS-sensors reach it, if it takes them.
    pub agents: Vec<String>,
    /// From a master: the ranges of the sensor's batches that it holds, all boots.
    pub held: Vec<Held>,
}

/// Batches of one run that the master holds for good.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Who numbered them; 0 is the peer itself, else an agent whose batches it passes on.
    pub sensor: SensorId,
    /// The boot that numbered them.
    pub boot: BootId,
    /// Inclusive ranges of sequence numbers, ascending, apart.
    pub ranges: Vec<(u64, u64)>,
}

/// A capture port's state, as a sensor tells it.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PortHealth {
    /// The port, as configured.
    pub name: String,
    /// Link state and speed in words, where known.
    pub state: String,
    /// Megabits a second over the last interval.
    pub mbps: f64,
    /// Packets a second over the last interval.
    pub pps: f64,
}

/// A sensor's state, told every few seconds.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// `capturing`, `degraded` or `blind`, derived from packets.
    pub state: String,
    /// What is wrong and its cure, in sentences.
    pub items: Vec<String>,
    /// The ledger of this boot so far.
    pub ledger: Ledger,
    /// Capture ports.
    pub ports: Vec<PortHealth>,
    /// Share of the poll loops' time spent on packets, 0 to 1.
    pub busy_ratio: f64,
    /// Megabits a second that could still be taken at the current mix.
    pub headroom_mbps: f64,
    /// Packets a second that could still be taken at the current mix.
    pub headroom_pps: f64,
    /// Oldest packet in the ring, epoch seconds.
    pub ring_oldest: Option<f64>,
    /// Flows open now.
    pub flows_open: u64,
    /// Agents connected to it.
    pub agents: Vec<AgentHealth>,
}

/// An agent as its vSensor tells the master.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentHealth {
    /// Its number.
    pub id: u32,
    /// Its host's name.
    pub name: String,
    /// Where it dialled from.
    pub address: String,
    /// What it did.
    pub ledger: AgentLedger,
    /// Interfaces that it takes, in words.
    pub interfaces: Vec<String>,
    /// What is wrong with it as its vSensor sees it, and the cure, in sentences.
    pub items: Vec<String>,
    /// How it fares, in its own words.
    pub state: AgentState,
}

/// Agent to vSensor; frames travel beside as bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ToRelay {
    /// First message.
    Hello {
        /// Software version, for people.
        software: String,
        /// Host name.
        name: String,
        /// Its run: numbers of parcels are of this run.
        boot: u64,
        /// Packets of this run that this vSensor said it took; what it did not say it took comes again.
        #[serde(default)]
        taken: Count,
        /// Runs that were ended without warning, of which no vSensor was told yet.
        #[serde(default)]
        ended: Vec<Ended>,
    },
    /// Its interfaces, at first and when they change.
    Interfaces {
        /// All that it takes.
        interfaces: Vec<AgentInterface>,
    },
    /// A sign of life, ten times a second; with what it did once a second.
    Alive {
        /// What it did since it started.
        ledger: Option<Box<AgentLedger>>,
        /// Left to each member since the last message, where we are known to see the packets too.
        left: Vec<(u32, Passed)>,
        /// Given up since the last message.
        dropped: Passed,
        /// What it made rows of since the last message, by the member that saw it too.
        #[serde(default)]
        metered: Vec<(u32, Passed)>,
        /// What passed of our own addresses since the last message, by the hash of each, whoever sent it.
        #[serde(default)]
        own: Vec<(u64, Passed)>,
        /// Its clock as it sends this, by which the vSensor knows how far off it is.
        #[serde(default)]
        time: Option<Time>,
    },
    /// How it fares, once a second.
    State(Box<AgentState>),
    /// Asks for the next certificate.
    Renew {
        /// A certificate request (PKCS #10, DER) with the agent's key, in base64.
        request: String,
        /// The certificate that it has, with its chain, as PEM: it must be for the same key.
        chain: String,
    },
    /// Who holds the host's ends of connections that began, as soon as that is known.
    Owners {
        /// A few of them.
        owners: Vec<crate::owner::Owner>,
    },
    /// Conversations that it translates between two of its interfaces, as soon as that shows.
    Views {
        /// A few of them.
        views: Vec<crate::view::View>,
    },
    /// A message of a newer agent.
    #[serde(other)]
    Unknown,
}

/// vSensor to agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ToAgent {
    /// Who is there.
    Members(Members),
    /// What to take.
    Policy(Policy),
    /// All parcels below this number were taken.
    Taken {
        /// The number of the next one.
        up_to: u64,
    },
    /// Spooled parcels of this run of ours below this number were taken.
    TakenLate {
        /// The run that numbered them.
        boot: u64,
        /// The number of the next one.
        up_to: u64,
    },
    /// The master holds these batches of ours for good.
    Acknowledge(Held),
    /// The master does not want these batches of ours: they go, counted as given up.
    Unwanted(Held),
    /// There is no room for this batch now: send it again later.
    NoRoom {
        /// The run that numbered it.
        boot: BootId,
        /// Its number.
        sequence: u64,
    },
    /// The master saw the same numbers with other content: count anew.
    Fork {
        /// The run that forked.
        boot: BootId,
    },
    /// Add this to the agent's clock to get the vSensor's.
    Offset {
        /// Nanoseconds.
        nanoseconds: i64,
    },
    /// Not served, and why.
    Refused {
        /// In words.
        why: String,
    },
    /// Who the vSensor is.
    Hello {
        /// Its host's name.
        name: String,
    },
    /// The next certificate, with its chain, as PEM.
    Renewed {
        /// The agent's certificate first.
        chain: String,
    },
    /// The next certificate is not given.
    RenewRefused {
        /// Why, in words.
        why: String,
    },
    /// The vSensor is there.
    Ping {},
    /// A message of a newer vSensor.
    #[serde(other)]
    Unknown,
}

/// Master to sensor.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ToSensor {
    /// First message.
    Hello(Hello),
    /// These batches are held for good.
    Acknowledge(Held),
    /// The same sequence came with other content: renew your boot.
    Fork {
        /// The boot that forked.
        boot: BootId,
        /// Whose it is; 0 for the peer's own.
        #[serde(default)]
        sensor: SensorId,
    },
    /// These batches of an agent are not stored, since it is not let in: drop them.
    Unwanted(Held),
    /// Answer this on the same link.
    Query {
        /// Names the answer.
        id: u64,
        /// What to fetch.
        query: PcapQuery,
    },
    /// Nobody waits for this answer any more.
    Cancel {
        /// The query's id.
        id: u64,
    },
    /// So many more pieces of the answer may be sent.
    Credit {
        /// The query's id.
        id: u64,
        /// Pieces of at most 64 KiB.
        pieces: u32,
    },
    /// The certificate has lived most of its life: ask for the next one.
    Renew {},
    /// The next certificate, with its chain, as PEM.
    Renewed {
        /// The sensor's certificate first.
        chain: String,
    },
    /// Agents and the groups that they belong to; adds to what was told before.
    Homes {
        /// By group.
        homes: Vec<Home>,
    },
    /// A group that agents of this vSensor belong to changed.
    Members {
        /// The group.
        group: String,
        /// The change.
        members: Members,
    },
    /// The groups stand as they were told last; said several times a second to vSensors with agents.
    Steady {},
    /// The master does not serve this sensor, and closes.
    Refused {
        /// Why, and the cure, in words.
        why: String,
    },
    /// What its OS-sensors do, and who of them is let in.
    Agents(Box<AgentOrders>),
    /// Can this filter be compiled?
    CheckFilter {
        /// Names the answer.
        id: u64,
        /// The filter.
        filter: String,
    },
    /// The next certificate of an agent.
    AgentRenewed {
        /// The agent.
        agent: u32,
        /// Its certificate first, as PEM.
        chain: String,
    },
    /// An agent's next certificate is not given.
    AgentRenewRefused {
        /// The agent.
        agent: u32,
        /// Why, in words.
        why: String,
    },
    /// The master is there.
    Ping {},
    /// A message of a newer master.
    #[serde(other)]
    Unknown,
}

/// Pieces of an answer that may be sent before the first credit.
pub const CREDIT_FIRST: u32 = 16;

/// Sensor to master; batches and packets travel beside as bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ToMaster {
    /// First message.
    Hello(Hello),
    /// State.
    Health(Box<Health>),
    /// The answer to a query is complete.
    QueryEnd {
        /// The query's id.
        id: u64,
        /// What was found.
        report: QueryReport,
    },
    /// The query cannot be answered.
    QueryFailed {
        /// The query's id.
        id: u64,
        /// Why, in words.
        why: String,
    },
    /// Asks for the next certificate.
    Renew {
        /// A certificate request (PKCS #10, DER) with the sensor's key, in base64.
        request: String,
    },
    /// A slice of its OS-sensors, after each health.
    Agents {
        /// All that are connected.
        connected: Vec<u32>,
        /// Some of them.
        agents: Vec<AgentHealth>,
    },
    /// What the compiler says of a filter.
    FilterChecked {
        /// The question's id.
        id: u64,
        /// Why it is none, in words; nothing where it is one.
        wrong: Option<String>,
    },
    /// An agent asks for its next certificate.
    AgentRenew {
        /// The agent that asks.
        agent: u32,
        /// Its certificate request (PKCS #10, DER), in base64.
        request: String,
        /// The certificate that it has, with its chain, as PEM.
        chain: String,
    },
    /// What happened to its agents since the last message; several times a second where it takes agents.
    Group {
        /// In order.
        events: Vec<AgentEvent>,
    },
    /// A message of a newer sensor.
    #[serde(other)]
    Unknown,
}
