//! A thousand losses made at each stage are a thousand in the ledger, and what came in is the sum of what became of it.

use crate::clock::SystemClock;
use crate::deal::deal_to;
use crate::pipeline::{Destination, Pipeline, PipelineConfig, Shared};
use crate::source::{Burst, PacketSource, Received, SourceCounters, SourceError};
use crate::worker::{Gauges, LoopPort, Stage, poll};
use ringbuf::HeapRb;
use ringbuf::traits::Split;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use thymus_dissect::flow::NetworkTable;
use thymus_dissect::{Frame, LinkType};
use thymus_forward::forwarder::ForwarderParts;
use thymus_forward::{Batcher, Forwarder, Outlet, RecordCounts, SharedOwners};
use thymus_link::Spool;
use thymus_link::spool::SpoolLimits;
use thymus_record::ledger::Ledger;
use thymus_record::table::{FlowRow, HttpRow};
use thymus_record::{BootId, Record, RecordSink, SensorId, Time};

const LOSSES: u64 = 1_000;

/// A UDP packet between two hosts, told apart by its number.
fn packet(number: u64) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 86, 0, 1, 0, 0, 64, 17, 0, 0];
    bytes.extend_from_slice(&[10, 0, 0, (number % 7) as u8 + 1, 10, 0, 1, 1, 4, 0, 0, 99, 0, 66, 0, 0]);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.resize(100, 0x61);
    bytes
}

/// Sends the same packets `copies` times each, and claims losses of the NIC's.
struct Scripted {
    next: u64,
    packets: u64,
    copies: u64,
    claims: SourceCounters,
}

impl PacketSource for Scripted {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        if self.next >= self.packets {
            return Ok(Received::End);
        }
        let time = Time(1_000_000_000 + self.next * 10_000);
        let bytes = packet(self.next);
        let frame = Frame { bytes: &bytes, wire_len: 100, time, link: LinkType::Ethernet, port: 0, ..Frame::default() };
        let frames = vec![frame; usize::try_from(self.copies).unwrap()];
        each(Burst { frames: &frames, now: time });
        self.next += 1;
        Ok(Received::Frames(frames.len()))
    }

    fn counters(&mut self) -> SourceCounters {
        self.claims
    }
}

fn pipeline(live: bool, ring: Option<&Path>) -> Pipeline {
    Pipeline::start(PipelineConfig {
        ports: vec!["span0".to_owned()],
        workers: 1,
        flows_max: 1_000,
        secret: [1, 2],
        boot: BootId(9),
        ring: ring.map(|dir| (dir.to_owned(), 64 << 20)),
        destination: Destination::Standalone,
        live,
        duplicates: true,
        agents: Vec::new(),
        exchange: std::sync::Arc::default(),
        roots: std::sync::Arc::default(),
        watch: std::sync::Arc::default(),
        own: Arc::default(),
    })
    .unwrap()
}

/// Runs a source through a pipeline; `before` may break it first.
fn run(mut pipeline: Pipeline, source: Scripted, before: impl FnOnce(&Shared, &mut Stage)) -> Ledger {
    let mut stage = pipeline.stages.pop().unwrap();
    before(&pipeline.shared, &mut stage);
    let mut ports = [LoopPort { port: 0, source, sight: None }];
    poll(&mut ports, &mut stage, &AtomicBool::new(false), &SystemClock::default(), &Gauges::default()).unwrap();
    stage.finish();
    drop(stage);
    let ledger = pipeline.finish_records().stop().ledger();
    assert_adds_up(&ledger);
    ledger
}

fn assert_adds_up(ledger: &Ledger) {
    let Ledger { offered, missed, received, stored, in_ring, not_kept, duplicate, filtered, shed, error, .. } = *ledger;
    let sum = |parts: &[u64]| parts.iter().sum::<u64>();
    assert_eq!(offered.packets, sum(&[received.packets, missed.packets]));
    assert_eq!(stored.packets, sum(&[in_ring.packets, not_kept.packets]));
    let fates = [stored, duplicate, filtered, shed, error];
    assert_eq!(received.packets, fates.iter().map(|fate| fate.packets).sum::<u64>());
    assert_eq!(received.bytes, fates.iter().map(|fate| fate.bytes).sum::<u64>());
    let records = ledger.records;
    assert_eq!(records.made, sum(&[records.sent, records.spooled, records.shed]));
}

fn scripted(packets: u64) -> Scripted {
    Scripted { next: 0, packets, copies: 1, claims: SourceCounters::default() }
}

#[test]
fn what_the_nic_missed_or_broke_is_told() {
    let mut source = scripted(5_000);
    (0..LOSSES).for_each(|_| source.claims.missed.add(100));
    (0..LOSSES).for_each(|_| source.claims.error.add(60));
    let ledger = run(pipeline(true, None), source, |_, _| ());
    assert_eq!((ledger.missed.packets, ledger.error.packets), (LOSSES, LOSSES));
    assert_eq!((ledger.received.packets, ledger.not_kept.packets), (6_000, 5_000));
}

