//! The Internet checksum (RFC 1071) over transports. Nothing is dropped for it; who reads streams may ask.

use super::{Datagram, Transport};
use thymus_record::column::Proto;

impl Datagram<'_> {
    /// True if the checksum of a TCP, UDP or ICMP packet is right, or cannot be told: the packet is cut off, a
    /// fragment, of another protocol, behind a routing head or has no checksum. Reads the whole payload.
    pub fn checksum_ok(&self) -> bool {
        let proto = match self.transport {
            Transport::Tcp(_) => Proto::TCP,
            Transport::Udp(_) => Proto::UDP,
            Transport::Icmp(_) => self.proto,
            Transport::Other(_) | Transport::Fragment | Transport::Damaged => return true,
        };
        let Some(data) = self.transport_bytes() else { return true };
        if proto == Proto::UDP && matches!(data, [_, _, _, _, _, _, 0, 0, ..]) {
            return true;
        }
        let length = u64::try_from(data.len()).unwrap_or(0);
        let pseudo = if proto == Proto::ICMP && !self.v6 {
            0
        } else {
            // Mapped prefixes add 0xffff each, which is 0 in ones' complement.
            sum(&self.source.0) + sum(&self.target.0) + u64::from(proto.0) + length
        };
        fold(pseudo + sum(data)) == 0xffff
    }

    /// The transport with its head, if all of it is captured and no other head stands in front of it.
    fn transport_bytes(&self) -> Option<&[u8]> {
        if usize::try_from(self.ip_len).ok()? != self.bytes.len() {
            return None;
        }
        let (next, head_len) = match (self.v6, self.bytes) {
            (true, [_, _, _, _, _, _, next, ..]) => (*next, 40),
            (false, [first, _, _, _, _, _, _, _, _, next, ..]) => (*next, usize::from(first & 0x0f) * 4),
            _ => return None,
        };
        let data = self.bytes.get(head_len..)?;
        let data = match self.transport {
            Transport::Udp(udp) => data.get(..usize::try_from(udp.payload_len).ok()? + 8)?,
            _ => data,
        };
        (Proto(next) == self.proto).then_some(data)
    }
}

/// The sum of big-endian 16-bit words, not folded; an odd last byte counts as a high one.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |last| u64::from(*last) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + last
}

fn fold(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
