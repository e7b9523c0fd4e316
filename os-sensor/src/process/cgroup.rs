//! Control groups: the path of one by its number, and the container and pod that a path names.
//!
//! The kernel tells a socket's control group by the inode of its folder in the cgroup2 file system, which everybody may
//! read. Container runtimes put the container's id into the path, Kubernetes the pod's uid as well.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A number that is not known is looked for in the tree at most as often.
const WALK_EVERY: Duration = Duration::from_secs(1);
/// Folders looked at in a walk, and how deep.
#[cfg(unix)]
const FOLDERS_MAX: usize = 20_000;
#[cfg(unix)]
const DEPTH_MAX: usize = 24;

/// Paths of control groups by number.
#[derive(Default)]
pub struct Cgroups {
    root: Option<PathBuf>,
    paths: HashMap<u64, Box<str>>,
    walked: Option<Duration>,
}

impl Cgroups {
    /// The tree of this host, wherever it is mounted.
    pub fn of_host() -> Cgroups {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Cgroups { root: mount_of(&mounts), ..Cgroups::default() }
    }

    /// The path of a control group, from the tree's root.
    pub fn path(&mut self, id: u64, now: Duration) -> Option<Box<str>> {
        if let Some(path) = self.paths.get(&id) {
            return Some(path.clone());
        }
        if self.walked.is_none_or(|walked| now.saturating_sub(walked) >= WALK_EVERY) {
            self.walked = Some(now);
            self.walk();
        }
        self.paths.get(&id).cloned()
    }

    /// The processes of a control group.
    pub fn processes(&self, path: &str) -> Vec<u32> {
        let Some(root) = &self.root else { return Vec::new() };
        let file = root.join(path.trim_start_matches('/')).join("cgroup.procs");
        let list = std::fs::read_to_string(file).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    }

    #[cfg(target_os = "linux")]
    fn walk(&mut self) {
        use std::os::unix::fs::MetadataExt;
        let Some(root) = &self.root else { return };
        self.paths.clear();
        let mut open = vec![(root.clone(), 0)];
        while let Some((dir, depth)) = open.pop() {
            let Ok(about) = std::fs::symlink_metadata(&dir) else { continue };
            if self.paths.len() >= FOLDERS_MAX {
                return;
            }
            let below = dir.strip_prefix(root).unwrap_or(&dir).to_string_lossy();
            self.paths.insert(about.ino(), format!("/{below}").into());
            if depth < DEPTH_MAX {
                let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
                let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                open.extend(folders.map(|entry| (entry.path(), depth + 1)));
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn walk(&mut self) {}
}

/// Where cgroup2 is mounted, from /proc/self/mounts.
fn mount_of(mounts: &str) -> Option<PathBuf> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(&at.replace("\\040", " ")).to_owned())
    };
    mounts.lines().find_map(mount)
}

/// The container and the pod that a control group's path names: the container's id shortened to 12 digits, as
/// runtimes show it, or its name; the pod's uid.
pub fn container_of(path: &str) -> (Option<Box<str>>, Option<Box<str>>) {
    let (mut container, mut pod, mut before) = (None, None, "");
    for part in path.split('/') {
        if let Some(id) = pod_of(part) {
            pod = Some(id);
        } else if let Some(id) = container_part(part, before, pod.is_some()) {
            container = Some(id);
        }
        before = part;
    }
    (container, pod)
}

/// `pod<uid>`, or `…-pod<uid with _ for ->.slice`.
fn pod_of(part: &str) -> Option<Box<str>> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let at = if name.starts_with("pod") { 3 } else { name.starts_with("kube").then(|| name.rfind("-pod"))?? + 4 };
    let uid = name.get(at..)?.replace('_', "-");
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then(|| uid.into())
}

fn container_part(part: &str, before: &str, in_pod: bool) -> Option<Box<str>> {
    let short = |id: &str| {
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| id.get(..12).unwrap_or(id).into())
    };
    let scope = part.strip_suffix(".scope");
    if let Some(name) = scope {
        let named = ["docker-", "cri-containerd-", "crio-", "libpod-", "containerd-", "nerdctl-"];
        if let Some(id) = named.iter().find_map(|prefix| name.strip_prefix(prefix)) {
            return short(id);
        }
        if before == "machine.slice" {
            return name.strip_prefix("machine-").map(|name| name.replace("\\x2d", "-").into());
        }
        return None;
    }
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return (!name.is_empty()).then(|| name.into());
    }
    if before == "lxc" && !part.is_empty() {
        return Some(part.into());
    }
    let by_folder = matches!(before, "docker" | "default" | "moby" | "k8s.io" | "libpod" | "libpod_parent");
    let id = part.strip_prefix("crio-").or_else(|| part.strip_prefix("libpod-")).unwrap_or(part);
    short(id).filter(|_| by_folder || in_pod || id.len() < part.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789ab0123456789ab0123456789ab0123456789ab0123456789abcdef";

    #[test]
    fn containers_and_pods_are_read_from_paths_as_each_runtime_writes_them() {
        let uid = "6f1a0c2e-1234-4abc-9def-0123456789ab";
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        for (path, container, pod) in [
            (format!("/docker/{ID}"), Some("0123456789ab"), None),
            (format!("/system.slice/docker-{ID}.scope"), Some("0123456789ab"), None),
            (format!("/system.slice/docker-{ID}.scope/init"), Some("0123456789ab"), None),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some("0123456789ab"), None),
            (format!("/kubepods/burstable/pod{uid}/{ID}"), Some("0123456789ab"), Some(uid)),
            (
                format!("/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{ID}.scope"),
                Some("0123456789ab"),
                Some(uid),
            ),
            (format!("/kubepods.slice/{slice}/crio-{ID}.scope"), Some("0123456789ab"), Some(uid)),
            (
                format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-{slice}/cri-containerd-{ID}.scope"),
                Some("0123456789ab"),
                Some(uid),
            ),
            (format!("/default/{ID}"), Some("0123456789ab"), None),
            ("/lxc.payload.web".to_owned(), Some("web"), None),
            ("/lxc/web".to_owned(), Some("web"), None),
            ("/machine.slice/machine-my\\x2dbox.scope".to_owned(), Some("my-box"), None),
            ("/system.slice/ssh.service".to_owned(), None, None),
            ("/user.slice/user-1000.slice/session-2.scope".to_owned(), None, None),
            (format!("/{ID}"), None, None),
            (format!("/system.slice/docker-{}.scope", &ID[1..]), None, None),
            ("/pod/podx/kube-podzz.slice".to_owned(), None, None),
            (String::new(), None, None),
        ] {
            let found = container_of(&path);
            assert_eq!((found.0.as_deref(), found.1.as_deref()), (container, pod), "{path}");
        }
    }

    #[test]
    fn the_mount_is_found_in_old_and_new_layouts() {
        let old = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_of(old), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_of("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"), Some("/sys/fs/cgroup".into()));
        assert_eq!(mount_of("proc /proc proc rw"), None);
        assert_eq!(mount_of("cgroup2"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_is_found_by_its_number() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("cgroup.procs"), "1\n22\nx\n").unwrap();
        let id = deep.metadata().unwrap().ino();
        let mut groups = Cgroups { root: Some(dir.path().to_owned()), ..Cgroups::default() };
        assert_eq!(groups.path(id, Duration::ZERO).as_deref(), Some("/a/b"));
        assert_eq!(groups.path(1, Duration::ZERO), None);
        assert_eq!(groups.processes("/a/b"), [1, 22]);
    }
}
