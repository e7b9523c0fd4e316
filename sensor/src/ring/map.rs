//! Staging segments as mapped memory, shared with readers in other processes.
//!
//! A segment has one owner at a time: the appender that holds its [`Staged`], then the writer thread. Only the owner
//! writes. Bytes below the published end are written once and stay until the segment is freed, so the writer thread
//! may read them while the appender goes on behind them.
#![expect(clippy::needless_pass_by_ref_mut, reason = "who writes or lends a segment does so exclusively")]
#![expect(unsafe_code, reason = "packets are copied straight into mapped memory, without a slice over racing bytes")]

use super::layout::{END_AT, ORDER_AT, PACKET_OVERHEAD, RECORDS_AT, SLOT_BYTES, STATE_AT, State};
use memmap2::{Advice, MmapRaw};
use std::fs::File;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The mapped staging file.
#[derive(Debug)]
pub(crate) struct Map {
    raw: MmapRaw,
    count: usize,
}

impl Map {
    /// Maps the file, which holds `count` segments, and touches every page, so that no append takes a fault.
    pub(super) fn new(file: &File, count: usize) -> io::Result<Map> {
        let raw = MmapRaw::map_raw(file)?;
        if raw.len() < count * SLOT_BYTES {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the staging file is too short"));
        }
        if raw.advise(Advice::PopulateWrite).is_err() {
            // Before Linux 5.14, page by page.
            for at in (0..count * SLOT_BYTES).step_by(4096) {
                // SAFETY: within the mapping by the check above; nobody else has this map yet; adding 0 keeps what an
                // earlier process left there.
                unsafe { (*raw.as_mut_ptr().add(at).cast::<AtomicU32>()).fetch_add(0, Ordering::Relaxed) };
            }
        }
        Ok(Map { raw, count })
    }

    /// How many segments.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn base(&self, number: usize) -> *mut u8 {
        assert!(number < self.count, "segment numbers come from this map");
        // SAFETY: within the mapping, checked when it was made.
        unsafe { self.raw.as_mut_ptr().add(number * SLOT_BYTES) }
    }

    fn word(&self, number: usize, at: usize) -> &AtomicU32 {
        debug_assert!(at.is_multiple_of(4) && at + 4 <= SLOT_BYTES);
        // SAFETY: in bounds and aligned (slots are page-aligned); every access in this process is atomic.
        unsafe { AtomicU32::from_ptr(self.base(number).add(at).cast()) }
    }

    /// What a segment is in.
    pub(super) fn state(&self, number: usize) -> State {
        State::from_number(self.word(number, STATE_AT).load(Ordering::Acquire)).unwrap_or_default()
    }

    /// The published end of a segment's records.
    pub(super) fn end(&self, number: usize) -> usize {
        usize::try_from(self.word(number, END_AT).load(Ordering::Acquire)).unwrap_or(0).min(SLOT_BYTES)
    }

    /// The bytes of a segment from `from` to the published end; empty if that is before `from`.
    pub(super) fn published(&self, number: usize, from: usize) -> &[u8] {
        let from = from.max(RECORDS_AT);
        let len = self.end(number).saturating_sub(from);
        // SAFETY: in bounds, and below the published end bytes do not change while the segment is not freed; the
        // writer thread alone calls this and alone frees, and it drops the slice before.
        unsafe { std::slice::from_raw_parts(self.base(number).add(from.min(SLOT_BYTES)), len) }
    }
}

/// A segment in hand: the right to write it.
#[derive(Debug)]
pub(crate) struct Staged {
    map: Arc<Map>,
    number: usize,
    base: *mut u8,
}

// SAFETY: the pointer is into `map`, which is kept alive, and a `Staged` is the only writer of its segment.
unsafe impl Send for Staged {}

impl Staged {
    /// All segments of a map, each once: only the maker of the map calls this.
    pub(super) fn all(map: &Arc<Map>) -> Vec<Staged> {
        (0..map.count()).map(|number| Staged { map: Arc::clone(map), number, base: map.base(number) }).collect()
    }

    /// Which one of the map.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// The order of what a killed process left in it.
    pub(super) fn order(&self) -> u64 {
        let word = |at| u64::from(self.map.word(self.number, at).load(Ordering::Acquire));
        word(ORDER_AT) | word(ORDER_AT + 4) << 32
    }

    /// Writes bytes that are not published yet, or that no reader uses.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at <= SLOT_BYTES && bytes.len() <= SLOT_BYTES - at, "records end before the slot does");
        // SAFETY: in bounds by the check; the source is no part of the map; we alone write this segment.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
    }

    /// Writes an enhanced packet block. `head` is its first seven words, the second of which is its whole length.
    #[inline]
    pub(super) fn put_packet(&mut self, at: usize, head: &[u32; 7], bytes: &[u8]) {
        let padded = (bytes.len() + 3) & !3;
        let total = padded + PACKET_OVERHEAD;
        assert!(at <= SLOT_BYTES && total <= SLOT_BYTES - at, "records end before the slot does");
        // SAFETY: `total` bytes from `at` on are in bounds by the check; the last word of the data is cleared before
        // the data is copied over it, for the padding; `head` is 28 bytes; integers are little-endian on the targets.
        unsafe {
            let to = self.base.add(at);
            ptr::copy_nonoverlapping(head.as_ptr().cast::<u8>(), to, 28);
            to.add(total - 8).cast::<u32>().write_unaligned(0);
            ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(28), bytes.len());
            to.add(total - 4).cast::<u32>().write_unaligned(head[1]);
            if bytes.is_empty() {
                ptr::copy_nonoverlapping(head.as_ptr().cast::<u8>(), to, 28);
            }
        }
    }

    /// Lets readers see the records up to `end`.
    #[inline]
    pub(super) fn publish(&self, end: u32) {
        // SAFETY: in bounds and aligned; all accesses of this word are atomic.
        unsafe { AtomicU32::from_ptr(self.base.add(END_AT).cast()) }.store(end, Ordering::Release);
    }

    /// Says what the segment is in.
    pub(super) fn set_state(&mut self, state: State) {
        self.map.word(self.number, STATE_AT).store(state.number(), Ordering::Release);
    }

    /// The whole segment, for one write to the disk.
    pub(super) fn whole(&mut self) -> &[u8] {
        // SAFETY: in bounds; we are the only writer and `&mut self` keeps us from writing while the slice lives.
        unsafe { std::slice::from_raw_parts(self.base, SLOT_BYTES) }
    }
}
