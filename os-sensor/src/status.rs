//! What the agent says of itself: written every second, shown by `status`.

use crate::clock::Clock;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use thymus_link::process::Process;
use thymus_record::Time;
use thymus_record::message::{AgentInterface, AgentLedger, AgentState, Ended, Mode, Policy};
use thymus_record::time::SECOND;

/// The state of a running agent.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The link stands.
    pub connected: bool,
    /// The link in words.
    pub link: String,
    /// The vSensor's name.
    pub vsensor: String,
    /// Its number.
    pub id: u32,
    /// Its group.
    pub group: String,
    /// What it captures.
    pub interfaces: Vec<AgentInterface>,
    /// The group's epoch.
    pub epoch: u64,
    /// A span of the vSensor sees this host's packets, which are left to it.
    pub covered: bool,
    /// What it did.
    pub ledger: AgentLedger,
    /// How it fares, as its vSensor hears it too.
    pub state: AgentState,
    /// What it follows.
    pub policy: Policy,
    /// Who holds the ends of flows: what was told, in words.
    pub owners: String,
    /// When this was written.
    pub taken: Time,
    /// Its process.
    pub pid: u32,
    /// The same, as it is found again.
    pub process: Process,
    /// Runs that ended without warning and that no vSensor was told of; the last is this one, if it ends so now.
    pub ended: Vec<Ended>,
}

/// Writes the state, whole or not at all; on a full disk over the one before, whose room it has.
pub fn write(state: &Path, status: &Status) {
    let (part, place) = (state.join("status.part"), state.join("status.json"));
    let bytes = serde_json::to_vec(status).unwrap_or_default();
    if std::fs::write(&part, &bytes).is_ok() {
        let _ = std::fs::rename(part, place);
        return;
    }
    let _ = std::fs::remove_file(part);
    if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(place)
        && file.write_all(&bytes).is_ok()
    {
        let _ = file.set_len(bytes.len() as u64);
    }
}

/// The runs before that were ended without warning, as far as no vSensor was told of them.
pub fn ended(state: &Path) -> Vec<Ended> {
    let text = std::fs::read(state.join("status.json")).unwrap_or_default();
    serde_json::from_slice::<Status>(&text).unwrap_or_default().ended
}

/// The state in words, and whether packets flow.
pub fn read(state: &Path) -> Result<(String, bool), String> {
    let text = std::fs::read(state.join("status.json")).map_err(|_error| {
        format!("no OS-sensor has run with {0}: start it with 'thymus-os-sensor run --state {0}'", state.display())
    })?;
    let status: Status = serde_json::from_slice(&text)
        .map_err(|error| format!("{}: {error}; it is written anew when the agent starts", state.display()))?;
    let age = Clock::wall().since(status.taken);
    if age > 10 * SECOND || status.process.is_gone() {
        return Err(format!(
            "the OS-sensor (process {}) does not run: it was last heard of {} s ago; start it with 'thymus-os-sensor run'",
            status.pid,
            age / SECOND
        ));
    }
    let flows = status.connected
        && status.ledger.sent.packets + status.ledger.left.packets + status.ledger.metadata.packets > 0;
    Ok((words(&status), flows))
}

fn words(status: &Status) -> String {
    let (mut out, state) = (String::new(), &status.state);
    let _ = writeln!(out, "sends      {}", sentence(status));
    for item in &state.items {
        let _ = writeln!(out, "  !        {item}");
    }
    let _ = writeln!(out, "link       {}", status.link);
    let _ = writeln!(out, "identity   agent {} in group {}", status.id, status.group);
    let _ = writeln!(out, "policy     {}", status.policy.words());
    for interface in &status.interfaces {
        let _ = writeln!(out, "captures   {} ({})", interface.name, interface.addresses.join(" "));
    }
    let _ = writeln!(
        out,
        "shares     {} (epoch {}): of a packet that two of them see, one sends",
        shares(state),
        status.epoch
    );
    let _ = writeln!(out, "owners     {}", status.owners);
    if status.covered {
        let _ = writeln!(out, "           a span of the vSensor sees this host: what it sees is left to it");
    }
    let ledger = &status.ledger;
    for (name, count) in [
        ("seen", ledger.seen),
        ("sent", ledger.sent),
        ("left", ledger.left),
        ("filtered", ledger.filtered),
        ("metadata", ledger.metadata),
        ("shed", ledger.shed),
    ] {
        let _ = writeln!(out, "  {name:<9}{:>14} packets {:>18} bytes", count.packets, count.bytes);
    }
    let reasons = state.shed;
    for (count, why) in [
        (reasons.cpu, "the cap on CPU"),
        (reasons.mbps, "the cap on Mbit/s"),
        (reasons.link, "the way to the vSensor was full"),
        (reasons.kernel, "the kernel had no room"),
    ] {
        if count.packets > 0 {
            let _ = writeln!(out, "    of these{:>12} packets: {why}", count.packets);
        }
    }
    if ledger.cut_bytes > 0 {
        let _ = writeln!(out, "  cut off  {:>48} bytes of what was sent", ledger.cut_bytes);
    }
    if ledger.spooled_bytes > 0 {
        let _ = writeln!(out, "  on disk  {:>48} bytes, until a vSensor takes them", ledger.spooled_bytes);
    }
    out
}

