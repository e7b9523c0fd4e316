//! Properties of the codec: rows survive, foreign bytes do no harm, new columns do not disturb old readers.
#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers by construction")]

use super::*;
use crate::column::Proto;
use crate::{Address, Mac, Time};
use proptest::prelude::*;

fn flow() -> impl Strategy<Value = Record> {
    let ends = (any::<[u8; 4]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>());
    (any::<u64>(), any::<u32>(), ends, any::<Option<u64>>(), "[A-Za-z^]{0,12}", any::<Option<[u8; 6]>>(), 0u32..2)
        .prop_map(|(ts, sequence, (v4, v6, orig_p, resp_p), orig_bytes, history, mac, network)| {
            FlowRow {
                ts: Time(ts),
                sequence: u64::from(sequence),
                orig_h: Address::from_v4(v4),
                resp_h: Address(v6),
                orig_p,
                resp_p,
                proto: Proto(6),
                orig_bytes,
                history,
                orig_l2: mac.map(Mac),
                network,
                ..FlowRow::default()
            }
            .into()
        })
}

fn dns() -> impl Strategy<Value = Record> {
    let lists = (prop::collection::vec(".{0,20}", 0..4), prop::collection::vec(any::<u64>(), 0..4));
    (prop::option::of(".{0,40}"), lists, any::<bool>())
        .prop_map(|(query, (answers, ttls), aa)| DnsRow { query, answers, ttls, aa, ..DnsRow::default() }.into())
}

fn head_of(records: usize) -> Head {
    let networks = vec![NetworkPath::from_text("default"), NetworkPath::from_text("default/vlan:7")];
    Head { sensor: SensorId(3), boot: BootId(u64::MAX), sequence: 9, rows: records as u32, networks, first_crc: None }
}

proptest! {
    #[test]
    fn rows_survive_encoding(flows in prop::collection::vec(flow(), 0..40), names in prop::collection::vec(dns(), 0..40)) {
        let records: Vec<Record> = flows.into_iter().chain(names).collect();
        let head = head_of(records.len());
        let bytes = encode(&head, &records);
        prop_assert_eq!(super::head(&bytes), Ok(head.clone()));
        prop_assert_eq!(decode(&bytes), Ok(Batch { head, records }));
    }

    #[test]
    fn one_changed_byte_is_seen(at in 0usize..10_000, flip in 1u8..=255, flows in prop::collection::vec(flow(), 1..20)) {
        let mut bytes = encode(&head_of(flows.len()), &flows);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn foreign_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn hostile_sections_behind_a_right_crc_do_no_harm(raw in prop::collection::vec(any::<u8>(), 0..300), rows in 0u32..2000) {
        let _ = take_sections(&raw, rows as usize, 1);
    }
}

#[test]
fn a_column_and_a_table_of_a_newer_writer_are_skipped() {
    let row = DnsRow { query: Some("a.example".into()), ..DnsRow::default() };
    let mut raw = Vec::new();
    put_section(&[&row], &mut raw);
    let mut reader = Reader::new(&raw, "test");
    let (table, rows, columns) = (reader.byte().unwrap(), reader.varint().unwrap(), reader.bytes().unwrap());
    let mut columns = columns.to_vec();
    put_varint(&mut columns, 999);
    columns.push(77);
    columns.push(0);
    put_bytes(&mut columns, b"from the future");
    let mut newer = vec![200, 1];
    put_bytes(&mut newer, b"a table from the future");
    newer.push(table);
    put_varint(&mut newer, rows);
    put_bytes(&mut newer, &columns);
    assert_eq!(take_sections(&newer, 2, 1), Ok(vec![row.into()]));
}

#[test]
fn a_row_of_a_network_that_the_head_does_not_name_is_refused() {
    let row: Record = FlowRow { network: 2, ..FlowRow::default() }.into();
    assert_eq!(decode(&encode(&head_of(1), &[row])), Err(BatchError::Misfit("network")));
}

/// 1,000 short connections of 50 hosts, as a busy second gives them.
#[test]
fn full_batches_of_flows_cost_under_thirty_bytes_a_row() {
    let mut seed = 1u64;
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let records: Vec<Record> = (0..1000u64)
        .map(|n| {
            let ts = Time(1_700_000_000_000_000_000 + n * 1_000_000 + next(900_000));
            FlowRow {
                ts,
                from: ts,
                until: ts + next(1_000_000_000),
                sequence: n,
                orig_h: Address::from_v4([10, 0, 0, next(50) as u8]),
                orig_p: 32_768 + next(28_000) as u16,
                resp_h: Address::from_v4([192, 0, 2, next(200) as u8]),
                resp_p: 443,
                proto: Proto::TCP,
                history: "ShADadFf".into(),
                orig_bytes: Some(next(2000)),
                resp_bytes: Some(next(60_000)),
                orig_pkts: next(20),
                resp_pkts: next(60),
                ..FlowRow::default()
            }
            .into()
        })
        .collect();
    let bytes = encode(&head_of(1000), &records);
    assert!(bytes.len() < 30_000, "{} bytes for 1,000 rows", bytes.len());
    eprintln!("{:.1} bytes a flow row", bytes.len() as f64 / 1000.0);
}
