//! What makes packets one flow: network, both endpoints in either order, protocol.

use crate::decode::{Datagram, Transport};
use thymus_record::Address;
use thymus_record::column::Proto;

/// Which of a key's two ends, in its canonical order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Side {
    /// The lower end.
    #[default]
    A,
    /// The higher end.
    B,
}

impl Side {
    /// As an index into a pair.
    pub fn at(self) -> usize {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }

    /// The opposite side.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// The key of a flow; the same for both directions, except for ICMP messages that have no answer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Network number of the shard.
    pub network: u32,
    /// The lower end's address.
    pub a: Address,
    /// The higher end's address.
    pub b: Address,
    /// The lower end's port, or ICMP type.
    pub a_port: u16,
    /// The higher end's port, or the type of ICMP's answer, or its code.
    pub b_port: u16,
    /// Transport.
    pub proto: Proto,
}

impl FlowKey {
    /// The key of a packet and the side that sent it; `None` for fragments and damaged transports.
    #[inline]
    pub fn of(network: u32, datagram: &Datagram<'_>) -> Option<(FlowKey, Side)> {
        let (source_port, target_port, one_way) = match &datagram.transport {
            Transport::Tcp(tcp) => (tcp.source, tcp.target, false),
            Transport::Udp(udp) => (udp.source, udp.target, false),
            Transport::Icmp(icmp) => {
                let kind = u16::from(icmp.kind);
                match counterpart(datagram.v6, icmp.kind) {
                    Some(answer) => (kind, u16::from(answer), false),
                    None => (kind, u16::from(icmp.code), true),
                }
            }
            Transport::Other(_) => (0, 0, false),
            Transport::Fragment | Transport::Damaged => return None,
        };
        let (source, target) = ((datagram.source, source_port), (datagram.target, target_port));
        let in_order = one_way || source <= target;
        let ((a, a_port), (b, b_port)) = if in_order { (source, target) } else { (target, source) };
        let key = FlowKey { network, a, b, a_port, b_port, proto: datagram.proto };
        Some((key, if in_order { Side::A } else { Side::B }))
    }

    /// The key of a conversation by its ends as a flow row names them: originator's first.
    pub fn of_ends(orig: (Address, u16), resp: (Address, u16), proto: Proto) -> FlowKey {
        let kind = u8::try_from(orig.1).unwrap_or_default();
        let one_way = match proto {
            Proto::ICMP => counterpart(false, kind).is_none(),
            Proto::ICMP6 => counterpart(true, kind).is_none(),
            _ => false,
        };
        let ((a, a_port), (b, b_port)) = if one_way || orig <= resp { (orig, resp) } else { (resp, orig) };
        FlowKey { network: 0, a, b, a_port, b_port, proto }
    }

    /// The same key: as `==`, in a few registers instead of calls for the addresses.
    #[inline]
    pub(super) fn is(&self, other: &FlowKey) -> bool {
        let whole = |key: &FlowKey| [u128::from_ne_bytes(key.a.0), u128::from_ne_bytes(key.b.0)];
        let rest = |key: &FlowKey| {
            u128::from(key.network) << 40
                | u128::from(key.a_port) << 24
                | u128::from(key.b_port) << 8
                | u128::from(key.proto.0)
        };
        let ([a, b], [other_a, other_b]) = (whole(self), whole(other));
        (a ^ other_a) | (b ^ other_b) | (rest(self) ^ rest(other)) == 0
    }

    /// A keyed hash. `secret` keeps an attacker from choosing flows that collide.
    #[inline]
    pub fn hash(&self, secret: [u64; 2]) -> u64 {
        let [low_a, high_a] = halves(self.a);
        let [low_b, high_b] = halves(self.b);
        let ports = u64::from(self.a_port) << 48 | u64::from(self.b_port) << 32 | u64::from(self.network);
        let first = fold(low_a ^ secret[0], high_a ^ secret[1]);
        let second = fold(low_b ^ secret[1] ^ first, high_b ^ secret[0]);
        fold(second ^ ports, secret[0] ^ u64::from(self.proto.0) << 8 ^ first)
    }
}

fn halves(Address(bytes): Address) -> [u64; 2] {
    let (low, high) = bytes.split_at(8);
    [low, high].map(|half| half.first_chunk::<8>().copied().map_or(0, u64::from_le_bytes))
}

/// A multiplication whose both halves count (as in wyhash).
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(b ^ 0x8bb8_4b93_962e_acc9);
    (product as u64) ^ (product >> 64) as u64
}

/// The ICMP type that answers this one (RFC 792, 950, 1256; RFC 4443, 4861, 2710, 6275), if there is one.
fn counterpart(v6: bool, kind: u8) -> Option<u8> {
    let pairs: &[(u8, u8)] = if v6 {
        &[(128, 129), (133, 134), (135, 136), (130, 131), (139, 140), (144, 145)]
    } else {
        &[(8, 0), (13, 14), (15, 16), (10, 9), (17, 18)]
    };
    pairs.iter().find_map(|&(ask, answer)| match kind {
        _ if kind == ask => Some(answer),
        _ if kind == answer => Some(ask),
        _ => None,
    })
}