/// What is sent where, at what rate and cost.
fn sentence(status: &Status) -> String {
    let state = &status.state;
    let to = if status.vsensor.is_empty() { "the vSensor" } else { &status.vsensor };
    let what = match (status.connected, state.mode) {
        (false, _) => "nothing now: the link is down".to_owned(),
        (true, Mode::Full) => format!("{:.2} Mbit/s to {to}", state.sent_mbps),
        (true, mode) => format!("{:.2} Mbit/s to {to} ({} mode)", state.sent_mbps, mode.as_str()),
    };
    let memory = state.rss_bytes >> 20;
    format!(
        "{what}, of {:.2} Mbit/s seen; {:.1} % of a core, {memory} MiB; shares {}",
        state.seen_mbps,
        state.cpu_percent,
        shares(state)
    )
}

fn shares(state: &AgentState) -> String {
    let shown = state.members.get(..8).unwrap_or(&state.members);
    let numbers = shown.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let count = state.members_count;
    let words = match count.saturating_sub(u32::try_from(shown.len()).unwrap_or_default()) {
        _ if count == 0 => return "with 0 other agents".to_owned(),
        0 => format!("with {count} other agents ({numbers})"),
        more => format!("with {count} other agents ({numbers} and {more} more)"),
    };
    match state.members_relied {
        all if all >= count => words,
        0 => format!("{words}, none of them relied on yet"),
        some => format!("{words}, {some} of them relied on so far"),
    }
}

/// The policy that the vSensor gave last; where none is kept, or none that can be read, the plain one.
pub fn load_policy(state: &Path) -> Policy {
    let kept = std::fs::read(state.join("policy.json")).unwrap_or_default();
    let kept: Option<Policy> = serde_json::from_slice(&kept).ok();
    let usable = |policy: &Policy| policy.check().is_ok() && crate::filter::Filter::new(policy, &[]).is_ok();
    kept.filter(usable).unwrap_or_default()
}

/// Keeps a policy, whole or not at all.
pub fn save_policy(state: &Path, policy: &Policy) {
    let part = state.join("policy.part");
    if std::fs::write(&part, serde_json::to_vec(policy).unwrap_or_default()).is_ok() {
        let _ = std::fs::rename(part, state.join("policy.json"));
    }
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
        status.vsensor = "sensor-a".to_owned();
        status.state = AgentState {
            mode: Mode::Metadata,
            sent_mbps: 0.4,
            seen_mbps: 41.0,
            cpu_percent: 0.8,
            ..AgentState::default()
        };
        (status.state.members, status.state.members_count) = (vec![2, 3, 4], 3);
        status.state.members_relied = 2;
        status.process = Process { start: u64::MAX, ..Process::current() };
        write(dir.path(), &status);
        let said = read(dir.path());
        assert!(!cfg!(target_os = "linux") || said.is_err_and(|said| said.contains("does not run")), "killed just now");
        status.process = Process::current();
        write(dir.path(), &status);
        let (words, flows) = read(dir.path()).unwrap();
        let first = "sends      0.40 Mbit/s to sensor-a (metadata mode), of 41.00 Mbit/s seen; 0.8 % of a core";
        assert!(
            flows
                && words.starts_with(first)
                && words.contains("with 3 other agents (2, 3, 4), 2 of them relied on so far"),
            "{words}"
        );
    }

    #[test]
    fn runs_that_were_killed_are_told_to_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ended(dir.path()), []);
        let killed = [8, 9].map(|boot| Ended { boot, ..Ended::default() }).to_vec();
        write(dir.path(), &Status { ended: killed.clone(), ..Status::default() });
        assert_eq!(ended(dir.path()), killed);
        std::fs::write(dir.path().join("status.json"), "{torn").unwrap();
        assert_eq!(ended(dir.path()), []);
    }

    #[test]
    fn a_kept_policy_survives_and_a_damaged_one_is_the_plain_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load_policy(dir.path()), Policy::default());
        let policy = Policy { filter: "tcp".into(), mbps_max: 2.5, exclude: vec!["eth*".into()], ..Policy::default() };
        save_policy(dir.path(), &policy);
        assert_eq!(load_policy(dir.path()), policy);
        std::fs::write(dir.path().join("policy.json"), r#"{"program":[{"code":5,"jt":0,"jf":0,"k":9}]}"#).unwrap();
        assert_eq!(load_policy(dir.path()), Policy::default());
    }
}
