//! What leaves a sensor: the tables, the batch codec, packet queries and the messages of the link.
//!
//! Pure data: no I/O, no clock, no thread. A table is declared once (`table/`), and its wire columns,
//! JSON, Zeek names and store schema come from that declaration.
#![forbid(unsafe_code)]

/// Packet time: nanoseconds since 1970.
pub mod time;
/// IPv4 and IPv6 addresses in one form, and MAC addresses.
pub mod address;
/// Where a packet was seen: the network path, tenancy's key.
pub mod network;
/// Who a row is: sensor, boot, shard, sequence.
pub mod uid;
/// Columns and their values, declared once per table.
pub mod column;
/// The tables: flow, dns, tls, http, cert, host, weird, stats, rollup.
pub mod table;
/// One record of any table, and where records go.
pub mod record;
/// Rows as JSON objects.
pub mod json;
/// The packet ledger: what was offered and what became of it.
pub mod ledger;
/// A question for packets, and what was found.
pub mod query;
/// What OS-sensors are to take.
pub mod policy;
/// Who holds the ends of a connection, as their hosts tell it.
pub mod owner;
/// Two views of one conversation.
pub mod view;
/// Who of a group's agents is there.
pub mod members;
/// Messages of the link between sensor and master.
pub mod message;
/// Self-contained columnar batches of rows.
pub mod batch;

pub use address::{Address, Mac};
pub use column::{Column, Field, Kind, Row, Value};
pub use network::{Layer, NetworkPath, Scope};
pub use record::{Record, RecordSink};
pub use table::Table;
pub use time::Time;
pub use uid::{BootId, FlowUid, SensorId};
