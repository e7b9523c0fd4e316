//! Frame → ring, in nanoseconds a packet and bytes a second, the disk included: the appender waits for it.
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use thymus_benches::traffic::established;
use thymus_sensor::ring::{Ring, RingConfig};

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for size in [60usize, 608, 1_514] {
        let dir =
            tempfile::tempdir_in(std::env::var("THYMUS_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".to_owned())).unwrap();
        let ports = vec![("bench".to_owned(), "default".to_owned())];
        let ring = Ring::open(RingConfig {
            dir: dir.path().into(),
            bytes: 256 << 20,
            writers: 1,
            ports,
            roots: Default::default(),
            waits: true,
        })
        .unwrap();
        let mut appender = ring.appender(0).unwrap();
        let kept = established(1_024, size - 54, 1);
        group.throughput(Throughput::Bytes((size * kept.len()) as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                for kept in &kept {
                    appender.append_waiting(&kept.frame());
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
