//! Flush, compaction and retention, on a thread of their own.
//!
//! Order makes a crash harmless: files are written and synced first, then the manifest is swapped, then what it no
//! longer names is dropped. The journal goes only after the manifest says that its rows are in files.

use crate::columns::{Layout, Rows};
use crate::embedded::{Core, State, lock};
use crate::file::{self, DataFile, FileMeta};
use crate::journal::{io, sync_dir};
use crate::manifest::Manifest;
use crate::types::{StoreError, StoreEvent, StoreOptions};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use thymus_record::{Table, Time};

/// Files of one table and hour that are merged into one when there are as many.
const MERGE_FILES: usize = 4;
/// Most rows in a merged file: what a merge holds in memory.
const MERGE_ROWS: u64 = 500_000;

/// The keeper's thread: works when it is due, until the store is dropped.
pub(crate) fn run(core: &Core) {
    loop {
        {
            let mut state = lock(&core.state);
            while !state.stopping && !is_due(&state, &core.options) {
                state = core.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopping {
                return;
            }
        }
        // Room first: the flush itself needs some.
        let done = retain(core).and_then(|()| flush(core)).and_then(|()| compact(core)).and_then(|()| retain(core));
        if let Err(error) = done {
            core.tell(StoreEvent::Failed(error.to_string().into()));
            // Without this pause a full disk would spin; new batches wake it.
            let state = lock(&core.state);
            if !state.stopping {
                let pause = std::time::Duration::from_secs(1);
                drop(core.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

/// True if rows in memory or the journal behind them have grown enough to be flushed.
pub(crate) fn is_due(state: &State, options: &StoreOptions) -> bool {
    let unflushed = state.journal.end().saturating_sub(state.flushed);
    !state.memory.is_empty() && (state.memory_rows >= options.memory_rows_max || unflushed >= options.bytes_max / 8)
}

/// Writes what is in memory as files, by table and hour.
pub(crate) fn flush(core: &Core) -> Result<(), StoreError> {
    let mut manifest = lock(&core.keeping);
    let (memory, known, journal_file) = {
        let state = lock(&core.state);
        (state.memory.clone(), state.known.clone(), state.journal.to_sync())
    };
    if memory.is_empty() {
        return Ok(());
    }
    // The manifest will claim all known batches; those not in these files must be safe in the journal.
    journal_file.sync_data().map_err(io("syncing the journal of", &core.dir))?;
    let mut made = Vec::new();
    if let Err(error) = write_memory(core, &mut manifest, &memory, &mut made) {
        // A full disk must not be filled further by files that no manifest names.
        made.iter().for_each(DataFile::doom);
        return Err(error);
    }
    let flushed = memory.back().map_or(manifest.flushed, |(end, _)| *end);
    swap(core, &mut manifest, made, &[], |manifest| {
        manifest.flushed = flushed;
        manifest.known = known;
    })?;
    let mut state = lock(&core.state);
    state.flushed = flushed;
    let tail = core.options.journal_tail_bytes.min(core.options.bytes_max / 8);
    state.journal.drop_before(flushed.saturating_sub(tail))
}

/// Writes batches as files, by table and hour.
fn write_memory(
    core: &Core,
    manifest: &mut Manifest,
    memory: &VecDeque<(u64, Arc<Vec<Rows>>)>,
    made: &mut Vec<DataFile>,
) -> Result<(), StoreError> {
    for table in Table::ALL {
        let batches: Vec<&Rows> =
            memory.iter().flat_map(|(_, tables)| tables.iter()).filter(|rows| rows.layout.table == table).collect();
        let mut hours: BTreeMap<u64, Vec<(usize, usize)>> = BTreeMap::new();
        for (at, rows) in batches.iter().enumerate() {
            (0..rows.len()).for_each(|row| hours.entry(file::hour_of(rows, row)).or_default().push((at, row)));
        }
        for (hour, rows) in hours {
            made.push(file::write(&core.tables(), next_name(manifest, table, hour), &batches, rows)?);
        }
    }
    Ok(())
}

fn next_name(manifest: &mut Manifest, table: Table, hour: u64) -> String {
    let number = manifest.next_file;
    manifest.next_file += 1;
    format!("{}-{hour}-{number}.parquet", table.name())
}

/// Puts files in force and others out, on disk and then for queries, in one step each.
fn swap(
    core: &Core,
    manifest: &mut Manifest,
    made: Vec<DataFile>,
    gone: &[Arc<DataFile>],
    change: impl FnOnce(&mut Manifest),
) -> Result<(), StoreError> {
    sync_dir(&core.tables())?;
    let mut next = manifest.clone();
    change(&mut next);
    next.files.retain(|meta| !gone.iter().any(|file| file.meta.name == meta.name));
    next.files.extend(made.iter().map(|file| file.meta.clone()));
    if let Err(error) = next.save(&core.dir) {
        made.iter().for_each(DataFile::doom);
        return Err(error);
    }
    *manifest = next;
    let mut state = lock(&core.state);
    state.files.retain(|file| !gone.iter().any(|other| Arc::ptr_eq(file, other)));
    state.files.extend(made.into_iter().map(Arc::new));
    while state.memory.front().is_some_and(|(end, _)| *end <= manifest.flushed) {
        if let Some((_, tables)) = state.memory.pop_front() {
            let rows: usize = tables.iter().map(Rows::len).sum();
            state.memory_rows = state.memory_rows.saturating_sub(rows);
        }
    }
    gone.iter().for_each(|file| file.doom());
    Ok(())
}

/// Merges small files of one table and hour until none has too many.
pub(crate) fn compact(core: &Core) -> Result<(), StoreError> {
    loop {
        let mut manifest = lock(&core.keeping);
        let Some(files) = to_merge(&lock(&core.state).files) else { return Ok(()) };
        let Some((table, hour)) = files.first().and_then(|file| Some((file.table()?, file.meta.hour))) else {
            return Ok(());
        };
        let layout = Layout::of(table);
        let mut batches = Vec::new();
        for file in &files {
            batches.extend(file.read_all(layout)?);
        }
        let batches: Vec<&Rows> = batches.iter().collect();
        let rows =
            batches.iter().enumerate().flat_map(|(at, rows)| (0..rows.len()).map(move |row| (at, row))).collect();
        let made = file::write(&core.tables(), next_name(&mut manifest, table, hour), &batches, rows)?;
        swap(core, &mut manifest, vec![made], &files, |_| {})?;
        if lock(&core.state).stopping {
            return Ok(());
        }
    }
}

/// The smallest files of a table and hour that has too many, as many as one merge may hold.
fn to_merge(files: &[Arc<DataFile>]) -> Option<Vec<Arc<DataFile>>> {
    let mut groups: BTreeMap<(u8, u64), Vec<&Arc<DataFile>>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.meta.rows < MERGE_ROWS / 2) {
        groups.entry((file.meta.table, file.meta.hour)).or_default().push(file);
    }
    groups.into_values().find_map(|mut group| {
        group.sort_by_key(|file| file.meta.rows);
        let mut rows = 0;
        let fits = |file: &&&Arc<DataFile>| {
            rows += file.meta.rows;
            rows <= MERGE_ROWS
        };
        let chosen: Vec<Arc<DataFile>> = group.iter().take_while(fits).map(|&file| Arc::clone(file)).collect();
        (chosen.len() >= MERGE_FILES).then_some(chosen)
    })
}

/// Keeps the disk budget: drops whole hours of all tables, those first whose newest row came longest ago. If one hour is
/// all there is, its files go one by one. A tenth of the budget stays free for the next flush and merge.
pub(crate) fn retain(core: &Core) -> Result<(), StoreError> {
    let mut manifest = lock(&core.keeping);
    let (files, journal) = {
        let state = lock(&core.state);
        (state.files.clone(), state.journal.bytes())
    };
    let budget = core.options.bytes_max - core.options.bytes_max / 10;
    let mut excess = (journal + files.iter().map(|file| file.meta.bytes).sum::<u64>()).saturating_sub(budget);
    if excess == 0 {
        return Ok(());
    }
    let mut hours: BTreeMap<u64, Vec<Arc<DataFile>>> = BTreeMap::new();
    for file in files {
        hours.entry(file.meta.hour).or_default().push(file);
    }
    let arrived = |group: &[Arc<DataFile>]| group.iter().map(|file| file.meta.arrival.1).max().unwrap_or(0);
    let mut groups: Vec<Vec<Arc<DataFile>>> = hours.into_values().collect();
    groups.sort_by_key(|group| arrived(group));
    if groups.len() == 1 {
        groups = groups.into_iter().flatten().map(|file| vec![file]).collect();
        groups.sort_by_key(|group| arrived(group));
    }
    let mut gone: Vec<Arc<DataFile>> = Vec::new();
    for group in groups {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(group.iter().map(|file| file.meta.bytes).sum());
        gone.extend(group);
    }
    if gone.is_empty() {
        return Ok(());
    }
    swap(core, &mut manifest, Vec::new(), &gone, |_| {})?;
    let sum = |of: fn(&FileMeta) -> u64| gone.iter().map(|file| of(&file.meta)).sum();
    let rows = sum(|meta| meta.rows);
    lock(&core.state).counts.rows_retired += rows;
    core.tell(StoreEvent::Retired { rows, bytes: sum(|meta| meta.bytes), arrived: Time(arrived(&gone)) });
    Ok(())
}
