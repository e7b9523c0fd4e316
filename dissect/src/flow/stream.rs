//! The two streams of a flow: bytes in order to the protocol's reader, straight from the frame where nothing is missing,
//! else from a bounded store of early pieces. What an acknowledgement proves lost is a gap, and is told.

use super::key::Side;
use crate::extract::{Analyzer, Direction, FlowContext, Verdict};
use std::sync::atomic::{AtomicUsize, Ordering};
use thymus_record::RecordSink;

/// Early pieces kept a side.
const PIECES_MAX: usize = 64;
/// Bytes of early pieces kept a side.
const BYTES_MAX: usize = 128 << 10;

/// Bytes of early pieces kept in all flows of the process: what comes beyond is left out, and becomes a gap.
const HELD_MAX: usize = 64 << 20;

/// Bytes of early pieces held now, by all shards.
static HELD: AtomicUsize = AtomicUsize::new(0);

struct Piece {
    at: u64,
    len: u64,
    bytes: Vec<u8>,
    held: usize,
}

impl Piece {
    fn new(at: u64, bytes: &[u8], wanted: bool) -> Option<Piece> {
        let held = if wanted { bytes.len() } else { 0 };
        if HELD.fetch_add(held, Ordering::Relaxed) + held > HELD_MAX {
            HELD.fetch_sub(held, Ordering::Relaxed);
            return None;
        }
        let kept = if wanted { bytes.to_vec() } else { Vec::new() };
        Some(Piece { at, len: bytes.len() as u64, bytes: kept, held })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        HELD.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// Readers and early pieces of one flow.
#[derive(Default)]
pub(super) struct Conversation {
    analyzer: Option<Analyzer>,
    service: Option<&'static str>,
    early: [Vec<Piece>; 2],
}

fn at(side: Side) -> usize {
    side.at()
}

impl Conversation {
    /// Zeek's name of the service, once confirmed.
    pub(super) fn service(&self) -> Option<&'static str> {
        self.service
    }

    /// True if early pieces wait on this side.
    pub(super) fn waits(&self, side: Side) -> bool {
        self.early.get(at(side)).is_some_and(|pieces| !pieces.is_empty())
    }

    /// Somebody reads its streams.
    pub(super) fn is_read(&self) -> bool {
        self.analyzer.is_some()
    }

    /// A reader was found.
    pub(super) fn begin(&mut self, analyzer: Analyzer) {
        self.analyzer = Some(analyzer);
    }

    /// Gives bytes that are next in order.
    pub(super) fn feed(&mut self, flow: &FlowContext, direction: Direction, bytes: &[u8], sink: &mut dyn RecordSink) {
        let Some(analyzer) = &mut self.analyzer else { return };
        let verdict = analyzer.on_bytes(flow, direction, bytes, sink);
        self.settle(verdict);
    }

    fn gap(&mut self, flow: &FlowContext, direction: Direction, missing: u64, sink: &mut dyn RecordSink) {
        let Some(analyzer) = &mut self.analyzer else { return };
        let verdict = analyzer.on_gap(flow, direction, missing, sink);
        self.settle(verdict);
    }

    fn settle(&mut self, verdict: Verdict) {
        let service = self.analyzer.as_ref().and_then(Analyzer::service);
        self.service = service.or(self.service);
        match verdict {
            Verdict::Continue => {}
            Verdict::Done | Verdict::NotMine => self.analyzer = None,
        }
    }

    /// The flow ends.
    pub(super) fn close(&mut self, flow: &FlowContext, sink: &mut dyn RecordSink) {
        if let Some(analyzer) = &mut self.analyzer {
            analyzer.on_close(flow, sink);
            let service = analyzer.service();
            self.service = service.or(self.service);
        }
        self.analyzer = None;
    }

    /// Keeps a piece that came too early, its bytes only if they are wanted; without room it is left out, and becomes a
    /// gap when it is acknowledged.
    pub(super) fn keep(&mut self, side: Side, place: u64, bytes: &[u8], wanted: bool) {
        let Some(pieces) = self.early.get_mut(at(side)) else { return };
        let held: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        if pieces.len() >= PIECES_MAX || held + bytes.len() > BYTES_MAX {
            return;
        }
        let index = pieces.partition_point(|piece| piece.at <= place);
        if let Some(piece) = Piece::new(place, bytes, wanted) {
            pieces.insert(index, piece);
        }
    }

    /// The first early piece of this side, if it begins at or before `next`, taken out: its bytes beyond `next`.
    pub(super) fn take_next(&mut self, side: Side, next: u64) -> Option<(u64, Vec<u8>)> {
        let pieces = self.early.get_mut(at(side))?;
        pieces.first().filter(|piece| piece.at <= next)?;
        let mut piece = pieces.remove(0);
        let end = piece.at + piece.len;
        let skip = usize::try_from(next - piece.at).unwrap_or(usize::MAX).min(piece.bytes.len());
        piece.bytes.drain(..skip);
        Some((end, std::mem::take(&mut piece.bytes)))
    }

    /// Where the first early piece of this side begins.
    pub(super) fn first_early(&self, side: Side) -> Option<u64> {
        self.early.get(at(side)).and_then(|pieces| pieces.first()).map(|piece| piece.at)
    }

    /// Tells the reader of a gap, if one is there.
    pub(super) fn tell_gap(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        missing: u64,
        sink: &mut dyn RecordSink,
    ) {
        self.gap(flow, direction, missing, sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_pieces_of_all_flows_together_stay_within_their_limit_and_give_their_room_back() {
        let bytes = vec![7; BYTES_MAX];
        let mut flows: Vec<Conversation> = (0..HELD_MAX / BYTES_MAX + 50).map(|_| Conversation::default()).collect();
        flows.iter_mut().for_each(|flow| flow.keep(Side::A, 100, &bytes, true));
        let kept = flows.iter().filter(|flow| flow.waits(Side::A)).count();
        assert!(kept <= HELD_MAX / BYTES_MAX && kept > HELD_MAX / BYTES_MAX - 10, "{kept}");
        assert!(flows.pop().is_some_and(|flow| !flow.waits(Side::A)));
        drop(flows);
        let mut next = Conversation::default();
        next.keep(Side::A, 100, &bytes, true);
        assert_eq!(
            next.take_next(Side::A, 100).map(|(end, bytes)| (end, bytes.len())),
            Some((100 + BYTES_MAX as u64, BYTES_MAX))
        );
    }
}
