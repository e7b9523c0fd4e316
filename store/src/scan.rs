//! Scanning memory and files newest first.
//!
//! All rows of a flow carry the same key, the start and uid of its conversation, so that a scan can work on any range of
//! keys alone. One round finds the best keys after a cursor, at most `keys_max`, and folds all their rows: it walks files
//! by their newest key and stops at the first that cannot hold a better one. A filter on what only a whole flow knows
//! (bytes, state, duration) is applied after the fold, round by round, so that memory stays bounded.

use crate::columns::{Cells, Layout, Rows};
use crate::file::{DataFile, Wanted, overlaps};
use crate::filter::{Filter, duration_place};
use crate::fold::Folded;
use crate::types::StoreError;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use thymus_record::{FlowUid, NetworkPath, Scope, Table, Time, Value};

/// Most flows folded in one round where the filter needs whole flows; rounds begin small and grow up to this.
const ROUND_KEYS: usize = 50_000;
/// Rounds in one page; what is found by then is given, with a cursor to go on.
const ROUNDS_MAX: usize = 100;

/// The order of lists: `ts` descending as it is printed (microseconds), then uid, then the row in its flow.
pub(crate) type Key = (Reverse<u64>, FlowUid, u64);

/// What the store holds at one moment.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) memory: Vec<Arc<Vec<Rows>>>,
    pub(crate) files: Vec<Arc<DataFile>>,
}

impl Snapshot {
    /// The files of a table, newest key first.
    pub(crate) fn files_of(&self, table: Table) -> Vec<&Arc<DataFile>> {
        let mut files: Vec<_> = self.files.iter().filter(|file| file.meta.table == table as u8).collect();
        files.sort_by_key(|file| Reverse(file.meta.keys.1));
        files
    }

    /// The rows in memory of a table.
    pub(crate) fn memory_of(&self, table: Table) -> impl Iterator<Item = &Rows> {
        self.memory.iter().flat_map(|tables| tables.iter()).filter(move |rows| rows.layout.table == table)
    }
}

/// A question, bound to its table.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) layout: &'static Layout,
    pub(crate) filter: Option<Filter>,
    pub(crate) scope: Scope,
    pub(crate) from: Option<Time>,
    pub(crate) to: Option<Time>,
    pub(crate) after: Option<Key>,
}

/// The key of a row.
pub(crate) fn key_of(row: &impl Cells, layout: &Layout) -> Key {
    let (ts, uid) = row.flow_key(layout);
    let within = match layout.table {
        Table::Flow => 0,
        Table::Stats => {
            let port = layout.place("port").map_or(0, |place| row.unsigned(place));
            (row.unsigned(layout.ordinal) << 16) | (port & 0xffff)
        }
        _ => row.unsigned(layout.ordinal),
    };
    (Reverse(ts.0 / 1000), uid, within)
}

/// What was found, in order, and whether there is nothing more.
pub(crate) struct Found {
    pub(crate) items: Vec<(Key, Folded)>,
    /// Where to go on, if there may be more.
    pub(crate) next: Option<Key>,
}

/// The first `limit` flows or rows that answer the question.
pub(crate) fn find(snapshot: &Snapshot, question: &Question, limit: usize) -> Result<Found, StoreError> {
    let layout = question.layout;
    let is_exact = question.filter.as_ref().is_none_or(|filter| filter.is_exact(layout));
    let mut keys_max = if is_exact { limit + 1 } else { 8 * (limit + 1) };
    let mut question = question.clone();
    let mut items: Vec<(Key, Folded)> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let round = Round::new(question.clone(), keys_max);
        let (folded, worst) = round.run(snapshot)?;
        let folded = folded.into_iter().filter(|(_, folded)| folded.has_first_flow());
        let finished = folded.map(|(key, folded)| (key, folded.finish(layout)));
        let passing = |folded: &Folded| question.filter.as_ref().is_none_or(|filter| filter.passes(folded, layout));
        items.extend(finished.filter(|(_, folded)| passing(folded)));
        if items.len() > limit {
            items.truncate(limit);
            let next = items.last().map(|(key, _)| *key);
            return Ok(Found { items, next });
        }
        if worst.is_none() {
            return Ok(Found { items, next: None });
        }
        question.after = worst;
        keys_max = if is_exact { keys_max } else { (4 * keys_max).min(ROUND_KEYS) };
    }
    Ok(Found { items, next: question.after })
}

/// One round: the best keys and the filter on rows.
struct Round {
    question: Question,
    of_rows: Option<Filter>,
    keys_max: usize,
    best: Mutex<BTreeSet<Key>>,
}

impl Round {
    fn new(question: Question, keys_max: usize) -> Arc<Round> {
        let of_rows = question.filter.as_ref().and_then(|filter| filter.of_rows(question.layout));
        Arc::new(Round { question, of_rows, keys_max, best: Mutex::new(BTreeSet::new()) })
    }

