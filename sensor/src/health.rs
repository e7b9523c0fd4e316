//! The sensor's state, derived from packets and not from processes: capturing, degraded or blind, with what is wrong
//! and its cure in sentences.

use crate::counters::PortCounts;
use crate::silence::{Listener, Look, Silence};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thymus_record::Time;
use thymus_record::ledger::Ledger;
use thymus_record::message::{Health, PortHealth};

/// What the sensor says of itself, to the master, to `/metrics` and to `status`.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// What the master gets.
    pub health: Health,
    /// The link stands.
    pub connected: bool,
    /// The link's state in words.
    pub link: String,
    /// When this was taken, epoch seconds.
    pub taken: f64,
    /// The process that took it.
    pub pid: u32,
    /// The same, as it is found again.
    pub process: thymus_link::process::Process,
}

/// What one observation sees.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Time since the start, monotonic.
    pub at: Duration,
    /// Each port's name and totals.
    pub ports: Vec<(String, PortCounts)>,
    /// The ledger of this boot.
    pub ledger: Ledger,
    /// Poll loops' time on packets and in all, nanoseconds.
    pub busy: (u64, u64),
    /// Flows open.
    pub flows_open: u64,
    /// Oldest packet in the ring.
    pub ring_oldest: Option<Time>,
    /// Live ports fall silent when their span goes; files come to their end.
    pub is_live: bool,
    /// What is known of each port beside; none of files.
    pub looks: Vec<Look>,
}

/// Turns observations into health, remembering the one before.
#[derive(Default)]
pub struct Watcher {
    before: Option<Observation>,
    listeners: Vec<Listener>,
}

impl Watcher {
    /// The health at this observation.
    pub fn observe(&mut self, now: Observation) -> Health {
        let mut health = Health {
            ledger: now.ledger,
            flows_open: now.flows_open,
            ring_oldest: now.ring_oldest.map(seconds),
            ..Health::default()
        };
        self.listeners.resize(now.ports.len(), Listener::new(now.at));
        let span =
            self.before.as_ref().map_or(now.at, |before| now.at.saturating_sub(before.at)).as_secs_f64().max(0.001);
        let (mut blind, mut mbps, mut pps) = (0, 0.0, 0.0);
        for (at, (name, counts)) in now.ports.iter().enumerate() {
            let before = self.before.as_ref().and_then(|before| before.ports.get(at)).map(|port| port.1);
            let fresh = counts.since(&before.unwrap_or_default());
            let look = now.looks.get(at).cloned().unwrap_or_default();
            let listener = self.listeners.get_mut(at).filter(|_| now.is_live);
            let silence = listener.and_then(|listener| {
                let silence = listener.observe(now.at, fresh.received.packets, &look);
                // A span that worked, and at night brings broadcasts alone, is not blind.
                blind += u64::from(match silence {
                    Some(Silence::NoOthers(..)) => !listener.has_spanned(),
                    _ => silence.is_some(),
                });
                silence
            });
            let port = PortHealth {
                name: name.clone(),
                state: silence.as_ref().map_or("receiving", Silence::state).to_owned(),
                mbps: float(fresh.received.bytes) * 8.0 / span / 1e6,
                pps: float(fresh.received.packets) / span,
            };
            health.items.extend(silence.map(|silence| silence.sentence(name, &look.address)));
            if fresh.missed.packets > 0 {
                health.items.push(format!(
                    "{name} missed {} packets since the last report: the poll loop did not keep up; give it a core of its own",
                    fresh.missed.packets
                ));
            }
            if fresh.shed.packets > 0 {
                health.items.push(format!(
                    "{name} shed {} packets since the last report: the disk or a worker is late",
                    fresh.shed.packets
                ));
            }
            mbps += port.mbps;
            pps += port.pps;
            health.ports.push(port);
        }
        self.rates(&now, &mut health, mbps, pps);
        health.state = match (blind, health.items.is_empty()) {
            (blind, _) if blind > 0 && blind == now.ports.len() as u64 => "blind",
            (_, true) => "capturing",
            _ => "degraded",
        }
        .to_owned();
        health.items.extend(now.ledger.imbalances().into_iter().filter(|_| now.ports.is_empty()));
        self.before = Some(now);
        health
    }

    fn rates(&self, now: &Observation, health: &mut Health, mbps: f64, pps: f64) {
        let before = self.before.as_ref().map_or((0, 0), |before| before.busy);
        let (busy, all) = (now.busy.0.saturating_sub(before.0), now.busy.1.saturating_sub(before.1));
        health.busy_ratio = if all == 0 { 0.0 } else { float(busy) / float(all) };
        if health.busy_ratio > 0.0005 {
            health.headroom_mbps = mbps * (1.0 / health.busy_ratio - 1.0);
            health.headroom_pps = pps * (1.0 / health.busy_ratio - 1.0);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to people")]
fn float(number: u64) -> f64 {
    number as f64
}

fn seconds(time: Time) -> f64 {
    float(time.0) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sight::Seen;

    fn at(second: u64, packets: u64) -> Observation {
        let mut counts = PortCounts::default();
        (0..packets).for_each(|_| counts.received.add(1_000));
        Observation {
            at: Duration::from_secs(second),
            ports: vec![("span0".to_owned(), counts)],
            ledger: Ledger::default(),
            busy: (second * 250_000_000, second * 1_000_000_000),
            flows_open: 0,
            ring_oldest: None,
            is_live: true,
            looks: vec![Look { seen: Some(Seen::default()), ..Look::default() }],
        }
    }

    #[test]
    fn a_span_that_falls_silent_makes_the_sensor_blind_within_a_minute_and_says_why() {
        let mut watcher = Watcher::default();
        assert_eq!(watcher.observe(at(2, 1_000)).state, "capturing");
        let health = watcher.observe(at(4, 2_000));
        assert!((health.busy_ratio - 0.25).abs() < 0.01 && health.headroom_pps > 1_400.0, "{health:?}");
        assert_eq!(watcher.observe(at(20, 2_000)).state, "capturing");
        let health = watcher.observe(at(40, 2_000));
        assert_eq!(health.state, "blind");
        assert!(health.items[0].contains("silent for 36 s"), "{:?}", health.items);
        assert_eq!(watcher.observe(at(42, 2_001)).state, "capturing");
    }
}
