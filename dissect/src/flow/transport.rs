//! What a packet's transport does to its flow: TCP's states and streams, UDP and ICMP's counts, and the bytes that go to
//! the reader of the flow's protocol.

use super::entry::Flow;
use super::key::{FlowKey, Side};
use super::ports::is_likely_server;
use super::tcp::{EndState, Roles, Segment};
use crate::decode::{self, Datagram, Packet, TcpFlags, Transport};
use crate::extract::{Analyzer, Direction, FlowContext};
use thymus_record::ledger::Count;
use thymus_record::{RecordSink, Time};

/// A packet on its way into its flow.
pub(super) struct At<'a> {
    pub(super) packet: &'a Packet<'a>,
    pub(super) datagram: &'a Datagram<'a>,
    pub(super) key: FlowKey,
    pub(super) side: Side,
    pub(super) hash: u64,
    pub(super) guess: u32,
    pub(super) frames: Count,
}

pub(super) fn segment_of(tcp: &decode::Tcp<'_>, side: Side) -> Segment {
    let decode::Tcp { seq, ack, flags, window, payload_len, .. } = *tcp;
    Segment { side, seq, ack, flags, window, len: payload_len }
}

pub(super) fn context_of(flow: &Flow, now: Time, shard: u8) -> FlowContext {
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
        unverified: flow.is_unverified,
    }
}

fn direction_of(flow: &Flow, side: Side) -> Direction {
    if side == flow.originator { Direction::Originator } else { Direction::Responder }
}

pub(super) fn take_transport(flow: &mut Flow, at: &At<'_>, now: Time, shard: u8, sink: &mut dyn RecordSink) {
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
}

fn feed(flow: &mut Flow, side: Side, bytes: &[u8], now: Time, shard: u8, sink: &mut dyn RecordSink) {
    if !flow.is_read {
        return;
    }
    let context = context_of(flow, now, shard);
    let direction = direction_of(flow, side);
    if !flow.conversation.as_ref().is_some_and(|streams| streams.is_read()) {
        let probed = flow.probed.get_mut(usize::from(direction == Direction::Responder));
        let is_first = probed.is_some_and(|probed| !std::mem::replace(probed, true));
        flow.is_read = !flow.probed.iter().all(|probed| *probed);
        let Some(analyzer) = is_first.then(|| Analyzer::probe(&context, direction, bytes)).flatten() else { return };
        flow.probed = [true; 2];
        flow.conversation.get_or_insert_default().begin(analyzer);
    }
    let Some(conversation) = &mut flow.conversation else { return };
    conversation.feed(&context, direction, bytes, sink);
    flow.is_read = conversation.is_read();
}

fn take_tcp(flow: &mut Flow, tcp: &decode::Tcp<'_>, side: Side, now: Time, shard: u8, sink: &mut dyn RecordSink) {
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
        flow.has_early = true;
        let wanted = flow.is_read;
        flow.conversation.get_or_insert_default().keep(side, place, bytes, wanted);
        return;
    }
    flow.tcp.end_mut(side).next = behind;
    feed(flow, side, bytes, now, shard, sink);
    if flow.has_early {
        drain_early(flow, side, now, shard, sink);
    }
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
    let over = end.fins > 0 || matches!(end.state, EndState::Closed | EndState::Reset);
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

/// Who began it: the sender of the first packet, unless only the sender's port is a server's.
pub(super) fn originator_of(at: &At<'_>) -> Side {
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
