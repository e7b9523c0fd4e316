//! Batches and pages for the tests of the store.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

use std::path::Path;
use thymus_record::batch::{Head, encode};
use thymus_record::column::Proto;
use thymus_record::table::{ConnState, FlowKind, FlowRow};
use thymus_record::{Address, BootId, FlowUid, NetworkPath, Record, Scope, SensorId, Table, Time};
use thymus_store::{Arrival, Embedded, Request, StoreOptions};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const START: u64 = 1_700_000_000 * SECOND;

pub(crate) fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, StoreOptions::default()).unwrap()
}

pub(crate) fn arrival(sensor: u32, time: u64) -> Arrival {
    Arrival { time: Time(time), sensor_name: format!("sensor-{sensor}"), group: "default".into() }
}

pub(crate) fn batch(sensor: u32, boot: u64, sequence: u64, networks: &[&str], records: &[Record]) -> Vec<u8> {
    let networks = networks.iter().map(|path| NetworkPath::from_text(path)).collect();
    encode(
        &Head { sensor: SensorId(sensor), boot: BootId(boot), sequence, rows: 0, networks, first_crc: None },
        records,
    )
}

pub(crate) fn uid(sensor: u32, boot: u64, sequence: u64) -> String {
    FlowUid { sensor: SensorId(sensor), boot: BootId(boot), shard: 0, sequence }.to_string()
}

/// A whole flow in one row, of its own pair of ports.
pub(crate) fn flow(sequence: u64, start: u64, host: u8) -> FlowRow {
    FlowRow {
        ts: Time(start),
        from: Time(start),
        until: Time(start + SECOND),
        sequence,
        orig_h: Address::from_v4([10, 0, 0, host]),
        orig_p: u16::try_from(sequence % 60_000).unwrap(),
        resp_h: Address::from_v4([192, 0, 2, 1]),
        resp_p: 443,
        proto: Proto::TCP,
        kind: FlowKind::End,
        conn_state: ConnState::Sf,
        orig_pkts: 1,
        orig_ip_bytes: 100,
        resp_ip_bytes: 1000,
        ..FlowRow::default()
    }
}

pub(crate) fn request(table: Table, q: Option<&str>, limit: usize) -> Request {
    Request { table, scope: Scope::All, q: q.map(str::to_owned), from: None, to: None, limit, cursor: None }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// All pages of a request, item by item.
pub(crate) fn all(store: &Embedded, mut request: Request) -> Vec<serde_json::Value> {
    let runtime = runtime();
    let mut items = Vec::new();
    loop {
        let page = runtime.block_on(store.query(&request)).unwrap();
        assert!(page.items.len() <= request.limit);
        items.extend(page.items.iter().map(|item| serde_json::from_str::<serde_json::Value>(item.get()).unwrap()));
        match page.next {
            Some(next) => request.cursor = Some(next),
            None => return items,
        }
    }
}

pub(crate) fn uids(items: &[serde_json::Value]) -> Vec<String> {
    items.iter().map(|item| item["uid"].as_str().unwrap().to_owned()).collect()
}
