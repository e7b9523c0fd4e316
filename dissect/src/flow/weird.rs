//! Oddities, counted: at most one row a name, network and minute, so that a flood of damage stays small.

use std::collections::HashMap;
use thymus_record::table::WeirdRow;
use thymus_record::{Address, RecordSink, Time};

/// Kinds open in one minute; more are counted under the first of them.
const KINDS_MAX: usize = 1_024;

struct Open {
    row: WeirdRow,
    order: usize,
}

/// Oddities of the minute.
#[derive(Default)]
pub(super) struct Weirds {
    minute: Time,
    open: HashMap<(&'static str, u32), Open>,
    ordinal: u32,
}

impl Weirds {
    /// Counts an oddity.
    pub(super) fn note(&mut self, name: &'static str, network: u32, ends: Option<(Address, Address)>, now: Time) {
        let order = self.open.len();
        if order >= KINDS_MAX && !self.open.contains_key(&(name, network)) {
            return;
        }
        let open = self.open.entry((name, network)).or_insert_with(|| Open {
            row: WeirdRow {
                ts: now,
                network,
                orig_h: ends.map(|ends| ends.0),
                resp_h: ends.map(|ends| ends.1),
                name: name.to_owned(),
                ..WeirdRow::default()
            },
            order,
        });
        open.row.count += 1;
    }

    /// Tells the minute's oddities when another has begun.
    pub(super) fn turn(&mut self, now: Time, shard: u8, sink: &mut dyn RecordSink) {
        if self.minute != now.minute() {
            self.tell(shard, sink);
            self.minute = now.minute();
        }
    }

    /// Tells all.
    pub(super) fn tell(&mut self, shard: u8, sink: &mut dyn RecordSink) {
        let mut open: Vec<Open> = self.open.drain().map(|(_, open)| open).collect();
        open.sort_by_key(|open| open.order);
        for Open { mut row, .. } in open {
            row.shard = shard;
            row.ordinal = self.ordinal;
            self.ordinal += 1;
            sink.emit(row.into());
        }
    }
}
