//! The shard: bursts in, records out.

use super::entry::Flow;
use super::fragment::Fragments;
use super::host::Hosts;
use super::key::{FlowKey, Side};
use super::network::NetworkTable;
use super::ports::is_likely_server;
use super::table::{Found, Table};
use super::tcp::{Roles, Segment, Tcp};
use super::weird::Weirds;
use crate::Frame;
use crate::decode::{Content, Datagram, Packet, TcpFlags, Transport, Weird, decode, decode_datagram};
use crate::extract::{Direction, FlowContext};
use thymus_record::column::Proto;
use thymus_record::ledger::Count;
use thymus_record::table::{EndReason, FlowKind};
use thymus_record::time::SECOND;
use thymus_record::{Address, RecordSink, Time};

/// Most frames in a call.
const BURST_MAX: usize = 64;
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
    slot: Option<u32>,
    /// The hosts of a frame that has no flow (yet): ARP, fragments.
    pub hosts: Option<(Address, Address)>,
    /// Its network number.
    pub network: u32,
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
    config: ShardConfig,
    table: Table,
    fragments: Fragments,
    hosts: Hosts,
    weirds: Weirds,
    no_flow: Vec<Count>,
    sequence: u64,
    counters: ShardCounters,
    last_expire: Time,
}

/// What a burst's first pass learns of a packet.
struct Look<'a> {
    packet: Packet<'a>,
    network: u32,
    key: Option<(FlowKey, Side)>,
    hash: u64,
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
            config,
        }
    }

    /// Takes a burst of at most 64 frames; `tags` says where each went.
    pub fn observe_burst(
        &mut self,
        frames: &[Frame<'_>],
        networks: &mut NetworkTable,
        sink: &mut dyn RecordSink,
        tags: &mut [FlowTag],
    ) {
        let mut looks: [Option<Look<'_>>; BURST_MAX] = [const { None }; BURST_MAX];
        let mut touched = 0u64;
        for (look, frame) in looks.iter_mut().zip(frames) {
            let packet = decode(frame);
            let network = networks.number(frame.port, &packet.layers);
            let key = match &packet.content {
                Content::Ip(datagram) => FlowKey::of(network, datagram),
                _ => None,
            };
            let hash = key.map_or(0, |(key, _)| key.hash(self.config.secret));
            touched = touched.wrapping_add(u64::from(self.table.touch(hash)));
            *look = Some(Look { packet, network, key, hash });
        }
        for look in looks.iter().flatten() {
            touched = touched.wrapping_add(self.table.touch_flow(look.hash));
        }
        std::hint::black_box(touched);
        for ((look, frame), tag) in looks.iter().flatten().zip(frames).zip(tags) {
            *tag = self.observe(look, frame, sink);
        }
    }

    fn observe(&mut self, look: &Look<'_>, frame: &Frame<'_>, sink: &mut dyn RecordSink) -> FlowTag {
        self.weirds.turn(frame.time, self.config.shard, sink);
        if look.packet.weird != Weird::default() {
            self.note_weird(look, frame.time);
        }
        let mut tag = FlowTag { slot: None, hosts: None, network: look.network };
        match &look.packet.content {
            Content::Ip(datagram) => {
                tag.hosts = Some((datagram.source, datagram.target));
                if let Some((key, side)) = look.key {
                    let once = Count { packets: 1, bytes: u64::from(frame.wire_len) };
                    let at = At { packet: &look.packet, datagram, key, side, hash: look.hash, frames: once };
                    tag.slot = self.follow(&at, frame, sink);
                } else if datagram.fragment.is_some() {
                    tag.slot = self.follow_fragment(look, datagram, frame, sink);
                } else {
                    self.count_no_flow(frame.port, Count { packets: 1, bytes: u64::from(frame.wire_len) });
                }
            }
            other => {
                if let Content::Arp(arp) = other {
                    tag.hosts = Some((arp.sender, arp.target));
                    self.hosts.arp(look.network, arp, frame.time, self.config.shard, sink);
                }
                self.count_no_flow(frame.port, Count { packets: 1, bytes: u64::from(frame.wire_len) });
            }
        }
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
        self.follow(&At { packet: &packet, datagram, key, side, hash, frames: whole.frames }, frame, sink)
    }

    /// Puts a packet into its flow.
    fn follow(&mut self, at: &At<'_>, frame: &Frame<'_>, sink: &mut dyn RecordSink) -> Option<u32> {
        let slot = match self.table.find(at.hash, &at.key) {
            Found::Slot(slot) if self.ends_before(slot, at, frame.time, sink) => {
                self.begin(slot, at, frame);
                slot
            }
            Found::Slot(slot) => slot,
            Found::Free(slot) => {
                self.begin(slot, at, frame);
                slot
            }
            Found::Full => {
                let slot = self.table.victim(at.hash);
                self.counters.flows_evicted += 1;
                self.end(slot, EndReason::Evicted, frame.time, sink);
                self.begin(slot, at, frame);
                slot
            }
        };
        let shard = self.config.shard;
        if at.datagram.v6 {
            self.hosts.neighbour(at.key.network, at.datagram, frame.time, shard, sink);
        }
        let flow = self.table.flow(slot)?;
        let before = flow.expiry();
        flow.count(at.side, frame.time, u64::from(at.datagram.ip_len), at.frames.packets, at.frames.bytes);
        flow.cut_bytes += u64::from(frame.wire_len).saturating_sub(frame.bytes.len() as u64);
        take_transport(flow, at, frame.time, shard, sink);
        if frame.time >= flow.interim_at {
            flow.interim_at = frame.time + INTERIM;
            let row = flow.row(shard, FlowKind::Interim, EndReason::None);
            sink.emit(row.into());
        }
        let after = flow.expiry();
        if after < before {
            self.table.wheel.remove(slot);
            self.table.wheel.insert(slot, after);
        }
        Some(slot)
    }

    /// Ends the flow in this slot if the packet is none of its: it was over, or a SYN begins another.
    fn ends_before(&mut self, slot: u32, at: &At<'_>, now: Time, sink: &mut dyn RecordSink) -> bool {
        let Some(flow) = self.table.flow(slot) else { return false };
        let over = flow.is_over(now);
        let reused = match &at.datagram.transport {
            Transport::Tcp(tcp) if tcp.flags.any(TcpFlags::SYN) => {
                flow.tcp.is_reuse(&segment_of(tcp, at.side), flow.originator)
            }
            _ => false,
        };
        if over || reused {
            self.end(slot, if over { EndReason::Idle } else { EndReason::Closed }, now, sink);
        }
        over || reused
    }

    fn begin(&mut self, slot: u32, at: &At<'_>, frame: &Frame<'_>) {
        let now = frame.time;
        let flow = Flow {
            key: at.key,
            originator: originator_of(at),
            first: now,
            last: now,
            interim_at: now + INTERIM,
            sequence: self.sequence,
            tcp: Tcp::new(),
            macs: at.packet.macs,
            tunnel: at.packet.tunnel,
            port: frame.port,
            mark: u32::MAX,
            ..Flow::default()
        };
        self.sequence += 1;
        self.counters.flows_made += 1;
        self.table.insert(slot, at.hash, flow);
        if let Some(flow) = self.table.flow(slot).filter(|flow| flow.originator != at.side) {
            flow.turn_round();
        }
    }

    fn end(&mut self, slot: u32, reason: EndReason, now: Time, sink: &mut dyn RecordSink) {
        let shard = self.config.shard;
        let Some(mut flow) = self.table.take(slot) else { return };
        if let Some(mut conversation) = flow.conversation.take() {
            let context = context_of(&flow, now.min(flow.last), shard);
            conversation.close(&context, sink);
            flow.conversation = Some(conversation);
        }
        let closed = flow.close_at.is_some() && reason == EndReason::Idle;
        let row = flow.row(shard, FlowKind::End, if closed { EndReason::Closed } else { reason });
        sink.emit(row.into());
    }

    /// Packet time is now `now`: flows that are over end, long ones tell an interim row.
    pub fn advance(&mut self, now: Time, sink: &mut dyn RecordSink) {
        while let Some(slot) = self.table.wheel.pop_due(now) {
            let Some(flow) = self.table.flow(slot) else { continue };
            if flow.is_over(now) {
                self.end(slot, EndReason::Idle, now, sink);
            } else {
                let expiry = flow.expiry();
                self.table.wheel.insert(slot, expiry);
            }
        }
        if now.since(self.last_expire) >= SECOND {
            self.last_expire = now;
            self.give_up_fragments(Some(now));
        }
    }

    fn give_up_fragments(&mut self, now: Option<Time>) {
        let no_flow = &mut self.no_flow;
        self.fragments.expire(now, |port, count| {
            if let Some(place) = no_flow.get_mut(usize::from(port)) {
                *place += count;
            }
        });
    }

    /// Ends all flows, in the order in which they began.
    pub fn finish(&mut self, sink: &mut dyn RecordSink) {
        self.give_up_fragments(None);
        let mut order: Vec<(u64, u32)> = Vec::new();
        for slot in 0..self.table.slots() {
            if self.table.is_used(slot) {
                let sequence = self.table.flow(slot).map_or(0, |flow| flow.sequence);
                order.push((sequence, slot));
            }
        }
        order.sort_unstable();
        for (_, slot) in order {
            let now = self.table.flow(slot).map_or(Time(0), |flow| flow.last);
            self.end(slot, EndReason::Stop, now, sink);
        }
        self.weirds.tell(self.config.shard, sink);
    }

    /// The flow's key if this segment of the ring does not index the flow yet; it counts as indexed from now on.
    #[inline]
    pub fn due_for_index(&mut self, tag: FlowTag, segment: u32) -> Option<FlowKey> {
        let flow = self.table.flow(tag.slot?)?;
        if flow.mark == segment {
            return None;
        }
        flow.mark = segment;
        Some(flow.key)
    }

    /// Frames of a port that are in no flow.
    pub fn no_flow(&self, port: u16) -> Count {
        self.no_flow.get(usize::from(port)).copied().unwrap_or_default()
    }

    /// Flows open.
    pub fn flows_open(&self) -> u64 {
        self.table.open()
    }

    /// What was counted.
    pub fn counters(&self) -> ShardCounters {
        self.counters
    }
}

impl FlowTag {
    /// True if the frame is in no flow (yet).
    pub fn is_none(&self) -> bool {
        self.slot.is_none()
    }
}

/// A packet on its way into its flow.
struct At<'a> {
    packet: &'a Packet<'a>,
    datagram: &'a Datagram<'a>,
    key: FlowKey,
    side: Side,
    hash: u64,
    frames: Count,
}

