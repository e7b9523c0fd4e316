//! Two views of one conversation: a host that translates addresses between two of its interfaces shows it once from
//! inside and once from outside. The outer view's rows are marked, and count nowhere; the inner view's rows tell how the
//! conversation looked outside.

use crate::owner::{AFTER_MAX, BEFORE_MAX};
use crate::table::FlowRow;
use crate::{Address, Time};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;

/// Conversations kept, in two generations, both views of each.
const VIEWS_MAX: usize = 32 << 10;

/// A packet's ends in both views, source first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// IP protocol.
    pub proto: u8,
    /// Before translation, where the host that is spoken for has its own address.
    pub inner: [SocketAddr; 2],
    /// After it: one end is the translating host's.
    pub outer: [SocketAddr; 2],
    /// When it passed.
    pub time: Time,
}

impl View {
    /// True for what translation can do: one end stays, the other changes.
    pub fn is_sound(&self) -> bool {
        let same = |at: usize| self.inner.get(at) == self.outer.get(at);
        same(0) != same(1)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    root: Box<str>,
    proto: u8,
    low: (Address, u16),
    high: (Address, u16),
}

#[derive(Clone, Debug)]
struct Known {
    /// Who told it; `None` where the rows are made too.
    agent: Option<u32>,
    is_outer: bool,
    /// The first end of the view that this is about.
    source: (Address, u16),
    /// The other view.
    other: [SocketAddr; 2],
    time: Time,
}

/// Views told by hosts, bounded; the oldest go first.
#[derive(Default, Debug)]
pub struct ViewBook {
    young: HashMap<Key, Known>,
    old: HashMap<Key, Known>,
}

fn end(end: SocketAddr) -> (Address, u16) {
    (Address::from(end.ip()), end.port())
}

fn key(root: &str, proto: u8, one: (Address, u16), other: (Address, u16)) -> Key {
    Key { root: root.into(), proto, low: one.min(other), high: one.max(other) }
}

impl ViewBook {
    /// Keeps what an agent told of packets below this root of network paths.
    pub fn add(&mut self, root: &str, agent: Option<u32>, view: &View) {
        if self.young.len() >= VIEWS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        for (is_outer, ends, other) in [(true, view.outer, view.inner), (false, view.inner, view.outer)] {
            let [source, target] = ends.map(end);
            let known = Known { agent, is_outer, source, other, time: view.time };
            self.young.insert(key(root, view.proto, source, target), known);
        }
    }

    /// Views known.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Marks a flow's row below this root. The outer view is marked only in what the same agent delivered: it speaks for
    /// no other witness.
    pub fn fill(&self, root: &str, row: &mut FlowRow) {
        let orig = (row.orig_h, row.orig_p);
        let key = key(root, row.proto.0, orig, (row.resp_h, row.resp_p));
        let Some(known) = self.young.get(&key).or_else(|| self.old.get(&key)) else { return };
        if known.time + BEFORE_MAX < row.ts || known.time > row.until + AFTER_MAX {
            return;
        }
        let [from, to] = known.other;
        let (from, to) = if known.source == orig { (from, to) } else { (to, from) };
        let text = Some(format!("{from} > {to}").into());
        match known.is_outer {
            true if row.agent == known.agent => row.view_of = text,
            true => {}
            // What others forge of its flows is not its translation.
            false if row.agent == known.agent || row.unverified == 0 => row.translated = text,
            false => {}
        }
    }
}

/// The ends of a conversation as it looked outside of the host that translated it.
pub fn outer_ends(text: &str) -> Option<(Address, Address)> {
    let (from, to) = text.split_once(" > ")?;
    let end = |end: &str| end.parse::<SocketAddr>().ok().map(|end| Address::from(end.ip()));
    end(from).zip(end(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::Proto;
    use crate::time::SECOND;

    fn row(orig: &str, resp: &str, agent: Option<u32>) -> FlowRow {
        let [orig, resp] = [orig, resp].map(|text| end(text.parse().unwrap()));
        FlowRow {
            ts: Time(100 * SECOND),
            until: Time(101 * SECOND),
            proto: Proto::TCP,
            orig_h: orig.0,
            orig_p: orig.1,
            resp_h: resp.0,
            resp_p: resp.1,
            agent,
            ..FlowRow::default()
        }
    }

    const IN: &str = "10.0.0.5:40000";
    const OUT: &str = "198.51.100.1:61000";
    const SERVER: &str = "203.0.113.5:80";

    fn book(time: u64) -> ViewBook {
        let ends = |ends: [&str; 2]| ends.map(|text| text.parse().unwrap());
        // As an answer showed it.
        let view = View { proto: 6, inner: ends([SERVER, IN]), outer: ends([SERVER, OUT]), time: Time(time * SECOND) };
        assert!(view.is_sound() && view.inner != view.outer);
        let mut book = ViewBook::default();
        book.add("blue", Some(7), &view);
        book
    }

    #[test]
    fn the_outer_view_is_marked_and_the_inner_one_tells_of_it_each_as_its_row_is_turned() {
        let book = book(100);
        let (mut inner, mut outer) = (row(IN, SERVER, Some(3)), row(OUT, SERVER, Some(7)));
        book.fill("blue", &mut inner);
        book.fill("blue", &mut outer);
        assert_eq!(inner.translated.as_deref(), Some("198.51.100.1:61000 > 203.0.113.5:80"));
        assert_eq!(outer.view_of.as_deref(), Some("10.0.0.5:40000 > 203.0.113.5:80"));
        assert_eq!((inner.view_of, outer.translated), (None, None));
        let mut forged = FlowRow { unverified: 1, ..row(IN, SERVER, Some(3)) };
        book.fill("blue", &mut forged);
        assert_eq!(forged.translated, None);
    }

    #[test]
    fn nobody_marks_what_another_one_delivered_and_later_flows_with_the_same_ports_are_others() {
        for (book, root, agent) in [
            (book(100), "blue", Some(8)),
            (book(100), "blue", None),
            (book(100), "red", Some(7)),
            (book(90), "blue", Some(7)),
            (book(140), "blue", Some(7)),
        ] {
            let mut outer = row(OUT, SERVER, agent);
            book.fill(root, &mut outer);
            assert_eq!(outer.view_of, None);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut book = ViewBook::default();
        let at = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(n), 1));
        for n in 0..100_000 {
            book.add("n", None, &View { proto: 6, inner: [at(n), at(0)], outer: [at(1), at(n)], time: Time(0) });
        }
        assert!(book.len() <= 2 * VIEWS_MAX + 2, "{}", book.len());
    }
}
