//! The packet ledger: `offered = received + missed`, `received = stored + duplicate + filtered + shed + error`,
//! `stored = in_ring + not_kept`, to the packet and byte; `made = sent + spooled + shed` for records.

use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Packets and their wire bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Wire bytes, without FCS.
    pub bytes: u64,
}

impl Count {
    /// Counts one packet.
    pub fn add(&mut self, wire_bytes: u64) {
        self.packets += 1;
        self.bytes += wire_bytes;
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Records made and what became of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Records {
    /// Records made.
    pub made: u64,
    /// Acknowledged by the master; with no master: encoded.
    pub sent: u64,
    /// Waiting in the spool.
    pub spooled: u64,
    /// Given up.
    pub shed: u64,
}

/// The whole ledger. The field names are the JSON contract.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// At the source.
    pub offered: Count,
    /// Dropped before us.
    pub missed: Count,
    /// Reached the sensor.
    pub received: Count,
    /// Went to its end.
    pub stored: Count,
    /// In the ring.
    pub in_ring: Count,
    /// Not kept by a rule or for want of a ring.
    pub not_kept: Count,
    /// Removed as a duplicate.
    pub duplicate: Count,
    /// Removed by a filter, or own transport.
    pub filtered: Count,
    /// Given up under load.
    pub shed: Count,
    /// Not delivered whole by the source.
    pub error: Count,
    /// Metadata records.
    pub records: Records,
    /// Bytes that truncation took.
    pub cut_bytes: u64,
    /// Encoded batches before TLS.
    pub metadata_bytes: u64,
    /// Ring bytes written, sealed and open slots.
    pub ring_bytes: u64,
    /// Index bytes written.
    pub index_bytes: u64,
}

impl Ledger {
    /// What does not add up, in words; empty if all does.
    pub fn imbalances(&self) -> Vec<String> {
        let sums: [(&str, Count, &str, &[Count]); 3] = [
            ("offered", self.offered, "received + missed", &[self.received, self.missed]),
            (
                "received",
                self.received,
                "stored + duplicate + filtered + shed + error",
                &[self.stored, self.duplicate, self.filtered, self.shed, self.error],
            ),
            ("stored", self.stored, "in_ring + not_kept", &[self.in_ring, self.not_kept]),
        ];
        let mut wrong = Vec::new();
        for (name, whole, parts_name, parts) in sums {
            let mut sum = Count::default();
            parts.iter().for_each(|part| sum += *part);
            if sum != whole {
                wrong.push(format!(
                    "{name} is {} packets, {} bytes, but {parts_name} is {} packets, {} bytes",
                    whole.packets, whole.bytes, sum.packets, sum.bytes
                ));
            }
        }
        let Records { made, sent, spooled, shed } = self.records;
        if made != sent + spooled + shed {
            wrong.push(format!("records made {made}, but sent {sent} + spooled {spooled} + shed {shed}"));
        }
        wrong
    }
}

/// What an agent did since it started; packets and bytes of frames.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentLedger {
    /// Seen on its interfaces, its own stream left out.
    pub seen: Count,
    /// Sent.
    pub sent: Count,
    /// Left to other members.
    pub left: Count,
    /// Left out by the policy.
    pub filtered: Count,
    /// Given up, for whatever reason.
    pub shed: Count,
    /// Accounted in rows and not sent.
    pub metadata: Count,
    /// Bytes of sent frames that were cut off.
    pub cut_bytes: u64,
    /// Its own metadata records.
    pub records: Records,
    /// Its encoded batches, before TLS.
    pub metadata_bytes: u64,
    /// Bytes that wait on its disk for a vSensor.
    pub spooled_bytes: u64,
}

impl AgentLedger {
    /// What does not add up, in words: every packet seen has exactly one fate.
    pub fn imbalance(&self) -> Option<String> {
        let mut sum = Count::default();
        [self.sent, self.left, self.filtered, self.shed, self.metadata].into_iter().for_each(|part| sum += part);
        (sum != self.seen).then(|| {
            format!(
                "seen is {} packets, {} bytes, but sent + left + filtered + shed + metadata is {} packets, {} bytes",
                self.seen.packets, self.seen.bytes, sum.packets, sum.bytes
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_packet_of_an_agent_without_a_fate_is_an_imbalance() {
        let mut ledger = AgentLedger::default();
        ledger.seen.add(60);
        assert!(ledger.imbalance().is_some_and(|words| words.contains("seen is 1 packets")));
        ledger.metadata.add(60);
        assert_eq!(ledger.imbalance(), None);
    }

    #[test]
    fn one_lost_packet_is_an_imbalance() {
        let mut ledger = Ledger::default();
        ledger.offered.add(60);
        ledger.received.add(60);
        assert_eq!(ledger.imbalances().len(), 1);
        ledger.stored.add(60);
        ledger.not_kept.add(60);
        assert!(ledger.imbalances().is_empty());
    }
}
