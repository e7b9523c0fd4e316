//! Tunnels: which packet is one, and what lies inside. GRE and its kin are in `gre`.
//!
//! A UDP port alone proves nothing, so the head behind it must be right too; and where the inside cannot be read the
//! packet still counts as the UDP packet that it is.
//!
//! ```text
//! VXLAN:  flags [1] (0x08 set), 0 [3], VNI [3], 0 [1], then Ethernet
//! GENEVE: version 2 bits, option length in words 6 bits, flags [1], type [2], VNI [3], 0 [1], options
//! option: class [2], type [1], 0 3 bits, length in words 5 bits, data
//! GTP-U:  version 3 bits, GTP 1 bit, 0 1 bit, E S PN 3 bits, type [1], length [2], TEID [4], (sequence [2], N-PDU [1],
//!         next head [1]) if any of E S PN
//! Teredo: (0 1 [2], id length [1], authentication length [1], both, nonce [8], confirmation [1]),
//!         (0 0 [2], port [2], address [4]), then IPv6
//! ```

use super::{Next, State, TunnelKind, Udp, Visit, Weird, extension, gre};
use thymus_record::Layer;
use thymus_record::column::Proto;

const VXLAN: u16 = 4789;
/// VXLAN's port in Linux before IANA gave it one.
const VXLAN_LINUX: u16 = 8472;
const GENEVE: u16 = 6081;
const GTP_USER: u16 = 2152;
const TEREDO: u16 = 3544;
/// RFC 8086.
const GRE_IN_UDP: u16 = 4754;

const IPV4_INSIDE: Proto = Proto(4);
const IPV6_INSIDE: Proto = Proto(41);
const GRE: Proto = Proto(47);

/// Option class of Amazon Web Services, and its type for a gateway load balancer's endpoint.
const AWS: [u8; 2] = [0x01, 0x08];
const AWS_ENDPOINT: u8 = 1;

/// A tunnel found.
pub(super) struct Entry<'a> {
    pub(super) kind: TunnelKind,
    pub(super) id: u64,
    pub(super) layer: Option<Layer>,
    /// Bytes of the inside that the wire had but the capture has not.
    pub(super) missing: u32,
    pub(super) inside: Inside<'a>,
}

/// What a tunnel carries.
#[derive(Clone, Copy)]
pub(super) enum Inside<'a> {
    Ethernet(&'a [u8]),
    Type(u16, &'a [u8]),
    Ppp(&'a [u8]),
    Ip(&'a [u8]),
}

/// What a tunnel's head turned out to be.
pub(super) type Found<'a> = Result<Option<Entry<'a>>, Damaged>;

/// A tunnel's head is cut off or contradicts itself.
pub(super) struct Damaged;

/// A tunnel right behind IP.
#[inline]
pub(super) fn in_ip<'a, V: Visit>(state: &mut State<'a, '_, V>, proto: Proto, payload: &'a [u8]) -> Next<'a> {
    let missing = state.missing;
    let found = match proto {
        IPV4_INSIDE | IPV6_INSIDE => {
            Ok(Some(Entry { kind: TunnelKind::IpInIp, id: 0, layer: None, missing, inside: Inside::Ip(payload) }))
        }
        GRE => gre::read(payload, missing),
        // Bubbles that hold a tunnel open count as what carries them.
        extension::NO_NEXT if state.carrier.is_some() => return Next::Foreign,
        _ => return Next::Done,
    };
    enter(state, found)
}

/// A quick look that leaves almost all UDP packets out: a tunnel's port, or a head that Teredo may have. A first byte
/// alone would send a quarter of all QUIC packets the long way.
#[inline]
pub(super) fn may_be_in(udp: &Udp<'_>) -> bool {
    matches!(udp.target, VXLAN | VXLAN_LINUX | GENEVE | GTP_USER | TEREDO | GRE_IN_UDP)
        || matches!(udp.source, GTP_USER | TEREDO)
        || match udp.payload {
            [0x60..0x70, _, _, _, l0, l1, ..] => u32::from(u16::from_be_bytes([*l0, *l1])) + 40 == udp.payload_len,
            [0, 0 | 1, ..] => true,
            _ => false,
        }
}

/// A tunnel in UDP.
pub(super) fn in_udp<'a>(udp: &Udp<'a>, v6: bool) -> Found<'a> {
    let captured = u32::try_from(udp.payload.len()).unwrap_or(u32::MAX);
    let missing = udp.payload_len.saturating_sub(captured);
    match (udp.target, udp.source) {
        (VXLAN | VXLAN_LINUX, _) => vxlan(udp.payload, missing),
        (GENEVE, _) => geneve(udp.payload, missing),
        (GTP_USER, _) | (_, GTP_USER) => gtp(udp.payload, missing),
        (GRE_IN_UDP, _) => gre::read(udp.payload, missing),
        _ if v6 => Ok(None),
        (target, source) => Ok(teredo(udp, missing, target == TEREDO || source == TEREDO)),
    }
}

pub(super) fn enter<'a, V: Visit>(state: &mut State<'a, '_, V>, found: Found<'a>) -> Next<'a> {
    match found {
        Ok(Some(entry)) => state.enter(&entry),
        Ok(None) => Next::Done,
        Err(Damaged) => {
            state.packet.weird.note(Weird::TUNNEL_DAMAGED);
            Next::Done
        }
    }
}

