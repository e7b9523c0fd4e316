//! Who holds an end of a connection, as the host of that end tells it: user, program, container, and where one of them
//! is not known, why.
//!
//! Owners come by themselves, some time after a flow's first packet; [`OwnerBook`] keeps them, bounded, until the rows of
//! their flows pass.

use crate::table::FlowRow;
use crate::time::SECOND;
use crate::{Address, Time};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest text of an owner; a longer one is cut.
const TEXT_MAX: usize = 256;
/// Owners kept, in two generations.
const OWNERS_MAX: usize = 64 << 10;
/// Network roots kept apart; the owners of further ones are not kept.
const ROOTS_MAX: usize = 1_024;
/// An owner looked up so long before its flow began is that of an earlier flow with the same ports.
pub(crate) const BEFORE_MAX: u64 = 5 * SECOND;
/// An owner looked up so long after the row's last packet is that of a later flow.
pub(crate) const AFTER_MAX: u64 = 30 * SECOND;

/// Why something about an owner is not known. The words are the value of a flow's `unnamed` column.
pub mod why {
    /// The second service, which knows processes, does not run on that host.
    pub const NO_SERVICE: &str = "no names service";
    /// Its socket was gone.
    pub const CLOSED: &str = "socket closed before it was looked up";
    /// The socket was found, the process that held it was gone.
    pub const ENDED: &str = "process ended before it was looked up";
    /// The names service did not answer in time.
    pub const LATE: &str = "the names service was late";
    /// The packets are forwarded for an address that this host does not have itself.
    pub const FORWARDED: &str = "other network namespace";
    /// More new flows came than may be looked up in a second.
    pub const BUSY: &str = "too many new flows at once";
    /// The kernel itself holds the socket.
    pub const KERNEL: &str = "held by the kernel";
    /// The system has no way to ask.
    pub const NOT_HERE: &str = "not told on this system";
}

/// One end of one connection, and who holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// IP protocol.
    pub proto: u8,
    /// The end on the host that tells.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// When it was looked up.
    pub time: Time,
    /// Who.
    #[serde(flatten)]
    pub who: Who,
}

/// Who holds an end.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Who {
    /// User's name, or the number where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Box<str>>,
    /// User's number, where the system has such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<u32>,
    /// Process's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Box<str>>,
    /// Process's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Program's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Box<str>>,
    /// Control group's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Box<str>>,
    /// Container's id, shortened as its tools do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Box<str>>,
    /// Pod's uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Box<str>>,
    /// Why nothing, or no more, is known: see [`why`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unnamed: Option<Box<str>>,
}

impl Who {
    /// Nothing known, and why.
    pub fn unknown(why: &str) -> Who {
        Who { unnamed: Some(why.into()), ..Who::default() }
    }

    /// As a host may tell it: texts bounded, without control characters.
    pub fn bounded(mut self) -> Who {
        let Who { user, process, executable, cgroup, container, pod, unnamed, .. } = &mut self;
        for text in [user, process, executable, cgroup, container, pod, unnamed] {
            let fits = |text: &str| text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
            if text.as_deref().is_some_and(|text| !fits(text)) {
                let kept = text.take().unwrap_or_default();
                let kept = kept.chars().filter(|letter| !letter.is_control());
                let mut len = 0;
                let short: String = kept
                    .take_while(|letter| {
                        len += letter.len_utf8();
                        len <= TEXT_MAX
                    })
                    .collect();
                *text = Some(short.into());
            }
        }
        self
    }
}

/// Both ends of a connection, in one order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    root: u16,
    proto: u8,
    low: (Address, u16),
    high: (Address, u16),
}

/// When an owner was looked up, and who it is.
type Known = Option<(Time, Arc<Who>)>;

/// Owners by connection, bounded; the oldest go first.
#[derive(Debug)]
pub struct OwnerBook {
    generation_max: usize,
    roots: HashMap<Box<str>, u16>,
    young: HashMap<Key, [Known; 2]>,
    old: HashMap<Key, [Known; 2]>,
    /// Equal owners are kept once.
    same: HashSet<Arc<Who>>,
}

impl Default for OwnerBook {
    fn default() -> OwnerBook {
        OwnerBook::with_max(OWNERS_MAX)
    }
}

impl OwnerBook {
    /// For so many connections.
    pub fn with_max(owners_max: usize) -> OwnerBook {
        OwnerBook {
            generation_max: (owners_max / 2).max(1),
            roots: HashMap::new(),
            young: HashMap::new(),
            old: HashMap::new(),
            same: HashSet::new(),
        }
    }

