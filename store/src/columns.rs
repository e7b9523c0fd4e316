//! Tables as Arrow batches. A stored table has the columns of its declaration, in order, with the network path in place
//! of its number, then what the batch and the store know of the row:
//!
//! ```text
//! … | sensor | boot | sensor_name | arrival | primary | joined_ts? | joined_uid?
//! ```

use crate::filter::OWNER;
use crate::types::{Arrival, Mark, StoreError};
use arrow_array::builder::{
    ArrayBuilder, BooleanBuilder, FixedSizeBinaryBuilder, ListBuilder, StringBuilder, UInt8Builder, UInt64Builder,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, ListArray, RecordBatch, StringArray, UInt8Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use thymus_record::batch::Batch;
use thymus_record::column::Proto;
use thymus_record::{Address, BootId, FlowUid, Kind, Mac, Record, SensorId, Table, Time, Value};

/// The sequence in the uid of a row of no flow: the last that a uid's text can hold, so that cursors keep it.
const NO_FLOW: u64 = 0xff_ffff_ffff;

/// A column of a stored table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
}

/// The columns that every stored table has behind its own.
const BEHIND: [Stored; 7] = [
    Stored { name: "sensor", kind: Kind::Unsigned, nullable: false },
    Stored { name: "boot", kind: Kind::Unsigned, nullable: false },
    Stored { name: "sensor_name", kind: Kind::Text, nullable: false },
    Stored { name: "arrival", kind: Kind::Time, nullable: false },
    Stored { name: "primary", kind: Kind::Flag, nullable: false },
    Stored { name: "joined_ts", kind: Kind::Time, nullable: true },
    Stored { name: "joined_uid", kind: Kind::Text, nullable: true },
];

/// Columns of a flow's rows that are deltas.
const SUMS: [&str; 11] = [
    "orig_bytes",
    "resp_bytes",
    "missed_bytes",
    "orig_pkts",
    "resp_pkts",
    "orig_ip_bytes",
    "resp_ip_bytes",
    "wire_bytes",
    "frames",
    "unverified_frames",
    "cut_bytes",
];

/// A stored table: its columns, and where the ones are that the store itself reads.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) table: Table,
    pub(crate) columns: Vec<Stored>,
    pub(crate) schema: SchemaRef,
    own: usize,
    pub(crate) ts: usize,
    pub(crate) until: usize,
    pub(crate) network: usize,
    shard: Option<usize>,
    pub(crate) sequence: Option<usize>,
    pub(crate) ordinal: usize,
    kind: Option<usize>,
    /// The columns of a flow that are summed.
    pub(crate) sums: Vec<usize>,
    /// The columns that tell who holds a flow's originating and responding end.
    pub(crate) owners: [Vec<usize>; 2],
}

static LAYOUTS: LazyLock<Vec<Layout>> = LazyLock::new(|| Table::ALL.into_iter().map(Layout::new).collect());

