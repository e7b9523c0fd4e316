//! Windows.
#![expect(unsafe_code, reason = "access lists are set through C")]

use std::io;
use std::os::windows::ffi::OsStrExt;
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
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};

/// Owner: Administrators. SYSTEM and Administrators may do all, and nobody else anything; nothing is inherited from above.
const PRIVATE: &str = "O:BAD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)";

/// This host's name, for people.
pub fn host_name() -> String {
    std::env::var("COMPUTERNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "host".to_owned())
}

fn own_folder() -> PathBuf {
    std::env::var_os("ProgramData").map_or_else(|| PathBuf::from(r"C:\ProgramData"), PathBuf::from).join("Thymus")
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

/// Memory in use; not told here yet.
pub fn rss_bytes() -> u64 {
    0
}
