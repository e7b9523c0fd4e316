//! Claims are checked, not believed: what members left to another one must have come from it.

use std::collections::{HashMap, HashSet};

/// Turns that a void claim stays void, whatever its member says or does: then it is checked anew.
const VOID_TURNS: u32 = 60;

/// Turns (seconds) in which a deficit must stand before a claim is void, or hold before it counts.
const TURNS: u32 = 3;
/// A deficit of so many bytes is within what one turn's edges explain.
const SLACK: u64 = 64 << 10;

/// What the last turn changed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Members whose claims held and now count.
    pub held: Vec<u32>,
    /// Members that did not send what was left to them: their claims are void.
    pub void: Vec<u32>,
    /// Members whose claims were void, and are to be checked anew.
    pub anew: Vec<u32>,
}

#[derive(Default)]
struct Account {
    left: u64,
    delivered: u64,
    declared: u64,
    turns: u32,
    short_for: u32,
}

/// Accounts of all members of a group.
#[derive(Default)]
pub struct Claims {
    accounts: HashMap<u32, Account>,
    /// Void claims, and for how many turns still.
    void: HashMap<u32, u32>,
    held: HashSet<u32>,
}

impl Claims {
    /// A member came, or claims other addresses: its claims are to be checked anew. What was void stays so.
    pub fn enter(&mut self, member: u32) {
        self.accounts.insert(member, Account::default());
        self.held.remove(&member);
    }

    /// A member went.
    pub fn leave(&mut self, member: u32) {
        self.accounts.remove(&member);
        self.held.remove(&member);
    }

    /// Another member left so many payload bytes to this one. Bytes, since one side may see large segments that the
    /// other sees cut.
    pub fn left_to(&mut self, member: u32, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(&member) {
            account.left += bytes;
        }
    }

    /// So many payload bytes came from this member that another one left to it.
    pub fn delivered(&mut self, member: u32, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(&member) {
            account.delivered += bytes;
        }
    }

    /// The member says that it dropped so many.
    pub fn declared(&mut self, member: u32, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(&member) {
            account.declared += bytes;
        }
    }

    /// True if the member's claims do not count yet.
    pub fn is_provisional(&self, member: u32) -> bool {
        !self.held.contains(&member)
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
        for (member, account) in &mut self.accounts {
            let came = account.delivered + account.declared;
            let short = account.left > came + account.left / 100 + SLACK;
            account.turns += 1;
            account.short_for = if short { account.short_for + 1 } else { 0 };
            if account.short_for >= TURNS && !self.void.contains_key(member) {
                self.void.insert(*member, VOID_TURNS);
                self.held.remove(member);
                verdict.void.push(*member);
            } else if account.turns >= TURNS
                && account.delivered > 0
                && !short
                && !self.void.contains_key(member)
                && self.held.insert(*member)
            {
                verdict.held.push(*member);
            }
            // Old balance weighs less than new: half of it is forgotten each turn.
            account.left /= 2;
            account.delivered /= 2;
            account.declared /= 2;
        }
        verdict.held.sort_unstable();
        verdict.void.sort_unstable();
        verdict
    }
}
