//! A Linux interface through AF_PACKET: TPACKET_V3, a ring of blocks that the kernel fills and we lend straight from.
//!
//! A span interface only receives: frames that this host itself sends on it (PACKET_OUTGOING) are none of the span's and
//! are left out, uncounted. A VLAN tag that the kernel took off is put back. What the kernel drops for want of room is
//! counted as missed.
#![expect(unsafe_code, reason = "packet sockets and their mapped ring are the kernel's memory")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "constants of the kernel's C types")]

use super::{BURST_MAX, Burst, Card, PacketSource, Received, SourceCounters, SourceError};
use crate::clock::Clock;
use memmap2::{MmapOptions, MmapRaw};
use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;

/// A block takes frames of 64 KiB (GSO) several times.
const BLOCK_BYTES: usize = 1 << 20;
/// 64 MiB in all: more than a second at 400 Mbit/s.
const BLOCKS: usize = 64;
/// A block that is not full is given up after this many milliseconds.
const RETIRE_MS: u32 = 10;
const VLAN_BYTES: usize = 4;

/// The port.
pub struct AfPacketPort {
    interface: String,
    socket: OwnedFd,
    ring: MmapRaw,
    block: usize,
    /// Packets left in the block at hand, and where the next one is; `None` if no block is at hand.
    at: Option<(u32, usize)>,
    port: u16,
    link: LinkType,
    last: Time,
    scratch: Vec<u8>,
    clock: Arc<dyn Clock>,
    counters: SourceCounters,
    polls: u32,
}

// SAFETY: the socket and its ring belong to this port alone; the kernel does not care which thread uses them.
unsafe impl Send for AfPacketPort {}

fn failed(interface: &str, what: &str, error: &io::Error) -> SourceError {
    let cure = match error.raw_os_error() {
        Some(libc::EPERM) => "; run as root, or give the program CAP_NET_RAW",
        Some(libc::ENOMEM) => "; the ring needs 64 MiB of memory",
        _ => "",
    };
    SourceError(format!("af_packet:{interface}: {what}: {error}{cure}"))
}

fn interfaces() -> String {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names.join(", ")
}

fn set<T>(socket: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the value is borrowed for the call and its size is given.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl AfPacketPort {
    /// Opens an interface as this port.
    pub fn open(interface: &str, port: u16, clock: Arc<dyn Clock>) -> Result<AfPacketPort, SourceError> {
        let error = |what: &str, error: &io::Error| failed(interface, what, error);
        let index = index_of(interface)?;
        let protocol = c_int::from((libc::ETH_P_ALL as u16).to_be());
        // SAFETY: no memory is handed over; the descriptor is checked before it is owned.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(error("no packet socket", &io::Error::last_os_error()));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let version = libc::tpacket_versions::TPACKET_V3 as c_int;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version).map_err(|e| error("no TPACKET_V3", &e))?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: 2_048,
            tp_frame_nr: (BLOCK_BYTES / 2_048 * BLOCKS) as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request).map_err(|e| error("no receive ring", &e))?;
        let ring = MmapOptions::new().len(BLOCK_BYTES * BLOCKS).populate().map_raw(&socket);
        let ring = ring.map_err(|e| error("the ring cannot be mapped", &e))?;
        let membership = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
            .map_err(|e| error("not promiscuous", &e))?;
        // SAFETY: all-zero is a valid socket address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol as u16;
        address.sll_ifindex = index;
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
        // SAFETY: the address is borrowed for the call and its size is given.
        if unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) } != 0 {
            return Err(error("cannot be bound", &io::Error::last_os_error()));
        }
        Ok(AfPacketPort {
            interface: interface.to_owned(),
            socket,
            ring,
            block: 0,
            at: None,
            port,
            link: LinkType::Ethernet,
            last: Time(0),
            scratch: Vec::with_capacity(BURST_MAX * 256),
            clock,
            counters: SourceCounters::default(),
            polls: 0,
        })
    }

    /// The card that it reads.
    pub fn card(&self) -> Card {
        Card::of(&self.interface)
    }

    fn block_start(&self) -> *mut u8 {
        // SAFETY: `block` is below BLOCKS, so this is within the mapping.
        unsafe { self.ring.as_mut_ptr().add(self.block * BLOCK_BYTES) }
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: the block's status word is aligned (blocks are page-aligned), and kernel and we use it atomically.
        unsafe { AtomicU32::from_ptr(self.block_start().add(8).cast()) }
    }

    /// Takes the next block if the kernel has given it to us.
    fn take_block(&mut self) {
        if self.at.is_some() || self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return;
        }
        // SAFETY: the block is ours until its status is given back; its head is within the mapping.
        let head = unsafe { &(*self.block_start().cast::<libc::tpacket_block_desc>()).hdr.bh1 };
        self.at = Some((head.num_pkts, head.offset_to_first_pkt as usize));
    }

    /// Gives the block back to the kernel.
    fn give_block(&mut self) {
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % BLOCKS;
        self.at = None;
    }

    fn kernel_drops(&mut self) {
        let mut stats = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats_v3>()).unwrap_or_default();
        let target = std::ptr::from_mut(&mut stats).cast();
        // SAFETY: the buffer is ours and its size is given; the call resets the kernel's counters.
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                target,
                &raw mut length,
            )
        };
        if done == 0 {
            self.counters.missed.packets += u64::from(stats.tp_drops);
        }
    }

    /// An error that the socket holds: the interface went down or away.
    fn socket_error(&self) -> Option<io::Error> {
        let mut error: c_int = 0;
        let mut length = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
        let target = std::ptr::from_mut(&mut error).cast();
        // SAFETY: the buffer is ours and its size is given.
        unsafe { libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, target, &raw mut length) };
        (error != 0).then(|| io::Error::from_raw_os_error(error))
    }
}

