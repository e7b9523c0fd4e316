//! What stands between the IP head and the transport: IPv6 extension heads (RFC 8200 §4) and AH (RFC 4302).
//!
//! ```text
//! options: next [1], length in 8 bytes less the first 8 [1], …
//! routing: next [1], length [1], type [1], segments left [1], …
//! fragment: next [1], 0 [1], offset 13 bits, 0 2 bits, more 1 bit, id [4]
//! AH:      next [1], length in 4 bytes less 2 [1], …
//! ```

use super::{Datagram, Fragment, Weird};
use thymus_record::Address;
use thymus_record::column::Proto;

/// Most heads in a row.
const EXTENSIONS_MAX: usize = 10;

const HOP_BY_HOP: Proto = Proto(0);
const ROUTING: Proto = Proto(43);
const FRAGMENT: Proto = Proto(44);
pub(super) const AUTHENTICATION: Proto = Proto(51);
pub(super) const NO_NEXT: Proto = Proto(59);
const DESTINATION: Proto = Proto(60);

/// Skips the heads in front of `data`. Sets the protocol, a fragment's place and the final target. Gives the
/// transport's bytes and their length by the IP head.
pub(super) fn skip<'a>(
    datagram: &mut Datagram<'a>,
    mut data: &'a [u8],
    mut data_len: u32,
    whole: bool,
) -> Result<(&'a [u8], u32), Weird> {
    for _ in 0..EXTENSIONS_MAX {
        let (next, head_len) = match (datagram.proto, data) {
            (HOP_BY_HOP | DESTINATION, [next, length, ..]) if datagram.v6 => (*next, usize::from(*length) * 8 + 8),
            (ROUTING, [next, length, ..]) if datagram.v6 => {
                let head_len = usize::from(*length) * 8 + 8;
                if let Some(target) = data.get(..head_len).and_then(final_target) {
                    datagram.target = target;
                }
                (*next, head_len)
            }
            (FRAGMENT, [next, _, high, low, a, b, c, d, ..]) if datagram.v6 => {
                datagram.id = u32::from_be_bytes([*a, *b, *c, *d]);
                let place = u16::from_be_bytes([*high, *low]);
                if place & 0xfff9 != 0 && !whole {
                    datagram.proto = Proto(*next);
                    let at = datagram.bytes.len() - data.len() + 8;
                    datagram.fragment = Some(Fragment {
                        offset: u32::from(place & 0xfff8),
                        more: place & 1 != 0,
                        data_at: u16::try_from(at).map_err(|_too_long| Weird::TOO_DEEP)?,
                    });
                    return data.get(8..).zip(data_len.checked_sub(8)).ok_or(Weird::IP_DAMAGED);
                }
                (*next, 8)
            }
            (AUTHENTICATION, [next, length, ..]) => (*next, usize::from(*length) * 4 + 8),
            (HOP_BY_HOP | DESTINATION | ROUTING | FRAGMENT, _) if datagram.v6 => return Err(Weird::IP_DAMAGED),
            (AUTHENTICATION, _) => return Err(Weird::IP_DAMAGED),
            _ => return Ok((data, data_len)),
        };
        datagram.proto = Proto(next);
        data = data.get(head_len..).ok_or(Weird::IP_DAMAGED)?;
        let skipped = u32::try_from(head_len).unwrap_or(u32::MAX);
        data_len = data_len.checked_sub(skipped).ok_or(Weird::IP_DAMAGED)?;
    }
    Err(Weird::TOO_DEEP)
}

/// Where a routing head sends the packet in the end, if it is not there yet: the last address of types 0 (RFC 2460)
/// and 2 (RFC 6275), the first one of a segment list (type 4, RFC 8754).
fn final_target(head: &[u8]) -> Option<Address> {
    let (&[_, _, kind, left, _, _, _, _], addresses) = head.split_first_chunk::<8>()?;
    if left == 0 {
        return None;
    }
    match kind {
        0 | 2 => addresses.split_last_chunk::<16>().map(|(_, last)| Address(*last)),
        4 => addresses.split_first_chunk::<16>().map(|(first, _)| Address(*first)),
        _ => None,
    }
}
