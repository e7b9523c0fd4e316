//! What became of each packet, per port and minute of packet time. The packet path counts in plain fields; once a burst
//! the totals are published, so that other threads read whole numbers without a lock.

use crossbeam::utils::CachePadded;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thymus_record::Time;
use thymus_record::ledger::{Count, Ledger};
use thymus_record::table::StatsRow;

/// A port's packets by fate. `received = stored + duplicate + filtered + shed + error`, `stored = in_ring + not_kept`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PortCounts {
    /// Reached us.
    pub received: Count,
    /// Dropped before us.
    pub missed: Count,
    /// Written to the ring.
    pub in_ring: Count,
    /// Went to its end without being kept.
    pub not_kept: Count,
    /// Removed as a duplicate.
    pub duplicate: Count,
    /// Removed by a filter, or own transport.
    pub filtered: Count,
    /// Given up for load or a late disk.
    pub shed: Count,
    /// Not delivered whole by the source.
    pub error: Count,
    /// In no flow.
    pub no_flow: Count,
    /// Bytes that truncation took.
    pub cut_bytes: u64,
}

const WORDS: usize = 19;

impl PortCounts {
    fn counts(&self) -> [Count; 9] {
        let PortCounts { received, missed, in_ring, not_kept, duplicate, filtered, shed, error, no_flow, .. } = *self;
        [received, missed, in_ring, not_kept, duplicate, filtered, shed, error, no_flow]
    }

    fn to_words(self) -> [u64; WORDS] {
        let mut words = [self.cut_bytes; WORDS];
        for (pair, count) in words.chunks_exact_mut(2).zip(self.counts()) {
            pair.copy_from_slice(&[count.packets, count.bytes]);
        }
        words
    }

    fn from_words(words: [u64; WORDS]) -> PortCounts {
        let mut counts = [Count::default(); 9];
        for (count, pair) in counts.iter_mut().zip(words.chunks_exact(2)) {
            if let [packets, bytes] = *pair {
                *count = Count { packets, bytes };
            }
        }
        let [received, missed, in_ring, not_kept, duplicate, filtered, shed, error, no_flow] = counts;
        let cut_bytes = words.last().copied().unwrap_or_default();
        PortCounts { received, missed, in_ring, not_kept, duplicate, filtered, shed, error, no_flow, cut_bytes }
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &PortCounts) -> PortCounts {
        let (now, then) = (self.to_words(), earlier.to_words());
        PortCounts::from_words(std::array::from_fn(|at| {
            now.get(at).copied().unwrap_or_default().wrapping_sub(then.get(at).copied().unwrap_or_default())
        }))
    }

    /// The sum of two.
    pub fn plus(&self, other: &PortCounts) -> PortCounts {
        let (a, b) = (self.to_words(), other.to_words());
        PortCounts::from_words(std::array::from_fn(|at| {
            a.get(at).copied().unwrap_or_default().wrapping_add(b.get(at).copied().unwrap_or_default())
        }))
    }

    /// Adds these counts to a ledger.
    pub fn add_to(&self, ledger: &mut Ledger) {
        ledger.offered += self.received;
        ledger.offered += self.missed;
        ledger.missed += self.missed;
        ledger.received += self.received;
        ledger.stored += self.in_ring;
        ledger.stored += self.not_kept;
        ledger.in_ring += self.in_ring;
        ledger.not_kept += self.not_kept;
        ledger.duplicate += self.duplicate;
        ledger.filtered += self.filtered;
        ledger.shed += self.shed;
        ledger.error += self.error;
        ledger.cut_bytes += self.cut_bytes;
    }

    /// These counts as a row of the ledger table.
    pub fn to_row(self, port: u16, port_name: &str, minute: Time, ordinal: u32, network: u32) -> StatsRow {
        let mut ledger = Ledger::default();
        self.add_to(&mut ledger);
        StatsRow {
            ts: minute,
            port,
            port_name: port_name.to_owned(),
            ordinal,
            network,
            offered_pkts: ledger.offered.packets,
            offered_bytes: ledger.offered.bytes,
            missed_pkts: self.missed.packets,
            missed_bytes: self.missed.bytes,
            received_pkts: self.received.packets,
            received_bytes: self.received.bytes,
            stored_pkts: ledger.stored.packets,
            stored_bytes: ledger.stored.bytes,
            in_ring_pkts: self.in_ring.packets,
            in_ring_bytes: self.in_ring.bytes,
            not_kept_pkts: self.not_kept.packets,
            not_kept_bytes: self.not_kept.bytes,
            duplicate_pkts: self.duplicate.packets,
            duplicate_bytes: self.duplicate.bytes,
            filtered_pkts: self.filtered.packets,
            filtered_bytes: self.filtered.bytes,
            shed_pkts: self.shed.packets,
            shed_bytes: self.shed.bytes,
            error_pkts: self.error.packets,
            error_bytes: self.error.bytes,
            cut_bytes: self.cut_bytes,
            no_flow_pkts: self.no_flow.packets,
            no_flow_bytes: self.no_flow.bytes,
            records_made: 0,
            records_shed: 0,
            metadata_bytes: 0,
        }
    }
}

