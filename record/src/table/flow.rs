//! Connections, as deltas: each row carries the counts since the row before. A flow is the fold of its rows.

use crate::column::{Proto, table, text_enum};
use crate::owner::Who;
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
        /// Somebody else goes on with it: another agent, or the vSensor.
        Handover = "handover",
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
        /// OS-sensor that delivered the first packet.
        32 agent: Option<u32> = "agent",
        /// Frames of this span that came from an OS-sensor which owns neither end: forged, or forwarded by its host.
        33 unverified: u64 = "unverified_frames",
        /// The same conversation as its translating host saw it inside: this row is that host's outer view, and counts nowhere.
        34 view_of: Option<Box<str>> = "view_of",
        /// How the conversation looked outside of the host that translated it.
        35 translated: Option<Box<str>> = "translated",
        /// User at the originator's end, by name, or by number where it has none.
        40 orig_user: Option<Box<str>> = "orig_user",
        /// Number of the user at the originator's end.
        41 orig_user_id: Option<u32> = "orig_user_id",
        /// Name of the process at the originator's end.
        42 orig_process: Option<Box<str>> = "orig_process",
        /// Number of the process at the originator's end.
        43 orig_pid: Option<u32> = "orig_pid",
        /// File of the program at the originator's end.
        44 orig_executable: Option<Box<str>> = "orig_executable",
        /// Control group of the originator's end.
        45 orig_cgroup: Option<Box<str>> = "orig_cgroup",
        /// Container at the originator's end.
        46 orig_container: Option<Box<str>> = "orig_container",
        /// Pod at the originator's end.
        47 orig_pod: Option<Box<str>> = "orig_pod",
        /// Why nothing, or no more, is told of who is at the originator's end.
        48 orig_unnamed: Option<Box<str>> = "orig_unnamed",
        /// User at the responder's end, by name, or by number where it has none.
        49 resp_user: Option<Box<str>> = "resp_user",
        /// Number of the user at the responder's end.
        50 resp_user_id: Option<u32> = "resp_user_id",
        /// Name of the process at the responder's end.
        51 resp_process: Option<Box<str>> = "resp_process",
        /// Number of the process at the responder's end.
        52 resp_pid: Option<u32> = "resp_pid",
        /// File of the program at the responder's end.
        53 resp_executable: Option<Box<str>> = "resp_executable",
        /// Control group of the responder's end.
        54 resp_cgroup: Option<Box<str>> = "resp_cgroup",
        /// Container at the responder's end.
        55 resp_container: Option<Box<str>> = "resp_container",
        /// Pod at the responder's end.
        56 resp_pod: Option<Box<str>> = "resp_pod",
        /// Why nothing, or no more, is told of who is at the responder's end.
        57 resp_unnamed: Option<Box<str>> = "resp_unnamed",
    }
}

/// The fields of one end that tell who holds it.
struct OwnerFields<'a> {
    texts: [&'a mut Option<Box<str>>; 7],
    numbers: [&'a mut Option<u32>; 2],
}

impl OwnerFields<'_> {
    fn set(&mut self, who: &Who) {
        let Who { user, process, executable, cgroup, container, pod, unnamed, user_id, pid } = who;
        for (field, text) in self.texts.iter_mut().zip([user, process, executable, cgroup, container, pod, unnamed]) {
            (*field).clone_from(text);
        }
        for (field, number) in self.numbers.iter_mut().zip([user_id, pid]) {
            **field = *number;
        }
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
        self.unverified += later.unverified;
        self.view_of = later.view_of.clone().or(self.view_of.take());
        self.translated = later.translated.clone().or(self.translated.take());
        self.until = self.until.max(later.until);
        for of_originator in [true, false] {
            if let Some(who) = later.owner(of_originator) {
                self.set_owner(of_originator, &who);
            }
        }
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

    /// Puts in who holds the originator's or the responder's end.
    pub fn set_owner(&mut self, of_originator: bool, who: &Who) {
        let [orig, resp] = self.owners_mut();
        (if of_originator { orig } else { resp }).set(who);
    }

    /// Who holds an end; `None` where nobody told.
    pub fn owner(&self, of_originator: bool) -> Option<Who> {
        let who = if of_originator {
            Who {
                user: self.orig_user.clone(),
                user_id: self.orig_user_id,
                process: self.orig_process.clone(),
                pid: self.orig_pid,
                executable: self.orig_executable.clone(),
                cgroup: self.orig_cgroup.clone(),
                container: self.orig_container.clone(),
                pod: self.orig_pod.clone(),
                unnamed: self.orig_unnamed.clone(),
            }
        } else {
            Who {
                user: self.resp_user.clone(),
                user_id: self.resp_user_id,
                process: self.resp_process.clone(),
                pid: self.resp_pid,
                executable: self.resp_executable.clone(),
                cgroup: self.resp_cgroup.clone(),
                container: self.resp_container.clone(),
                pod: self.resp_pod.clone(),
                unnamed: self.resp_unnamed.clone(),
            }
        };
        (who != Who::default()).then_some(who)
    }

    fn owners_mut(&mut self) -> [OwnerFields<'_>; 2] {
        [
            OwnerFields {
                texts: [
                    &mut self.orig_user,
                    &mut self.orig_process,
                    &mut self.orig_executable,
                    &mut self.orig_cgroup,
                    &mut self.orig_container,
                    &mut self.orig_pod,
                    &mut self.orig_unnamed,
                ],
                numbers: [&mut self.orig_user_id, &mut self.orig_pid],
            },
            OwnerFields {
                texts: [
                    &mut self.resp_user,
                    &mut self.resp_process,
                    &mut self.resp_executable,
                    &mut self.resp_cgroup,
                    &mut self.resp_container,
                    &mut self.resp_pod,
                    &mut self.resp_unnamed,
                ],
                numbers: [&mut self.resp_user_id, &mut self.resp_pid],
            },
        ]
    }

    /// From the first packet to the last, in nanoseconds; `None` where that is no time at all.
    pub fn duration(&self) -> Option<Time> {
        Some(Time(self.until.since(self.ts))).filter(|span| span.0 > 0)
    }
}
