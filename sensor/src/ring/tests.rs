//! The ring as its users need it: nothing appended is lost, whatever happens to the process.

use super::*;
use thymus_dissect::decode::{Content, decode};
use thymus_dissect::flow::FlowKey;
use thymus_dissect::{Frame, LinkType};
use thymus_record::query::{FlowMatch, PcapQuery};

fn config(dir: &Path, slots: u64, writers: usize) -> RingConfig {
    let bytes = slots * (SLOT_BYTES + superblock::INDEX_BYTES) as u64;
    RingConfig {
        dir: dir.to_owned(),
        bytes,
        writers,
        ports: vec![("span0".into(), "blue".into())],
        roots: Arc::default(),
        waits: false,
    }
}

/// An Ethernet frame with IPv4 and UDP, its number in the payload.
fn frame_bytes(host: u8, number: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    bytes.extend_from_slice(&u16::try_from(size - 14).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, host, 10, 0, 1, 1, 4, 0, 0, 53]);
    bytes.extend_from_slice(&u16::try_from(size - 34).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.resize(size, 0xa5);
    bytes
}

fn append(appender: &mut RingAppender, marks: &mut [u32; 256], host: u8, number: u64, size: usize) {
    let bytes = frame_bytes(host, number, size);
    let wire_len = u32::try_from(size).unwrap();
    let frame = Frame {
        bytes: &bytes,
        wire_len,
        time: Time(1_000 + number),
        link: LinkType::Ethernet,
        port: 0,
        ..Frame::default()
    };
    let Appended::In { segment, .. } = appender.append_waiting(&frame) else { panic!("shed") };
    if marks[usize::from(host)] != segment {
        marks[usize::from(host)] = segment;
        let Content::Ip(datagram) = decode(&frame).content else { panic!("no IP") };
        appender.index(&FlowKey::of(5, &datagram).unwrap().0);
    }
}

fn numbers(dir: &Path, query: &PcapQuery) -> Vec<u64> {
    let reader = RingReader::open(dir).unwrap();
    let mut numbers = Vec::new();
    let report = reader
        .query(query, |found| {
            assert_eq!((found.port_name, found.group), ("span0", "blue"));
            numbers.push(u64::from_be_bytes(*found.frame.bytes[42..].first_chunk().unwrap()));
            true
        })
        .unwrap();
    assert_eq!(report.packets, numbers.len() as u64);
    numbers
}

#[test]
fn what_was_appended_reads_back_while_it_is_open_after_a_stop_and_after_another_start() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(config(dir.path(), 16, 1)).unwrap();
    let mut appender = ring.appender(0).unwrap();
    let mut marks = [u32::MAX; 256];
    (0..9_000).for_each(|number| append(&mut appender, &mut marks, (number % 50) as u8, number, 1_000));
    let all: Vec<u64> = (0..9_000).collect();
    assert_eq!(numbers(dir.path(), &PcapQuery::default()), all, "live");
    drop(appender);
    drop(ring);
    assert_eq!(numbers(dir.path(), &PcapQuery::default()), all, "after a stop");
    let ring = Ring::open(config(dir.path(), 16, 1)).unwrap();
    let mut appender = ring.appender(0).unwrap();
    (9_000..9_010).for_each(|number| append(&mut appender, &mut marks, 1, number, 100));
    assert_eq!(numbers(dir.path(), &PcapQuery::default()), (0..9_010).collect::<Vec<_>>(), "and goes on");
}

#[test]
fn the_index_finds_a_flow_as_a_full_scan_does_and_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(config(dir.path(), 16, 1)).unwrap();
    let mut appender = ring.appender(0).unwrap();
    let mut marks = [u32::MAX; 256];
    (0..20_000u64).for_each(|number| append(&mut appender, &mut marks, (number / 200 % 200) as u8, number, 600));
    appender.seal();
    ring.flush();
    let flow = |network: &str| PcapQuery {
        flow: Some(FlowMatch {
            network: network.into(),
            a: "10.0.1.1".into(),
            a_port: 53,
            b: "10.0.0.7".into(),
            b_port: 1024,
            proto: 17,
            last: None,
        }),
        ..PcapQuery::default()
    };
    assert_eq!(numbers(dir.path(), &flow("blue")), (1_400..1_600).collect::<Vec<_>>());
    assert!(numbers(dir.path(), &flow("green")).is_empty());
    let filtered = PcapQuery { filter: "host 10.0.0.7 and udp port 53".into(), ..PcapQuery::default() };
    assert_eq!(numbers(dir.path(), &filtered), (1_400..1_600).collect::<Vec<_>>());
    let scoped = PcapQuery { scope: Some(vec!["green".into()]), ..PcapQuery::default() };
    assert!(numbers(dir.path(), &scoped).is_empty());
    let counts = ring.counts();
    assert!(counts.index_bytes > 0 && counts.index_bytes * 1_000 < counts.ring_bytes * 15, "{counts:?}");
}

