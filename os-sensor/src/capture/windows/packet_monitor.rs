//! Packet Monitor, the capture that comes with Windows (Server 2022, Windows 11 on): one session and one real-time
//! stream an adapter, with the packets that it missed counted by itself.
//!
//! The vendor publishes neither header nor library, but the functions and structures, to be loaded at run time:
//! <https://learn.microsoft.com/en-us/windows/win32/pktmon/pktmon-reference>. Of a data source we read what stands at
//! these places (`PacketMonitorEnumDataSources`, names of 64 and texts of 128 units):
//!
//! ```text
//! list   = count u32 | pad | pointers to sources within the list
//! source = kind u32 | name 64 × u16 | text 128 × u16 | id u32 | second id u32 | parent u32 | what is present u32 | pad |
//!          MAC (8: present) 6 bytes, in a union of 16                               424 bytes
//! ```

use super::adapters::Adapter;
use crate::capture::Taker;
use crate::capture::stream::{Stream, TRUNCATION_BYTES};
use libloading::os::windows::{LOAD_LIBRARY_SEARCH_SYSTEM32, Library};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

const VERSION: u32 = 0x0001_0000;
const NETWORK_INTERFACES: u32 = 1;
const SOURCE_BYTES: usize = 424;
const SOURCE_PRESENT: usize = 400;
const SOURCE_MAC: usize = 408;
const MAC_IS_PRESENT: u8 = 8;
const LIST_BYTES_MAX: usize = 4 << 20;
/// Of 256 KiB; the vendor's maximum.
const BUFFERS: u16 = 10;

type Result32 = i32;
type Object = *mut c_void;

#[repr(C)]
struct Configuration {
    context: *const c_void,
    on_event: Option<unsafe extern "system" fn(*const c_void, *const c_void, u32)>,
    on_data: Option<unsafe extern "system" fn(*const c_void, *const Descriptor)>,
    buffers: u16,
    truncation: u16,
}

/// `PACKETMONITOR_STREAM_DATA_DESCRIPTOR`.
#[repr(C)]
struct Descriptor {
    data: *const u8,
    data_bytes: u32,
    metadata_at: u32,
    packet_at: u32,
    packet_bytes: u32,
    missed_writing: u32,
    missed_reading: u32,
}

/// The functions that we call; the library stays loaded as long as they.
struct Api {
    initialize: unsafe extern "system" fn(u32, *mut c_void, *mut Object) -> Result32,
    uninitialize: unsafe extern "system" fn(Object),
    sources: unsafe extern "system" fn(Object, u32, u8, usize, *mut usize, *mut u8) -> Result32,
    create_session: unsafe extern "system" fn(Object, *const u16, *mut Object) -> Result32,
    close_session: unsafe extern "system" fn(Object),
    add_source: unsafe extern "system" fn(Object, *const u8) -> Result32,
    create_stream: unsafe extern "system" fn(Object, *const Configuration, *mut Object) -> Result32,
    close_stream: unsafe extern "system" fn(Object),
    attach: unsafe extern "system" fn(Object, Object) -> Result32,
    set_active: unsafe extern "system" fn(Object, u8) -> Result32,
    _library: Library,
}

impl Api {
    fn load() -> Result<Api, String> {
        // SAFETY: the system's own library of that name, from the system's own folder.
        let library = unsafe { Library::load_with_flags("pktmonapi.dll", LOAD_LIBRARY_SEARCH_SYSTEM32) };
        let library = library.map_err(|_error| "this Windows has no Packet Monitor interface".to_owned())?;
        macro_rules! function {
            ($name:literal) => {{
                // SAFETY: the signature is the documented one.
                let found = unsafe { library.get(concat!($name, "\0").as_bytes()) };
                *found.map_err(|_error| concat!("this Windows' Packet Monitor has no ", $name).to_owned())?
            }};
        }
        Ok(Api {
            initialize: function!("PacketMonitorInitialize"),
            uninitialize: function!("PacketMonitorUninitialize"),
            sources: function!("PacketMonitorEnumDataSources"),
            create_session: function!("PacketMonitorCreateLiveSession"),
            close_session: function!("PacketMonitorCloseSessionHandle"),
            add_source: function!("PacketMonitorAddSingleDataSourceToSession"),
            create_stream: function!("PacketMonitorCreateRealtimeStream"),
            close_stream: function!("PacketMonitorCloseRealtimeStream"),
            attach: function!("PacketMonitorAttachOutputToSession"),
            set_active: function!("PacketMonitorSetSessionActive"),
            _library: library,
        })
    }
}

/// A running session. Its parts go in the order in which they need each other.
pub(super) struct Session {
    api: Api,
    monitor: Object,
    session: Object,
    stream: Object,
    /// What the stream's thread fills; it has this address until the stream is closed.
    filled: Box<Mutex<Stream>>,
    drained: Stream,
}

