//! Capture files as a source: frames are lent straight from the mapped file.
//!
//! Packet time is what the file says, with two exceptions: it never goes backwards, and a leap of more than an hour
//! counts only when the next frame confirms it.

mod pcap;
mod pcapng;

use super::{BURST_MAX, Burst, PacketSource, Received, SourceCounters, SourceError};
use crate::clock::Clock;
use memmap2::Mmap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;
use thymus_record::time::SECOND;

/// A longer leap must be confirmed by the next frame.
const LEAP: u64 = 3_600 * SECOND;
/// How far ahead of the frames a file is brought into the cache: a burst of full frames.
const AHEAD: usize = 96 << 10;
/// No frame is longer than this; what claims to be is damage.
const FRAME_MAX: u32 = 16 << 20;

/// How fast files are replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// As fast as the pipeline takes them.
    Max,
    /// At the pace of their timestamps.
    Original,
}

/// A frame in a file.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    start: usize,
    len: usize,
    wire_len: u32,
    time: Time,
    link: LinkType,
}

/// A file's framing is broken here; what came before is intact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Byte of the file.
    pub at: usize,
    /// What is wrong there.
    pub why: &'static str,
}

enum Format {
    Pcap(pcap::Reader),
    Pcapng(pcapng::Reader),
}

/// A capture file being read.
struct CaptureFile {
    path: PathBuf,
    map: Mmap,
    format: Format,
}

