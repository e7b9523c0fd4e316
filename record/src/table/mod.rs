//! The tables. Field names follow Zeek's where Zeek has the field. A column's id is never reused; a new column gets
//! the next free id, and readers that do not know it skip it.

mod cert;
mod dns;
mod flow;
mod host;
mod http;
mod rollup;
mod stats;
mod tls;
mod weird;

pub use cert::CertRow;
pub use dns::DnsRow;
pub use flow::{ConnState, EndReason, FlowKind, FlowRow};
pub use host::{HostRow, HostSource};
pub use http::HttpRow;
pub use rollup::RollupRow;
pub use stats::StatsRow;
pub use tls::TlsRow;
pub use weird::WeirdRow;

/// A table; the number is its id in batches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// Connections.
    Flow = 1,
    /// DNS transactions.
    Dns = 2,
    /// TLS handshakes.
    Tls = 3,
    /// X.509 certificates, once per fingerprint and boot.
    Cert = 4,
    /// HTTP requests with their answers.
    Http = 5,
    /// Facts about hosts.
    Host = 6,
    /// Protocol oddities.
    Weird = 7,
    /// The ledger by port and minute.
    Stats = 8,
    /// Flows rolled up to keep the metadata budget.
    Rollup = 9,
}

impl Table {
    /// All tables, in the order of their ids.
    pub const ALL: [Table; 9] = [
        Table::Flow,
        Table::Dns,
        Table::Tls,
        Table::Cert,
        Table::Http,
        Table::Host,
        Table::Weird,
        Table::Stats,
        Table::Rollup,
    ];

    /// The name in JSON lines and the API.
    pub fn name(self) -> &'static str {
        match self {
            Table::Flow => "flow",
            Table::Dns => "dns",
            Table::Tls => "tls",
            Table::Cert => "cert",
            Table::Http => "http",
            Table::Host => "host",
            Table::Weird => "weird",
            Table::Stats => "stats",
            Table::Rollup => "rollup",
        }
    }
}