impl Session {
    pub(super) fn open(adapter: &Adapter) -> Result<Session, String> {
        let api = Api::load()?;
        if adapter.wireless {
            return Err("Packet Monitor shows 802.11 frames of a wireless adapter, not Ethernet".to_owned());
        }
        let mut open = Session {
            api,
            monitor: null_mut(),
            session: null_mut(),
            stream: null_mut(),
            filled: Box::default(),
            drained: Stream::default(),
        };
        // SAFETY: the reserved argument is null, and the handle has its room.
        let done = unsafe { (open.api.initialize)(VERSION, null_mut(), &raw mut open.monitor) };
        worked(done, "does not start; run as Administrator or as the service")?;
        let (list, at) = open.source(adapter)?;
        let name: Vec<u16> = "thymus-os-sensor\0".encode_utf16().collect();
        // SAFETY: the name ends in NUL, and the handle has its room.
        let done = unsafe { (open.api.create_session)(open.monitor, name.as_ptr(), &raw mut open.session) };
        worked(done, "gives no session")?;
        // SAFETY: `source` found this place within the list, which is still there.
        let done = unsafe { (open.api.add_source)(open.session, list.as_ptr().cast::<u8>().add(at)) };
        worked(done, "does not take the adapter")?;
        let configuration = Configuration {
            context: std::ptr::from_ref::<Mutex<Stream>>(&open.filled).cast(),
            on_event: None,
            on_data: Some(on_data),
            buffers: BUFFERS,
            truncation: TRUNCATION_BYTES,
        };
        // SAFETY: the configuration is read in the call; its context lives until the stream is closed, in `drop`.
        let done = unsafe { (open.api.create_stream)(open.monitor, &raw const configuration, &raw mut open.stream) };
        worked(done, "gives no stream")?;
        // SAFETY: both handles are open.
        worked(unsafe { (open.api.attach)(open.session, open.stream) }, "does not attach its stream")?;
        // SAFETY: the handle is open.
        worked(unsafe { (open.api.set_active)(open.session, 1) }, "does not start its session")?;
        Ok(open)
    }

    /// The list of network interfaces, in aligned words, and where in it the adapter is, by its MAC.
    fn source(&self, adapter: &Adapter) -> Result<(Vec<u64>, usize), String> {
        let mut bytes = 0;
        // SAFETY: no room is given, so only the size is written.
        unsafe { (self.api.sources)(self.monitor, NETWORK_INTERFACES, 0, 0, &raw mut bytes, null_mut()) };
        if bytes == 0 || bytes > LIST_BYTES_MAX {
            return Err(format!("Packet Monitor's list of adapters is {bytes} bytes long"));
        }
        let mut list = vec![0u64; bytes.div_ceil(8)];
        let (start, room) = (list.as_mut_ptr().cast::<u8>(), list.len() * 8);
        // SAFETY: the room is ours and its size is given.
        let done = unsafe { (self.api.sources)(self.monitor, NETWORK_INTERFACES, 0, room, &raw mut bytes, start) };
        worked(done, "does not list its adapters")?;
        let count = list.first().map_or(0, |first| first & 0xffff_ffff);
        let base = start as u64;
        for pointer in list.iter().skip(1).take(usize::try_from(count).unwrap_or(0)) {
            let at = usize::try_from(pointer.wrapping_sub(base)).unwrap_or(usize::MAX);
            if at.checked_add(SOURCE_BYTES).is_none_or(|end| end > room) {
                return Err("Packet Monitor's list of adapters is damaged".to_owned());
            }
            let byte = |place: usize| list.get((at + place) / 8).map_or(0, |word| word.to_le_bytes()[(at + place) % 8]);
            let mac: [u8; 6] = std::array::from_fn(|index| byte(SOURCE_MAC + index));
            if byte(SOURCE_PRESENT) & MAC_IS_PRESENT != 0 && mac == adapter.mac {
                return Ok((list, at));
            }
        }
        Err("Packet Monitor does not know the adapter".to_owned())
    }

    pub(super) fn drain(&mut self, taker: &mut impl Taker) {
        locked(&self.filled).swap(&mut self.drained);
        taker.begin();
        self.drained.drain(|frame| taker.take(frame));
    }

    pub(super) fn drops(&self) -> u64 {
        locked(&self.filled).take_missed()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let api = &self.api;
        // SAFETY: each handle is open or null; once the stream is closed nobody calls `on_data` any more.
        unsafe {
            if !self.session.is_null() {
                (api.set_active)(self.session, 0);
            }
            if !self.stream.is_null() {
                (api.close_stream)(self.stream);
            }
            if !self.session.is_null() {
                (api.close_session)(self.session);
            }
            if !self.monitor.is_null() {
                (api.uninitialize)(self.monitor);
            }
        }
    }
}

fn locked(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

fn worked(done: Result32, what: &str) -> Result<(), String> {
    if done >= 0 { Ok(()) } else { Err(format!("Packet Monitor {what} (error {done:#010x})")) }
}

/// Called by the stream's thread for each packet.
unsafe extern "system" fn on_data(context: *const c_void, data: *const Descriptor) {
    // SAFETY: the context is the `filled` of a session that lives, and the descriptor is lent for this call.
    let (stream, data) = unsafe { (&*context.cast::<Mutex<Stream>>(), &*data) };
    if data.data.is_null() {
        return;
    }
    // SAFETY: the stream lends so many bytes for this call.
    let blob = unsafe { std::slice::from_raw_parts(data.data, data.data_bytes as usize) };
    let missed = u64::from(data.missed_writing) + u64::from(data.missed_reading);
    let packet = (data.packet_at as usize, data.packet_bytes as usize);
    locked(stream).take(blob, data.metadata_at as usize, packet, missed);
}
