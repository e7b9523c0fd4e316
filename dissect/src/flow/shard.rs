//! The shard: bursts in, records out.

use super::entry::{Flow, NEVER};
use super::fragment::Fragments;
use super::host::Hosts;
use super::key::{FlowKey, Side};
use super::network::NetworkTable;
use super::own::Own;
use super::table::Table;
use super::tcp::Tcp;
use super::transport::{At, context_of, originator_of, segment_of, take_transport};
use super::weird::Weirds;
use crate::Frame;
use crate::decode::{Content, Datagram, Packet, TcpFlags, Transport, Weird, decode, decode_datagram};
use thymus_record::ledger::Count;
use thymus_record::table::{EndReason, FlowKind};
use thymus_record::time::SECOND;
use thymus_record::{Address, RecordSink, Time};

/// Frames looked at together: what is known of them and the flows they mean fit into the first cache.
const STRIDE: usize = 64;
/// A packet that comes so long after its time was kept somewhere: its flow ends as if it had come in time, not at once.
const LATE: u64 = 5 * SECOND;
/// Time between interim rows.
const INTERIM: u64 = 300 * SECOND;

/// How a shard is made.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Its number, part of every uid.
    pub shard: u8,
    /// Flows open at once.
    pub flows_max: usize,
    /// Secret of the hash: drawn at start for live traffic, fixed for capture files.
    pub secret: [u64; 2],
    /// Capture ports.
    pub ports: usize,
}

/// Where a frame went.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FlowTag {
    place: Option<u32>,
    /// The hosts of a frame that has no flow (yet): ARP, fragments.
    pub hosts: Option<(Address, Address)>,
    /// Its network number.
    pub network: u32,
    /// It is of the sensor's own transport.
    pub is_own: bool,
}

/// What a shard counted.
#[derive(Clone, Copy, Default, Debug)]
pub struct ShardCounters {
    /// Flows begun.
    pub flows_made: u64,
    /// Flows that a full table evicted.
    pub flows_evicted: u64,
}

/// Flows of one worker.
pub struct FlowShard {
    pub(super) config: ShardConfig,
    pub(super) table: Table,
    fragments: Fragments,
    hosts: Hosts,
    weirds: Weirds,
    pub(super) no_flow: Vec<Count>,
    sequence: u64,
    pub(super) counters: ShardCounters,
    last_expire: Time,
    now: Time,
    pub(super) own: Own,
}

/// What a burst's first pass learns of a packet.
pub(super) struct Look<'a> {
    pub(super) packet: Packet<'a>,
    pub(super) network: u32,
    pub(super) key: Option<(FlowKey, Side)>,
}

impl FlowShard {
    /// An empty shard; all its memory is taken here.
    pub fn new(config: ShardConfig) -> FlowShard {
        FlowShard {
            table: Table::new(config.flows_max),
            fragments: Fragments::default(),
            hosts: Hosts::default(),
            weirds: Weirds::default(),
            no_flow: vec![Count::default(); config.ports.max(1)],
            sequence: 0,
            counters: ShardCounters::default(),
            last_expire: Time(0),
            now: Time(0),
            own: Own::default(),
            config,
        }
    }

