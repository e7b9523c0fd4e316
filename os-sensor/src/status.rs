//! What the agent says of itself: written every second, shown by `status`.

use crate::clock::Clock;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;
use thymus_record::Time;
use thymus_record::message::{AgentInterface, AgentLedger};
use thymus_record::time::SECOND;

/// The state of a running agent.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The link stands.
    pub connected: bool,
    /// The link in words.
    pub link: String,
    /// Its number.
    pub id: u32,
    /// Its group.
    pub group: String,
    /// What it captures.
    pub interfaces: Vec<AgentInterface>,
    /// Agents in its group at its vSensor.
    pub members: usize,
    /// The group's epoch.
    pub epoch: u64,
    /// What it did.
    pub ledger: AgentLedger,
    /// What is wrong and its cure.
    pub items: Vec<String>,
    /// When this was written.
    pub taken: Time,
    /// Its process.
    pub pid: u32,
}

/// Writes the state, whole or not at all.
pub fn write(state: &Path, status: &Status) {
    let part = state.join("status.part");
    if std::fs::write(&part, serde_json::to_vec(status).unwrap_or_default()).is_ok() {
        let _ = std::fs::rename(part, state.join("status.json"));
    }
}

/// The state in words, and whether packets flow.
pub fn read(state: &Path) -> Result<(String, bool), String> {
    let text = std::fs::read(state.join("status.json")).map_err(|_error| {
        format!("no OS-sensor has run with {0}: start it with 'thymus-os-sensor run --state {0}'", state.display())
    })?;
    let status: Status = serde_json::from_slice(&text)
        .map_err(|error| format!("{}: {error}; it is written anew when the agent starts", state.display()))?;
    let age = Clock::wall().since(status.taken);
    if age > 10 * SECOND {
        return Err(format!(
            "the OS-sensor (process {}) does not run: it was last heard of {} s ago; start it with 'thymus-os-sensor run'",
            status.pid,
            age / SECOND
        ));
    }
    let flows = status.connected && status.ledger.sent.packets + status.ledger.left.packets > 0;
    Ok((words(&status), flows))
}

fn words(status: &Status) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "link       {}", status.link);
    let _ = writeln!(out, "identity   agent {} in group {}", status.id, status.group);
    for interface in &status.interfaces {
        let _ = writeln!(out, "captures   {} ({})", interface.name, interface.addresses.join(" "));
    }
    for item in &status.items {
        let _ = writeln!(out, "  !        {item}");
    }
    let others = status.members.saturating_sub(1);
    let _ = writeln!(
        out,
        "shares     with {others} other agents (epoch {}): of a packet that two of them see, one sends",
        status.epoch
    );
    let ledger = &status.ledger;
    for (name, count) in [
        ("seen", ledger.seen),
        ("sent", ledger.sent),
        ("left", ledger.left),
        ("filtered", ledger.filtered),
        ("shed", ledger.shed),
    ] {
        let _ = writeln!(out, "  {name:<9}{:>14} packets {:>18} bytes", count.packets, count.bytes);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_never_ran_stopped_or_runs_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap_err().contains("no OS-sensor has run"));
        let mut status = Status { connected: true, ..Status::default() };
        write(dir.path(), &status);
        assert!(read(dir.path()).unwrap_err().contains("does not run"));
        status.taken = Clock::wall();
        write(dir.path(), &status);
        assert!(!read(dir.path()).unwrap().1, "nothing sent yet");
        status.ledger.sent.add(60);
        write(dir.path(), &status);
        let (words, flows) = read(dir.path()).unwrap();
        assert!(flows && words.contains("sent"), "{words}");
    }
}
