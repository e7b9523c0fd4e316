//! Copies of one packet from several witnesses: of what different members send, as many are kept as the one that saw it
//! most often sent, so that a packet that really came twice stays two. What a witness sends of addresses that are not its
//! own never takes the place of what their owner sends.

use std::collections::HashMap;

/// Members that one packet is counted for; a further one's copies are taken as new.
const WITNESSES: usize = 4;

#[derive(Clone, Copy, Default)]
struct Seen {
    /// Kept, of members that own an address of it and of those that do not.
    kept: [u16; 2],
    from: [(u32, u16); WITNESSES],
}

/// What came in the last while.
#[derive(Default)]
pub struct Copies {
    now: HashMap<u64, Seen>,
    before: HashMap<u64, Seen>,
}

/// Packets remembered in each of the two generations: what comes beyond is kept, never dropped.
const PACKETS_MAX: usize = 1 << 20;

impl Copies {
    /// True if this packet, known by a keyed digest, is a copy of one that came from another member.
    pub fn is_copy(&mut self, digest: u64, member: u32, owns: bool) -> bool {
        if let Some(old) = self.before.remove(&digest) {
            self.now.insert(digest, old);
        }
        if self.now.len() >= PACKETS_MAX && !self.now.contains_key(&digest) {
            return false;
        }
        let seen = self.now.entry(digest).or_default();
        let Some(place) = seen.from.iter_mut().find(|(id, count)| *id == member || *count == 0) else { return false };
        *place = (member, place.1.saturating_add(1));
        let [by_owners, by_others] = &mut seen.kept;
        let kept = if owns { *by_owners } else { (*by_owners).max(*by_others) };
        if place.1 <= kept {
            return true;
        }
        *(if owns { by_owners } else { by_others }) = place.1;
        false
    }

    /// Forgets what came before the call before this one: called every few seconds.
    pub fn turn(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}
