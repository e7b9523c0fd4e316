//! One interface through TPACKET_V3: what this host sends and receives on it, lent straight from the kernel's ring.
#![expect(unsafe_code, reason = "packet sockets and their mapped ring are the kernel's memory")]
#![expect(clippy::cast_possible_truncation, reason = "constants of the kernel's C types")]

use crate::capture::Taker;
use memmap2::{MmapOptions, MmapRaw};
use std::ffi::{CStr, CString, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;
use thymus_record::policy::Instruction;

/// A block takes a frame of 64 KiB (GSO); of a longer one the end is cut off.
const BLOCK_BYTES: usize = 128 << 10;
/// 8 MiB in all: 160 ms at 400 Mbit/s. A block is closed every [`RETIRE_MS`] however little is in it, so that a process
/// which does not run may be away for 1.2 s and loses nothing of a slow stream.
const BLOCKS: usize = 64;
/// A block that is not full is given up after this many milliseconds.
const RETIRE_MS: u32 = 20;

/// While packets flow the ring is not looked at for each of its blocks, as to wake up costs more than a block: the nap in
/// between is at least and at most so long. A flood of segments of 64 KiB, one a block, may begin in it: 1.3 Gbit/s fit.
const NAP: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(25));
/// Blocks that a nap is to find.
const FOUND: usize = BLOCKS / 8;
/// With so many blocks found at once there is no time for a nap.
const FAST: usize = BLOCKS / 4;

/// An interface being captured.
pub struct Ring {
    index: u32,
    socket: OwnedFd,
    ring: MmapRaw,
    block: usize,
    is_filtering: bool,
    /// How long to nap before the next look; nothing to wait for a block.
    nap: Option<Duration>,
    /// A frame with the tag that the kernel took off.
    tagged: Vec<u8>,
}

// SAFETY: the socket and its ring belong to this value alone; the kernel does not care which thread uses them.
unsafe impl Send for Ring {}

fn set<T>(socket: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the value is borrowed for the call and its size is given.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Hands the kernel a filter; where it takes none, none is there.
fn attach(socket: &OwnedFd, filter: &[Instruction]) -> bool {
    let code = |each: &Instruction| libc::sock_filter { code: each.code, jt: each.jt, jf: each.jf, k: each.k };
    let mut code: Vec<libc::sock_filter> = filter.iter().map(code).collect();
    let Ok(len) = u16::try_from(code.len()) else { return false };
    let program = libc::sock_fprog { len, filter: code.as_mut_ptr() };
    // The kernel copies the program within the call.
    let attached = set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program);
    if let Err(error) = &attached {
        tracing::info!("the kernel does not take the filter ({error}): it runs here");
        let _ = set(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0);
    }
    attached.is_ok()
}

impl Ring {
    /// Opens an interface; nothing comes of it that this filter has not seen.
    pub fn open(interface: &str, filter: &[Instruction]) -> io::Result<Ring> {
        let name = CString::new(interface).map_err(io::Error::other)?;
        // SAFETY: a string that ends in NUL.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no memory is handed over; the descriptor is checked before it is owned. Protocol 0 receives nothing
        // until the socket is bound, so no other interface's packets come in between.
        let raw =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V3 as c_int))?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: 2_048,
            tp_frame_nr: (BLOCK_BYTES / 2_048 * BLOCKS) as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let ring = MmapOptions::new().len(BLOCK_BYTES * BLOCKS).map_raw(&socket)?;
        let is_filtering = attach(&socket, filter);
        // SAFETY: all-zero is a valid socket address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = c_int::try_from(index).map_err(io::Error::other)?;
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
        // SAFETY: the address is borrowed for the call and its size is given.
        if unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Ring { index, socket, ring, block: 0, is_filtering, nap: None, tagged: Vec::new() })
    }

    /// Replaces the filter, at once for what comes from now on.
    pub fn filter(&mut self, filter: &[Instruction]) {
        self.is_filtering = attach(&self.socket, filter);
    }

    /// True if the kernel runs the filter; else it is the caller's to run.
    pub fn is_filtering(&self) -> bool {
        self.is_filtering
    }

    /// The interface's name now, which may be another than it was opened by; `None` when the interface is gone.
    pub fn name(&self) -> Option<String> {
        let mut name = [0u8; libc::IF_NAMESIZE];
        // SAFETY: the buffer is as long as the kernel's longest name.
        let found = unsafe { libc::if_indextoname(self.index, name.as_mut_ptr().cast()) };
        let text = CStr::from_bytes_until_nul(&name).ok()?.to_str().ok()?;
        (!found.is_null()).then(|| text.to_owned())
    }

    /// An interface that goes down leaves an error on the socket, which else ends every wait at once.
    fn clear_error(&self) {
        let mut error: c_int = 0;
        let mut length = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
        let target = std::ptr::from_mut(&mut error).cast();
        // SAFETY: the buffer is ours and its size is given.
        unsafe {
            libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, target, &raw mut length);
        }
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: `block` is below BLOCKS, so this is within the mapping.
        unsafe { self.ring.as_mut_ptr().add(self.block * BLOCK_BYTES) }
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: the block's status word is aligned (blocks are page-aligned), and kernel and we use it atomically.
        unsafe { AtomicU32::from_ptr(self.start().add(8).cast()) }
    }

    /// Gives every frame that is there to the taker, and the blocks back to the kernel.
    pub fn drain(&mut self, taker: &mut impl Taker) {
        let napped = self.nap.take();
        for found in 0..BLOCKS {
            if self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                self.nap = next_nap(napped, found);
                return;
            }
            taker.begin();
            // SAFETY: the block is ours until its status is given back; its head is within the mapping.
            let head = unsafe { &(*self.start().cast::<libc::tpacket_block_desc>()).hdr.bh1 };
            let (count, mut offset) = (head.num_pkts, head.offset_to_first_pkt as usize);
            for _ in 0..count {
                // SAFETY: the kernel wrote this head within the block, which is ours; it is 8-aligned.
                let head = unsafe { &*self.start().add(offset).cast::<libc::tpacket3_hdr>() };
                self.lend(head, offset, taker);
                offset += head.tp_next_offset as usize;
            }
            self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.block = (self.block + 1) % BLOCKS;
        }
    }

    fn lend(&mut self, head: &libc::tpacket3_hdr, offset: usize, taker: &mut impl Taker) {
        // SAFETY: `tp_mac` and `tp_snaplen` are the kernel's, within the block.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.start().add(offset + head.tp_mac as usize), head.tp_snaplen as usize)
        };
        let time = Time::from_parts(u64::from(head.tp_sec), u64::from(head.tp_nsec));
        let frame =
            |bytes, wire_len| Frame { bytes, wire_len, time, link: LinkType::Ethernet, port: 0, ..Frame::default() };
        if head.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
            return taker.take(&frame(bytes, head.tp_len));
        }
        // The kernel took the tag off; it goes back where it was.
        let has_protocol = head.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let protocol = if has_protocol { head.hv1.tp_vlan_tpid } else { 0x8100 };
        if bytes.len() < 12 {
            // The filter left a byte of it, to be counted.
            return taker.take(&frame(bytes, head.tp_len + 4));
        }
        let (macs, rest) = bytes.split_at(12);
        let Ring { tagged, .. } = self;
        tagged.clear();
        tagged.extend_from_slice(macs);
        tagged.extend_from_slice(&protocol.to_be_bytes());
        tagged.extend_from_slice(&u16::try_from(head.hv1.tp_vlan_tci & 0xffff).unwrap_or_default().to_be_bytes());
        tagged.extend_from_slice(rest);
        taker.take(&frame(tagged, head.tp_len + 4));
    }

    /// Packets that the kernel dropped since the call before.
    pub fn drops(&self) -> u64 {
        let mut stats = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats_v3>()).unwrap_or_default();
        let target = std::ptr::from_mut(&mut stats).cast();
        let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
        // SAFETY: the buffer is ours and its size is given; the call resets the kernel's counters.
        let done = unsafe { libc::getsockopt(self.socket.as_raw_fd(), level, name, target, &raw mut length) };
        if done == 0 { u64::from(stats.tp_drops) } else { 0 }
    }
}