    /// Keeps an owner of a connection below this root of network paths.
    pub fn add(&mut self, root: &str, owner: Owner) {
        let Some(root) = self.number_of(root) else { return };
        let end = |end: SocketAddr| (Address::from(end.ip()), end.port());
        let (local, remote) = (end(owner.local), end(owner.remote));
        let (key, at) = key_of(root, owner.proto, local, remote);
        let who = self.shared(owner.who);
        if self.young.len() >= self.generation_max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
            self.same.clear();
        }
        let ends = match self.old.remove(&key) {
            Some(known) => self.young.entry(key).or_insert(known),
            None => self.young.entry(key).or_default(),
        };
        if let Some(end) = ends.get_mut(at) {
            // What was known of this very flow is not lost to a later look that found less.
            let poorer = |(time, known): &(Time, Arc<Who>)| {
                known.user.is_some() && who.user.is_none() && owner.time.since(*time) < BEFORE_MAX
            };
            if !end.as_ref().is_some_and(poorer) {
                *end = Some((owner.time, who));
            }
        }
    }

    /// Connections known.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts into a flow's row, below this root, who holds its ends, where that is known.
    pub fn fill(&self, root: &str, row: &mut FlowRow) {
        let Some(root) = self.roots.get(root) else { return };
        let (key, orig) = key_of(*root, row.proto.0, (row.orig_h, row.orig_p), (row.resp_h, row.resp_p));
        let Some(ends) = self.young.get(&key).or_else(|| self.old.get(&key)) else { return };
        let (ts, until) = (row.ts, row.until);
        let of_this_flow = |time: Time| time + BEFORE_MAX >= ts && time <= until + AFTER_MAX;
        for (at, end) in ends.iter().enumerate() {
            if let Some((time, who)) = end
                && of_this_flow(*time)
            {
                row.set_owner(at == orig, who);
            }
        }
    }

    fn number_of(&mut self, root: &str) -> Option<u16> {
        if let Some(number) = self.roots.get(root) {
            return Some(*number);
        }
        let number = u16::try_from(self.roots.len()).ok().filter(|_| self.roots.len() < ROOTS_MAX)?;
        self.roots.insert(root.into(), number);
        Some(number)
    }

    fn shared(&mut self, who: Who) -> Arc<Who> {
        let who = Arc::new(who.bounded());
        if let Some(known) = self.same.get(&who) {
            return Arc::clone(known);
        }
        self.same.insert(Arc::clone(&who));
        who
    }
}

/// The key of a connection, and the place of its first end in it.
fn key_of(root: u16, proto: u8, one: (Address, u16), other: (Address, u16)) -> (Key, usize) {
    let at = usize::from(one > other);
    let (low, high) = if at == 0 { (one, other) } else { (other, one) };
    (Key { root, proto, low, high }, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::Proto;

    fn owner(port: u16, time: u64, process: &str) -> Owner {
        Owner {
            proto: 6,
            local: format!("10.0.0.9:{port}").parse().unwrap(),
            remote: "10.0.0.2:443".parse().unwrap(),
            time: Time(time * SECOND),
            who: Who { user: Some("alice".into()), process: Some(process.into()), ..Who::default() },
        }
    }

    fn row(port: u16, ts: u64, until: u64) -> FlowRow {
        FlowRow {
            ts: Time(ts * SECOND),
            until: Time(until * SECOND),
            proto: Proto::TCP,
            orig_h: Address::from_v4([10, 0, 0, 9]),
            orig_p: port,
            resp_h: Address::from_v4([10, 0, 0, 2]),
            resp_p: 443,
            ..FlowRow::default()
        }
    }

    #[test]
    fn an_owner_names_its_end_of_its_flow_in_its_network_and_no_other() {
        let mut book = OwnerBook::default();
        book.add("blue", owner(5000, 100, "curl"));
        let mut flow = row(5000, 100, 101);
        book.fill("blue", &mut flow);
        assert_eq!((flow.orig_process.as_deref(), flow.resp_process.as_deref()), (Some("curl"), None));
        for (root, mut other) in [("red", row(5000, 100, 101)), ("blue", row(5001, 100, 101))] {
            book.fill(root, &mut other);
            assert_eq!(other.orig_process, None);
        }
    }

    #[test]
    fn the_same_ports_later_are_another_flow() {
        let mut book = OwnerBook::default();
        book.add("blue", owner(5000, 100, "curl"));
        for mut other in [row(5000, 106, 107), row(5000, 60, 61)] {
            book.fill("blue", &mut other);
            assert_eq!(other.orig_process, None);
        }
        let mut long = row(5000, 60, 4_000);
        book.fill("blue", &mut long);
        assert!(long.orig_process.is_some(), "a flow that an agent found under way");
        book.add("blue", owner(5000, 200, "wget"));
        let mut second = row(5000, 200, 201);
        book.fill("blue", &mut second);
        assert_eq!(second.orig_process.as_deref(), Some("wget"));
    }

    #[test]
    fn memory_and_texts_are_bounded() {
        let mut book = OwnerBook::default();
        for round in 0..3u64 {
            (0..60_000).for_each(|port| book.add(&format!("n{round}"), owner(port, 100, "x")));
        }
        assert!(book.len() <= OWNERS_MAX);
        let who = Who { process: Some("ä\u{1b}[31m".repeat(1_000).into()), ..Who::default() }.bounded();
        let text = who.process.unwrap();
        assert!(text.len() <= TEXT_MAX && !text.chars().any(char::is_control) && text.starts_with("ä[31m"));
    }

    #[test]
    fn an_owner_is_short_on_the_link_and_survives_it() {
        let owner = owner(5000, 100, "curl");
        let text = serde_json::to_string(&owner).unwrap();
        assert!(text.len() < 160, "{text}");
        assert_eq!(serde_json::from_str::<Owner>(&text).unwrap(), owner);
    }
}
