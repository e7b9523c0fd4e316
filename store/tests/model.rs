//! The store against a model: whatever comes in, is flushed, merged or reopened, queries answer as a plain list would.
#![expect(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod support;

use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use support::{SECOND, START, all, arrival, batch, open, request, uid};
use thymus_record::table::{ConnState, FlowKind, FlowRow};
use thymus_record::{Address, Record, Table, Time};
use thymus_store::Ingested;

#[derive(Clone, Debug)]
enum Step {
    /// Rows of a sensor: (flow, packets, last) each.
    Batch(u32, Vec<(u64, u64, bool)>),
    Again(usize),
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let rows = prop::collection::vec((0u64..30, 0u64..20, any::<bool>()), 1..12);
    prop_oneof![
        6 => (1u32..3, rows).prop_map(|(sensor, rows)| Step::Batch(sensor, rows)),
        1 => any::<usize>().prop_map(Step::Again),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Flow {
    ts: u64,
    uid: String,
    host: String,
    pkts: u64,
    bytes: Option<u64>,
    state: &'static str,
    until: u64,
    rows: u64,
    whole: bool,
}

/// The flows that a list of rows should give, newest first.
#[derive(Default)]
struct Model {
    flows: BTreeMap<(u32, u64), Flow>,
}

impl Model {
    /// The next delta row of a flow, unless its first was its last.
    fn row(&mut self, sensor: u32, number: u64, pkts: u64, last: bool) -> Option<Record> {
        let ts = START + (number % 7) * 3000 * SECOND + number % 2;
        let host = [10, u8::try_from(sensor).unwrap(), 0, u8::try_from(number % 5).unwrap()];
        let flow = self.flows.entry((sensor, number)).or_insert_with(|| Flow {
            ts,
            uid: uid(sensor, 1, number),
            host: Address::from_v4(host).to_string(),
            pkts: 0,
            bytes: None,
            state: "",
            until: ts,
            rows: 0,
            whole: false,
        });
        if flow.whole {
            return None;
        }
        flow.whole = last && flow.rows == 0;
        let state = if last { ConnState::Sf } else { ConnState::S1 };
        let bytes = (pkts > 5).then_some(pkts * 100);
        let row = FlowRow {
            ordinal: u32::try_from(flow.rows).unwrap(),
            orig_pkts: pkts,
            orig_bytes: bytes,
            conn_state: state,
            kind: if flow.whole { FlowKind::End } else { FlowKind::Interim },
            until: Time(ts + flow.rows * 1000 * SECOND),
            orig_h: Address::from_v4(host),
            ..support::flow(number, ts, 0)
        };
        flow.pkts += pkts;
        flow.bytes = bytes.map(|more| flow.bytes.unwrap_or(0) + more).or(flow.bytes);
        flow.state = state.as_str();
        flow.until = row.until.0;
        flow.rows += 1;
        Some(row.into())
    }

    fn sorted(&self, holds: impl Fn(&Flow) -> bool) -> Vec<Flow> {
        let mut flows: Vec<Flow> = self.flows.values().filter(|flow| holds(flow)).cloned().collect();
        flows.sort_by_key(|flow| (Reverse(flow.ts / 1000), flow.uid.clone()));
        flows
    }
}

fn same(found: &[serde_json::Value], wanted: &[Flow]) {
    assert_eq!(support::uids(found), wanted.iter().map(|flow| flow.uid.clone()).collect::<Vec<_>>());
    for (item, flow) in found.iter().zip(wanted) {
        assert_eq!(item["orig_pkts"], flow.pkts);
        assert_eq!(item["orig_bytes"].as_u64(), flow.bytes);
        assert_eq!(item["conn_state"], flow.state);
        assert_eq!(item["id.orig_h"], flow.host.as_str());
        let duration = (flow.until > flow.ts).then(|| (flow.until - flow.ts) / SECOND);
        assert_eq!(item["duration"].as_f64(), duration.map(|seconds| f64::from(u32::try_from(seconds).unwrap())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn queries_answer_as_a_plain_list_would(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut model = Model::default();
        let mut sent: Vec<(u32, Vec<u8>)> = Vec::new();
        for step in steps {
            match step {
                Step::Batch(sensor, rows) => {
                    let rows: Vec<Record> =
                        rows.into_iter().filter_map(|(flow, pkts, last)| model.row(sensor, flow, pkts, last)).collect();
                    let bytes = batch(sensor, 1, sent.len() as u64, &["default"], &rows);
                    prop_assert_eq!(store.ingest(&bytes, arrival(sensor, START)).unwrap(), Ingested::New);
                    sent.push((sensor, bytes));
                }
                Step::Again(at) if !sent.is_empty() => {
                    let (sensor, bytes) = &sent[at % sent.len()];
                    prop_assert_eq!(store.ingest(bytes, arrival(*sensor, START)).unwrap(), Ingested::SeenBefore);
                }
                Step::Again(_) => {}
                Step::Flush => store.flush().unwrap(),
                Step::Reopen => {
                    drop(store);
                    store = open(dir.path());
                }
            }
        }
        same(&all(&store, request(Table::Flow, None, 7)), &model.sorted(|_| true));
        same(&all(&store, request(Table::Flow, Some("orig_pkts:>10"), 3)), &model.sorted(|flow| flow.pkts > 10));
        same(&all(&store, request(Table::Flow, Some("ip:10.1.0.3"), 2)), &model.sorted(|flow| flow.host == "10.1.0.3"));
        let long = |flow: &Flow| flow.until - flow.ts > 1500 * SECOND;
        same(&all(&store, request(Table::Flow, Some("duration:>1500"), 2)), &model.sorted(long));
        let mixed = "(conn_state:SF AND id.orig_h:10.2.0.0/16) OR (id.orig_h:10.1.0.1 NOT orig_pkts:<4)";
        let holds = |flow: &Flow| {
            (flow.state == "SF" && flow.host.starts_with("10.2.")) || (flow.host == "10.1.0.1" && flow.pkts >= 4)
        };
        same(&all(&store, request(Table::Flow, Some(mixed), 4)), &model.sorted(holds));
        for flow in model.flows.values().take(3) {
            let q = format!("uid:{}", flow.uid);
            same(&all(&store, request(Table::Flow, Some(&q), 5)), std::slice::from_ref(flow));
        }
    }
}
