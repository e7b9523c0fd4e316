//! The worker's end of the ring: one copy a packet into a staging segment, and a full segment handed to the writer
//! thread. No system call, no allocation, no page fault; without a free segment the packet is shed.

use super::Core;
use super::layout::{
    Head, PACKET, PACKET_OVERHEAD, RECORDS_AT, RECORDS_END_MAX, SLOT_BYTES, SNAPLEN, State, filler, interface,
};
use super::map::Staged;
use super::writer::{Open, Sealed, Task};
use crossbeam::channel::Sender;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use thymus_dissect::flow::FlowKey;
use thymus_dissect::{Frame, LinkType, Origin};

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appended {
    /// It is in this segment.
    In {
        /// Number of the segment; a flow is indexed once in each.
        segment: u32,
        /// Bytes cut off a frame that is longer than the snaplen, or was cut before us.
        cut: u32,
    },
    /// There was no free segment: the disk is late.
    Shed,
}

/// The segment in hand.
struct Current {
    staged: Staged,
    head: Head,
    end: usize,
    /// What delivered a packet, and its link: each is an interface. The one of the packet before is looked at first.
    interfaces: Vec<(u16, Origin, LinkType)>,
    last: usize,
    flows: Vec<u64>,
}

/// One worker's appender.
pub struct RingAppender {
    core: Arc<Core>,
    tasks: Sender<Task>,
    worker: usize,
    current: Option<Current>,
    spare: Vec<Vec<u64>>,
}

fn link_number(link: LinkType) -> u16 {
    match link {
        LinkType::Ethernet => 1,
        LinkType::Ip => 101,
        LinkType::LinuxSll => 113,
        LinkType::LinuxSll2 => 276,
        LinkType::Loopback => 0,
        LinkType::Ppp => 9,
        LinkType::Unknown(number) => number,
    }
}

impl RingAppender {
    pub(crate) fn new(core: Arc<Core>, tasks: Sender<Task>, worker: usize) -> RingAppender {
        RingAppender { core, tasks, worker, current: None, spare: Vec::new() }
    }

    /// Appends a frame, or sheds it where no segment is free.
    #[inline]
    pub fn append(&mut self, frame: &Frame<'_>) -> Appended {
        let len = frame.bytes.len().min(SNAPLEN);
        let total = len.next_multiple_of(4) + PACKET_OVERHEAD;
        let fits = self.current.as_ref().is_some_and(|current| current.end + total <= RECORDS_END_MAX);
        if !fits && !self.turn() {
            return Appended::Shed;
        }
        let by = by_of(frame);
        let known = |current: &Current| match current.interfaces.get(current.last) {
            Some(last) if *last == by => Some(current.last),
            _ => current.interfaces.iter().position(|each| *each == by),
        };
        let interface = match self.current.as_ref().and_then(known) {
            Some(interface) => interface,
            None => match self.describe(frame, total) {
                Some(interface) => interface,
                None => return Appended::Shed,
            },
        };
        let Some(current) = &mut self.current else { return Appended::Shed };
        current.last = interface;
        let bytes = frame.bytes.get(..len).unwrap_or_default();
        let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let time = frame.time.0;
        let low = u32::try_from(time & u64::from(u32::MAX)).unwrap_or_default();
        let high = u32::try_from(time >> 32).unwrap_or_default();
        let head = [PACKET, word(total), word(interface), high, low, word(len), frame.wire_len];
        current.staged.put_packet(current.end, &head, bytes);
        current.end += total;
        current.staged.publish(word(current.end));
        if current.head.packets == 0 {
            current.head.first = frame.time;
        }
        // What an agent kept while it was cut off comes late, beside what comes now.
        current.head.first = frame.time.min(current.head.first);
        current.head.last = frame.time.max(current.head.last);
        current.head.packets += 1;
        current.head.bytes += u64::from(frame.wire_len);
        let cut = frame.wire_len.saturating_sub(word(len));
        current.head.cut_bytes += u64::from(cut);
        Appended::In { segment: short(current.head.segment), cut }
    }

    /// Appends a frame, waiting for a free segment as long as it takes.
    pub fn append_waiting(&mut self, frame: &Frame<'_>) -> Appended {
        loop {
            match self.append(frame) {
                Appended::Shed => std::thread::sleep(Duration::from_micros(200)),
                done => return done,
            }
        }
    }

    /// Notes that this flow has packets in the segment of the last frame.
    #[inline]
    pub fn index(&mut self, key: &FlowKey) {
        let hash = FlowKey { network: 0, ..*key }.hash(self.core.superblock.key);
        if let Some(current) = &mut self.current {
            current.flows.push(hash);
        }
    }

    /// Writes the description of a frame's interface into the segment; `None` where no segment is free.
    fn describe(&mut self, frame: &Frame<'_>, total: usize) -> Option<usize> {
        let (mut name, mut group) = self.core.ports.get(usize::from(frame.port)).cloned().unwrap_or_default();
        if frame.origin.agent != 0 {
            name = format!("{name}/{}", frame.origin.agent);
            group = self.core.roots.group(frame.origin.root).unwrap_or(group);
        }
        let block = interface(link_number(frame.link), &name, &group);
        let full = self.current.as_ref().is_none_or(|current| current.end + block.len() + total > RECORDS_END_MAX);
        if full && !self.turn() {
            return None;
        }
        let current = self.current.as_mut()?;
        current.staged.put(current.end, &block);
        current.end += block.len();
        current.interfaces.push(by_of(frame));
        Some(current.interfaces.len() - 1)
    }

    /// Seals the segment in hand and takes a free one.
    fn turn(&mut self) -> bool {
        let Some(mut staged) = self.core.free.pop() else { return false };
        self.seal();
        let order = self.core.next_order.fetch_add(1, Ordering::AcqRel);
        let segment = self.core.next_segment.fetch_add(1, Ordering::AcqRel);
        let end = u32::try_from(RECORDS_AT).unwrap_or_default();
        let head = Head {
            ring: self.core.superblock.ring,
            segment,
            order,
            state: State::Open,
            end,
            appender: u32::try_from(self.worker).unwrap_or_default(),
            ..Head::default()
        };
        staged.put(0, &head.encode());
        staged.set_state(State::Open);
        let mut open = self.core.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.get_mut(self.worker) {
            *place = Some(Open { number: staged.number(), order, head, written: 0 });
        }
        drop(open);
        let flows = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(16_384));
        self.current =
            Some(Current { staged, head, end: RECORDS_AT, interfaces: Vec::with_capacity(4), last: 0, flows });
        true
    }

    /// Seals the segment in hand, if any, and hands it to the writer thread.
    pub fn seal(&mut self) {
        let Some(Current { mut staged, mut head, end, flows, .. }) = self.current.take() else { return };
        let mut open = self.core.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.get_mut(self.worker) {
            *place = None;
        }
        drop(open);
        head.state = State::Sealed;
        head.end = u32::try_from(end).unwrap_or_default();
        let (start, tail) = filler(end);
        staged.put(end, &start);
        staged.put(SLOT_BYTES - tail.len(), &tail);
        staged.put(0, &head.encode());
        let _ = self.tasks.send(Task::Sealed(Box::new(Sealed { staged, head, flows })));
    }
}

impl Drop for RingAppender {
    fn drop(&mut self) {
        self.seal();
    }
}

/// What delivered a frame.
fn by_of(frame: &Frame<'_>) -> (u16, Origin, LinkType) {
    (frame.port, Origin { unverified: false, ..frame.origin }, frame.link)
}

fn short(segment: u64) -> u32 {
    u32::try_from(segment & u64::from(u32::MAX)).unwrap_or_default()
}