/// How long to nap after a look that found so many blocks. From one look to the next it grows to twice as much at most:
/// what begins may be a flood.
fn next_nap(napped: Option<Duration>, found: usize) -> Option<Duration> {
    if found == 0 || found >= FAST {
        return None;
    }
    let Some(napped) = napped else { return Some(NAP.0) };
    let aim = napped * FOUND as u32 / found as u32;
    Some(aim.min(2 * napped).clamp(NAP.0, NAP.1))
}

/// What to do about an error of `open`, after the error's own text.
pub fn cure(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(libc::EPERM) { "; run as root, or give the program CAP_NET_RAW" } else { "" }
}

/// Waits until one of the rings has something, or, while they have, a little; at most this long.
pub fn wait<'a>(rings: impl Iterator<Item = &'a Ring> + Clone, at_most: Duration) {
    if let Some(nap) = rings.clone().filter_map(|ring| ring.nap).min() {
        return std::thread::sleep(nap.min(at_most));
    }
    let poll = |ring: &Ring| libc::pollfd { fd: ring.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut fds: Vec<libc::pollfd> = rings.clone().map(poll).collect();
    let milliseconds = c_int::try_from(at_most.as_millis()).unwrap_or(c_int::MAX);
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or_default();
    // SAFETY: the descriptors are open for the call and the array's length is given.
    unsafe { libc::poll(fds.as_mut_ptr(), count, milliseconds) };
    for (ring, _) in rings.zip(&fds).filter(|(_, fd)| fd.revents & libc::POLLERR != 0) {
        ring.clear_error();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nap_finds_an_eighth_of_the_ring_and_a_flood_ends_it() {
        // Blocks a second; a nap that is over finds what came meanwhile.
        let settled = |blocks: usize| {
            let mut nap = None;
            for _ in 0..20 {
                let slept = nap.unwrap_or(NAP.0);
                nap = next_nap(nap, (blocks * slept.as_millis() as usize).div_ceil(1_000));
            }
            nap
        };
        assert_eq!(settled(1), Some(NAP.1), "a trickle, and 100 Mbit/s");
        assert_eq!(settled(100), Some(NAP.1));
        assert!(settled(800).is_some_and(|nap| nap > NAP.0 && nap < NAP.1), "{:?}", settled(800));
        assert_eq!(settled(10_000), None, "10 Gbit/s");
        let mut naps = vec![next_nap(None, 1)];
        (0..3).for_each(|_| naps.extend([next_nap(naps[naps.len() - 1], 1)]));
        assert_eq!(naps.iter().flatten().map(Duration::as_millis).collect::<Vec<_>>(), [5, 10, 20, 25]);
        assert_eq!(next_nap(Some(NAP.1), 0), None, "nothing flows");
    }
}