fn segment_of(tcp: &crate::decode::Tcp<'_>, side: Side) -> Segment {
    let crate::decode::Tcp { seq, ack, flags, window, payload_len, .. } = *tcp;
    Segment { side, seq, ack, flags, window, len: payload_len }
}

/// Who began it: the sender of the first packet, unless only the sender's port is a server's.
fn originator_of(at: &At<'_>) -> Side {
    let (source, target) = match at.side {
        Side::A => (at.key.a_port, at.key.b_port),
        Side::B => (at.key.b_port, at.key.a_port),
    };
    let proto = at.key.proto;
    let (from_server, to_server) = (is_likely_server(proto, source), is_likely_server(proto, target));
    let flips = match &at.datagram.transport {
        Transport::Tcp(tcp) => {
            let (syn, ack) = (tcp.flags.any(TcpFlags::SYN), tcp.flags.any(TcpFlags::ACK));
            (!syn || ack) && from_server && (!to_server || (!syn && source < target))
        }
        Transport::Udp(_) => from_server && !to_server,
        _ => false,
    };
    let broadcast = at.datagram.target.as_v4() == Some([255; 4]);
    if flips && !broadcast { at.side.other() } else { at.side }
}

fn context_of(flow: &Flow, now: Time, shard: u8) -> FlowContext {
    let (orig, resp) = (flow.originator, flow.originator.other());
    let address = |side: Side| if side == Side::A { flow.key.a } else { flow.key.b };
    FlowContext {
        now,
        shard,
        sequence: flow.sequence,
        network: flow.key.network,
        orig_h: address(orig),
        orig_p: flow.side_port(orig),
        resp_h: address(resp),
        resp_p: flow.side_port(resp),
        proto: flow.key.proto,
    }
}

