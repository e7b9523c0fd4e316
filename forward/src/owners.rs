//! Who holds the ends of flows, as their hosts' OS-sensors tell it, put into the rows that pass.

use crate::batcher::Chunk;
use std::sync::{Arc, Mutex, PoisonError};
use thymus_record::Record;
use thymus_record::owner::{Owner, OwnerBook};

/// What relay and forwarder share.
#[derive(Clone, Debug, Default)]
pub struct SharedOwners(Arc<Mutex<OwnerBook>>);

impl SharedOwners {
    /// For so many connections.
    pub fn with_max(owners_max: usize) -> SharedOwners {
        SharedOwners(Arc::new(Mutex::new(OwnerBook::with_max(owners_max))))
    }

    /// Keeps what an agent told of a connection below this root of network paths.
    pub fn add(&self, root: &str, owner: Owner) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(root, owner);
    }

    /// Puts owners into the flow rows of a chunk.
    pub fn fill(&self, chunk: &mut Chunk) {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if book.is_empty() {
            return;
        }
        let Chunk { records, networks, .. } = chunk;
        for record in records {
            if let Record::Flow(row) = record
                && let Some(path) = networks.get(row.network as usize)
            {
                book.fill(path.root(), row);
            }
        }
    }
}