    /// The worst of the best keys, once there are enough of them.
    fn worst(&self) -> Option<Key> {
        let best = self.best.lock().unwrap_or_else(PoisonError::into_inner);
        if best.len() >= self.keys_max { best.last().copied() } else { None }
    }

    fn run(self: &Arc<Round>, snapshot: &Snapshot) -> Result<(BTreeMap<Key, Folded>, Option<Key>), StoreError> {
        let layout = self.question.layout;
        let mut folded: BTreeMap<Key, Folded> = BTreeMap::new();
        for rows in snapshot.memory_of(layout.table) {
            let accepted = rows.iter().filter(|row| self.accepts(row));
            accepted.for_each(|row| self.fold(&row, &mut folded));
        }
        for file in snapshot.files_of(layout.table) {
            if self.worst().is_some_and(|(ts, ..)| file.meta.keys.1 / 1000 < ts.0) {
                break;
            }
            let is_past = self.question.after.is_some_and(|(ts, ..)| file.meta.keys.0 / 1000 > ts.0);
            if !is_past && overlaps(file.meta.keys, self.question.from, self.question.to) {
                file.read(layout, self, None, |rows| rows.iter().for_each(|row| self.fold(&row, &mut folded)))?;
            }
        }
        let worst = self.worst();
        if let Some(worst) = worst {
            folded.retain(|key, _| *key <= worst);
        }
        Ok((folded, worst))
    }

    fn fold(&self, row: &impl Cells, folded: &mut BTreeMap<Key, Folded>) {
        let layout = self.question.layout;
        let key = key_of(row, layout);
        let worst = self.worst();
        if worst.is_some_and(|worst| key > worst) {
            return;
        }
        folded.entry(key).and_modify(|known| known.add(row, layout)).or_insert_with(|| Folded::new(row, layout));
        if let Some(worst) = worst.filter(|_| folded.len() > 2 * self.keys_max) {
            folded.retain(|key, _| *key <= worst);
        }
    }
}

impl Wanted for Round {
    fn hint(&self) -> Option<&Filter> {
        self.of_rows.as_ref()
    }

    fn places(&self) -> Vec<usize> {
        let mut places = self.question.layout.identity();
        if let Some(filter) = &self.question.filter {
            places.push(self.question.layout.until);
            filter.places(&mut places);
            places.retain(|&place| place < self.question.layout.columns.len());
        }
        places.extend(self.question.layout.place("port").filter(|_| self.question.layout.table == Table::Stats));
        places
    }

    fn accepts(&self, row: &impl Cells) -> bool {
        let Question { layout, scope, from, to, after, .. } = &self.question;
        let is_flow = layout.table == Table::Flow;
        if !is_flow && row.cell(layout.primary()) != Value::Flag(true) {
            return false;
        }
        let (ts, _) = row.flow_key(layout);
        let key = key_of(row, layout);
        if after.is_some_and(|after| key <= after)
            || from.is_some_and(|from| ts < from)
            || to.is_some_and(|to| ts >= to)
        {
            return false;
        }
        // Another sensor's row may see the flow from its other side; it is kept for its flow's sake.
        let is_joined = is_flow && row.cell(layout.joined_ts()) != Value::Null;
        let passes = if is_flow && layout.is_whole_flow(row) {
            self.question.filter.as_ref().is_none_or(|filter| filter.passes(&WholeFlow(row, layout), layout))
        } else {
            self.of_rows.as_ref().is_none_or(|filter| filter.passes(row, layout))
        };
        if (!passes && !is_joined) || !is_allowed(scope, row, layout) {
            return false;
        }
        let mut best = self.best.lock().unwrap_or_else(PoisonError::into_inner);
        if best.len() >= self.keys_max && best.last().is_some_and(|worst| key > *worst) {
            return false;
        }
        if passes && best.insert(key) && best.len() > self.keys_max {
            best.pop_last();
        }
        true
    }
}

/// A flow of a single row: most are, and the whole filter spares them the fold.
struct WholeFlow<'a, R>(&'a R, &'a Layout);

impl<R: Cells> Cells for WholeFlow<'_, R> {
    fn cell(&self, place: usize) -> Value<'_> {
        if place != duration_place(self.1) {
            return self.0.cell(place);
        }
        let duration = self.0.unsigned(self.1.until).saturating_sub(self.0.unsigned(self.1.ts));
        if duration > 0 { Value::Time(Time(duration)) } else { Value::Null }
    }
}

/// True if the scope lets the row be seen.
pub(crate) fn is_allowed(scope: &Scope, row: &impl Cells, layout: &Layout) -> bool {
    match (scope, row.cell(layout.network)) {
        (Scope::All, _) => true,
        (_, Value::Text(path)) => scope.allows(&NetworkPath::from_text(&path)),
        _ => false,
    }
}