fn direction_of(flow: &Flow, side: Side) -> Direction {
    if side == flow.originator { Direction::Originator } else { Direction::Responder }
}

fn take_transport(flow: &mut Flow, at: &At<'_>, now: Time, shard: u8, sink: &mut dyn RecordSink) {
    match &at.datagram.transport {
        Transport::Tcp(tcp) => take_tcp(flow, tcp, at.side, now, shard, sink),
        Transport::Udp(udp) => {
            flow.last = now;
            flow.note_datagram(at.side);
            flow.side_mut(at.side).payload += u64::from(udp.payload_len);
            if !udp.payload.is_empty() {
                feed(flow, at.side, udp.payload, now, shard, sink);
                if flow.conversation.as_ref().is_some_and(|streams| streams.service() == Some("dns")) {
                    flow.is_dns(now);
                }
            }
        }
        Transport::Icmp(icmp) => {
            flow.last = now;
            flow.side_mut(at.side).payload += u64::from(icmp.payload_len);
        }
        Transport::Other(payload) => {
            flow.last = now;
            flow.side_mut(at.side).payload += payload.len() as u64;
        }
        Transport::Fragment | Transport::Damaged => flow.last = now,
    }
    debug_assert!(flow.key.proto != Proto(0) || now >= flow.first);
}

