//! Rows that an agent made itself, of conversations and hosts that are not its own: forged, or forwarded by its host.
//! They are marked as its frames would be, so that they teach nobody about others' devices.

use std::collections::HashMap;
use thymus_record::batch::{self, BatchError, decode, encode};
use thymus_record::time::SECOND;
use thymus_record::view::outer_ends;
use thymus_record::{Address, Record, Time};

/// Agents whose addresses are remembered.
const AGENTS_MAX: usize = 16_384;
/// Addresses of each.
const ADDRESSES_MAX: usize = 512;
/// An address that an agent had is its own for so long: rows of it may still wait on the agent's disk.
const KEPT: u64 = 3_600 * SECOND;

/// The addresses of each agent, and when it last had them.
#[derive(Default)]
pub(super) struct Strangers(HashMap<u32, Vec<(Address, Time)>>);

impl Strangers {
    /// These are an agent's addresses now.
    pub(super) fn learn(&mut self, agent: u32, addresses: impl Iterator<Item = Address>, now: Time) {
        if self.0.len() >= AGENTS_MAX && !self.0.contains_key(&agent) {
            self.0.retain(|_, addresses| addresses.iter().any(|(_, seen)| now.since(*seen) < KEPT));
            if self.0.len() >= AGENTS_MAX {
                return;
            }
        }
        let known = self.0.entry(agent).or_default();
        known.retain(|(_, seen)| now.since(*seen) < KEPT);
        for address in addresses {
            if let Some(each) = known.iter_mut().find(|each| each.0 == address) {
                each.1 = now;
            } else if known.len() < ADDRESSES_MAX {
                known.push((address, now));
            }
        }
    }

    /// A batch of an agent, its rows about others marked. Without any it stays as it is.
    pub(super) fn mark(&self, agent: u32, bytes: Vec<u8>) -> Result<Vec<u8>, BatchError> {
        let own = self.0.get(&agent).map(Vec::as_slice).unwrap_or_default();
        let owns = |address: &Address| own.iter().any(|each| each.0 == *address);
        let mut batch = decode(&bytes)?;
        let marked = batch.records.iter_mut().filter_map(|record| mark(record, owns).then_some(())).count();
        if marked == 0 {
            return Ok(bytes);
        }
        // Sent again it may be marked otherwise, and is the same batch.
        batch.head.first_crc = Some(batch::identity(&batch.head, &bytes));
        Ok(encode(&batch.head, &batch.records))
    }
}

