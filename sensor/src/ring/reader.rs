//! Reading a ring: live, of another process, or after a crash. Slots come from disk and the newest packets from staging;
//! what was overwritten or torn while it was read is skipped, and counted.

use super::disk::Disk;
use super::index::may_hold;
use super::layout::{BLOCK_BYTES, Head, INTERFACE, PACKET, RECORDS_AT, SLOT_BYTES, State, u32_at};
use super::matching::Matcher;
use super::superblock::{INDEX_BYTES, Superblock};
use super::{RingError, staging_path};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;
use thymus_record::query::{PcapQuery, QueryReport};

/// A packet that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The frame.
    pub frame: Frame<'a>,
    /// Name of its capture port.
    pub port_name: &'a str,
    /// Its port's group.
    pub group: &'a str,
}

/// A record of a segment.
pub(crate) struct Record<'a> {
    /// Where it ends.
    pub(crate) end: usize,
    /// The frame, if it is a packet. Its port is the number of the interface in the segment.
    pub(crate) frame: Option<Frame<'a>>,
    /// The link type, name and group, if it is an interface description.
    interface: Option<(LinkType, String, String)>,
}

/// The records of a segment's bytes, which begin at the slot's start, until they end or make no sense.
pub(crate) fn records_of(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut at = RECORDS_AT;
    let mut links: Vec<LinkType> = Vec::new();
    std::iter::from_fn(move || {
        let block = bytes.get(at..)?;
        let (kind, length) = (u32_at(block, 0)?, u32_at(block, 4)? as usize);
        if length < 12 || !length.is_multiple_of(4) {
            return None;
        }
        let whole = block.get(..length)?;
        at += length;
        let (mut frame, mut interface) = (None, None);
        match kind {
            INTERFACE => {
                let described = describe(whole);
                links.push(described.0);
                interface = Some(described);
            }
            PACKET => {
                let number = u32_at(whole, 8)?;
                let time = u64::from(u32_at(whole, 12)?) << 32 | u64::from(u32_at(whole, 16)?);
                let captured = u32_at(whole, 20)? as usize;
                let link = links.get(number as usize).copied().unwrap_or_default();
                let bytes = whole.get(28..28 + captured)?;
                let port = u16::try_from(number).ok()?;
                frame = Some(Frame {
                    bytes,
                    wire_len: u32_at(whole, 24)?,
                    time: Time(time),
                    link,
                    port,
                    ..Frame::default()
                });
            }
            _ => return None,
        }
        Some(Record { end: at, frame, interface })
    })
}

fn describe(block: &[u8]) -> (LinkType, String, String) {
    let link =
        block.get(8..10).and_then(|bytes| bytes.first_chunk::<2>()).map_or(1, |bytes| u16::from_le_bytes(*bytes));
    let (mut name, mut group, mut at) = (String::new(), String::new(), 16);
    while let (Some(code), Some(length)) = (short_at(block, at), short_at(block, at + 2)) {
        let value = block.get(at + 4..at + 4 + usize::from(length)).unwrap_or_default();
        let text = || String::from_utf8_lossy(value).into_owned();
        match code {
            2 => name = text(),
            3 => group = text(),
            0 => break,
            _ => {}
        }
        at += 4 + usize::from(length).next_multiple_of(4);
    }
    (LinkType::from_number(link), name, group)
}

fn short_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes))
}

/// Where a segment's bytes are.
#[derive(Clone, Copy, Debug)]
enum Place {
    Slot(u64),
    Staging(u64),
}

/// A segment that may hold what is asked for.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    head: Head,
    place: Place,
}

/// A ring opened to be read.
pub struct RingReader {
    dir: PathBuf,
    superblock: Superblock,
    disk: Disk,
    staging: Option<File>,
}

/// A segment in memory, and where its reading stands.
struct Cursor {
    bytes: Vec<u8>,
    interfaces: Vec<(LinkType, String, String)>,
    at: usize,
}

impl RingReader {
    /// Opens the ring in this folder.
    pub fn open(dir: &Path) -> Result<RingReader, RingError> {
        let failed = |why: String| RingError::new(dir, why);
        if !dir.is_dir() {
            return Err(failed("there is no such folder: give the one of [ring] path, or of --ring".to_owned()));
        }
        let superblock = Superblock::read(dir).map_err(failed)?;
        let superblock = superblock
            .ok_or_else(|| failed("it holds no ring: give the folder of [ring] path, or of --ring".to_owned()))?;
        let disk =
            Disk::open_read(dir, &superblock).map_err(|error| failed(format!("its files cannot be read: {error}")))?;
        let staging = File::open(staging_path(dir, superblock.ring)).ok();
        Ok(RingReader { dir: dir.to_owned(), superblock, disk, staging })
    }