fn feed(flow: &mut Flow, side: Side, bytes: &[u8], now: Time, shard: u8, sink: &mut dyn RecordSink) {
    let context = context_of(flow, now, shard);
    let direction = direction_of(flow, side);
    let conversation = flow.conversation.get_or_insert_with(Box::default);
    conversation.feed(&context, direction, bytes, sink);
}

fn take_tcp(
    flow: &mut Flow,
    tcp: &crate::decode::Tcp<'_>,
    side: Side,
    now: Time,
    shard: u8,
    sink: &mut dyn RecordSink,
) {
    let segment = segment_of(tcp, side);
    let Flow { tcp: state, originator, history, .. } = flow;
    let originator_before = *originator;
    let step = state.take(&segment, &mut Roles { originator, history });
    if flow.originator != originator_before {
        flow.macs = flow.macs.map(|(source, target)| (target, source));
    }
    if !flow.tcp.is_closed() {
        flow.last = now;
    }
    if let Some(acknowledged) = step.acknowledges {
        acknowledge(flow, side.other(), acknowledged, now, shard, sink);
        check_end(flow, side.other());
    }
    let whole = tcp.payload.len() as u64 >= u64::from(tcp.payload_len);
    if let Some(place) = step.data_at.filter(|_| whole) {
        send(flow, side, place, tcp.payload, now, shard, sink);
    }
    check_end(flow, side);
    if step.closes {
        close(flow, side);
    }
}

