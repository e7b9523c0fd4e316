//! Heads with right checksums, written in front of a payload that is already in place.

/// Ethernet, IPv4 and TCP heads.
pub(super) const TCP_HEADS: usize = 54;
/// Ethernet, IPv4 and UDP heads.
pub(super) const UDP_HEADS: usize = 42;
const IP_AT: usize = 14;

/// Largest TCP payload without options over Ethernet.
const SEGMENT_MAX: usize = 1460;

/// Payload of a bulk segment, so that two segments and an ACK have this mean frame length.
pub(super) fn segment_bytes(frame_bytes_mean: u32) -> usize {
    let mean = usize::try_from(frame_bytes_mean).unwrap_or(SEGMENT_MAX).min(SEGMENT_MAX);
    ((3 * mean).saturating_sub(super::FRAME_BYTES_MIN) / 2).saturating_sub(TCP_HEADS).clamp(64, SEGMENT_MAX)
}

/// Both ends of a conversation, as the sender sees them.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Ends {
    source_mac: [u8; 6],
    target_mac: [u8; 6],
    source: [u8; 4],
    target: [u8; 4],
    source_port: u16,
    target_port: u16,
}

impl Ends {
    /// From a device to another one, or to an outside server behind the gateway (198.18.0.0/15, RFC 2544).
    pub(super) fn new(client: u64, server: Result<u64, u64>, client_port: u16, port: u16) -> Ends {
        const GATEWAY: [u8; 6] = [0x02, 0x10, 0xff, 0xff, 0xff, 0xfe];
        let (source_mac, source) = device(client);
        let (target_mac, target) = match server {
            Ok(number) => device(number),
            Err(outside) => (GATEWAY, [198, 18, 7, outside.to_le_bytes()[0]]),
        };
        Ends { source_mac, target_mac, source, target, source_port: client_port, target_port: port }
    }

    /// The target's number, from its address.
    pub(super) fn target_number(&self) -> u16 {
        let [.., high, low] = self.target;
        u16::from_be_bytes([high, low])
    }

    /// The same, seen from the other end.
    pub(super) fn turned(self) -> Ends {
        Ends {
            source_mac: self.target_mac,
            target_mac: self.source_mac,
            source: self.target,
            target: self.source,
            source_port: self.target_port,
            target_port: self.source_port,
        }
    }
}

/// MAC and address of a device: 10.16.0.10 and on.
fn device(number: u64) -> ([u8; 6], [u8; 4]) {
    let [low, high, ..] = (number + 10).to_le_bytes();
    ([0x02, 0x10, 0, 0, high, low], [10, 16, high, low])
}

/// Writes the heads of a TCP segment whose payload of `payload_len` bytes stands behind them. `sum` is the payload's
/// sum if it is known. Gives the frame's length.
pub(super) fn tcp(
    frame: &mut [u8],
    ends: &Ends,
    id: u16,
    [sequence, acknowledged]: [u32; 2],
    flags: u8,
    payload_len: usize,
    sum: Option<u64>,
) -> usize {
    let length = TCP_HEADS + payload_len;
    let sum = sum.unwrap_or_else(|| sum_of(frame.get(TCP_HEADS..length).unwrap_or_default()));
    let Some((heads, padding)) = frame.split_first_chunk_mut::<TCP_HEADS>() else { return 0 };
    clear_padding(padding, payload_len, length);
    let segment_len = word(20 + payload_len);
    ip(heads, ends, id, 6, word(40 + payload_len));
    heads[34..36].copy_from_slice(&ends.source_port.to_be_bytes());
    heads[36..38].copy_from_slice(&ends.target_port.to_be_bytes());
    heads[38..42].copy_from_slice(&sequence.to_be_bytes());
    heads[42..46].copy_from_slice(&acknowledged.to_be_bytes());
    heads[46..54].copy_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let total = sum + pseudo(ends, 6, segment_len) + sum_of(&heads[34..54]);
    heads[50..52].copy_from_slice(&checksum(total).to_be_bytes());
    length
}

/// The same for UDP.
pub(super) fn udp(frame: &mut [u8], ends: &Ends, id: u16, payload_len: usize) -> usize {
    let length = UDP_HEADS + payload_len;
    let sum = sum_of(frame.get(UDP_HEADS..length).unwrap_or_default());
    let Some((heads, padding)) = frame.split_first_chunk_mut::<UDP_HEADS>() else { return 0 };
    clear_padding(padding, payload_len, length);
    let datagram_len = word(8 + payload_len);
    ip(heads, ends, id, 17, word(28 + payload_len));
    heads[34..36].copy_from_slice(&ends.source_port.to_be_bytes());
    heads[36..38].copy_from_slice(&ends.target_port.to_be_bytes());
    heads[38..40].copy_from_slice(&datagram_len.to_be_bytes());
    heads[40..42].copy_from_slice(&[0, 0]);
    let total = sum + pseudo(ends, 17, datagram_len) + sum_of(&heads[34..42]);
    // A sum of 0 is sent as 0xffff: 0 means that there is none.
    let checksum = match checksum(total) {
        0 => 0xffff,
        other => other,
    };
    heads[40..42].copy_from_slice(&checksum.to_be_bytes());
    length
}

/// Zeros behind a short frame, where an earlier one left its bytes.
fn clear_padding(behind_heads: &mut [u8], payload_len: usize, length: usize) {
    let padding = super::FRAME_BYTES_MIN.saturating_sub(length);
    if let Some(padding) = behind_heads.get_mut(payload_len..payload_len + padding) {
        padding.fill(0);
    }
}

/// Ethernet and IPv4 heads.
fn ip<const LENGTH: usize>(heads: &mut [u8; LENGTH], ends: &Ends, id: u16, proto: u8, ip_len: u16) {
    let Some((head, _)) = heads.split_first_chunk_mut::<34>() else { return };
    head[0..6].copy_from_slice(&ends.target_mac);
    head[6..12].copy_from_slice(&ends.source_mac);
    head[12..IP_AT].copy_from_slice(&[0x08, 0x00]);
    let [l0, l1] = ip_len.to_be_bytes();
    let [i0, i1] = id.to_be_bytes();
    head[14..26].copy_from_slice(&[0x45, 0, l0, l1, i0, i1, 0x40, 0, 64, proto, 0, 0]);
    head[26..30].copy_from_slice(&ends.source);
    head[30..34].copy_from_slice(&ends.target);
    let sum = checksum(sum_of(&head[14..34]));
    head[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn pseudo(ends: &Ends, proto: u8, length: u16) -> u64 {
    sum_of(&ends.source) + sum_of(&ends.target) + u64::from(proto) + u64::from(length)
}

fn word(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// Sum of 16-bit words, not folded (RFC 1071).
pub(super) fn sum_of(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |last| u64::from(*last) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + last
}

fn checksum(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
