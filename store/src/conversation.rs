//! One conversation, several witnesses. Traffic between two machines may pass several sensors, each of which makes rows
//! of it. Rows of different sensors with the same network path, addresses, ports and protocol, and with overlapping
//! time, are one conversation. The sensor whose row came first in the journal is primary; rows of the others are joined
//! to its flow and count in no volume. Where the primary falls silent, or hands the flow over, the next witness takes its
//! place; so does one that owns an end of what the primary, an OS-sensor, may have forged.
//!
//! Memory is bounded: two generations of conversations, the older forgotten whole when the younger is full.

use crate::types::Mark;
use std::collections::HashMap;
use std::sync::Arc;
use thymus_record::column::Proto;
use thymus_record::time::SECOND;
use thymus_record::{Address, FlowUid, SensorId, Time};

/// How far the clocks of two sensors may be apart.
const CLOCKS_APART: u64 = 2 * SECOND;
/// A witness that goes on where the primary handed over saw something so long after it; one that did not saw the same, and
/// handed over too.
const BEYOND: u64 = SECOND / 10;
/// A primary is silent when it misses two interim rows, which come every five minutes.
const SILENCE: u64 = 11 * 60 * SECOND;
/// Conversations remembered for one key: short ones over reused ports.
const PER_KEY: usize = 4;

/// What tells conversations apart, the same from both sides.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    network: Arc<str>,
    low: (Address, u16),
    high: (Address, u16),
    proto: Proto,
}

impl Key {
    pub(crate) fn new(network: Arc<str>, one: (Address, u16), other: (Address, u16), proto: Proto) -> Key {
        // The "ports" of ICMP are type and code, which differ by direction.
        let portless = matches!(proto, Proto::ICMP | Proto::ICMP6);
        let (one, other) = if portless { ((one.0, 0), (other.0, 0)) } else { (one, other) };
        Key { network, low: one.min(other), high: one.max(other), proto }
    }
}

/// A row's place in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    /// The flow that the row is of.
    pub(crate) uid: FlowUid,
    /// The flow's start.
    pub(crate) start: Time,
    /// The last packet of the row's span.
    pub(crate) until: Time,
    /// It is of the flow itself, not of what was spoken in it.
    pub(crate) is_flow: bool,
    /// Its sensor gives the flow to another one.
    pub(crate) handed_over: bool,
    /// It is a second view of another conversation, as its host translated it: it counts nowhere.
    pub(crate) is_view: bool,
    /// It is of a flow, and not from an OS-sensor that owns neither end.
    pub(crate) is_proven: bool,
}

#[derive(Clone, Copy, Debug)]
struct Conversation {
    /// Names the conversation: its first flow.
    uid: FlowUid,
    start: Time,
    /// When any witness saw it last.
    until: Time,
    primary: SensorId,
    primary_until: Time,
    handed_over: bool,
    is_view: bool,
    /// The primary told something that it cannot have forged.
    is_proven: bool,
}

/// The conversations of late.
pub(crate) struct Conversations {
    young: HashMap<Key, Vec<Conversation>>,
    old: HashMap<Key, Vec<Conversation>>,
    generation_max: usize,
}

impl Conversations {
    pub(crate) fn new(conversations_max: usize) -> Conversations {
        let generation_max = (conversations_max / 2).max(1);
        Conversations { young: HashMap::new(), old: HashMap::new(), generation_max }
    }

