//! What the agent takes, sends and costs, over the last second.

use crate::system::{cpu_time, rss_bytes};
use std::time::Duration;
use thymus_record::message::{AgentLedger, Policy};

/// Counters at one moment.
#[derive(Clone, Copy, Default)]
struct Moment {
    at: Duration,
    seen_bytes: u64,
    sent_bytes: u64,
    cpu: Duration,
}

/// Rates between the last two looks.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Cost {
    /// Wire bytes on the interfaces, Mbit/s.
    pub seen_mbps: f64,
    /// Bytes for the vSensor before TLS, Mbit/s.
    pub sent_mbps: f64,
    /// Percent of one core.
    pub cpu_percent: f64,
    /// Memory in use.
    pub rss_bytes: u64,
}

/// Remembers the look before.
#[derive(Default)]
pub struct Meter {
    before: Moment,
    cost: Cost,
}

impl Meter {
    /// Looks at the counters now; `sent_bytes` since the start.
    pub fn look(&mut self, now: Duration, ledger: &AgentLedger, sent_bytes: u64) -> Cost {
        let cpu = cpu_time().unwrap_or_default();
        let after = Moment { at: now, seen_bytes: ledger.seen.bytes, sent_bytes, cpu };
        let before = std::mem::replace(&mut self.before, after);
        let seconds = now.saturating_sub(before.at).as_secs_f64();
        if seconds > 0.0 {
            self.cost = Cost {
                seen_mbps: mbps(after.seen_bytes.saturating_sub(before.seen_bytes), seconds),
                sent_mbps: mbps(after.sent_bytes.saturating_sub(before.sent_bytes), seconds),
                cpu_percent: 100.0 * cpu.saturating_sub(before.cpu).as_secs_f64() / seconds,
                rss_bytes: rss_bytes(),
            };
        }
        self.cost
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to people")]
fn mbps(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 * 8.0 / 1e6 / seconds
}

/// What the limits took, now and in the look before.
#[derive(Clone, Copy, Default)]
pub(crate) struct Capped {
    pub(crate) cpu: bool,
    pub(crate) mbps: bool,
    pub(crate) mbps_packets: u64,
}

impl Capped {
    /// The same in sentences.
    pub(crate) fn items(self, policy: &Policy) -> impl Iterator<Item = String> {
        let Policy { cpu_percent_max, mbps_max, .. } = policy;
        let cpu = self.cpu.then(|| format!("the cap of {cpu_percent_max} % of a core is reached"));
        let mbps = self.mbps.then(|| format!("the cap of {mbps_max} Mbit/s is reached"));
        [cpu, mbps].into_iter().flatten().map(|words| format!("{words}: packets are given up, and counted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let (mut meter, mut ledger) = (Meter::default(), AgentLedger::default());
        meter.look(Duration::from_secs(1), &ledger, 0);
        ledger.seen.bytes = 250_000;
        let cost = meter.look(Duration::from_secs(3), &ledger, 125_000);
        assert!((cost.seen_mbps - 1.0).abs() < 1e-9 && (cost.sent_mbps - 0.5).abs() < 1e-9, "{cost:?}");
        assert!(!cfg!(target_os = "linux") || cost.rss_bytes > 0);
        assert_eq!(meter.look(Duration::from_secs(3), &ledger, 125_000), cost, "no time has passed");
    }
}
