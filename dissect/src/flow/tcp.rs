//! TCP as Zeek understands it: the states of both ends, sequence space beyond 32 bits, retransmissions, zero windows,
//! closes. Sizes come from sequence numbers, so that a capture that lost packets still tells how much was sent.

pub(super) use super::tcp_end::EndState;

use super::history::{History, Once, is_told};
use super::key::Side;
use super::tcp_end::{End, begin_end, take_ack, take_last};
use crate::decode::TcpFlags;
use thymus_record::table::ConnState;

/// A segment as the state machine sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Who sent it.
    pub(super) side: Side,
    /// Sequence number.
    pub(super) seq: u32,
    /// Acknowledgement number.
    pub(super) ack: u32,
    /// Flags.
    pub(super) flags: TcpFlags,
    /// Window, unscaled.
    pub(super) window: u16,
    /// Payload length by the headers.
    pub(super) len: u32,
}

/// What a segment means for the streams and timers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Where its payload starts, relative; `None` if it is not part of the stream.
    pub(super) data_at: Option<u64>,
    /// How far it acknowledges the peer, relative.
    pub(super) acknowledges: Option<u64>,
    /// Its sender closes.
    pub(super) closes: bool,
}

/// Both ends of a connection, by side of its key.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tcp {
    /// The ends.
    pub(super) ends: [End; 2],
    /// It began without a handshake.
    pub(super) is_partial: bool,
    /// A close waits for the stream to be complete.
    pub(super) close_deferred: bool,
}

/// The parts of a flow that the state machine may change.
pub(super) struct Roles<'a> {
    /// The originator's side.
    pub(super) originator: &'a mut Side,
    /// The history.
    pub(super) history: &'a mut History,
}

impl Roles<'_> {
    fn is_originator(&self, side: Side) -> bool {
        *self.originator == side
    }

    fn flip(&mut self, tcp: &mut Tcp) {
        *self.originator = self.originator.other();
        self.history.add(b'^', true);
        tcp.is_partial = false;
    }
}

impl Tcp {
    /// A new connection's ends.
    pub(super) fn new() -> Tcp {
        Tcp { ends: [End::new(); 2], ..Tcp::default() }
    }

    fn pair(&mut self, side: Side) -> (&mut End, &mut End) {
        let [a, b] = &mut self.ends;
        match side {
            Side::A => (a, b),
            Side::B => (b, a),
        }
    }

