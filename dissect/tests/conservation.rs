//! Every frame is in exactly one flow row or counted as "no flow", whatever it holds; and the same frames give the same
//! rows, byte for byte.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::cast_possible_truncation, reason = "test packets are small")]

mod support;

use proptest::prelude::*;
use std::path::Path;
use support::Kept;
use thymus_dissect::flow::{FlowShard, FlowTag, NetworkTable, ShardConfig};
use thymus_dissect::{Frame, LinkType};
use thymus_record::batch::{Head, encode};
use thymus_record::table::FlowRow;
use thymus_record::{Record, Time};

/// What a shard makes of frames.
struct Outcome {
    records: Vec<Record>,
    networks: NetworkTable,
    no_flow: (u64, u64),
}

impl Outcome {
    fn flows(&self) -> impl Iterator<Item = &FlowRow> {
        self.records.iter().filter_map(|record| if let Record::Flow(flow) = record { Some(flow) } else { None })
    }

    fn encoded(&self) -> Vec<u8> {
        encode(&Head::default(), &self.records)
    }
}

fn observe(frames: &[Frame<'_>], burst: usize, flows_max: usize) -> Outcome {
    let mut shard = FlowShard::new(ShardConfig { shard: 0, flows_max, secret: [3, 5], ports: 1 });
    let mut networks = NetworkTable::new(&["default"]);
    let mut records: Vec<Record> = Vec::new();
    for frames in frames.chunks(burst.max(1)) {
        let mut tags = vec![FlowTag::default(); frames.len()];
        shard.observe_burst(frames, &mut networks, &mut records, &mut tags);
        shard.advance(frames.last().unwrap().time, &mut records);
    }
    shard.finish(&mut records);
    assert_eq!(shard.flows_open(), 0);
    let no_flow = shard.no_flow(0);
    Outcome { records, networks, no_flow: (no_flow.packets, no_flow.bytes) }
}

/// A frame to begin with: host pair, ports, protocol, and how it is wrapped.
fn built(hosts: (u8, u8), ports: (u16, u16), kind: u8, flags: u8, payload: usize, wrap: u8) -> Vec<u8> {
    let mut data = Vec::new();
    let (proto, head) = match kind % 4 {
        0 => (6, 20),
        1 => (17, 8),
        2 => (1, 8),
        _ => (47, 0),
    };
    data.extend_from_slice(&ports.0.to_be_bytes());
    data.extend_from_slice(&ports.1.to_be_bytes());
    match proto {
        6 => data.extend_from_slice(&[0, 0, 1, payload as u8, 0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0]),
        17 => data.extend_from_slice(&[0, (8 + payload) as u8, 0, 0]),
        1 => data.splice(0..4, [8, 0, 0, 0, 0, 1, 0, 2]).for_each(drop),
        _ => {}
    }
    data.resize(head.max(4) + payload, 0x61);
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&((20 + data.len()) as u16).to_be_bytes());
    // Some are fragments: the first, or a later one.
    let fragment: [u8; 2] = match flags % 7 {
        5 => [0x20, 0],
        6 => [0, 3],
        _ => [0x40, 0],
    };
    ip.extend_from_slice(&[
        0,
        hosts.0,
        fragment[0],
        fragment[1],
        64,
        proto,
        0,
        0,
        10,
        0,
        0,
        hosts.0,
        10,
        0,
        0,
        hosts.1,
    ]);
    ip.extend_from_slice(&data);
    let mut frame = vec![2, 0, 0, 0, 0, hosts.1, 2, 0, 0, 0, 0, hosts.0];
    match wrap % 4 {
        1 => frame.extend_from_slice(&[0x81, 0, 0, wrap % 3 + 1]),
        2 => frame.extend_from_slice(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9]),
        3 => return [&frame[..], &[8, 6], &[0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat(),
        _ => {}
    }
    frame.extend_from_slice(&[8, 0]);
    frame.extend_from_slice(&ip);
    frame
}

prop_compose! {
    /// A frame, maybe damaged in one place, maybe cut short.
    fn any_frame()(
        hosts in (1u8..5, 1u8..5), ports in (0u16..4, 50u16..54), kind in any::<u8>(), flags in any::<u8>(),
        payload in 0usize..60, wrap in any::<u8>(), damage in prop::option::of((any::<u16>(), any::<u8>())),
        cut in prop::option::of(0usize..80), later in 0u64..40_000_000_000,
    ) -> (Vec<u8>, u32, u64) {
        let mut bytes = built(hosts, ports, kind, flags, payload, wrap);
        let wire_len = bytes.len() as u32;
        if let Some((at, value)) = damage {
            let at = usize::from(at) % bytes.len();
            *bytes.get_mut(at).unwrap() = value;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        (bytes, wire_len, later)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn rows_and_no_flow_together_are_all_frames_and_bytes(
        made in prop::collection::vec(any_frame(), 1..300), burst in 1usize..130, flows_max in 8usize..64,
    ) {
        let mut now = 1_000_000_000;
        let frames: Vec<Frame<'_>> = made.iter().map(|(bytes, wire_len, later)| {
            // Most frames come close together; now and then a minute passes.
            now += if later % 8 == 0 { *later } else { later % 1_000_000 };
            Frame { bytes, wire_len: *wire_len, time: Time(now), link: LinkType::Ethernet, port: 0, ..Frame::default() }
        }).collect();
        let outcome = observe(&frames, burst, flows_max);
        let told = outcome.flows().fold((0, 0), |sum, row| (sum.0 + row.frames, sum.1 + row.wire_bytes));
        let given: u64 = frames.iter().map(|frame| u64::from(frame.wire_len)).sum();
        prop_assert_eq!(told.0 + outcome.no_flow.0, frames.len() as u64);
        prop_assert_eq!(told.1 + outcome.no_flow.1, given);
        prop_assert_eq!(outcome.encoded(), observe(&frames, burst, flows_max).encoded());
    }
}

/// The golden capture, and those that stand beside the checkout.
fn captures() -> Vec<Vec<Kept>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sensor/tests/captures/lab.pcap");
    let beside = support::folders();
    if beside.is_empty() {
        eprintln!("skipped: the captures beside the checkout; the project's own one is used alone");
    }
    let beside = beside.iter().filter_map(|folder| support::frames(&folder.join("input.pcap")));
    std::iter::once(support::frames(&golden).unwrap()).chain(beside).collect()
}

