//! Metadata mode: the flow state is here. Packets become rows, rows become batches of this agent's own number and run,
//! and these wait on disk until the master holds them. At most [`FLOWS_MAX`] flows (8 MiB) and [`CHUNKS`] chunks of
//! 1,000 rows; the spool's limit is its opener's.

use ringbuf::HeapRb;
use ringbuf::traits::Split;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use thymus_dissect::Frame;
use thymus_dissect::decode::Packet;
use thymus_dissect::flow::{FlowKey, FlowShard, NetworkTable, ShardConfig};
use thymus_forward::forwarder::ForwarderParts;
use thymus_forward::{Batcher, Forwarder, Outlet, RecordCounts, SharedOwners};
use thymus_link::spool::Spool;
use thymus_record::ledger::Records;
use thymus_record::table::EndReason;
use thymus_record::time::SECOND;
use thymus_record::{BootId, SensorId, Time};

/// Flows open at once.
const FLOWS_MAX: usize = 16_384;
/// Chunks on their way to the encoder.
const CHUNKS: usize = 8;
/// A batch that is not full is closed after so much time: nothing of an agent is urgent, and full batches are small.
const LINGER: u64 = 5 * SECOND;

/// What a meter works with.
#[derive(Clone)]
pub struct MeterParts {
    /// Whose rows they are.
    pub agent: SensorId,
    /// The root of their networks.
    pub group: String,
    /// The run.
    pub boot: Arc<AtomicU64>,
    /// Secret of the flow table's hash.
    pub secret: [u64; 2],
    /// Where batches wait.
    pub spool: Arc<Spool>,
    /// Who holds the ends of flows.
    pub owners: SharedOwners,
}

/// The flows of this host.
pub struct Meter {
    shard: FlowShard,
    networks: NetworkTable,
    batcher: Batcher,
    forwarder: Forwarder,
    counts: Arc<RecordCounts>,
    parts: MeterParts,
    last: Time,
}

impl Meter {
    /// Starts the encoder's thread.
    pub fn start(parts: MeterParts) -> io::Result<Meter> {
        let (outbox, inbox) = HeapRb::new(CHUNKS).split();
        let mut batcher = Batcher::new(0, outbox, false);
        batcher.set_linger(LINGER);
        let counts = Arc::new(RecordCounts::default());
        counts.watch(batcher.counts());
        let forwarder = Forwarder::start(ForwarderParts {
            sensor: parts.agent,
            boot: Arc::clone(&parts.boot),
            inboxes: vec![inbox],
            outlet: Outlet::Spool { spool: Arc::clone(&parts.spool), waits: false },
            counts: Arc::clone(&counts),
            owners: parts.owners.clone(),
        })?;
        let config = ShardConfig { shard: 0, flows_max: FLOWS_MAX, secret: parts.secret, ports: 1 };
        Ok(Meter {
            shard: FlowShard::new(config),
            networks: NetworkTable::new(&[parts.group.as_str()]),
            batcher,
            forwarder,
            counts,
            parts,
            last: Time(0),
        })
    }

    /// A packet; `offset` is what the vSensor measured between this clock and its own.
    pub fn take(&mut self, frame: &Frame<'_>, packet: Packet<'_>, offset: i64) {
        let time = Time(frame.time.0.saturating_add_signed(offset)).max(self.last);
        self.last = time;
        self.batcher.earn(u64::from(frame.wire_len));
        self.shard.observe_packet(packet, &Frame { time, port: 0, ..*frame }, &mut self.networks, &mut self.batcher);
    }

    /// Time passes.
    pub fn turn(&mut self, now: Time, offset: i64) {
        self.last = self.last.max(Time(now.0.saturating_add_signed(offset)));
        self.shard.advance(self.last, &mut self.batcher);
        self.batcher.turn(self.last, &self.networks);
    }

    /// Somebody else goes on with these flows.
    pub fn hand_over(&mut self, goes: impl FnMut(&FlowKey) -> bool) -> usize {
        self.shard.end_where(goes, EndReason::Handover, &mut self.batcher)
    }

    /// Another mode begins: all flows go on without us, and what waits here goes out.
    pub fn hand_over_all(&mut self) {
        self.shard.hand_over_all(EndReason::Handover, &mut self.batcher);
        self.batcher.finish(&self.networks);
    }

    /// Flows open.
    pub fn flows_open(&self) -> u64 {
        self.shard.flows_open()
    }

    /// Rows by fate, and bytes of batches; the master did not want so many rows.
    pub fn records(&self, unwanted: u64) -> (Records, u64) {
        let boot = BootId(self.parts.boot.load(std::sync::atomic::Ordering::Acquire));
        let mut records = self.counts.records(Some(self.parts.spool.acknowledged_of(self.parts.agent, boot)));
        let unwanted = unwanted.min(records.spooled);
        records.shed += unwanted;
        records.spooled -= unwanted;
        (records, self.counts.metadata_bytes())
    }

    /// The end: all rows are on disk.
    pub fn finish(mut self) {
        self.shard.finish(&mut self.batcher);
        self.batcher.finish(&self.networks);
        self.forwarder.finish();
    }
}
