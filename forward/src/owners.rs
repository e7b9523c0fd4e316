//! Who holds the ends of flows, as their hosts' OS-sensors tell it, put into the rows that pass.

use crate::batcher::Chunk;
use std::sync::{Arc, Mutex, PoisonError};
use thymus_record::Record;
use thymus_record::owner::{Owner, OwnerBook};
use thymus_record::view::{View, ViewBook};

/// What relay and forwarder share: what hosts tell of flows beside their packets.
#[derive(Clone, Debug, Default)]
pub struct SharedOwners(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    owners: OwnerBook,
    views: ViewBook,
}

impl SharedOwners {
    /// For so many connections.
    pub fn with_max(owners_max: usize) -> SharedOwners {
        SharedOwners(Arc::new(Mutex::new(Told { owners: OwnerBook::with_max(owners_max), ..Told::default() })))
    }

    /// Keeps what an agent told of a connection below this root of network paths.
    pub fn add(&self, root: &str, owner: Owner) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).owners.add(root, owner);
    }

    /// Keeps how a host translates a conversation, as this agent told it, or as it is known here.
    pub fn add_view(&self, root: &str, agent: Option<u32>, view: &View) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).views.add(root, agent, view);
    }

    /// Puts owners and views into the flow rows of a chunk.
    pub fn fill(&self, chunk: &mut Chunk) {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.owners.is_empty() && told.views.is_empty() {
            return;
        }
        let Chunk { records, networks, .. } = chunk;
        for record in records {
            if let Record::Flow(row) = record
                && let Some(path) = networks.get(row.network as usize)
            {
                told.owners.fill(path.root(), row);
                told.views.fill(path.root(), row);
            }
        }
    }
}