/// Payload of one side at a place of its stream.
fn send(
    flow: &mut Flow,
    side: Side,
    mut place: u64,
    mut bytes: &[u8],
    now: Time,
    shard: u8,
    sink: &mut dyn RecordSink,
) {
    let end = flow.tcp.end(side);
    let behind = place + bytes.len() as u64;
    let floor = end.acknowledged().max(end.next);
    if behind <= floor {
        return;
    }
    if place < floor {
        bytes = bytes.get(usize::try_from(floor - place).unwrap_or(usize::MAX)..).unwrap_or_default();
        place = floor;
    }
    if place > flow.tcp.end(side).next {
        flow.conversation.get_or_insert_with(Box::default).keep(side, place, bytes);
        return;
    }
    flow.tcp.end_mut(side).next = behind;
    feed(flow, side, bytes, now, shard, sink);
    drain_early(flow, side, now, shard, sink);
}

/// Gives early pieces that are now in order.
fn drain_early(flow: &mut Flow, side: Side, now: Time, shard: u8, sink: &mut dyn RecordSink) {
    while let Some(conversation) = flow.conversation.as_mut().filter(|streams| streams.waits(side)) {
        let next = flow.tcp.end(side).next;
        let Some((end, bytes)) = conversation.take_next(side, next) else { return };
        if end > next {
            flow.tcp.end_mut(side).next = end;
            if !bytes.is_empty() {
                feed(flow, side, &bytes, now, shard, sink);
            }
        }
    }
}

/// The peer acknowledged this side's stream up to here: what is missing below will never come.
fn acknowledge(flow: &mut Flow, side: Side, acknowledged: u64, now: Time, shard: u8, sink: &mut dyn RecordSink) {
    let end = flow.tcp.end(side);
    let mut up_to = acknowledged;
    if end.fins > 0 && up_to >= end.fin_seq {
        up_to = end.fin_seq.saturating_sub(1);
    }
    let unheard = up_to <= 2 && flow.tcp.is_partial;
    if up_to <= end.next || up_to > u64::from(u32::MAX) * 4096 || unheard {
        return;
    }
    while flow.tcp.end(side).next < up_to {
        let next = flow.tcp.end(side).next;
        let early = flow.conversation.as_ref().and_then(|streams| streams.first_early(side));
        let until = early.filter(|start| *start < up_to).unwrap_or(up_to).max(next);
        if until > next {
            gap(flow, side, until - next, now, shard, sink);
            flow.tcp.end_mut(side).next = until;
        }
        drain_early(flow, side, now, shard, sink);
    }
}

fn gap(flow: &mut Flow, side: Side, missing: u64, now: Time, shard: u8, sink: &mut dyn RecordSink) {
    if flow.tcp.end(side).is_clean() && flow.tcp.end(side.other()).is_clean() {
        flow.missed_bytes += missing;
        let by_originator = side == flow.originator;
        if flow.tcp.end_mut(side).gap_is_told() {
            flow.history.add(b'G', by_originator);
        }
    }
    let (context, direction) = (context_of(flow, now, shard), direction_of(flow, side));
    if let Some(conversation) = &mut flow.conversation {
        conversation.tell_gap(&context, direction, missing, sink);
    }
}

/// True while bytes before the end of this side's stream are missing.
fn is_pending(flow: &Flow, side: Side) -> bool {
    flow.tcp.end(side).is_pending()
}

/// The end of a side's stream: a close that waited for it is told now.
fn check_end(flow: &mut Flow, side: Side) {
    let end = flow.tcp.end(side);
    let over = end.fins > 0 || matches!(end.state, super::tcp::EndState::Closed | super::tcp::EndState::Reset);
    if end.did_end || !over || is_pending(flow, side) {
        return;
    }
    flow.tcp.end_mut(side).did_end = true;
    if flow.tcp.close_deferred {
        flow.tcp.close_deferred = false;
        close(flow, side);
    }
}

fn close(flow: &mut Flow, side: Side) {
    if is_pending(flow, side) {
        flow.tcp.close_deferred = true;
        return;
    }
    flow.tcp.close_deferred = false;
    if flow.tcp.close(side) {
        flow.close_soon();
    }
}
