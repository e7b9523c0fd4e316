//! Which process wrote a state file, so that whoever reads it can tell at once whether that process still runs.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// A process, as others on this host find it again. A number alone may be another one's by now.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Where the number counts; empty where that cannot be told.
    pub namespace: String,
    /// When it started, in ticks since the host did.
    pub start: u64,
}

impl Process {
    /// This one.
    pub fn current() -> Process {
        let pid = std::process::id();
        let proc = Path::new("/proc");
        Process { pid, namespace: namespace(proc), start: start_of(proc, pid).unwrap_or_default() }
    }

    /// True if it runs no more, for certain; false where that cannot be seen from here.
    pub fn is_gone(&self) -> bool {
        self.is_gone_by(Path::new("/proc"))
    }

    fn is_gone_by(&self, proc: &Path) -> bool {
        // Where others' processes are hidden, a missing one says nothing.
        let sees_others = start_of(proc, 1).is_some();
        let same_place = !self.namespace.is_empty() && self.namespace == namespace(proc);
        sees_others && same_place && self.pid != 0 && start_of(proc, self.pid) != Some(self.start)
    }
}

fn namespace(proc: &Path) -> String {
    let link = std::fs::read_link(proc.join("self/ns/pid")).unwrap_or_default();
    link.to_string_lossy().into_owned()
}

/// When a process started; nothing for one that is not there, or has ended and was not waited for.
fn start_of(proc: &Path, pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name, in brackets, may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    fields.nth(18)?.parse().ok().filter(|_| !matches!(state, "Z" | "X"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_and_one_that_has_its_number_now_are_gone() {
        let me = Process::current();
        assert!(me.start > 0 && !me.is_gone());
        assert!(Process { start: me.start + 1, ..me.clone() }.is_gone(), "the number is another one's now");
        assert!(!Process { pid: me.pid, namespace: "pid:[1]".into(), start: 0 }.is_gone(), "counted elsewhere");
        assert!(!Process::default().is_gone(), "written by an older release");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let child_process = Process { pid: child.id(), start: start_of(Path::new("/proc"), child.id()).unwrap(), ..me };
        assert!(!child_process.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(child_process.is_gone());
        let hidden = tempfile::tempdir().unwrap();
        assert!(!child_process.is_gone_by(hidden.path()), "nothing can be seen");
    }
}
