//! The shard's table: flows that lie close together, and buckets that find them. A bucket is one cache line of eight
//! entries, each a tag of the key's hash beside the place of its flow. A key has two buckets, so that a table three
//! quarters full still finds room; where both are full, somebody must go.

use super::entry::Flow;
use super::key::FlowKey;
use super::wheel::Wheel;

/// Entries in a bucket.
const WAYS: usize = 8;

/// Entries: tag in the high half, place in the low one; 0 is free.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket([u64; WAYS]);

/// Flows by key.
pub(super) struct Table {
    buckets: Vec<Bucket>,
    flows: Vec<Flow>,
    free: Vec<u32>,
    /// Timers of the flows, by place.
    pub(super) wheel: Wheel,
    flows_max: usize,
    mask: u64,
}

impl Table {
    /// A table for so many flows, with a third more entries.
    pub(super) fn new(flows_max: usize) -> Table {
        let flows_max = flows_max.max(WAYS);
        let buckets = (flows_max * 4 / 3).div_ceil(WAYS).next_power_of_two();
        Table {
            buckets: vec![Bucket::default(); buckets],
            flows: Vec::with_capacity(flows_max),
            free: Vec::with_capacity(flows_max),
            wheel: Wheel::new(flows_max),
            flows_max,
            mask: buckets as u64 - 1,
        }
    }

    /// Flows in the table.
    pub(super) fn open(&self) -> u64 {
        (self.flows.len() - self.free.len()) as u64
    }

    /// Places that hold a flow, or did.
    pub(super) fn places(&self) -> u32 {
        number(self.flows.len())
    }

    fn buckets_of(&self, hash: u64) -> [usize; 2] {
        [hash, hash >> 24].map(|bits| usize::try_from(bits & self.mask).unwrap_or_default())
    }

    /// Loads the likely bucket of a hash, so that a later look-up finds it in the cache.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u64 {
        let [first, _] = self.buckets_of(hash);
        self.buckets.get(first).map_or(0, |bucket| bucket.0[0])
    }

    /// The place that a hash most likely means; some place if it means none.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> u32 {
        let [first, _] = self.buckets_of(hash);
        let tag = tag_of(hash);
        let entries = self.buckets.get(first).copied().unwrap_or_default().0;
        entries.iter().fold(0, |place, entry| if entry & TAG == tag { low(*entry) } else { place })
    }

    /// Loads the flow at a place.
    #[inline]
    pub(super) fn touch_flow(&self, place: u32) -> u64 {
        self.flows.get(place as usize).map_or(0, Flow::touch)
    }

    fn is_flow(&self, place: u32, hash: u64, key: &FlowKey) -> bool {
        self.flows.get(place as usize).is_some_and(|flow| flow.hash == (hash | USED) && flow.key.is(key))
    }

    /// Looks a key up, first at the place that was guessed.
    #[inline]
    pub(super) fn find(&self, hash: u64, guess: u32, key: &FlowKey) -> Option<u32> {
        if self.is_flow(guess, hash, key) {
            return Some(guess);
        }
        let tag = tag_of(hash);
        self.entries(hash).filter(|entry| entry & TAG == tag).map(low).find(|place| self.is_flow(*place, hash, key))
    }

    /// The entries of both buckets.
    fn entries(&self, hash: u64) -> impl Iterator<Item = u64> {
        self.buckets_of(hash).into_iter().filter_map(|at| self.buckets.get(at)).flat_map(|bucket| bucket.0)
    }

    /// The entry of both buckets that has this value.
    fn entry_mut(&mut self, hash: u64, value: u64) -> Option<&mut u64> {
        let [first, second] = self.buckets_of(hash);
        let at = |at: usize| self.buckets.get(at).and_then(|bucket| bucket.0.iter().position(|entry| *entry == value));
        let (bucket, way) = at(first).map(|way| (first, way)).or_else(|| at(second).map(|way| (second, way)))?;
        self.buckets.get_mut(bucket)?.0.get_mut(way)
    }

    /// The flow that is to go for a new one of this hash: the oldest embryonic one of its buckets, else the one idle
    /// the longest.
    pub(super) fn victim(&self, hash: u64) -> u32 {
        let places = self.entries(hash).filter(|entry| *entry != 0).map(low);
        let rank = |place: &u32| self.flows.get(*place as usize).map(|flow| (!flow.is_embryonic(), flow.last));
        places.min_by_key(rank).unwrap_or_default()
    }

    /// True if a new flow of this hash finds room.
    pub(super) fn has_room(&mut self, hash: u64) -> bool {
        (self.flows.len() < self.flows_max || !self.free.is_empty()) && self.entry_mut(hash, 0).is_some()
    }

    /// Puts a new flow in and tells its place; there must be room.
    pub(super) fn insert(&mut self, hash: u64, flow: Flow) -> Option<u32> {
        let expiry = flow.deadline;
        let flow = Flow { hash: hash | USED, ..flow };
        let place = self.free.last().copied().unwrap_or(number(self.flows.len()));
        *self.entry_mut(hash, 0)? = tag_of(hash) | u64::from(place);
        match self.flows.get_mut(place as usize) {
            Some(free) => {
                *free = flow;
                self.free.pop();
            }
            None => self.flows.push(flow),
        }
        self.wheel.insert(place, expiry);
        Some(place)
    }

    /// The flow at a place.
    #[inline]
    pub(super) fn flow(&mut self, place: u32) -> Option<&mut Flow> {
        self.flows.get_mut(place as usize)
    }

    /// True if the place holds a flow.
    pub(super) fn is_used(&self, place: u32) -> bool {
        self.flows.get(place as usize).is_some_and(|flow| flow.hash != 0)
    }

    /// Takes a flow out; its place is free again.
    pub(super) fn take(&mut self, place: u32) -> Option<Flow> {
        let flow = self.flows.get_mut(place as usize).filter(|flow| flow.hash != 0).map(std::mem::take)?;
        if let Some(entry) = self.entry_mut(flow.hash, tag_of(flow.hash) | u64::from(place)) {
            *entry = 0;
        }
        self.wheel.remove(place);
        self.free.push(place);
        Some(flow)
    }
}

