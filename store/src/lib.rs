//! The store of the master: batches in, pages of flows and rows out.
#![forbid(unsafe_code)]

/// What callers hand in and get back.
pub mod types;
/// The query language: text to a tree.
pub mod language;

pub use types::{
    Arrival, Counts, FlowDetail, Ingested, IngestedBatch, Mark, Page, Peer, QueryError, Request, StoreError,
    StoreEvent, StoreOptions, VolumeBucket,
};
