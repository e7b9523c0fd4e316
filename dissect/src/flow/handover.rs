//! A shard beside a capture that looks at each packet itself: packets come one by one, and flows end before their time,
//! all of them at the end, or those that somebody else goes on with.

use super::key::FlowKey;
use super::network::NetworkTable;
use super::shard::{FlowShard, FlowTag, Look, ShardCounters};
use crate::Frame;
use crate::decode::{Content, Packet};
use thymus_record::RecordSink;
use thymus_record::ledger::Count;
use thymus_record::table::EndReason;

impl FlowShard {
    /// Takes one packet that was decoded already from this frame.
    pub fn observe_packet(
        &mut self,
        packet: Packet<'_>,
        frame: &Frame<'_>,
        networks: &mut NetworkTable,
        sink: &mut dyn RecordSink,
    ) -> FlowTag {
        let network = networks.of(frame, &packet.layers);
        let key = match &packet.content {
            Content::Ip(datagram) => FlowKey::of(network, datagram),
            _ => None,
        };
        let hash = key.map_or(0, |(key, _)| key.hash(self.config.secret));
        let guess = self.table.guess(hash);
        self.observe(&Look { packet, network, key }, (hash, guess), frame, sink)
    }

    /// Ends the flows whose key `goes`, in the order in which they began, with this reason; gives how many.
    pub fn end_where(
        &mut self,
        mut goes: impl FnMut(&FlowKey) -> bool,
        reason: EndReason,
        sink: &mut dyn RecordSink,
    ) -> usize {
        let mut order: Vec<(u64, u32)> = Vec::new();
        for place in 0..self.table.places() {
            if self.table.is_used(place)
                && let Some(flow) = self.table.flow(place)
                && goes(&flow.key)
            {
                order.push((flow.sequence, place));
            }
        }
        order.sort_unstable();
        for (_, place) in &order {
            let Some(now) = self.table.flow(*place).map(|flow| flow.last) else { continue };
            self.end(*place, reason, now, sink);
        }
        order.len()
    }

    /// Ends all flows, in the order in which they began.
    pub fn finish(&mut self, sink: &mut dyn RecordSink) {
        self.hand_over_all(EndReason::Stop, sink);
    }

    /// Ends all flows with this reason, and tells everything that waits; the shard goes on empty.
    pub fn hand_over_all(&mut self, reason: EndReason, sink: &mut dyn RecordSink) {
        self.give_up_fragments(None);
        self.end_where(|_| true, reason, sink);
        self.tell_weirds(sink);
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
