//! DPDK's environment: started once a process, with hugepages where there are free ones, and ports attached to it.

use super::words;
use crate::source::SourceError;
use std::ffi::{CString, c_char, c_int};
use std::sync::{Mutex, PoisonError};

/// Whether the environment is up, or why not.
static STARTED: Mutex<Option<Result<(), String>>> = Mutex::new(None);

/// Memory in MiB where there are no hugepages.
const PLAIN_MEMORY: &str = "256";

/// Free hugepages of the default size.
fn free_hugepages() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

/// Starts the environment if it is not up.
fn start() -> Result<(), SourceError> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = started.get_or_insert_with(|| {
        let prefix = format!("--file-prefix=thymus{}", std::process::id());
        let mut arguments = vec!["thymus-sensor", prefix.as_str(), "--no-telemetry", "--log-level=critical"];
        if free_hugepages() >= 32 {
            // Leaves no files behind in the hugepage file system.
            arguments.push("--in-memory");
        } else {
            tracing::warn!("no free hugepages: DPDK runs on ordinary memory, somewhat slower; cure: echo 128 > /proc/sys/vm/nr_hugepages");
            arguments.extend(["--no-huge", "-m", PLAIN_MEMORY]);
        }
        init(&arguments)
    });
    outcome.clone().map_err(SourceError)
}

fn init(arguments: &[&str]) -> Result<(), String> {
    let owned: Vec<CString> = arguments.iter().filter_map(|argument| CString::new(*argument).ok()).collect();
    let mut pointers: Vec<*mut c_char> = owned.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or_default();
    // SAFETY: the strings outlive the call, which copies what it keeps.
    let done = unsafe { dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr()) };
    if done >= 0 {
        return Ok(());
    }
    // SAFETY: DPDK's error number of this thread.
    let error = std::io::Error::last_os_error();
    Err(format!("DPDK did not start: {error}; run as root, or use \"af_packet:NAME\" instead of a dpdk port"))
}

/// Attaches a device; gives DPDK's number of its port.
pub(super) fn attach(device: &str) -> Result<u16, SourceError> {
    start()?;
    let name = device.split(',').next().unwrap_or_default();
    if let Some(id) = find(name) {
        return Ok(id);
    }
    if let Some(interface) = device.split(',').find_map(|part| part.strip_prefix("iface=")) {
        let there = std::path::Path::new("/sys/class/net").join(interface).exists();
        if !there {
            return Err(SourceError(format!(
                "dpdk:{device}: there is no interface {interface}; there are: {}",
                interfaces()
            )));
        }
    }
    let full = with_large_frames(device);
    let Ok(arguments) = CString::new(full) else {
        return Err(SourceError(format!("dpdk:{device}: not a device name")));
    };
    // SAFETY: the string outlives the call.
    let done = unsafe { dpdk_sys::rte_dev_probe(arguments.as_ptr()) };
    match find(name) {
        Some(id) if done == 0 => Ok(id),
        _ if lacks_right(device) => Err(SourceError(format!(
            "dpdk:{device}: it cannot be opened ({}): it takes packets into memory that it locks, which needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_IPC_LOCK; run as root, give the program these, or use \"af_packet:NAME\"",
            words(done)
        ))),
        _ => Err(SourceError(format!(
            "dpdk:{device}: there is no such device ({}); give a PCI address bound to vfio-pci or uio_pci_generic, or a virtual device such as net_af_packet0,iface=NAME",
            words(done)
        ))),
    }
}

/// True for an interface's port where this process may not do what that takes. DPDK only says that it failed.
fn lacks_right(device: &str) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    device.starts_with("net_af_packet") && !may_capture(&status)
}

/// CAP_NET_RAW, CAP_NET_ADMIN and CAP_IPC_LOCK, in a process's state as the kernel tells it; true where it does not.
fn may_capture(status: &str) -> bool {
    const NEEDED: u64 = 1 << 12 | 1 << 13 | 1 << 14;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_none_or(|held| held & NEEDED == NEEDED)
}

fn interfaces() -> String {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names.join(", ")
}

/// net_af_packet's frames are 2 KiB unless it is told otherwise: then frames of GSO would not fit. It takes no
/// frame in several buffers, a buffer is at most 64 KiB, and frames must fill their block: so 32 KiB, beyond which the
/// kernel cuts. Where larger frames are to be whole, an `af_packet:` port takes them.
fn with_large_frames(device: &str) -> String {
    let plain = device.starts_with("net_af_packet") && !device.contains("framesz=");
    if plain { format!("{device},blocksz=65536,framesz=32768,framecnt=2048,qpairs=1") } else { device.to_owned() }
}

fn find(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: the string outlives the call, which writes the number where it finds one.
    let done = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (done == 0).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::may_capture;

    #[test]
    fn a_missing_right_is_told_from_a_missing_device() {
        assert!(may_capture("Name:\tx\nCapEff:\t000001ffffffffff\n") && may_capture("CapEff:\t0000000000007400\n"));
        assert!(!may_capture("CapEff:\t0000000000003400\n"), "no CAP_IPC_LOCK");
        assert!(!may_capture("CapEff:\t0000000000000000\n") && may_capture(""));
    }
}