impl CaptureFile {
    fn open(path: &Path) -> Result<CaptureFile, SourceError> {
        let failed = |why: String| SourceError(format!("{}: {why}", path.display()));
        let size = std::fs::metadata(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
        if !size.is_file() {
            return Err(failed("is not a file: give a pcap or pcapng file".to_owned()));
        }
        if size.len() == 0 {
            return Err(failed("is empty: give a pcap or pcapng file".to_owned()));
        }
        let map = crate::memory::map_file(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
        let format = if let Some(reader) = pcapng::Reader::open(&map) {
            Format::Pcapng(reader)
        } else if let Some(reader) = pcap::Reader::open(&map) {
            Format::Pcap(reader)
        } else {
            return Err(failed("is neither pcap nor pcapng: its first bytes are no capture's".to_owned()));
        };
        Ok(CaptureFile { path: path.to_owned(), map, format })
    }

    fn next(&mut self) -> Result<Option<Place>, Broken> {
        match &mut self.format {
            Format::Pcap(reader) => reader.next(&self.map),
            Format::Pcapng(reader) => reader.next(&self.map),
        }
    }
}

/// Capture files, one after the other, as one port.
pub struct ReplaySource {
    waiting: std::vec::IntoIter<PathBuf>,
    file: Option<CaptureFile>,
    ahead: Option<Place>,
    last: Option<Time>,
    pace: Pace,
    clock: Arc<dyn Clock>,
    began: Option<(Time, Duration)>,
    counters: SourceCounters,
    broken: Vec<String>,
    /// Up to where the file at hand is in the cache.
    touched: usize,
}

impl ReplaySource {
    /// A source over these files, in this order. The first is opened at once, so that a wrong name fails early.
    pub fn open(files: Vec<PathBuf>, pace: Pace, clock: Arc<dyn Clock>) -> Result<ReplaySource, SourceError> {
        for file in &files {
            std::fs::File::open(file)
                .map_err(|error| SourceError(format!("{}: cannot be read: {error}", file.display())))?;
        }
        let mut source = ReplaySource {
            waiting: files.into_iter(),
            file: None,
            ahead: None,
            last: None,
            pace,
            clock,
            began: None,
            counters: SourceCounters::default(),
            broken: Vec::new(),
            touched: 0,
        };
        source.open_next();
        Ok(source)
    }

    /// Where files broke off, in words; empty if all framing was intact.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    fn open_next(&mut self) {
        (self.file, self.touched) = (None, 0);
        while self.file.is_none() {
            let Some(path) = self.waiting.next() else { return };
            match CaptureFile::open(&path) {
                Ok(file) => self.file = Some(file),
                Err(error) => self.broken.push(error.to_string()),
            }
        }
        self.ahead = self.pull();
        if self.ahead.is_none() && self.file.is_some() {
            self.open_next();
        }
    }

    /// The next frame of the file at hand.
    fn pull(&mut self) -> Option<Place> {
        let file = self.file.as_mut()?;
        match file.next() {
            Ok(place) => place,
            Err(Broken { at, why }) => {
                self.broken
                    .push(format!("{}: damaged at byte {at}: {why}; what came before was read", file.path.display()));
                None
            }
        }
    }

    /// Brings the next stretch of the file into the cache in one go: heads lie behind one another's lengths, so that
    /// each would be waited for alone.
    fn read_ahead(&mut self) {
        let Some(file) = &self.file else { return };
        let here = self.ahead.map_or(0, |place| place.start);
        let until = (here + AHEAD).min(file.map.len());
        let from = self.touched.clamp(here, until);
        let lines = file.map.get(from..until).unwrap_or_default().iter().step_by(64);
        std::hint::black_box(lines.fold(0u8, |sum, byte| sum ^ byte));
        self.touched = until;
    }

    /// The next frame with its time settled, if it is due.
    fn next(&mut self, due: Option<Time>) -> Option<Place> {
        let mut place = self.ahead?;
        let time = self.settle(place.time, || None);
        if due.is_some_and(|due| time > due) {
            return None;
        }
        self.ahead = self.pull();
        let following = self.ahead.map(|next| next.time);
        place.time = self.settle(place.time, || following);
        self.last = Some(place.time);
        Some(place)
    }

    /// Never backwards; a leap counts when the frame behind it is not earlier than an hour before it.
    fn settle(&self, time: Time, following: impl Fn() -> Option<Time>) -> Time {
        let Some(last) = self.last else { return time };
        if time.since(last) <= LEAP {
            return time.max(last);
        }
        match following() {
            Some(next) if next.since(last) <= LEAP => last,
            _ => time,
        }
    }

    /// Up to which packet time frames are due now; `None` for all.
    fn due(&mut self) -> Option<Time> {
        if self.pace == Pace::Max {
            return None;
        }
        let now = self.clock.monotonic();
        let first = self.ahead.map_or(Time(0), |place| place.time);
        let (packet, wall) = *self.began.get_or_insert((first, now));
        Some(packet + u64::try_from(now.saturating_sub(wall).as_nanos()).unwrap_or(u64::MAX))
    }
}

impl PacketSource for ReplaySource {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        if self.file.is_some() && self.ahead.is_none() {
            self.open_next();
        }
        if self.file.is_none() {
            return Ok(Received::End);
        }
        let due = self.due();
        self.read_ahead();
        let mut places = [None; BURST_MAX];
        let mut count = 0;
        while let Some(slot) = places.get_mut(count) {
            match self.next(due) {
                Some(place) => *slot = Some(place),
                None => break,
            }
            count += 1;
        }
        let Some(file) = &self.file else { return Ok(Received::End) };
        let mut frames = [Frame::default(); BURST_MAX];
        for (frame, place) in frames.iter_mut().zip(places.iter().flatten()) {
            let Place { start, len, wire_len, time, link } = *place;
            let bytes = file.map.get(start..start + len).unwrap_or_default();
            *frame = Frame {
                bytes,
                wire_len: wire_len.max(u32::try_from(len).unwrap_or(wire_len)),
                time,
                link,
                port: 0,
                ..Frame::default()
            };
            self.counters.received.add(u64::from(frame.wire_len));
        }
        let now = self.last.unwrap_or_default().max(due.unwrap_or_default());
        each(Burst { frames: frames.get(..count).unwrap_or_default(), now });
        Ok(Received::Frames(count))
    }

    fn counters(&mut self) -> SourceCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests;
