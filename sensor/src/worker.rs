//! One poll loop: a burst from the source goes through duplicates, the flow shard and into the ring, and every frame is
//! counted by its fate. Nothing here allocates, locks, sleeps (unless idle) or asks the system for anything.

use crate::clock::Clock;
use crate::counters::{PortAccount, PublishedCounts};
use crate::duplicate::DuplicateWindow;
use crate::own::OwnTransport;
use crate::ring::{Appended, RingAppender};
use crate::sight::Sight;
use crate::source::{BURST_MAX, Burst, PacketSource, Received, SourceCounters, SourceError};
use crossbeam::utils::Backoff;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use thymus_dissect::Frame;
use thymus_dissect::decode::decode;
use thymus_dissect::flow::{FlowShard, FlowTag, NetworkTable};
use thymus_forward::Batcher;
use thymus_record::ledger::Count;
use thymus_record::{RecordSink, Time};
use thymus_witness::SpanEye;

/// An idle loop sleeps this long: a burst of 20 µs at 400 Mbit/s waits in the descriptors meanwhile, and 5,000
/// wake-ups a second cost an idle core about 5 %.
const NAP: Duration = Duration::from_micros(200);

/// The path of the sensor's own ports is the first one.
const OWN_NETWORK: u32 = 0;

/// What a poll loop says of itself, readable by all threads.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Nanoseconds spent on bursts with packets.
    pub busy_ns: AtomicU64,
    /// Flows open.
    pub flows_open: AtomicU64,
    /// Packet time now.
    pub packet_time: AtomicU64,
}

/// What happens to a burst.
pub struct Stage {
    /// The worker's flows.
    pub shard: FlowShard,
    /// Its network numbers.
    pub networks: NetworkTable,
    /// Its place in the ring; without one packets are not kept.
    pub appender: Option<RingAppender>,
    /// Where its records go.
    pub batcher: Batcher,
    /// Its account of each port, by port number.
    pub accounts: Vec<PortAccount>,
    /// Removes the second copy of a span; off for files.
    pub duplicates: Option<DuplicateWindow>,
    /// The port of the OS-sensors, if they are taken.
    pub agents: Option<u16>,
    /// Looks for what OS-sensors claim.
    pub eye: SpanEye,
    /// Which connections are our own transport, and how much of that is known here.
    pub own: (Arc<OwnTransport>, u32),
    /// A ring that is late is waited for (capture files), not shed.
    pub waits: bool,
    /// What it says of itself.
    pub gauges: Arc<Gauges>,
}

impl Stage {
    /// Takes a burst to its end.
    pub fn burst(&mut self, burst: Burst<'_>) {
        if let Some(ends) = self.own.0.newer(&mut self.own.1) {
            self.shard.set_own(ends);
        }
        let mut kept = [Frame::default(); BURST_MAX];
        let frames = self.account(burst.frames, &mut kept);
        let mut tags = [FlowTag::default(); BURST_MAX];
        let tags = tags.get_mut(..frames.len()).unwrap_or_default();
        self.shard.observe_burst(frames, &mut self.networks, &mut self.batcher, tags);
        for (frame, tag) in frames.iter().zip(tags.iter()) {
            self.store(frame, *tag);
        }
        if self.eye.is_open() {
            self.look(frames, tags);
        }
        self.shard.advance(burst.now, &mut self.batcher);
        self.batcher.turn(burst.now, &self.networks);
        if !frames.is_empty() {
            self.publish(burst.now);
        }
    }

