//! Heads between link and IP that name no network: MPLS label stacks, PPPoE sessions, PPP.
//!
//! ```text
//! MPLS:  label 20 bits, class 3 bits, bottom of stack 1 bit, TTL 8 bits; repeated up to the bottom
//! PPPoE: version 4 bits, type 4 bits, code [1], session [2], length [2], then PPP from its protocol on
//! PPP:   (address 0xff, control 0x03, may be left out), protocol [1 or 2]
//! ```

use super::tunnel::{Entry, Inside};
use super::{Next, State, TunnelKind, Visit, Weird, link};

/// Most labels in a stack.
const LABELS_MAX: usize = 16;

/// A label stack does not say what it carries: the first bytes behind it must tell. An IP head is known by its version
/// and a length that can be; a zero nibble is a pseudowire's control word (RFC 4385), Ethernet behind it; and without
/// one, Ethernet shows by its EtherType.
pub(super) fn mpls(bytes: &[u8]) -> Next<'_> {
    let mut rest = bytes;
    for _ in 0..LABELS_MAX {
        let Some((&[_, _, label, _], behind)) = rest.split_first_chunk::<4>() else {
            return Next::Damaged(Weird::LINK_TRUNCATED);
        };
        rest = behind;
        if label & 1 == 1 {
            return inside_mpls(rest);
        }
    }
    Next::Damaged(Weird::TOO_DEEP)
}

fn inside_mpls(bytes: &[u8]) -> Next<'_> {
    let Some((&[first, _, v4_high, v4_low, v6_high, v6_low], _)) = bytes.split_first_chunk::<6>() else {
        return Next::Damaged(Weird::LINK_TRUNCATED);
    };
    // A MAC may begin with 4 or 6 as well: then the EtherType agrees and the IP length does not.
    let v4_fits = usize::from(u16::from_be_bytes([v4_high, v4_low])) <= bytes.len();
    let v6_fits = usize::from(u16::from_be_bytes([v6_high, v6_low])) <= bytes.len();
    match first >> 4 {
        4 if first & 0x0f >= 5 && (v4_fits || !is_ethernet(bytes)) => Next::Type(link::IPV4, bytes),
        6 if v6_fits || !is_ethernet(bytes) => Next::Type(link::IPV6, bytes),
        0 => match bytes.split_first_chunk::<4>() {
            Some((_, behind)) if is_ethernet(behind) || !is_ethernet(bytes) => Next::Ethernet(behind),
            _ => Next::Ethernet(bytes),
        },
        _ if is_ethernet(bytes) => Next::Ethernet(bytes),
        _ => Next::Foreign,
    }
}

/// True where bytes 12 and 13 are a usual EtherType and what follows agrees with it.
fn is_ethernet(bytes: &[u8]) -> bool {
    let Some((&[.., high, low, next], _)) = bytes.split_first_chunk::<15>() else { return false };
    match u16::from_be_bytes([high, low]) {
        link::IPV4 => next >> 4 == 4 && next & 0x0f >= 5,
        link::IPV6 => next >> 4 == 6,
        0x0806 => next == 0,
        0x8100 | 0x88a8 | link::MPLS => true,
        _ => false,
    }
}

/// A PPPoE session packet (RFC 2516).
pub(super) fn pppoe<'a, V: Visit>(state: &mut State<'a, '_, V>, bytes: &'a [u8]) -> Next<'a> {
    let Some((&[version, code, s0, s1, _, _], rest)) = bytes.split_first_chunk::<6>() else {
        return Next::Damaged(Weird::LINK_TRUNCATED);
    };
    if version != 0x11 || code != 0 {
        return Next::Foreign;
    }
    // The length is left alone: IP's own cuts the padding, and where the two disagree receivers go by IP's.
    let session = u16::from_be_bytes([s0, s1]);
    state.enter(&Entry {
        kind: TunnelKind::Pppoe,
        id: u64::from(session),
        layer: None,
        missing: state.missing,
        inside: Inside::Ppp(rest),
    })
}

/// A PPP frame (RFC 1661), with or without HDLC-like framing (RFC 1662), or Cisco's HDLC.
pub(super) fn ppp(bytes: &[u8]) -> Next<'_> {
    let rest = match bytes {
        [0xff, 0x03, rest @ ..] => rest,
        [0x0f | 0x8f, 0x00, high, low, rest @ ..] => return Next::Type(u16::from_be_bytes([*high, *low]), rest),
        _ => bytes,
    };
    let (protocol, rest) = match rest {
        // An odd first byte is the whole number (protocol field compression).
        [first, rest @ ..] if first & 1 == 1 => (u16::from(*first), rest),
        [high, low, rest @ ..] => (u16::from_be_bytes([*high, *low]), rest),
        _ => return Next::Damaged(Weird::LINK_TRUNCATED),
    };
    match protocol {
        0x0021 => Next::Type(link::IPV4, rest),
        0x0057 => Next::Type(link::IPV6, rest),
        0x0281 | 0x0283 => Next::Type(link::MPLS, rest),
        _ => Next::Foreign,
    }
}
