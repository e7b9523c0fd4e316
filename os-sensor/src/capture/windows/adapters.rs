//! The network adapters of this host, by the names that people see in Windows.

use std::io;
use std::ptr::null_mut;
use windows_sys::Win32::Foundation::{ERROR_BUFFER_OVERFLOW, ERROR_SUCCESS};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_DNS_SERVER, GAA_FLAG_SKIP_MULTICAST, GetAdaptersAddresses, GetIfEntry2,
    IF_TYPE_IEEE80211, IF_TYPE_SOFTWARE_LOOPBACK, IP_ADAPTER_ADDRESSES_LH, MIB_IF_ROW2,
};
use windows_sys::Win32::NetworkManagement::Ndis::IfOperStatusUp;
use windows_sys::Win32::Networking::WinSock::AF_UNSPEC;

/// Room for the list at first; it grows when the system wants more.
const LIST_BYTES: u32 = 32 << 10;

/// A network adapter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Adapter {
    /// What people call it.
    pub(crate) name: String,
    /// Its number in braces, as capture drivers call it.
    pub(crate) guid: String,
    pub(crate) mac: [u8; 6],
    pub(crate) up: bool,
    /// A network card, a virtual machine's included.
    pub(crate) hardware: bool,
    pub(crate) wireless: bool,
}

/// All adapters but loopback.
pub(crate) fn all() -> io::Result<Vec<Adapter>> {
    let flags = GAA_FLAG_SKIP_ANYCAST | GAA_FLAG_SKIP_MULTICAST | GAA_FLAG_SKIP_DNS_SERVER;
    let mut bytes = LIST_BYTES;
    for _ in 0..4 {
        // In words of 8 bytes, as the list must be aligned.
        let mut list = vec![0u64; bytes.div_ceil(8) as usize];
        let first: *mut IP_ADAPTER_ADDRESSES_LH = list.as_mut_ptr().cast();
        // SAFETY: the list is ours and its size is given.
        let done = unsafe { GetAdaptersAddresses(u32::from(AF_UNSPEC), flags, null_mut(), first, &raw mut bytes) };
        match done {
            ERROR_SUCCESS => return Ok(read(first)),
            ERROR_BUFFER_OVERFLOW => {}
            other => return Err(io::Error::from_raw_os_error(other.cast_signed())),
        }
    }
    Err(io::Error::other("the list of adapters grows faster than it is read"))
}

fn read(first: *const IP_ADAPTER_ADDRESSES_LH) -> Vec<Adapter> {
    let (mut out, mut next) = (Vec::new(), first);
    // SAFETY: the system made this chain within the list that the caller holds; it ends in null.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.Next;
        if entry.IfType == IF_TYPE_SOFTWARE_LOOPBACK {
            continue;
        }
        let mut mac = [0; 6];
        if entry.PhysicalAddressLength == 6 {
            mac.copy_from_slice(entry.PhysicalAddress.first_chunk::<6>().unwrap_or(&[0; 6]));
        }
        // SAFETY: all-zero is a valid row of numbers and texts.
        let mut row: MIB_IF_ROW2 = unsafe { std::mem::zeroed() };
        row.InterfaceLuid = entry.Luid;
        // SAFETY: the row is ours and names the adapter.
        let known = unsafe { GetIfEntry2(&raw mut row) } == ERROR_SUCCESS;
        out.push(Adapter {
            name: wide(entry.FriendlyName),
            guid: narrow(entry.AdapterName),
            mac,
            up: entry.OperStatus == IfOperStatusUp,
            hardware: known && row.InterfaceAndOperStatusFlags._bitfield & 1 != 0,
            wireless: entry.IfType == IF_TYPE_IEEE80211,
        });
    }
    out
}

fn wide(text: *const u16) -> String {
    let mut units = Vec::new();
    for at in 0..512 {
        // SAFETY: a text of the system's that ends in NUL, where we stop.
        match unsafe { text.add(at).read() } {
            0 => break,
            unit => units.push(unit),
        }
    }
    String::from_utf16_lossy(&units)
}

fn narrow(text: *const u8) -> String {
    // SAFETY: a text of the system's that ends in NUL.
    unsafe { std::ffi::CStr::from_ptr(text.cast()) }.to_string_lossy().into_owned()
}
