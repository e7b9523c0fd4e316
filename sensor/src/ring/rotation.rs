//! Which slot is written next: those that hold nothing first, then the oldest.
//!
//! It follows from the heads on disk at each start, so that nothing is kept beside them that could be torn, and a ring
//! that has grown fills its new slots before it overwrites anything. Within one run the slots then go round.

/// The slots in the order in which they are written.
#[derive(Debug)]
pub(crate) struct Rotation {
    first: u64,
    slots: Vec<u64>,
}

impl Rotation {
    /// Of `count` slots, where `held` names what they hold as (slot, order), and `next` is the order written next.
    pub(crate) fn new(count: u64, held: impl IntoIterator<Item = (u64, u64)>, next: u64) -> Rotation {
        let mut orders = vec![None; usize::try_from(count).unwrap_or(0)];
        for (slot, order) in held {
            if let Some(place) = usize::try_from(slot).ok().and_then(|slot| orders.get_mut(slot)) {
                *place = Some(order);
            }
        }
        // None sorts before every order.
        let mut slots: Vec<(Option<u64>, u64)> = orders.into_iter().zip(0..).collect();
        slots.sort_unstable();
        Rotation { first: next, slots: slots.into_iter().map(|(_, slot)| slot).collect() }
    }

    /// The slot of an order that is written in this run.
    pub(crate) fn slot(&self, order: u64) -> u64 {
        let count = self.slots.len().max(1) as u64;
        let at = order.wrapping_sub(self.first) % count;
        usize::try_from(at).ok().and_then(|at| self.slots.get(at)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn empty_slots_come_first_and_then_the_oldest() {
        let rotation = Rotation::new(5, [(0, 12), (1, 10), (2, 11)], 13);
        assert_eq!((13..20).map(|order| rotation.slot(order)).collect::<Vec<_>>(), [3, 4, 1, 2, 0, 3, 4]);
    }

    proptest! {
        #[test]
        fn however_it_grows_the_newest_slots_are_held(steps in proptest::collection::vec((1u64..9, 0u64..40), 1..12)) {
            let (mut held, mut next, mut count) = (HashMap::new(), 0u64, 0u64);
            for (more, written) in steps {
                let before = count;
                count += more;
                let had = held.len() as u64;
                let rotation = Rotation::new(count, held.iter().map(|(slot, order)| (*slot, *order)), next);
                for order in next..next + written {
                    held.insert(rotation.slot(order), order);
                }
                next += written;
                prop_assert!(had <= before);
                let mut orders: Vec<u64> = held.values().copied().collect();
                orders.sort_unstable();
                // Whatever is gone is older than all that is kept.
                prop_assert_eq!(orders.len() as u64, (had + written).min(count));
                prop_assert!(orders.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                prop_assert_eq!(orders.last().map_or(0, |last| last + 1), next);
            }
        }
    }
}