impl Layout {
    pub(crate) fn of(table: Table) -> &'static Layout {
        static FIRST: LazyLock<Layout> = LazyLock::new(|| Layout::new(Table::Flow));
        LAYOUTS.iter().find(|layout| layout.table == table).unwrap_or(&FIRST)
    }

    fn new(table: Table) -> Layout {
        let own = table.columns().iter().map(|column| {
            let kind = if column.name == "network" { Kind::Text } else { column.kind };
            Stored { name: column.name, kind, nullable: column.nullable }
        });
        let columns: Vec<Stored> = own.chain(BEHIND).collect();
        let fields: Vec<Field> =
            columns.iter().map(|column| Field::new(column.name, data_type(column.kind), column.nullable)).collect();
        let place = |name: &str| columns.iter().position(|column| column.name == name);
        let ts = place("ts").unwrap_or_default();
        Layout {
            table,
            schema: Arc::new(Schema::new(fields)),
            own: table.columns().len(),
            ts,
            until: if table == Table::Flow { place("until").unwrap_or(ts) } else { ts },
            network: place("network").unwrap_or_default(),
            shard: place("shard"),
            sequence: place("sequence"),
            ordinal: place("ordinal").unwrap_or_default(),
            kind: place("kind").filter(|_| table == Table::Flow),
            sums: if table == Table::Flow { SUMS.into_iter().filter_map(place).collect() } else { Vec::new() },
            owners: ["orig", "resp"].map(|side| OWNER.iter().filter_map(|it| place(&format!("{side}_{it}"))).collect()),
            columns,
        }
    }

    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
    pub(crate) fn sensor(&self) -> usize {
        self.own
    }
    pub(crate) fn boot(&self) -> usize {
        self.own + 1
    }
    pub(crate) fn sensor_name(&self) -> usize {
        self.own + 2
    }
    pub(crate) fn arrival(&self) -> usize {
        self.own + 3
    }
    pub(crate) fn primary(&self) -> usize {
        self.own + 4
    }
    pub(crate) fn joined_ts(&self) -> usize {
        self.own + 5
    }
    pub(crate) fn joined_uid(&self) -> usize {
        self.own + 6
    }

    /// The columns that say which row or flow a row is, and whether it counts.
    pub(crate) fn identity(&self) -> Vec<usize> {
        let mut places = vec![self.ts, self.network, self.ordinal];
        places.extend(self.shard);
        places.extend(self.sequence);
        places.extend(self.kind);
        places.extend([self.sensor(), self.boot(), self.primary(), self.joined_ts(), self.joined_uid()]);
        places
    }

    /// True if the row is all there is of its flow.
    pub(crate) fn is_whole_flow(&self, row: &impl Cells) -> bool {
        let is_end = self.kind.is_some_and(|place| row.cell(place) == Value::Text(Cow::Borrowed("end")));
        is_end && row.unsigned(self.ordinal) == 0 && row.cell(self.joined_ts()) == Value::Null
    }

    /// The address that rows are sorted by.
    pub(crate) fn endpoint(&self) -> Option<usize> {
        self.place("id.orig_h").or_else(|| self.place("address"))
    }
}

fn data_type(kind: Kind) -> DataType {
    let list = |inner| DataType::List(Arc::new(Field::new("item", inner, true)));
    match kind {
        Kind::Unsigned | Kind::Time => DataType::UInt64,
        Kind::Flag => DataType::Boolean,
        Kind::Text => DataType::Utf8,
        Kind::Address => DataType::FixedSizeBinary(16),
        Kind::Mac => DataType::FixedSizeBinary(6),
        Kind::Texts => list(DataType::Utf8),
        Kind::Unsigneds => list(DataType::UInt64),
        Kind::Proto => DataType::UInt8,
    }
}

/// A row's values, by the layout's places.
pub(crate) trait Cells {
    /// The value; `Null` where the row has none or the column was not read.
    fn cell(&self, place: usize) -> Value<'_>;

    fn unsigned(&self, place: usize) -> u64 {
        match self.cell(place) {
            Value::Unsigned(number) => number,
            Value::Time(time) => time.0,
            _ => 0,
        }
    }

    fn text(&self, place: usize) -> String {
        if let Value::Text(text) = self.cell(place) { text.into_owned() } else { String::new() }
    }

    /// The flow that the row is of; a row of no flow gets a uid of its own, which is never shown.
    fn uid(&self, layout: &Layout) -> FlowUid {
        let sequence = layout.sequence.map(|place| self.cell(place));
        FlowUid {
            sensor: SensorId(u32::try_from(self.unsigned(layout.sensor())).unwrap_or_default()),
            boot: BootId(self.unsigned(layout.boot())),
            shard: layout.shard.map_or(0, |place| u8::try_from(self.unsigned(place)).unwrap_or_default()),
            sequence: if let Some(Value::Unsigned(sequence)) = sequence { sequence } else { NO_FLOW },
        }
    }

