//! Packet → flow, in nanoseconds a packet: established connections in tables of growing size, and real-looking traffic
//! in which connections come and go.
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use thymus_benches::traffic::{Bench, established, generated};
use thymus_dissect::Frame;
use thymus_sensor::source::generate::Traffic;

fn warm(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow/established");
    for flows in [1_000, 50_000] {
        let mut bench = Bench::new(65_536);
        let rounds: Vec<_> = (0..4).map(|round| established(flows, 6, round)).collect();
        group.throughput(Throughput::Elements(u64::from(flows)));
        let mut round = 0;
        group.bench_function(BenchmarkId::from_parameter(flows), |b| {
            b.iter(|| {
                let frames: Vec<Frame<'_>> = rounds.get(round % 4).unwrap().iter().map(|kept| kept.frame()).collect();
                bench.observe(&frames);
                round += 1;
            });
        });
    }
    group.finish();
}

fn churn(c: &mut Criterion) {
    let traffic = Traffic { devices: 500, mbps: 400, connections_per_minute: 20_000, ..Traffic::default() };
    let kept = generated(traffic, 100_000).unwrap();
    let frames: Vec<Frame<'_>> = kept.iter().map(|kept| kept.frame()).collect();
    let mut group = c.benchmark_group("flow/generated");
    group.throughput(Throughput::Elements(frames.len() as u64));
    group.sample_size(20);
    group.bench_function("large tier", |b| {
        b.iter_batched_ref(|| Bench::new(65_536), |bench| bench.observe(&frames), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, warm, churn);
criterion_main!(benches);
