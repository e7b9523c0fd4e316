//! Messages of sock_diag (man 7 sock_diag): which socket has these ends, and whose it is.
//!
//! ```text
//! request = nlmsghdr 16: length u32 | type u16 = 20 | flags u16 = 1 | sequence u32 | 0 u32          native order
//!         | family u8 | protocol u8 | extensions u8 | 0 u8 | states u32 | sockid 48
//! sockid  = source port u16 | target port u16 | source 16 | target 16     big-endian | interface u32 | cookie 8
//! answer  = nlmsghdr | family u8 | state u8 | timer u8 | retransmits u8 | sockid 48 | expires u32 | rqueue u32
//!         | wqueue u32 | uid u32 | inode u32 | attributes: (length u16 | type u16 | data, padded to 4)…
//! ```

use super::Ends;
use std::net::{IpAddr, SocketAddr};

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// INET_DIAG_CGROUP_ID.
const CGROUP_ID: u16 = 21;
const LISTEN: u8 = 10;
const TCP: u8 = 6;

/// What the kernel says of a socket.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Its owner.
    pub uid: u32,
    /// Its file; 0 for one that no process holds: not taken yet, or closing.
    pub inode: u32,
    /// Its control group; 0 if the kernel does not tell.
    pub cgroup_id: u64,
    /// It waits for connections.
    pub listens: bool,
}

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// This socket, to the request of this number.
    Found(u32, Socket),
    /// An error (errno) instead; 2 is "there is no such socket".
    Failed(u32, i32),
    /// Not an answer to what was asked, or damaged.
    Other,
}

/// The question for one socket by both its ends.
pub fn request(sequence: u32, ends: &Ends) -> [u8; REQUEST_BYTES] {
    let family: u8 = if ends.local.is_ipv4() { 2 } else { 10 };
    // For UDP the kernel takes the ends the other way round, "for historical reasons" (net/ipv4/udp_diag.c).
    let (source, target) = if ends.proto == TCP { (ends.local, ends.remote) } else { (ends.remote, ends.local) };
    let mut out = [0; REQUEST_BYTES];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(room) = out.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        at += bytes.len();
    };
    put(&u32::try_from(REQUEST_BYTES).unwrap_or_default().to_ne_bytes());
    put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(&NLM_F_REQUEST.to_ne_bytes());
    put(&sequence.to_ne_bytes());
    put(&[0; 4]);
    put(&[family, ends.proto, 0, 0]);
    put(&u32::MAX.to_ne_bytes());
    put(&source.port().to_be_bytes());
    put(&target.port().to_be_bytes());
    put(&words_of(source));
    put(&words_of(target));
    put(&[0; 4]);
    put(&[0xff; 8]);
    out
}

fn words_of(end: SocketAddr) -> [u8; 16] {
    match end.ip() {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

/// Reads one datagram of the kernel.
pub fn answer(bytes: &[u8]) -> Answer {
    read(bytes).unwrap_or(Answer::Other)
}

fn read(bytes: &[u8]) -> Option<Answer> {
    let (length, rest) = take::<4>(bytes)?;
    let (kind, rest) = take::<2>(rest)?;
    let (_flags, rest) = take::<2>(rest)?;
    let (sequence, rest) = take::<4>(rest)?;
    let (_port, _) = take::<4>(rest)?;
    let (kind, sequence) = (u16::from_ne_bytes(kind), u32::from_ne_bytes(sequence));
    let length = usize::try_from(u32::from_ne_bytes(length)).ok()?;
    let body = bytes.get(16..length)?;
    match kind {
        NLMSG_ERROR => {
            take::<4>(body).map(|(error, _)| Answer::Failed(sequence, i32::from_ne_bytes(error).wrapping_neg()))
        }
        SOCK_DIAG_BY_FAMILY => {
            let ([_family, state, _timer, _retransmits], rest) = take::<4>(body)?;
            let (_, rest) = take::<48>(rest)?;
            let (_, rest) = take::<12>(rest)?;
            let (uid, rest) = take::<4>(rest)?;
            let (inode, rest) = take::<4>(rest)?;
            let (uid, inode) = (u32::from_ne_bytes(uid), u32::from_ne_bytes(inode));
            let cgroup_id =
                attribute(rest, CGROUP_ID).and_then(|data| take::<8>(data)).map_or(0, |it| u64::from_ne_bytes(it.0));
            Some(Answer::Found(sequence, Socket { uid, inode, cgroup_id, listens: state == LISTEN }))
        }
        _ => None,
    }
}

/// The data of the first attribute of a kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, rest) = take::<2>(bytes)?;
        let (kind, _) = take::<2>(rest)?;
        let length = usize::from(u16::from_ne_bytes(length));
        let data = bytes.get(4..length)?;
        if u16::from_ne_bytes(kind) == wanted {
            return Some(data);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes.split_first_chunk::<N>().map(|(head, rest)| (*head, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as a kernel 6.18 gave it (little-endian): uid 1001, inode 0x1234, control group 77.
    fn found() -> Vec<u8> {
        let mut body = vec![2, 1, 0, 0];
        body.extend_from_slice(&[0; 48 + 12]);
        body.extend_from_slice(&1001u32.to_ne_bytes());
        body.extend_from_slice(&0x1234u32.to_ne_bytes());
        for (kind, data) in [(8u16, &[0u8][..]), (22, &[1, 0, 0]), (CGROUP_ID, &77u64.to_ne_bytes())] {
            body.extend_from_slice(&u16::try_from(4 + data.len()).unwrap().to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(data);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut all = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        all.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        all.extend_from_slice(&[0; 2]);
        all.extend_from_slice(&7u32.to_ne_bytes());
        all.extend_from_slice(&[0; 4]);
        all.extend_from_slice(&body);
        all
    }

    #[test]
    fn an_answer_gives_user_file_and_control_group() {
        let socket = Socket { uid: 1001, inode: 0x1234, cgroup_id: 77, listens: false };
        assert_eq!(answer(&found()), Answer::Found(7, socket));
        let mut failed = 20u32.to_ne_bytes().to_vec();
        failed.extend_from_slice(&[2, 0, 0, 0]);
        failed.extend_from_slice(&9u32.to_ne_bytes());
        failed.extend_from_slice(&[0; 4]);
        failed.extend_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(answer(&failed), Answer::Failed(9, 2));
    }

    #[test]
    fn damaged_answers_are_no_answers_and_do_no_harm() {
        let whole = found();
        for cut in 0..whole.len() {
            answer(&whole[..cut]);
            for change in [0x00, 0x01, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[cut] = change;
                answer(&changed);
            }
        }
        assert_eq!(answer(&whole[..60]), Answer::Other);
        assert_eq!(answer(&[]), Answer::Other);
        // An attribute of length 0 must not be read for ever.
        assert_eq!(attribute(&[0, 0, 9, 0, 0, 0, 0, 0], CGROUP_ID), None);
    }

    #[test]
    fn a_question_has_its_ends_where_the_kernel_wants_them() {
        let ends = |proto| Ends { proto, local: "10.0.0.1:80".parse().unwrap(), remote: "10.0.0.2:9".parse().unwrap() };
        let (tcp, udp) = (request(1, &ends(6)), request(1, &ends(17)));
        assert_eq!(tcp[24..28], [0, 80, 0, 9]);
        assert_eq!(tcp[28..32], [10, 0, 0, 1]);
        assert_eq!(udp[24..28], [0, 9, 0, 80]);
        assert_eq!(udp[44..48], [10, 0, 0, 1]);
        assert_eq!(tcp[64..], [0xff; 8]);
    }
}