    /// What a flow is listed and folded by: its conversation's start and uid.
    fn flow_key(&self, layout: &Layout) -> (Time, FlowUid) {
        match (self.cell(layout.joined_ts()), self.cell(layout.joined_uid())) {
            (Value::Time(ts), Value::Text(uid)) => match uid.parse() {
                Ok(uid) => (ts, uid),
                Err(_) => (Time(self.unsigned(layout.ts)), self.uid(layout)),
            },
            _ => (Time(self.unsigned(layout.ts)), self.uid(layout)),
        }
    }
}

/// A batch of a stored table, perhaps of some of its columns.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) layout: &'static Layout,
    pub(crate) batch: RecordBatch,
    places: Vec<Option<usize>>,
}

/// One row of a batch.
pub(crate) struct RowView<'a> {
    rows: &'a Rows,
    row: usize,
}

impl Rows {
    pub(crate) fn new(layout: &'static Layout, batch: RecordBatch) -> Rows {
        let schema = batch.schema();
        let places = if schema.fields().len() == layout.columns.len() {
            (0..layout.columns.len()).map(Some).collect()
        } else {
            let place = |column: &Stored| schema.fields().iter().position(|field| field.name() == column.name);
            layout.columns.iter().map(place).collect()
        };
        Rows { layout, batch, places }
    }

    pub(crate) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    pub(crate) fn row(&self, row: usize) -> RowView<'_> {
        RowView { rows: self, row }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RowView<'_>> {
        (0..self.len()).map(|row| self.row(row))
    }
}

impl Cells for RowView<'_> {
    fn cell(&self, place: usize) -> Value<'_> {
        let column = self.rows.layout.columns.get(place);
        let array = self.rows.places.get(place).copied().flatten().and_then(|at| self.rows.batch.columns().get(at));
        match (column, array) {
            (Some(column), Some(array)) if self.row < array.len() && !array.is_null(self.row) => {
                read(column.kind, array.as_ref(), self.row).unwrap_or(Value::Null)
            }
            _ => Value::Null,
        }
    }
}

fn read(kind: Kind, array: &dyn Array, row: usize) -> Option<Value<'_>> {
    let any = array.as_any();
    Some(match kind {
        Kind::Unsigned => Value::Unsigned(any.downcast_ref::<UInt64Array>()?.value(row)),
        Kind::Time => Value::Time(Time(any.downcast_ref::<UInt64Array>()?.value(row))),
        Kind::Flag => Value::Flag(any.downcast_ref::<BooleanArray>()?.value(row)),
        Kind::Text => Value::Text(Cow::Borrowed(any.downcast_ref::<StringArray>()?.value(row))),
        Kind::Proto => Value::Proto(Proto(any.downcast_ref::<UInt8Array>()?.value(row))),
        Kind::Address => {
            Value::Address(Address(any.downcast_ref::<FixedSizeBinaryArray>()?.value(row).try_into().ok()?))
        }
        Kind::Mac => Value::Mac(Mac(any.downcast_ref::<FixedSizeBinaryArray>()?.value(row).try_into().ok()?)),
        Kind::Texts => {
            let list = any.downcast_ref::<ListArray>()?.value(row);
            let texts = list.as_any().downcast_ref::<StringArray>()?;
            Value::Texts(Cow::Owned(texts.iter().flatten().map(str::to_owned).collect()))
        }
        Kind::Unsigneds => {
            let list = any.downcast_ref::<ListArray>()?.value(row);
            let numbers = list.as_any().downcast_ref::<UInt64Array>()?;
            Value::Unsigneds(Cow::Owned(numbers.iter().flatten().collect()))
        }
    })
}

