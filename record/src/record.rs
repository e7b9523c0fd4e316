//! One record of any table, and where records go.

use crate::table::{CertRow, DnsRow, FlowRow, HostRow, HttpRow, RollupRow, StatsRow, TlsRow, WeirdRow};
use crate::{Row, Table};

macro_rules! records {
    ($($variant:ident($row:ident)),*; $($rest:ident),*) => {
        /// A record of one of the tables.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Record { $(#[doc = concat!("See [`", stringify!($row), "`].")] $variant($row)),* }

        impl Record {
            /// Its table.
            pub fn table(&self) -> Table {
                match self { $(Record::$variant(_) => <$row as Row>::TABLE),* }
            }

            /// Its network path, by the number that its maker gave it.
            pub fn network(&self) -> u32 {
                match self { $(Record::$variant(row) => row.network),* }
            }

            /// The value of the column at this position of its table's columns.
            pub fn value(&self, position: usize) -> crate::Value<'_> {
                match self { $(Record::$variant(row) => row.value(position)),* }
            }

            /// Gives the network path another number, e.g. that of a batch.
            pub fn set_network(&mut self, network: u32) {
                match self { $(Record::$variant(row) => row.network = network),* }
            }

            /// The record's own time: a flow row's end of span, else `ts`.
            pub fn time(&self) -> crate::Time {
                match self {
                    Record::Flow(row) => row.until,
                    $(Record::$rest(row) => row.ts),*
                }
            }
        }

        impl Table {
            /// The table's columns, in display order.
            pub fn columns(self) -> &'static [crate::Column] {
                match self { $(Table::$variant => <$row as Row>::COLUMNS),* }
            }
        }

        $(impl From<$row> for Record {
            fn from(row: $row) -> Record { Record::$variant(row) }
        })*
    };
}

records! {
    Flow(FlowRow), Dns(DnsRow), Tls(TlsRow), Cert(CertRow), Http(HttpRow),
    Host(HostRow), Weird(WeirdRow), Stats(StatsRow), Rollup(RollupRow);
    Dns, Tls, Cert, Http, Host, Weird, Stats, Rollup
}

/// Calls a macro with every table as `Variant(Row)`, in the order of the tables' ids.
macro_rules! for_each_table {
    ($macro:ident) => {
        $macro!(
            Flow(FlowRow),
            Dns(DnsRow),
            Tls(TlsRow),
            Cert(CertRow),
            Http(HttpRow),
            Host(HostRow),
            Weird(WeirdRow),
            Stats(StatsRow),
            Rollup(RollupRow)
        );
    };
}
pub(crate) use for_each_table;

/// Where records go.
pub trait RecordSink {
    /// Takes a record; what a full sink does, and how it counts it, is the sink's promise.
    fn emit(&mut self, record: Record);
}

impl RecordSink for Vec<Record> {
    fn emit(&mut self, record: Record) {
        self.push(record);
    }
}
