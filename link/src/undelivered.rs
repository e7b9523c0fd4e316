//! What an agent has not delivered yet: parcels under way, parcels on its disk, batches that the master does not hold.

use crate::allowance::Allowance;
use crate::delivered::Delivered;
use crate::frame::{Kind, WireFrame};
use crate::outgoing::Outgoing;
use crate::parcel::{Spares, count_frames};
use crate::spool::{Pushed, Spool, SpooledBatch};
use bytes::Buf;
use rand::Rng;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thymus_record::ledger::Count;
use thymus_record::message::{Held, ToAgent};
use thymus_record::{BootId, SensorId};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Parcels sent and not yet taken.
const UNDECIDED_MAX: usize = 48;

/// Parcels off the disk sent and not yet taken.
const LATE_MAX: u64 = 16;
/// Batches of metadata sent and not yet acknowledged.
const BATCHES_MAX: u64 = 16;

/// A parcel that was sent and not yet taken.
pub(crate) struct Undecided {
    number: u64,
    frames: Count,
    parcel: Vec<u8>,
}

/// Parcels on their way: waiting, then sent and undecided.
#[derive(Default)]
pub(crate) struct Parcels {
    pub(crate) next: u64,
    pub(crate) undecided: VecDeque<Undecided>,
    /// How many of the undecided were sent over the connection at hand.
    pub(crate) sent: usize,
    /// Where their memory goes.
    pub(crate) spares: Spares,
    pub(crate) delivered: Arc<Delivered>,
}

impl Parcels {
    pub(crate) fn taken(&mut self, up_to: u64) {
        while let Some(Undecided { frames, parcel, .. }) = self.undecided.pop_front_if(|each| each.number < up_to) {
            self.delivered.took(frames);
            self.spares.give(parcel);
            self.sent = self.sent.saturating_sub(1);
        }
    }

    /// True if another one may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.undecided.len() < UNDECIDED_MAX
    }

    /// Sends what was not sent over this connection, and what is going out as far as there is room. Head and parcel go as
    /// they lie, in records of TLS's full length.
    pub(crate) async fn send(&mut self, outgoing: &Outgoing, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while self.has_room()
            && let Some(parcel) = outgoing.take()
        {
            let (number, frames) = (self.next, count_frames(&parcel));
            self.undecided.push_back(Undecided { number, frames, parcel });
            self.next += 1;
        }
        while let Some(Undecided { number, parcel, .. }) = self.undecided.get(self.sent) {
            let head = WireFrame::head(Kind::Frames, *number, parcel.len());
            writer.write_all_buf(&mut head.as_slice().chain(parcel.as_slice())).await?;
            self.sent += 1;
        }
        Ok(())
    }
}

/// The spool of parcels, as its only writer sees it.
pub(crate) struct Late {
    spool: Arc<Spool>,
    agent: SensorId,
    boot: BootId,
    next: AtomicU64,
    delivered: Arc<Delivered>,
}

impl Late {
    pub(crate) fn new(spool: Arc<Spool>, agent: SensorId, boot: u64, delivered: Arc<Delivered>) -> Late {
        Late { spool, agent, boot: BootId(boot), next: AtomicU64::new(0), delivered }
    }

    /// Puts a parcel on disk; false if it takes none.
    pub(crate) fn push(&self, parcel: Vec<u8>) -> bool {
        let sequence = self.next.load(Ordering::Relaxed);
        let (sensor, boot, frames) = (self.agent, self.boot, count_frames(&parcel));
        let batch = SpooledBatch { sensor, boot, sequence, records: 1, bytes: parcel };
        let stored = matches!(self.spool.push(batch), Ok(Pushed::Stored));
        if stored {
            self.next.store(sequence + 1, Ordering::Relaxed);
            self.delivered.put_on_disk(frames);
        }
        stored
    }
}

