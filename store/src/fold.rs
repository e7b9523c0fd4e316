//! Flows folded from their rows, and rows as JSON.
//!
//! A flow's rows are deltas: counts are summed over the rows that count, state is that of the last row of the flow that
//! began the conversation, and every sensor that saw it is named.

use crate::columns::{Cells, Layout};
use crate::filter::{duration_place, is_inner};
use std::borrow::Cow;
use std::fmt::Write;
use thymus_record::json::{write_text, write_value};
use thymus_record::{FlowUid, SensorId, Time, Value};

/// A flow folded so far, or one row of another table.
#[derive(Clone, Debug)]
pub(crate) struct Folded {
    pub(crate) ts: Time,
    pub(crate) uid: FlowUid,
    cells: Vec<Value<'static>>,
    /// Whether the cells are of the conversation's first flow, and which row of it.
    rank: (bool, u64),
    /// Beside [`Layout::sums`].
    sums: Vec<Option<u64>>,
    until: u64,
    /// Every witness, the one that the cells are of first.
    sensors: Vec<(SensorId, String)>,
}

/// A value that outlives its row.
fn owned(value: Value<'_>) -> Value<'static> {
    match value {
        Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
        Value::Texts(texts) => Value::Texts(Cow::Owned(texts.into_owned())),
        Value::Unsigneds(numbers) => Value::Unsigneds(Cow::Owned(numbers.into_owned())),
        Value::Null => Value::Null,
        Value::Unsigned(it) => Value::Unsigned(it),
        Value::Time(it) => Value::Time(it),
        Value::Flag(it) => Value::Flag(it),
        Value::Address(it) => Value::Address(it),
        Value::Mac(it) => Value::Mac(it),
        Value::Proto(it) => Value::Proto(it),
    }
}

impl Folded {
    /// From one row.
    pub(crate) fn new(row: &impl Cells, layout: &Layout) -> Folded {
        let (ts, uid) = row.flow_key(layout);
        let mut folded = Folded {
            ts,
            uid,
            cells: Vec::new(),
            rank: (false, 0),
            sums: vec![None; layout.sums.len()],
            until: 0,
            sensors: Vec::new(),
        };
        folded.add(row, layout);
        folded
    }

    /// Adds another row of the same flow.
    pub(crate) fn add(&mut self, row: &impl Cells, layout: &Layout) {
        let is_first_flow = row.uid(layout) == self.uid;
        let rank = (is_first_flow, row.unsigned(layout.ordinal));
        let sensor = SensorId(u32::try_from(row.unsigned(layout.sensor())).unwrap_or_default());
        let at = self.sensors.iter().position(|(known, _)| *known == sensor).unwrap_or_else(|| {
            self.sensors.push((sensor, row.text(layout.sensor_name())));
            self.sensors.len() - 1
        });
        if self.cells.is_empty() || rank > self.rank {
            self.rank = rank;
            let cells = (0..layout.columns.len()).map(|place| owned(row.cell(place))).collect();
            let before = std::mem::replace(&mut self.cells, cells);
            self.keep_owners(|place| before.get(place).cloned().unwrap_or(Value::Null), layout);
            self.sensors.swap(0, at);
        } else {
            self.keep_owners(|place| owned(row.cell(place)), layout);
        }
        // A second view of another conversation counts in no volume, and shows its own counts all the same.
        let is_view = || layout.place("view_of").is_some_and(|place| row.cell(place) != Value::Null);
        if row.cell(layout.primary()) != Value::Flag(true) && !(is_first_flow && is_view()) {
            return;
        }
        self.until = self.until.max(row.unsigned(layout.until));
        for (sum, place) in self.sums.iter_mut().zip(&layout.sums) {
            if let Value::Unsigned(number) = row.cell(*place) {
                *sum = Some(sum.unwrap_or(0).saturating_add(number));
            }
        }
    }

    /// Who holds an end stays known whichever row told it: hosts tell it late, and each its own end alone.
    fn keep_owners(&mut self, other: impl Fn(usize) -> Value<'static>, layout: &Layout) {
        for places in &layout.owners {
            let is_untold = places.iter().all(|&place| self.cell(place) == Value::Null);
            for &place in places.iter().filter(|_| is_untold) {
                if let Some(cell) = self.cells.get_mut(place) {
                    *cell = other(place);
                }
            }
        }
    }

    /// Puts sums and times in place: the row of a whole flow.
    pub(crate) fn finish(mut self, layout: &Layout) -> Folded {
        let until = self.until.max(self.unsigned(layout.until));
        for (sum, place) in self.sums.iter().zip(&layout.sums) {
            if let Some(cell) = self.cells.get_mut(*place) {
                *cell = sum.map_or(Value::Null, Value::Unsigned);
            }
        }
        for (place, time) in [(layout.ts, self.ts), (layout.until, Time(until))] {
            if let Some(cell) = self.cells.get_mut(place) {
                *cell = Value::Time(time);
            }
        }
        let duration = until.saturating_sub(self.ts.0);
        self.cells.push(if duration > 0 { Value::Time(Time(duration)) } else { Value::Null });
        self
    }

    /// True if a row of the conversation's first flow is in it: without one, other sensors' rows tell too little.
    pub(crate) fn has_first_flow(&self) -> bool {
        self.rank.0
    }

    /// Every sensor that saw it, the primary first.
    pub(crate) fn sensors(&self) -> &[(SensorId, String)] {
        &self.sensors
    }

    /// A finished flow as JSON: conn.log's names, null for what is not known.
    pub(crate) fn write_flow(&self, layout: &Layout, out: &mut String) {
        let _ = write!(out, "{{\"ts\":{},\"uid\":\"{}\",\"duration\":", self.ts, self.uid);
        write_value(&self.cell(duration_place(layout)), out);
        let names = |sensors: &[(SensorId, String)], out: &mut String| {
            out.push('[');
            for (at, (_, name)) in sensors.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write_text(name, out);
            }
            out.push(']');
        };
        let _ = write!(out, ",\"sensor\":");
        write_text(self.sensors.first().map_or("", |(_, name)| name), out);
        out.push_str(",\"sensors\":");
        names(&self.sensors, out);
        out.push_str(",\"also_seen_by\":");
        names(self.sensors.get(1..).unwrap_or_default(), out);
        for (place, column) in layout.columns.iter().enumerate() {
            if is_inner(column.name) || matches!(column.name, "ts" | "sensor" | "sensor_name" | "arrival") {
                continue;
            }
            // Most flows have nobody who tells their owners.
            let is_owner = layout.owners.iter().any(|places| places.contains(&place));
            if is_owner && self.cell(place) == Value::Null {
                continue;
            }
            let _ = write!(out, ",\"{}\":", column.name);
            match self.cell(place) {
                Value::Text(text) if text.is_empty() => out.push_str("null"),
                value => write_value(&value, out),
            }
        }
        out.push('}');
    }

    /// A row of another table as JSON: what is not known is left out.
    pub(crate) fn write_row(&self, layout: &Layout, out: &mut String) {
        let _ = write!(out, "{{\"table\":\"{}\"", layout.table.name());
        if layout.sequence.is_some_and(|place| self.cell(place) != Value::Null) {
            let _ = write!(out, ",\"uid\":\"{}\"", self.uid);
        }
        out.push_str(",\"sensor\":");
        write_text(self.sensors.first().map_or("", |(_, name)| name), out);
        for (place, column) in layout.columns.iter().enumerate() {
            if is_inner(column.name) || matches!(column.name, "sensor" | "sensor_name" | "arrival") {
                continue;
            }
            let value = self.cell(place);
            if value != Value::Null {
                let _ = write!(out, ",\"{}\":", column.name);
                write_value(&value, out);
            }
        }
        out.push('}');
    }
}

impl Cells for Folded {
    fn cell(&self, place: usize) -> Value<'_> {
        self.cells.get(place).cloned().unwrap_or(Value::Null)
    }

    fn uid(&self, _: &Layout) -> FlowUid {
        self.uid
    }

    fn flow_key(&self, _: &Layout) -> (Time, FlowUid) {
        (self.ts, self.uid)
    }
}
