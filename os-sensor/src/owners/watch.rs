//! The capture's side: which packets begin flows. A packet costs a hash and one look into a small table.

use super::OwnerCounts;
use crate::process::{Bell, Ends};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use thymus_dissect::decode::{Content, Packet, Transport};
use thymus_record::Time;
use thymus_record::time::SECOND;

/// Places of the table of flows seen.
const SEEN: usize = 8_192;
/// A flow without packets for so long is looked up again when one comes.
const SEEN_FOR: u64 = 60 * SECOND;
/// TCP and UDP.
pub(super) const PROTOS: [u8; 2] = [6, 17];

/// Flows seen of late, by a hash: direct-mapped.
struct Seen(Box<[(u64, Time)]>);

impl Seen {
    fn new() -> Seen {
        Seen(vec![(0, Time(0)); SEEN].into())
    }

    /// True if it was not seen of late, or begins anew.
    fn is_new(&mut self, hash: u64, now: Time, begins: bool) -> bool {
        let at = usize::try_from(hash % SEEN as u64).unwrap_or_default();
        let Some(slot) = self.0.get_mut(at) else { return false };
        let since = now.since(slot.1);
        let known = slot.0 == hash && since < SEEN_FOR && !(begins && since > SECOND);
        *slot = (hash, now);
        !known
    }
}

/// What the capture tells the thread.
pub struct Watch {
    seen: Seen,
    seed: u64,
    new: SyncSender<Ends>,
    bell: Bell,
    counts: Arc<OwnerCounts>,
}

impl Watch {
    pub(super) fn new(seed: u64, new: SyncSender<Ends>, bell: Bell, counts: Arc<OwnerCounts>) -> Watch {
        Watch { seen: Seen::new(), seed, new, bell, counts }
    }

    /// Looks at a packet and its ends. Whether source or target is this host's end, the thread sorts out.
    #[inline]
    pub fn note(&mut self, packet: &Packet<'_>, ends: &thymus_witness::Ends, now: Time) {
        if !PROTOS.contains(&ends.proto) || ends.source_port == 0 {
            return;
        }
        let begins = matches!(&packet.content, Content::Ip(datagram)
            if matches!(&datagram.transport, Transport::Tcp(tcp) if begins(tcp.flags.0)));
        if self.seen.is_new(thymus_witness::flow_hash(self.seed, ends), now, begins) {
            self.ask(Ends {
                proto: ends.proto,
                local: SocketAddr::new(ends.source.to_ip(), ends.source_port),
                remote: SocketAddr::new(ends.target.to_ip(), ends.target_port),
            });
        }
    }

    /// Forgets what was seen: what goes on is looked up and told again.
    pub fn forget(&mut self) {
        self.seen = Seen::new();
    }

    #[cold]
    fn ask(&self, ends: Ends) {
        if self.new.try_send(ends).is_err() {
            self.counts.let_go.fetch_add(1, Ordering::Relaxed);
        }
        self.bell.ring();
    }
}

/// SYN without ACK.
pub(super) fn begins(flags: u8) -> bool {
    flags & 0x12 == 0x02
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_new_once_until_it_rests_or_begins_anew() {
        let mut seen = Seen::new();
        let at = |second: u64| Time(second * SECOND);
        assert!(seen.is_new(7, at(100), true));
        assert!(!seen.is_new(7, at(100), true), "a SYN sent again");
        assert!(!seen.is_new(7, at(130), false));
        assert!(!seen.is_new(7, at(189), false), "it had packets in between");
        assert!(seen.is_new(7, at(191), true), "the same ports begin anew");
        assert!(seen.is_new(7, at(251), false), "it rested");
        assert!(seen.is_new(7 + SEEN as u64, at(251), false) && seen.is_new(7, at(251), false), "one place, two flows");
    }
}
