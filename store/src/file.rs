//! Rows in Parquet files. A file holds rows of one table and one hour, sorted by (network path, endpoint, time), in row
//! groups small enough that one endpoint's rows lie in few of them, with Bloom filters on addresses and flow ids.
//!
//! A file is written once and never changed. Who reads it holds it; it is removed from disk when it is no longer in
//! force and nobody reads it.

use crate::columns::{Cells, Layout, Rows, Stored, column_of};
use crate::filter::{Check, Filter, Hint};
use crate::journal::io;
use crate::types::StoreError;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_select::interleave::interleave_record_batch;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowFilter,
};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::AsBytes;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use thymus_record::column::Proto;
use thymus_record::{Address, Kind, Mac, Table, Time, Value};

/// Rows in a row group: the unit that is pruned.
const GROUP_ROWS: usize = 16_384;
/// Nanoseconds in a partition.
const HOUR: u64 = 3_600 * thymus_record::time::SECOND;
/// False positives of a Bloom filter.
const BLOOM_FPP: f64 = 0.01;

/// What the manifest says of a file; all bounds are inclusive.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct FileMeta {
    pub(crate) name: String,
    pub(crate) table: u8,
    pub(crate) hour: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Starts of conversations.
    pub(crate) keys: (u64, u64),
    /// Ends of spans.
    pub(crate) until: (u64, u64),
    pub(crate) arrival: (u64, u64),
}

/// A file in force, or one that is still read.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) meta: FileMeta,
    path: PathBuf,
    doomed: AtomicBool,
    reader: OnceLock<ArrowReaderMetadata>,
}

/// Which rows to read: a first test on a few columns, the rest is decoded only for rows that pass.
pub(crate) trait Wanted: Send + Sync + 'static {
    /// The part of the query by which row groups are skipped.
    fn hint(&self) -> Option<&Filter>;
    /// The columns that `accepts` reads.
    fn places(&self) -> Vec<usize>;
    /// True if the row is to be read.
    fn accepts(&self, row: &impl Cells) -> bool;
}

/// The partition that a row lies in.
pub(crate) fn hour_of(rows: &Rows, row: usize) -> u64 {
    rows.row(row).unsigned(rows.layout.until) / HOUR
}

/// Writes rows as one file, given as (batch, row) of `batches`.
pub(crate) fn write(
    dir: &Path,
    name: String,
    batches: &[&Rows],
    mut rows: Vec<(usize, usize)>,
) -> Result<DataFile, StoreError> {
    let path = dir.join(&name);
    let failed = |error: &dyn std::fmt::Display| StoreError::Parquet(path.clone(), error.to_string());
    let Some(layout) = batches.first().map(|rows| rows.layout) else { return Err(failed(&"no rows")) };
    sort(layout, batches, &mut rows);
    let sources: Vec<&RecordBatch> = batches.iter().map(|rows| &rows.batch).collect();
    let file = File::create(&path).map_err(io("creating", &path))?;
    let mut failure = None;
    let written = (|| {
        let properties = properties(layout)?;
        let watched = Watched { file: &file, failure: &mut failure };
        let mut writer = ArrowWriter::try_new(watched, Arc::clone(&layout.schema), Some(properties))?;
        for group in rows.chunks(GROUP_ROWS) {
            writer.write(&interleave_record_batch(&sources, group)?)?;
        }
        writer.close()
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&path);
        return Err(failure.map_or_else(|| failed(&error), io("writing", &path)));
    }
    file.sync_all().map_err(io("syncing", &path))?;
    let bytes = file.metadata().map_or(0, |meta| meta.len());
    let views = rows.iter().filter_map(|&(batch, row)| batches.get(batch).map(|rows| rows.row(row)));
    let mut meta = FileMeta {
        name,
        table: layout.table as u8,
        hour: 0,
        rows: rows.len() as u64,
        bytes,
        keys: (u64::MAX, 0),
        until: (u64::MAX, 0),
        arrival: (u64::MAX, 0),
    };
    for view in views {
        widen(&mut meta.keys, view.flow_key(layout).0.0);
        widen(&mut meta.until, view.unsigned(layout.until));
        widen(&mut meta.arrival, view.unsigned(layout.arrival()));
    }
    meta.hour = meta.until.0 / HOUR;
    Ok(DataFile::new(dir, meta))
}