    /// Takes a burst of frames; `tags` says where each went.
    pub fn observe_burst(
        &mut self,
        frames: &[Frame<'_>],
        networks: &mut NetworkTable,
        sink: &mut dyn RecordSink,
        tags: &mut [FlowTag],
    ) {
        for (frames, tags) in frames.chunks(STRIDE).zip(tags.chunks_mut(STRIDE)) {
            self.observe_stride(frames, networks, sink, tags);
        }
    }

    fn observe_stride(
        &mut self,
        frames: &[Frame<'_>],
        networks: &mut NetworkTable,
        sink: &mut dyn RecordSink,
        tags: &mut [FlowTag],
    ) {
        let mut looks: [Option<Look<'_>>; STRIDE] = [const { None }; STRIDE];
        let mut hashes = [0u64; STRIDE];
        for ((look, hash), frame) in looks.iter_mut().zip(&mut hashes).zip(frames) {
            let packet = decode(frame);
            let network = networks.of(frame, &packet.layers);
            let key = match &packet.content {
                Content::Ip(datagram) => FlowKey::of(network, datagram),
                _ => None,
            };
            *hash = key.map_or(0, |(key, _)| key.hash(self.config.secret));
            *look = Some(Look { packet, network, key });
        }
        let guesses = self.touch(hashes.get(..frames.len()).unwrap_or_default());
        let found = hashes.iter().zip(guesses);
        for (((look, found), frame), tag) in looks.iter().flatten().zip(found).zip(frames).zip(tags) {
            *tag = self.observe(look, (*found.0, found.1), frame, sink);
        }
    }

    /// Brings the buckets and flows of these hashes into the cache, a short loop each, so that their misses overlap.
    fn touch(&self, hashes: &[u64]) -> [u32; STRIDE] {
        let mut guesses = [0u32; STRIDE];
        let mut touched = hashes.iter().fold(0, |touched, hash| touched ^ self.table.touch(*hash));
        for (guess, hash) in guesses.iter_mut().zip(hashes) {
            *guess = self.table.guess(*hash);
        }
        for (guess, _) in guesses.iter().zip(hashes) {
            touched ^= self.table.touch_flow(*guess);
        }
        std::hint::black_box(touched);
        guesses
    }

    pub(super) fn observe(
        &mut self,
        look: &Look<'_>,
        (hash, guess): (u64, u32),
        frame: &Frame<'_>,
        sink: &mut dyn RecordSink,
    ) -> FlowTag {
        self.weirds.turn(frame.time, self.config.shard, sink);
        if look.packet.weird != Weird::default() {
            self.note_weird(look, frame.time);
        }
        let mut tag = FlowTag { network: look.network, ..FlowTag::default() };
        self.own.is_at_hand = false;
        match &look.packet.content {
            Content::Ip(datagram) => {
                tag.hosts = Some((datagram.source, datagram.target));
                if let Some((key, side)) = look.key {
                    let once = Count { packets: 1, bytes: u64::from(frame.wire_len) };
                    let at = At { packet: &look.packet, datagram, key, side, hash, guess, frames: once };
                    tag.place = self.follow(&at, frame, sink);
                } else if datagram.fragment.is_some() {
                    tag.place = self.follow_fragment(look, datagram, frame, sink);
                } else {
                    self.count_no_flow(frame.port, Count { packets: 1, bytes: u64::from(frame.wire_len) });
                }
            }
            other => {
                if let Content::Arp(arp) = other {
                    tag.hosts = Some((arp.sender, arp.target));
                    // Who forges frames teaches nobody where a host is.
                    if !frame.origin.unverified {
                        self.hosts.arp(look.network, arp, frame.time, self.config.shard, sink);
                    }
                }
                self.count_no_flow(frame.port, Count { packets: 1, bytes: u64::from(frame.wire_len) });
            }
        }
        tag.is_own = self.own.is_at_hand;
        tag
    }

    fn note_weird(&mut self, look: &Look<'_>, now: Time) {
        let ends = match &look.packet.content {
            Content::Ip(datagram) => Some((datagram.source, datagram.target)),
            _ => None,
        };
        for (bit, name) in Weird::NAMES.iter().enumerate() {
            if look.packet.weird.0 & (1 << bit) != 0 {
                self.weirds.note(name, look.network, ends, now);
            }
        }
    }

    fn count_no_flow(&mut self, port: u16, count: Count) {
        if let Some(place) = self.no_flow.get_mut(usize::from(port)) {
            *place += count;
        }
    }

    fn follow_fragment(
        &mut self,
        look: &Look<'_>,
        datagram: &Datagram<'_>,
        frame: &Frame<'_>,
        sink: &mut dyn RecordSink,
    ) -> Option<u32> {
        let mut lost = [None; 2];
        let about = (frame.port, u64::from(frame.wire_len), frame.time);
        let whole = self.fragments.add(look.network, &look.packet, datagram, about, |port, count| {
            if let Some(place) = lost.iter_mut().find(|place| place.is_none()) {
                *place = Some((port, count));
            }
        });
        lost.into_iter().flatten().for_each(|(port, count)| self.count_no_flow(port, count));
        let whole = whole?;
        let packet = decode_datagram(&whole.bytes, &look.packet);
        let key = match &packet.content {
            Content::Ip(datagram) => FlowKey::of(look.network, datagram).map(|(key, side)| (datagram, key, side)),
            _ => None,
        };
        let Some((datagram, key, side)) = key else {
            self.count_no_flow(frame.port, whole.frames);
            return None;
        };
        let hash = key.hash(self.config.secret);
        let guess = self.table.guess(hash);
        self.follow(&At { packet: &packet, datagram, key, side, hash, guess, frames: whole.frames }, frame, sink)
    }

    /// Puts a packet into its flow.
    fn follow(&mut self, at: &At<'_>, frame: &Frame<'_>, sink: &mut dyn RecordSink) -> Option<u32> {
        let found = self.table.find(at.hash, at.guess, &at.key);
        let place = match found.filter(|place| !self.ends_before(*place, at, frame.time, sink)) {
            Some(place) => place,
            None => self.begin(at, frame, sink)?,
        };
        let shard = self.config.shard;
        if at.datagram.v6 && !frame.origin.unverified {
            self.hosts.neighbour(at.key.network, at.datagram, frame.time, shard, sink);
        }
        let flow = self.table.flow(place)?;
        let before = flow.deadline;
        flow.count(at.side, frame.time, u64::from(at.datagram.ip_len), at.frames.packets, at.frames.bytes);
        self.own.judge(flow);
        flow.is_unverified = frame.origin.unverified;
        if frame.origin.unverified {
            flow.unverified = flow.unverified.saturating_add(u32::try_from(at.frames.packets).unwrap_or(u32::MAX));
        }
        flow.cut_bytes += u64::from(frame.wire_len).saturating_sub(frame.bytes.len() as u64);
        take_transport(flow, at, frame.time, shard, sink);
        if frame.time >= flow.interim_at {
            flow.interim_at = frame.time + INTERIM;
            let row = flow.row(shard, FlowKind::Interim, EndReason::None);
            sink.emit(row.into());
        }
        let mut after = flow.expiry();
        let behind = self.now.since(frame.time);
        if behind >= LATE {
            after = after + behind;
        }
        flow.deadline = after;
        if after < before {
            self.table.wheel.remove(place);
            self.table.wheel.insert(place, after);
        }
        Some(place)
    }

    /// Ends the flow at this place if the packet is none of its: it was over, or a SYN begins another.
    fn ends_before(&mut self, place: u32, at: &At<'_>, now: Time, sink: &mut dyn RecordSink) -> bool {
        let Some(flow) = self.table.flow(place) else { return false };
        let over = flow.is_over(now);
        let reused = match &at.datagram.transport {
            Transport::Tcp(tcp) if tcp.flags.any(TcpFlags::SYN) => {
                flow.tcp.is_reuse(&segment_of(tcp, at.side), flow.originator)
            }
            _ => false,
        };
        if over || reused {
            self.end(place, if over { EndReason::Idle } else { EndReason::Closed }, now, sink);
        }
        over || reused
    }

    fn begin(&mut self, at: &At<'_>, frame: &Frame<'_>, sink: &mut dyn RecordSink) -> Option<u32> {
        let now = frame.time;
        if !self.table.has_room(at.hash) {
            let victim = self.table.victim(at.hash);
            self.counters.flows_evicted += 1;
            self.end(victim, EndReason::Evicted, now, sink);
        }
        let mut flow = Flow {
            key: at.key,
            originator: originator_of(at),
            first: now,
            last: now,
            interim_at: now + INTERIM,
            close_at: NEVER,
            dns_check: NEVER,
            sequence: self.sequence,
            tcp: Tcp::new(),
            macs: at.packet.macs,
            tunnel: at.packet.tunnel.map(Box::new),
            port: frame.port,
            agent: frame.origin.agent,
            mark: u32::MAX,
            is_read: true,
            ..Flow::default()
        };
        flow.deadline = flow.expiry();
        self.sequence += 1;
        self.counters.flows_made += 1;
        if flow.originator != at.side {
            flow.turn_round();
        }
        self.table.insert(at.hash, flow)
    }

    pub(super) fn end(&mut self, place: u32, reason: EndReason, now: Time, sink: &mut dyn RecordSink) {
        let shard = self.config.shard;
        let Some(mut flow) = self.table.take(place) else { return };
        if let Some(mut conversation) = flow.conversation.take() {
            let context = context_of(&flow, now.min(flow.last), shard);
            conversation.close(&context, sink);
            flow.conversation = Some(conversation);
        }
        let closed = flow.close_at != NEVER && reason == EndReason::Idle;
        let row = flow.row(shard, FlowKind::End, if closed { EndReason::Closed } else { reason });
        sink.emit(row.into());
    }

    /// Packet time is now `now`: flows that are over end, long ones tell an interim row.
    pub fn advance(&mut self, now: Time, sink: &mut dyn RecordSink) {
        self.now = now;
        while let Some(place) = self.table.wheel.pop_due(now) {
            let Some(flow) = self.table.flow(place) else { continue };
            if flow.is_over(now) {
                self.end(place, EndReason::Idle, now, sink);
            } else {
                let expiry = flow.deadline;
                self.table.wheel.insert(place, expiry);
            }
        }
        if now.since(self.last_expire) >= SECOND {
            self.last_expire = now;
            self.give_up_fragments(Some(now));
        }
    }

    pub(super) fn give_up_fragments(&mut self, now: Option<Time>) {
        let no_flow = &mut self.no_flow;
        self.fragments.expire(now, |port, count| {
            if let Some(place) = no_flow.get_mut(usize::from(port)) {
                *place += count;
            }
        });
    }

    pub(super) fn tell_weirds(&mut self, sink: &mut dyn RecordSink) {
        self.weirds.tell(self.config.shard, sink);
    }

    /// The flow's key if this segment of the ring does not index the flow yet; it counts as indexed from now on.
    #[inline]
    pub fn due_for_index(&mut self, tag: FlowTag, segment: u32) -> Option<FlowKey> {
        let flow = self.table.flow(tag.place?)?;
        if flow.mark == segment {
            return None;
        }
        flow.mark = segment;
        Some(flow.key)
    }
}

impl FlowTag {
    /// True if the frame is in no flow (yet).
    pub fn is_none(&self) -> bool {
        self.place.is_none()
    }
}
