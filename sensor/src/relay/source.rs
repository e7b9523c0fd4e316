//! Agents' frames as a source, and what relay and poll loop share.

use super::passing::Passing;
use crate::deal::DealtSource;
use crate::source::{Burst, PacketSource, Received, SourceCounters, SourceError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thymus_link::Spool;
use thymus_record::SensorId;
use thymus_record::message::{AgentHealth, ToAgent};

/// What relay and poll loop share.
#[derive(Default)]
pub struct RelayNotes {
    counters: Mutex<SourceCounters>,
    health: Mutex<BTreeMap<u32, AgentHealth>>,
    /// Owners told of addresses that another agent claims: not taken.
    foreign_owners: AtomicU64,
    pub(super) passing: Passing,
}

impl RelayNotes {
    /// An agent spoke for an address that another one claims.
    pub(super) fn refuse_owner(&self) {
        self.foreign_owners.fetch_add(1, Ordering::Relaxed);
    }

    /// Owners that were not taken, since their addresses are another agent's.
    pub fn owners_refused(&self) -> u64 {
        self.foreign_owners.load(Ordering::Relaxed)
    }

    /// The agents connected now.
    pub fn health(&self) -> Vec<AgentHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Agents' batches go to this spool.
    pub fn set_spool(&self, spool: Arc<Spool>) {
        self.passing.set_spool(spool);
    }

    /// The master said this of an agent's batches.
    pub fn relay(&self, agent: SensorId, message: ToAgent) {
        self.passing.relay(agent, message);
    }

    /// The agents connected now, to be changed.
    pub(super) fn agents(&self) -> MutexGuard<'_, BTreeMap<u32, AgentHealth>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut SourceCounters)) {
        change(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Agents' frames as a source.
pub struct AgentSource {
    pub(super) dealt: DealtSource,
    pub(super) notes: Arc<RelayNotes>,
}

impl PacketSource for AgentSource {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        self.dealt.receive_burst(each)
    }

    fn counters(&mut self) -> SourceCounters {
        *self.notes.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
