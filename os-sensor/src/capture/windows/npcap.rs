//! Npcap (or another `wpcap.dll`): the driver that users install by themselves, as its licence forbids bundling.
//! Interface: <https://npcap.com/guide/wpcap/pcap.html>.

use super::adapters::Adapter;
use crate::capture::Taker;
use libloading::os::windows::{LOAD_LIBRARY_SEARCH_SYSTEM32, LOAD_WITH_ALTERED_SEARCH_PATH, Library};
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;

const SNAPLEN: c_int = 256 << 10;
const BUFFER_BYTES: c_int = 8 << 20;
/// Frames lent at once, so that other duties have their turn.
const FRAMES_MAX: usize = 8_192;
const ERROR_BYTES: usize = 256;
const ETHERNET: c_int = 1;

type Pcap = *mut c_void;

/// `struct pcap_pkthdr`, whose times are 32 bits on Windows.
#[repr(C)]
struct Head {
    seconds: i32,
    micros: i32,
    captured: u32,
    wire: u32,
}

/// The functions that we call; the library stays loaded as long as they.
struct Api {
    create: unsafe extern "C" fn(*const c_char, *mut c_char) -> Pcap,
    set_snaplen: unsafe extern "C" fn(Pcap, c_int) -> c_int,
    set_promisc: unsafe extern "C" fn(Pcap, c_int) -> c_int,
    set_timeout: unsafe extern "C" fn(Pcap, c_int) -> c_int,
    set_buffer_size: unsafe extern "C" fn(Pcap, c_int) -> c_int,
    activate: unsafe extern "C" fn(Pcap) -> c_int,
    setnonblock: unsafe extern "C" fn(Pcap, c_int, *mut c_char) -> c_int,
    datalink: unsafe extern "C" fn(Pcap) -> c_int,
    next_ex: unsafe extern "C" fn(Pcap, *mut *const Head, *mut *const u8) -> c_int,
    stats: unsafe extern "C" fn(Pcap, *mut u32) -> c_int,
    geterr: unsafe extern "C" fn(Pcap) -> *const c_char,
    close: unsafe extern "C" fn(Pcap),
    _library: Library,
}

impl Api {
    fn load() -> Result<Api, String> {
        let root = std::env::var_os("SystemRoot").map_or_else(|| PathBuf::from(r"C:\Windows"), PathBuf::from);
        let own = root.join("System32").join("Npcap").join("wpcap.dll");
        // SAFETY: the library of that name is the capture driver's; the paths are the system's own folders.
        let library = unsafe {
            Library::load_with_flags(own, LOAD_WITH_ALTERED_SEARCH_PATH)
                .or_else(|_| Library::load_with_flags("wpcap.dll", LOAD_LIBRARY_SEARCH_SYSTEM32))
        };
        let library = library.map_err(|_error| {
            "Npcap is not installed: install it from npcap.com, or use Windows 11, Server 2022 or newer".to_owned()
        })?;
        macro_rules! function {
            ($name:literal) => {{
                // SAFETY: the signature is the documented one.
                let found = unsafe { library.get(concat!($name, "\0").as_bytes()) };
                *found.map_err(|_error| concat!("wpcap.dll has no ", $name, ": install a newer Npcap").to_owned())?
            }};
        }
        Ok(Api {
            create: function!("pcap_create"),
            set_snaplen: function!("pcap_set_snaplen"),
            set_promisc: function!("pcap_set_promisc"),
            set_timeout: function!("pcap_set_timeout"),
            set_buffer_size: function!("pcap_set_buffer_size"),
            activate: function!("pcap_activate"),
            setnonblock: function!("pcap_setnonblock"),
            datalink: function!("pcap_datalink"),
            next_ex: function!("pcap_next_ex"),
            stats: function!("pcap_stats"),
            geterr: function!("pcap_geterr"),
            close: function!("pcap_close"),
            _library: library,
        })
    }
}

/// An adapter opened.
pub(super) struct Handle {
    api: Api,
    pcap: Pcap,
    /// Packets dropped so far, as the driver counts them.
    dropped: Cell<u32>,
}

impl Handle {
    pub(super) fn open(adapter: &Adapter) -> Result<Handle, String> {
        let api = Api::load()?;
        let device = CString::new(format!(r"\Device\NPF_{}", adapter.guid)).map_err(|error| error.to_string())?;
        let mut error = [0; ERROR_BYTES];
        // SAFETY: a string that ends in NUL, and the room for an error that the interface asks for.
        let pcap = unsafe { (api.create)(device.as_ptr(), error.as_mut_ptr()) };
        if pcap.is_null() {
            return Err(format!("Npcap does not open it: {}", text(error.as_ptr())));
        }
        let handle = Handle { api, pcap, dropped: Cell::new(0) };
        let (api, pcap) = (&handle.api, handle.pcap);
        // SAFETY: the handle is open and not yet active.
        let status = unsafe {
            (api.set_snaplen)(pcap, SNAPLEN);
            (api.set_promisc)(pcap, 0);
            (api.set_timeout)(pcap, 1);
            (api.set_buffer_size)(pcap, BUFFER_BYTES);
            (api.activate)(pcap)
        };
        // Above 0 are warnings.
        if status < 0 {
            // SAFETY: the handle is open; the text lives as long as it.
            let why = text(unsafe { (api.geterr)(pcap) });
            return Err(format!("Npcap does not open it: {why} ({status}); run as Administrator or as the service"));
        }
        // SAFETY: the handle is active, and the error has its room.
        let (link, set) = unsafe { ((api.datalink)(pcap), (api.setnonblock)(pcap, 1, error.as_mut_ptr())) };
        if link != ETHERNET {
            return Err(format!("it is no Ethernet adapter (link type {link}), which Npcap cannot show as one"));
        }
        if set != 0 {
            return Err(format!("Npcap does not open it without waiting: {}", text(error.as_ptr())));
        }
        Ok(handle)
    }

    pub(super) fn drain(&mut self, taker: &mut impl Taker) {
        for _ in 0..FRAMES_MAX {
            let (mut head, mut bytes) = (null::<Head>(), null::<u8>());
            // SAFETY: the handle is active; the pointers are good until the next call.
            let got = unsafe { (self.api.next_ex)(self.pcap, &raw mut head, &raw mut bytes) };
            if got != 1 || bytes.is_null() {
                return;
            }
            // SAFETY: the driver gave a head, good until the next call.
            let Some(head) = (unsafe { head.as_ref() }) else { return };
            // SAFETY: as many bytes as the head says, good until the next call.
            let bytes = unsafe { std::slice::from_raw_parts(bytes, head.captured as usize) };
            let seconds = u64::from(head.seconds.cast_unsigned());
            let time = Time::from_parts(seconds, u64::from(head.micros.cast_unsigned()) * 1_000);
            taker.begin();
            taker.take(&Frame {
                bytes,
                wire_len: head.wire,
                time,
                link: LinkType::Ethernet,
                port: 0,
                ..Frame::default()
            });
        }
    }

    pub(super) fn drops(&self) -> u64 {
        // Received, dropped, dropped by the interface; newer ones add numbers of their own.
        let mut stats = [0u32; 16];
        // SAFETY: the handle is active, and there is room for more numbers than any version has.
        if unsafe { (self.api.stats)(self.pcap, stats.as_mut_ptr()) } != 0 {
            return 0;
        }
        u64::from(stats[1].wrapping_sub(self.dropped.replace(stats[1])))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is open and goes.
        unsafe { (self.api.close)(std::mem::replace(&mut self.pcap, null_mut())) };
    }
}

fn text(text: *const c_char) -> String {
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: a text that ends in NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
