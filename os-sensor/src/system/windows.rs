//! Windows.
#![expect(unsafe_code, reason = "access lists are set through C")]

use std::ffi::OsString;
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::time::Duration;
use windows_sys::Win32::Foundation::{ERROR_SUCCESS, FILETIME, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1, SE_FILE_OBJECT, SetNamedSecurityInfoW,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetSecurityDescriptorDacl, GetSecurityDescriptorOwner, OWNER_SECURITY_INFORMATION,
    PROTECTED_DACL_SECURITY_INFORMATION,
};
use windows_sys::Win32::System::Com::CoTaskMemFree;
use windows_sys::Win32::System::ProcessStatus::{GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};
use windows_sys::Win32::UI::Shell::{FOLDERID_ProgramData, SHGetKnownFolderPath};

/// Owner: Administrators. SYSTEM and Administrators may do all, and nobody else anything; nothing is inherited from above.
const PRIVATE: &str = "O:BAD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)";

/// This host's name, for people.
pub fn host_name() -> String {
    std::env::var("COMPUTERNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "host".to_owned())
}

/// From the system and not from the environment, which a service and its user may see differently.
fn own_folder() -> PathBuf {
    let mut text = null_mut();
    // SAFETY: the text is freed below; on failure it is null.
    let done = unsafe { SHGetKnownFolderPath(&FOLDERID_ProgramData, 0, null_mut(), &raw mut text) };
    let mut units = Vec::new();
    while done >= 0 {
        // SAFETY: a text of the system's that ends in NUL, where we stop.
        match unsafe { text.add(units.len()).read() } {
            0 => break,
            unit => units.push(unit),
        }
    }
    // SAFETY: the system made it for us to free; null is no harm.
    unsafe { CoTaskMemFree(text.cast()) };
    let root = if units.is_empty() { PathBuf::from(r"C:\ProgramData") } else { OsString::from_wide(&units).into() };
    root.join("Thymus")
}

/// Where an agent's key and certificate are unless it is told otherwise.
pub fn default_state() -> PathBuf {
    own_folder().join("os-sensor")
}

/// Makes a folder that SYSTEM and Administrators alone read, also where somebody else made it before.
pub fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    // Every user may make folders in ProgramData.
    if folder.starts_with(own_folder()) {
        protect(&own_folder())?;
    }
    protect(folder)
}

fn protect(folder: &Path) -> io::Result<()> {
    let text: Vec<u16> = PRIVATE.encode_utf16().chain([0]).collect();
    let path: Vec<u16> = folder.as_os_str().encode_wide().chain([0]).collect();
    let mut descriptor = null_mut();
    // SAFETY: the text ends in NUL; the descriptor is freed below.
    let made = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text.as_ptr(),
            SDDL_REVISION_1,
            &raw mut descriptor,
            null_mut(),
        )
    };
    if made == 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut present, mut given, mut list, mut owner) = (0, 0, null_mut(), null_mut());
    // SAFETY: the descriptor is whole, and list and owner live as long as it; the path ends in NUL.
    let done = unsafe {
        GetSecurityDescriptorDacl(descriptor, &raw mut present, &raw mut list, &raw mut given);
        GetSecurityDescriptorOwner(descriptor, &raw mut owner, &raw mut given);
        let what = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
        SetNamedSecurityInfoW(path.as_ptr(), SE_FILE_OBJECT, what, owner, null_mut(), list, null_mut())
    };
    // SAFETY: the system made it for us to free.
    unsafe { LocalFree(descriptor) };
    if done == ERROR_SUCCESS {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(done.cast_signed());
    Err(io::Error::other(format!("it cannot be kept from others: {error}; run as Administrator")))
}

/// CPU time that this process has used, all threads, in user and kernel; `None` where the system does not say.
pub fn cpu_time() -> Option<Duration> {
    let none = FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 };
    let [mut made, mut ended, mut kernel, mut user] = [none; 4];
    // SAFETY: the four times are ours to be filled in; the handle stands for this process and needs no closing.
    let done =
        unsafe { GetProcessTimes(GetCurrentProcess(), &raw mut made, &raw mut ended, &raw mut kernel, &raw mut user) };
    let hundreds = |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    (done != 0).then(|| Duration::from_nanos((hundreds(kernel) + hundreds(user)).saturating_mul(100)))
}

/// Memory in use.
pub fn rss_bytes() -> u64 {
    // SAFETY: all-zero is a valid row of numbers.
    let mut counters: PROCESS_MEMORY_COUNTERS = unsafe { std::mem::zeroed() };
    let len = u32::try_from(size_of::<PROCESS_MEMORY_COUNTERS>()).unwrap_or(0);
    // SAFETY: the row is ours and its size is given; the handle stands for this process and needs no closing.
    let done = unsafe { GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, len) };
    if done == 0 { 0 } else { counters.WorkingSetSize as u64 }
}
