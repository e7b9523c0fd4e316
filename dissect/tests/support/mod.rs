//! Capture files for tests: classic pcap, little endian or big, micro- or nanoseconds.

use std::path::{Path, PathBuf};
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;

/// A frame of a file, kept.
pub(crate) struct Kept {
    pub(crate) bytes: Vec<u8>,
    pub(crate) wire_len: u32,
    pub(crate) link: LinkType,
}

impl Kept {
    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame {
            bytes: &self.bytes,
            wire_len: self.wire_len,
            time: Time(0),
            link: self.link,
            port: 0,
            ..Frame::default()
        }
    }
}

/// The captures that stand beside a checkout, one folder each; empty where there are none.
pub(crate) fn folders() -> Vec<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traffic/protocols");
    let corpus = std::env::var_os("THYMUS_TRAFFIC").map_or(corpus, PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&corpus) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

/// The frames of a classic pcap file; `None` if it is none.
pub(crate) fn frames(path: &Path) -> Option<Vec<Kept>> {
    let file = std::fs::read(path).ok()?;
    let little = match file.get(..4)? {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => true,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => false,
        _ => return None,
    };
    let word = |at: usize| {
        let bytes = file.get(at..at + 4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let link = LinkType::from_number(u16::try_from(word(20)? & 0xffff).ok()?);
    let (mut at, mut kept) = (24, Vec::new());
    while let (Some(captured), Some(wire_len)) = (word(at + 8), word(at + 12)) {
        let end = at + 16 + captured as usize;
        let Some(bytes) = file.get(at + 16..end) else { break };
        kept.push(Kept { bytes: bytes.to_vec(), wire_len, link });
        at = end;
    }
    Some(kept)
}
