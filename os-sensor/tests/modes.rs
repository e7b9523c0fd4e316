//! Modes of an agent: whatever is switched and whoever comes or goes, each packet has one fate, and rows hold exactly the
//! packets that became metadata.
#![expect(clippy::unwrap_used, reason = "tests fail that way")]

use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use thymus_dissect::Frame;
use thymus_forward::SharedOwners;
use thymus_link::Spool;
use thymus_link::agent::take_frame;
use thymus_link::spool::SpoolLimits;
use thymus_os_sensor::meter::MeterParts;
use thymus_os_sensor::select::Select;
use thymus_record::batch::decode;
use thymus_record::ledger::Count;
use thymus_record::message::{Member, Members, Mode, Passed, Policy};
use thymus_record::table::{EndReason, FlowRow};
use thymus_record::time::SECOND;
use thymus_record::{Address, Record, SensorId, Time};
use thymus_witness::claim_of;

const START: u64 = 1_800_000_000 * SECOND;
const SEED: u64 = 9;

/// A UDP datagram between hosts 10.0.0.source and .target.
fn datagram(source: u8, target: u8, port: u16, payload: usize) -> Vec<u8> {
    let (ip, udp) = (u16::try_from(28 + payload).unwrap(), u16::try_from(8 + payload).unwrap());
    let mut bytes = vec![2, 0, 0, 0, 0, target, 2, 0, 0, 0, 0, source, 8, 0, 0x45, 0];
    bytes.extend_from_slice(&ip.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, source, 10, 0, 0, target]);
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&9_999u16.to_be_bytes());
    bytes.extend_from_slice(&udp.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.resize(42 + payload, 7);
    bytes
}

fn group(ids: &[u8], gone: Vec<u32>) -> Members {
    let member = |id: &u8| Member {
        id: u32::from(*id),
        claims: vec![claim_of(SEED, Address::from_v4([10, 0, 0, *id]))],
        ..Member::default()
    };
    let members = ids.iter().map(member).collect();
    Members { epoch: 2, seed: SEED, anew: true, members, gone, ..Members::default() }
}

struct Rig {
    select: Select,
    spool: Arc<Spool>,
    out: Vec<Vec<u8>>,
    now: u64,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(dir.path(), SpoolLimits::default()).unwrap());
        let mut select = Select::new(1);
        select.set_meter(MeterParts {
            agent: SensorId(1),
            group: "blue".to_owned(),
            boot: Arc::new(AtomicU64::new(5)),
            secret: [1, 2],
            spool: Arc::clone(&spool),
            owners: SharedOwners::default(),
        });
        let mut rig = Rig { select, spool, out: Vec::new(), now: 0, _dir: dir };
        rig.pass(1);
        rig
    }

    fn pass(&mut self, milliseconds: u64) {
        self.pass_connected(milliseconds, true);
    }

    fn pass_connected(&mut self, milliseconds: u64, is_connected: bool) {
        self.now += milliseconds * 1_000_000;
        self.select.turn(Time(START + self.now), Duration::from_nanos(self.now), is_connected);
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.feed_at(bytes, self.now);
    }

    fn feed_at(&mut self, bytes: &[u8], at: u64) {
        let wire_len = u32::try_from(bytes.len()).unwrap();
        let frame = Frame { bytes, wire_len, time: Time(START + at), ..Frame::default() };
        let Rig { select, out, .. } = self;
        select.take(&frame, &mut |parcel| {
            out.push(parcel);
            Ok(())
        });
    }

    fn members(&mut self, members: &Members) {
        let Rig { select, out, .. } = self;
        select.members(Some(members), &mut |parcel| {
            out.push(parcel);
            Ok(())
        });
    }

    fn mode(&mut self, mode: Mode) {
        self.select.set_policy(Policy { mode, head_bytes: 300, ..Policy::default() });
    }

    /// Ends it; gives the flow rows, and packets and bytes in all rows.
    fn end(&mut self) -> (Vec<FlowRow>, Count) {
        let Rig { select, out, .. } = self;
        select.flush(&mut |parcel| {
            out.push(parcel);
            Ok(())
        });
        select.finish();
        let (mut rows, mut sum) = (Vec::new(), Count::default());
        while let Some(spooled) = self.spool.take_next(u64::MAX) {
            let batch = decode(&spooled.bytes).unwrap();
            assert_eq!((batch.head.sensor, spooled.sensor), (SensorId(1), SensorId(1)));
            assert!(batch.head.networks.iter().all(|path| path.as_str() == "blue"));
            for record in batch.records {
                match record {
                    Record::Flow(row) => {
                        sum += Count { packets: row.frames, bytes: row.wire_bytes };
                        rows.push(row);
                    }
                    Record::Rollup(row) => sum += Count { packets: row.frames, bytes: row.wire_bytes },
                    _ => {}
                }
            }
        }
        (rows, sum)
    }

    fn sent(&self) -> Vec<(u32, usize)> {
        let mut frames = Vec::new();
        for parcel in &self.out {
            let mut rest = parcel.as_slice();
            while let Some((head, bytes)) = take_frame(&mut rest) {
                frames.push((head.wire_len, bytes.len()));
            }
            assert!(rest.is_empty());
        }
        frames
    }
}

