//! Who holds this host's ends of its connections: a thread that looks each new one up once and tells the vSensor.
//!
//! ```text
//! frames ── Watch::note ─▶ new flows ─┐                               ┌─▶ names service (optional): process, program
//! first packets, by a kernel filter ──┴─▶ sock_diag: user, cgroup ────┴─▶ told, at the latest after 300 ms
//! ```
//! What comes faster than it may be looked up is let go, and counted.

mod watch;

pub use watch::Watch;

use crate::clock::Clock;
use crate::names::{Client, Question};
use crate::process::cgroup::{Cgroups, container_of};
use crate::process::users::Users;
use crate::process::{Early, Ends, Held, Sockets, Waiter, bell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thymus_dissect::decode::decode;
use thymus_dissect::{Frame, LinkType};
use thymus_forward::SharedOwners;
use thymus_record::owner::{Owner, Who, why};
use thymus_witness::ends_of;

/// New flows that wait to be looked up.
const WAITING_MAX: usize = 1_024;
/// Look-ups in a second: at 5 µs each, half a per cent of a core.
const LOOKUPS_MAX: u32 = 1_000;
/// First packets that may wake the thread in a second; beyond, it is woken by the capture alone.
const EARLY_MAX: u32 = 300;
/// Packets taken of the filter at a time.
const EARLY_BURST: usize = 64;
/// A flow that was just looked up is not looked up again.
const LOOKED_FOR: Duration = Duration::from_secs(1);
/// How long the names service is waited for.
const NAMES_WITHIN: Duration = Duration::from_millis(300);
/// Owners told in one message.
const TOLD_MAX: usize = 64;
/// Owners kept here, for rows that are made here.
const KEPT_MAX: usize = 8_192;
const SECOND: Duration = Duration::from_secs(1);

/// What was done since the start.
#[derive(Default, Debug)]
pub struct OwnerCounts {
    /// Told with a user.
    pub with_user: AtomicU64,
    /// Of these, told with a process.
    pub with_process: AtomicU64,
    /// Told without a user.
    pub unnamed: AtomicU64,
    /// Let go: more came than may be looked up.
    pub let_go: AtomicU64,
}

/// Tells the vSensor.
pub type Tell = Box<dyn FnMut(Vec<Owner>) + Send>;

/// The thread.
pub struct Owners {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    local: Arc<Mutex<HashSet<IpAddr>>>,
    book: SharedOwners,
    counts: Arc<OwnerCounts>,
    is_served: Arc<AtomicBool>,
}

impl Owners {
    /// Starts it; `state` is the agent's folder, where the names service listens, `root` its group. `seed` is secret.
    pub fn start(state: &Path, root: &str, seed: u64, tell: Tell) -> std::io::Result<(Owners, Watch)> {
        let (new, waiting) = sync_channel(WAITING_MAX);
        let (bell, waiter) = bell()?;
        let [stop, is_served] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let counts = Arc::<OwnerCounts>::default();
        let (local, book) = (Arc::default(), SharedOwners::with_max(KEPT_MAX));
        let mut work = Work {
            early: Early::open().ok(),
            sockets: Sockets::open()?,
            cgroups: Cgroups::of_host(),
            users: Users::default(),
            names: Client::new(state),
            waiting,
            waiter,
            new: VecDeque::new(),
            looked: HashMap::new(),
            pending: VecDeque::new(),
            number: 0,
            out: Vec::new(),
            tell,
            local: Arc::clone(&local),
            book: book.clone(),
            root: root.to_owned(),
            counts: Arc::clone(&counts),
            is_served: Arc::clone(&is_served),
            budget: Budget::default(),
        };
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("owners".to_owned()).spawn(move || work.run(&told))?;
        let watch = Watch::new(seed, new, bell, Arc::clone(&counts));
        Ok((Owners { thread: Some(thread), stop, local, book, counts, is_served }, watch))
    }

    /// This host's addresses: the ends that it speaks for.
    pub fn set_local(&self, addresses: impl Iterator<Item = IpAddr>) {
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = addresses.collect();
    }

    /// What is known, for rows that are made here.
    pub fn shared(&self) -> SharedOwners {
        self.book.clone()
    }

    /// In words, for people.
    pub fn words(&self) -> String {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let OwnerCounts { with_user, with_process, unnamed, let_go } = &*self.counts;
        let service = if self.is_served.load(Ordering::Relaxed) { "runs" } else { "does not run" };
        format!(
            "of new flows {} with user, {} of them with process, {} with neither, {} let go; the names service {service}",
            of(with_user),
            of(with_process),
            of(unnamed),
            of(let_go)
        )
    }

    /// Ends the thread.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What may still be done in this second.
#[derive(Default)]
struct Budget {
    second: Duration,
    lookups: u32,
    early: u32,
}

impl Budget {
    fn turn(&mut self, now: Duration) {
        if now.saturating_sub(self.second) >= SECOND {
            *self = Budget { second: now, lookups: 0, early: 0 };
        }
    }
}

/// A socket that was found and whose process the names service is asked for.
struct Pending {
    number: u64,
    ends: Ends,
    who: Who,
    /// Why it has no name if the service knows none either.
    otherwise: Option<&'static str>,
    until: Duration,
}

struct Work {
    early: Option<Early>,
    sockets: Sockets,
    cgroups: Cgroups,
    users: Users,
    names: Client,
    waiting: Receiver<Ends>,
    waiter: Waiter,
    new: VecDeque<Ends>,
    looked: HashMap<Ends, Duration>,
    pending: VecDeque<Pending>,
    number: u64,
    out: Vec<Owner>,
    tell: Tell,
    local: Arc<Mutex<HashSet<IpAddr>>>,
    book: SharedOwners,
    root: String,
    counts: Arc<OwnerCounts>,
    is_served: Arc<AtomicBool>,
    budget: Budget,
}

impl Work {
    fn run(&mut self, stop: &AtomicBool) {
        let clock = Clock::new();
        while !stop.load(Ordering::Acquire) {
            self.wait();
            let now = clock.monotonic();
            self.budget.turn(now);
            self.names.keep_connected(now);
            self.is_served.store(self.names.is_connected(), Ordering::Relaxed);
            self.gather();
            self.look_up(now);
            self.hear_names(now);
            self.tell_all();
        }
    }

    fn wait(&mut self) {
        let is_early = self.budget.early < EARLY_MAX;
        let at_most = match (self.pending.is_empty(), self.new.is_empty()) {
            (_, false) => 20,
            (false, true) => 50,
            (true, true) => 500,
        };
        self.waiter.wait(self.early.as_ref().filter(|_| is_early), &self.names, at_most);
    }

    /// New flows, from both ways.
    fn gather(&mut self) {
        let mut buffer = [0; 128];
        if let Some(early) = &mut self.early {
            for _ in 0..EARLY_BURST {
                let Some(bytes) = early.next(&mut buffer) else { break };
                self.budget.early += 1;
                let frame = Frame { bytes, link: LinkType::Ip, ..Frame::default() };
                let Some(ends) = ends_of(&decode(&frame)) else { continue };
                if watch::PROTOS.contains(&ends.proto) && self.new.len() < WAITING_MAX {
                    self.new.push_back(Ends {
                        proto: ends.proto,
                        local: SocketAddr::new(ends.source.to_ip(), ends.source_port),
                        remote: SocketAddr::new(ends.target.to_ip(), ends.target_port),
                    });
                }
            }
        }
        while self.new.len() < WAITING_MAX {
            let Ok(ends) = self.waiting.try_recv() else { break };
            self.new.push_back(ends);
        }
    }

    fn look_up(&mut self, now: Duration) {
        if self.looked.len() > KEPT_MAX {
            self.looked.retain(|_, at| now.saturating_sub(*at) < LOOKED_FOR);
        }
        while self.budget.lookups < LOOKUPS_MAX {
            let Some(ends) = self.new.pop_front() else { return };
            let back = Ends { local: ends.remote, remote: ends.local, ..ends };
            let [mine, theirs] = {
                let local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
                [ends, back].map(|ends| local.contains(&ends.local.ip()))
            };
            let is_open = |ip: IpAddr| !ip.is_multicast() && !ip.is_unspecified();
            let is_here = mine || theirs;
            for (ends, is_wanted, is_far) in [(ends, mine || !is_here, false), (back, theirs || !is_here, !is_here)] {
                let is_fresh = |at: &Duration| now.saturating_sub(*at) < LOOKED_FOR;
                if is_wanted && is_open(ends.local.ip()) && !self.looked.get(&ends).is_some_and(is_fresh) {
                    self.looked.insert(ends, now);
                    self.budget.lookups += 1;
                    self.look_at(ends, is_here, is_far, now);
                }
            }
        }
    }

    /// One end: `is_here` if its address is this host's own. Of the far end of a packet that is only forwarded nothing
    /// is told where nobody is found, `is_far`.
    fn look_at(&mut self, ends: Ends, is_here: bool, is_far: bool, now: Duration) {
        let held = if is_here { self.sockets.find(&ends).ok().flatten() } else { None };
        let is_found = held.is_some();
        let Held { mut who, inode, cgroup_id, .. } = held.unwrap_or_default();
        if let Some(user) = who.user_id {
            who.user = Some(self.users.name(user, now));
        }
        who.cgroup = if cgroup_id == 0 { None } else { self.cgroups.path(cgroup_id, now) };
        if let Some(path) = &who.cgroup {
            (who.container, who.pod) = container_of(path);
        }
        if is_found && inode == 0 {
            // A system that tells more at once has told it, or says why not.
            let is_told = who.process.is_some() || who.unnamed.is_some();
            who.unnamed = who.unnamed.or_else(|| (!is_told).then(|| why::KERNEL.into()));
            return self.put(ends, who);
        }
        self.number += 1;
        let number = self.number;
        let otherwise = match (is_found, is_here) {
            (true, _) => Some(why::NO_SERVICE),
            (false, true) => Some(why::CLOSED),
            (false, false) => Some(why::FORWARDED).filter(|_| !is_far),
        };
        if self.names.ask(&Question { id: number, inode, cgroup_id, ends: (!is_found).then_some(ends) }) {
            self.pending.push_back(Pending { number, ends, who, otherwise, until: now + NAMES_WITHIN });
        } else {
            self.put_unnamed(ends, who, otherwise);
        }
    }

    /// What the names service answered, and what it did not answer in time.
    fn hear_names(&mut self, now: Duration) {
        for answer in self.names.hear() {
            let Some(at) = self.pending.iter().position(|each| each.number == answer.id) else { continue };
            let Some(Pending { ends, who, otherwise, .. }) = self.pending.remove(at) else { continue };
            match (who.user.is_some(), answer.who.user.is_some()) {
                (false, false) => self.put_unnamed(ends, who, otherwise),
                _ => self.put(ends, joined(who, answer.who)),
            }
        }
        while self.pending.front().is_some_and(|first| first.until <= now || !self.names.is_connected()) {
            let Some(Pending { ends, who, otherwise, .. }) = self.pending.pop_front() else { return };
            let is_late = who.user.is_some() && self.names.is_connected();
            self.put_unnamed(ends, who, if is_late { Some(why::LATE) } else { otherwise });
        }
    }

    fn put_unnamed(&mut self, ends: Ends, mut who: Who, why: Option<&str>) {
        if let Some(why) = why {
            who.unnamed = Some(why.into());
            self.put(ends, who);
        }
    }

    fn put(&mut self, ends: Ends, who: Who) {
        let count = if who.user.is_some() { &self.counts.with_user } else { &self.counts.unnamed };
        count.fetch_add(1, Ordering::Relaxed);
        self.counts.with_process.fetch_add(u64::from(who.process.is_some()), Ordering::Relaxed);
        let Ends { proto, local, remote } = ends;
        let owner = Owner { proto, local, remote, time: Clock::wall(), who };
        self.book.add(&self.root, owner.clone());
        self.out.push(owner);
    }

    fn tell_all(&mut self) {
        while !self.out.is_empty() {
            let rest = self.out.split_off(self.out.len().min(TOLD_MAX));
            (self.tell)(std::mem::replace(&mut self.out, rest));
        }
    }
}

/// What the service knows, beside what the kernel told.
fn joined(kernel: Who, service: Who) -> Who {
    Who {
        user: kernel.user.or(service.user),
        user_id: kernel.user_id.or(service.user_id),
        cgroup: kernel.cgroup.or(service.cgroup),
        container: kernel.container.or(service.container),
        pod: kernel.pod.or(service.pod),
        ..service
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_told_stays_and_the_service_adds_to_it() {
        let kernel = Who { user: Some("alice".into()), user_id: Some(7), ..Who::default() };
        let service = Who { user: Some("other".into()), process: Some("curl".into()), ..Who::default() };
        let both = joined(kernel, service);
        assert_eq!((both.user.as_deref(), both.process.as_deref()), (Some("alice"), Some("curl")));
    }

    #[test]
    fn a_connection_of_this_process_is_told_with_its_user_and_why_no_process_is() {
        let dir = tempfile::tempdir().unwrap();
        let (send, told) = std::sync::mpsc::channel();
        let tell: Tell = Box::new(move |owners| drop(send.send(owners)));
        let (owners, mut watch) = Owners::start(dir.path(), "g", 1, tell).unwrap();
        owners.set_local(["127.0.0.1".parse().unwrap()].into_iter());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1];
        bytes.extend_from_slice(&local.port().to_be_bytes());
        bytes.extend_from_slice(&remote.port().to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        let frame = Frame { bytes: &bytes, wire_len: 40, link: LinkType::Ip, ..Frame::default() };
        let packet = decode(&frame);
        let ends = ends_of(&packet).unwrap();
        (0..100).for_each(|_| watch.note(&packet, &ends, Clock::wall()));
        let mut all: Vec<Owner> = Vec::new();
        while all.len() < 2 {
            all.extend(told.recv_timeout(Duration::from_secs(10)).unwrap());
        }
        assert!(all.iter().all(|owner| owner.who.user.is_some()), "{all:?}");
        assert!(all.iter().all(|owner| owner.who.unnamed.as_deref() == Some(why::NO_SERVICE)), "{all:?}");
        let mut ends: Vec<SocketAddr> = all.iter().map(|owner| owner.local).collect();
        ends.sort_by_key(|end| *end != local);
        assert_eq!(ends, [local, remote], "both ends are here");
        owners.stop();
    }
}