    /// One end.
    pub(super) fn end(&self, side: Side) -> &End {
        let [a, b] = &self.ends;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// One end, to be changed.
    pub(super) fn end_mut(&mut self, side: Side) -> &mut End {
        self.pair(side).0
    }

    /// Both closes were told.
    pub(super) fn is_closed(&self) -> bool {
        self.ends.iter().all(|end| end.did_close)
    }

    /// A SYN that begins another connection with the same ports.
    pub(super) fn is_reuse(&self, segment: &Segment, originator: Side) -> bool {
        let (flags, [orig, resp]) = (segment.flags, [self.end(originator), self.end(originator.other())]);
        if !flags.any(TcpFlags::SYN) {
            return false;
        }
        let with_ack = flags.any(TcpFlags::ACK);
        if with_ack && orig.state != EndState::Inactive {
            return false;
        }
        let first = if with_ack { resp } else { orig };
        if self.ends.iter().any(|end| end.did_close) {
            return true;
        }
        let reversed = !with_ack
            && first.state == EndState::SynAckSent
            && resp.state == EndState::Inactive
            && segment.seq == resp.start;
        segment.seq != first.start && !reversed
    }

    /// Takes a segment.
    pub(super) fn take(&mut self, segment: &Segment, roles: &mut Roles<'_>) -> Step {
        let Segment { side, seq, ack, flags, len, .. } = *segment;
        let (syn, fin, rst) = (flags.any(TcpFlags::SYN), flags.any(TcpFlags::FIN), flags.any(TcpFlags::RST));
        self.note_partial(side, flags, roles);
        let consumed = u32::from(syn) + u32::from(fin) + if rst { 0 } else { len };
        let behind = seq.wrapping_add(consumed);
        let (end, _) = self.pair(side);
        begin_end(end, syn, seq, behind);
        let (rel_seq, underflow) = end.relative(seq, end.last, end.last_wraps);
        self.note_history(segment, rel_seq, roles);
        let (end, peer) = self.pair(side);
        let idle_window = rst || peer.state == EndState::Closed || end.state == EndState::Reset;
        if segment.window == 0 && !idle_window {
            end.zero_windows = end.zero_windows.saturating_add(1);
            if is_told(end.zero_windows) {
                roles.history.add(b'W', roles.is_originator(side));
            }
        }
        if fin {
            end.fins = end.fins.saturating_add(1);
            end.fin_seq = rel_seq.wrapping_add(u64::from(consumed));
        }
        let acknowledges = if flags.any(TcpFlags::ACK) { Some(take_ack(peer, ack, rst)) } else { None };
        let ahead = take_last(end, behind, flags);
        if ahead.is_none() && len > 0 {
            end.retransmissions = end.retransmissions.saturating_add(1);
            if is_told(end.retransmissions) {
                roles.history.add(b'T', roles.is_originator(side));
            }
        }
        let closes = self.change_state(segment, roles);
        let in_stream = len > 0 && !rst && !underflow;
        self.end_mut(side).seen = true;
        Step { data_at: in_stream.then_some(rel_seq.wrapping_add(u64::from(syn))), acknowledges, closes }
    }

    fn note_partial(&mut self, side: Side, flags: TcpFlags, roles: &Roles<'_>) {
        if self.end(side).seen {
            return;
        }
        let syn = flags.any(TcpFlags::SYN);
        if roles.is_originator(side) {
            self.is_partial = !syn || flags.any(TcpFlags::ACK);
        } else if !self.is_partial {
            self.is_partial = !syn;
        }
    }

    fn note_history(&mut self, segment: &Segment, rel_seq: u64, roles: &mut Roles<'_>) {
        let Segment { side, flags, len, .. } = *segment;
        let place = u32::try_from(rel_seq & u64::from(u32::MAX)).unwrap_or_default();
        let originator = roles.is_originator(side);
        match (flags.any(TcpFlags::SYN), flags.any(TcpFlags::FIN), flags.any(TcpFlags::RST)) {
            (_, true, true) => drop(roles.history.check(Once::FinRst, b'I', side, originator)),
            (true, true, _) | (true, _, true) => drop(roles.history.check(Once::Multi, b'Q', side, originator)),
            (true, false, false) => {
                let letter = if flags.any(TcpFlags::ACK) { b'H' } else { b'S' };
                let end = self.end_mut(side);
                again(roles.history, Once::Syn, letter, side, originator, &mut end.told_syn, place);
            }
            (false, true, false) => {
                let end = self.end_mut(side);
                again(roles.history, Once::Fin, b'F', side, originator, &mut end.told_fin, place.wrapping_add(len));
            }
            (false, false, true) => {
                let end = self.end_mut(side);
                again(roles.history, Once::Rst, b'R', side, originator, &mut end.told_rst, place);
            }
            (false, false, false) if len > 0 || flags.any(TcpFlags::ACK) => {
                self.flip_after_bare_syn_ack(roles);
                let originator = roles.is_originator(side);
                let (event, letter) = if len > 0 { (Once::Data, b'D') } else { (Once::Ack, b'A') };
                roles.history.check(event, letter, side, originator);
            }
            _ => {}
        }
    }

    /// A connection that began with a SYN-ACK and now carries traffic is no stealth scan: its SYN was missed.
    fn flip_after_bare_syn_ack(&mut self, roles: &mut Roles<'_>) {
        if roles.history.is_only(b'H') {
            roles.flip(self);
            roles.history.replace(b"^h");
            let originator = *roles.originator;
            self.end_mut(originator).seen = true;
        }
    }

    /// Moves the sender's state; true if it closes with this segment.
    fn change_state(&mut self, segment: &Segment, roles: &mut Roles<'_>) -> bool {
        let Segment { side, flags, .. } = *segment;
        let (syn, fin, rst) = (flags.any(TcpFlags::SYN), flags.any(TcpFlags::FIN), flags.any(TcpFlags::RST));
        let (end, peer) = self.pair(side);
        match end.state {
            EndState::Inactive => self.leave_inactive(segment, roles),
            EndState::SynSent | EndState::SynAckSent => {
                if fin {
                    end.set(EndState::Closed);
                }
                if rst {
                    end.set(EndState::Reset);
                }
                fin || rst
            }
            EndState::Established | EndState::Partial => {
                let begins = syn && !flags.any(TcpFlags::ACK);
                if begins && end.state == EndState::Partial && peer.state == EndState::Inactive {
                    end.set(EndState::SynSent);
                }
                if fin && !rst {
                    end.set(EndState::Closed);
                    if peer.state == EndState::Reset && peer.before == EndState::Closed {
                        peer.set(EndState::Closed);
                    }
                }
                if rst {
                    end.set(EndState::Reset);
                }
                fin || rst
            }
            EndState::Closed if rst && peer.state != EndState::Closed => {
                end.set(EndState::Reset);
                !end.did_close
            }
            EndState::Closed | EndState::Reset => false,
        }
    }

    fn leave_inactive(&mut self, segment: &Segment, roles: &mut Roles<'_>) -> bool {
        let Segment { side, seq, flags, len, .. } = *segment;
        let (fin, rst, with_ack) = (flags.any(TcpFlags::FIN), flags.any(TcpFlags::RST), flags.any(TcpFlags::ACK));
        let by_originator = roles.is_originator(side);
        if flags.any(TcpFlags::SYN) {
            if by_originator {
                self.end_mut(side).set(if with_ack { EndState::SynAckSent } else { EndState::SynSent });
            } else {
                let (end, peer) = self.pair(side);
                if !with_ack && peer.state == EndState::SynAckSent && seq == end.start {
                    // The SYN and its SYN-ACK came in the wrong order.
                    peer.set(EndState::Established);
                    roles.flip(self);
                }
                let (end, peer) = self.pair(side);
                if peer.state == EndState::SynSent {
                    peer.set(EndState::Established);
                }
                end.set(EndState::Established);
            }
        }
        let originator_state = self.end(*roles.originator).state;
        let (end, peer) = self.pair(side);
        if fin {
            end.set(EndState::Closed);
        }
        if rst {
            end.set(EndState::Reset);
        }
        if end.state == EndState::Inactive {
            let early_ack = !by_originator && len == 0 && originator_state == EndState::SynSent;
            if with_ack && !early_ack && peer.state == EndState::Established {
                end.set(EndState::Established);
                end.seen = true;
                self.is_partial = false;
            } else if !early_ack {
                end.set(EndState::Partial);
            }
        }
        fin || rst
    }

    /// The sender's close is told now; true if that completes the connection's end.
    pub(super) fn close(&mut self, side: Side) -> bool {
        let (end, peer) = self.pair(side);
        if end.did_close {
            return false;
        }
        end.did_close = true;
        end.state == EndState::Reset || peer.did_close || peer.state == EndState::Inactive
    }

    /// Zeek's summary.
    pub(super) fn conn_state(&self, originator: Side, history: &str) -> ConnState {
        let (orig, resp) = (self.end(originator), self.end(originator.other()));
        let quiet = |end: &End| matches!(end.state, EndState::Inactive | EndState::Partial);
        let empty = || orig.size(resp) == 0 && resp.size(orig) == 0;
        match (orig.state, resp.state) {
            (EndState::SynSent | EndState::SynAckSent, EndState::Reset) => ConnState::Rej,
            (EndState::Reset, EndState::Reset) if empty() => ConnState::Rej,
            (_, EndState::Reset) if quiet(orig) => ConnState::Rstrh,
            (_, EndState::Reset) => ConnState::Rstr,
            (EndState::Reset, _) if quiet(resp) && is_syn_then_rst(history) => ConnState::Rstos0,
            (EndState::Reset, _) if quiet(resp) => ConnState::Oth,
            (EndState::Reset, _) => ConnState::Rsto,
            (EndState::Closed, EndState::Closed) => ConnState::Sf,
            (EndState::Closed, _) if quiet(resp) => ConnState::Sh,
            (EndState::Closed, _) => ConnState::S2,
            (_, EndState::Closed) if quiet(orig) => ConnState::Shr,
            (_, EndState::Closed) => ConnState::S3,
            (EndState::SynSent, EndState::Inactive) => ConnState::S0,
            (EndState::Established, EndState::Established) => ConnState::S1,
            _ => ConnState::Oth,
        }
    }
}

/// The originator sent a SYN and later a RST, and neither data nor anything of a handshake between them.
fn is_syn_then_rst(history: &str) -> bool {
    let letters = history.strip_prefix('^').unwrap_or(history);
    let Some(rest) = letters.strip_prefix('S') else { return false };
    let until = rest.find(['H', 'A', 'F', 'G', 'I', 'Q']).unwrap_or(rest.len());
    rest.get(..until).is_some_and(|between| between.contains('R'))
}

fn again(history: &mut History, event: Once, letter: u8, side: Side, originator: bool, told: &mut u32, place: u32) {
    if history.check(event, letter, side, originator) && place != *told {
        history.add(letter, originator);
    }
    *told = place;
}
