//! DPDK ports: a poll loop takes bursts from the driver with two calls into C, one to receive and one to give back.
#![expect(unsafe_code, reason = "DPDK is C: its environment, its ports and its buffers")]

mod eal;

use super::{BURST_MAX, Burst, Card, PacketSource, Received, SourceCounters, SourceError};
use crate::clock::Clock;
use crate::sight::Link;
use dpdk_sys::{
    thymus_copy, thymus_free_bulk, thymus_port_address, thymus_port_link, thymus_port_missed, thymus_port_start,
    thymus_port_stop, thymus_row, thymus_rx_burst,
};
use std::ffi::{CStr, c_char};
use std::sync::Arc;
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;

/// Receive descriptors: with bursts of 64 a poll loop that sleeps 200 µs when idle keeps up with 5 million a second.
const DESCRIPTORS: u16 = 1_024;
/// How many buffers, and bytes of one.
struct Pool {
    buffers: u32,
    data_room: u32,
}

/// Descriptors and what is in flight; a large pool only spoils the cache. Longer frames take several buffers.
const POOL: Pool = Pool { buffers: 4_096, data_room: 2_048 };
/// net_af_packet copies each frame into one buffer: few, and as large as its frames.
const COPYING_POOL: Pool = Pool { buffers: 512, data_room: 32_768 };
/// Longest frame that is put together from several buffers.
const FRAME_MAX: usize = 1 << 18;

/// Frames in a burst, as C counts them.
const MAX: u16 = 64;
const _: () = assert!(MAX as usize == BURST_MAX, "the rows have room for a burst");

/// A started port.
pub struct DpdkPort {
    id: u16,
    port: u16,
    card: Card,
    rows: [thymus_row; BURST_MAX],
    scratch: Vec<u8>,
    last: Time,
    clock: Arc<dyn Clock>,
    counters: SourceCounters,
}

// SAFETY: the rows are empty between bursts, and a port is polled by the one thread that owns it.
unsafe impl Send for DpdkPort {}

/// DPDK's words for an error.
fn words(code: i32) -> String {
    // SAFETY: DPDK gives a string of its own that ends in NUL and stays.
    let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(code.abs())) };
    text.to_string_lossy().into_owned()
}

/// The card behind a port: DPDK's own, or the Linux interface that a virtual device reads.
fn card_of(device: &str, id: u16) -> Card {
    if let Some(interface) = device.split(',').find_map(|part| part.strip_prefix("iface=")) {
        return Card::of(interface);
    }
    let mut address = [0; 6];
    // SAFETY: there is room for the six bytes that are written.
    let done = unsafe { thymus_port_address(id, address.as_mut_ptr()) };
    Card { address: (done == 0 && address != [0; 6]).then_some(address), interface: None }
}

const NO_ROW: thymus_row =
    thymus_row { mbuf: std::ptr::null_mut(), data: std::ptr::null(), data_len: 0, packet_len: 0, segments: 0 };

impl DpdkPort {
    /// Opens a device, a PCI address or a virtual device with its arguments, as this port.
    pub fn open(device: &str, port: u16, clock: Arc<dyn Clock>) -> Result<DpdkPort, SourceError> {
        let id = eal::attach(device)?;
        let mut step: *const c_char = std::ptr::null();
        let Pool { buffers, data_room } = if device.starts_with("net_af_packet") { COPYING_POOL } else { POOL };
        // SAFETY: the device was attached; the step is DPDK's or the shim's own constant string.
        let done = unsafe { thymus_port_start(id, DESCRIPTORS, buffers, data_room, &raw mut step) };
        if done != 0 {
            let step = if step.is_null() {
                "starting".into()
            } else {
                // SAFETY: set by the call above before it could fail.
                unsafe { CStr::from_ptr(step) }.to_string_lossy()
            };
            return Err(SourceError(format!("dpdk:{device}: {step} failed: {}", words(done))));
        }
        Ok(DpdkPort {
            id,
            port,
            card: card_of(device, id),
            rows: [NO_ROW; BURST_MAX],
            scratch: Vec::with_capacity(FRAME_MAX),
            last: Time(0),
            clock,
            counters: SourceCounters::default(),
        })
    }

    /// Its card.
    pub fn card(&self) -> Card {
        self.card.clone()
    }

    /// Puts frames of several buffers together, one behind the other, before any of them is lent.
    fn join(&mut self, count: usize) {
        self.scratch.clear();
        for row in self.rows.iter().take(count).filter(|row| row.segments > 1) {
            let at = self.scratch.len();
            let length = (row.packet_len as usize).min(FRAME_MAX);
            self.scratch.resize(at + length, 0);
            let target = self.scratch.get_mut(at..).map_or(std::ptr::null_mut(), <[u8]>::as_mut_ptr);
            // SAFETY: the frame was received in this burst and not given back; the target has room for `length` bytes.
            unsafe { thymus_copy(row.mbuf, target, u32::try_from(length).unwrap_or_default()) };
        }
    }
}

impl PacketSource for DpdkPort {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        // SAFETY: the port is started, it has queue 0, and there is room for BURST_MAX rows.
        let received = unsafe { thymus_rx_burst(self.id, 0, self.rows.as_mut_ptr(), MAX) };
        let count = usize::from(received);
        self.last = self.last.max(self.clock.wall());
        self.join(count);
        let mut frames = [Frame::default(); BURST_MAX];
        let mut joined = 0;
        for (frame, row) in frames.iter_mut().zip(self.rows.iter().take(count)) {
            let bytes = if row.segments > 1 {
                let end = joined + (row.packet_len as usize).min(FRAME_MAX);
                let bytes = self.scratch.get(joined..end).unwrap_or_default();
                joined = end;
                bytes
            } else {
                // SAFETY: the buffer holds so many bytes, and is given back only after the burst was taken.
                unsafe { std::slice::from_raw_parts(row.data, row.data_len as usize) }
            };
            *frame = Frame {
                bytes,
                wire_len: row.packet_len,
                time: self.last,
                link: LinkType::Ethernet,
                port: self.port,
                ..Frame::default()
            };
            self.counters.received.add(u64::from(row.packet_len));
        }
        each(Burst { frames: frames.get(..count).unwrap_or_default(), now: self.last });
        if count > 0 {
            // SAFETY: these frames were received above, and nothing lent from them is left.
            unsafe { thymus_free_bulk(self.rows.as_ptr(), received) };
        }
        Ok(Received::Frames(count))
    }

    fn counters(&mut self) -> SourceCounters {
        let (mut missed, mut errors) = (0, 0);
        // SAFETY: both are written by the call or left as they are.
        if unsafe { thymus_port_missed(self.id, &raw mut missed, &raw mut errors) } == 0 {
            self.counters.missed.packets = missed;
            self.counters.error.packets = errors;
        }
        self.counters
    }

    fn link(&mut self) -> Link {
        // SAFETY: the port is started, and this thread polls it.
        match unsafe { thymus_port_link(self.id) } {
            1 => Link::Up,
            0 => Link::Down,
            _ => Link::Unknown,
        }
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        // SAFETY: we started it, and nobody else uses it.
        unsafe { thymus_port_stop(self.id) };
    }
}
