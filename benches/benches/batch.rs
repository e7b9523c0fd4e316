//! Rows → batch and back, in nanoseconds and bytes a row, on the rows of generated traffic.
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use thymus_benches::traffic::{Bench, generated};
use thymus_dissect::Frame;
use thymus_dissect::flow::FlowTag;
use thymus_record::batch::{Head, ROWS_MAX, decode, encode};
use thymus_record::{NetworkPath, Record};
use thymus_sensor::source::generate::Traffic;

fn rows() -> Vec<Record> {
    let traffic = Traffic { devices: 100, mbps: 20, connections_per_minute: 20_000, ..Traffic::default() };
    let kept = generated(traffic, 60_000).unwrap();
    let mut bench = Bench::new(65_536);
    let mut records: Vec<Record> = Vec::new();
    let frames: Vec<Frame<'_>> = kept.iter().map(|kept| kept.frame()).collect();
    for burst in frames.chunks(64) {
        let mut tags = [FlowTag::default(); 64];
        bench.shard.observe_burst(burst, &mut bench.networks, &mut records, tags.get_mut(..burst.len()).unwrap());
        bench.shard.advance(burst.last().unwrap().time, &mut records);
    }
    bench.shard.finish(&mut records);
    records.truncate(ROWS_MAX);
    records
}

fn batch(c: &mut Criterion) {
    let records = rows();
    let head = Head { networks: vec![NetworkPath::from_text("default")], ..Head::default() };
    let bytes = encode(&head, &records);
    eprintln!(
        "{} rows in {} bytes: {:.1} bytes a row",
        records.len(),
        bytes.len(),
        bytes.len() as f64 / records.len() as f64
    );
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("encode", |b| b.iter(|| black_box(encode(&head, black_box(&records)))));
    group.bench_function("decode", |b| b.iter(|| black_box(decode(black_box(&bytes)).unwrap())));
    group.finish();
}

criterion_group!(benches, batch);
criterion_main!(benches);