fn widen(bounds: &mut (u64, u64), value: u64) {
    *bounds = (bounds.0.min(value), bounds.1.max(value));
}

/// Keeps the system's first error, of which Parquet's keeps the words alone: a full disk is to be told as such.
struct Watched<'a> {
    file: &'a File,
    failure: &'a mut Option<std::io::Error>,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes).inspect_err(|error| {
            self.failure.get_or_insert_with(|| error.kind().into());
        })
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn sort(layout: &Layout, batches: &[&Rows], rows: &mut [(usize, usize)]) {
    let endpoint = layout.endpoint();
    rows.sort_by_cached_key(|&(batch, row)| {
        let view = batches.get(batch).map(|rows| rows.row(row));
        view.map(|view| {
            let address = endpoint.map(|place| view.cell(place));
            let address = if let Some(Value::Address(address)) = address { address.0 } else { [0; 16] };
            (view.text(layout.network), address, view.unsigned(layout.ts))
        })
    });
}

fn properties(layout: &Layout) -> parquet::errors::Result<WriterProperties> {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS));
    for column in &layout.columns {
        let path = ColumnPath::new(vec![column.name.to_owned()]);
        let rising = column.name == "sequence" || (column.kind == Kind::Time && column.name != "arrival");
        if rising {
            builder = builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
        }
        if column.kind == Kind::Address || matches!(column.name, "sequence" | "joined_uid") {
            builder = builder
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), BLOOM_FPP)
                .set_column_bloom_filter_max_ndv(path, GROUP_ROWS as u64);
        }
    }
    Ok(builder.build())
}

impl DataFile {
    pub(crate) fn new(dir: &Path, meta: FileMeta) -> DataFile {
        let path = dir.join(&meta.name);
        DataFile { meta, path, doomed: AtomicBool::new(false), reader: OnceLock::new() }
    }

    pub(crate) fn table(&self) -> Option<Table> {
        Table::ALL.into_iter().find(|&table| table as u8 == self.meta.table)
    }

    /// Out of force: removed from disk when the last reader lets go.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    fn open(&self) -> Result<(File, ArrowReaderMetadata), StoreError> {
        let file = File::open(&self.path).map_err(io("opening", &self.path))?;
        if let Some(reader) = self.reader.get() {
            return Ok((file, reader.clone()));
        }
        let reader =
            ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|error| self.damaged(&error))?;
        Ok((file, self.reader.get_or_init(|| reader).clone()))
    }

    fn damaged(&self, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::Parquet(self.path.clone(), error.to_string())
    }

    /// Gives the wanted rows to `each`, all columns of them, or those named.
    pub(crate) fn read<W: Wanted>(
        &self,
        layout: &'static Layout,
        wanted: &Arc<W>,
        columns: Option<&[usize]>,
        mut each: impl FnMut(Rows),
    ) -> Result<(), StoreError> {
        let (file, metadata) = self.open()?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let groups: Vec<usize> = (0..builder.metadata().num_row_groups())
            .filter(|&group| may_hold(&builder, group, layout, wanted))
            .collect();
        if groups.is_empty() {
            return Ok(());
        }
        let schema = builder.parquet_schema();
        let roots = |places: &[usize]| {
            ProjectionMask::roots(schema, places.iter().filter_map(|&place| root_of(&builder, layout, place)))
        };
        let mask = roots(&wanted.places());
        let output = columns.map_or_else(ProjectionMask::all, roots);
        let judge = Arc::clone(wanted);
        let predicate = ArrowPredicateFn::new(mask, move |batch| {
            let rows = Rows::new(layout, batch);
            Ok(rows.iter().map(|row| Some(judge.accepts(&row))).collect::<BooleanArray>())
        });
        let reader = builder
            .with_row_groups(groups)
            .with_batch_size(8192)
            .with_projection(output)
            .with_row_filter(RowFilter::new(vec![Box::new(predicate)]))
            .build()
            .map_err(|error| self.damaged(&error))?;
        for batch in reader {
            each(Rows::new(layout, batch.map_err(|error| self.damaged(&error))?));
        }
        Ok(())
    }

    /// All rows, for compaction.
    pub(crate) fn read_all(&self, layout: &'static Layout) -> Result<Vec<Rows>, StoreError> {
        let (file, metadata) = self.open()?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_batch_size(GROUP_ROWS)
            .build()
            .map_err(|error| self.damaged(&error))?;
        let whole = |batch: RecordBatch| whole(layout, batch).map(|batch| Rows::new(layout, batch));
        reader.map(|batch| batch.and_then(whole).map_err(|error| self.damaged(&error))).collect()
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Acquire) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where a column of the layout is in a file, which may be older and without it.
fn root_of(builder: &ParquetRecordBatchReaderBuilder<File>, layout: &Layout, place: usize) -> Option<usize> {
    let name = layout.columns.get(place)?.name;
    builder.schema().fields().iter().position(|field| field.name() == name)
}