    /// Takes a row in journal order and says how it counts.
    pub(crate) fn mark(&mut self, key: Key, row: Sighting) -> Mark {
        if !self.young.contains_key(&key) {
            if self.young.len() >= self.generation_max {
                self.old = std::mem::take(&mut self.young);
            }
            let known = self.old.remove(&key).unwrap_or_default();
            self.young.insert(key.clone(), known);
        }
        let Some(known) = self.young.get_mut(&key) else { return Mark { primary: !row.is_view, joined: None } };
        let sensor = row.uid.sensor;
        let found = known.iter_mut().rev().find(|each| {
            let overlaps = row.start.0 <= each.until.0.saturating_add(CLOCKS_APART)
                && each.start.0 <= row.until.0.saturating_add(CLOCKS_APART);
            each.uid == row.uid || (each.uid.sensor != sensor && overlaps)
        });
        let Some(conversation) = found else {
            if known.len() >= PER_KEY {
                known.remove(0);
            }
            let Sighting { uid, start, until, handed_over, is_view, is_proven, .. } = row;
            let (primary, primary_until) = (sensor, until);
            known.push(Conversation { uid, start, until, primary, primary_until, handed_over, is_view, is_proven });
            return Mark { primary: !is_view, joined: None };
        };
        let behind = row.until.since(conversation.primary_until);
        let goes = behind > SILENCE || (conversation.handed_over && behind > BEYOND);
        if conversation.primary != sensor && (goes || (row.is_proven && !conversation.is_proven)) {
            conversation.primary = sensor;
            (conversation.handed_over, conversation.is_proven) = (false, row.is_proven);
        }
        conversation.is_view |= row.is_view;
        let primary = !conversation.is_view && (conversation.primary == sensor || goes_on(conversation, &row));
        if conversation.primary == sensor {
            conversation.handed_over |= row.handed_over;
            conversation.is_proven |= row.is_proven;
            conversation.primary_until = conversation.primary_until.max(row.until);
        }
        conversation.until = conversation.until.max(row.until);
        Mark { primary, joined: (conversation.uid != row.uid).then_some((conversation.start, conversation.uid)) }
    }
}

