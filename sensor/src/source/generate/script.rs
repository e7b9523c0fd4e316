//! A conversation as a script: which packet comes next, from whom, and how long after.
//!
//! ```text
//! DNS:  query, response
//! TCP:  SYN, SYN ACK, ACK, request, response, (TLS) finished, then bulk with an ACK for every second segment,
//!       FIN, FIN, ACK
//! ```

use super::message::{Message, Messages};
use super::wire::{self, Ends};
use super::{Random, Traffic};
use thymus_dissect::decode::TcpFlags;

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const PSH_ACK: u8 = TcpFlags::PSH | TcpFlags::ACK;
const FIN_ACK: u8 = TcpFlags::FIN | TcpFlags::ACK;

/// Time from a packet to the answer, in nanoseconds, before jitter.
const ANSWER_NS: u64 = 300_000;
/// From a segment to its ACK.
const ACK_NS: u64 = 30_000;
/// How long the bulk of a conversation takes.
const BULK_NS: u64 = 1_000_000_000;
const GAP_NS_MIN: u64 = 5_000;
const GAP_NS_MAX: u64 = 50_000_000;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Kind {
    #[default]
    Dns,
    Http,
    Tls,
    Bulk,
}

/// The state of one conversation.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Conversation {
    kind: Kind,
    ends: Ends,
    step: u8,
    /// Bulk goes from client to server.
    is_upload: bool,
    /// Segments of bulk to send, and those not acknowledged yet.
    left: u32,
    open: u8,
    gap_ns: u64,
    sequence: [u32; 2],
    id: [u16; 2],
    salt: u64,
}

/// A frame made.
pub(super) struct Made {
    pub(super) is_bulk: bool,
    pub(super) length: usize,
}

/// What a step sends.
enum Send {
    Flags(u8),
    Text(Message),
    Bulk,
}