#[test]
fn real_captures_add_up_and_give_the_same_rows_twice_and_in_any_bursts() {
    for kept in captures() {
        let frames: Vec<Frame<'_>> =
            kept.iter().zip(1u64..).map(|(kept, at)| Frame { time: Time(at * 1_000_000), ..kept.frame() }).collect();
        let outcome = observe(&frames, 64, 4_096);
        let told: u64 = outcome.flows().map(|row| row.frames).sum();
        assert_eq!(told + outcome.no_flow.0, frames.len() as u64);
        assert_eq!(outcome.encoded(), observe(&frames, 64, 4_096).encoded());
        // How the driver cuts the traffic into bursts shows in nothing but the order of rows that end together.
        let mut rows: Vec<String> = outcome.flows().map(|row| format!("{row:?}")).collect();
        let single = observe(&frames, 1, 4_096);
        let mut alone: Vec<String> = single.flows().map(|row| format!("{row:?}")).collect();
        rows.sort();
        alone.sort();
        assert_eq!(rows, alone);
    }
}

#[test]
fn two_vxlan_networks_with_the_same_addresses_stay_two() {
    let inner = built((1, 2), (1_000, 53), 1, 0, 20, 0);
    let wrapped = |vni: u8| {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        bytes.extend_from_slice(&((36 + inner.len()) as u16).to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0xf0, 0, 0x12, 0xb5]);
        bytes.extend_from_slice(&((16 + inner.len()) as u16).to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 8, 0, 0, 0, 0, 0, vni, 0]);
        bytes.extend_from_slice(&inner);
        bytes
    };
    let made = [wrapped(7), wrapped(8), wrapped(7)];
    let frames: Vec<Frame<'_>> = made
        .iter()
        .zip(1u64..)
        .map(|(bytes, at)| Frame {
            bytes,
            wire_len: bytes.len() as u32,
            time: Time(at * 1_000),
            link: LinkType::Ethernet,
            ..Frame::default()
        })
        .collect();
    let outcome = observe(&frames, 64, 64);
    let mut told: Vec<(String, u64)> =
        outcome.flows().map(|row| (outcome.networks.path(row.network).as_str().to_owned(), row.frames)).collect();
    told.sort();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_ne!(told[0].0, told[1].0);
    assert!(told[0].0.contains("vxlan") && told[0].0.contains('7'), "{told:?}");
    assert_eq!([told[0].1, told[1].1], [2, 1]);
}