    /// The ring's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn slot_head(&self, slot: u64) -> Option<Head> {
        let mut bytes = [0; RECORDS_AT];
        self.disk.read_part(slot, 0, &mut bytes).ok()?;
        Head::decode(&bytes).ok().filter(|head| head.ring == self.superblock.ring && head.state != State::Free)
    }

    fn staged_head(&self, number: u64) -> Option<Head> {
        let mut bytes = [0; RECORDS_AT];
        self.staging.as_ref()?.read_exact_at(&mut bytes, number * SLOT_BYTES as u64).ok()?;
        Head::decode_staged(&bytes).ok().filter(|head| head.ring == self.superblock.ring && head.state != State::Free)
    }

    /// Segments by place. One that is in both is read from staging, since its slot may just be being written; when it
    /// leaves staging its slot is whole.
    fn candidates(&self) -> Vec<Candidate> {
        let staged = self
            .staging
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .map_or(0, |meta| meta.len() / SLOT_BYTES as u64);
        let staged: Vec<Candidate> = (0..staged)
            .filter_map(|number| Some(Candidate { head: self.staged_head(number)?, place: Place::Staging(number) }))
            .collect();
        let in_staging: HashSet<u64> = staged.iter().map(|each| each.head.segment).collect();
        let mut all: Vec<Candidate> = (0..self.disk.count())
            .filter_map(|slot| Some(Candidate { head: self.slot_head(slot)?, place: Place::Slot(slot) }))
            .filter(|each| !in_staging.contains(&each.head.segment))
            .collect();
        all.extend(staged);
        all
    }

    /// Reads a segment; `None` if it was overwritten meanwhile or is torn.
    fn load(&self, candidate: &Candidate) -> Option<Cursor> {
        let end = usize::try_from(candidate.head.end).ok()?;
        let mut bytes = vec![0; end.next_multiple_of(BLOCK_BYTES).min(SLOT_BYTES)];
        match candidate.place {
            Place::Slot(slot) => {
                self.disk.read_part(slot, 0, &mut bytes).ok()?;
                let head = Head::decode(&bytes).ok()?;
                let records = bytes.get(RECORDS_AT..end)?;
                let same = head.segment == candidate.head.segment;
                let whole = head.state != State::Sealed || crc32c::crc32c(records) == head.data_crc;
                if !same || !whole {
                    return None;
                }
            }
            Place::Staging(number) => {
                self.staging.as_ref()?.read_exact_at(&mut bytes, number * SLOT_BYTES as u64).ok()?;
                // Read again: a segment that was freed and taken anew meanwhile is not the one that was meant.
                if self.staged_head(number).is_none_or(|head| head.segment != candidate.head.segment) {
                    return self.moved(candidate);
                }
            }
        }
        bytes.truncate(end);
        Some(Cursor { bytes, interfaces: Vec::new(), at: RECORDS_AT })
    }

    /// A segment that left staging while it was read is in its slot by now.
    fn moved(&self, candidate: &Candidate) -> Option<Cursor> {
        let at = |slot| Some((slot, self.slot_head(slot).filter(|head| head.segment == candidate.head.segment)?));
        let (slot, head) = (0..self.disk.count()).find_map(at)?;
        self.load(&Candidate { head, place: Place::Slot(slot) })
    }

    fn is_wanted(&self, candidate: &Candidate, query: &PcapQuery, matcher: &Matcher) -> bool {
        let head = &candidate.head;
        if head.state == State::Sealed {
            let late = query.until.is_some_and(|until| head.first > until);
            let early = query.from.is_some_and(|from| head.last < from);
            if late || early || head.packets == 0 {
                return false;
            }
        }
        let (Some(hash), Place::Slot(slot), State::Sealed) =
            (matcher.flow_hash(self.superblock.key), candidate.place, head.state)
        else {
            return true;
        };
        let mut index = vec![0; INDEX_BYTES];
        self.disk.read_index(slot, &mut index).is_err() || may_hold(&index, head.segment, hash)
    }

    /// Gives the packets that match, in the order of time, until `each` returns false.
    pub fn query(&self, query: &PcapQuery, mut each: impl FnMut(&Found<'_>) -> bool) -> Result<QueryReport, String> {
        let mut matcher = Matcher::new(query)?;
        let mut report = QueryReport { oldest: self.oldest(), ..QueryReport::default() };
        let mut waiting: Vec<Candidate> =
            self.candidates().into_iter().filter(|each| self.is_wanted(each, query, &matcher)).collect();
        // The head of an open segment was written before its first packet: that is looked for.
        for open in waiting.iter_mut().filter(|each| each.head.state == State::Open) {
            open.head.first = self.load(open).and_then(|mut cursor| cursor.next_time()).unwrap_or_default();
        }
        waiting.sort_by_key(|each| Reverse((each.head.first, each.head.segment)));
        let mut torn = 0u64;
        let mut open: BinaryHeap<Reverse<(Time, u64, usize)>> = BinaryHeap::new();
        let mut cursors: Vec<Option<Cursor>> = Vec::new();
        loop {
            let now = open.peek().map(|next| next.0.0);
            while waiting.last().is_some_and(|next| now.is_none_or(|now| next.head.first <= now)) {
                let Some(candidate) = waiting.pop() else { break };
                match self.load(&candidate) {
                    Some(mut cursor) => {
                        if let Some(time) = cursor.next_time() {
                            open.push(Reverse((time, candidate.head.segment, cursors.len())));
                            cursors.push(Some(cursor));
                        }
                    }
                    None => torn += 1,
                }
                if now.is_none() && !open.is_empty() {
                    break;
                }
            }
            let Some(Reverse((_, segment, number))) = open.pop() else {
                if waiting.is_empty() {
                    break;
                }
                continue;
            };
            let Some(place) = cursors.get_mut(number) else { continue };
            let Some(cursor) = place else { continue };
            if !give(cursor, query, &mut matcher, &mut report, &mut each) {
                return Ok(report);
            }
            match cursor.next_time() {
                Some(time) => open.push(Reverse((time, segment, number))),
                None => *place = None,
            }
        }
        if torn > 0 {
            report.cut_short =
                Some(format!("{torn} segments of 4 MiB were overwritten or damaged while they were read"));
        }
        Ok(report)
    }

    /// The oldest packet on disk.
    pub fn oldest(&self) -> Option<Time> {
        let heads = (0..self.disk.count()).filter_map(|slot| self.slot_head(slot));
        heads.filter(|head| head.packets > 0).map(|head| head.first).min()
    }
}