impl Conversation {
    /// A conversation of one of the devices, drawn by lot.
    pub(super) fn new(traffic: &Traffic, random: &mut Random) -> Conversation {
        let salt = random.next();
        let kind = match random.below(100) {
            0..40 => Kind::Dns,
            40..75 => Kind::Tls,
            75..92 => Kind::Http,
            _ => Kind::Bulk,
        };
        let devices = u64::from(traffic.devices);
        let client = random.below(devices);
        let within = random.below(2) == 0;
        let server = match kind {
            Kind::Dns => Ok(u64::from(client == 0)),
            _ if within => Ok((client + 1 + random.below(devices - 1)) % devices),
            _ => Err(random.below(256)),
        };
        let port = match kind {
            Kind::Dns => 53,
            Kind::Http => 80,
            Kind::Tls => 443,
            Kind::Bulk => 5001,
        };
        let client_port = u16::try_from(32_768 + random.below(28_000)).unwrap_or(u16::MAX);
        let left = if kind == Kind::Dns { 0 } else { segments(traffic, random) };
        let gap_ns = (BULK_NS / u64::from(left.max(1))).clamp(GAP_NS_MIN, GAP_NS_MAX);
        let [a, b, c, d, e, f, g, h] = random.next().to_le_bytes();
        Conversation {
            kind,
            ends: Ends::new(client, server, client_port, port),
            step: 0,
            is_upload: kind == Kind::Bulk && random.below(2) == 0,
            left,
            open: 0,
            gap_ns,
            sequence: [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])],
            id: [u16::from_le_bytes([a, c]), u16::from_le_bytes([e, g])],
            salt,
        }
    }

    /// Writes the next packet, and says how long after it the one behind comes; `None` after the last.
    pub(super) fn step(&mut self, messages: &Messages, bulk: &mut [u8], small: &mut [u8]) -> (Made, Option<u64>) {
        if self.kind == Kind::Dns {
            return self.dns(messages, small);
        }
        let (from_server, send, wait) = self.next();
        let ends = if from_server { self.ends.turned() } else { self.ends };
        let [client, server] = self.sequence;
        let (own, other) = if from_server { (server, client) } else { (client, server) };
        let id = if from_server { self.id[1] } else { self.id[0] };
        let segment = bulk.len().saturating_sub(wire::TCP_HEADS);
        let (flags, is_bulk, payload_len) = match send {
            Send::Flags(flags) => (flags, false, 0),
            Send::Bulk => (ACK, true, segment),
            Send::Text(message) => {
                let room = small.get_mut(wire::TCP_HEADS..).unwrap_or_default();
                let content_len = u64::from(self.left) * u64::try_from(segment).unwrap_or_default();
                (PSH_ACK, false, messages.write(message, room, self.ends.target_number(), self.salt, content_len))
            }
        };
        let acknowledged = if flags & ACK != 0 { other } else { 0 };
        let (frame, sum) = if is_bulk { (bulk, Some(messages.bulk_sum)) } else { (small, None) };
        let length = wire::tcp(frame, &ends, id, [own, acknowledged], flags, payload_len, sum);
        let counted = u32::from(flags & (SYN | TcpFlags::FIN) != 0) + u32::try_from(payload_len).unwrap_or_default();
        let source = usize::from(from_server);
        if let (Some(own), Some(id)) = (self.sequence.get_mut(source), self.id.get_mut(source)) {
            *own = own.wrapping_add(counted);
            *id = id.wrapping_add(1);
        }
        (Made { is_bulk, length }, wait)
    }

    /// From whom, what, and how long until the packet behind it.
    fn next(&mut self) -> (bool, Send, Option<u64>) {
        // Up to half as long again, by the salt's bits.
        let answer = Some(ANSWER_NS + self.salt.rotate_left(u32::from(self.step)) % (ANSWER_NS / 2));
        let step = self.step;
        self.step += 1;
        let (request, response) = match self.kind {
            Kind::Http => (Message::HttpRequest, Message::HttpResponse),
            Kind::Tls => (Message::ClientHello, Message::ServerHello),
            Kind::Bulk | Kind::Dns => (Message::Greeting, Message::Greeting),
        };
        match step {
            0 => (false, Send::Flags(SYN), answer),
            1 => (true, Send::Flags(SYN | ACK), answer),
            2 => (false, Send::Flags(ACK), Some(ACK_NS)),
            3 => (false, Send::Text(request), answer),
            4 => (true, Send::Text(response), answer),
            5 if self.kind == Kind::Tls => (false, Send::Text(Message::Finished), answer),
            5 => (false, Send::Flags(ACK), answer),
            6 => self.bulk(),
            7 => (true, Send::Flags(FIN_ACK), answer),
            8 => (false, Send::Flags(FIN_ACK), answer),
            _ => (true, Send::Flags(ACK), None),
        }
    }

    /// A segment, or an ACK for two of them.
    fn bulk(&mut self) -> (bool, Send, Option<u64>) {
        if self.open == 2 || (self.left == 0 && self.open > 0) {
            self.open = 0;
            self.step = if self.left == 0 { 7 } else { 6 };
            return (self.is_upload, Send::Flags(ACK), Some(self.gap_ns));
        }
        if self.left == 0 {
            return (true, Send::Flags(FIN_ACK), self.closes());
        }
        self.left -= 1;
        self.open += 1;
        self.step = 6;
        let is_acknowledged_next = self.open == 2 || self.left == 0;
        (!self.is_upload, Send::Bulk, Some(if is_acknowledged_next { ACK_NS.min(self.gap_ns) } else { self.gap_ns }))
    }

    /// There was no bulk: the FIN is sent at once.
    fn closes(&mut self) -> Option<u64> {
        self.step = 8;
        Some(ANSWER_NS)
    }

    fn dns(&mut self, messages: &Messages, small: &mut [u8]) -> (Made, Option<u64>) {
        let is_query = self.step == 0;
        self.step += 1;
        let (ends, message) =
            if is_query { (self.ends, Message::DnsQuery) } else { (self.ends.turned(), Message::DnsResponse) };
        let room = small.get_mut(wire::UDP_HEADS..).unwrap_or_default();
        // One of the outside servers is asked for.
        let server = u16::from(self.salt.to_le_bytes()[7]);
        let payload_len = messages.write(message, room, 0x0700 | server, self.salt, 0);
        let [id, other] = self.id;
        let length = wire::udp(small, &ends, if is_query { id } else { other }, payload_len);
        (Made { is_bulk: false, length }, is_query.then_some(ANSWER_NS + self.salt % ANSWER_NS))
    }
}

/// How many segments of bulk a TCP conversation has, so that all of them together carry the wanted rate: nine of ten
/// are light, and the tenth carries most.
fn segments(traffic: &Traffic, random: &mut Random) -> u32 {
    /// What a conversation costs besides its bulk, all kinds averaged, in bytes.
    const OVERHEAD: u64 = 1_100;
    const TCP_SHARE_PERCENT: u64 = 60;
    let bytes = u64::from(traffic.mbps) * 1_000_000 / 8 * 60 / u64::from(traffic.connections_per_minute);
    let mean = bytes.saturating_sub(OVERHEAD) * 100 / TCP_SHARE_PERCENT;
    let drawn = match random.below(10) {
        0 => mean * 82 / 10,
        _ => mean * 2 / 10,
    };
    // With each segment goes half an ACK.
    let on_wire = wire::TCP_HEADS + wire::segment_bytes(traffic.frame_bytes_mean) + super::FRAME_BYTES_MIN / 2;
    let on_wire = u64::try_from(on_wire).unwrap_or(u64::MAX);
    // The rest of the division is drawn too, or small means would never be met.
    let extra = u64::from(random.below(on_wire) < drawn % on_wire);
    u32::try_from(drawn / on_wire + extra).unwrap_or(u32::MAX)
}
