//! What the master says of batches, our own and those that we pass on.

use crate::uplink::UplinkParts;
use rand::Rng;
use std::sync::atomic::Ordering;
use thymus_record::message::{Held, ToAgent};
use thymus_record::{BootId, SensorId};

/// True for our own batches.
pub(crate) fn is_own(parts: &UplinkParts, sensor: SensorId) -> bool {
    sensor == SensorId(0) || sensor == parts.identity.sensor
}

/// The master holds these: they go, and whose they are hears of it.
pub(crate) fn settle(parts: &UplinkParts, held: Held) {
    if is_own(parts, held.sensor) {
        return parts.spool.acknowledge(&Held { sensor: parts.identity.sensor, ..held });
    }
    parts.spool.acknowledge(&held);
    (parts.relayed)(held.sensor, ToAgent::Acknowledge(held));
}

/// The master saw the same numbers with other content: another machine runs with our state, so we count anew.
pub(crate) fn renew_boot(parts: &UplinkParts, boot: BootId) {
    let fresh: u64 = rand::rng().random();
    let renewed = parts.boot.compare_exchange(boot.0, fresh, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if renewed {
        tracing::warn!("the master knows our batch numbers from another machine (a cloned appliance?): counting anew");
    }
}