/// The rows of one table of a decoded batch, with their marks. `None` if it has no row of the table.
pub(crate) fn build(
    table: Table,
    batch: &Batch,
    arrival: &Arrival,
    marks: &[Mark],
) -> Result<Option<Rows>, StoreError> {
    let layout = Layout::of(table);
    let rows: Vec<(&Record, &Mark)> =
        batch.records.iter().zip(marks).filter(|(record, _)| record.table() == table).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let arrays = layout.columns.iter().enumerate().map(|(place, column)| {
        let values = rows.iter().map(|&(record, mark)| stored_value(layout, place, record, mark, batch, arrival));
        column_of(column.kind, values)
    });
    let arrays: Vec<ArrayRef> = arrays.collect();
    let batch = RecordBatch::try_new(Arc::clone(&layout.schema), arrays).map_err(|error| StoreError::Io {
        what: format!("building rows of {}", table.name()),
        error: std::io::Error::other(error),
    })?;
    Ok(Some(Rows::new(layout, batch)))
}

fn stored_value<'a>(
    layout: &Layout,
    place: usize,
    record: &'a Record,
    mark: &'a Mark,
    batch: &'a Batch,
    arrival: &'a Arrival,
) -> Value<'a> {
    if place == layout.network {
        let path = batch.head.networks.get(record.network() as usize);
        return Value::Text(Cow::Borrowed(path.map_or(arrival.group.as_str(), |path| path.as_str())));
    }
    match place.checked_sub(layout.own) {
        None => record.value(place),
        Some(0) => Value::Unsigned(u64::from(batch.head.sensor.0)),
        Some(1) => Value::Unsigned(batch.head.boot.0),
        Some(2) => Value::Text(Cow::Borrowed(&arrival.sensor_name)),
        Some(3) => Value::Time(arrival.time),
        Some(4) => Value::Flag(mark.primary),
        Some(5) => mark.joined.map_or(Value::Null, |(ts, _)| Value::Time(ts)),
        Some(_) => mark.joined.map_or(Value::Null, |(_, uid)| Value::Text(Cow::Owned(uid.to_string()))),
    }
}

pub(crate) fn column_of<'a>(kind: Kind, values: impl Iterator<Item = Value<'a>>) -> ArrayRef {
    fn done(mut builder: impl ArrayBuilder) -> ArrayRef {
        builder.finish()
    }
    macro_rules! column {
        ($builder:expr, $pattern:pat => $value:expr) => {{
            let mut builder = $builder;
            values.for_each(|value| builder.append_option(if let $pattern = value { Some($value) } else { None }));
            done(builder)
        }};
    }
    match kind {
        Kind::Unsigned => column!(UInt64Builder::new(), Value::Unsigned(number) => number),
        Kind::Time => column!(UInt64Builder::new(), Value::Time(time) => time.0),
        Kind::Flag => column!(BooleanBuilder::new(), Value::Flag(flag) => flag),
        Kind::Text => column!(StringBuilder::new(), Value::Text(text) => text),
        Kind::Proto => column!(UInt8Builder::new(), Value::Proto(proto) => proto.0),
        Kind::Address => bytes_column(16, values),
        Kind::Mac => bytes_column(6, values),
        Kind::Texts => {
            let mut builder = ListBuilder::new(StringBuilder::new());
            values.for_each(|value| {
                if let Value::Texts(texts) = &value {
                    texts.iter().for_each(|text| builder.values().append_value(text));
                }
                builder.append(value != Value::Null);
            });
            done(builder)
        }
        Kind::Unsigneds => {
            let mut builder = ListBuilder::new(UInt64Builder::new());
            values.for_each(|value| {
                if let Value::Unsigneds(numbers) = &value {
                    builder.values().append_slice(numbers);
                }
                builder.append(value != Value::Null);
            });
            done(builder)
        }
    }
}

fn bytes_column<'a>(width: i32, values: impl Iterator<Item = Value<'a>>) -> ArrayRef {
    let mut builder = FixedSizeBinaryBuilder::new(width);
    for value in values {
        let appended = match value {
            Value::Address(address) => builder.append_value(address.0),
            Value::Mac(mac) => builder.append_value(mac.0),
            _ => {
                builder.append_null();
                Ok(())
            }
        };
        if appended.is_err() {
            builder.append_null();
        }
    }
    Arc::new(builder.finish())
}