fn vxlan(bytes: &[u8], missing: u32) -> Found<'_> {
    let Some((&[flags, _, _, _, v0, v1, v2, _], rest)) = bytes.split_first_chunk::<8>() else { return Err(Damaged) };
    if flags & 0x08 == 0 {
        return Ok(None);
    }
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    let layer = Some(Layer::Vxlan(vni));
    Ok(Some(Entry { kind: TunnelKind::Vxlan, id: u64::from(vni), layer, missing, inside: Inside::Ethernet(rest) }))
}

fn geneve(bytes: &[u8], missing: u32) -> Found<'_> {
    let Some((&[version, _, p0, p1, v0, v1, v2, _], rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Damaged);
    };
    if version >> 6 != 0 {
        return Ok(None);
    }
    let Some((options, rest)) = rest.split_at_checked(usize::from(version & 0x3f) * 4) else { return Err(Damaged) };
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    let layer = match endpoint(options) {
        Ok(Some(endpoint)) => Layer::Gwlb(endpoint),
        Ok(None) => Layer::Geneve(vni),
        Err(Damaged) => return Err(Damaged),
    };
    let inside = match u16::from_be_bytes([p0, p1]) {
        gre::ETHERNET => Inside::Ethernet(rest),
        number => Inside::Type(number, rest),
    };
    Ok(Some(Entry { kind: TunnelKind::Geneve, id: u64::from(vni), layer: Some(layer), missing, inside }))
}

/// The endpoint of a gateway load balancer, if the options name one.
fn endpoint(mut options: &[u8]) -> Result<Option<u64>, Damaged> {
    while !options.is_empty() {
        let Some((&[c0, c1, kind, words], rest)) = options.split_first_chunk::<4>() else { return Err(Damaged) };
        let Some((data, rest)) = rest.split_at_checked(usize::from(words & 0x1f) * 4) else { return Err(Damaged) };
        if [c0, c1] == AWS && kind == AWS_ENDPOINT && data.len() == 8 {
            return Ok(data.first_chunk::<8>().map(|id| u64::from_be_bytes(*id)));
        }
        options = rest;
    }
    Ok(None)
}

fn gtp(bytes: &[u8], missing: u32) -> Found<'_> {
    /// A packet of a user; other types are signalling.
    const USER_PACKET: u8 = 0xff;
    const HEADS_MAX: usize = 8;
    let Some((&[flags, kind, _, _, i0, i1, i2, i3], mut rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Damaged);
    };
    if flags & 0xf0 != 0x30 || kind != USER_PACKET {
        return Ok(None);
    }
    if flags & 0x07 != 0 {
        let Some((&[_, _, _, mut next], behind)) = rest.split_first_chunk::<4>() else { return Err(Damaged) };
        rest = behind;
        for _ in 0..HEADS_MAX {
            if flags & 0x04 == 0 || next == 0 {
                break;
            }
            let words = rest.first().map_or(0, |words| usize::from(*words));
            let Some((head, behind)) = rest.split_at_checked(words * 4) else { return Err(Damaged) };
            let Some(last) = head.last() else { return Err(Damaged) };
            (next, rest) = (*last, behind);
        }
    }
    if !matches!(rest.first().map(|first| first >> 4), Some(4 | 6)) {
        return Ok(None);
    }
    let id = u64::from(u32::from_be_bytes([i0, i1, i2, i3]));
    Ok(Some(Entry { kind: TunnelKind::Gtp, id, layer: None, missing, inside: Inside::Ip(rest) }))
}

/// Teredo runs on any port between clients, so a packet counts as Teredo only where the IPv6 length fits exactly and an
/// address has Teredo's prefix; at the server's port, link-local addresses (router solicitation) do as well.
fn teredo<'a>(udp: &Udp<'a>, missing: u32, server: bool) -> Option<Entry<'a>> {
    let mut bytes = udp.payload;
    if let Some((&[0, 1, id, authentication], rest)) = bytes.split_first_chunk::<4>() {
        bytes = rest.get(usize::from(id) + usize::from(authentication) + 9..)?;
    }
    if let [0, 0, _, _, _, _, _, _, rest @ ..] = bytes {
        bytes = rest;
    }
    let (head, _) = bytes.split_first_chunk::<40>()?;
    let (&[version, _, _, _, l0, l1, _, _], ends) = head.split_first_chunk::<8>()?;
    let (source, target) = (ends.first_chunk::<4>()?, ends.get(16..)?.first_chunk::<4>()?);
    let whole = u32::try_from(bytes.len()).ok()?.checked_add(missing)?;
    let fits = version >> 4 == 6 && u32::from(u16::from_be_bytes([l0, l1])) + 40 == whole;
    let teredo = [source, target].contains(&&[0x20, 0x01, 0, 0]);
    let link_local = matches!(source, [0xfe, 0x80, ..]);
    (fits && (teredo || (server && link_local))).then_some(Entry {
        kind: TunnelKind::Teredo,
        id: 0,
        layer: None,
        missing,
        inside: Inside::Ip(bytes),
    })
}