    /// Counts frames as received and gives those that are no duplicates.
    fn account<'k, 'a: 'k>(
        &mut self,
        frames: &'k [Frame<'a>],
        kept: &'k mut [Frame<'a>; BURST_MAX],
    ) -> &'k [Frame<'a>] {
        let mut earned = 0;
        for frame in frames {
            let Some(account) = self.accounts.get_mut(usize::from(frame.port)) else { continue };
            let relayed = Some(frame.port) == self.agents;
            let row = if relayed { account.turn_forward(frame.time) } else { account.turn_to(frame.time) };
            if let Some(row) = row {
                self.batcher.emit(row.into());
            }
            account.total.received.add(u64::from(frame.wire_len));
            earned += u64::from(frame.wire_len);
        }
        self.batcher.earn(earned);
        let Some(window) = &mut self.duplicates else { return frames };
        let mut count = 0;
        for frame in frames {
            let Some(account) = self.accounts.get_mut(usize::from(frame.port)) else { continue };
            // Agents send one copy each; what looks alike came more than once.
            if Some(frame.port) != self.agents && window.is_duplicate(&decode(frame), frame.time) {
                account.total.duplicate.add(u64::from(frame.wire_len));
            } else if let Some(place) = kept.get_mut(count) {
                *place = *frame;
                count += 1;
            }
        }
        kept.get(..count).unwrap_or_default()
    }

    /// Counts what the spans see of OS-sensors' addresses. What came through a tunnel or a VLAN is another network's.
    fn look(&self, frames: &[Frame<'_>], tags: &[FlowTag]) {
        for (frame, tag) in frames.iter().zip(tags) {
            if let (true, Some(hosts)) = (frame.origin.agent == 0 && tag.network == OWN_NETWORK, tag.hosts) {
                self.eye.see(frame, hosts);
            }
        }
    }

    /// Appends a frame to the ring, and its flow to the segment's index where that is due.
    fn store(&mut self, frame: &Frame<'_>, tag: FlowTag) {
        let Some(account) = self.accounts.get_mut(usize::from(frame.port)) else { return };
        let (total, wire) = (&mut account.total, u64::from(frame.wire_len));
        if tag.is_own {
            total.filtered.add(wire);
            return;
        }
        let Some(appender) = &mut self.appender else {
            total.not_kept.add(wire);
            return;
        };
        let appended = if self.waits { appender.append_waiting(frame) } else { appender.append(frame) };
        match appended {
            Appended::In { segment, cut } => {
                total.in_ring.add(wire);
                total.cut_bytes += u64::from(cut);
                if let Some(key) = self.shard.due_for_index(tag, segment) {
                    appender.index(&key);
                }
            }
            Appended::Shed => total.shed.add(wire),
        }
    }

    fn publish(&mut self, now: Time) {
        for account in &mut self.accounts {
            account.total.no_flow = self.shard.no_flow(account.port);
            account.publish();
        }
        self.gauges.flows_open.store(self.shard.flows_open(), Ordering::Relaxed);
        self.gauges.packet_time.store(now.0, Ordering::Relaxed);
    }

    /// What was given up before a worker had it: received, and shed. The count is of the whole run.
    pub fn settle_late(&mut self, port: u16, late: Count) {
        let Some(account) = self.accounts.get_mut(usize::from(port)) else { return };
        let known = std::mem::replace(&mut account.late, late);
        let fresh = Count { packets: late.packets - known.packets, bytes: late.bytes - known.bytes };
        account.total.received += fresh;
        account.total.shed += fresh;
    }

    /// Ends all flows, closes the accounts and hands over the last records.
    pub fn finish(&mut self) {
        self.shard.finish(&mut self.batcher);
        for account in &mut self.accounts {
            account.total.no_flow = self.shard.no_flow(account.port);
            if let Some(row) = account.close() {
                self.batcher.emit(row.into());
            }
            account.publish();
        }
        self.batcher.finish(&self.networks);
        if let Some(appender) = &mut self.appender {
            appender.seal();
        }
        self.gauges.flows_open.store(0, Ordering::Relaxed);
    }

    /// Where others read the accounts.
    pub fn published(&self) -> Vec<Arc<PublishedCounts>> {
        self.accounts.iter().map(PortAccount::published).collect()
    }
}

impl LoopBody for Stage {
    fn burst(&mut self, burst: Burst<'_>) {
        Stage::burst(self, burst);
    }

    fn settle(&mut self, port: u16, counters: &SourceCounters) {
        let Some(account) = self.accounts.get_mut(usize::from(port)) else { return };
        account.total.missed = counters.missed;
        let known = std::mem::replace(&mut account.total.error, counters.error);
        account.total.received.packets += counters.error.packets - known.packets;
        account.total.received.bytes += counters.error.bytes - known.bytes;
        let copies = crate::counters::fresh(&mut account.copies, counters.duplicate);
        account.total.received += copies;
        account.total.duplicate += copies;
        account.publish();
    }
}

/// What a poll loop does with bursts: takes them to their end, or deals them.
pub trait LoopBody {
    /// A burst of one port.
    fn burst(&mut self, burst: Burst<'_>);
    /// What a port's source counted so far.
    fn settle(&mut self, port: u16, counters: &SourceCounters);
}

/// A port as its poll loop sees it.
pub struct LoopPort<S> {
    /// Its number.
    pub port: u16,
    /// Its source.
    pub source: S,
    /// Where it is noted what the port shows; none for what is no card.
    pub sight: Option<Arc<Sight>>,
}

impl<S: PacketSource> LoopPort<S> {
    /// Takes a burst.
    fn burst(&mut self, body: &mut impl LoopBody) -> Result<Received, SourceError> {
        let LoopPort { source, sight, .. } = self;
        source.receive_burst(|burst| {
            if let Some(sight) = sight {
                sight.look(burst.frames);
            }
            body.burst(burst);
        })
    }

    /// Tells what its source counted, and its link where the watcher asks.
    fn settle(&mut self, body: &mut impl LoopBody) {
        body.settle(self.port, &self.source.counters());
        if let Some(sight) = self.sight.as_ref().filter(|sight| sight.is_asked()) {
            sight.tell(self.source.link());
        }
    }
}

/// Loops between two looks at the sources' own counters.
const SETTLE_EVERY: u32 = 4_096;

/// Polls the ports until told to stop, they end, or one breaks; the time of bursts with packets is measured.
pub fn poll<S: PacketSource>(
    ports: &mut [LoopPort<S>],
    body: &mut impl LoopBody,
    stop: &AtomicBool,
    clock: &dyn Clock,
    gauges: &Gauges,
) -> Result<(), SourceError> {
    let backoff = Backoff::new();
    let (mut busy, mut turns) = (Duration::ZERO, 0u32);
    let mut ended = 0;
    while !stop.load(Ordering::Relaxed) && ended < ports.len() {
        let mut frames = 0;
        ended = 0;
        let before = clock.monotonic();
        for port in ports.iter_mut() {
            match port.burst(body)? {
                Received::Frames(count) => frames += count,
                Received::End => ended += 1,
            }
        }
        turns = turns.wrapping_add(1);
        let idle = frames == 0 && backoff.is_completed();
        if idle || turns.is_multiple_of(SETTLE_EVERY) {
            ports.iter_mut().for_each(|port| port.settle(body));
        }
        if frames > 0 {
            backoff.reset();
            busy += clock.monotonic().saturating_sub(before);
            gauges.busy_ns.store(u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        } else if idle {
            std::thread::sleep(NAP);
        } else {
            backoff.snooze();
        }
    }
    ports.iter_mut().for_each(|port| port.settle(body));
    Ok(())
}
