//! A flow between its packets: counts by side since its row before, TCP's state, and what its rows say.

use super::history::{History, Once};
use super::key::{FlowKey, Side};
use super::stream::Conversation;
use super::tcp::{EndState, Tcp};
use crate::decode::Tunnel;
use thymus_record::column::Proto;
use thymus_record::table::{ConnState, EndReason, FlowKind, FlowRow};
use thymus_record::time::SECOND;
use thymus_record::{Mac, Time};

/// TCP without traffic (Zeek's `tcp_inactivity_timeout`).
const TCP_IDLE: u64 = 300 * SECOND;
/// TCP sessions that people leave open (Zeek's inactivity of FTP, SSH, Telnet and rlogin).
const TERMINAL_IDLE: u64 = 3_600 * SECOND;
/// UDP, ICMP and other protocols without traffic.
const PLAIN_IDLE: u64 = 60 * SECOND;
/// An attempt without an answer, a closed or half-closed connection without traffic.
const LINGER: u64 = 5 * SECOND;
/// DNS over UDP is looked at this long after its first packet, and again.
const DNS_CHECK: u64 = 10 * SECOND;

/// What packets of one side have added since the row before.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct SideCounts {
    /// Packets; a datagram put together from fragments is one.
    pub(super) pkts: u64,
    /// Bytes by the IP header.
    pub(super) ip_bytes: u64,
    /// Payload bytes, all rows together.
    pub(super) payload: u64,
    /// Payload bytes that rows have told.
    pub(super) told: u64,
}

/// No such time.
pub(super) const NEVER: Time = Time(u64::MAX);

/// A flow. What every packet reads or writes comes first, a cache line a group; what its begin and its rows need, last.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct Flow {
    /// The hash of its key, never 0; 0 marks a free place.
    pub(super) hash: u64,
    /// Its key.
    pub(super) key: FlowKey,
    /// The ring's segment that indexes it.
    pub(super) mark: u32,
    /// The port of its first packet.
    pub(super) port: u16,
    /// The side that began it.
    pub(super) originator: Side,
    /// Pieces came before those they follow, at some time.
    pub(super) has_early: bool,
    /// Somebody reads its streams, or may yet.
    pub(super) is_read: bool,
    /// Sides whose first bytes were shown to all readers.
    pub(super) probed: [bool; 2],

    /// Last packet that counts for its duration.
    pub(super) last: Time,
    /// First packet of the row's span, where `frames` is not 0.
    pub(super) from: Time,
    /// When it ends if no packet comes, as its last packet left it.
    pub(super) deadline: Time,
    /// When it is removed whatever comes, after its close.
    pub(super) close_at: Time,
    /// When a DNS exchange is looked at.
    pub(super) dns_check: Time,
    /// When the next interim row is due.
    pub(super) interim_at: Time,
    /// Frames since the row before.
    pub(super) frames: u64,
    /// Their wire bytes.
    pub(super) wire_bytes: u64,

    /// Counts by side.
    pub(super) sides: [SideCounts; 2],

    /// TCP's state.
    pub(super) tcp: Tcp,
    /// Its history.
    pub(super) history: History,
    /// Wire bytes not captured.
    pub(super) cut_bytes: u64,
    /// Its readers and early pieces, once it needs them.
    pub(super) conversation: Option<Box<Conversation>>,

    /// First packet.
    pub(super) first: Time,
    /// Its number in the shard.
    pub(super) sequence: u64,
    /// Bytes in content gaps since the row before.
    pub(super) missed_bytes: u64,
    /// The tunnel of its first packet.
    pub(super) tunnel: Option<Box<Tunnel>>,
    /// MACs of the first packet's source and target.
    pub(super) macs: Option<(Mac, Mac)>,
    /// Rows told.
    pub(super) ordinal: u32,
    /// The agent that delivered its first packet; 0 for a port's own.
    pub(super) agent: u32,
    /// Frames of agents that own neither end, since the row before.
    pub(super) unverified: u32,
    /// The packet at hand is of such an agent.
    pub(super) is_unverified: bool,
    /// It is the sensor's own transport, as far as was known with this change of it.
    pub(super) is_own: bool,
    pub(super) judged: u16,
}

/// A flow is seven cache lines; every line more is one more miss for each packet of a busy table.
const _: () = assert!(size_of::<Flow>() <= 7 * 64);

impl Flow {
    /// Loads the lines that a packet will change.
    #[inline]
    pub(super) fn touch(&self) -> u64 {
        let [a, _] = &self.sides;
        let [left, right] = &self.tcp.ends;
        self.hash ^ self.last.0 ^ a.pkts ^ left.next ^ right.next ^ self.cut_bytes
    }

    /// The port of a side.
    pub(super) fn side_port(&self, side: Side) -> u16 {
        match side {
            Side::A => self.key.a_port,
            Side::B => self.key.b_port,
        }
    }

