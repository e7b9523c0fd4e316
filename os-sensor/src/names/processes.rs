//! Which process has a socket open, from /proc.
//!
//! A socket's own control group is looked at first: few processes, at once. All processes are looked at only now and
//! then, so that it costs a twentieth of a core at most.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use thymus_record::owner::Who;

/// Between two scans, at least.
const SCAN_EVERY: Duration = Duration::from_millis(100);
/// A scan that took so long is followed by so many times the rest.
const REST: u32 = 20;
/// Sockets remembered.
const SOCKETS_MAX: usize = 500_000;
/// What looks into single control groups may take of a second; beyond, the next scan answers.
const LOOKS_MAX: Duration = Duration::from_millis(50);
/// Processes of one control group that are looked at.
const GROUP_MAX: usize = 512;

/// Open sockets by number: process and descriptor.
#[derive(Default)]
pub(super) struct Processes {
    sockets: HashMap<u32, (u32, u32)>,
    next_scan: Duration,
    /// The second at hand, and what looks took of it.
    second: Duration,
    looked: Duration,
}

impl Processes {
    /// True when it may look at all processes again.
    pub(super) fn may_scan(&self, now: Duration) -> bool {
        now >= self.next_scan
    }

    /// True while there is time in this second to look into a control group.
    pub(super) fn may_look(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.second) >= Duration::from_secs(1) {
            (self.second, self.looked) = (now, Duration::ZERO);
        }
        self.looked < LOOKS_MAX
    }

    /// A look took so long.
    pub(super) fn looked(&mut self, so_long: Duration) {
        self.looked += so_long;
    }

    /// Looks at all processes, and shows each to `each`.
    pub(super) fn scan(&mut self, now: Duration, mut each: impl FnMut(u32)) {
        self.next_scan = now + SCAN_EVERY;
        self.sockets.clear();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                each(pid);
                for (fd, inode) in sockets_of(pid) {
                    if self.sockets.len() < SOCKETS_MAX {
                        self.sockets.insert(inode, (pid, fd));
                    }
                }
            }
        }
    }

    /// The scan took so long.
    pub(super) fn took(&mut self, so_long: Duration, now: Duration) {
        self.next_scan = self.next_scan.max(now + so_long * REST);
    }

    /// The process that had the socket when it was last looked at, if it still has.
    pub(super) fn known(&self, inode: u32) -> Option<u32> {
        let (pid, fd) = self.sockets.get(&inode)?;
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
        (socket_in(&link) == Some(inode)).then_some(*pid)
    }

    /// The process with this socket among some, the youngest first.
    pub(super) fn among(&mut self, pids: &[u32], inode: u32) -> Option<u32> {
        for pid in pids.iter().rev().take(GROUP_MAX) {
            for (fd, socket) in sockets_of(*pid) {
                if socket == inode {
                    self.sockets.insert(inode, (*pid, fd));
                    return Some(*pid);
                }
            }
        }
        None
    }
}

/// Descriptor and number of a process's sockets.
fn sockets_of(pid: u32) -> impl Iterator<Item = (u32, u32)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let inode = socket_in(&std::fs::read_link(entry.path()).ok()?)?;
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    })
}

/// `socket:[123]`
fn socket_in(link: &Path) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Name, file and control group of a process.
pub(super) fn about(pid: u32) -> Who {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let executable = executable.map(|path| path.to_string_lossy().trim_end_matches(" (deleted)").into());
    let name = read("comm");
    Who {
        process: Some(name.trim_end()).filter(|name| !name.is_empty()).map(Into::into),
        pid: Some(pid),
        executable,
        cgroup: group_in(&read("cgroup")).map(Into::into),
        ..Who::default()
    }
}

/// The control group of /proc/PID/cgroup: that of version 2, or of version 1 the one that names most.
fn group_in(text: &str) -> Option<&str> {
    let path = |line: &'_ str| line.splitn(3, ':').nth(2).map(str::len);
    let unified = text.lines().find(|line| line.starts_with("0::") && *line != "0::/");
    let line = unified.or_else(|| text.lines().max_by_key(|line| path(line)))?;
    line.splitn(3, ':').nth(2).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_of_both_versions_are_read() {
        assert_eq!(group_in("0::/system.slice/a.service\n"), Some("/system.slice/a.service"));
        assert_eq!(group_in("12:cpu:/\n4:memory:/docker/abc\n0::/\n"), Some("/docker/abc"));
        assert_eq!(group_in("0::/\n"), Some("/"));
        assert_eq!(group_in("broken"), None);
        assert_eq!(group_in(""), None);
    }

    #[test]
    fn looks_take_a_twentieth_of_a_second_at_most() {
        let (mut processes, at) = (Processes::default(), Duration::from_secs);
        assert!(processes.may_look(at(10)));
        processes.looked(LOOKS_MAX);
        assert!(!processes.may_look(at(10)) && processes.may_look(at(11)));
        processes.took(Duration::from_millis(100), at(11));
        assert!(!processes.may_scan(at(12)) && processes.may_scan(at(13)));
    }

    #[test]
    fn only_sockets_are_sockets() {
        assert_eq!(socket_in(Path::new("socket:[77]")), Some(77));
        for other in ["pipe:[77]", "socket:[x]", "socket:[99999999999]", "/tmp/socket:[1]", ""] {
            assert_eq!(socket_in(Path::new(other)), None, "{other}");
        }
    }
}
