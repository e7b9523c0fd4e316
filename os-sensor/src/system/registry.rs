//! Texts and numbers in the registry of this machine.
#![expect(unsafe_code, reason = "the registry is reached through C")]

use std::io;
use std::ptr::null_mut;
use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_SUCCESS};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, REG_DWORD, REG_EXPAND_SZ, RRF_RT_REG_SZ, RegDeleteKeyValueW, RegDeleteTreeW, RegGetValueW,
    RegSetKeyValueW,
};

/// Longest text that is read, in units.
const TEXT_MAX: usize = 32 << 10;

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

fn done(status: u32) -> io::Result<()> {
    match status {
        ERROR_SUCCESS | ERROR_FILE_NOT_FOUND => Ok(()),
        other => Err(io::Error::from_raw_os_error(other.cast_signed())),
    }
}

/// A text; `None` where there is none, an empty one or one too long.
pub(crate) fn text(key: &str, name: &str) -> Option<String> {
    let (key, name, mut units) = (wide(key), wide(name), vec![0u16; TEXT_MAX]);
    let mut bytes = u32::try_from(units.len() * 2).unwrap_or(0);
    let (target, kind) = (units.as_mut_ptr().cast(), null_mut());
    // SAFETY: the names end in NUL; the room is ours and its size is given.
    let status = unsafe {
        let (key, name) = (key.as_ptr(), name.as_ptr());
        RegGetValueW(HKEY_LOCAL_MACHINE, key, name, RRF_RT_REG_SZ, kind, target, &raw mut bytes)
    };
    let text: Vec<u16> = units.into_iter().take_while(|unit| *unit != 0).collect();
    (status == ERROR_SUCCESS && !text.is_empty()).then(|| String::from_utf16_lossy(&text))
}

/// Writes a text in which `%NAME%` stands for the environment's.
pub(crate) fn set_text(key: &str, name: &str, text: &str) -> io::Result<()> {
    let units = wide(text);
    set(key, name, REG_EXPAND_SZ, &units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>())
}

/// Writes a number.
pub(crate) fn set_number(key: &str, name: &str, number: u32) -> io::Result<()> {
    set(key, name, REG_DWORD, &number.to_le_bytes())
}

fn set(key: &str, name: &str, kind: u32, bytes: &[u8]) -> io::Result<()> {
    let (key, name, len) = (wide(key), wide(name), u32::try_from(bytes.len()).unwrap_or(0));
    // SAFETY: the names end in NUL; the value is ours and its size is given.
    done(unsafe { RegSetKeyValueW(HKEY_LOCAL_MACHINE, key.as_ptr(), name.as_ptr(), kind, bytes.as_ptr().cast(), len) })
}

/// Removes a value; none is as good.
pub(crate) fn remove_value(key: &str, name: &str) -> io::Result<()> {
    let (key, name) = (wide(key), wide(name));
    // SAFETY: the names end in NUL.
    done(unsafe { RegDeleteKeyValueW(HKEY_LOCAL_MACHINE, key.as_ptr(), name.as_ptr()) })
}

/// Removes a key and what is under it; none is as good.
pub(crate) fn remove_key(key: &str) -> io::Result<()> {
    let key = wide(key);
    // SAFETY: the name ends in NUL.
    done(unsafe { RegDeleteTreeW(HKEY_LOCAL_MACHINE, key.as_ptr()) })
}
