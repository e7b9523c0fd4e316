//! What an agent pays a packet to know who sends it, beside decoding: sent, left to another (and remembered), and a span's
//! look at a frame of addresses that nobody claims and of one that is claimed.
#![expect(clippy::cast_possible_truncation, reason = "counts are small")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use thymus_dissect::Frame;
use thymus_dissect::decode::decode;
use thymus_record::message::{Member as Known, Members};
use thymus_record::{Address, Mac, Time};
use thymus_witness::{Member, SpanEye, SpanWatch, Wanted, claim_of};

const FRAMES: u32 = 1_024;
const SEED: u64 = 7;

fn host(number: u32) -> Address {
    let [_, b, c, d] = number.to_be_bytes();
    Address::from_v4([10, b, c, d])
}

/// A frame between two hosts, the first of which is claimed by member 1 or 2.
fn frame_of(number: u32, source: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, source as u8, 8, 0];
    let [high, low] = ((len - 14) as u16).to_be_bytes();
    bytes.extend_from_slice(&[0x45, 0, high, low, 0, 7, 0, 0, 64, 17, 0, 0]);
    let [_, b, c, d] = source.to_be_bytes();
    bytes.extend_from_slice(&[10, b, c, d, 10, 1, (number >> 8) as u8, number as u8]);
    let [high, low] = ((len - 34) as u16).to_be_bytes();
    bytes.extend_from_slice(&[0x30, 0x39, 0, 53, high, low, 0, 0]);
    bytes.resize(len, 7);
    bytes
}

fn frame(bytes: &[u8], time: u64) -> Frame<'_> {
    Frame { bytes, wire_len: bytes.len() as u32, time: Time(time), ..Frame::default() }
}

/// A group of 100 members; we are the first.
fn member() -> Member {
    let mut member = Member::new(1);
    let members = (1..=100).map(|id| Known { id, claims: vec![claim_of(SEED, host(id))], ..Known::default() });
    member.hear(&Members { epoch: 1, seed: SEED, members: members.collect(), ..Members::default() }, |_| ());
    member
}

fn ownership(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ownership");
    group.throughput(Throughput::Elements(u64::from(FRAMES)));
    for (name, source) in [("sent", 1), ("left", 2)] {
        for len in [60, 608, 1_514] {
            let frames: Vec<Vec<u8>> = (0..FRAMES).map(|number| frame_of(number, source, len)).collect();
            let (mut member, mut time) = (member(), 0);
            group.bench_function(BenchmarkId::new(name, len), |bench| {
                bench.iter(|| {
                    for bytes in &frames {
                        // 100 Mbit/s.
                        time += len as u64 * 80;
                        let frame = frame(bytes, time);
                        black_box(member.take(&decode(&frame), &frame));
                    }
                });
            });
        }
    }
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(|number| frame_of(number, 1, 608)).collect();
    group.bench_function("decode alone, 608", |bench| {
        bench.iter(|| {
            for bytes in &frames {
                black_box(&decode(&frame(black_box(bytes), 0)));
            }
        });
    });
    group.finish();
}

fn span(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("span");
    group.throughput(Throughput::Elements(u64::from(FRAMES)));
    let watch: Arc<SpanWatch> = Arc::default();
    let wanted =
        |number: u32| Wanted { address: host(number), mac: Mac([2, 0, 0, 0, 0, number as u8]), counts: Arc::default() };
    watch.want(&(1..=100).map(wanted).collect::<Vec<Wanted>>());
    let mut eye = SpanEye::new(watch);
    assert!(eye.is_open());
    for (name, source) in [("nobody's", 60_000), ("an agent's", 1)] {
        let frames: Vec<Vec<u8>> = (0..FRAMES).map(|number| frame_of(number, source, 608)).collect();
        group.bench_function(name, |bench| {
            bench.iter(|| {
                for (number, bytes) in (0..).zip(&frames) {
                    eye.see(&frame(black_box(bytes), 0), (host(source), host(1 << 16 | number)));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ownership, span);
criterion_main!(benches);
