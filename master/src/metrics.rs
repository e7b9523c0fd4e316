//! Prometheus metrics of the master: the ledger of each sensor, the store, the link, the devices.

use crate::server::Master;
use std::fmt::Write;
use thymus_record::ledger::{Count, Ledger};

/// A fate of packets, and where the ledger has it.
type Fate = (&'static str, fn(&Ledger) -> Count);

const FATES: [Fate; 10] = [
    ("offered", |ledger| ledger.offered),
    ("missed", |ledger| ledger.missed),
    ("received", |ledger| ledger.received),
    ("stored", |ledger| ledger.stored),
    ("in_ring", |ledger| ledger.in_ring),
    ("not_kept", |ledger| ledger.not_kept),
    ("duplicate", |ledger| ledger.duplicate),
    ("filtered", |ledger| ledger.filtered),
    ("shed", |ledger| ledger.shed),
    ("error", |ledger| ledger.error),
];

/// The exposition text.
pub fn text(master: &Master) -> String {
    let mut out = String::new();
    let counts = master.store.counts();
    let numbers = [
        ("thymus_master_batches_total", "counter", "Batches stored since the start.", counts.batches),
        ("thymus_master_batches_seen_before_total", "counter", "Batches that came again.", counts.seen_before),
        ("thymus_master_batches_forked_total", "counter", "Batches of a cloned sensor.", counts.forks),
        ("thymus_master_rows_in_files", "gauge", "Rows in files.", counts.file_rows),
        ("thymus_master_rows_in_memory", "gauge", "Rows not yet in files.", counts.memory_rows),
        ("thymus_master_rows_retired_total", "counter", "Rows dropped by retention.", counts.rows_retired),
        ("thymus_master_store_bytes", "gauge", "Bytes on disk.", counts.bytes),
        ("thymus_master_devices", "gauge", "Devices known.", master.entities().len() as u64),
        ("thymus_master_devices_refused_total", "counter", "Devices that found no room.", master.entities().refused),
        ("thymus_master_sensors_connected", "gauge", "Sensors connected now.", master.sensors.connected().len() as u64),
    ];
    let unsent = master.groups.left_unsent();
    let unsent = [
        (
            "thymus_agents_left_unsent_bytes_total",
            "counter",
            "Payload left to agents that did not send it.",
            unsent.bytes,
        ),
        ("thymus_agents_left_unsent_packets_total", "counter", "The same, packets without payload.", unsent.bare),
    ];
    for (name, kind, help, value) in numbers.into_iter().chain(unsent) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    let _ = writeln!(out, "# HELP thymus_sensor_packets_total The packet ledger by sensor and fate, as last told.");
    let _ = writeln!(out, "# TYPE thymus_sensor_packets_total counter");
    for entry in master.book.sensors().unwrap_or_default() {
        let Some(health) = master.sensors.last_health(thymus_record::SensorId(entry.id)) else { continue };
        let name: String =
            entry.name.chars().filter(|letter| !matches!(letter, '"' | '\\') && !letter.is_control()).collect();
        for (fate, count) in FATES {
            let packets = count(&health.ledger).packets;
            let _ = writeln!(out, "thymus_sensor_packets_total{{sensor=\"{name}\",fate=\"{fate}\"}} {packets}");
        }
    }
    out
}