/// True for the flow of a sensor that saw another part of the conversation than its primary: one ends where the other
/// begins, as when an agent turns to metadata. Of two that saw the same part, the starts are as near as their clocks.
fn goes_on(conversation: &Conversation, row: &Sighting) -> bool {
    let starts_apart = row.start.0.abs_diff(conversation.start.0) > CLOCKS_APART;
    row.is_flow && starts_apart && (row.start >= conversation.primary_until || row.until <= conversation.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_record::BootId;

    fn key(swap: bool) -> Key {
        let (a, b) = ((Address::from_v4([10, 0, 0, 1]), 40_000), (Address::from_v4([10, 0, 0, 2]), 443));
        let (a, b) = if swap { (b, a) } else { (a, b) };
        Key::new("default".into(), a, b, Proto::TCP)
    }

    fn row(sensor: u32, sequence: u64, start: u64, until: u64) -> Sighting {
        let uid = FlowUid { sensor: SensorId(sensor), boot: BootId(1), shard: 0, sequence };
        Sighting {
            uid,
            start: Time(start * SECOND),
            until: Time(until * SECOND),
            is_flow: true,
            handed_over: false,
            is_view: false,
            is_proven: true,
        }
    }

    #[test]
    fn the_first_in_the_journal_is_primary_and_the_other_side_joins_it() {
        let mut all = Conversations::new(100);
        assert_eq!(all.mark(key(false), row(1, 5, 100, 110)), Mark { primary: true, joined: None });
        let first = row(1, 5, 100, 110);
        let joined = Mark { primary: false, joined: Some((first.start, first.uid)) };
        assert_eq!(all.mark(key(true), row(2, 9, 101, 110)), joined);
        assert_eq!(all.mark(key(false), row(1, 5, 100, 300)), Mark { primary: true, joined: None });
    }

    #[test]
    fn a_silent_primary_is_replaced_and_the_conversation_keeps_its_name() {
        let mut all = Conversations::new(100);
        all.mark(key(false), row(1, 5, 100, 110));
        for minute in 0..10 {
            assert!(!all.mark(key(false), row(2, 9, 100, 160 + 60 * minute)).primary);
        }
        let mark = all.mark(key(false), row(2, 9, 100, 800));
        assert!(mark.primary && mark.joined.is_some());
        assert!(!all.mark(key(false), row(1, 5, 100, 810)).primary);
    }

    #[test]
    fn who_a_flow_is_handed_to_counts_from_then_on() {
        let mut all = Conversations::new(100);
        all.mark(key(false), Sighting { handed_over: true, ..row(1, 5, 100, 110) });
        assert!(all.mark(key(false), row(2, 9, 110, 115)).primary);
        assert!(all.mark(key(false), row(2, 9, 110, 120)).primary);
        assert!(!all.mark(key(false), row(3, 4, 110, 121)).primary);
        // Another one that saw the same hands over too, and adds nothing.
        let mut all = Conversations::new(100);
        let both = |sensor| Sighting { handed_over: true, ..row(sensor, 5, 100, 110) };
        assert!(all.mark(key(false), both(1)).primary && !all.mark(key(false), both(2)).primary);
        assert!(all.mark(key(false), row(2, 9, 110, 115)).primary);
    }

    #[test]
    fn who_owns_an_end_counts_in_the_place_of_one_that_may_have_forged() {
        let mut all = Conversations::new(100);
        let forged = |until| Sighting { is_proven: false, ..row(1, 5, 100, until) };
        assert!(all.mark(key(false), forged(110)).primary, "nobody else saw it");
        assert!(all.mark(key(false), row(2, 9, 100, 110)).primary);
        assert!(!all.mark(key(false), forged(120)).primary);
        assert!(!all.mark(key(false), row(3, 9, 100, 120)).primary, "two that own an end do not take turns");
        assert!(all.mark(key(false), row(2, 9, 100, 130)).primary);
    }

    #[test]
    fn parts_of_a_conversation_that_follow_each_other_all_count() {
        for order in [[(1, 100, 150), (2, 150, 200)], [(2, 150, 200), (1, 100, 150)]] {
            let mut all = Conversations::new(100);
            let marks = order.map(|(sensor, start, until)| all.mark(key(false), row(sensor, 5, start, until)));
            assert!(marks[0].primary && marks[1].primary && marks[1].joined.is_some(), "{order:?}");
            // A third that saw all of it adds nothing.
            assert!(!all.mark(key(false), row(3, 5, 100, 200)).primary);
        }
        let mut all = Conversations::new(100);
        all.mark(key(false), row(1, 5, 100, 100));
        assert!(!all.mark(key(false), row(2, 5, 101, 101)).primary, "one packet, clocks a second apart");
    }

    #[test]
    fn the_same_ports_later_or_on_the_same_sensor_are_another_conversation() {
        let mut all = Conversations::new(100);
        all.mark(key(false), row(1, 5, 100, 110));
        assert_eq!(all.mark(key(false), row(2, 9, 113, 120)).joined, None);
        assert_eq!(all.mark(key(false), row(1, 6, 105, 110)).joined.map(|joined| joined.1), None);
    }

    #[test]
    fn a_second_view_of_another_conversation_counts_nowhere_whoever_saw_it_too() {
        let mut all = Conversations::new(100);
        let view = |row| Sighting { is_view: true, ..row };
        assert_eq!(all.mark(key(false), view(row(1, 5, 100, 110))), Mark { primary: false, joined: None });
        assert!(!all.mark(key(false), row(1, 5, 100, 120)).primary, "a later row of the same flow");
        assert!(!all.mark(key(true), row(2, 9, 101, 110)).primary, "and who saw it too");
        assert!(all.mark(key(false), row(1, 6, 200, 210)).primary, "the same ports later are another conversation");
    }

    #[test]
    fn memory_is_bounded() {
        let mut all = Conversations::new(100);
        for port in 0..1000 {
            let ends = ((Address::from_v4([10, 0, 0, 1]), port), (Address::from_v4([10, 0, 0, 2]), 443));
            all.mark(Key::new("default".into(), ends.0, ends.1, Proto::TCP), row(1, u64::from(port), 1, 2));
        }
        assert!(all.young.len() + all.old.len() <= 100);
    }
}
