//! Batches of metadata that agents made, on their way through: into our spool as they are, and back what the master says
//! of them. An agent keeps each until then, so nothing here needs to outlive a connection.

use std::sync::{Arc, Mutex, PoisonError};
use thymus_link::spool::{Pushed, Spool, SpooledBatch};
use thymus_record::batch::head;
use thymus_record::message::ToAgent;
use thymus_record::{BootId, SensorId};

/// Words of the master on their way to agents, which go on every tick.
const RELAYED_MAX: usize = 65_536;
/// Agents' batches fill the spool up to one of so many parts of it at most; the rest stays free for our own.
const SPOOL_PARTS: u64 = 2;

/// What passes.
#[derive(Default)]
pub(super) struct Passing {
    spool: Mutex<Option<Arc<Spool>>>,
    relayed: Mutex<Vec<(SensorId, ToAgent)>>,
}

impl Passing {
    /// Batches go to this spool.
    pub(super) fn set_spool(&self, spool: Arc<Spool>) {
        *self.spool.lock().unwrap_or_else(PoisonError::into_inner) = Some(spool);
    }

    /// An agent's batch. Gives its run and number where there is no room, and an error in words where it is none.
    pub(super) fn batch(&self, agent: u32, bytes: Vec<u8>) -> Result<Option<(BootId, u64)>, String> {
        let head = head(&bytes).map_err(|error| format!("its batch cannot be read: {error}"))?;
        if head.sensor.0 != agent {
            return Err(format!("it sent a batch of sensor {}", head.sensor.0));
        }
        let (sensor, boot, sequence, records) = (head.sensor, head.boot, head.sequence, head.rows);
        let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let roomy = spool.filter(|spool| spool.counts().bytes < spool.limits().bytes_max / SPOOL_PARTS);
        let batch = SpooledBatch { sensor, boot, sequence, records, bytes };
        let stored = roomy.is_some_and(|spool| matches!(spool.push_relayed(batch), Ok(Pushed::Stored)));
        Ok((!stored).then_some((boot, sequence)))
    }

    /// The master said this of an agent's batches. What finds no room is said again when the agent comes anew.
    pub(super) fn relay(&self, agent: SensorId, message: ToAgent) {
        let mut relayed = self.relayed.lock().unwrap_or_else(PoisonError::into_inner);
        if relayed.len() < RELAYED_MAX {
            relayed.push((agent, message));
        }
    }

    /// What the master said since the call before.
    pub(super) fn take_relayed(&self) -> Vec<(SensorId, ToAgent)> {
        std::mem::take(&mut *self.relayed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_link::spool::SpoolLimits;
    use thymus_record::Record;
    use thymus_record::batch::{Head, encode};
    use thymus_record::table::FlowRow;

    #[test]
    fn an_agents_batch_passes_unchanged_anothers_is_refused_and_a_full_spool_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let passing = Passing::default();
        let batch = |sensor, sequence| {
            let head = Head { sensor: SensorId(sensor), boot: BootId(9), sequence, ..Head::default() };
            encode(&head, &[Record::Flow(FlowRow::default())])
        };
        assert_eq!(passing.batch(4, batch(4, 0)), Ok(Some((BootId(9), 0))), "no spool yet");
        let spool = Arc::new(Spool::open(dir.path(), SpoolLimits { bytes_max: 600 }).unwrap());
        passing.set_spool(Arc::clone(&spool));
        assert_eq!(passing.batch(4, batch(4, 0)), Ok(None));
        assert!(passing.batch(4, batch(5, 0)).unwrap_err().contains("sensor 5"));
        assert!(passing.batch(4, vec![1, 2, 3]).unwrap_err().contains("cannot be read"));
        let kept = spool.take_next(8).unwrap();
        assert_eq!((kept.sensor, kept.bytes), (SensorId(4), batch(4, 0)));
        let refused = (1..9).find_map(|sequence| passing.batch(4, batch(4, sequence)).unwrap());
        assert!(refused.is_some(), "half of the spool stays free");
    }
}
