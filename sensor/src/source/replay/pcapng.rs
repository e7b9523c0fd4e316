//! pcapng files (draft-ietf-opsawg-pcapng): sections of either byte order, interfaces with their own link type and time
//! resolution, enhanced, simple and obsolete packet blocks; other blocks are skipped.

use super::{Broken, FRAME_MAX, Place};
use thymus_dissect::LinkType;
use thymus_record::Time;
use thymus_record::time::SECOND;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE: u32 = 3;
const ENHANCED: u32 = 6;
/// Most interfaces in a section.
const INTERFACES_MAX: usize = 65_536;

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    /// Ticks in a second.
    resolution: u64,
    /// Seconds to add.
    offset: u64,
}

/// Where a file is read.
#[derive(Debug)]
pub(super) struct Reader {
    at: usize,
    big_endian: bool,
    interfaces: Vec<Interface>,
    last: Time,
}

impl Reader {
    /// A reader, if the bytes begin as a pcapng file.
    pub(super) fn open(map: &[u8]) -> Option<Reader> {
        (map.first_chunk::<4>()? == &SECTION.to_be_bytes()).then(|| Reader {
            at: 0,
            big_endian: false,
            interfaces: Vec::new(),
            last: Time(0),
        })
    }

    fn number(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk::<4>()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn short(&self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk::<2>()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// The next frame.
    pub(super) fn next(&mut self, map: &[u8]) -> Result<Option<Place>, Broken> {
        while self.at < map.len() {
            let at = self.at;
            let (kind, start, body) = self.block(map)?;
            let place = match kind {
                SECTION => {
                    self.interfaces.clear();
                    None
                }
                INTERFACE => {
                    self.interface(body).ok_or(Broken { at, why: "an interface block is cut short" })?;
                    None
                }
                ENHANCED | PACKET => Some(self.packet(kind, start, body).map_err(|why| Broken { at, why })?),
                SIMPLE => Some(self.simple(start, body).map_err(|why| Broken { at, why })?),
                _ => None,
            };
            if place.is_some() {
                return Ok(place);
            }
        }
        Ok(None)
    }

    /// Kind, start of the body in the file, and body of the block here; moves behind it.
    fn block<'a>(&mut self, map: &'a [u8]) -> Result<(u32, usize, &'a [u8]), Broken> {
        let at = self.at;
        self.at = map.len();
        let broken = |why| Broken { at, why };
        let block = map.get(at..).unwrap_or_default();
        if block.first_chunk::<4>() == Some(&SECTION.to_be_bytes()) {
            match block.get(8..).and_then(|rest| rest.first_chunk::<4>()) {
                Some([0x4d, 0x3c, 0x2b, 0x1a]) => self.big_endian = false,
                Some([0x1a, 0x2b, 0x3c, 0x4d]) => self.big_endian = true,
                _ => return Err(broken("a section has no byte-order mark")),
            }
        }
        let short = || broken("the file ends inside a block's head");
        let kind = self.number(block, 0).ok_or_else(short)?;
        let length = self.number(block, 4).ok_or_else(short)? as usize;
        if length < 12 || !length.is_multiple_of(4) {
            return Err(broken("a block's length is impossible"));
        }
        let whole = block.get(..length).ok_or_else(|| broken("a block claims more bytes than the file has"))?;
        if self.number(whole, length - 4) != Some(u32::try_from(length).unwrap_or_default()) {
            return Err(broken("a block's two lengths differ"));
        }
        self.at = at + length;
        Ok((kind, at + 8, whole.get(8..length - 4).unwrap_or_default()))
    }

    fn interface(&mut self, body: &[u8]) -> Option<()> {
        let link = LinkType::from_number(self.short(body, 0)?);
        self.number(body, 4)?;
        let mut interface = Interface { link, resolution: 1_000_000, offset: 0 };
        let mut at = 8;
        while let (Some(code), Some(length)) = (self.short(body, at), self.short(body, at + 2)) {
            let value = body.get(at + 4..).and_then(|rest| rest.get(..usize::from(length)));
            let Some(value) = value.filter(|_| code != 0) else { break };
            match (code, value) {
                (9, [resolution]) => interface.resolution = ticks(*resolution),
                (14, seconds) => {
                    let bytes = seconds.first_chunk::<8>().copied().unwrap_or_default();
                    interface.offset =
                        if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) };
                }
                _ => {}
            }
            at += 4 + usize::from(length).next_multiple_of(4);
        }
        if self.interfaces.len() < INTERFACES_MAX {
            self.interfaces.push(interface);
        }
        Some(())
    }

    /// An enhanced packet block, or the obsolete packet block.
    fn packet(&mut self, kind: u32, start: usize, body: &[u8]) -> Result<Place, &'static str> {
        let short = "a packet block is cut short";
        let number = |at| self.number(body, at).ok_or(short);
        let interface = if kind == ENHANCED { number(0)? } else { u32::from(self.short(body, 0).ok_or(short)?) };
        let interface =
            self.interfaces.get(interface as usize).ok_or("a packet names an interface that is not there")?;
        let stamp = u64::from(number(4)?) << 32 | u64::from(number(8)?);
        let (captured, wire_len) = (number(12)?, number(16)?);
        if captured > FRAME_MAX || body.get(20..20 + captured as usize).is_none() {
            return Err("a packet claims more bytes than its block has");
        }
        let seconds = (stamp / interface.resolution).saturating_add(interface.offset);
        let rest = u128::from(stamp % interface.resolution) * u128::from(SECOND) / u128::from(interface.resolution);
        let time = Time::from_parts(seconds, u64::try_from(rest).unwrap_or_default());
        let link = interface.link;
        self.last = time;
        Ok(Place { start: start + 20, len: captured as usize, wire_len: wire_len.min(FRAME_MAX), time, link })
    }

    /// A simple packet block: no time of its own, so the last one's.
    fn simple(&self, start: usize, body: &[u8]) -> Result<Place, &'static str> {
        let wire_len = self.number(body, 0).ok_or("a packet block is cut short")?;
        let interface = self.interfaces.first().ok_or("a packet names an interface that is not there")?;
        let len = (wire_len as usize).min(body.len() - 4);
        Ok(Place { start: start + 4, len, wire_len: wire_len.min(FRAME_MAX), time: self.last, link: interface.link })
    }
}

/// Ticks a second by `if_tsresol`: a power of ten, or of two where the high bit is set; never 0.
fn ticks(resolution: u8) -> u64 {
    let power = u32::from(resolution & 0x7f);
    let base = if resolution & 0x80 == 0 { 10u64 } else { 2 };
    base.checked_pow(power).unwrap_or(1_000_000)
}
