//! How a slot lies on the disk: it is a whole pcapng section (draft-ietf-opsawg-pcapng), 4 MiB long.
//!
//! ```text
//! slot    = section header (44 B, user application "thymus")
//!         | head: custom block 0x0BAD at byte 44, 160 B, fixed place: one read of a page tells all of a slot
//!         | records: interface descriptions (before the first packet of theirs) and enhanced packets
//!         | filler: custom block 0x0BAD to the end of the slot
//! head    = magic u64, ring u64, segment u64, order u64, first u64, last u64, packets u64, bytes u64,
//!           state u32, end u32, appender u32, data CRC u32, cut bytes u64,
//!           room for a key id 16 B and for the previous segment's hash 32 B, head CRC u32, 0 u32
//! ```
//!
//! All integers are little-endian. `segment` numbers what was appended, `order` counts the slots written: the slot
//! behind the greatest order is the next to be overwritten. `end` is where the records end. In a staging segment
//! `state` and `end` are published with release stores, and there is no CRC.

use thymus_record::Time;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4 << 20;
/// Longest packet kept.
pub const SNAPLEN: usize = 262_144;
/// The file system's block: what one write of an open slot is a multiple of.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Where the records begin.
pub(super) const RECORDS_AT: usize = 204;
/// The shortest filler.
pub(super) const FILLER_MIN: usize = 16;
/// Where records must end at the latest.
pub(super) const RECORDS_END_MAX: usize = SLOT_BYTES - FILLER_MIN;

pub(super) const SECTION: u32 = 0x0a0d_0d0a;
pub(super) const INTERFACE: u32 = 1;
pub(super) const PACKET: u32 = 6;
pub(super) const CUSTOM: u32 = 0x0bad;
/// The enterprise number for documentation (RFC 5612): Thymus has none of its own.
const ENTERPRISE: u32 = 32_473;
const MAGIC: u64 = u64::from_le_bytes(*b"THYMSEG1");

/// Offsets of fields that are published while a segment is open.
const SEGMENT_AT: usize = 72;
pub(super) const ORDER_AT: usize = 80;
pub(super) const STATE_AT: usize = 120;
pub(super) const END_AT: usize = 124;
const HEAD_AT: usize = 44;
const FIELDS_AT: usize = 56;
const HEAD_CRC_AT: usize = 192;

/// Bytes of an enhanced packet block beside its packet.
pub(super) const PACKET_OVERHEAD: usize = 32;

/// What a slot is in.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing in it.
    #[default]
    Free,
    /// Being appended to; on the disk: as far as it was at the last write.
    Open,
    /// Done.
    Sealed,
}

impl State {
    pub(super) fn number(self) -> u32 {
        match self {
            State::Free => 0,
            State::Open => 1,
            State::Sealed => 2,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<State> {
        [State::Free, State::Open, State::Sealed].into_iter().find(|state| state.number() == number)
    }
}

/// The head of a slot.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(super) ring: u64,
    pub(super) segment: u64,
    pub(super) order: u64,
    pub(super) first: Time,
    pub(super) last: Time,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) state: State,
    pub(super) end: u32,
    pub(super) appender: u32,
    pub(super) data_crc: u32,
    pub(super) cut_bytes: u64,
}

/// Why a page is no head of a slot of this ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoHead;

impl Head {
    /// The section header and the head, as they stand at the start of a slot.
    pub(super) fn encode(&self) -> [u8; RECORDS_AT] {
        let mut bytes = [0; RECORDS_AT];
        let section = SLOT_BYTES as u64 - HEAD_AT as u64;
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.u32(SECTION).u32(44).u32(0x1a2b_3c4d).u32(1).u64(section);
        put.bytes(&[4, 0, 6, 0]).bytes(b"thymus\0\0").bytes(&[0; 4]).u32(44);
        put.u32(CUSTOM).u32(160).u32(ENTERPRISE).u64(MAGIC);
        put.u64(self.ring).u64(self.segment).u64(self.order).u64(self.first.0).u64(self.last.0);
        put.u64(self.packets).u64(self.bytes).u32(self.state.number()).u32(self.end).u32(self.appender);
        put.u32(self.data_crc).u64(self.cut_bytes).bytes(&[0; 16]).bytes(&[0; 32]);
        let crc = crc32c::crc32c(put.bytes.get(FIELDS_AT..HEAD_CRC_AT).unwrap_or_default());
        put.u32(crc).u32(0).u32(160);
        bytes
    }

