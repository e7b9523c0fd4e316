//! Link heads: Ethernet II, 802.3 with LLC, VLAN stacks, backbone bridging, Linux cooked and BSD loopback.
//!
//! ```text
//! Ethernet: target [6], source [6], type or length [2], payload
//! VLAN tag: priority 3 bits, drop eligible 1 bit, id 12 bits, type or length [2]
//! SLL:      packet type [2], ARPHRD [2], address length [2], address [8], protocol [2]
//! SLL2:     protocol [2], 0 [2], interface [4], ARPHRD [2], packet type [1], address length [1], address [8]
//! ```

use super::{Arp, Content, Next, State, Visit, Weird, ip, label};
use thymus_record::{Address, Layer, Mac};

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
pub(super) const VLAN: u16 = 0x8100;
const VLAN_SERVICE: u16 = 0x88a8;
/// Stacked tags from before 802.1ad had a number.
const VLAN_STACKED: [u16; 2] = [0x9100, 0x9200];
const VN_TAG: u16 = 0x8926;
const BACKBONE: u16 = 0x88e7;
const PPPOE_SESSION: u16 = 0x8864;
pub(super) const MPLS: u16 = 0x8847;
const MPLS_MULTICAST: u16 = 0x8848;
/// Values up to this one are lengths (IEEE 802.3).
const LENGTH_MAX: u16 = 1500;

#[inline]
pub(super) fn ethernet<'a, V: Visit>(state: &mut State<'a, '_, V>, bytes: &'a [u8]) -> Next<'a> {
    let Some((ends, rest)) = bytes.split_first_chunk::<12>() else { return Next::Damaged(Weird::LINK_TRUNCATED) };
    let Some((&[high, low], rest)) = rest.split_first_chunk::<2>() else {
        return Next::Damaged(Weird::LINK_TRUNCATED);
    };
    write_macs(&mut state.packet.macs, ends);
    if let Some((source, target)) = state.packet.macs {
        state.visit.ethernet(source, target);
    }
    match u16::from_be_bytes([high, low]) {
        IPV4 => ip::v4(state, rest),
        ether_type => Next::Type(ether_type, rest),
    }
}

/// Writes source and target in place: taken through a register they would wait for their own store.
#[inline(always)]
pub(super) fn write_macs(macs: &mut Option<(Mac, Mac)>, ends: &[u8; 12]) {
    let (source, target) = macs.insert((Mac::default(), Mac::default()));
    let (first, last) = ends.split_at(6);
    target.0.copy_from_slice(first);
    source.0.copy_from_slice(last);
}

pub(super) fn ether_type<'a, V: Visit>(state: &mut State<'a, '_, V>, number: u16, rest: &'a [u8]) -> Next<'a> {
    match number {
        IPV4 => ip::v4(state, rest),
        IPV6 => ip::v6(state, rest),
        ARP => arp(state, rest),
        VLAN | VLAN_SERVICE => vlan(state, rest),
        number if VLAN_STACKED.contains(&number) => vlan(state, rest),
        MPLS | MPLS_MULTICAST => label::mpls(rest),
        PPPOE_SESSION => label::pppoe(state, rest),
        VN_TAG => tagged(rest),
        BACKBONE => match rest.split_first_chunk::<4>() {
            Some((_, inner)) => Next::Ethernet(inner),
            None => Next::Damaged(Weird::LINK_TRUNCATED),
        },
        0..=LENGTH_MAX => {
            let length = usize::from(number).min(rest.len());
            Next::Llc(rest.get(..length).unwrap_or(rest))
        }
        _ => Next::Foreign,
    }
}

/// A VLAN tag. Id 0 is a priority alone and tells no network apart.
fn vlan<'a, V: Visit>(state: &mut State<'a, '_, V>, bytes: &'a [u8]) -> Next<'a> {
    let Some((&[high, low, ..], _)) = bytes.split_first_chunk::<4>() else {
        return Next::Damaged(Weird::LINK_TRUNCATED);
    };
    let id = u16::from_be_bytes([high, low]) & 0x0fff;
    if id != 0 {
        state.push(Layer::Vlan(id));
    }
    tagged(bytes)
}