/// Totals of one port on one worker, readable by all threads.
#[derive(Debug, Default)]
pub struct PublishedCounts(CachePadded<[AtomicU64; WORDS]>);

impl PublishedCounts {
    /// Publishes new totals. Each number is whole; a reader may see some of them one burst older than others.
    pub fn publish(&self, counts: &PortCounts) {
        for (place, word) in self.0.iter().zip(counts.to_words()) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// The totals published last.
    pub fn read(&self) -> PortCounts {
        let mut words = [0; WORDS];
        for (word, place) in words.iter_mut().zip(self.0.iter()) {
            *word = place.load(Ordering::Relaxed);
        }
        PortCounts::from_words(words)
    }
}

/// One port's account on one worker: totals, and what of them stands in stats rows already.
#[derive(Debug)]
pub struct PortAccount {
    /// The port's number.
    pub port: u16,
    /// Its name, as configured.
    pub name: String,
    /// Network number of the port's own path.
    pub network: u32,
    /// Totals so far. The packet path adds here.
    pub total: PortCounts,
    /// Given up before a worker had it, so far.
    pub late: Count,
    /// Copies that the source left out, as last told.
    pub copies: Count,
    told: PortCounts,
    minute: Option<Time>,
    ordinal: u32,
    published: Arc<PublishedCounts>,
}

impl PortAccount {
    /// A new account and the place where others read it.
    pub fn new(port: u16, name: &str, network: u32) -> PortAccount {
        PortAccount {
            port,
            name: name.to_owned(),
            network,
            total: PortCounts::default(),
            late: Count::default(),
            copies: Count::default(),
            told: PortCounts::default(),
            minute: None,
            ordinal: 0,
            published: Arc::default(),
        }
    }

    /// Where others read the totals.
    pub fn published(&self) -> Arc<PublishedCounts> {
        Arc::clone(&self.published)
    }

    /// Packet time is now `now`: if that begins another minute, the row of the minute before. Call before counting.
    pub fn turn_to(&mut self, now: Time) -> Option<StatsRow> {
        let minute = now.minute();
        if self.minute == Some(minute) {
            return None;
        }
        let row = self.close();
        self.minute = Some(minute);
        self.ordinal = 0;
        row
    }

    /// The same for a port on which frames also come late: those count in the minute that is open.
    pub fn turn_forward(&mut self, now: Time) -> Option<StatsRow> {
        if self.minute.is_some_and(|open| now < open) { None } else { self.turn_to(now) }
    }

    /// A row of what was counted since the row before, if anything was.
    pub fn close(&mut self) -> Option<StatsRow> {
        let span = self.total.since(&self.told);
        let minute = self.minute.filter(|_| span != PortCounts::default())?;
        self.told = self.total;
        let row = span.to_row(self.port, &self.name, minute, self.ordinal, self.network);
        self.ordinal += 1;
        Some(row)
    }

    /// Publishes the totals.
    pub fn publish(&self) {
        self.published.publish(&self.total);
    }
}

/// What a count grew by since it was last known.
pub(crate) fn fresh(known: &mut Count, now: Count) -> Count {
    let before = std::mem::replace(known, now);
    Count { packets: now.packets.saturating_sub(before.packets), bytes: now.bytes.saturating_sub(before.bytes) }
}

/// Writes a ledger as one line of JSON, to a file or, for `-`, to stdout.
pub fn write_ledger(ledger: &Ledger, to: &Path) -> std::io::Result<()> {
    let line = serde_json::to_string(ledger)? + "\n";
    if to == Path::new("-") {
        use std::io::Write;
        return std::io::stdout().write_all(line.as_bytes());
    }
    std::fs::write(to, line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_record::time::SECOND;

    #[test]
    fn rows_of_all_minutes_add_up_to_the_totals() {
        let mut account = PortAccount::new(0, "span0", 0);
        let (mut packets, mut bytes) = (0, 0);
        let mut rows = Vec::new();
        for n in 0..1_000u64 {
            rows.extend(account.turn_to(Time(n * SECOND / 3)));
            account.total.received.add(60 + n);
            if n % 3 == 0 { account.total.in_ring.add(60 + n) } else { account.total.shed.add(60 + n) }
        }
        rows.extend(account.close());
        rows.iter().for_each(|row| {
            packets += row.in_ring_pkts + row.shed_pkts;
            bytes += row.received_bytes;
        });
        assert_eq!((packets, bytes), (1_000, account.total.received.bytes));
        assert_eq!(rows.len(), 6);
        assert!(account.close().is_none());
    }

    #[test]
    fn published_totals_read_back() {
        let mut counts = PortCounts { cut_bytes: 7, ..PortCounts::default() };
        counts.no_flow.add(42);
        let published = PublishedCounts::default();
        published.publish(&counts);
        assert_eq!(published.read(), counts);
    }
}
