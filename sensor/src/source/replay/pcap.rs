//! Classic pcap files (draft-ietf-opsawg-pcap): either byte order, microseconds or nanoseconds.
//!
//! ```text
//! file   = magic u32 | major u16 | minor u16 | zone i32 | accuracy u32 | snaplen u32 | link type u32 (upper bits: FCS)
//! record = seconds u32 | fraction u32 | captured u32 | wire length u32 | frame
//! ```

use super::{Broken, FRAME_MAX, Place};
use thymus_dissect::LinkType;
use thymus_record::Time;

/// Where a file is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    at: usize,
    big_endian: bool,
    nanoseconds: bool,
    link: LinkType,
}

impl Reader {
    /// A reader, if the bytes begin as a pcap file.
    pub(super) fn open(map: &[u8]) -> Option<Reader> {
        let (big_endian, nanoseconds) = match map.first_chunk::<4>()? {
            [0xd4, 0xc3, 0xb2, 0xa1] => (false, false),
            [0x4d, 0x3c, 0xb2, 0xa1] => (false, true),
            [0xa1, 0xb2, 0xc3, 0xd4] => (true, false),
            [0xa1, 0xb2, 0x3c, 0x4d] => (true, true),
            _ => return None,
        };
        let mut reader = Reader { at: 24, big_endian, nanoseconds, link: LinkType::Ethernet };
        let link = reader.number(map, 20)?;
        reader.link = LinkType::from_number(u16::try_from(link & 0xffff).ok()?);
        Some(reader)
    }

    fn number(&self, map: &[u8], at: usize) -> Option<u32> {
        let bytes = *map.get(at..)?.first_chunk::<4>()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The next frame.
    pub(super) fn next(&mut self, map: &[u8]) -> Result<Option<Place>, Broken> {
        let at = self.at;
        if at >= map.len() {
            return Ok(None);
        }
        let broken = |why| Err(Broken { at, why });
        let field = |offset| self.number(map, at + offset);
        let (Some(seconds), Some(fraction), Some(captured), Some(wire_len)) = (field(0), field(4), field(8), field(12))
        else {
            self.at = map.len();
            return broken("the file ends inside a record's head");
        };
        if captured > FRAME_MAX {
            self.at = map.len();
            return broken("a record claims more bytes than any frame has");
        }
        let (start, len) = (at + 16, captured as usize);
        if map.get(start..start + len).is_none() {
            self.at = map.len();
            return broken("the file ends inside a frame");
        }
        self.at = start + len;
        let nanoseconds = u64::from(fraction) * if self.nanoseconds { 1 } else { 1_000 };
        let time = Time::from_parts(u64::from(seconds), nanoseconds);
        Ok(Some(Place { start, len, wire_len: wire_len.min(FRAME_MAX), time, link: self.link }))
    }
}
