//! Self-contained columnar batches: no shared state, so loss, spooling and reconnects need none.
//!
//! ```text
//! batch   = "TMB\0" | crc32c u32 of all behind it | format u16 | dictionary u32 (0: none) | head | body
//! head    = length varint | sensor u32 | boot u64 | sequence u64 | rows u32 | paths varint | {length varint, text}…
//!           | first crc32c u32, where a relay marked rows
//! body    = raw length u32 | zstd of sections
//! section = table u8 | rows varint | length varint | columns (see column.rs)
//! ```
//! Fixed-width numbers are little-endian. Readers skip tables and columns that they do not know, default what is
//! missing, and bound every length before they allocate.

mod column;
mod wire;

use crate::record::for_each_table;
use crate::table::{CertRow, DnsRow, FlowRow, HostRow, HttpRow, RollupRow, StatsRow, TlsRow, WeirdRow};
use crate::{BootId, NetworkPath, Record, Row, SensorId, Table, Value};
use column::{put_column, skip_column, take_column};
use wire::{Reader, put_bytes, put_varint};

/// A batch closes at this many rows.
pub const ROWS_MAX: usize = 1_000;
/// A batch closes when its rows are estimated at this many encoded bytes.
pub const BYTES_MAX: usize = 64 * 1024;

const MAGIC: &[u8; 4] = b"TMB\0";
const FORMAT: u16 = 1;
/// No reader accepts more rows in a batch: room for later writers that fill them more.
const ROWS_BOUND: usize = 65_536;
/// No reader unpacks more than this.
const RAW_BOUND: usize = 16 << 20;
/// Most network paths in a batch.
const PATHS_BOUND: usize = 65_536;
/// zstd's fastest regular level: the columns carry the structure, so that higher levels gain little.
const ZSTD_LEVEL: i32 = 1;

/// Who made a batch, and the paths that its rows' network numbers stand for.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Head {
    /// The sensor.
    pub sensor: SensorId,
    /// Its run.
    pub boot: BootId,
    /// Counts the batches of this boot, from 0.
    pub sequence: u64,
    /// How many rows follow.
    pub rows: u32,
    /// Network paths; a row's `network` is a position here.
    pub networks: Vec<NetworkPath>,
    /// The CRC of the batch as its maker encoded it, where a relay marked rows since.
    pub first_crc: Option<u32>,
}

/// A batch, decoded.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Batch {
    /// Who made it.
    pub head: Head,
    /// Its rows, by table, each table in the order made.
    pub records: Vec<Record>,
}

