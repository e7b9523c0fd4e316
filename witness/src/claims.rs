//! Claims are checked, not believed: what one member left to another must have come from it, pair by pair, second by
//! second. Payload bytes are compared, and packets without payload, since one side may see large segments that the other
//! sees cut.

use crate::balance::Balance;
use std::collections::BTreeMap;
use thymus_record::message::{Passed, Shared};

/// Turns that a void claim stays void, whatever its member says or does: then it is checked anew.
const VOID_TURNS: u32 = 60;
/// Turns (seconds) in which too much must be missing before a claim is void, or nothing be missing before it counts.
const TURNS: u32 = 3;
/// After a change of a member so many turns are not compared: who left by the one epoch and who sent by the other.
const REST_TURNS: u32 = 2;
/// So many packets may be lost on the way, whatever their share.
const SLACK: u64 = 3;
/// Of what a member declared so much is forgotten each turn.
const FORGET: u64 = 8;
/// Pairs of one group that are compared; further ones are not, and their members stay provisional.
const PAIRS_MAX: usize = 1 << 14;

/// What the last turn changed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Members whose claims held and now count.
    pub held: Vec<u32>,
    /// Members that did not send what was left to them: their claims are void.
    pub void: Vec<u32>,
    /// Members whose claims were void, and are to be checked anew.
    pub anew: Vec<u32>,
    /// What void members had not sent.
    pub unsent: Passed,
}

impl Verdict {
    /// True if members must be told.
    pub fn is_news(&self) -> bool {
        !(self.held.is_empty() && self.void.is_empty() && self.anew.is_empty())
    }
}

#[derive(Default)]
struct Standing {
    turns: u32,
    /// Turns in a row in which too much was missing.
    short: u32,
    rest: u32,
    held: bool,
    declared: Passed,
}

#[derive(Default)]
struct Pair {
    left: Passed,
    came: Passed,
    bytes: Balance,
    bare: Balance,
    /// What the second one left so far: it tells how large the packets are that may be lost.
    all: Passed,
}

/// The claims of a group's members.
#[derive(Default)]
pub struct Claims {
    members: BTreeMap<u32, Standing>,
    /// Void claims, and for how many turns still.
    void: BTreeMap<u32, u32>,
    pairs: BTreeMap<(u32, u32), Pair>,
}

impl Claims {
    /// A member came, or claims other addresses: its claims are to be checked anew, unless they `held` just before. What
    /// was void stays so.
    pub fn enter(&mut self, member: u32, held: bool) {
        self.forget_pairs(member);
        let held = held && !self.void.contains_key(&member);
        self.members.insert(member, Standing { held, ..Standing::default() });
    }

    /// A member went.
    pub fn leave(&mut self, member: u32) {
        self.forget_pairs(member);
        self.members.remove(&member);
    }

    /// What others know of the member changes: until all know it nothing is compared.
    pub fn unsettle(&mut self, member: u32) {
        self.forget_pairs(member);
        if let Some(standing) = self.members.get_mut(&member) {
            standing.rest = REST_TURNS;
            standing.short = 0;
        }
    }

    fn forget_pairs(&mut self, member: u32) {
        self.pairs.retain(|(owner, second), _| *owner != member && *second != member);
    }

    fn pair(&mut self, owner: u32, second: u32) -> Option<&mut Pair> {
        let is_settled = |member| self.members.get(&member).is_some_and(|standing| standing.rest == 0);
        let known = owner != second && is_settled(owner) && is_settled(second);
        let room = self.pairs.len() < PAIRS_MAX || self.pairs.contains_key(&(owner, second));
        (known && room).then(|| self.pairs.entry((owner, second)).or_default())
    }

    /// The second member left so much to the owner.
    pub fn left(&mut self, shared: &Shared) {
        if let Some(pair) = self.pair(shared.owner, shared.second) {
            pair.left += shared.passed;
        }
    }

    /// So much came from the owner of what the second saw too.
    pub fn came(&mut self, shared: &Shared) {
        if let Some(pair) = self.pair(shared.owner, shared.second) {
            pair.came += shared.passed;
        }
    }

    /// The member says that it gave up so much.
    pub fn declared(&mut self, member: u32, passed: Passed) {
        if let Some(standing) = self.members.get_mut(&member) {
            standing.declared += passed;
        }
    }

    /// True if the member's claims do not count yet.
    pub fn is_provisional(&self, member: u32) -> bool {
        self.members.get(&member).is_none_or(|standing| !standing.held)
    }

    /// True if the member's claims count no more.
    pub fn is_void(&self, member: u32) -> bool {
        self.void.contains_key(&member)
    }

    /// A second has passed. A claim holds once packets have come from its member that another one saw too, and none are
    /// missing: who only says that it sees them silences nobody.
    pub fn turn(&mut self) -> Verdict {
        let mut verdict = Verdict::default();
        self.void.retain(|member, turns| {
            *turns -= 1;
            if *turns == 0 {
                verdict.anew.push(*member);
            }
            *turns > 0
        });
        // By owner: what has not come, what was left to it lately, and whether anything was compared.
        let mut found: BTreeMap<u32, (Passed, u64, bool)> = BTreeMap::new();
        for ((owner, _), pair) in &mut self.pairs {
            let (left, came) = (std::mem::take(&mut pair.left), std::mem::take(&mut pair.came));
            pair.all += left;
            let mean = pair.all.bytes.checked_div(pair.all.packets).unwrap_or(0);
            let missing = Passed {
                bytes: pair.bytes.turn(left.bytes, came.bytes, SLACK * mean),
                packets: 0,
                bare: pair.bare.turn(left.bare, came.bare, SLACK),
            };
            let (sum, lately, compared) = found.entry(*owner).or_default();
            *sum += missing;
            *lately += pair.bytes.left_lately();
            *compared |= pair.bytes.is_compared() || pair.bare.is_compared();
        }
        // Who has not met for long is compared anew.
        self.pairs.retain(|_, pair| !(pair.bytes.is_idle() && pair.bare.is_idle()));
        for (member, standing) in &mut self.members {
            let (missing, lately, compared) = found.get(member).copied().unwrap_or_default();
            let declared = standing.declared;
            // Who says all the time that it drops most of it is not relied on either.
            let drops = lately > 0 && declared.bytes > lately / 2;
            let short = missing.bytes > declared.bytes || missing.bare > declared.bare || drops;
            standing.turns += 1;
            standing.rest = standing.rest.saturating_sub(1);
            standing.short = if short { standing.short + 1 } else { 0 };
            if standing.short >= TURNS && !self.void.contains_key(member) {
                self.void.insert(*member, VOID_TURNS);
                standing.held = false;
                verdict.void.push(*member);
                verdict.unsent += missing;
            } else if standing.turns >= TURNS && compared && !short && !standing.held && !self.void.contains_key(member)
            {
                standing.held = true;
                verdict.held.push(*member);
            }
            standing.declared.bytes -= declared.bytes.div_ceil(FORGET);
            standing.declared.bare -= declared.bare.div_ceil(FORGET);
        }
        for member in &verdict.void {
            self.pairs.retain(|(owner, _), _| owner != member);
        }
        verdict
    }
}
