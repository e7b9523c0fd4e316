//! Linux: sock_diag, the first packets of connections, and other network namespaces.
#![expect(unsafe_code, reason = "netlink and packet sockets, their filter, and namespaces are asked of the kernel")]
#![expect(clippy::cast_possible_truncation, reason = "constants of the kernel's C types")]

use super::diag::{Answer, Socket, answer, request};
use super::{Ends, Held};
use crate::names::Client;
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thymus_record::owner::Who;

/// No such socket.
const ENOENT: i32 = libc::ENOENT;
/// Answers read for one question, if others come first.
const ANSWERS_MAX: usize = 8;

fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is handed over.
    let raw = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let target = buffer.as_mut_ptr().cast::<c_void>();
    // SAFETY: the buffer is ours for the call and its length is given.
    let got = unsafe { libc::recv(socket.as_raw_fd(), target, buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(got).map_err(|_negative| io::Error::last_os_error())
}

/// The sockets of the network namespace in which it was opened, whatever namespace the thread is in later.
pub struct Sockets {
    socket: OwnedFd,
    sequence: u32,
}

impl Sockets {
    /// Opens the kernel's table; no privilege is needed.
    pub fn open() -> io::Result<Sockets> {
        Ok(Sockets { socket: socket(libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_SOCK_DIAG)?, sequence: 0 })
    }

    /// The socket of this connection, or the one that waits for it; `None` if there is none.
    pub fn find(&mut self, ends: &Ends) -> io::Result<Option<Held>> {
        let exact = self.ask(ends)?;
        if let Some(socket) = exact
            && socket.inode != 0
        {
            return Ok(Some(held(socket)));
        }
        if ends.proto != 6 {
            return Ok(exact.map(held));
        }
        // One that is not taken yet has no file: it is the listener's.
        let nobody: SocketAddr =
            if ends.local.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let listener = self.ask(&Ends { remote: nobody, ..*ends })?;
        Ok(listener.filter(|socket| socket.listens).map(held))
    }

    fn ask(&mut self, ends: &Ends) -> io::Result<Option<Socket>> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = request(self.sequence, ends);
        // SAFETY: the question is borrowed for the call and its length is given; without an address it goes to the kernel.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), question.as_ptr().cast(), question.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut buffer = [0; 2_048];
        for _ in 0..ANSWERS_MAX {
            let got = receive(&self.socket, &mut buffer)?;
            match answer(buffer.get(..got).unwrap_or_default()) {
                Answer::Found(number, socket) if number == self.sequence => return Ok(Some(socket)),
                Answer::Failed(number, error) if number == self.sequence => {
                    return if error == ENOENT { Ok(None) } else { Err(io::Error::from_raw_os_error(error)) };
                }
                _ => {}
            }
        }
        Err(io::Error::other("the kernel did not answer the question"))
    }
}

fn held(socket: Socket) -> Held {
    let Socket { uid, inode, cgroup_id, listens } = socket;
    Held { who: Who { user_id: Some(uid), ..Who::default() }, inode, cgroup_id, listens }
}

/// The first packets of connections as they pass, so that a socket is looked up while it lives: TCP's SYN, and questions
/// of DNS over UDP. Loopback is left out. The kernel filters; what it gives begins with the IP header.
pub struct Early {
    socket: OwnedFd,
}

const fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Classic BPF over the IP header. Codes: 0x20 ld, 0x28 ldh, 0x30 ldb, 0x48 ldh [x+k], 0x50 ldb [x+k], 0xb1 ldxb
/// 4·([k]&15), 0x54 and, 0x15 jeq, 0x45 jset, 0x06 ret.
const FILTER: [libc::sock_filter; 27] = [
    op(0x20, 0xffff_f008, 0, 0), // the interface's number
    op(0x15, 1, 24, 0),          // loopback: drop
    op(0x30, 0, 0, 0),
    op(0x54, 0xf0, 0, 0),
    op(0x15, 0x40, 0, 11),
    // IPv4, and no later fragment.
    op(0x28, 6, 0, 0),
    op(0x45, 0x1fff, 19, 0),
    op(0xb1, 0, 0, 0),
    op(0x30, 9, 0, 0),
    op(0x15, 6, 0, 3),
    op(0x50, 13, 0, 0),
    op(0x54, 0x12, 0, 0),
    op(0x15, 2, 12, 13), // SYN without ACK
    op(0x15, 17, 0, 12),
    op(0x48, 2, 0, 0),
    op(0x15, 53, 9, 10),
    // IPv6 without extension headers.
    op(0x15, 0x60, 0, 9),
    op(0x30, 6, 0, 0),
    op(0x15, 6, 0, 3),
    op(0x30, 53, 0, 0),
    op(0x54, 0x12, 0, 0),
    op(0x15, 2, 3, 4),
    op(0x15, 17, 0, 3),
    op(0x28, 42, 0, 0),
    op(0x15, 53, 0, 1),
    op(0x06, 128, 0, 0), // take
    op(0x06, 0, 0, 0),   // drop
];

impl Early {
    /// Opens it; needs CAP_NET_RAW.
    pub fn open() -> io::Result<Early> {
        let socket = socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
        let mut filter = FILTER;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
        let value = std::ptr::from_ref(&program).cast();
        // SAFETY: program and filter are borrowed for the call, in which the kernel copies them.
        let done =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, value, length) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all-zero is a valid socket address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
        // SAFETY: the address is borrowed for the call and its size is given.
        if unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Early { socket })
    }

    /// The next packet, from its IP header on; `None` if none is there.
    pub fn next<'a>(&mut self, buffer: &'a mut [u8; 128]) -> Option<&'a [u8]> {
        let got = receive(&self.socket, buffer).ok()?;
        buffer.get(..got)
    }
}

impl AsFd for Early {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until one of the descriptors can be read, at most so many milliseconds.
pub fn wait_for(fds: &[BorrowedFd<'_>], at_most_ms: i32) {
    let poll = |fd: &BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polled: Vec<libc::pollfd> = fds.iter().map(poll).collect();
    let count = libc::nfds_t::try_from(polled.len()).unwrap_or_default();
    // SAFETY: the descriptors are open for the call and the array's length is given.
    unsafe { libc::poll(polled.as_mut_ptr(), count, at_most_ms) };
}

/// Wakes the thread that looks up.
pub struct Bell {
    wake: UnixStream,
    is_rung: Arc<AtomicBool>,
}

/// The thread's end of the bell.
pub struct Waiter {
    woken: UnixStream,
    is_rung: Arc<AtomicBool>,
}

/// A bell.
pub fn bell() -> io::Result<(Bell, Waiter)> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let is_rung = Arc::new(AtomicBool::new(false));
    Ok((Bell { wake, is_rung: Arc::clone(&is_rung) }, Waiter { woken, is_rung }))
}

impl Bell {
    /// Rings it; a system call only if it has not rung already.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            let _ = (&self.wake).write(&[1]);
        }
    }
}

impl Waiter {
    /// Waits for the bell, a first packet or an answer, at most so many milliseconds.
    pub fn wait(&mut self, early: Option<&Early>, names: &Client, at_most_ms: i32) {
        let fds = [Some(self.woken.as_fd()), early.map(AsFd::as_fd), names.as_fd()];
        wait_for(&fds.into_iter().flatten().collect::<Vec<_>>(), at_most_ms);
        self.is_rung.store(false, Ordering::Release);
        let _ = self.woken.read(&mut [0; 64]);
    }
}

