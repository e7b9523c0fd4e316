//! A packet of an established connection takes no memory in an OS-sensor, whatever its mode and whoever sends it: not in
//! the filter, not in the choice who sends it, not in its parcel, its flow, or the shadow of what is left to others.
#![expect(clippy::unwrap_used, reason = "tests fail that way")]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use thymus_benches::allocations::{Counting, during};
use thymus_benches::traffic::{Kept, established};
use thymus_forward::SharedOwners;
use thymus_link::Spool;
use thymus_link::spool::SpoolLimits;
use thymus_os_sensor::capture::Taker;
use thymus_os_sensor::gate::Gate;
use thymus_os_sensor::meter::MeterParts;
use thymus_os_sensor::select::Select;
use thymus_record::message::{AgentLedger, Member, Members, Mode, Policy};
use thymus_record::policy::Instruction;
use thymus_record::{Address, SensorId, Time};
use thymus_witness::claim_of;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FLOWS: u32 = 500;
/// Ten in a second: the shadow of three seconds turns over before anything is counted.
const ROUNDS: u32 = 65;
const ROUND_MS: u64 = 100;
const COUNTED_FROM: u32 = 45;
const SEED: u64 = 7;

/// What a segment looks like on a port with VLANs.
fn tagged(mut kept: Kept) -> Kept {
    kept.bytes.splice(12..12, [0x81, 0, 0, 9]);
    kept
}

/// All rounds of segments, as agent 1 takes them: the connections are between 192.168.1.1, which is its own, and 500
/// hosts that agent 2 sees. Gives the ledger, and how much memory the last rounds took.
fn run(policy: Policy, shape: fn(Kept) -> Kept) -> (AgentLedger, u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut select = Select::new(1);
    select.set_meter(MeterParts {
        agent: SensorId(1),
        group: "default".to_owned(),
        boot: Arc::new(AtomicU64::new(5)),
        secret: [1, 2],
        spool: Arc::new(Spool::open(dir.path(), SpoolLimits::default()).unwrap()),
        owners: SharedOwners::default(),
    });
    let host = |n: u32| Address::from_v4([10, 0, n.to_be_bytes()[2], n.to_be_bytes()[3]]);
    let claims = [
        vec![claim_of(SEED, Address::from_v4([192, 168, 1, 1]))],
        (0..FLOWS).map(|n| claim_of(SEED, host(n))).collect(),
    ];
    let members = (1..).zip(claims).map(|(id, claims)| Member { id, claims, ..Member::default() }).collect();
    let members = Members { epoch: 2, seed: SEED, anew: true, members, ..Members::default() };
    let mut gate = Gate::new(&policy, &["192.168.9.9:443".parse().unwrap()]).unwrap();
    select.set_policy(policy);
    select.members(Some(&members), &mut |_| Ok(()));
    let spares = select.spares();
    let mut send = |parcel: Vec<u8>| {
        spares.give(parcel);
        Ok(())
    };
    let mut count = 0;
    for round in 0..ROUNDS {
        let millis = u64::from(round + 1) * ROUND_MS;
        let time = Time(1_800_000_000_000_000_000 + millis * 1_000_000);
        let kept: Vec<Kept> =
            established(FLOWS, 600, round).into_iter().map(|kept| shape(Kept { time, ..kept })).collect();
        let took = during(|| {
            select.turn(time, Duration::from_millis(millis), true);
            let mut intake = gate.intake(&mut select, false, &mut send);
            intake.begin();
            kept.iter().for_each(|kept| intake.take(&kept.frame()));
            select.flush(&mut send);
        });
        count += if round >= COUNTED_FROM { took } else { 0 };
    }
    (select.ledger(), count)
}

fn plain(kept: Kept) -> Kept {
    kept
}

#[test]
fn packets_that_are_sent_or_left_to_others_take_no_memory() {
    for shape in [plain, tagged] {
        // A filter that takes all, run here.
        let all = vec![Instruction { code: 6, jt: 0, jf: 0, k: u32::MAX }];
        for policy in [Policy::default(), Policy { program: all, mbps_max: 1_000.0, ..Policy::default() }] {
            let (ledger, count) = run(policy, shape);
            assert_eq!(ledger.seen.packets, u64::from(FLOWS * ROUNDS));
            let mut fates = ledger.sent;
            fates += ledger.left;
            assert_eq!(ledger.seen, fates);
            assert!(ledger.sent.packets > 5_000 && ledger.left.packets > 5_000, "{ledger:?}");
            assert_eq!(count, 0, "in {} packets", FLOWS * (ROUNDS - COUNTED_FROM));
        }
    }
}

#[test]
fn packets_of_which_the_head_is_sent_take_no_memory() {
    let (ledger, count) = run(Policy { mode: Mode::Head, head_bytes: 3_000, ..Policy::default() }, plain);
    assert!(ledger.cut_bytes > 1_000_000, "{ledger:?}");
    assert_eq!(count, 0);
}

#[test]
fn packets_that_become_metadata_take_no_memory() {
    let (ledger, count) = run(Policy { mode: Mode::Metadata, ..Policy::default() }, plain);
    assert!(ledger.metadata.packets > 5_000 && ledger.left.packets > 5_000, "{ledger:?}");
    assert_eq!(count, 0);
}