fn index_of(interface: &str) -> Result<c_int, SourceError> {
    let missing =
        || SourceError(format!("af_packet:{interface}: there is no such interface; there are: {}", interfaces()));
    let name = CString::new(interface).ok().ok_or_else(missing)?;
    // SAFETY: a string that ends in NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    c_int::try_from(index).ok().filter(|index| *index > 0).ok_or_else(missing)
}

/// A frame of the block at hand.
#[derive(Clone, Copy)]
struct Seen {
    start: *const u8,
    len: usize,
    wire_len: u32,
    time: Time,
    tag: Option<[u8; 4]>,
}

impl AfPacketPort {
    /// Nothing is there: lends an empty burst, and looks now and then whether the interface still is.
    fn idle(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        self.polls = self.polls.wrapping_add(1);
        let gone = if self.polls.is_multiple_of(1_024) { self.socket_error() } else { None };
        if let Some(error) = gone {
            return Err(failed(&self.interface, "the interface went down or away", &error));
        }
        self.last = self.last.max(self.clock.wall());
        each(Burst { frames: &[], now: self.last });
        Ok(Received::Frames(0))
    }

    /// The next frames of the block at hand; gives what is left of it, where the next one is, and how many were seen.
    fn look(&mut self, mut left: u32, mut offset: usize, seen: &mut [Option<Seen>; BURST_MAX]) -> (u32, usize, usize) {
        let mut count = 0;
        while left > 0 && count < BURST_MAX {
            // SAFETY: the kernel wrote this head within the block, which is ours; it is 8-aligned.
            let (head, address) = unsafe {
                let head = self.block_start().add(offset).cast::<libc::tpacket3_hdr>();
                let aligned = size_of::<libc::tpacket3_hdr>().next_multiple_of(16);
                (&*head, &*self.block_start().add(offset + aligned).cast::<libc::sockaddr_ll>())
            };
            left -= 1;
            if address.sll_pkttype != libc::PACKET_OUTGOING {
                let time = Time::from_parts(u64::from(head.tp_sec), u64::from(head.tp_nsec));
                self.last = self.last.max(time);
                let tag = (head.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then(|| tag_of(head));
                // SAFETY: `tp_mac` and `tp_snaplen` are the kernel's, within the block.
                let start = unsafe { self.block_start().add(offset + head.tp_mac as usize) };
                let wire_len = head.tp_len + tag.map_or(0, |_| VLAN_BYTES as u32);
                if let Some(place) = seen.get_mut(count) {
                    *place = Some(Seen { start, len: head.tp_snaplen as usize, wire_len, time: self.last, tag });
                    count += 1;
                }
            }
            offset += head.tp_next_offset as usize;
        }
        (left, offset, count)
    }
}

impl PacketSource for AfPacketPort {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        self.take_block();
        let Some((left, offset)) = self.at else { return self.idle(each) };
        let mut seen: [Option<Seen>; BURST_MAX] = [None; BURST_MAX];
        let (left, offset, count) = self.look(left, offset, &mut seen);
        self.scratch.clear();
        let mut frames = [Frame::default(); BURST_MAX];
        // Tagged frames are put together first, so that what is lent does not move.
        for one in seen.iter().flatten() {
            if let Some(tag) = one.tag {
                // SAFETY: as above; the block is not given back before the burst was taken.
                let bytes = unsafe { std::slice::from_raw_parts(one.start, one.len) };
                let (macs, rest) = bytes.split_at(bytes.len().min(12));
                self.scratch.extend_from_slice(macs);
                self.scratch.extend_from_slice(&tag);
                self.scratch.extend_from_slice(rest);
            }
        }
        let mut from = 0;
        for (frame, one) in frames.iter_mut().zip(seen.iter().flatten()) {
            let bytes = if one.tag.is_some() {
                let end = from + one.len + VLAN_BYTES;
                let bytes = self.scratch.get(from..end).unwrap_or_default();
                from = end;
                bytes
            } else {
                // SAFETY: as above.
                unsafe { std::slice::from_raw_parts(one.start, one.len) }
            };
            *frame = Frame {
                bytes,
                wire_len: one.wire_len,
                time: one.time,
                link: self.link,
                port: self.port,
                ..Frame::default()
            };
            self.counters.received.add(u64::from(one.wire_len));
        }
        each(Burst { frames: frames.get(..count).unwrap_or_default(), now: self.last });
        self.at = Some((left, offset));
        if left == 0 {
            self.give_block();
        }
        Ok(Received::Frames(count))
    }

    fn counters(&mut self) -> SourceCounters {
        self.kernel_drops();
        self.counters
    }
}

/// The tag that the kernel took off: protocol and control information.
fn tag_of(head: &libc::tpacket3_hdr) -> [u8; 4] {
    let variant = &head.hv1;
    let has_protocol = head.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let protocol = if has_protocol { variant.tp_vlan_tpid } else { 0x8100 };
    let control = u16::try_from(variant.tp_vlan_tci & 0xffff).unwrap_or_default();
    let ([a, b], [c, d]) = (protocol.to_be_bytes(), control.to_be_bytes());
    [a, b, c, d]
}
