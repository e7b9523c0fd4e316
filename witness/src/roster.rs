//! The members of a group as one side knows them, and the changes that make another side know the same.

use std::collections::BTreeMap;
use thymus_record::message::{Member, Members};

/// Members of one group.
pub const MEMBERS_MAX: usize = 8_192;
/// Addresses that one member may claim; what is beyond is not claimed.
pub const CLAIMS_MAX: usize = 256;
/// Bytes of a part as JSON, well below what a frame of the link may have.
const PART_BYTES: usize = 40 << 10;

/// Who is there.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Roster {
    /// The epoch; 0 before the first.
    pub epoch: u64,
    /// Secret of the group's hashes.
    pub seed: u64,
    members: BTreeMap<u32, Member>,
}

impl Roster {
    /// Nobody, under a seed.
    pub fn new(seed: u64) -> Roster {
        Roster { seed, ..Roster::default() }
    }

    /// Takes a part of a change; true if its epoch is complete.
    pub fn apply(&mut self, part: &Members) -> bool {
        if part.anew {
            self.members.clear();
        }
        self.epoch = part.epoch;
        self.seed = part.seed;
        part.gone.iter().for_each(|id| drop(self.members.remove(id)));
        part.members.iter().for_each(|member| self.put(member.clone()));
        !part.more
    }

    /// Adds or replaces a member.
    pub fn put(&mut self, mut member: Member) {
        if self.members.len() < MEMBERS_MAX || self.members.contains_key(&member.id) {
            member.claims.truncate(CLAIMS_MAX);
            member.covered.truncate(CLAIMS_MAX);
            self.members.insert(member.id, member);
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, id: u32) {
        self.members.remove(&id);
    }

    /// All of them, by number.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One of them.
    pub fn member(&self, id: u32) -> Option<&Member> {
        self.members.get(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True if nobody is there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// True if both know the same members.
    pub fn is_like(&self, other: &Roster) -> bool {
        self.members == other.members
    }

    /// Members that came, went or changed since `before`.
    pub fn changed_since(&self, before: &Roster) -> Vec<u32> {
        let changed = self.members.values().filter(|member| before.members.get(&member.id) != Some(*member));
        let gone = before.members.keys().filter(|id| !self.members.contains_key(id)).copied();
        changed.map(|member| member.id).chain(gone).collect()
    }

    /// The parts that tell this to somebody who knows `before`.
    pub fn since(&self, before: &Roster) -> Vec<Members> {
        let changed = self.members.values().filter(|member| before.members.get(&member.id) != Some(*member));
        let gone = before.members.keys().filter(|id| !self.members.contains_key(id)).copied().collect();
        self.parts(false, gone, changed)
    }

    /// The parts that tell all of this.
    pub fn whole(&self) -> Vec<Members> {
        self.parts(true, Vec::new(), self.members.values())
    }

    fn parts<'a>(&self, anew: bool, gone: Vec<u32>, members: impl Iterator<Item = &'a Member>) -> Vec<Members> {
        let part = || Members { epoch: self.epoch, seed: self.seed, more: true, ..Members::default() };
        let mut parts = vec![Members { anew, gone, ..part() }];
        let mut bytes = parts.iter().map(|part| part.gone.len() * 11).sum();
        for member in members {
            let size = 92 + 21 * (member.claims.len() + member.covered.len());
            if bytes + size > PART_BYTES {
                parts.push(part());
                bytes = 0;
            }
            bytes += size;
            if let Some(last) = parts.last_mut() {
                last.members.push(member.clone());
            }
        }
        if let Some(last) = parts.last_mut() {
            last.more = false;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roster(members: Vec<(u32, Vec<u64>, bool)>) -> Roster {
        let mut roster = Roster { epoch: 4, ..Roster::new(7) };
        members.into_iter().for_each(|(id, claims, provisional)| {
            roster.put(Member { id, claims, provisional, ..Member::default() });
        });
        roster
    }

    fn members() -> impl Strategy<Value = Vec<(u32, Vec<u64>, bool)>> {
        prop::collection::vec((0u32..40, prop::collection::vec(any::<u64>(), 0..300), any::<bool>()), 0..40)
    }

    proptest! {
        #[test]
        fn changes_told_in_parts_make_the_other_side_know_the_same(before in members(), now in members()) {
            let (before, now) = (roster(before), roster(now));
            for (mut known, parts) in [(before.clone(), now.since(&before)), (before, now.whole())] {
                let last = parts.len() - 1;
                for (at, part) in parts.iter().enumerate() {
                    prop_assert!(serde_json::to_vec(part).unwrap().len() < 60 << 10);
                    prop_assert_eq!(known.apply(part), at == last);
                }
                prop_assert_eq!(&known, &now);
            }
        }
    }
}
