//! The writer thread: sealed segments go to their slots whole; every second what is new in open ones goes too, so that a
//! power cut loses a second. What a killed process left in staging is put on disk at the next start.

use super::Core;
use super::disk::Disk;
use super::index;
use super::layout::{BLOCK_BYTES, Head, RECORDS_AT, SLOT_BYTES, State, filler};
use super::map::{Map, Staged};
use super::reader::records_of;
use super::rotation::Rotation;
use super::superblock::Superblock;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use thymus_dissect::decode::{Content, decode};
use thymus_dissect::flow::FlowKey;
use thymus_record::Time;

const TICK: Duration = Duration::from_secs(1);

/// A segment that an appender is done with.
pub(crate) struct Sealed {
    pub(crate) staged: Staged,
    pub(crate) head: Head,
    pub(crate) flows: Vec<u64>,
}

/// A segment that an appender has in hand.
#[derive(Clone, Copy)]
pub(crate) struct Open {
    pub(crate) number: usize,
    pub(crate) order: u64,
    pub(crate) head: Head,
    pub(crate) written: usize,
}

/// Work for the thread.
pub(crate) enum Task {
    /// Put it on disk.
    Sealed(Box<Sealed>),
    /// Say when all before is done.
    Flush(Sender<()>),
    /// End.
    Stop,
}

/// The thread's state.
pub(crate) struct Writer {
    core: Arc<Core>,
    failed: bool,
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>) -> Writer {
        Writer { core, failed: false }
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            match tasks.recv_timeout(TICK) {
                Ok(Task::Sealed(sealed)) => self.write(*sealed),
                Ok(Task::Flush(done)) => {
                    let _ = done.send(());
                }
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.write_open(),
            }
        }
    }

    fn write(&mut self, sealed: Sealed) {
        let Sealed { mut staged, mut head, mut flows } = sealed;
        let slot = self.core.rotation.slot(head.order);
        let end = usize::try_from(head.end).unwrap_or(RECORDS_AT);
        head.data_crc = crc32c::crc32c(staged.whole().get(RECORDS_AT..end).unwrap_or_default());
        staged.put(0, &head.encode());
        let index = index::encode(head.segment, &mut flows);
        let written =
            self.core.disk.write_slot(slot, staged.whole()).and_then(|()| self.core.disk.write_index(slot, &index));
        let counters = &self.core.counters;
        match written {
            Ok(()) => {
                counters.ring_bytes.fetch_add(SLOT_BYTES as u64, Ordering::Relaxed);
                counters.index_bytes.fetch_add(index.len() as u64, Ordering::Relaxed);
                let mut ages = self.core.ages.lock().unwrap_or_else(PoisonError::into_inner);
                let oldest = (head.order + 1).saturating_sub(self.core.disk.count());
                while ages.front().is_some_and(|age| age.0 < oldest) {
                    ages.pop_front();
                }
                ages.push_back((head.order, head.first));
                self.failed = false;
            }
            Err(error) => {
                counters.lost_packets.fetch_add(head.packets, Ordering::Relaxed);
                counters.lost_bytes.fetch_add(head.bytes, Ordering::Relaxed);
                if !self.failed {
                    tracing::error!("the ring cannot be written: {error}; packets are shed and counted until it can");
                }
                self.failed = true;
            }
        }
        staged.publish(0);
        staged.set_state(State::Free);
        let _ = self.core.free.push(staged);
    }

    /// Puts on disk what is new in open segments, in whole blocks, with a filler behind that makes the slot readable.
    fn write_open(&self) {
        let open: Vec<Option<Open>> = self.core.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (worker, open) in open.iter().enumerate() {
            let Some(open) = open else { continue };
            let end = self.core.map.end(open.number);
            if end <= open.written.max(RECORDS_AT) {
                continue;
            }
            let from = (open.written / BLOCK_BYTES * BLOCK_BYTES).max(RECORDS_AT);
            let mut part = self.core.map.published(open.number, from).to_vec();
            let end = from + part.len();
            let (start, tail) = filler(end);
            part.extend_from_slice(&start);
            let slot = self.core.rotation.slot(open.order);
            let head = Head { end: u32::try_from(end).unwrap_or_default(), ..open.head };
            let disk = &self.core.disk;
            let written = disk
                .write_part(slot, from as u64, &part)
                .and_then(|()| disk.write_part(slot, (SLOT_BYTES - tail.len()) as u64, &tail))
                .and_then(|()| disk.write_part(slot, 0, &head.encode()));
            let mut current = self.core.open.lock().unwrap_or_else(PoisonError::into_inner);
            let place = current.get_mut(worker).and_then(Option::as_mut);
            if let (Ok(()), Some(place)) = (written, place.filter(|place| place.order == open.order)) {
                place.written = end;
            }
        }
    }
}

