//! GRE (RFC 2784, 2890), its form for PPTP (RFC 2637), NVGRE (RFC 7637) and ERSPAN
//! (draft-foschiano-erspan-03).
//!
//! ```text
//! GRE:        flags C R K S s 5 bits, 0 5 bits, A 1 bit, 0 2 bits, version 3 bits, protocol [2],
//!             (checksum [2], offset [2]) if C or R, key [4] if K, sequence [4] if S, routes if R
//! version 1:  the same, key = payload length [2] and call [2], acknowledgement [4] if A at the end
//! route:      family [2], offset [1], length [1], addresses; the last one has family and length 0
//! ERSPAN II:  version 4 bits, VLAN 12 bits, class 6 bits, session 10 bits, 0 12 bits, index 20 bits
//! ERSPAN III: as II for 4 bytes, timestamp [4], tag [2], damaged 1 bit, frame type 5 bits, … 9 bits, platform head
//!             of 8 bytes follows 1 bit
//! ```

use super::TunnelKind;
use super::tunnel::{Damaged, Entry, Found, Inside};
use thymus_record::Layer;

/// Transparent Ethernet bridging.
pub(super) const ETHERNET: u16 = 0x6558;
const ERSPAN: u16 = 0x88be;
const ERSPAN_III: u16 = 0x22eb;
const PPP: u16 = 0x880b;

const CHECKSUM: u16 = 0x8000;
const ROUTES: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
const ACKNOWLEDGED: u16 = 0x0080;

/// The first id for customers; lower ones mark GRE keys that are no NVGRE.
const NVGRE_SUBNET_MIN: u32 = 0x1000;

pub(super) fn read(bytes: &[u8], missing: u32) -> Found<'_> {
    let Some((&[f0, f1, p0, p1], mut rest)) = bytes.split_first_chunk::<4>() else { return Err(Damaged) };
    let (flags, protocol) = (u16::from_be_bytes([f0, f1]), u16::from_be_bytes([p0, p1]));
    let pptp = match flags & 0x07 {
        0 => false,
        1 => true,
        _ => return Ok(None),
    };
    if !pptp && flags & (CHECKSUM | ROUTES) != 0 {
        take(&mut rest)?;
    }
    let key = if flags & KEY != 0 { Some(take(&mut rest)?) } else { None };
    if flags & SEQUENCE != 0 {
        take(&mut rest)?;
    } else if pptp {
        // An acknowledgement alone.
        return Ok(None);
    }
    if pptp && flags & ACKNOWLEDGED != 0 {
        take(&mut rest)?;
    }
    if !pptp && flags & ROUTES != 0 {
        rest = skip_routes(rest)?;
    }
    let entry = |kind, id, layer, inside| Ok(Some(Entry { kind, id, layer, missing, inside }));
    let id = u64::from(key.unwrap_or(0));
    match protocol {
        PPP => entry(TunnelKind::Gre, if pptp { id & 0xffff } else { id }, None, Inside::Ppp(rest)),
        _ if pptp => Ok(None),
        ETHERNET => {
            let subnet = key.filter(|_| flags == KEY).map(|key| key >> 8).filter(|subnet| *subnet >= NVGRE_SUBNET_MIN);
            let id = subnet.map_or(id, u64::from);
            entry(TunnelKind::GreEthernet, id, subnet.map(Layer::Nvgre), Inside::Ethernet(rest))
        }
        // Type I has no head of its own, and its GRE no sequence number.
        ERSPAN if flags & SEQUENCE == 0 => entry(TunnelKind::Erspan, 0, None, Inside::Ethernet(rest)),
        ERSPAN => {
            let session = take(&mut rest)? & 0x3ff;
            take(&mut rest)?;
            entry(TunnelKind::Erspan, u64::from(session), None, Inside::Ethernet(rest))
        }
        ERSPAN_III => {
            const FRAME_IS_IP: u32 = 2;
            let session = take(&mut rest)? & 0x3ff;
            take(&mut rest)?;
            let flags = take(&mut rest)?;
            if flags & 1 == 1 {
                rest = rest.get(8..).ok_or(Damaged)?;
            }
            let is_ip = flags >> 10 & 0x1f == FRAME_IS_IP;
            let inside = if is_ip { Inside::Ip(rest) } else { Inside::Ethernet(rest) };
            entry(TunnelKind::Erspan, u64::from(session), None, inside)
        }
        number => entry(TunnelKind::Gre, id, None, Inside::Type(number, rest)),
    }
}

/// The next four bytes.
fn take(rest: &mut &[u8]) -> Result<u32, Damaged> {
    let (word, behind) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
    *rest = behind;
    Ok(u32::from_be_bytes(*word))
}

fn skip_routes(mut rest: &[u8]) -> Result<&[u8], Damaged> {
    const ROUTES_MAX: usize = 16;
    for _ in 0..ROUTES_MAX {
        let (&[f0, f1, _, length], behind) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
        rest = behind.get(usize::from(length)..).ok_or(Damaged)?;
        if [f0, f1, length] == [0, 0, 0] {
            return Ok(rest);
        }
    }
    Err(Damaged)
}
