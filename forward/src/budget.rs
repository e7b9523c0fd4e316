//! Metadata stays within 1 % of the bytes received: a token bucket that the wire fills and rows empty. Where it runs
//! dry, flows of one pattern (same originator, protocol, responder port and fate) become one row a minute, first
//! those without an answer, then all small ones, then details of protocols are left out, counted.
//!
//! A row's price is estimated from its fields alone, so that the same packets give the same rows, always.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use thymus_record::column::Proto;
use thymus_record::table::{ConnState, FlowRow, RollupRow};
use thymus_record::{Address, Field, Record, Time, Value};

/// One byte of metadata per so many bytes of traffic.
const SHARE: u64 = 100;
/// What may be spent before any traffic has paid for it: small captures keep all their rows.
const ADVANCE: i64 = 256 << 10;
/// What is saved up at most: the rows of a table full of flows that end together.
const SAVINGS_MAX: i64 = 64 << 20;
/// Patterns kept open; a full table closes them all.
const PATTERNS_MAX: usize = 4_096;
/// Responders named in a rollup.
const RESPONDERS_MAX: usize = 64;
/// An open pattern is told after this much packet time.
const SPAN: u64 = 60 * thymus_record::time::SECOND;

/// How much detail the budget leaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Detail {
    /// Every row.
    All,
    /// Flows without an answer are rolled up.
    Answered,
    /// Small flows are rolled up too.
    Large,
    /// Rows of protocols are left out too.
    Flows,
}

/// The bucket.
#[derive(Debug)]
pub struct Budget {
    tokens: i64,
    remainder: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { tokens: ADVANCE, remainder: 0 }
    }
}

impl Budget {
    /// So many bytes passed on the wire.
    pub fn earn(&mut self, wire_bytes: u64) {
        self.remainder += wire_bytes;
        let earned = i64::try_from(self.remainder / SHARE).unwrap_or(SAVINGS_MAX);
        self.remainder %= SHARE;
        self.tokens = self.tokens.saturating_add(earned).min(SAVINGS_MAX);
    }

    /// A row goes out.
    pub fn spend(&mut self, record: &Record) {
        self.tokens = self.tokens.saturating_sub(price(record));
    }

    /// How much detail there is money for.
    pub fn detail(&self) -> Detail {
        match self.tokens {
            tokens if tokens > ADVANCE / 4 => Detail::All,
            tokens if tokens > ADVANCE / 8 => Detail::Answered,
            tokens if tokens > 0 => Detail::Large,
            _ => Detail::Flows,
        }
    }
}

/// What a row is expected to take in a full batch.
fn price(record: &Record) -> i64 {
    let texts =
        |texts: &[&Option<String>]| texts.iter().filter_map(|text| text.as_ref()).map(String::len).sum::<usize>();
    let length = match record {
        Record::Flow(_) => 24,
        Record::Dns(row) => 16 + texts(&[&row.query]) / 2 + row.answers.iter().map(String::len).sum::<usize>() / 2,
        Record::Tls(row) => 24 + texts(&[&row.server_name, &row.ja3, &row.ja3s]) / 4,
        Record::Http(row) => 24 + texts(&[&row.uri, &row.host, &row.referrer]) / 2,
        Record::Cert(row) => 200 + row.subject.len() / 2,
        Record::Rollup(row) => 24 + row.responders.len() * 4,
        Record::Host(_) | Record::Weird(_) | Record::Stats(_) => 24,
    };
    i64::try_from(length).unwrap_or(SAVINGS_MAX)
}

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct Pattern {
    network: u32,
    orig_h: Address,
    resp_p: u16,
    proto: Proto,
    state: ConnState,
}

/// Patterns of flows that are told as one row.
#[derive(Default)]
pub struct Rollups {
    open: HashMap<Pattern, RollupRow>,
    order: Vec<Pattern>,
    oldest: Option<Time>,
    shard: u8,
    ordinal: u32,
}

impl Rollups {
    /// Rollups of one shard.
    pub fn new(shard: u8) -> Rollups {
        Rollups { shard, ..Rollups::default() }
    }