/// What the start of a ring finds.
pub(crate) struct Left {
    pub(crate) next_segment: u64,
    pub(crate) next_order: u64,
    pub(crate) ages: VecDeque<(u64, Time)>,
    pub(crate) rotation: Rotation,
}

/// Reads the heads on disk, and puts on disk what a killed process left in staging.
pub(crate) fn take_over(disk: &Disk, superblock: &Superblock, staging: &Path) -> Result<Left, String> {
    let mut held: Vec<(u64, Head)> =
        (0..disk.count()).filter_map(|slot| Some((slot, head_at(disk, superblock, slot)?))).collect();
    held.retain(|(_, head)| head.state != State::Free);
    if let Ok(file) = OpenOptions::new().read(true).write(true).open(staging) {
        let count = usize::try_from(file.metadata().map_or(0, |meta| meta.len())).unwrap_or(0) / SLOT_BYTES;
        let map = Arc::new(Map::new(&file, count).map_err(|error| error.to_string())?);
        let mut staged = Staged::all(&map);
        staged.sort_by_key(Staged::order);
        for each in staged {
            rescue(disk, superblock, each, &mut held)?;
        }
        let _ = std::fs::remove_file(staging);
    }
    held.sort_by_key(|(_, head)| head.order);
    let next_order = held.last().map_or(0, |(_, head)| head.order + 1);
    Ok(Left {
        next_segment: held.iter().map(|(_, head)| head.segment + 1).max().unwrap_or(1),
        next_order,
        ages: held.iter().filter(|(_, head)| head.packets > 0).map(|(_, head)| (head.order, head.first)).collect(),
        rotation: Rotation::new(disk.count(), held.iter().map(|(slot, head)| (*slot, head.order)), next_order),
    })
}

fn head_at(disk: &Disk, superblock: &Superblock, slot: u64) -> Option<Head> {
    let mut bytes = [0; RECORDS_AT];
    disk.read_part(slot, 0, &mut bytes).ok()?;
    Head::decode(&bytes).ok().filter(|head| head.ring == superblock.ring)
}

/// Puts one segment of a killed process on disk, if it holds what the disk does not.
fn rescue(disk: &Disk, superblock: &Superblock, mut staged: Staged, held: &mut Vec<(u64, Head)>) -> Result<(), String> {
    let Ok(mut head) = Head::decode_staged(staged.whole()) else { return Ok(()) };
    let there = held.iter().find(|(_, other)| other.segment == head.segment);
    let on_disk = there.is_some_and(|(_, other)| other.state == State::Sealed);
    if head.state == State::Free || head.ring != superblock.ring || on_disk {
        return Ok(());
    }
    let next = || Rotation::new(disk.count(), held.iter().map(|(slot, head)| (*slot, head.order)), 0).slot(0);
    let slot = there.map_or_else(next, |(slot, _)| *slot);
    let end = usize::try_from(head.end).unwrap_or(0);
    let mut flows = Vec::new();
    (head.packets, head.bytes, head.first, head.last) = (0, 0, Time(0), Time(0));
    let mut whole_end = RECORDS_AT;
    for record in records_of(staged.whole().get(..end).unwrap_or_default()) {
        whole_end = record.end;
        let Some(frame) = record.frame else { continue };
        if head.packets == 0 {
            head.first = frame.time;
        }
        head.last = frame.time;
        head.packets += 1;
        head.bytes += u64::from(frame.wire_len);
        if let Content::Ip(datagram) = decode(&frame).content {
            flows.extend(FlowKey::of(0, &datagram).map(|(key, _)| key.hash(superblock.key)));
        }
    }
    head.state = State::Sealed;
    head.end = u32::try_from(whole_end).unwrap_or_default();
    let (start, tail) = filler(whole_end);
    staged.put(whole_end, &start);
    staged.put(SLOT_BYTES - tail.len(), &tail);
    head.data_crc = crc32c::crc32c(staged.whole().get(RECORDS_AT..whole_end).unwrap_or_default());
    staged.put(0, &head.encode());
    disk.write_slot(slot, staged.whole())
        .map_err(|error| format!("what a killed sensor left cannot be saved: {error}"))?;
    let _ = disk.write_index(slot, &index::encode(head.segment, &mut flows));
    held.retain(|(other, _)| *other != slot);
    held.push((slot, head));
    Ok(())
}