    /// A side's counts.
    pub(super) fn side_mut(&mut self, side: Side) -> &mut SideCounts {
        let [a, b] = &mut self.sides;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    fn side(&self, side: Side) -> &SideCounts {
        let [a, b] = &self.sides;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// Counts an IP packet of so many frames.
    #[inline]
    pub(super) fn count(&mut self, side: Side, now: Time, ip_bytes: u64, frames: u64, wire_bytes: u64) {
        let counts = self.side_mut(side);
        counts.pkts += 1;
        counts.ip_bytes += ip_bytes;
        if self.frames == 0 {
            self.from = now;
        }
        self.frames += frames;
        self.wire_bytes += wire_bytes;
    }

    /// It began with a packet of its responder.
    pub(super) fn turn_round(&mut self) {
        self.history.add(b'^', true);
        self.macs = self.macs.map(|(source, target)| (target, source));
    }

    /// UDP's letter.
    pub(super) fn note_datagram(&mut self, side: Side) {
        let by_originator = side == self.originator;
        self.history.check(Once::Data, b'D', side, by_originator);
    }

    /// True for a flow that has not been answered: the first to go when the table is full.
    pub(super) fn is_embryonic(&self) -> bool {
        self.side(self.originator.other()).pkts == 0 && self.ordinal == 0
    }

    /// When it ends if no packet comes.
    pub(super) fn expiry(&self) -> Time {
        if self.close_at != NEVER {
            return self.close_at;
        }
        if self.key.proto != Proto::TCP {
            return self.dns_check.min(self.last + PLAIN_IDLE);
        }
        let (orig, resp) = (self.tcp.end(self.originator), self.tcp.end(self.originator.other()));
        let attempt =
            matches!(orig.state, EndState::SynSent | EndState::SynAckSent) && resp.state == EndState::Inactive;
        if attempt {
            return self.first + LINGER;
        }
        let one_closed = orig.did_close || resp.did_close;
        let one_over = |end: EndState| matches!(end, EndState::Reset | EndState::Inactive);
        if one_closed && (one_over(orig.state) || one_over(resp.state)) {
            return self.last + LINGER;
        }
        let terminal = matches!(self.side_port(self.originator.other()), 21 | 22 | 23 | 513);
        self.last + if terminal { TERMINAL_IDLE } else { TCP_IDLE }
    }

    /// True if, at `now`, it is over. A DNS exchange that still had traffic gets another while.
    pub(super) fn is_over(&mut self, now: Time) -> bool {
        if self.dns_check <= now {
            if now.since(self.last) >= DNS_CHECK - SECOND {
                return true;
            }
            self.dns_check = self.dns_check + DNS_CHECK;
            self.deadline = self.expiry();
        }
        self.deadline <= now
    }

    /// It speaks DNS over UDP.
    pub(super) fn is_dns(&mut self, now: Time) {
        self.dns_check = self.dns_check.min(now + DNS_CHECK);
    }

    /// It closed: a short while and it goes.
    pub(super) fn close_soon(&mut self) {
        self.close_at = self.close_at.min(self.last + LINGER);
    }

    /// Zeek's summary.
    pub(super) fn conn_state(&self) -> ConnState {
        let seen = |side: Side| self.side(side).pkts > 0 || self.side(side).told > 0 || self.ordinal > 0;
        match self.key.proto {
            Proto::TCP => self.tcp.conn_state(self.originator, self.history.as_str()),
            Proto::UDP => match (seen(self.originator), seen(self.originator.other())) {
                (true, true) => ConnState::Sf,
                (true, false) => ConnState::S0,
                (false, true) => ConnState::Shr,
                (false, false) => ConnState::Oth,
            },
            _ => ConnState::Oth,
        }
    }

    fn size(&self, side: Side) -> u64 {
        match self.key.proto {
            Proto::TCP => self.tcp.end(side).size(self.tcp.end(side.other())),
            _ => self.side(side).payload,
        }
    }

    /// A row of what came since the row before; the counts begin anew.
    pub(super) fn row(&mut self, shard: u8, kind: FlowKind, reason: EndReason) -> FlowRow {
        let (orig, resp) = (self.originator, self.originator.other());
        let lasted = self.last > self.first;
        let sizes = [self.size(orig), self.size(resp)];
        let told = [self.side(orig).told, self.side(resp).told];
        let address = |side: Side| if side == Side::A { self.key.a } else { self.key.b };
        let from = if self.frames > 0 { self.from } else { self.last };
        let row = FlowRow {
            ts: self.first,
            shard,
            sequence: self.sequence,
            ordinal: self.ordinal,
            network: self.key.network,
            orig_h: address(orig),
            orig_p: self.side_port(orig),
            resp_h: address(resp),
            resp_p: self.side_port(resp),
            proto: self.key.proto,
            kind,
            from,
            until: self.last.max(from),
            service: self.conversation.as_ref().and_then(|streams| streams.service()).map(str::to_owned),
            conn_state: self.conn_state(),
            history: self.history.as_str().to_owned(),
            orig_bytes: lasted.then_some(sizes[0].saturating_sub(told[0])),
            resp_bytes: lasted.then_some(sizes[1].saturating_sub(told[1])),
            missed_bytes: self.missed_bytes,
            orig_pkts: self.side(orig).pkts,
            resp_pkts: self.side(resp).pkts,
            orig_ip_bytes: self.side(orig).ip_bytes,
            resp_ip_bytes: self.side(resp).ip_bytes,
            wire_bytes: self.wire_bytes,
            frames: self.frames,
            orig_l2: self.macs.map(|macs| macs.0),
            resp_l2: self.macs.map(|macs| macs.1),
            tunnel: self.tunnel.as_deref().map(tunnel_text),
            reason,
            port: self.port,
            cut_bytes: self.cut_bytes,
            agent: Some(self.agent).filter(|agent| *agent != 0),
            unverified: u64::from(self.unverified),
            ..FlowRow::default()
        };
        self.ordinal += 1;
        (self.frames, self.wire_bytes, self.cut_bytes, self.missed_bytes) = (0, 0, 0, 0);
        self.unverified = 0;
        for (side, size) in [(orig, sizes[0]), (resp, sizes[1])] {
            let counts = self.side_mut(side);
            (counts.pkts, counts.ip_bytes) = (0, 0);
            if lasted {
                counts.told = size;
            }
        }
        row
    }
}

fn tunnel_text(tunnel: &Tunnel) -> String {
    format!("{}:{} {}>{}", tunnel.kind.name(), tunnel.id, tunnel.source, tunnel.target)
}
