//! One end of a connection: its state, and its sequence space beyond 32 bits.

use super::history::is_told;
use crate::decode::TcpFlags;

/// A jump in SYN or RST sequence numbers beyond this is not believed.
const JUMP_MAX: i32 = 1 << 20;

/// What one end has done so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) enum EndState {
    /// Nothing.
    #[default]
    Inactive,
    /// Sent a SYN.
    SynSent,
    /// Sent a SYN with ACK as the first packet.
    SynAckSent,
    /// Sent something without a handshake.
    Partial,
    /// Took part in a handshake.
    Established,
    /// Sent a FIN.
    Closed,
    /// Sent a RST.
    Reset,
}

/// One end of a connection.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct End {
    /// Its state.
    pub(super) state: EndState,
    /// The state before.
    pub(super) before: EndState,
    /// Its close was told.
    pub(super) did_close: bool,
    /// All that it sent before its FIN or RST was delivered.
    pub(super) did_end: bool,
    /// It sent a packet that was looked at.
    pub(super) seen: bool,
    /// FINs sent, up to 255.
    pub(super) fins: u8,
    pub(super) start: u32,
    pub(super) last: u32,
    ack: u32,
    pub(super) last_wraps: u16,
    ack_wraps: u16,
    pub(super) told_syn: u32,
    pub(super) told_fin: u32,
    pub(super) told_rst: u32,
    pub(super) retransmissions: u32,
    pub(super) zero_windows: u32,
    gaps: u32,
    /// Relative sequence number behind its last FIN.
    pub(super) fin_seq: u64,
    /// Relative sequence number up to which its stream was delivered or given up.
    pub(super) next: u64,
}

fn delta(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

impl End {
    /// An end that has done nothing; its stream begins behind the SYN.
    pub(super) fn new() -> End {
        End { next: 1, ..End::default() }
    }

    fn init(&mut self, start: u32, last: u32) {
        (self.start, self.ack, self.last) = (start, start, last);
    }

    fn update_last(&mut self, last: u32) {
        self.last_wraps = self.last_wraps.wrapping_add(u16::from(last < self.last));
        self.last = last;
    }

    fn update_ack(&mut self, ack: u32) {
        self.ack_wraps = self.ack_wraps.wrapping_add(u16::from(ack < self.ack));
        self.ack = ack;
    }

    fn full(sequence: u32, wraps: u16) -> u64 {
        u64::from(wraps) << 32 | u64::from(sequence)
    }

    /// A sequence number relative to the first one, and whether it lies before that.
    pub(super) fn relative(&self, sequence: u32, last: u32, wraps: u16) -> (u64, bool) {
        let ahead = delta(sequence, last);
        let wraps = if ahead < 0 && wraps > 0 && sequence > last {
            wraps - 1
        } else if ahead > 0 && sequence < last {
            wraps.wrapping_add(1)
        } else {
            wraps
        };
        if wraps == 0 {
            let ahead = delta(sequence, self.start);
            return (i64::from(ahead).cast_unsigned(), ahead < 0);
        }
        (Self::full(sequence, wraps).wrapping_sub(u64::from(self.start)), false)
    }

    /// How far the peer acknowledged it, relative.
    pub(super) fn acknowledged(&self) -> u64 {
        Self::full(self.ack, self.ack_wraps).wrapping_sub(u64::from(self.start))
    }

    /// Bytes before its FIN or RST are missing. An end that a RST brought into being knows of none.
    pub(super) fn is_pending(&self) -> bool {
        let delivered = u64::from(self.start) + self.next;
        let last = Self::full(self.last, self.last_wraps);
        last > delivered && delivered + 1 != last
    }

    /// Payload bytes sent, by sequence numbers.
    pub(super) fn size(&self, peer: &End) -> u64 {
        let nothing_acknowledged = self.ack == self.start || self.ack == self.start.wrapping_add(1);
        let half_open = self.before == EndState::SynSent && self.state == EndState::Reset;
        if half_open && peer.state == EndState::Inactive && !nothing_acknowledged {
            return 0;
        }
        let (last, ack) = (Self::full(self.last, self.last_wraps), Self::full(self.ack, self.ack_wraps));
        let size = last.max(ack).wrapping_sub(u64::from(self.start));
        size.saturating_sub(1).saturating_sub(u64::from(self.fins > 0))
    }

    pub(super) fn set(&mut self, state: EndState) {
        if state != self.state {
            (self.before, self.state) = (self.state, state);
        }
    }

    /// Its side of the connection stands or was closed in order: gaps count.
    pub(super) fn is_clean(&self) -> bool {
        self.state == EndState::Established || (self.state == EndState::Closed && self.before == EndState::Established)
    }

    /// A content gap; true if it is told.
    pub(super) fn gap_is_told(&mut self) -> bool {
        self.gaps = self.gaps.saturating_add(1);
        is_told(self.gaps)
    }
}

pub(super) fn begin_end(end: &mut End, syn: bool, seq: u32, behind: u32) {
    match end.state {
        EndState::Inactive if syn => end.init(seq, behind),
        EndState::Inactive => end.init(seq.wrapping_sub(1), seq),
        EndState::SynSent | EndState::SynAckSent if syn && seq != end.start => end.init(seq, behind),
        EndState::Established | EndState::Partial if syn => end.init(seq, behind),
        EndState::Reset if syn && end.before == EndState::Inactive => end.init(seq, behind),
        _ => {}
    }
}

/// Notes how far the peer was acknowledged; gives that, relative.
pub(super) fn take_ack(peer: &mut End, ack: u32, rst: bool) -> u64 {
    if peer.state == EndState::Inactive {
        let start = ack.wrapping_sub(1);
        peer.init(start, start);
        return 1;
    }
    let (relative, underflow) = peer.relative(ack, peer.ack, peer.ack_wraps);
    if underflow {
        return 0;
    }
    let ahead = delta(ack, peer.ack);
    let broken = ack == 0 && ahead > JUMP_MAX;
    if !rst && !broken && ahead > 0 {
        peer.update_ack(ack);
    }
    relative
}

/// Notes how far the sender has sent; `None` where the segment brings nothing new.
pub(super) fn take_last(end: &mut End, behind: u32, flags: TcpFlags) -> Option<()> {
    let ahead = delta(behind, end.last);
    let jumps = !(-JUMP_MAX..=JUMP_MAX).contains(&ahead);
    if flags.any(TcpFlags::SYN | TcpFlags::RST) && jumps {
        return Some(());
    }
    if flags.any(TcpFlags::FIN) && end.last == end.start.wrapping_add(1) {
        end.update_last(behind);
        return Some(());
    }
    if end.state == EndState::Reset {
        return Some(());
    }
    if ahead > 0 {
        end.update_last(behind);
        return Some(());
    }
    None
}
