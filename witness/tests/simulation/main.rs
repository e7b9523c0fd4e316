//! The whole protocol under a simulated network, from a seed: agents, vSensors and the master are the state machines of
//! the programs; links stall, break and come back; everybody is killed, paused and started again. What two agents saw is
//! never lost, in quiet times every packet is stored exactly once, after faults all agree again, and who lies silences
//! nobody for longer than the check takes. THYMUS_SEEDS=FROM..TO runs other seeds.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test may fail, and counts are small"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use thymus_dissect::Frame;
use thymus_dissect::decode::decode;
use thymus_record::message::{AgentEvent, Home, Members, Passed};
use thymus_record::{Address, Mac, Time};
use thymus_witness::{Choice, Group, LEASE, Member, Out, Relay, SpanEye, SpanWatch};

use net::{Pipe, Random};

const MS: u64 = 1_000_000;
const STEP: u64 = 10;
/// Faults happen between these, in milliseconds.
const FAULTS: (u64, u64) = (15_000, 26_000);
const END: u64 = 52_000;
/// After a fault so long is not quiet: takeover, and claims that are checked anew.
const UNQUIET: u64 = 13_000;
/// An agent that was stopped for longer knows it.
const STALL: u64 = 1_500;
const HOSTS: usize = 6;
const GROUP_SEED: u64 = 0x5eed;

/// Chance and the network.
mod net;
/// Everybody at work.
mod steps;
/// What breaks, and what must hold.
mod faults;

#[derive(Clone)]
enum FromAgent {
    Alive { left: Vec<(u32, Passed)>, dropped: Passed, own: Vec<(u64, Passed)> },
    Frame { number: u64, packet: u32, shared: bool, again: bool },
}

/// An agent and its connection.
struct Agent {
    id: u32,
    run: u64,
    member: Option<Member>,
    paused: bool,
    paused_at: u64,
    /// Captured while it was paused.
    buffer: Vec<u32>,
    /// Frames sent and not yet taken, by number in its run.
    undecided: VecDeque<(u64, FromAgent)>,
    numbers: u64,
    connected: bool,
    link_up: bool,
    up: Pipe<FromAgent>,
    down: Pipe<Members>,
    heard: Option<u64>,
    /// It keeps back what it owns from now on.
    lies_from: u64,
}

struct Sensor {
    id: u32,
    relay: Option<Relay>,
    /// When each of its agents was last heard.
    alive: BTreeMap<u32, u64>,
    taken: BTreeMap<(u32, u64), u64>,
    master_up: bool,
    connected: bool,
    up: Pipe<Vec<AgentEvent>>,
    down: Pipe<Option<Members>>,
    heard: u64,
    watch: Arc<SpanWatch>,
    eye: SpanEye,
    span_works: bool,
}

struct Packet {
    time: u64,
    hosts: (usize, usize),
    witnesses: Vec<(u32, u64)>,
    kept: u32,
    /// The span of the first vSensor saw it.
    spanned: bool,
}

struct World {
    random: Random,
    now: u64,
    agents: Vec<Agent>,
    sensors: Vec<Sensor>,
    master: Option<Group>,
    epoch: u64,
    packets: Vec<Packet>,
    /// When each run of an agent ended by kill.
    deaths: BTreeMap<(u32, u64), u64>,
    /// Packets that an agent had not delivered when it was killed.
    died_with: BTreeSet<(u32, u32)>,
    /// When agents were stopped.
    stops: Vec<(u32, u64)>,
    faults: Vec<u64>,
    /// Hosts that the first vSensor's span sees.
    spanned: BTreeSet<usize>,
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("THYMUS_SEEDS").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    asked.unwrap_or(1..count + 1)
}

#[test]
fn what_two_saw_is_never_lost_and_quiet_times_have_one_copy() {
    const { assert!(LEASE < 2_000 * MS, "shorter than what agents remember") };
    for seed in seeds(120) {
        let mut world = World::new(seed);
        let faults = seed % 7;
        world.run(faults);
        world.check(seed);
    }
}

#[test]
fn who_keeps_back_what_it_owns_silences_nobody_for_longer_than_the_check_takes() {
    for seed in seeds(40) {
        let mut world = World::new(seed);
        let from = world.random.between(10_000, 14_000);
        world.agents[1].lies_from = from;
        world.run(0);
        let found = from + 12_000;
        let mut late = 0;
        for (number, packet) in world.packets.iter().enumerate() {
            let honest = packet
                .witnesses
                .iter()
                .any(|witness| witness.0 != world.agents[1].id && world.lived_on(number, packet, witness));
            let silenced = honest && packet.kept == 0;
            assert!(!silenced || packet.time >= from, "seed {seed}: packet {number} is lost before anybody lied");
            late += u32::from(silenced && packet.time > found);
        }
        assert_eq!(late, 0, "seed {seed}: packets are silenced {} ms after the lie began", found - from);
    }
}

#[test]
fn who_claims_the_addresses_of_all_others_silences_nobody_at_all() {
    for seed in seeds(40) {
        let mut world = World::new(seed);
        world.agents[1].lies_from = 0;
        world.run(seed % 3);
        for (number, packet) in world.packets.iter().enumerate() {
            let honest =
                |witness: &&(u32, u64)| witness.0 != world.agents[1].id && world.lived_on(number, packet, witness);
            let seen = packet.witnesses.iter().filter(honest).count();
            assert!(seen == 0 || packet.kept > 0, "seed {seed}: packet {number} at {} ms is lost", packet.time);
        }
    }
}
