//! The owner of a packet, from its addresses and the members alone.

use std::collections::HashMap;
use thymus_record::Address;
use thymus_record::message::Members;

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
    /// This member sends it.
    Leave(u32),
}

/// Who claims an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claimant {
    One(usize),
    Several,
}

/// One member's view of its group.
#[derive(Default)]
pub struct Witness {
    me: u32,
    seed: u64,
    /// Number and whether its claims are still to be checked, by position.
    members: Vec<(u32, bool)>,
    claims: HashMap<u64, Claimant>,
}

impl Witness {
    /// The view of member `me`.
    pub fn new(me: u32, members: &Members) -> Witness {
        let mut claims = HashMap::new();
        for (at, member) in members.members.iter().enumerate() {
            for claim in &member.claims {
                let claimant = claims.entry(*claim).or_insert(Claimant::One(at));
                if *claimant != Claimant::One(at) {
                    *claimant = Claimant::Several;
                }
            }
        }
        let known = members.members.iter().map(|member| (member.id, member.provisional)).collect();
        Witness { me, seed: members.seed, members: known, claims }
    }

    fn claimant(&self, address: Address) -> Option<usize> {
        if is_shared(address) {
            return None;
        }
        match self.claims.get(&claim_of(self.seed, address)) {
            Some(Claimant::One(at)) => Some(*at),
            _ => None,
        }
    }

    /// The members that are known to see this packet, at most two.
    fn candidates(&self, ends: &Ends) -> (Option<usize>, Option<usize>) {
        let (source, target) = (self.claimant(ends.source), self.claimant(ends.target));
        if source == target { (source, None) } else { (source, target) }
    }

    /// Position of the owner, whether its claims are checked or not.
    fn owner_at(&self, ends: &Ends) -> Option<usize> {
        match self.candidates(ends) {
            (Some(one), Some(other)) => Some(self.first_of(one, other, ends)),
            (one, other) => one.or(other),
        }
    }

    /// The owner of a packet, and the other member that is known to see it, whether their claims are checked or not.
    pub fn pair(&self, ends: &Ends) -> Option<(u32, u32)> {
        let owner = self.members.get(self.owner_at(ends)?)?.0;
        Some((owner, self.second(owner, ends)?))
    }

    /// What to do with a packet that this member sees.
    pub fn choose(&self, ends: &Ends) -> Choice {
        let owner = self.owner_at(ends).and_then(|at| self.members.get(at).copied());
        let Some((id, provisional)) = owner else { return Choice::SendToo };
        if id != self.me && !provisional {
            return Choice::Leave(id);
        }
        // While a claim is unchecked, every witness sends; so does an owner who knows that others still do.
        let is_checked = self.members.iter().all(|(_, provisional)| !provisional);
        if id == self.me && is_checked { Choice::Send } else { Choice::SendToo }
    }

    /// The other candidate of a packet besides `owner`, which sees it too.
    pub fn second(&self, owner: u32, ends: &Ends) -> Option<u32> {
        let (one, other) = self.candidates(ends);
        let ids = [one, other].map(|at| at.and_then(|at| self.members.get(at)).map(|member| member.0));
        match ids {
            [Some(one), Some(other)] if one == owner => Some(other),
            [Some(one), Some(other)] if other == owner => Some(one),
            _ => None,
        }
    }

    /// Rendezvous: each flow goes to the candidate whose number mixes highest with it.
    fn first_of(&self, one: usize, other: usize, ends: &Ends) -> usize {
        let flow = flow_hash(self.seed, ends);
        let weight = |at: usize| self.members.get(at).map(|member| (mix(flow ^ mix(u64::from(member.0))), member.0));
        if weight(one) >= weight(other) { one } else { other }
    }
}

/// Addresses that nobody owns alone: link-local, loopback, multicast, broadcast, unspecified.
fn is_shared(address: Address) -> bool {
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
    let end = |address: Address, port: u16| mix(claim_of(seed, address) ^ u64::from(port));
    let (source, target) = (end(ends.source, ends.source_port), end(ends.target, ends.target_port));
    mix(source.wrapping_add(target) ^ u64::from(ends.proto))
}

/// A bijection in which every bit of the input reaches every bit of the output.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
