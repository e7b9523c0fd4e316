//! The store of the master: batches in, pages of flows and rows out.
//!
//! A batch is written to the journal, made visible to queries, and is safe once [`Embedded::sync`] returns. Rows gather
//! in memory as Arrow batches, are flushed to Parquet files by table and hour, merged into larger ones, and dropped
//! oldest first when the disk budget is spent.
//!
//! Queries are our own scan over `parquet`, not an SQL engine: every query here is "newest first, folded by flow, one
//! page", which an engine answers by sorting everything it finds. The scan walks files from the newest key down and
//! stops once a page cannot change any more, prunes row groups by statistics and Bloom filters, and decodes only rows
//! that pass. It also keeps DataFusion's 700–1,000 CPU seconds out of each build.
#![forbid(unsafe_code)]

/// What callers hand in and get back.
pub mod types;
/// The append-only journal of batches.
mod journal;
/// Which batches are held, and forks.
mod known;
/// One conversation seen by several sensors.
mod conversation;
/// Tables as Arrow batches.
mod columns;
/// Rows written to and read from Parquet files.
mod file;
/// Which files are in force.
mod manifest;
/// The query language: text to a tree.
pub mod language;
/// A query's tree, bound to a table's columns.
mod filter;
/// Flows folded from their rows, and rows as JSON.
mod fold;
/// Scanning memory and files newest first.
mod scan;
/// Pages, single flows and volumes.
mod query;
/// Flush, compaction and retention.
mod keeper;
/// The store itself.
mod embedded;
/// What a backup copies.
mod freeze;

pub use embedded::Embedded;
pub use types::{
    Arrival, Counts, FlowDetail, Ingested, IngestedBatch, Mark, Page, Peer, QueryError, Request, StoreError,
    StoreEvent, StoreOptions, VolumeBucket,
};
