//! A frame as its source lends it, for the length of one burst.

use thymus_record::Time;

/// What the first byte of a frame belongs to (tcpdump.org/linktypes.html).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum LinkType {
    /// IEEE 802.3 Ethernet (LINKTYPE 1), FCS taken off.
    #[default]
    Ethernet,
    /// IPv4 or IPv6 (101, 12, 14, 228, 229).
    Ip,
    /// Linux cooked v1 (113).
    LinuxSll,
    /// Linux cooked v2 (276).
    LinuxSll2,
    /// BSD loopback, host or network order (0, 108).
    Loopback,
    /// PPP (9) or PPP in HDLC framing (50).
    Ppp,
    /// One that we cannot decode; frames are stored all the same.
    Unknown(u16),
}

impl LinkType {
    /// From a capture file's number.
    pub fn from_number(number: u16) -> LinkType {
        match number {
            1 => LinkType::Ethernet,
            12 | 14 | 101 | 228 | 229 => LinkType::Ip,
            113 => LinkType::LinuxSll,
            276 => LinkType::LinuxSll2,
            0 | 108 => LinkType::Loopback,
            9 | 50 => LinkType::Ppp,
            other => LinkType::Unknown(other),
        }
    }
}

/// Which agent delivered a frame; all 0 for one of a port's own. Kept beside the packet and never in a key, so that a flow
/// stays one when another agent takes over.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    /// The agent's number.
    pub agent: u32,
    /// Its group, counted from 1: see [`crate::flow::Roots`].
    pub root: u16,
    /// The agent owns neither end of the packet.
    pub unverified: bool,
}

/// One frame.
#[derive(Clone, Copy, Default, Debug)]
pub struct Frame<'a> {
    /// The bytes captured.
    pub bytes: &'a [u8],
    /// The frame's length on the wire, without FCS; at least `bytes.len()`.
    pub wire_len: u32,
    /// When it passed.
    pub time: Time,
    /// What its first byte belongs to.
    pub link: LinkType,
    /// Which capture port delivered it.
    pub port: u16,
    /// Which agent, if one did.
    pub origin: Origin,
}
