//! The store on a million flows of 5,000 devices: how fast batches go in, and how long a person waits for an answer.
#![expect(clippy::expect_used, reason = "a bench stops where its set-up fails")]

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Instant;
use thymus_record::batch::{Head, encode};
use thymus_record::column::Proto;
use thymus_record::table::{ConnState, FlowKind, FlowRow};
use thymus_record::{Address, BootId, FlowUid, NetworkPath, Record, Scope, SensorId, Table, Time};
use thymus_store::{Arrival, Embedded, Request, StoreOptions};

const ROWS: u64 = 1_000_000;
const BATCH: u64 = 1000;
const START: u64 = 1_700_000_000_000_000_000;
/// A million flows in four hours.
const GAP: u64 = 14_400_000;

fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

fn address(network: u8, number: u64) -> Address {
    let [.., high, low] = number.to_be_bytes();
    Address::from_v4([10, network, high, low])
}

fn port(number: u64) -> u16 {
    let [.., high, low] = number.to_be_bytes();
    u16::from_be_bytes([high, low])
}

fn flow(number: u64) -> Record {
    let random = mixed(number);
    let ts = Time(START + number * GAP + random % GAP);
    FlowRow {
        ts,
        from: ts,
        until: ts + random % 5_000_000_000,
        sequence: number,
        orig_h: address(1, random % 5000),
        orig_p: port(random),
        resp_h: address(2, (random >> 13) % 20_000),
        resp_p: if random.is_multiple_of(3) { 53 } else { 443 },
        proto: Proto::TCP,
        kind: FlowKind::End,
        service: Some(if random.is_multiple_of(3) { "dns" } else { "ssl" }.into()),
        conn_state: if random.is_multiple_of(50) { ConnState::S0 } else { ConnState::Sf },
        history: "ShADadFf".into(),
        orig_bytes: Some(random % 3000),
        resp_bytes: Some(random % 90_000),
        orig_pkts: random % 20,
        resp_pkts: random % 60,
        orig_ip_bytes: random % 4000,
        resp_ip_bytes: random % 92_000,
        wire_bytes: random % 100_000,
        frames: random % 80,
        ..FlowRow::default()
    }
    .into()
}

fn batches() -> Vec<Vec<u8>> {
    let make = |sequence: u64| {
        let rows: Vec<Record> = (sequence * BATCH..(sequence + 1) * BATCH).map(flow).collect();
        let networks = vec![NetworkPath::from_text("default")];
        encode(&Head { sensor: SensorId(1), boot: BootId(1), sequence, rows: 0, networks, first_crc: None }, &rows)
    };
    (0..ROWS / BATCH).map(make).collect()
}

#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn filled(dir: &std::path::Path) -> Embedded {
    let batches = batches();
    let bytes: usize = batches.iter().map(Vec::len).sum();
    let store = Embedded::open(dir, StoreOptions::default()).expect("an empty folder opens");
    let begun = now();
    for (at, batch) in batches.iter().enumerate() {
        let arrival = Arrival { time: Time(at as u64), sensor_name: "bench".into(), group: "default".into() };
        store.ingest(batch, arrival).expect("there is room");
        if at % 16 == 15 {
            store.sync().expect("the disk syncs");
        }
    }
    let ingest = begun.elapsed();
    store.flush().expect("there is room");
    let counts = store.counts();
    let file_bytes: u64 = std::fs::read_dir(dir.join("tables"))
        .expect("the folder is there")
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.len()))
        .sum();
    eprintln!(
        "{ROWS} rows in {:.2} s, {:.0} rows/s; flushed and merged after {:.2} s; {} files, {:.1} B a row at rest, {:.1} B in batches",
        ingest.as_secs_f64(),
        ROWS as f64 / ingest.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
        counts.files,
        file_bytes as f64 / ROWS as f64,
        bytes as f64 / ROWS as f64,
    );
    store
}

fn store(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder for the store");
    let store = filled(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut group = criterion.benchmark_group("store");
    group.sample_size(10);
    let middle = FlowUid { sensor: SensorId(1), boot: BootId(1), shard: 0, sequence: ROWS / 2 };
    let questions = [
        ("newest 100", String::new()),
        ("last 100 of a device", "ip:10.1.0.77".to_owned()),
        ("uid", format!("uid:{middle}")),
        ("5-tuple part", "id.orig_h:10.1.0.77 id.resp_p:443 proto:tcp".to_owned()),
        ("rare state after the fold", "conn_state:S0".to_owned()),
        ("no such address", "ip:203.0.113.9".to_owned()),
        ("nothing passes after the fold", "resp_bytes:>99999999".to_owned()),
    ];
    for (name, q) in questions {
        let request = Request {
            table: Table::Flow,
            scope: Scope::All,
            q: (!q.is_empty()).then_some(q),
            from: None,
            to: None,
            limit: 100,
            cursor: None,
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(store.query(&request)).expect("the query is right").items.len());
        });
    }
    let network = NetworkPath::from_text("default");
    let span = (Time(START), Time(START + ROWS * GAP));
    group.bench_function("volume of a device", |bencher| {
        let endpoint = (&network, address(1, 77));
        bencher.iter(|| runtime.block_on(store.flow_volume(&Scope::All, endpoint, span, 60)).expect("it is right"));
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