    /// True if, at this detail, the flow belongs in a rollup: it has one row only and the budget cannot afford it.
    pub fn takes(detail: Detail, flow: &FlowRow) -> bool {
        let whole = flow.ordinal == 0 && flow.kind == thymus_record::table::FlowKind::End;
        whole
            && match detail {
                Detail::All => false,
                Detail::Answered => flow.resp_pkts == 0 || flow.conn_state == ConnState::Rej,
                Detail::Large | Detail::Flows => flow.frames < 64,
            }
    }

    /// Adds a flow to its pattern.
    pub fn add(&mut self, flow: &FlowRow) {
        let FlowRow { network, orig_h, resp_p, proto, conn_state: state, .. } = *flow;
        let pattern = Pattern { network, orig_h, resp_p, proto, state };
        let row = match self.open.entry(pattern) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.order.push(pattern);
                entry.insert(first_row(flow, self.shard))
            }
        };
        row.ts = row.ts.min(flow.ts);
        row.until = row.until.max(flow.until);
        row.flows += 1;
        row.pkts += flow.orig_pkts + flow.resp_pkts;
        row.frames += flow.frames;
        row.wire_bytes += flow.wire_bytes;
        if row.responders.len() < RESPONDERS_MAX {
            let responder = flow.resp_h.to_string();
            if !row.responders.contains(&responder) {
                row.responders.push(responder);
            }
        }
        self.oldest.get_or_insert(flow.until);
    }

    /// True if the open patterns are due at this packet time.
    pub fn is_due(&self, now: Time) -> bool {
        self.open.len() >= PATTERNS_MAX || self.oldest.is_some_and(|oldest| now.since(oldest) >= SPAN)
    }

    /// Closes all patterns, in the order in which they were opened.
    pub fn close(&mut self, mut each: impl FnMut(RollupRow)) {
        for pattern in self.order.drain(..) {
            if let Some(mut row) = self.open.remove(&pattern) {
                row.ordinal = self.ordinal;
                self.ordinal += 1;
                each(row);
            }
        }
        self.oldest = None;
    }
}

fn first_row(flow: &FlowRow, shard: u8) -> RollupRow {
    let state = if let Value::Text(text) = flow.conn_state.value() { text.into_owned() } else { String::new() };
    RollupRow {
        ts: flow.ts,
        shard,
        network: flow.network,
        until: flow.until,
        orig_h: flow.orig_h,
        resp_p: flow.resp_p,
        proto: flow.proto,
        conn_state: state,
        ..RollupRow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_record::table::FlowKind;

    fn scan(n: u64) -> FlowRow {
        FlowRow {
            kind: FlowKind::End,
            until: Time(n),
            resp_h: Address::from_v4([10, 0, 1, u8::try_from(n % 250).unwrap()]),
            frames: 1,
            orig_pkts: 1,
            wire_bytes: 60,
            ..FlowRow::default()
        }
    }

    #[test]
    fn a_rolled_up_scan_keeps_every_packet_and_byte() {
        let mut rollups = Rollups::new(0);
        (0..1_000).for_each(|n| rollups.add(&scan(n)));
        let mut rows = Vec::new();
        rollups.close(|row| rows.push(row));
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].flows, rows[0].frames, rows[0].wire_bytes), (1_000, 1_000, 60_000));
        assert_eq!(rows[0].responders.len(), RESPONDERS_MAX);
    }

    #[test]
    fn detail_falls_as_money_runs_out_and_comes_back_with_traffic() {
        let mut budget = Budget::default();
        let flow = Record::Flow(FlowRow::default());
        let mut seen = vec![budget.detail()];
        for _ in 0..60_000 {
            budget.spend(&flow);
            if seen.last() != Some(&budget.detail()) {
                seen.push(budget.detail());
            }
        }
        assert_eq!(seen, [Detail::All, Detail::Answered, Detail::Large, Detail::Flows]);
        budget.earn(200_000_000);
        assert_eq!(budget.detail(), Detail::All);
    }
}
