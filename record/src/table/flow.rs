//! Connections, as deltas: each row carries the counts since the row before. A flow is the fold of its rows.

use crate::column::{Proto, table, text_enum};
use crate::{Address, Mac, Time};

text_enum! {
    /// Which row of its flow this is.
    pub enum FlowKind {
        /// The first word of a flow that goes on.
        Start = "start",
        /// Every five minutes of packet time.
        Interim = "interim",
        /// The last row.
        End = "end",
    }
}

text_enum! {
    /// Zeek's summary of a connection's fate (conn.log, `conn_state`).
    pub enum ConnState {
        /// No SYN seen, just midstream traffic.
        Oth = "OTH",
        /// Attempt seen, no reply.
        S0 = "S0",
        /// Established, not terminated.
        S1 = "S1",
        /// Established and close attempt by the originator seen, no reply.
        S2 = "S2",
        /// Established and close attempt by the responder seen, no reply.
        S3 = "S3",
        /// Normal establishment and termination.
        Sf = "SF",
        /// Attempt rejected.
        Rej = "REJ",
        /// Established, originator aborted.
        Rsto = "RSTO",
        /// Responder sent a RST.
        Rstr = "RSTR",
        /// Originator sent a SYN and then a RST; no SYN-ACK seen.
        Rstos0 = "RSTOS0",
        /// Responder sent a SYN-ACK and then a RST; no SYN seen.
        Rstrh = "RSTRH",
        /// Originator sent a SYN and then a FIN; no SYN-ACK seen.
        Sh = "SH",
        /// Responder sent a SYN-ACK and then a FIN; no SYN seen.
        Shr = "SHR",
    }
}

text_enum! {
    /// Why a flow ended.
    pub enum EndReason {
        /// It goes on.
        None = "",
        /// Its protocol closed it.
        Closed = "closed",
        /// No packet for the protocol's idle time.
        Idle = "idle",
        /// Evicted from a full table.
        Evicted = "evicted",
        /// The sensor stopped or the file ended.
        Stop = "stop",
    }
}

table! {
    /// A start, interim or end row of a connection. Counts are since the flow's row before.
    Flow: FlowRow {
        /// First packet of the flow.
        1 ts: Time = "ts",
        /// Flow shard, part of the uid.
        2 shard: u8 = "shard",
        /// Number of the flow in its shard, part of the uid.
        3 sequence: u64 = "sequence",
        /// Number of this row in its flow, from 0.
        4 ordinal: u32 = "ordinal",
        /// Network path, by number in this batch.
        5 network: u32 = "network",
        /// Originator's address.
        6 orig_h: Address = "id.orig_h",
        /// Originator's port; ICMP type.
        7 orig_p: u16 = "id.orig_p",
        /// Responder's address.
        8 resp_h: Address = "id.resp_h",
        /// Responder's port; ICMP code.
        9 resp_p: u16 = "id.resp_p",
        /// IP protocol.
        10 proto: Proto = "proto",
        /// Which row of its flow this is.
        11 kind: FlowKind = "kind",
        /// First packet of this row's span.
        12 from: Time = "from",
        /// Last packet of this row's span.
        13 until: Time = "until",
        /// Application protocol, as recognised so far.
        14 service: Option<String> = "service",
        /// Zeek's summary of the connection so far.
        15 conn_state: ConnState = "conn_state",
        /// Zeek's history of the connection so far.
        16 history: String = "history",
        /// Payload bytes from the originator (TCP: by sequence numbers).
        17 orig_bytes: Option<u64> = "orig_bytes",
        /// Payload bytes from the responder.
        18 resp_bytes: Option<u64> = "resp_bytes",
        /// Payload bytes missing in content gaps.
        19 missed_bytes: u64 = "missed_bytes",
        /// Packets from the originator.
        20 orig_pkts: u64 = "orig_pkts",
        /// Packets from the responder.
        21 resp_pkts: u64 = "resp_pkts",
        /// IP bytes from the originator, by the IP header's length.
        22 orig_ip_bytes: u64 = "orig_ip_bytes",
        /// IP bytes from the responder.
        23 resp_ip_bytes: u64 = "resp_ip_bytes",
        /// Frame bytes on the wire, both ways, tunnel heads included: these add up to the bytes received.
        24 wire_bytes: u64 = "wire_bytes",
        /// Frames, both ways: these add up to the packets received (a reassembled datagram is one packet, its fragments several frames).
        25 frames: u64 = "frames",
        /// Originator's MAC, of the innermost Ethernet header.
        26 orig_l2: Option<Mac> = "orig_l2_addr",
        /// Responder's MAC.
        27 resp_l2: Option<Mac> = "resp_l2_addr",
        /// Tunnel the flow came in, e.g. `vxlan:42 198.51.100.1>198.51.100.2`, ids kept even where they tell no network apart.
        28 tunnel: Option<String> = "tunnel",
        /// Why the flow ended.
        29 reason: EndReason = "reason",
        /// Capture port that delivered the first packet.
        30 port: u16 = "port",
        /// Duplicate or truncated frames seen in this span, for diagnosis.
        31 cut_bytes: u64 = "cut_bytes",
    }
}

impl FlowRow {
    /// Adds a later row of the same flow: the fold of all its rows is the flow.
    pub fn fold(&mut self, later: &FlowRow) {
        let add = |sum: &mut Option<u64>, more: Option<u64>| *sum = sum.zip(more).map(|(a, b)| a + b).or(*sum).or(more);
        add(&mut self.orig_bytes, later.orig_bytes);
        add(&mut self.resp_bytes, later.resp_bytes);
        self.missed_bytes += later.missed_bytes;
        self.orig_pkts += later.orig_pkts;
        self.resp_pkts += later.resp_pkts;
        self.orig_ip_bytes += later.orig_ip_bytes;
        self.resp_ip_bytes += later.resp_ip_bytes;
        self.wire_bytes += later.wire_bytes;
        self.frames += later.frames;
        self.cut_bytes += later.cut_bytes;
        self.until = self.until.max(later.until);
        if later.ordinal >= self.ordinal {
            self.ordinal = later.ordinal;
            self.kind = later.kind;
            self.reason = later.reason;
            self.conn_state = later.conn_state;
            self.history.clone_from(&later.history);
            self.service = later.service.clone().or(self.service.take());
            // Who began it can turn out otherwise, when a missed SYN shows.
            (self.orig_h, self.orig_p, self.resp_h, self.resp_p) =
                (later.orig_h, later.orig_p, later.resp_h, later.resp_p);
        }
    }

    /// From the first packet to the last, in nanoseconds; `None` where that is no time at all.
    pub fn duration(&self) -> Option<Time> {
        Some(Time(self.until.since(self.ts))).filter(|span| span.0 > 0)
    }
}
