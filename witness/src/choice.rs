//! The owner of a packet, from its addresses and the members alone.

use crate::roster::Roster;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use thymus_record::Address;

/// Stands for a vSensor's span among the owners.
pub const SPAN: u32 = u32::MAX;

/// What of a packet decides who sends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Source.
    pub source: Address,
    /// Target.
    pub target: Address,
    /// Source port; 0 for fragments and protocols without ports.
    pub source_port: u16,
    /// Target port.
    pub target_port: u16,
    /// Transport protocol.
    pub proto: u8,
}

/// What a witness does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Send it: nobody else does.
    Send,
    /// Send it, and others may too.
    SendToo,
    /// This member sends it, or [`SPAN`].
    Leave(u32),
}

/// A packet as one member sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// What to do with it.
    pub choice: Choice,
    /// Who owns it, whether its claims are checked or not.
    pub owner: Option<u32>,
    /// The other member that is known to see it: the owner's second.
    pub second: Option<u32>,
    /// Hashes of its ends, where this member alone claims them.
    pub own: [Option<u64>; 2],
}

/// Who claims an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claimant {
    One { at: usize, covered: bool },
    Several,
}

/// Claims are mixed already: they are their own hashes.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = mix(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// One member's view of its group.
#[derive(Default)]
pub struct Witness {
    me: u32,
    seed: u64,
    /// Number and whether its claims are still to be checked, by position.
    members: Vec<(u32, bool)>,
    claims: HashMap<u64, Claimant, BuildHasherDefault<Mixed>>,
}

impl Witness {
    /// The view of member `me`.
    pub fn new(me: u32, roster: &Roster) -> Witness {
        let mut claims: HashMap<u64, Claimant, BuildHasherDefault<Mixed>> = HashMap::default();
        for (at, member) in roster.members().enumerate() {
            for claim in &member.claims {
                let covered = member.covered.contains(claim);
                let claimant = claims.entry(*claim).or_insert(Claimant::One { at, covered });
                if !matches!(claimant, Claimant::One { at: known, .. } if *known == at) {
                    *claimant = Claimant::Several;
                }
            }
        }
        let members = roster.members().map(|member| (member.id, member.provisional)).collect();
        Witness { me, seed: roster.seed, members, claims }
    }

    fn claimant(&self, address: Address, claim: u64) -> Option<(usize, bool)> {
        match self.claims.get(&claim) {
            Some(Claimant::One { at, covered }) if !is_shared(address) => Some((*at, *covered)),
            _ => None,
        }
    }

    /// What this member does with a packet that it sees.
    pub fn look(&self, ends: &Ends) -> Look {
        let (from, to) = (claim_of(self.seed, ends.source), claim_of(self.seed, ends.target));
        let (source, target) = (self.claimant(ends.source, from), self.claimant(ends.target, to));
        let mine = |end: Option<(usize, bool)>, claim| {
            end.and_then(|(at, _)| self.members.get(at)).is_some_and(|member| member.0 == self.me).then_some(claim)
        };
        let own = [mine(source, from), mine(target, to)];
        if source.is_some_and(|end| end.1) || target.is_some_and(|end| end.1) {
            return Look { choice: Choice::Leave(SPAN), owner: Some(SPAN), second: None, own };
        }
        // The members that are known to see this packet: the rendezvous hash of its flow decides between two.
        let (owner, second) = match (source, target) {
            (Some((one, _)), Some((other, _))) if one != other => {
                let flow = flow_of((from, ends.source_port), (to, ends.target_port), ends.proto);
                let weight =
                    |at: usize| self.members.get(at).map(|known| (mix(flow ^ mix(u64::from(known.0))), known.0));
                if weight(one) >= weight(other) { (Some(one), Some(other)) } else { (Some(other), Some(one)) }
            }
            (one, other) => (one.or(other).map(|end| end.0), None),
        };
        let member = |at: Option<usize>| at.and_then(|at| self.members.get(at).copied());
        let second = member(second).map(|member| member.0);
        let owner = member(owner);
        let choice = match owner {
            None => Choice::SendToo,
            // While the owner's claims are unchecked every witness sends.
            Some((id, provisional)) if id == self.me => {
                if provisional && second.is_some() {
                    Choice::SendToo
                } else {
                    Choice::Send
                }
            }
            Some((_, true)) => Choice::SendToo,
            Some((id, false)) => Choice::Leave(id),
        };
        Look { choice, owner: owner.map(|owner| owner.0), second, own }
    }

    /// The owner of a packet, and the other member that is known to see it, whether their claims are checked or not.
    pub fn pair(&self, ends: &Ends) -> Option<(u32, u32)> {
        let (from, to) = (claim_of(self.seed, ends.source), claim_of(self.seed, ends.target));
        let (one, other) = (self.claimant(ends.source, from)?.0, self.claimant(ends.target, to)?.0);
        if one == other {
            return None;
        }
        let flow = flow_of((from, ends.source_port), (to, ends.target_port), ends.proto);
        let weight = |at: usize| self.members.get(at).map(|known| (mix(flow ^ mix(u64::from(known.0))), known.0));
        let (one, other) = (weight(one)?, weight(other)?);
        Some(if one >= other { (one.1, other.1) } else { (other.1, one.1) })
    }
}

/// Addresses that nobody owns alone: link-local, loopback, multicast, broadcast, unspecified.
pub fn is_shared(address: Address) -> bool {
    match address.to_ip() {
        std::net::IpAddr::V4(v4) => {
            v4.is_link_local() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified()
        }
        std::net::IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6.is_loopback() || v6.is_multicast() || v6.is_unspecified()
        }
    }
}

/// A claim to an address: its hash under the group's seed, so that members do not tell each other their addresses.
pub fn claim_of(seed: u64, Address(bytes): Address) -> u64 {
    let (low, high) = bytes.split_at(8);
    let half = |half: &[u8]| half.first_chunk::<8>().copied().map_or(0, u64::from_le_bytes);
    mix(mix(seed ^ half(low)) ^ half(high).rotate_left(32))
}

/// A flow's hash, the same in both directions.
pub fn flow_hash(seed: u64, ends: &Ends) -> u64 {
    let (from, to) = (claim_of(seed, ends.source), claim_of(seed, ends.target));
    flow_of((from, ends.source_port), (to, ends.target_port), ends.proto)
}

fn flow_of(source: (u64, u16), target: (u64, u16), proto: u8) -> u64 {
    let end = |(claim, port): (u64, u16)| mix(claim ^ u64::from(port));
    mix(end(source).wrapping_add(end(target)) ^ u64::from(proto))
}

/// A bijection in which every bit of the input reaches every bit of the output.
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