/// All of it, as the link's thread sees it.
pub(crate) struct Undelivered {
    pub(crate) agent: SensorId,
    pub(crate) parcels: Parcels,
    pub(crate) late: Option<Arc<Late>>,
    pub(crate) batches: Option<(Arc<Spool>, Arc<AtomicU64>)>,
    pub(crate) unwanted: Arc<AtomicU64>,
}

impl Undelivered {
    /// A new connection: nothing is under way.
    pub(crate) fn rewind(&mut self) {
        self.parcels.sent = 0;
        let batches = self.batches.as_ref().map(|(spool, _)| spool);
        self.late.iter().map(|late| &late.spool).chain(batches).for_each(|spool| spool.rewind());
    }

    /// Sends batches of metadata, as far as the limit on what is sent allows.
    pub(crate) async fn send_batches(
        &self,
        allowance: &Allowance,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let Some((spool, _)) = &self.batches else { return Ok(()) };
        while allowance.is_there()
            && let Some(batch) = spool.take_next(BATCHES_MAX)
        {
            for frame in WireFrame::batch(&batch.bytes) {
                writer.write_all(&frame.encode()).await?;
            }
            allowance.spend(batch.bytes.len());
        }
        Ok(())
    }

    /// Sends a parcel off the disk, if that limit leaves room.
    pub(crate) async fn send_late(
        &self,
        allowance: &Allowance,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let Some(late) = self.late.as_ref().filter(|_| allowance.is_ample()) else { return Ok(()) };
        let Some(parcel) = late.spool.take_oldest(LATE_MAX) else { return Ok(()) };
        let payload = [parcel.boot.0.to_le_bytes().as_slice(), &parcel.bytes].concat();
        allowance.spend(payload.len());
        writer.write_all(&WireFrame { kind: Kind::LateFrames, stream: parcel.sequence, payload }.encode()).await
    }

    /// At the end: what was not delivered goes to the disk, as far as it takes it.
    pub(crate) fn keep(&mut self, outgoing: &Outgoing) {
        let Some(late) = &self.late else { return };
        let undecided = std::mem::take(&mut self.parcels.undecided).into_iter().map(|each| each.parcel);
        for parcel in undecided.chain(std::iter::from_fn(|| outgoing.take())) {
            late.push(parcel);
        }
    }

    /// There was no room for this batch.
    pub(crate) fn put_back(&self, boot: BootId, sequence: u64) {
        self.batches.iter().for_each(|(spool, _)| spool.put_back(self.agent, boot, sequence));
    }

    /// The vSensor says what became of something; what is about other things comes back.
    pub(crate) fn settle(&mut self, message: ToAgent) -> Option<ToAgent> {
        let batches = self.batches.as_ref();
        match message {
            ToAgent::Taken { up_to } => self.parcels.taken(up_to),
            ToAgent::TakenLate { boot, up_to } => {
                if let (Some(late), Some(last)) = (&self.late, up_to.checked_sub(1)) {
                    late.spool.acknowledge(&Held { sensor: self.agent, boot: BootId(boot), ranges: vec![(0, last)] });
                }
            }
            ToAgent::Acknowledge(held) => {
                batches.iter().for_each(|(spool, _)| spool.acknowledge(&Held { sensor: self.agent, ..held.clone() }));
            }
            ToAgent::Unwanted(held) => {
                let rows = batches.map_or(0, |(spool, _)| spool.give_up(&Held { sensor: self.agent, ..held }));
                self.unwanted.fetch_add(rows, Ordering::Relaxed);
            }
            ToAgent::Fork { boot } => {
                // Another machine runs with our state: count anew.
                if let Some((_, run)) = batches {
                    let _ = run.compare_exchange(boot.0, rand::rng().random(), Ordering::AcqRel, Ordering::Acquire);
                }
            }
            message => return Some(message),
        }
        None
    }
}

/// Waits until a batch may be there.
pub(crate) async fn filled(batches: Option<&Spool>) {
    match batches {
        Some(spool) => spool.wait().await,
        None => std::future::pending().await,
    }
}
