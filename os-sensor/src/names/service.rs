//! The service itself: questions in, a scan of /proc now and then, answers out.

use super::namespaces::Namespaces;
use super::processes::{self, Processes};
use super::{Answer, Question};
use crate::clock::Clock;
use crate::process::cgroup::{Cgroups, container_of};
use crate::process::users::Users;
use crate::process::wait_for;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thymus_record::owner::{Who, why};

/// The socket's name in the agent's folder.
pub(super) const SOCKET: &str = "names.sock";
/// Longest line of a peer.
const LINE_MAX: usize = 2_048;
/// Questions that wait for a scan; further ones are answered at once that there was no time.
const WAITING_MAX: usize = 1_024;
/// Peers at once: the capture service, and one that is about to replace it.
const PEERS_MAX: usize = 4;

/// Lines of a peer as they come, bounded.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Reads what is there; false when the peer is gone or sends no lines.
    pub(super) fn read(&mut self, from: &mut UnixStream) -> bool {
        let mut buffer = [0; 8_192];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return false,
                Ok(got) => self.0.extend_from_slice(buffer.get(..got).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            let begun = self.0.iter().rev().take_while(|byte| **byte != b'\n').count();
            if begun > LINE_MAX {
                return false;
            }
            if self.0.len() > 64 * LINE_MAX {
                return true;
            }
        }
    }

    /// The whole lines.
    pub(super) fn take<T: serde::de::DeserializeOwned>(&mut self) -> Vec<T> {
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.0.drain(..=end).collect();
        whole.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

/// A question that waits, and whose it is.
struct Waiting {
    peer: u64,
    question: Question,
}

struct Peer {
    number: u64,
    stream: UnixStream,
    lines: Lines,
}

/// The service at work.
struct Service {
    processes: Processes,
    namespaces: Namespaces,
    cgroups: Cgroups,
    users: Users,
    peers: Vec<Peer>,
    waiting: Vec<Waiting>,
}

/// Serves until told to stop.
pub fn run(state: &Path, stop: &AtomicBool) -> Result<(), String> {
    let (listener, path) = listen(state)?;
    let mut service = Service {
        processes: Processes::default(),
        namespaces: Namespaces::new().map_err(|error| format!("no network namespaces: {error}"))?,
        cgroups: Cgroups::of_host(),
        users: Users::default(),
        peers: Vec::new(),
        waiting: Vec::new(),
    };
    tracing::info!("answering at {}", path.display());
    let (clock, mut peers) = (Clock::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(listener.as_fd()).chain(service.peers.iter().map(|peer| peer.stream.as_fd())).collect();
        wait_for(&fds, if service.waiting.is_empty() { 500 } else { 10 });
        while let Ok((stream, _)) = listener.accept() {
            if service.peers.len() < PEERS_MAX && stream.set_nonblocking(true).is_ok() {
                peers += 1;
                service.peers.push(Peer { number: peers, stream, lines: Lines::default() });
            }
        }
        service.turn(clock.monotonic());
    }
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// The socket belongs to whom the agent's folder belongs to, and to nobody else.
fn listen(state: &Path) -> Result<(UnixListener, PathBuf), String> {
    let path = state.join(SOCKET);
    let failed = |what: &str, error: std::io::Error| format!("{what} {}: {error}", path.display());
    let owner = std::fs::metadata(state)
        .map_err(|error| format!("{}: {error}; join first: thymus-os-sensor join TOKEN", state.display()))?;
    if UnixStream::connect(&path).is_ok() {
        return Err(format!("another names service answers at {} already", path.display()));
    }
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|error| failed("no socket at", error))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, private).map_err(|error| failed("cannot protect", error))?;
    let mine = std::fs::metadata(&path).map_err(|error| failed("cannot see", error))?;
    if mine.uid() != owner.uid()
        && let Err(error) = std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))
    {
        // Without the right to give it away, those of the folder's group may use it.
        let shared = std::fs::Permissions::from_mode(0o660);
        std::fs::set_permissions(&path, shared).map_err(|error| failed("cannot share", error))?;
        tracing::warn!("the socket stays ours, open to its group: {error}");
    }
    listener.set_nonblocking(true).map_err(|error| failed("no socket at", error))?;
    Ok((listener, path))
}