/// Rows of an older file with the columns that came since, each with what a row has that does not say.
fn whole(layout: &Layout, batch: RecordBatch) -> Result<RecordBatch, arrow_schema::ArrowError> {
    if batch.num_columns() == layout.columns.len() {
        return Ok(batch);
    }
    let column = |column: &Stored| {
        let known = batch.column_by_name(column.name).cloned();
        known.unwrap_or_else(|| unsaid(column, batch.num_rows()))
    };
    RecordBatch::try_new(Arc::clone(&layout.schema), layout.columns.iter().map(column).collect())
}

/// A column of so many rows that say nothing of it.
fn unsaid(column: &Stored, rows: usize) -> ArrayRef {
    let value = match column.kind {
        _ if column.nullable => Value::Null,
        Kind::Unsigned => Value::Unsigned(0),
        Kind::Time => Value::Time(Time(0)),
        Kind::Flag => Value::Flag(false),
        Kind::Text => Value::Text("".into()),
        Kind::Proto => Value::Proto(Proto(0)),
        Kind::Address => Value::Address(Address::default()),
        Kind::Mac => Value::Mac(Mac([0; 6])),
        Kind::Texts => Value::Texts(Vec::new().into()),
        Kind::Unsigneds => Value::Unsigneds(Vec::new().into()),
    };
    column_of(column.kind, (0..rows).map(|_| value.clone()))
}

/// True unless statistics or Bloom filters rule the row group out.
fn may_hold<W: Wanted>(
    builder: &ParquetRecordBatchReaderBuilder<File>,
    group: usize,
    layout: &Layout,
    wanted: &Arc<W>,
) -> bool {
    let Some(filter) = wanted.hint() else { return true };
    let bloom = |place: usize, bytes: &[u8]| {
        let Some(root) = root_of(builder, layout, place) else { return true };
        match builder.get_row_group_column_bloom_filter(group, root) {
            Ok(Some(bloom)) => bloom.check(bytes),
            _ => true,
        }
    };
    filter.may_pass(&|hint| match hint {
        Hint::Cell(place, Check::Address(low, high)) => {
            let in_bounds = root_of(builder, layout, place)
                .and_then(|root| builder.metadata().row_groups().get(group)?.columns().get(root))
                .is_none_or(|column| match column.statistics().map(|it| (it.min_bytes_opt(), it.max_bytes_opt())) {
                    Some((Some(min), Some(max))) => min <= high.as_slice() && max >= low.as_slice(),
                    _ => true,
                });
            in_bounds && (low != high || bloom(place, low))
        }
        Hint::Cell(..) => true,
        Hint::Uid(uid) => {
            layout.sequence.is_none_or(|place| bloom(place, uid.sequence.as_bytes()))
                || bloom(layout.joined_uid(), uid.to_string().as_bytes())
        }
    })
}

/// True if the table's rows of these times may lie in the file.
pub(crate) fn overlaps(bounds: (u64, u64), from: Option<Time>, to: Option<Time>) -> bool {
    from.is_none_or(|from| bounds.1 >= from.0) && to.is_none_or(|to| bounds.0 < to.0)
}
