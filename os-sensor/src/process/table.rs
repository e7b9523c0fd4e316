//! The tables of Windows' IP helper, as words: which process holds which end.
//!
//! ```text
//! table = rows u32 | rows                                              addresses and ports in network order
//! TCP   = state | local address | local port | remote address | remote port | process             IPv4, 6 words
//!         local address 4 | scope | local port | remote address 4 | scope | remote port | state | process   IPv6, 14
//! UDP   = local address | local port | process      IPv4, 3      local address 4 | scope | local port | process   IPv6, 7
//! ```
//! <https://learn.microsoft.com/en-us/windows/win32/api/iphlpapi/nf-iphlpapi-getextendedtcptable>

use super::Ends;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which table: protocol and family are those of the ends asked for.
pub(super) fn row_words(ends: &Ends) -> usize {
    match (ends.proto == 6, ends.local.is_ipv4()) {
        (true, true) => 6,
        (true, false) => 14,
        (false, true) => 3,
        (false, false) => 7,
    }
}

/// The process that holds the local end, and whether it only waits for connections there.
pub(super) fn holder(table: &[u32], ends: &Ends) -> Option<(u32, bool)> {
    let (count, rows) = table.split_first()?;
    let rows = rows.chunks_exact(row_words(ends)).take(usize::try_from(*count).unwrap_or(usize::MAX));
    let mut waiting = None;
    for row in rows {
        let (process, local, remote) = match (ends.proto == 6, row) {
            (true, [_, local, local_port, remote, remote_port, process]) => {
                (process, v4(*local, *local_port), Some(v4(*remote, *remote_port)))
            }
            (true, [local @ .., _, local_port, r0, r1, r2, r3, _, remote_port, _, process]) => {
                (process, v6(local, *local_port)?, Some(v6(&[*r0, *r1, *r2, *r3], *remote_port)?))
            }
            (false, [local, local_port, process]) => (process, v4(*local, *local_port), None),
            (false, [local @ .., _, local_port, process]) => (process, v6(local, *local_port)?, None),
            _ => return None,
        };
        let is_local =
            local.port() == ends.local.port() && (local.ip() == ends.local.ip() || local.ip().is_unspecified());
        match remote {
            Some(remote) if is_local && remote == ends.remote => return Some((*process, false)),
            Some(remote) if is_local && remote.ip().is_unspecified() => waiting = Some((*process, true)),
            None if is_local => return Some((*process, false)),
            _ => {}
        }
    }
    waiting
}

fn port(word: u32) -> u16 {
    let [high, low, ..] = word.to_le_bytes();
    u16::from_be_bytes([high, low])
}

fn v4(address: u32, at: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address.to_le_bytes())), port(at))
}

fn v6(address: &[u32], at: u32) -> Option<SocketAddr> {
    let mut bytes = [0; 16];
    for (target, word) in bytes.chunks_exact_mut(4).zip(address.first_chunk::<4>()?) {
        target.copy_from_slice(&word.to_le_bytes());
    }
    Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bytes)), port(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(bytes: [u8; 4]) -> u32 {
        u32::from_le_bytes(bytes)
    }

    fn port_word(port: u16) -> u32 {
        let [high, low] = port.to_be_bytes();
        word([high, low, 0, 0])
    }

    fn ends(proto: u8, local: &str, remote: &str) -> Ends {
        Ends { proto, local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    #[test]
    fn a_connection_comes_before_the_one_who_waits_for_it() {
        let any = word([0; 4]);
        let (me, you) = (word([10, 0, 0, 1]), word([10, 0, 0, 2]));
        let table = [2, 2, any, port_word(443), any, 0, 77, 5, me, port_word(443), you, port_word(5_000), 88];
        assert_eq!(holder(&table, &ends(6, "10.0.0.1:443", "10.0.0.2:5000")), Some((88, false)));
        assert_eq!(holder(&table, &ends(6, "10.0.0.1:443", "10.0.0.2:5001")), Some((77, true)));
        assert_eq!(holder(&table, &ends(6, "10.0.0.1:444", "10.0.0.2:5001")), None);
    }

    #[test]
    fn datagrams_and_ipv6_are_found_by_their_local_end() {
        let table = [1, word([10, 0, 0, 1]), port_word(53), 9];
        assert_eq!(holder(&table, &ends(17, "10.0.0.1:53", "10.0.0.2:5000")), Some((9, false)));
        assert_eq!(holder(&table, &ends(17, "10.0.0.3:53", "10.0.0.2:5000")), None);
        let (loopback, any) = ([0, 0, 0, word([0, 0, 0, 1])], [0; 4]);
        let mut table = vec![1];
        table.extend(loopback.iter().chain(&[0, port_word(80)]).chain(&any).chain(&[0, 0, 2, 33]));
        assert_eq!(holder(&table, &ends(6, "[::1]:80", "[::1]:4000")), Some((33, true)));
        let mut table = vec![1];
        table.extend(any.iter().chain(&[0, port_word(80), 44]));
        assert_eq!(holder(&table, &ends(17, "[::1]:80", "[::1]:4000")), Some((44, false)));
    }

    proptest! {
        #[test]
        fn any_words_end_in_an_answer(table in prop::collection::vec(any::<u32>(), 0..40), tcp: bool, six: bool) {
            let local = if six { "[::1]:80" } else { "10.0.0.1:80" };
            let _ = holder(&table, &ends(if tcp { 6 } else { 17 }, local, local));
        }
    }
}