/// Moves the calling thread into a network namespace; needs CAP_SYS_ADMIN.
pub fn enter_network(namespace: &File) -> io::Result<()> {
    // SAFETY: an open descriptor; only this thread moves.
    let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::RawFd;

    /// Runs the filter as the kernel does.
    fn takes(packet: &[u8], interface: u32) -> bool {
        let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
        let byte = |k: u32| packet.get(k as usize).map(|byte| u32::from(*byte));
        let half = |k: u32| Some(byte(k)? << 8 | byte(k + 1)?);
        loop {
            let op = FILTER[at];
            at += 1;
            let loaded = match op.code {
                0x20 => Some(interface),
                0x28 => half(op.k),
                0x30 => byte(op.k),
                0x48 => half(x + op.k),
                0x50 => byte(x + op.k),
                _ => Some(a),
            };
            let Some(value) = loaded else { return false };
            a = value;
            match op.code {
                0xb1 => x = 4 * (byte(op.k).unwrap() & 15),
                0x54 => a &= op.k,
                0x15 => at += usize::from(if a == op.k { op.jt } else { op.jf }),
                0x45 => at += usize::from(if a & op.k != 0 { op.jt } else { op.jf }),
                0x06 => return op.k != 0,
                _ => {}
            }
        }
    }

    fn v4(proto: u8, fragment: u16, ports: (u16, u16), flags: u8) -> Vec<u8> {
        let mut packet = vec![0x46, 0, 0, 60, 0, 1];
        packet.extend_from_slice(&fragment.to_be_bytes());
        packet.extend_from_slice(&[64, proto, 0, 0]);
        packet.resize(24, 1);
        packet.extend_from_slice(&ports.0.to_be_bytes());
        packet.extend_from_slice(&ports.1.to_be_bytes());
        packet.resize(24 + 13, 0);
        packet.extend_from_slice(&[flags, 0, 0]);
        packet
    }

    fn v6(proto: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, proto, 64];
        packet.resize(40, 1);
        packet.extend_from_slice(&v4(proto, 0, ports, flags)[24..]);
        packet
    }

    #[test]
    fn the_filter_takes_what_begins_a_connection_and_nothing_else() {
        let web = (40_000, 443);
        for (packet, taken) in [
            (v4(6, 0, web, 0x02), true),
            (v4(6, 0, web, 0xc2), true),
            (v4(6, 0, web, 0x12), false),
            (v4(6, 0, web, 0x10), false),
            (v4(6, 7, web, 0x02), false),
            (v4(17, 0, (40_000, 53), 0), true),
            (v4(17, 0, (53, 40_000), 0), false),
            (v4(1, 0, (0, 53), 2), false),
            (v6(6, web, 0x02), true),
            (v6(6, web, 0x11), false),
            (v6(17, (40_000, 53), 0), true),
            (v6(17, web, 2), false),
            (v6(58, (0, 53), 2), false),
            (vec![0; 60], false),
            (vec![0x45], false),
        ] {
            assert_eq!(takes(&packet, 2), taken, "{packet:02x?}");
            assert!(!takes(&packet, 1), "loopback");
        }
    }

    #[test]
    fn this_process_is_found_behind_its_sockets_listening_taken_and_not_taken() {
        use std::net::{TcpListener, TcpStream, UdpSocket};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let mut sockets = Sockets::open().unwrap();
        let mut find = |proto, local, remote| sockets.find(&Ends { proto, local, remote }).unwrap();
        let inode = |fd: RawFd| {
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            link.to_str().unwrap().trim_matches(|letter: char| !letter.is_ascii_digit()).parse::<u32>().unwrap()
        };
        // SAFETY: it has no arguments and cannot fail.
        let me = unsafe { libc::getuid() };
        let held = find(6, local, remote).unwrap();
        assert_eq!((held.who.user_id, held.inode, held.listens), (Some(me), inode(client.as_raw_fd()), false));
        let waiting = find(6, remote, local).unwrap();
        assert_eq!((waiting.inode, waiting.listens), (inode(listener.as_raw_fd()), true));
        let (taken, _) = listener.accept().unwrap();
        assert_eq!(find(6, remote, local).unwrap().inode, inode(taken.as_raw_fd()));
        assert_eq!(find(6, "127.0.0.1:9".parse().unwrap(), "127.0.0.2:9".parse().unwrap()), None);
        let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
        let at = (Ipv4Addr::LOCALHOST, datagrams.local_addr().unwrap().port()).into();
        assert_eq!(find(17, at, "127.0.0.1:9".parse().unwrap()).unwrap().inode, inode(datagrams.as_raw_fd()));
    }
}
