//! Packet filters: a subset of tcpdump's language, evaluated by our own decoder.
//!
//! ```text
//! expression  term, then any number of `and term` or `or term` (also && and ||)
//! term        `not` term (also !), `(` expression `)`, or a primitive
//! primitive   [ip|ip6|arp] [src|dst] host ADDRESS, [ip|ip6|arp] [src|dst] net ADDRESS/BITS
//!             [tcp|udp|sctp] [src|dst] port NUMBER, [tcp|udp|sctp] [src|dst] portrange NUMBER-NUMBER
//!             ether [src|dst] host MAC, vlan [ID], vni [ID], less BYTES, greater BYTES
//!             ip, ip6, arp, tcp, udp, sctp, icmp, icmp6, igmp, gre, esp, [ip|ip6] proto NUMBER
//! ```
//!
//! As in tcpdump, `and` and `or` bind alike, from left to right, and a value alone repeats the kind before it
//! (`port 80 or 443`). Unlike there, a primitive holds where any layer of the frame matches it, behind VLAN tags and
//! inside tunnels too. Names are never resolved. Fragments match by host and protocol, and only the first one by port.
//!
//! A filter is bounded in length, depth and number of primitives; matching neither allocates nor recurses deeper.

mod parse;
mod test;
mod hint;
#[cfg(test)]
mod tests;

pub use hint::Hint;

use crate::Frame;
use crate::decode::{Arp, Datagram, Visit, walk};
use test::Test;
use thymus_record::{Layer, Mac};

/// Most bytes of a filter's text.
pub const TEXT_BYTES_MAX: usize = 8192;
/// Most primitives in a filter.
pub const TESTS_MAX: usize = 128;
/// Most expressions inside one another.
pub const DEPTH_MAX: usize = 32;

/// Why a text is no filter, and the cure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterError {
    /// Which character is wrong, from 1.
    pub position: usize,
    /// What is wrong with it, and what to write.
    pub message: String,
}

impl std::fmt::Display for FilterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "filter, character {}: {}", self.position, self.message)
    }
}

impl std::error::Error for FilterError {}

/// A filter.
#[derive(Clone, Debug)]
pub struct Filter {
    tests: Vec<Test>,
    root: Expression,
}

/// How primitives are joined; a primitive is its place in [`Filter::tests`].
#[derive(Clone, PartialEq, Eq, Debug)]
enum Expression {
    Test(usize),
    Not(Box<Expression>),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

impl Filter {
    /// Reads a filter. An empty text matches every frame.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        parse::parse(text)
    }

    /// True if the frame matches.
    pub fn matches(&self, frame: &Frame<'_>) -> bool {
        let mut seen = Seen { tests: &self.tests, hits: 0 };
        seen.note(|test| test.is_frame(frame));
        walk(frame, &mut seen);
        self.root.holds(seen.hits)
    }

    /// What every matching frame must have, for an index to look up.
    pub fn hint(&self) -> Hint {
        hint::of(&self.tests, &self.root)
    }
}

impl Expression {
    fn holds(&self, hits: u128) -> bool {
        match self {
            Expression::Test(number) => hits >> number & 1 == 1,
            Expression::Not(inner) => !inner.holds(hits),
            Expression::All(parts) => parts.iter().all(|part| part.holds(hits)),
            Expression::Any(parts) => parts.iter().any(|part| part.holds(hits)),
        }
    }
}

/// Which primitives a frame has met so far, by bit.
struct Seen<'a> {
    tests: &'a [Test],
    hits: u128,
}

impl Seen<'_> {
    fn note(&mut self, is_met: impl Fn(&Test) -> bool) {
        for (number, test) in self.tests.iter().enumerate() {
            if is_met(test) {
                self.hits |= 1 << number;
            }
        }
    }
}

impl Visit for Seen<'_> {
    fn ethernet(&mut self, source: Mac, target: Mac) {
        self.note(|test| test.is_ethernet(source, target));
    }
    fn layer(&mut self, layer: Layer) {
        self.note(|test| test.is_layer(layer));
    }
    fn datagram(&mut self, datagram: &Datagram<'_>) {
        let ports = test::ports(datagram);
        self.note(|test| test.is_datagram(datagram, ports));
    }
    fn arp(&mut self, arp: &Arp) {
        self.note(|test| test.is_arp(arp));
    }
}
