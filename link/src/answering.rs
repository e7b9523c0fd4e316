//! A packet query answered on a thread of its own, piece by piece as the master grants credit.

use crate::frame::{Kind, PAYLOAD_MAX, WireFrame};
use crate::uplink::{Outbox, UplinkParts};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thymus_record::message::ToMaster;
use thymus_record::query::PcapQuery;
use tokio::sync::{Semaphore, mpsc};

/// A query being answered.
pub(crate) struct Running {
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) credit: Arc<Semaphore>,
}

impl Drop for Running {
    /// Nobody waits any more, however the connection ended: the thread that answers must not wait for credit either.
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Release);
        self.credit.close();
    }
}

/// Answers a query on a thread of its own.
pub(crate) fn answer(
    parts: &Arc<UplinkParts>,
    id: u64,
    query: PcapQuery,
    entry: &Running,
    outbox: &Outbox,
    done: mpsc::UnboundedSender<u64>,
) {
    let (parts, outbox) = (Arc::clone(parts), outbox.clone());
    let (cancelled, credit) = (Arc::clone(&entry.cancelled), Arc::clone(&entry.credit));
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = |bytes: &[u8]| {
            bytes.chunks(PAYLOAD_MAX).all(|piece| {
                let frame = WireFrame { kind: Kind::Packets, stream: id, payload: piece.to_vec() };
                let granted =
                    handle.block_on(Arc::clone(&credit).acquire_owned()).map(tokio::sync::OwnedSemaphorePermit::forget);
                granted.is_ok() && outbox.packets.blocking_send(frame).is_ok()
            })
        };
        let message = match parts.answer.answer(&query, &cancelled, &mut out) {
            Ok(report) => ToMaster::QueryEnd { id, report },
            Err(why) => ToMaster::QueryFailed { id, why },
        };
        // Behind the last piece, so in the packets' own queue.
        let _ = outbox.packets.blocking_send(WireFrame::control(&message));
        let _ = done.send(id);
    });
}
