//! The shard's table: buckets of sixteen 32-bit tags, a cache line each, beside the flows. A key has two buckets, so
//! that a table three quarters full still finds room; where both are full, somebody must go.

use super::entry::Flow;
use super::key::FlowKey;
use super::wheel::Wheel;

/// Slots in a bucket: one cache line of tags.
const WAYS: usize = 16;

/// Where a packet's flow is, or could be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// Here.
    Slot(u32),
    /// Not in the table, and this slot is free.
    Free(u32),
    /// Not in the table, and both buckets are full.
    Full,
}

/// Flows by key.
pub(super) struct Table {
    tags: Vec<u32>,
    /// Where the flow of each slot is: flows lie close together, and memory is touched as they come.
    places: Vec<u32>,
    flows: Vec<Flow>,
    free: Vec<u32>,
    /// Timers of the slots.
    pub(super) wheel: Wheel,
    mask: usize,
    open: u64,
}

impl Table {
    /// A table for so many flows, with a third more slots.
    pub(super) fn new(flows_max: usize) -> Table {
        let buckets = (flows_max.max(WAYS) * 4 / 3).div_ceil(WAYS).next_power_of_two();
        let slots = buckets * WAYS;
        let (flows, free) = (Vec::with_capacity(slots), Vec::with_capacity(slots));
        Table {
            tags: vec![0; slots],
            places: vec![0; slots],
            flows,
            free,
            wheel: Wheel::new(slots),
            mask: buckets - 1,
            open: 0,
        }
    }

    /// Flows in the table.
    pub(super) fn open(&self) -> u64 {
        self.open
    }

    /// All slots.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.tags.len()).unwrap_or(u32::MAX)
    }

    fn buckets(&self, hash: u64) -> [usize; 2] {
        let [first, second] =
            [hash, hash >> 24].map(|bits| usize::try_from(bits & self.mask as u64).unwrap_or_default());
        [first * WAYS, second * WAYS]
    }

    /// Loads the tags of a hash, so that a later look-up finds them in the cache.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u32 {
        self.tags.get(self.buckets(hash)[0]).copied().unwrap_or_default()
    }

    /// Loads the flow that a hash most likely means.
    #[inline]
    pub(super) fn touch_flow(&self, hash: u64) -> u64 {
        let start = self.buckets(hash)[0];
        let ways = self.tags.get(start..start + WAYS).unwrap_or_default();
        let at = ways.iter().position(|tag| *tag == tag_of(hash)).unwrap_or_default();
        self.at(start + at).map_or(0, Flow::touch)
    }

    fn at(&self, slot: usize) -> Option<&Flow> {
        let place = self.places.get(slot)?;
        self.flows.get(*place as usize)
    }

    /// Looks a key up.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &FlowKey) -> Found {
        let tag = tag_of(hash);
        let mut free = None;
        for start in self.buckets(hash) {
            let ways = self.tags.get(start..start + WAYS).unwrap_or_default();
            for (at, each) in ways.iter().enumerate() {
                let slot = start + at;
                if *each == tag && self.at(slot).is_some_and(|flow| flow.key == *key) {
                    return Found::Slot(number(slot));
                }
                if *each == 0 && free.is_none() {
                    free = Some(number(slot));
                }
            }
        }
        free.map_or(Found::Full, Found::Free)
    }

    /// The slot of this hash's buckets that is to go: the oldest embryonic flow, else the one idle the longest.
    pub(super) fn victim(&self, hash: u64) -> u32 {
        let slots = self.buckets(hash).into_iter().flat_map(|start| start..start + WAYS);
        let rank = |slot: &usize| self.at(*slot).map(|flow| (!flow.is_embryonic(), flow.last));
        number(slots.min_by_key(rank).unwrap_or_default())
    }

    /// Puts a new flow into a free slot.
    pub(super) fn insert(&mut self, slot: u32, hash: u64, flow: Flow) {
        let at = slot as usize;
        let expiry = flow.deadline;
        let place = match self.free.pop() {
            Some(place) => {
                if let Some(old) = self.flows.get_mut(place as usize) {
                    *old = flow;
                }
                place
            }
            None => {
                self.flows.push(flow);
                number(self.flows.len() - 1)
            }
        };
        if let (Some(tag), Some(own)) = (self.tags.get_mut(at), self.places.get_mut(at)) {
            (*tag, *own) = (tag_of(hash), place);
            self.open += 1;
            self.wheel.insert(slot, expiry);
        }
    }

    /// The flow in a slot.
    #[inline]
    pub(super) fn flow(&mut self, slot: u32) -> Option<&mut Flow> {
        let place = self.places.get(slot as usize)?;
        self.flows.get_mut(*place as usize)
    }

    /// True if the slot holds a flow.
    pub(super) fn is_used(&self, slot: u32) -> bool {
        self.tags.get(slot as usize).is_some_and(|tag| *tag != 0)
    }

    /// Takes a flow out; the slot is free again.
    pub(super) fn take(&mut self, slot: u32) -> Option<Flow> {
        let at = slot as usize;
        let tag = self.tags.get_mut(at).filter(|tag| **tag != 0)?;
        *tag = 0;
        self.open -= 1;
        self.wheel.remove(slot);
        let place = *self.places.get(at)?;
        self.free.push(place);
        self.flows.get_mut(place as usize).map(std::mem::take)
    }
}

/// A slot's position as its number; a table has fewer than 2^32 slots.
fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

fn tag_of(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default() | 1
}
