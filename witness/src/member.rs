//! An agent as a member of its group: what it sends, what it leaves and to whom, what it sends after all, and what it
//! reports so that claims can be checked.

use crate::choice::{Choice, Ends, Look, SPAN, Witness};
use crate::packet::{ends_of, passed_of};
use crate::roster::Roster;
use crate::shadow::{Left, Shadow};
use std::collections::BTreeMap;
use thymus_dissect::Frame;
use thymus_dissect::decode::Packet;
use thymus_record::Time;
use thymus_record::ledger::Count;
use thymus_record::message::{Member as Known, Members, Passed};

/// What a member reports.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Report {
    /// Left to others that are known to see it, where we are known to see it too.
    pub left: Vec<(u32, Passed)>,
    /// Passed from or to our own addresses, by claim, whoever sent it.
    pub own: Vec<(u64, Passed)>,
}

/// What was left before we were stopped: nobody could tell us since whether its owners live on.
struct Aside {
    shadow: Shadow,
    /// The epoch that we knew.
    epoch: u64,
    /// A vSensor has begun to tell all that it knows.
    is_told: bool,
}

/// One member.
pub struct Member {
    me: u32,
    roster: Roster,
    witness: Witness,
    shadow: Shadow,
    aside: Option<Aside>,
    /// When the last packet was there.
    last: Time,
    /// The newest epoch of all connections.
    newest: u64,
    /// The epoch is complete.
    is_whole: bool,
    left: BTreeMap<u32, Passed>,
    own: BTreeMap<u64, Passed>,
}

impl Member {
    /// Member `me`, which knows of no other and sends all.
    pub fn new(me: u32) -> Member {
        Member {
            me,
            roster: Roster::default(),
            witness: Witness::default(),
            shadow: Shadow::default(),
            aside: None,
            last: Time(0),
            newest: 0,
            is_whole: false,
            left: BTreeMap::new(),
            own: BTreeMap::new(),
        }
    }

    /// What to do with a packet; what is left is remembered.
    pub fn take(&mut self, packet: &Packet<'_>, frame: &Frame<'_>) -> Look {
        self.last = self.last.max(frame.time);
        let Some(ends) = ends_of(packet) else {
            return Look { choice: Choice::SendToo, owner: None, second: None, own: [None; 2] };
        };
        let look = self.witness.look(&ends);
        let Look { choice, second, own, .. } = look;
        let passed = passed_of(packet);
        for claim in own.into_iter().flatten() {
            *self.own.entry(claim).or_default() += passed;
        }
        if let Choice::Leave(owner) = choice {
            if second == Some(self.me) {
                self.leaves_to(owner, passed);
            }
            self.shadow.remember(owner, ends, frame);
        }
        look
    }

    /// So much is left to its owner, or would be.
    pub fn leaves_to(&mut self, owner: u32, passed: Passed) {
        *self.left.entry(owner).or_default() += passed;
    }

    /// True if packets between these ends are left to another one.
    pub fn leaves(&self, ends: &Ends) -> bool {
        matches!(self.witness.look(ends).choice, Choice::Leave(_))
    }

    /// The group changed: what was left to members that no longer own it is given to `send`, to be sent after all. A
    /// vSensor that is behind what is known already is not believed: until it has caught up all is sent.
    pub fn hear(&mut self, part: &Members, mut send: impl FnMut(&Left<'_>)) {
        if let Some(aside) = &mut self.aside {
            aside.is_told |= part.anew;
        }
        self.is_whole = self.roster.apply(part);
        if !self.is_whole {
            return;
        }
        if self.roster.epoch < self.newest {
            self.forget(send);
            return;
        }
        self.newest = self.roster.epoch;
        self.witness = Witness::new(self.me, &self.roster);
        self.review(&mut send);
        self.ask_of_those_aside(send);
    }

    /// We were stopped for a while: of what was left before, what owners that went meanwhile may not have sent is sent
    /// once a vSensor says who is there.
    pub fn was_stopped(&mut self) {
        let (shadow, epoch) = (self.shadow.set_aside(), self.newest);
        self.aside.get_or_insert(Aside { shadow, epoch, is_told: false }).is_told = false;
    }

    fn ask_of_those_aside(&mut self, send: impl FnMut(&Left<'_>)) {
        let Some(mut aside) = self.aside.take_if(|aside| aside.is_told) else { return };
        let lived_on = |owner: u32| self.roster.member(owner).is_some_and(|member| member.since <= aside.epoch);
        aside.shadow.review(|_, owner| (owner == SPAN || lived_on(owner)).then_some(owner), send);
    }

    /// Nobody has said for a while who is there: what was left to others is sent after all, and so is what comes.
    pub fn forget(&mut self, send: impl FnMut(&Left<'_>)) {
        self.witness = Witness::default();
        self.review(send);
    }

    /// The vSensor, silent for a while, is heard again: what it said last goes on until it says otherwise.
    pub fn recall(&mut self) {
        if self.is_whole && self.roster.epoch >= self.newest {
            self.witness = Witness::new(self.me, &self.roster);
        }
    }

    fn review(&mut self, send: impl FnMut(&Left<'_>)) {
        let owner_of = |ends: &_, _| match self.witness.look(ends).choice {
            Choice::Leave(owner) => Some(owner),
            Choice::Send | Choice::SendToo => None,
        };
        // Where little is left to others, some of it is old, and the receiver no longer knows whether it has it.
        self.shadow.expire(self.last);
        self.shadow.review(owner_of, send);
    }

    /// What is to be reported since the call before.
    pub fn report(&mut self) -> Report {
        let own = std::mem::take(&mut self.own);
        let left = std::mem::take(&mut self.left);
        Report { left: left.into_iter().collect(), own: own.into_iter().collect() }
    }

    /// The group's epoch.
    pub fn epoch(&self) -> u64 {
        self.roster.epoch
    }

    /// Members of the group, this one included once it is known.
    pub fn members(&self) -> &Roster {
        &self.roster
    }

    /// The other members of the group.
    pub fn others(&self) -> impl Iterator<Item = u32> {
        self.roster.members().map(|member| member.id).filter(|id| *id != self.me)
    }

    /// Other members that are relied on: their claims were checked, or a span sees all that they claim.
    pub fn relied_on(&self) -> usize {
        let checked = |member: &&Known| {
            !member.claims.is_empty() && (!member.provisional || member.covered.len() == member.claims.len())
        };
        self.roster.members().filter(|member| member.id != self.me).filter(checked).count()
    }

    /// True if a span sees some of our addresses.
    pub fn is_covered(&self) -> bool {
        self.roster.member(self.me).is_some_and(|member| !member.covered.is_empty())
    }

    /// Left to others, and forgotten before three seconds had passed.
    pub fn forgotten(&self) -> Count {
        self.shadow.forgotten()
    }
}

/// True if this owner is a span.
pub fn is_span(owner: u32) -> bool {
    owner == SPAN
}
