//! Prometheus metrics, declared once each: name, kind, help and value stand together, and the text, `--help` and docs
//! come from this table.

use crate::health::Snapshot;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use thymus_record::ledger::{AgentLedger, Count, Ledger};

/// One metric of the whole sensor.
pub struct Metric {
    /// Its name, unit last.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it means.
    pub help: &'static str,
    value: fn(&Snapshot) -> f64,
}

/// A name and where the ledger has it.
type Fate = (&'static str, fn(&Ledger) -> Count);

/// A fate of packets, as `thymus_sensor_packets_total{fate="…"}` and `…_bytes_total{fate="…"}`.
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

#[expect(clippy::cast_precision_loss, reason = "Prometheus numbers are doubles")]
fn float(number: u64) -> f64 {
    number as f64
}

/// All metrics without a label.
pub const METRICS: [Metric; 14] = [
    counter("thymus_sensor_records_made_total", "Metadata records made.", |s| float(s.health.ledger.records.made)),
    counter("thymus_sensor_records_sent_total", "Records that the master acknowledged.", |s| {
        float(s.health.ledger.records.sent)
    }),
    gauge("thymus_sensor_records_spooled", "Records waiting for the master.", |s| {
        float(s.health.ledger.records.spooled)
    }),
    counter("thymus_sensor_records_shed_total", "Records given up.", |s| float(s.health.ledger.records.shed)),
    counter("thymus_sensor_metadata_bytes_total", "Encoded batches before TLS.", |s| {
        float(s.health.ledger.metadata_bytes)
    }),
    counter("thymus_sensor_cut_bytes_total", "Frame bytes that truncation took.", |s| float(s.health.ledger.cut_bytes)),
    counter("thymus_sensor_ring_bytes_total", "Bytes written to the ring.", |s| float(s.health.ledger.ring_bytes)),
    counter("thymus_sensor_index_bytes_total", "Bytes written to the ring's index.", |s| {
        float(s.health.ledger.index_bytes)
    }),
    gauge("thymus_sensor_flows_open", "Flows in the table.", |s| float(s.health.flows_open)),
    gauge("thymus_sensor_busy_ratio", "Share of the poll loops' time spent on packets.", |s| s.health.busy_ratio),
    gauge("thymus_sensor_headroom_mbps", "Megabits a second that could still be taken.", |s| s.health.headroom_mbps),
    gauge("thymus_sensor_headroom_pps", "Packets a second that could still be taken.", |s| s.health.headroom_pps),
    gauge("thymus_sensor_connected", "1 while the link to the master stands.", |s| f64::from(u8::from(s.connected))),
    gauge("thymus_sensor_ring_oldest_seconds", "Time of the oldest packet in the ring.", |s| {
        s.health.ring_oldest.unwrap_or_default()
    }),
];

const fn counter(name: &'static str, help: &'static str, value: fn(&Snapshot) -> f64) -> Metric {
    Metric { name, kind: "counter", help, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Snapshot) -> f64) -> Metric {
    Metric { name, kind: "gauge", help, value }
}

/// OS-sensors that have lines of their own.
const AGENTS_MAX: usize = 256;

/// A fate of an OS-sensor's packets, and where its ledger has it.
type AgentFate = (&'static str, fn(&AgentLedger) -> Count);

const AGENT_FATES: [AgentFate; 6] = [
    ("seen", |ledger| ledger.seen),
    ("sent", |ledger| ledger.sent),
    ("left", |ledger| ledger.left),
    ("filtered", |ledger| ledger.filtered),
    ("shed", |ledger| ledger.shed),
    ("metadata", |ledger| ledger.metadata),
];

/// The Prometheus text of a snapshot (exposition format 0.0.4).
pub fn text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for (unit, pick) in [("packets", (|count| count.packets) as fn(Count) -> u64), ("bytes", |count| count.bytes)] {
        let _ = writeln!(out, "# HELP thymus_sensor_{unit}_total The packet ledger: {unit} by fate.");
        let _ = writeln!(out, "# TYPE thymus_sensor_{unit}_total counter");
        for (fate, count) in FATES {
            let _ =
                writeln!(out, "thymus_sensor_{unit}_total{{fate=\"{fate}\"}} {}", pick(count(&snapshot.health.ledger)));
        }
    }
    for Metric { name, kind, help, value } in &METRICS {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}", value(snapshot));
    }
    agents_text(snapshot, &mut out);
    for port in &snapshot.health.ports {
        let name: String = port.name.chars().filter(|c| !matches!(c, '"' | '\\' | '\n')).collect();
        let _ = writeln!(out, "thymus_sensor_port_mbps{{port=\"{name}\"}} {}", port.mbps);
    }
    out
}