/// The bits of an entry that are its tag.
const TAG: u64 = !0 << 32;
/// Set in the tag of every entry and in the hash of every flow, which then are never 0.
const USED: u64 = 1 << 32;

fn tag_of(hash: u64) -> u64 {
    hash & TAG | USED
}

#[expect(clippy::cast_possible_truncation, reason = "an entry's low half is its place")]
fn low(entry: u64) -> u32 {
    entry as u32
}

/// A position as its number; a table has fewer than 2^32 places.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thymus_record::Address;
    use thymus_record::column::Proto;

    fn key(number: u16) -> FlowKey {
        FlowKey { a_port: number, proto: Proto::UDP, a: Address::default(), ..FlowKey::default() }
    }

    proptest! {
        #[test]
        fn it_finds_what_was_put_in_and_nothing_else(steps in prop::collection::vec((0u16..200, any::<bool>()), 1..600)) {
            let mut table = Table::new(150);
            let mut model = std::collections::HashMap::new();
            for (at, puts) in steps {
                let (key, hash) = (key(at), key(at).hash([1, 2]));
                let guess = table.guess(hash);
                prop_assert_eq!(table.find(hash, guess, &key), model.get(&at).copied());
                if puts && !model.contains_key(&at) && table.has_room(hash) {
                    let place = table.insert(hash, Flow { key, ..Flow::default() }).unwrap();
                    prop_assert!(model.values().all(|other| *other != place));
                    model.insert(at, place);
                } else if !puts && let Some(place) = model.remove(&at) {
                    prop_assert_eq!(table.take(place).map(|flow| flow.key), Some(key));
                    prop_assert!(table.take(place).is_none());
                }
                prop_assert_eq!(table.open(), model.len() as u64);
            }
        }
    }

    #[test]
    fn a_full_table_names_a_victim_of_the_same_buckets() {
        let mut table = Table::new(64);
        let mut full = 0;
        for number in 0..500 {
            let (key, hash) = (key(number), key(number).hash([1, 2]));
            if !table.has_room(hash) {
                full += 1;
                let victim = table.victim(hash);
                assert!(table.take(victim).is_some());
                assert!(table.has_room(hash));
            }
            assert!(table.insert(hash, Flow { key, ..Flow::default() }).is_some());
        }
        assert!(full > 400);
    }
}