#[test]
fn second_copies_are_told() {
    let ledger = run(pipeline(true, None), Scripted { copies: 2, ..scripted(LOSSES) }, |_, _| ());
    assert_eq!((ledger.duplicate.packets, ledger.not_kept.packets), (LOSSES, LOSSES));
}

#[test]
fn packets_that_found_no_segment_are_told_and_the_others_are_in_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Mutex::new(Vec::new());
    let ledger = run(pipeline(true, Some(dir.path())), scripted(LOSSES), |shared, _| {
        *kept.lock().unwrap() = shared.ring().unwrap().hold_free_segments();
    });
    assert_eq!((ledger.shed.packets, ledger.in_ring.packets), (LOSSES, 0));
    drop(kept);
    let ledger = run(pipeline(true, Some(dir.path())), scripted(500), |_, _| ());
    assert_eq!((ledger.shed.packets, ledger.in_ring.packets), (0, 500));
}

#[test]
fn frames_that_a_worker_had_no_room_for_are_told() {
    let mut pipeline = pipeline(true, None);
    let mut stage = pipeline.stages.pop().unwrap();
    let (mut dealer, mut sources) = deal_to(1);
    let (mut dealt, mut late) = (0, thymus_record::ledger::Count::default());
    while late.packets < LOSSES {
        let bytes = packet(dealt);
        let time = Time(1_000_000_000 + dealt * 10_000);
        let frame = Frame { bytes: &bytes, wire_len: 100, time, link: LinkType::Ethernet, port: 0, ..Frame::default() };
        dealer.deal(Burst { frames: &[frame], now: time }, |_| late.add(100));
        dealt += 1;
    }
    drop(dealer);
    while sources[0].receive_burst(|burst| stage.burst(burst)).unwrap() != Received::End {}
    stage.settle_late(0, late);
    stage.finish();
    drop(stage);
    let ledger = pipeline.finish_records().stop().ledger();
    assert_adds_up(&ledger);
    assert_eq!((ledger.shed.packets, ledger.received.packets), (LOSSES, dealt));
}

fn flow(number: u64) -> Record {
    FlowRow { sequence: number, ts: Time(number), ..FlowRow::default() }.into()
}

#[test]
fn rows_that_the_forwarder_was_too_late_for_are_told() {
    let (outbox, _inbox) = HeapRb::new(1).split();
    let mut batcher = Batcher::new(0, outbox, false);
    let counts = RecordCounts::default();
    counts.watch(batcher.counts());
    let networks = NetworkTable::new(&["default"]);
    batcher.earn(1 << 30);
    // The first chunk finds the one place in the queue, the others none.
    for chunk in 0..3 {
        (0..LOSSES / 2).for_each(|row| batcher.emit(flow(chunk * LOSSES + row)));
        batcher.finish(&networks);
    }
    let records = counts.records(Some(0));
    assert_eq!((records.made, records.shed, records.spooled), (LOSSES * 3 / 2, LOSSES, LOSSES / 2));
}

#[test]
fn rows_left_out_for_the_budget_are_told() {
    let (outbox, _inbox) = HeapRb::new(64).split();
    let mut batcher = Batcher::new(0, outbox, false);
    let counts = RecordCounts::default();
    counts.watch(batcher.counts());
    let row = || HttpRow { uri: Some("x".repeat(4_000)), ..HttpRow::default() };
    let mut emitted = 0;
    while counts.records(Some(0)).shed < LOSSES {
        batcher.emit(row().into());
        emitted += 1;
        assert!(emitted < 1_000_000, "the budget never ends");
    }
    assert_eq!(counts.records(Some(0)).made, emitted);
}

#[test]
fn rows_that_a_full_spool_refused_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(dir.path(), SpoolLimits { bytes_max: 1 }).unwrap());
    let (outbox, inbox) = HeapRb::new(64).split();
    let mut batcher = Batcher::new(0, outbox, false);
    let counts = Arc::new(RecordCounts::default());
    counts.watch(batcher.counts());
    let forwarder = Forwarder::start(ForwarderParts {
        sensor: SensorId(1),
        boot: Arc::new(9.into()),
        inboxes: vec![inbox],
        outlet: Outlet::Spool { spool: Arc::clone(&spool), waits: false },
        counts: Arc::clone(&counts),
        owners: SharedOwners::default(),
    })
    .unwrap();
    batcher.earn(1 << 30);
    (0..LOSSES).for_each(|number| batcher.emit(flow(number)));
    batcher.finish(&NetworkTable::new(&["default"]));
    forwarder.finish();
    let records = counts.records(Some(spool.acknowledged_of(SensorId(1), BootId(9))));
    assert_eq!((records.made, records.shed, records.spooled, records.sent), (LOSSES, LOSSES, 0, 0));
}