/// Marks a record if it is about others; true if it was.
fn mark(record: &mut Record, owns: impl Fn(&Address) -> bool) -> bool {
    match record {
        Record::Flow(row) if !owns(&row.orig_h) && !owns(&row.resp_h) => {
            row.unverified = row.frames.max(1);
            // Only its own end may be what others' conversations look like outside.
            let outer = row.translated.as_deref().and_then(outer_ends);
            if !outer.is_some_and(|(from, to)| owns(&from) || owns(&to)) {
                row.translated = None;
            }
        }
        Record::Dns(row) if !owns(&row.orig_h) && !owns(&row.resp_h) => row.unverified = Some(true),
        Record::Host(row) if !owns(&row.address) => row.unverified = Some(true),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_record::batch::{Head, head};
    use thymus_record::table::{DnsRow, FlowRow, HostRow};
    use thymus_record::{BootId, SensorId};

    const AGENT: u32 = 7;

    fn address(last: u8) -> Address {
        Address::from_v4([10, 0, 0, last])
    }

    fn batch(records: &[Record]) -> Vec<u8> {
        encode(&Head { sensor: SensorId(AGENT), boot: BootId(3), sequence: 5, ..Head::default() }, records)
    }

    fn flow(from: u8, to: u8, translated: Option<&str>) -> Record {
        let translated = translated.map(Into::into);
        FlowRow { orig_h: address(from), resp_h: address(to), frames: 9, translated, ..FlowRow::default() }.into()
    }

    fn marks(bytes: &[u8]) -> Vec<u64> {
        let mark = |record: &Record| match record {
            Record::Flow(row) => row.unverified,
            Record::Dns(row) => u64::from(row.unverified == Some(true)),
            Record::Host(row) => u64::from(row.unverified == Some(true)),
            _ => 99,
        };
        decode(bytes).unwrap().records.iter().map(mark).collect()
    }

    #[test]
    fn rows_about_others_are_marked_and_the_agents_own_are_not() {
        let mut strangers = Strangers::default();
        strangers.learn(AGENT, [address(1), address(2)].into_iter(), Time(0));
        let dns = |to| Record::from(DnsRow { orig_h: address(8), resp_h: address(to), ..DnsRow::default() });
        let host = |last| Record::from(HostRow { address: address(last), ..HostRow::default() });
        let own = batch(&[flow(1, 8, None), flow(8, 2, None), dns(1), host(2)]);
        assert_eq!(strangers.mark(AGENT, own.clone()), Ok(own.clone()), "not a byte is changed");
        let mixed = batch(&[flow(8, 9, None), flow(1, 9, None), dns(9), dns(2), host(9), host(1)]);
        let marked = strangers.mark(AGENT, mixed.clone()).unwrap();
        assert_eq!(marks(&marked), [9, 0, 1, 0, 1, 0]);
        assert_eq!(marks(&strangers.mark(8, own).unwrap()), [9, 9, 1, 1], "of an agent that told no address");
        // It is the same batch still, however often it is marked.
        let same = |bytes: &[u8]| batch::identity(&head(bytes).unwrap(), bytes);
        assert_eq!((same(&marked), head(&marked).unwrap().rows), (same(&mixed), 6));
        assert_eq!(same(&strangers.mark(8, marked).unwrap()), same(&mixed));
        assert!(strangers.mark(AGENT, vec![1, 2, 3]).is_err());
        let empty = FlowRow { orig_h: address(8), resp_h: address(9), ..FlowRow::default() };
        assert_eq!(marks(&strangers.mark(AGENT, batch(&[empty.into()])).unwrap()), [1], "without a frame too");
    }

    #[test]
    fn a_host_tells_how_it_translates_others_to_its_own_address_alone() {
        let mut strangers = Strangers::default();
        strangers.learn(AGENT, [address(1)].into_iter(), Time(0));
        let translated = |text| {
            let marked = strangers.mark(AGENT, batch(&[flow(8, 9, Some(text))])).unwrap();
            let Some(Record::Flow(row)) = decode(&marked).unwrap().records.pop() else { panic!() };
            row.translated.is_some()
        };
        assert!(translated("10.0.0.1:61000 > 10.0.0.9:80"));
        assert!(!translated("10.0.0.3:61000 > 10.0.0.9:80"));
        assert!(!translated("nonsense"));
    }

    #[test]
    fn an_address_stays_the_agents_for_an_hour_and_memory_is_bounded() {
        let mut strangers = Strangers::default();
        strangers.learn(AGENT, [address(1)].into_iter(), Time(0));
        strangers.learn(AGENT, [address(2)].into_iter(), Time(KEPT - 1));
        let is_own = |strangers: &Strangers| marks(&strangers.mark(AGENT, batch(&[flow(1, 9, None)])).unwrap()) == [0];
        assert!(is_own(&strangers));
        strangers.learn(AGENT, [address(2)].into_iter(), Time(KEPT));
        assert!(!is_own(&strangers));
        for agent in 0..20_000 {
            let many = (0..1_000u32).map(|n| Address::from_v4(n.to_be_bytes()));
            strangers.learn(agent, many.take(if agent == 0 { 1_000 } else { 1 }), Time(KEPT));
        }
        assert!(strangers.0.len() <= AGENTS_MAX && strangers.0[&0].len() <= ADDRESSES_MAX);
    }
}