/// The bytes are not a batch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// Ends early, or a length points outside.
    #[error("the batch ends inside its {0}")]
    Truncated(&'static str),
    /// Not a batch at all.
    #[error("not a batch: it does not start with the batch magic")]
    Foreign,
    /// The CRC does not match.
    #[error("the batch is damaged: its CRC does not match")]
    Damaged,
    /// A format or dictionary that this build cannot read.
    #[error("batch format {0} is newer than this software; upgrade it")]
    Newer(u16),
    /// A length or count beyond its bound.
    #[error("the batch claims {what} {claimed}, more than the {bound} allowed")]
    Oversized {
        /// Which length.
        what: &'static str,
        /// The claim.
        claimed: u64,
        /// The bound.
        bound: u64,
    },
    /// A value that its column cannot hold.
    #[error("the batch holds a value that does not fit column {0}")]
    Misfit(&'static str),
}

/// Encodes a batch; `head.rows` is set from `records`.
pub fn encode(head: &Head, records: &[Record]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(records.len() * 32);
    put_sections(records, &mut raw);
    let packed = zstd::bulk::compress(&raw, ZSTD_LEVEL).unwrap_or_default();
    let mut out = Vec::with_capacity(packed.len() + 64);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    put_bytes(&mut out, &head_bytes(head, records.len()));
    out.extend_from_slice(&bounded(raw.len()).to_le_bytes());
    out.extend_from_slice(&packed);
    let crc = out.get(8..).map_or(0, crc32c::crc32c);
    if let Some(place) = out.get_mut(4..8) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// A length as the wire has it. A writer closes its batch long before a length passes 32 bits.
fn bounded(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn head_bytes(head: &Head, rows: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&head.sensor.0.to_le_bytes());
    out.extend_from_slice(&head.boot.0.to_le_bytes());
    out.extend_from_slice(&head.sequence.to_le_bytes());
    out.extend_from_slice(&bounded(rows).to_le_bytes());
    put_varint(&mut out, head.networks.len() as u64);
    head.networks.iter().for_each(|path| put_bytes(&mut out, path.as_str().as_bytes()));
    out.extend(head.first_crc.iter().flat_map(|crc| crc.to_le_bytes()));
    out
}

/// The CRC that, beside sensor, boot and sequence, makes a batch known: the one that its maker gave it. `head` is that of
/// the bytes.
pub fn identity(head: &Head, bytes: &[u8]) -> u32 {
    let crc = || bytes.get(4..)?.first_chunk::<4>().copied().map(u32::from_le_bytes);
    head.first_crc.or_else(crc).unwrap_or_default()
}

/// Reads the head alone, after checking magic, CRC and format.
pub fn head(bytes: &[u8]) -> Result<Head, BatchError> {
    take_head(bytes).map(|(head, _)| head)
}

/// Decodes a whole batch.
pub fn decode(bytes: &[u8]) -> Result<Batch, BatchError> {
    let (head, mut body) = take_head(bytes)?;
    let raw_len = u32::from_le_bytes(body.array()?) as usize;
    if raw_len > RAW_BOUND {
        return Err(BatchError::Oversized { what: "raw bytes:", claimed: raw_len as u64, bound: RAW_BOUND as u64 });
    }
    let raw = zstd::bulk::decompress(body.rest(), raw_len).ok().ok_or(BatchError::Truncated("compressed body"))?;
    let records = take_sections(&raw, head.rows as usize, head.networks.len())?;
    Ok(Batch { head, records })
}

fn take_head(bytes: &[u8]) -> Result<(Head, Reader<'_>), BatchError> {
    let mut reader = Reader::new(bytes, "head");
    if reader.array::<4>().ok().as_ref() != Some(MAGIC) {
        return Err(BatchError::Foreign);
    }
    let crc = u32::from_le_bytes(reader.array()?);
    if crc32c::crc32c(reader.rest()) != crc {
        return Err(BatchError::Damaged);
    }
    let format = u16::from_le_bytes(reader.array()?);
    let dictionary = u32::from_le_bytes(reader.array()?);
    if format != FORMAT || dictionary != 0 {
        return Err(BatchError::Newer(format));
    }
    let mut head = Reader::new(reader.bytes()?, "head");
    let (sensor, boot) = (SensorId(u32::from_le_bytes(head.array()?)), BootId(u64::from_le_bytes(head.array()?)));
    let (sequence, rows) = (u64::from_le_bytes(head.array()?), u32::from_le_bytes(head.array()?));
    if rows as usize > ROWS_BOUND {
        return Err(BatchError::Oversized { what: "rows:", claimed: u64::from(rows), bound: ROWS_BOUND as u64 });
    }
    let paths = head.count("network paths:", PATHS_BOUND)?;
    let take = |_| {
        let text = std::str::from_utf8(head.bytes()?).ok().ok_or(BatchError::Misfit("network"))?;
        Ok(NetworkPath::from_text(text))
    };
    let networks = (0..paths).map(take).collect::<Result<Vec<_>, _>>()?;
    let first_crc = if head.is_empty() { None } else { Some(u32::from_le_bytes(head.array()?)) };
    Ok((Head { sensor, boot, sequence, rows, networks, first_crc }, reader))
}

/// Writes the rows of one table, if there are any.
fn put_section<R: Row>(rows: &[&R], raw: &mut Vec<u8>) {
    if rows.is_empty() {
        return;
    }
    let mut columns = Vec::with_capacity(rows.len() * 32);
    let mut values = Vec::with_capacity(rows.len());
    for (position, column) in R::COLUMNS.iter().enumerate() {
        values.clear();
        values.extend(rows.iter().map(|row| row.value(position)));
        let start = columns.len();
        put_varint(&mut columns, u64::from(column.id));
        columns.push(column.kind as u8);
        if !put_column(column.kind, &values, &mut columns) {
            columns.truncate(start);
        }
    }
    raw.push(R::TABLE as u8);
    put_varint(raw, rows.len() as u64);
    put_bytes(raw, &columns);
}

/// Reads the columns of one table's section.
fn take_section<R: Row + Into<Record>>(
    rows: usize,
    networks: usize,
    columns: &[u8],
    records: &mut Vec<Record>,
) -> Result<(), BatchError> {
    let mut made = vec![R::default(); rows];
    let mut reader = Reader::new(columns, "section");
    while !reader.is_empty() {
        let id = reader.varint()?;
        let kind = reader.byte()?;
        let known = R::COLUMNS.iter().position(|column| u64::from(column.id) == id);
        let Some((position, column)) = known.and_then(|at| R::COLUMNS.get(at).map(|column| (at, column))) else {
            skip_column(rows, &mut reader)?;
            continue;
        };
        if kind != column.kind as u8 {
            return Err(BatchError::Misfit(column.name));
        }
        let mut at = made.iter_mut();
        take_column(column.kind, rows, &mut reader, |value| {
            let fits = at.next().is_some_and(|row| value == Value::Null || row.set(position, value));
            if fits { Ok(()) } else { Err(BatchError::Misfit(column.name)) }
        })?;
    }
    for row in made {
        let record: Record = row.into();
        if record.network() as usize >= networks.max(1) {
            return Err(BatchError::Misfit("network"));
        }
        records.push(record);
    }
    Ok(())
}

macro_rules! sections {
    ($($variant:ident($row:ident)),*) => {
        fn put_sections(records: &[Record], raw: &mut Vec<u8>) {
            $(
                let rows: Vec<&$row> = records
                    .iter()
                    .filter_map(|record| if let Record::$variant(row) = record { Some(row) } else { None })
                    .collect();
                put_section(&rows, raw);
            )*
        }

        fn take_sections(raw: &[u8], rows_claimed: usize, networks: usize) -> Result<Vec<Record>, BatchError> {
            let mut reader = Reader::new(raw, "body");
            let mut records = Vec::new();
            while !reader.is_empty() {
                let table = reader.byte()?;
                let rows = reader.count("rows:", rows_claimed.saturating_sub(records.len()))?;
                let columns = reader.bytes()?;
                $(
                    if table == Table::$variant as u8 {
                        take_section::<$row>(rows, networks, columns, &mut records)?;
                    }
                )*
            }
            Ok(records)
        }
    };
}
for_each_table!(sections);

#[cfg(test)]
mod tests;
