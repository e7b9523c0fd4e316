//! The spool against a model: whatever happens, what was pushed and not acknowledged is still there.

use super::state::record_of;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;

fn batch(sequence: u64, size: usize) -> SpooledBatch {
    let byte = u8::try_from(sequence % 251).unwrap();
    SpooledBatch { sensor: SensorId(1), boot: BootId(7), sequence, records: 3, bytes: vec![byte; size] }
}

fn held(ranges: Vec<(u64, u64)>) -> Held {
    Held { sensor: SensorId(1), boot: BootId(7), ranges }
}

fn drain(spool: &Spool) -> BTreeSet<u64> {
    spool.rewind();
    let mut seen = BTreeSet::new();
    while let Some(next) = spool.take_next(u64::MAX) {
        assert_eq!(next.bytes, batch(next.sequence, next.bytes.len()).bytes);
        assert!(seen.insert(next.sequence), "given twice");
    }
    seen
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Acknowledge(u64, u64),
    Reopen,
    Tear(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..4_000_000).prop_map(Step::Push),
        2 => (0u64..30, 0u64..10).prop_map(|(from, more)| Step::Acknowledge(from, from + more)),
        1 => Just(Step::Reopen),
        1 => (1usize..40).prop_map(Step::Tear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn nothing_pushed_is_lost_and_nothing_acknowledged_comes_back(steps in prop::collection::vec(step(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let limits = SpoolLimits { bytes_max: 40 << 20 };
        let mut spool = Spool::open(dir.path(), limits).unwrap();
        let (mut model, mut next, mut settled) = (BTreeSet::new(), 0u64, Vec::new());
        for step in steps {
            match step {
                Step::Push(size) => {
                    if spool.push(batch(next, size)).unwrap() == Pushed::Stored {
                        model.insert(next);
                    }
                    next += 1;
                }
                Step::Acknowledge(from, to) => {
                    let to = to.min(next.saturating_sub(1));
                    if next == 0 || from > to {
                        continue;
                    }
                    spool.acknowledge(&held(vec![(from, to)]));
                    settled.push((from, to));
                    model.retain(|sequence| *sequence < from || *sequence > to);
                }
                Step::Reopen => {
                    drop(spool);
                    spool = Spool::open(dir.path(), limits).unwrap();
                }
                Step::Tear(bytes) => {
                    // A record that kill -9 cut short behind the last whole one.
                    drop(spool);
                    let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
                    files.sort();
                    if let Some(last) = files.last() {
                        let mut file = OpenOptions::new().append(true).open(last).unwrap();
                        file.write_all(&record_of(&batch(99, 100))[..bytes]).unwrap();
                    }
                    spool = Spool::open(dir.path(), limits).unwrap();
                }
            }
            // What was acknowledged in a segment that others still need comes up again, and the master's hello settles it.
            spool.acknowledge(&held(settled.clone()));
            prop_assert!(spool.counts().bytes <= limits.bytes_max);
            prop_assert_eq!(spool.counts().batches, model.len() as u64);
        }
        prop_assert_eq!(drain(&spool), model);
    }
}

#[test]
fn a_full_spool_takes_nothing_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits { bytes_max: 1_000 }).unwrap();
    assert_eq!(spool.push(batch(0, 800)).unwrap(), Pushed::Stored);
    assert_eq!(spool.push(batch(1, 800)).unwrap(), Pushed::Full);
    spool.acknowledge(&held(vec![(0, 0)]));
    assert_eq!(spool.push(batch(1, 800)).unwrap(), Pushed::Stored);
    assert_eq!(spool.counts().acknowledged_records, 3);
}

#[test]
fn what_comes_after_a_connect_goes_before_the_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    spool.push(batch(0, 10)).unwrap();
    spool.rewind();
    spool.push(batch(1, 10)).unwrap();
    assert_eq!(spool.take_next(8).map(|batch| batch.sequence), Some(1));
    assert_eq!(spool.take_next(8).map(|batch| batch.sequence), Some(0));
}

#[test]
fn what_is_taken_by_age_comes_in_the_order_it_was_put_in_whoever_numbered_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    for boot in [9, 3, 6] {
        spool.push(SpooledBatch { boot: BootId(boot), ..batch(0, 10) }).unwrap();
    }
    drop(spool);
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    spool.push(SpooledBatch { boot: BootId(1), ..batch(0, 10) }).unwrap();
    let mut order = Vec::new();
    while let Some(batch) = spool.take_oldest(8) {
        order.push(batch.boot.0);
    }
    assert_eq!(order, [9, 3, 6, 1]);
}

#[test]
fn the_same_batch_pushed_twice_is_there_once_and_what_found_no_room_elsewhere_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    spool.push_relayed(batch(4, 10)).unwrap();
    spool.push_relayed(batch(4, 10)).unwrap();
    spool.push_relayed(SpooledBatch { sensor: SensorId(2), ..batch(4, 10) }).unwrap();
    assert_eq!(spool.counts().batches, 2, "another sensor's numbers are its own");
    let first = spool.take_next(8).unwrap();
    spool.take_next(8).unwrap();
    assert!(spool.take_next(8).is_none());
    spool.put_back(first.sensor, first.boot, first.sequence);
    assert_eq!(spool.take_next(8), Some(first));
    spool.acknowledge(&held(vec![(0, 9)]));
    assert_eq!((spool.counts().batches, spool.acknowledged_of(SensorId(1), BootId(7))), (1, 0));
}

#[test]
fn a_disk_that_takes_nothing_is_said_in_words_until_it_takes_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    // A folder in the way of the first segment stands for a disk that refuses.
    std::fs::create_dir(segment_path(dir.path(), 0)).unwrap();
    assert_eq!(spool.push(batch(0, 10)).unwrap(), Pushed::Full);
    assert!(spool.trouble().is_some_and(|words| words.contains("cannot write")));
    std::fs::remove_dir(segment_path(dir.path(), 0)).unwrap();
    assert_eq!(spool.push(batch(0, 10)).unwrap(), Pushed::Stored);
    assert_eq!(spool.trouble(), None);
}
