//! Capture files: what is intact is read, what is damaged is named, time keeps its rules.

use super::*;
use crate::clock::SystemClock;
use proptest::prelude::*;
use std::io::Write;

fn pcap(frames: &[(u32, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    for number in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend_from_slice(&number.to_le_bytes());
    }
    for (seconds, bytes) in frames {
        let len = u32::try_from(bytes.len()).unwrap();
        for number in [*seconds, 0, len, len] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(bytes);
    }
    file
}

/// Times and lengths of the frames of a file, and where it broke.
fn read(bytes: &[u8]) -> (Vec<(u64, usize)>, Vec<String>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let clock = Arc::new(SystemClock::default());
    let mut source = ReplaySource::open(vec![file.path().to_owned()], Pace::Max, clock).unwrap();
    let mut frames = Vec::new();
    while source
        .receive_burst(|burst| {
            frames.extend(burst.frames.iter().map(|frame| (frame.time.0 / SECOND, frame.bytes.len())))
        })
        .unwrap()
        != Received::End
    {}
    (frames, source.broken().to_vec())
}

#[test]
fn a_file_cut_in_the_middle_gives_what_came_before_and_says_where_it_broke() {
    let mut file = pcap(&[(1, b"one"), (2, b"three")]);
    file.pop();
    let (frames, broken) = read(&file);
    assert_eq!(frames, [(1, 3)]);
    assert!(broken[0].contains("damaged at byte 43: the file ends inside a frame"), "{broken:?}");
}

#[test]
fn time_never_goes_back_and_a_lone_leap_does_not_count() {
    let (frames, broken) =
        read(&pcap(&[(100, b"a"), (90, b"b"), (1_000_000, b"c"), (101, b"d"), (9_000, b"e"), (9_001, b"f")]));
    assert_eq!(frames.iter().map(|frame| frame.0).collect::<Vec<_>>(), [100, 100, 100, 101, 9_000, 9_001]);
    assert!(broken.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_behind_any_magic_are_read_without_panic(magic in 0usize..4, rest in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = [&[0xd4, 0xc3, 0xb2, 0xa1][..], &[0xa1, 0xb2, 0x3c, 0x4d], &[0x0a, 0x0d, 0x0d, 0x0a], &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 28, 0, 0, 0]][magic].to_vec();
        file.extend_from_slice(&rest);
        read(&file);
    }
}