#[test]
fn a_full_ring_overwrites_the_oldest_and_never_grows() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(config(dir.path(), 4, 1)).unwrap();
    let size =
        |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>();
    let before = size(dir.path());
    let mut appender = ring.appender(0).unwrap();
    let mut marks = [u32::MAX; 256];
    (0..30_000).for_each(|number| append(&mut appender, &mut marks, 1, number, 1_000));
    drop(appender);
    ring.flush();
    let left = numbers(dir.path(), &PcapQuery::default());
    assert_eq!(*left.last().unwrap(), 29_999);
    assert!(left.windows(2).all(|pair| pair[0] + 1 == pair[1]) && left[0] > 10_000, "{} from {}", left.len(), left[0]);
    assert_eq!(size(dir.path()), before);
    assert_eq!(ring.oldest(), Some(Time(1_000 + left[0])));
}

#[test]
fn a_ring_that_grows_keeps_all_it_holds_and_then_forgets_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let fill = |slots, numbers: std::ops::Range<u64>| {
        let ring = Ring::open(config(dir.path(), slots, 1)).unwrap();
        let mut appender = ring.appender(0).unwrap();
        let mut marks = [u32::MAX; 256];
        numbers.for_each(|number| append(&mut appender, &mut marks, 1, number, 1_000));
    };
    let left = || numbers(dir.path(), &PcapQuery::default());
    fill(5, 0..30_000);
    let before = left();
    assert!(before[0] > 0, "it went round");
    // A crash amid growing: the files are longer, in part still zeros, and the superblock is the old one.
    let long = std::fs::OpenOptions::new().write(true).open(dir.path().join("ring-0000.pcapng")).unwrap();
    long.set_len(8 * SLOT_BYTES as u64).unwrap();
    assert_eq!(left(), before, "half grown");
    fill(8, 30_000..38_000);
    assert_eq!(left(), (before[0]..38_000).collect::<Vec<_>>(), "the new slots are filled first");
    fill(8, 38_000..60_000);
    let after = left();
    assert!(after[0] > before[0] && after.len() > before.len(), "{} from {}", after.len(), after[0]);
    assert_eq!(after, (after[0]..60_000).collect::<Vec<_>>(), "no gap");
    let file = std::fs::read(dir.path().join("ring-0000.pcapng")).unwrap();
    assert!(file.chunks(SLOT_BYTES).all(|slot| slot.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a])), "every slot is a section");
    let said = Ring::open(config(dir.path(), 7, 1)).err().unwrap().to_string();
    assert!(said.contains("cannot shrink"), "{said}");
}

#[test]
fn a_kill_soon_after_growing_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(Ring::open(config(dir.path(), 4, 1)).unwrap());
    let ring = Ring::open(config(dir.path(), 7, 1)).unwrap();
    let mut appender = ring.appender(0).unwrap();
    let mut marks = [u32::MAX; 256];
    (0..25_000).for_each(|number| append(&mut appender, &mut marks, 3, number, 1_000));
    ring.flush();
    let staging = std::fs::read(&ring.staging).unwrap();
    let path = ring.staging.clone();
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    drop(appender);
    drop(ring);
    std::fs::write(&path, staging).unwrap();
    let _ring = Ring::open(config(copy.path(), 9, 1)).unwrap();
    assert_eq!(numbers(copy.path(), &PcapQuery::default()), (0..25_000).collect::<Vec<_>>());
}

#[test]
fn two_appenders_are_merged_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(config(dir.path(), 16, 2)).unwrap();
    let mut appenders = [ring.appender(0).unwrap(), ring.appender(1).unwrap()];
    let mut marks = [u32::MAX; 256];
    (0..12_000).for_each(|number| append(&mut appenders[(number % 7 % 2) as usize], &mut marks, 1, number, 900));
    assert_eq!(numbers(dir.path(), &PcapQuery::default()), (0..12_000).collect::<Vec<_>>());
}

#[test]
fn what_staging_held_at_a_kill_is_there_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(config(dir.path(), 16, 1)).unwrap();
    let mut appender = ring.appender(0).unwrap();
    let mut marks = [u32::MAX; 256];
    (0..7_000).for_each(|number| append(&mut appender, &mut marks, 3, number, 1_000));
    // A killed process runs no destructor: what is in memory goes, staging and files stay, and the lock falls.
    let staging = std::fs::read(&ring.staging).unwrap();
    let path = ring.staging.clone();
    drop(appender);
    drop(ring);
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    std::fs::write(&path, staging).unwrap();
    assert_eq!(numbers(copy.path(), &PcapQuery::default()), (0..7_000).collect::<Vec<_>>(), "before a start");
    let _ring = Ring::open(config(copy.path(), 16, 1)).unwrap();
    assert_eq!(numbers(copy.path(), &PcapQuery::default()), (0..7_000).collect::<Vec<_>>(), "after a start");
}

#[test]
fn foreign_folders_and_second_writers_are_refused_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let said = Ring::open(config(dir.path(), 16, 1)).err().unwrap().to_string();
    assert!(said.contains("choose an empty one"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let _ring = Ring::open(config(dir.path(), 16, 1)).unwrap();
    let said = Ring::open(config(dir.path(), 16, 1)).err().unwrap().to_string();
    assert!(said.contains("another sensor writes it"), "{said}");
    let said = RingReader::open(Path::new("/nowhere/at/all")).err().unwrap().to_string();
    assert!(said.contains("no such folder"), "{said}");
}