/// What follows a four-byte tag that ends in a type.
fn tagged(bytes: &[u8]) -> Next<'_> {
    match bytes.split_first_chunk::<4>() {
        Some((&[_, _, high, low], rest)) => Next::Type(u16::from_be_bytes([high, low]), rest),
        None => Next::Damaged(Weird::LINK_TRUNCATED),
    }
}

/// LLC with SNAP names an EtherType; other LLC (spanning tree, IS-IS …) is not ours.
pub(super) fn llc(bytes: &[u8]) -> Next<'_> {
    match bytes.split_first_chunk::<8>() {
        Some((&[0xaa, 0xaa, 0x03, 0, 0, 0, high, low], rest)) => {
            let number = u16::from_be_bytes([high, low]);
            // A length here would send the walk back to LLC.
            if number > LENGTH_MAX { Next::Type(number, rest) } else { Next::Foreign }
        }
        Some(_) => Next::Foreign,
        None if bytes.len() >= 3 => Next::Foreign,
        None => Next::Damaged(Weird::LINK_TRUNCATED),
    }
}

fn arp<'a, V: Visit>(state: &mut State<'a, '_, V>, bytes: &'a [u8]) -> Next<'a> {
    let Some((head, rest)) = bytes.split_first_chunk::<8>() else { return Next::Damaged(Weird::LINK_TRUNCATED) };
    // Ethernet and IPv4 with their usual lengths; IEEE 802 hardware (6) is written alike.
    let &[0, 1 | 6, 0x08, 0x00, 6, 4, high, low] = head else { return Next::Foreign };
    let Some((&[a, b, c, d, e, f, s0, s1, s2, s3, g, h, i, j, k, l, t0, t1, t2, t3], _)) =
        rest.split_first_chunk::<20>()
    else {
        return Next::Damaged(Weird::LINK_TRUNCATED);
    };
    let arp = Arp {
        operation: u16::from_be_bytes([high, low]),
        sender_mac: Mac([a, b, c, d, e, f]),
        sender: Address::from_v4([s0, s1, s2, s3]),
        target_mac: Mac([g, h, i, j, k, l]),
        target: Address::from_v4([t0, t1, t2, t3]),
    };
    state.visit.arp(&arp);
    state.packet.content = Content::Arp(arp);
    Next::Done
}

pub(super) fn linux_sll(bytes: &[u8]) -> Next<'_> {
    match bytes.split_first_chunk::<16>() {
        Some((&[_, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low], rest)) => cooked([high, low], rest),
        None => Next::Damaged(Weird::LINK_TRUNCATED),
    }
}

pub(super) fn linux_sll2(bytes: &[u8]) -> Next<'_> {
    match bytes.split_first_chunk::<20>() {
        Some((&[high, low, ..], rest)) => cooked([high, low], rest),
        None => Next::Damaged(Weird::LINK_TRUNCATED),
    }
}

/// Linux's protocol field: an EtherType, or 4 for LLC.
fn cooked(protocol: [u8; 2], rest: &[u8]) -> Next<'_> {
    match u16::from_be_bytes(protocol) {
        4 => Next::Llc(rest),
        0..=LENGTH_MAX => Next::Foreign,
        number => Next::Type(number, rest),
    }
}

/// The address family in the order of the host that wrote the file; the BSDs disagree on IPv6's number.
pub(super) fn loopback(bytes: &[u8]) -> Next<'_> {
    let Some((family, rest)) = bytes.split_first_chunk::<4>() else { return Next::Damaged(Weird::LINK_TRUNCATED) };
    let number = match *family {
        [0, 0, high, low] => u16::from_be_bytes([high, low]),
        [low, high, 0, 0] => u16::from_be_bytes([high, low]),
        _ => return Next::Foreign,
    };
    match number {
        2 => Next::Type(IPV4, rest),
        10 | 24 | 28 | 30 => Next::Type(IPV6, rest),
        _ => Next::Foreign,
    }
}