/// The OS-sensors that are connected: the ledger of each, as far as there are not too many of them.
fn agents_text(snapshot: &Snapshot, out: &mut String) {
    let agents = &snapshot.health.agents;
    let _ = writeln!(out, "# HELP thymus_sensor_agents_connected OS-sensors connected now.");
    let _ =
        writeln!(out, "# TYPE thymus_sensor_agents_connected gauge\nthymus_sensor_agents_connected {}", agents.len());
    if agents.is_empty() {
        return;
    }
    for (unit, pick) in [("packets", (|count| count.packets) as fn(Count) -> u64), ("bytes", |count| count.bytes)] {
        let name = format!("thymus_agent_{unit}_total");
        let _ = writeln!(out, "# HELP {name} The ledger of OS-sensors: {unit} by fate, of {AGENTS_MAX} at most.");
        let _ = writeln!(out, "# TYPE {name} counter");
        for agent in agents.iter().take(AGENTS_MAX) {
            for (fate, count) in AGENT_FATES {
                let _ =
                    writeln!(out, "{name}{{agent=\"{}\",fate=\"{fate}\"}} {}", agent.id, pick(count(&agent.ledger)));
            }
        }
    }
}

/// Serves `/metrics` and `/healthz` from a thread of its own, until the process ends.
pub fn serve(listen: SocketAddr, snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen)?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, snapshot.as_ref());
        }
    })?;
    Ok(address)
}

fn answer(mut stream: TcpStream, snapshot: &(dyn Fn() -> Snapshot + Send + Sync)) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut request = [0; 2048];
    let length = stream.read(&mut request)?;
    let line = String::from_utf8_lossy(request.get(..length).unwrap_or_default());
    let (status, body) = match line.split_whitespace().nth(1) {
        Some("/metrics") => ("200 OK", text(&snapshot())),
        Some("/healthz") => {
            let health = snapshot().health;
            let status = if health.state == "blind" { "503 Service Unavailable" } else { "200 OK" };
            (status, format!("{}\n{}\n", health.state, health.items.join("\n")))
        }
        _ => ("404 Not Found", "here are /metrics and /healthz\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_record::message::AgentHealth;

    #[test]
    fn each_agent_has_its_ledger_and_many_have_no_lines_without_end() {
        let mut snapshot = Snapshot::default();
        assert!(
            text(&snapshot).contains("thymus_sensor_agents_connected 0") && !text(&snapshot).contains("agent_packets")
        );
        let agent = |id| {
            let mut agent = AgentHealth { id, ..AgentHealth::default() };
            agent.ledger.left.add(60);
            agent
        };
        snapshot.health.agents = (1..=1_000).map(agent).collect();
        let text = text(&snapshot);
        assert!(text.contains("thymus_agent_packets_total{agent=\"7\",fate=\"left\"} 1\n"));
        assert!(text.contains("thymus_agent_bytes_total{agent=\"7\",fate=\"left\"} 60\n"));
        assert!(text.contains("thymus_sensor_agents_connected 1000\n"));
        assert_eq!(text.matches("thymus_agent_packets_total{").count(), AGENTS_MAX * AGENT_FATES.len());
    }
}