impl Cursor {
    /// The time of the next packet; interface descriptions on the way are taken in.
    fn next_time(&mut self) -> Option<Time> {
        loop {
            let record = self.record()?;
            match (record.frame, record.interface, record.end) {
                (Some(frame), _, _) => return Some(frame.time),
                (None, Some(interface), end) => {
                    self.interfaces.push(interface);
                    self.at = end;
                }
                (None, None, _) => return None,
            }
        }
    }

    /// The record here.
    fn record(&self) -> Option<Record<'_>> {
        let block = self.bytes.get(self.at..)?;
        let (kind, length) = (u32_at(block, 0)?, u32_at(block, 4)? as usize);
        let whole = block.get(..length).filter(|whole| whole.len() >= 12 && length.is_multiple_of(4))?;
        let end = self.at + length;
        match kind {
            INTERFACE => Some(Record { end, frame: None, interface: Some(describe(whole)) }),
            PACKET => {
                let number = u32_at(whole, 8)?;
                let time = u64::from(u32_at(whole, 12)?) << 32 | u64::from(u32_at(whole, 16)?);
                let captured = u32_at(whole, 20)? as usize;
                let link = self.interfaces.get(number as usize).map_or(LinkType::Ethernet, |each| each.0);
                let bytes = whole.get(28..28 + captured)?;
                let port = u16::try_from(number).ok()?;
                let frame =
                    Frame { bytes, wire_len: u32_at(whole, 24)?, time: Time(time), link, port, ..Frame::default() };
                Some(Record { end, frame: Some(frame), interface: None })
            }
            _ => None,
        }
    }
}

/// Gives the packet here if it matches, and moves behind it; false if nobody wants more.
fn give(
    cursor: &mut Cursor,
    query: &PcapQuery,
    matcher: &mut Matcher,
    report: &mut QueryReport,
    each: &mut impl FnMut(&Found<'_>) -> bool,
) -> bool {
    let Some(Record { end, frame: Some(frame), .. }) = cursor.record() else { return true };
    let (port_name, group) =
        cursor.interfaces.get(usize::from(frame.port)).map_or(("", ""), |each| (each.1.as_str(), each.2.as_str()));
    let found = Found { frame, port_name, group };
    if matcher.matches(&found) {
        report.packets += 1;
        report.bytes += frame.bytes.len() as u64;
        if !each(&found) {
            report.cut_short = Some("nobody wanted more".to_owned());
            return false;
        }
        if query.bytes_max > 0 && report.bytes >= query.bytes_max {
            report.cut_short = Some(format!("the answer was limited to {} bytes", query.bytes_max));
            return false;
        }
    }
    cursor.at = end;
    true
}