impl Service {
    fn turn(&mut self, now: Duration) {
        let mut questions = Vec::new();
        self.peers.retain_mut(|peer| {
            let is_there = peer.lines.read(&mut peer.stream);
            questions.extend(peer.lines.take().into_iter().map(|question| Waiting { peer: peer.number, question }));
            is_there
        });
        for waiting in questions {
            match self.quickly(&waiting.question, now) {
                Some(who) => self.answer(&waiting, who),
                None if self.waiting.len() < WAITING_MAX => self.waiting.push(waiting),
                None => self.answer(&waiting, Who::unknown(why::BUSY)),
            }
        }
        if !self.waiting.is_empty() && self.processes.may_scan(now) {
            let began = Clock::new();
            self.processes.scan(now, |pid| self.namespaces.see(pid));
            for waiting in std::mem::take(&mut self.waiting) {
                let who = self.thoroughly(&waiting.question, now);
                self.answer(&waiting, who);
            }
            self.processes.took(began.monotonic(), now);
        }
    }

    /// Without a scan: known, or in the socket's own control group.
    fn quickly(&mut self, question: &Question, now: Duration) -> Option<Who> {
        if question.ends.is_some() {
            return None;
        }
        if let Some(pid) = self.processes.known(question.inode) {
            return Some(self.about(pid));
        }
        if !self.processes.may_look(now) {
            return None;
        }
        let began = Clock::new();
        let path = self.cgroups.path(question.cgroup_id, now);
        let of_group = path.map(|path| self.cgroups.processes(&path)).unwrap_or_default();
        let found = self.processes.among(&of_group, question.inode);
        self.processes.looked(began.monotonic());
        found.map(|pid| self.about(pid))
    }

    /// After a scan.
    fn thoroughly(&mut self, question: &Question, now: Duration) -> Who {
        let Some(ends) = &question.ends else {
            let pid = self.processes.known(question.inode);
            return pid.map_or_else(|| Who::unknown(why::ENDED), |pid| self.about(pid));
        };
        let Some(held) = self.namespaces.find(ends, now) else { return Who::unknown(why::CLOSED) };
        let mut who = match self.processes.known(held.inode) {
            Some(pid) => self.about(pid),
            None => Who::unknown(why::ENDED),
        };
        who.user_id = held.who.user_id;
        who.user = who.user_id.map(|user| self.users.name(user, now));
        who
    }

    /// A process in words.
    fn about(&self, pid: u32) -> Who {
        let mut who = processes::about(pid);
        if let Some(path) = &who.cgroup {
            (who.container, who.pod) = container_of(path);
        }
        who
    }

    fn answer(&mut self, to: &Waiting, who: Who) {
        let answer = Answer { id: to.question.id, who: who.bounded() };
        let mut line = serde_json::to_vec(&answer).unwrap_or_default();
        line.push(b'\n');
        // A peer that does not read loses its answers, and asks no more than it can wait for.
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.number == to.peer) {
            let _ = peer.stream.write(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Client;
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn inode_of(socket: &impl AsRawFd) -> u32 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        link.to_str().unwrap().trim_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap()
    }

    fn ask(client: &mut Client, question: &Question) -> Who {
        assert!(client.ask(question));
        for _ in 0..200 {
            if let Some(answer) = client.hear().into_iter().find(|answer| answer.id == question.id) {
                return answer.who;
            }
            wait_for(&[client.as_fd().unwrap()], 50);
        }
        Who::unknown("no answer")
    }

    #[test]
    fn the_service_names_this_process_and_survives_hostile_peers() {
        let dir = tempfile::tempdir().unwrap();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let (told, state) = (std::sync::Arc::clone(&stop), dir.path().to_owned());
        let service = std::thread::spawn(move || run(&state, &told));
        let mut client = Client::new(dir.path());
        let clock = Clock::new();
        while !client.is_connected() {
            client.keep_connected(clock.monotonic() * 100);
            wait_for(&[], 10);
        }
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut question = Question { id: 1, inode: inode_of(&connection), cgroup_id: 0, ends: None };
        let who = ask(&mut client, &question);
        assert_eq!(who.pid, Some(std::process::id()), "{who:?}");
        let program = std::env::current_exe().unwrap();
        assert_eq!(who.executable.as_deref(), program.to_str());
        question = Question { id: 2, inode: 1, ..question };
        assert_eq!(ask(&mut client, &question).unnamed.as_deref(), Some(why::ENDED));
        for garbage in [&b"{}\n[]\nnull\n{\"id\":-1}\n"[..], &[b'x'; 100_000], b"\xff\xfe\n"] {
            let mut hostile = UnixStream::connect(dir.path().join(SOCKET)).unwrap();
            let _ = hostile.write_all(garbage);
        }
        let mut many: Vec<UnixStream> = Vec::new();
        (0..20).for_each(|_| many.extend(UnixStream::connect(dir.path().join(SOCKET)).ok()));
        question = Question { id: 3, inode: inode_of(&connection), ..question };
        assert_eq!(ask(&mut client, &question).pid, Some(std::process::id()));
        assert!(run(dir.path(), &stop).unwrap_err().contains("already"));
        stop.store(true, Ordering::Relaxed);
        service.join().unwrap().unwrap();
    }
}
