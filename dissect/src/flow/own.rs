//! The sensor's own transport: connections by which it hears its agents and tells its master. Who records them records
//! what was recorded already. Their flows have rows; nothing is read in them, and their frames are told by their tag.

use super::entry::Flow;
use super::shard::FlowShard;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use thymus_record::Address;
use thymus_record::column::Proto;

type End = (Address, u16);

/// TCP connections, each by exactly its two ends.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct OwnEnds(HashSet<(End, End)>);

impl OwnEnds {
    /// These connections.
    pub fn new(connections: impl IntoIterator<Item = (SocketAddr, SocketAddr)>) -> OwnEnds {
        let end = |end: SocketAddr| (Address::from(end.ip()), end.port());
        OwnEnds(connections.into_iter().map(|(one, other)| in_order(end(one), end(other))).collect())
    }
}

fn in_order(one: End, other: End) -> (End, End) {
    (one.min(other), one.max(other))
}

/// What a shard knows of them.
#[derive(Default)]
pub(super) struct Own {
    ends: Arc<OwnEnds>,
    /// Grows with every change; 0 before the first, so that flows need no look.
    generation: u16,
    /// The packet at hand is of one.
    pub(super) is_at_hand: bool,
}

impl Own {
    /// Looks whether the flow is one, once for each change, and stops reading in it.
    #[inline]
    pub(super) fn judge(&mut self, flow: &mut Flow) {
        if flow.judged != self.generation {
            flow.judged = self.generation;
            let (a, b) = ((flow.key.a, flow.key.a_port), (flow.key.b, flow.key.b_port));
            flow.is_own = flow.key.proto == Proto::TCP && self.ends.0.contains(&in_order(a, b));
            flow.is_read &= !flow.is_own;
        }
        self.is_at_hand = flow.is_own;
    }
}

impl FlowShard {
    /// From now on these connections are the sensor's own.
    pub fn set_own(&mut self, ends: Arc<OwnEnds>) {
        self.own.ends = ends;
        self.own.generation = self.own.generation.wrapping_add(1).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Frame;
    use crate::flow::{FlowTag, NetworkTable, ShardConfig};
    use thymus_record::{Record, Time};

    /// A segment, with a request that would give a row if it were read.
    fn segment(source: [u8; 4], source_port: u16, target: [u8; 4], target_port: u16, seq: u8, flags: u8) -> Vec<u8> {
        let payload: &[u8] = if flags == 0x18 { b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" } else { b"" };
        let length = u8::try_from(40 + payload.len()).unwrap();
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, length, 0, seq, 0, 0, 64, 6, 0, 0];
        bytes.extend([source, target].concat());
        bytes.extend([source_port.to_be_bytes(), target_port.to_be_bytes()].concat());
        bytes.extend([0, 0, 0, seq, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn exactly_these_connections_are_own_from_then_on_and_nothing_is_read_in_them() {
        let config = ShardConfig { shard: 0, flows_max: 64, secret: [1, 2], ports: 1 };
        let (mut shard, mut networks, mut out) = (FlowShard::new(config), NetworkTable::new(&["n"]), Vec::new());
        let (agent, sensor) = ([10, 0, 0, 2], [10, 0, 0, 1]);
        let mut own = |shard: &mut FlowShard, out: &mut Vec<Record>, bytes: &[u8]| {
            let wire_len = u32::try_from(bytes.len()).unwrap();
            let frame = Frame { bytes, wire_len, time: Time(1_000), ..Frame::default() };
            let mut tags = [FlowTag::default()];
            shard.observe_burst(&[frame], &mut networks, out, &mut tags);
            tags[0].is_own
        };
        assert!(!own(&mut shard, &mut out, &segment(agent, 5000, sensor, 443, 0, 2)), "not known yet");
        let ends = |text: &str| text.parse::<SocketAddr>().unwrap();
        shard.set_own(Arc::new(OwnEnds::new([(ends("10.0.0.1:443"), ends("10.0.0.2:5000"))])));
        assert!(own(&mut shard, &mut out, &segment(agent, 5000, sensor, 443, 1, 0x18)));
        assert!(own(&mut shard, &mut out, &segment(sensor, 443, agent, 5000, 1, 0x10)));
        for (source, port, target) in
            [(agent, 5001, sensor), (agent, 5000, [10, 0, 0, 9]), ([10, 0, 0, 3], 5000, sensor)]
        {
            assert!(!own(&mut shard, &mut out, &segment(source, port, target, 443, 1, 0x18)), "{source:?}:{port}");
        }
        shard.set_own(Arc::default());
        assert!(!own(&mut shard, &mut out, &segment(agent, 5000, sensor, 443, 40, 0x10)), "it ended");
        shard.finish(&mut out);
        let flows = out.iter().filter(|record| matches!(record, Record::Flow(_))).count();
        let is_read = |record: &&Record| {
            matches!(record, Record::Http(row)
            if (row.orig_h, row.orig_p, row.resp_h) == (Address::from_v4(agent), 5000, Address::from_v4(sensor)))
        };
        assert_eq!((flows, out.iter().filter(is_read).count()), (4, 0), "{out:?}");
    }
}