    /// Reads a head off the start of a slot; its CRC must hold.
    pub(super) fn decode(bytes: &[u8]) -> Result<Head, NoHead> {
        let fields = bytes.get(FIELDS_AT..HEAD_CRC_AT).ok_or(NoHead)?;
        let crc = u32_at(bytes, HEAD_CRC_AT).ok_or(NoHead)?;
        let head = Head::decode_staged(bytes)?;
        if crc32c::crc32c(fields) == crc { Ok(head) } else { Err(NoHead) }
    }

    /// Reads the head of a staging segment, which may have been changed a moment ago.
    pub(super) fn decode_staged(bytes: &[u8]) -> Result<Head, NoHead> {
        let long = |at| u64_at(bytes, at).ok_or(NoHead);
        let word = |at| u32_at(bytes, at).ok_or(NoHead);
        if word(0)? != SECTION || word(HEAD_AT)? != CUSTOM || long(FIELDS_AT)? != MAGIC {
            return Err(NoHead);
        }
        let head = Head {
            ring: long(64)?,
            segment: long(SEGMENT_AT)?,
            order: long(ORDER_AT)?,
            first: Time(long(88)?),
            last: Time(long(96)?),
            packets: long(104)?,
            bytes: long(112)?,
            state: State::from_number(word(STATE_AT)?).ok_or(NoHead)?,
            end: word(END_AT)?,
            appender: word(128)?,
            data_crc: word(132)?,
            cut_bytes: long(136)?,
        };
        let end = usize::try_from(head.end).unwrap_or(usize::MAX);
        if end > RECORDS_END_MAX || (end < RECORDS_AT && head.state != State::Free) {
            return Err(NoHead);
        }
        Ok(head)
    }
}

/// The first words of the filler that begins at `at`, and the last word of the slot.
pub(super) fn filler(at: usize) -> ([u8; 12], [u8; 4]) {
    let total = u32::try_from(SLOT_BYTES.saturating_sub(at)).unwrap_or(0);
    let mut head = [0; 12];
    Put { bytes: &mut head, at: 0 }.u32(CUSTOM).u32(total).u32(ENTERPRISE);
    (head, total.to_le_bytes())
}

/// An interface description: link type, snaplen, name, description (its group), nanoseconds.
pub(super) fn interface(link: u16, name: &str, group: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    body.extend_from_slice(&link.to_le_bytes());
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(&u32::try_from(SNAPLEN).unwrap_or(u32::MAX).to_le_bytes());
    option(&mut body, 2, name.as_bytes());
    option(&mut body, 3, group.as_bytes());
    option(&mut body, 9, &[9]);
    body.extend_from_slice(&[0; 4]);
    block(INTERFACE, &body)
}

/// Adds an option, padded to 4 bytes.
pub(super) fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..value.len().min(TEXT_BYTES_MAX)).unwrap_or_default();
    to.extend_from_slice(&code.to_le_bytes());
    to.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Longest text of an option.
const TEXT_BYTES_MAX: usize = 1024;

/// A block of any type around a padded body.
pub(super) fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let total = u32::try_from(body.len() + 12).unwrap_or(0).to_le_bytes();
    [&kind.to_le_bytes()[..], &total, body, &total].concat()
}

/// A new slot: an empty section of an Ethernet interface. What lies between is the filler's and never read.
pub(super) fn empty(ring: u64) -> (Vec<u8>, [u8; 4]) {
    let interface = interface(1, "none", "");
    let end = RECORDS_AT + interface.len();
    let head = Head { ring, end: u32::try_from(end).unwrap_or(0), ..Head::default() };
    let (filler, tail) = filler(end);
    ([&head.encode()[..], &interface, &filler].concat(), tail)
}

/// The integer at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The integer at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes fields one behind the other into a buffer of fixed size.
pub(super) struct Put<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) at: usize,
}

impl Put<'_> {
    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        if let Some(to) = self.bytes.get_mut(self.at..self.at + value.len()) {
            to.copy_from_slice(value);
        }
        self.at += value.len();
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_survives_and_a_flipped_bit_is_seen() {
        let head = Head { ring: 7, segment: 9, order: 3, state: State::Sealed, end: 4096, ..Head::default() };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Ok(head));
        for at in FIELDS_AT..HEAD_CRC_AT {
            let mut bytes = bytes;
            bytes[at] ^= 1;
            assert!(Head::decode(&bytes).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_head_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Head::decode(&bytes);
        }
    }
}
