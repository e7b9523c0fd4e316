//! `status`: what the running sensor says of itself, in words. Ends with 0 once packets flow.

use crate::health::Snapshot;
use clap::Args;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use thymus_link::Identity;
use thymus_record::ledger::Count;

/// A running sensor writes its state every two seconds; an older one is of a sensor that stopped.
const STALE_AFTER: f64 = 15.0;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The sensor's state folder.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &StatusArgs) -> ExitCode {
    let now = crate::clock::now_seconds();
    let (snapshot, flows) = match read(&args.state, now) {
        Ok(found) => found,
        Err(why) => return crate::failed("status", &why),
    };
    if args.json {
        println!("{}", serde_json::to_string(&snapshot).unwrap_or_default());
    } else {
        let identity = Identity::load(&args.state).ok();
        print!("{}", words(&snapshot, identity.as_ref(), now));
    }
    if flows { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The state that the running sensor wrote, and whether packets flow.
fn read(state: &Path, now: f64) -> Result<(Snapshot, bool), String> {
    let path = state.join("status.json");
    let text = std::fs::read(&path).map_err(|_error| {
        format!(
            "no sensor has run with {}: start one with 'thymus-sensor run --config FILE --state {0}'",
            state.display()
        )
    })?;
    let snapshot: Snapshot = serde_json::from_slice(&text)
        .map_err(|error| format!("{}: {error}; it is written anew when the sensor starts", path.display()))?;
    let age = now - snapshot.taken;
    if age > STALE_AFTER || snapshot.process.is_gone() {
        return Err(format!(
            "the sensor (process {}) does not run: it was last heard of {} ago; start it with 'thymus-sensor run'",
            snapshot.pid,
            duration(age)
        ));
    }
    let flows = snapshot.health.state == "capturing" && snapshot.health.ledger.received.packets > 0;
    Ok((snapshot, flows))
}

fn words(snapshot: &Snapshot, identity: Option<&Identity>, now: f64) -> String {
    let health = &snapshot.health;
    let ledger = &health.ledger;
    let mut out = String::new();
    let _ = writeln!(out, "state      {}", health.state);
    for item in &health.items {
        let _ = writeln!(out, "  !        {item}");
    }
    let _ = writeln!(out, "master     {}", snapshot.link);
    if let Some(identity) = identity {
        let left = identity.expires().map_or(0.0, |at| at.0 as f64 / 1e9 - now);
        let valid = if left > 0.0 { format!("valid for {}", duration(left)) } else { "EXPIRED".to_owned() };
        let _ =
            writeln!(out, "identity   sensor {} in group {}, certificate {valid}", identity.sensor.0, identity.group);
    }
    for port in &health.ports {
        let (name, state) = (&port.name, &port.state);
        let _ = writeln!(out, "port       {name}: {state}, {:.2} Mbit/s, {:.0} packets/s", port.mbps, port.pps);
    }
    let _ = writeln!(
        out,
        "load       {:.1} % busy, room for {:.0} Mbit/s more, {} flows open",
        100.0 * health.busy_ratio,
        health.headroom_mbps,
        health.flows_open
    );
    if let Some(oldest) = health.ring_oldest {
        let _ = writeln!(out, "ring       packets back {}", duration(now - oldest));
    }
    let mut line = |name: &str, count: Count, note: &str| {
        if count.packets > 0 || note.is_empty() {
            let _ = writeln!(out, "  {name:<9}{:>14} packets {:>18} bytes {note}", count.packets, count.bytes);
        }
    };
    line("offered", ledger.offered, "");
    line("missed", ledger.missed, "  by NIC or kernel: give the sensor more cores, or less traffic");
    line("received", ledger.received, "");
    line("in ring", ledger.in_ring, " ");
    line("not kept", ledger.not_kept, " ");
    line("duplicate", ledger.duplicate, "  second copies of the span");
    line("filtered", ledger.filtered, " ");
    line("shed", ledger.shed, "  the disk or a worker was late");
    line("error", ledger.error, "  not whole");
    let records = &ledger.records;
    let _ = writeln!(
        out,
        "records    {} made, {} sent, {} waiting, {} shed; {} bytes of metadata",
        records.made, records.sent, records.spooled, records.shed, ledger.metadata_bytes
    );
    out
}

/// Seconds in the largest unit that makes sense.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_link::process::Process;

    #[test]
    fn a_sensor_that_never_ran_stopped_or_runs_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let said = read(dir.path(), 1_000.0).unwrap_err();
        assert!(said.contains("no sensor has run") && said.contains("thymus-sensor run"), "{said}");
        let mut snapshot = Snapshot { taken: 100.0, pid: 7, ..Snapshot::default() };
        let write = |snapshot: &Snapshot| {
            std::fs::write(dir.path().join("status.json"), serde_json::to_vec(snapshot).unwrap()).unwrap();
        };
        write(&snapshot);
        let said = read(dir.path(), 1_000.0).unwrap_err();
        assert!(said.contains("15 min ago") && said.contains("process 7"), "{said}");
        assert!(!read(dir.path(), 105.0).unwrap().1, "nothing received yet");
        snapshot.health.state = "capturing".to_owned();
        snapshot.health.ledger.received.add(60);
        write(&snapshot);
        let mut killed = Snapshot { process: Process::current(), ..snapshot.clone() };
        write(&killed);
        assert!(read(dir.path(), 101.0).is_ok(), "it runs");
        killed.process.start += 1;
        write(&killed);
        let said = read(dir.path(), 101.0).unwrap_err();
        assert!(said.contains("does not run"), "killed a second ago: {said}");
        write(&snapshot);
        let (snapshot, flows) = read(dir.path(), 105.0).unwrap();
        assert!(flows);
        assert!(words(&snapshot, None, 105.0).contains("received"));
        std::fs::write(dir.path().join("status.json"), "{torn").unwrap();
        assert!(read(dir.path(), 105.0).unwrap_err().contains("written anew"));
    }
}
