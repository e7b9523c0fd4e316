//! What other readers make of our VMDKs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use std::process::Command;

/// The disk as qemu-img reads it; `None` where qemu-img is not installed.
fn read_back(vmdk: &[u8]) -> Option<Vec<u8>> {
    Command::new("qemu-img").arg("--version").output().ok()?;
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("disk.vmdk"), dir.path().join("disk.raw"));
    std::fs::write(&from, vmdk).unwrap();
    let done =
        Command::new("qemu-img").args(["convert", "-f", "vmdk", "-O", "raw"]).arg(&from).arg(&to).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(std::fs::read(to).unwrap())
}

fn written(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    thymus_vmdk::write(&mut &raw[..], raw.len() as u64, &mut out, "disk.vmdk").unwrap();
    out
}

fn disk(sectors: usize, filled: &[(usize, u8)]) -> Vec<u8> {
    let mut raw = vec![0; sectors * 512];
    for (at, value) in filled {
        let start = at % sectors * 512;
        for (n, byte) in raw.iter_mut().skip(start).take(512).enumerate() {
            *byte = value.wrapping_mul(31).wrapping_add(u8::try_from(n % 251).unwrap());
        }
    }
    raw
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn qemu_reads_the_same_bytes(sectors in 1usize..200_000, filled in prop::collection::vec((any::<usize>(), any::<u8>()), 0..40)) {
        let raw = disk(sectors, &filled);
        match read_back(&written(&raw)) {
            Some(back) => prop_assert!(back == raw, "{} sectors", sectors),
            None => eprintln!("skipped: qemu-img is not installed"),
        }
    }
}

#[test]
fn it_ends_with_a_footer_that_knows_the_directory_and_an_end_of_stream() {
    let raw = disk(100_000, &[(5, 7), (99_999, 9)]);
    let vmdk = written(&raw);
    assert_eq!(vmdk.len() % 512, 0);
    let end = vmdk.len();
    assert_eq!(vmdk[end - 512..], [0; 512], "the end-of-stream marker");
    let footer = &vmdk[end - 1024..end - 512];
    assert_eq!(&footer[..4], b"KDMV");
    let directory = u64::from_le_bytes(footer[56..64].try_into().unwrap());
    let first = usize::try_from(directory).unwrap() * 512;
    assert!(first < end - 1024 && vmdk[first..first + 4] != [0; 4]);
    assert_eq!(vmdk[56..64], [0xff; 8], "the header points to the footer");
    assert!(vmdk.len() < 300_000, "zeroes take no room: {}", vmdk.len());
    assert_eq!(written(&raw), vmdk, "the same disk gives the same bytes");
}

#[test]
fn what_is_no_disk_is_refused() {
    for bytes in [0usize, 1, 511, 513] {
        let raw = vec![1; bytes];
        let said = thymus_vmdk::write(&mut &raw[..], bytes as u64, Vec::new(), "x").unwrap_err().to_string();
        assert!(said.contains("whole sectors"), "{said}");
    }
    assert!(thymus_vmdk::write(&mut &[0u8; 512][..], 1024, Vec::new(), "x").is_err(), "a disk that ends early");
}

/// The inflaters of some readers (libvmdk's) refuse a Huffman tree of one code, which deflate allows.
#[test]
fn a_grain_whose_matches_all_have_one_distance_still_has_a_tree_of_two_codes() {
    let grain: Vec<u8> = (0..65_536u32).map(|at| u8::try_from(at / 256).unwrap()).collect();
    let vmdk = written(&grain);
    let stream = &vmdk[128 * 512 + 12..];
    assert_eq!(stream[0], 0x78, "zlib");
    let bits = u32::from_le_bytes(stream[2..6].try_into().unwrap());
    assert_eq!(bits >> 1 & 3, 2, "a block with trees of its own");
    assert!(bits >> 8 & 31 >= 1, "two codes for distances at least");
}