#[derive(Clone, Debug)]
enum Step {
    Packets { peer: u8, port: u16, count: u16, size: usize, inbound: bool },
    Mode(Mode),
    Members { with_two: bool, gone: bool },
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (2u8..5, 1u16..40, 1u16..30, 0usize..900, any::<bool>())
            .prop_map(|(peer, port, count, size, inbound)| Step::Packets { peer, port, count, size, inbound }),
        2 => prop_oneof![Just(Mode::Full), Just(Mode::Head), Just(Mode::Metadata)].prop_map(Step::Mode),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(with_two, gone)| Step::Members { with_two, gone }),
        2 => (1u64..90_000).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn each_packet_has_one_fate_and_rows_hold_what_became_metadata(steps in prop::collection::vec(step(), 1..40)) {
        let mut rig = Rig::new();
        for step in steps {
            match step {
                Step::Packets { peer, port, count, size, inbound } => for _ in 0..count {
                    let bytes = if inbound { datagram(peer, 1, port, size) } else { datagram(1, peer, port, size) };
                    rig.feed(&bytes);
                    rig.pass(1);
                },
                Step::Mode(mode) => rig.mode(mode),
                Step::Members { with_two, gone } => {
                    let gone = if gone && !with_two { vec![2] } else { Vec::new() };
                    rig.members(&group(if with_two { &[1, 2] } else { &[1] }, gone));
                }
                Step::Pass(milliseconds) => rig.pass(milliseconds),
            }
        }
        let (_, in_rows) = rig.end();
        let ledger = rig.select.ledger();
        prop_assert_eq!(ledger.imbalance(), None);
        prop_assert_eq!(in_rows, ledger.metadata);
        let sent = rig.sent();
        prop_assert_eq!(sent.len() as u64, ledger.sent.packets);
        let cut: u64 = sent.iter().map(|(wire, len)| u64::from(*wire) - *len as u64).sum();
        prop_assert_eq!(cut, ledger.cut_bytes);
    }
}

#[test]
fn a_flow_that_goes_to_another_member_ends_with_its_reason_and_stays_away() {
    let mut rig = Rig::new();
    rig.mode(Mode::Metadata);
    rig.members(&group(&[1], Vec::new()));
    for port in 0..40 {
        rig.feed(&datagram(1, 2, port, 100));
    }
    rig.members(&group(&[1, 2], Vec::new()));
    for port in 0..40 {
        rig.feed(&datagram(1, 2, port, 100));
    }
    let (rows, _) = rig.end();
    let (handed, kept): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.reason == EndReason::Handover);
    let ledger = rig.select.ledger();
    assert_eq!(
        handed.len() as u64,
        ledger.left.packets,
        "the flows whose next packet was left are the ones that ended"
    );
    assert!(handed.len() > 8 && kept.len() > 8);
    assert_eq!(rows.len(), 40, "no flow has a second row here");
    assert!(kept.iter().all(|row| row.frames == 2) && handed.iter().all(|row| row.frames == 1));
}

