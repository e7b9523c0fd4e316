//! A packet of an established connection takes no memory: not in the decoder, not in its flow, not in the ring.

use thymus_benches::allocations::{Counting, during};
use thymus_benches::traffic::{Bench, established};
use thymus_dissect::Frame;
use thymus_dissect::decode::decode;
use thymus_sensor::ring::{Appended, Ring, RingConfig};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decode_and_flow_of_established_connections_allocate_nothing() {
    let mut bench = Bench::new(4_096);
    let rounds: Vec<_> = (0..20).map(|round| established(1_000, 100, round)).collect();
    let frames: Vec<Vec<Frame<'_>>> =
        rounds.iter().map(|kept| kept.iter().map(|kept| kept.frame()).collect()).collect();
    assert_eq!(during(|| drop(std::hint::black_box(vec![1u8]))), 1, "the count counts");
    bench.observe(&frames[0]);
    bench.observe(&frames[1]);
    let count = during(|| frames[2..].iter().for_each(|frames| bench.observe(frames)));
    assert_eq!(count, 0, "in {} packets", 18 * 1_000);
    assert_eq!(bench.shard.flows_open(), 1_000);
    assert_eq!(during(|| frames[3].iter().for_each(|frame| _ = std::hint::black_box(decode(frame)))), 0);
}

#[test]
fn appending_to_the_ring_allocates_nothing_within_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let ports = vec![("bench".to_owned(), "default".to_owned())];
    let ring = Ring::open(RingConfig {
        dir: dir.path().into(),
        bytes: 64 << 20,
        writers: 1,
        ports,
        roots: Default::default(),
        waits: true,
    })
    .unwrap();
    let mut appender = ring.appender(0).unwrap();
    let kept = established(1_000, 600, 1);
    appender.append_waiting(&kept[0].frame());
    let count = during(|| {
        for kept in &kept {
            assert!(matches!(appender.append(&kept.frame()), Appended::In { .. }));
        }
    });
    assert_eq!(count, 0);
}
