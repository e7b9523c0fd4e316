//! A packet's keyed digest, by which the copies of several witnesses are known.

use crate::choice::flow_hash;
use crate::packet::ends_of;
use thymus_dissect::decode::{Content, Packet, Transport};

/// Beside the secret seed.
const SECOND_KEY: u64 = 0xe703_7ed1_a0b4_28db;

/// A keyed digest of a packet: what a router or NIC changes on the way (link layer, TTL, checksums) is left out.
pub fn digest(seed: u64, bytes: &[u8], packet: &Packet<'_>) -> u64 {
    let (Content::Ip(datagram), Some(ends)) = (&packet.content, ends_of(packet)) else {
        return hash_of([seed, SECOND_KEY], bytes);
    };
    let ends = flow_hash(seed, &ends);
    let about = (u64::from(datagram.id) << 32 | u64::from(datagram.ip_len)) ^ ends.rotate_left(17);
    let behind = match &datagram.transport {
        Transport::Tcp(tcp) => {
            let head = u64::from(tcp.seq) << 32 | u64::from(tcp.ack);
            hash_of([seed ^ head, u64::from(tcp.flags.0) << 16 | u64::from(tcp.window)], tcp.payload)
        }
        Transport::Udp(udp) => hash_of([seed, SECOND_KEY], udp.payload),
        _ => {
            let at = datagram.fragment.map_or(0, |fragment| fragment.offset);
            let data = datagram.bytes.get(if datagram.v6 { 40 } else { 20 }..).unwrap_or_default();
            hash_of([seed, u64::from(at)], data)
        }
    };
    about ^ behind
}

/// A keyed 64-bit hash of bytes, sixteen at a time: nobody without the key can make a packet pass for the copy of
/// another, and so keep it out of the capture.
#[expect(clippy::cast_possible_truncation, reason = "both halves of a word are taken")]
pub fn hash_of([one, two]: [u64; 2], bytes: &[u8]) -> u64 {
    // Fixed words beside the key, so that no key is weak by itself.
    let (one, two) = (one ^ 0x2d35_8dcc_aa6c_78a5, two ^ 0x4b33_a62e_d433_d4a3);
    let mut state = fold(one, two ^ bytes.len() as u64);
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        let word = u128::from_le_bytes(*pair);
        state = fold(word as u64 ^ two, (word >> 64) as u64 ^ state);
    }
    let mut last = [0; 16];
    last.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
    let word = u128::from_le_bytes(last);
    fold(fold(word as u64 ^ two, (word >> 64) as u64 ^ state) ^ one, 0x8bb8_4b93_962e_acc9)
}

/// A multiplication whose both halves count.
#[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_whatever_the_key() {
        for key in [[0, 0], [7, !7], [u64::MAX, u64::MAX], [3, 3]] {
            let mut seen = std::collections::HashSet::new();
            for len in 0..70 {
                assert!(seen.insert(hash_of(key, &vec![0; len])), "{key:?}, {len} zeroes");
                for at in 0..len {
                    let mut bytes = vec![0; len];
                    bytes[at] = 1;
                    assert!(seen.insert(hash_of(key, &bytes)), "{key:?}, byte {at} of {len}");
                }
            }
        }
    }
}