#[test]
fn what_another_member_left_to_us_is_said_so_that_our_claims_hold() {
    let mut rig = Rig::new();
    rig.mode(Mode::Metadata);
    rig.members(&group(&[1, 2], Vec::new()));
    (0..40).for_each(|port| rig.feed(&datagram(1, 2, port, 100)));
    let (metered, (report, dropped)) = (rig.select.take_metered(), rig.select.take_reports());
    let ledger = rig.select.ledger();
    let passed = |packets: u64| vec![(2, Passed { bytes: packets * 100, packets, bare: 0 })];
    assert_eq!(metered, passed(ledger.metadata.packets));
    assert_eq!((report.left, dropped), (passed(ledger.left.packets), Passed::default()));
}

#[test]
fn the_head_of_each_flow_is_whole_and_of_the_rest_only_heads_are_sent() {
    let mut rig = Rig::new();
    rig.mode(Mode::Head);
    for port in 1..4 {
        (0..5).for_each(|_| rig.feed(&datagram(1, 2, port, 200)));
    }
    rig.end();
    let whole = rig.sent().iter().filter(|(wire, len)| *wire == 242 && *len == 242).count();
    let heads = rig.sent().iter().filter(|(wire, len)| *wire == 242 && *len == 42).count();
    // 300 bytes are reached by the second packet.
    assert_eq!((whole, heads), (6, 9));
    assert_eq!(rig.select.ledger().cut_bytes, 9 * 200);
}

/// Agent 1, stopped for eleven seconds on a connection or without one, then finds it there or gone.
fn stop(before: bool, after: bool) -> Rig {
    let mut rig = Rig::new();
    rig.members(&group(&[1, 2], Vec::new()));
    rig.pass_connected(100, before);
    let asleep = rig.now + 1;
    rig.pass_connected(11_000, after);
    for port in 0..40 {
        rig.feed_at(&datagram(1, 2, port, 100), asleep + u64::from(port) * SECOND / 4);
        rig.feed_at(&datagram(1, 9, port, 100), asleep + u64::from(port) * SECOND / 4);
    }
    rig
}

#[test]
fn after_a_stop_what_another_member_has_taken_over_is_left_to_it() {
    for is_still_connected in [true, false] {
        let mut rig = stop(true, is_still_connected);
        let stopped = rig.select.ledger();
        assert_eq!((stopped.left.packets, stopped.seen.packets), (40, 80), "what we alone saw is still sent");
        rig.pass(20);
        (0..40).for_each(|port| rig.feed(&datagram(1, 2, port, 100)));
        rig.end();
        let ledger = rig.select.ledger();
        assert!(ledger.imbalance().is_none() && ledger.left.packets < 80, "{ledger:?}");
    }
}

#[test]
fn after_a_stop_without_a_vsensor_nobody_has_taken_over() {
    let mut rig = stop(false, true);
    rig.end();
    assert!(rig.select.ledger().left.packets < 40, "{:?}", rig.select.ledger());
}

#[test]
fn the_clock_may_be_set_and_rows_keep_their_times() {
    for step in [-3_600_000_000_000i64, 3_600_000_000_000] {
        let mut rig = Rig::new();
        rig.mode(Mode::Metadata);
        for second in 0..120u64 {
            let set = if second < 60 { 0 } else { step };
            rig.now = second * SECOND;
            let wall = Time((START + rig.now).saturating_add_signed(set));
            rig.select.turn(wall, Duration::from_nanos(rig.now), true);
            let bytes = datagram(1, 2, 7, 100);
            let frame = Frame { bytes: &bytes, wire_len: 142, time: wall, ..Frame::default() };
            rig.select.take(&frame, &mut |_| Ok(()));
        }
        let (rows, sum) = rig.end();
        assert_eq!((rows.len(), sum.packets), (1, 120), "one flow, however the clock was set: {rows:?}");
        assert_eq!(rows[0].until.since(rows[0].ts), 119 * SECOND);
    }
}

#[test]
fn without_a_spool_metadata_cannot_be_made_and_is_said_and_counted() {
    let mut select = Select::new(1);
    select.set_policy(Policy { mode: Mode::Metadata, ..Policy::default() });
    let bytes = datagram(1, 2, 7, 100);
    let frame = Frame { bytes: &bytes, wire_len: 142, time: Time(START), ..Frame::default() };
    select.take(&frame, &mut |_| Ok(()));
    assert!(select.trouble().is_some_and(|words| words.contains("no metadata")));
    assert_eq!((select.ledger().shed.packets, select.ledger().imbalance()), (1, None));
}
