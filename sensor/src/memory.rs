//! Memory that is not Rust's own: files mapped to be read.
#![expect(unsafe_code, reason = "mapping a file cannot be checked by the compiler")]

use memmap2::{Advice, Mmap};
use std::fs::File;
use std::io;
use std::path::Path;

/// Maps a whole file to be read once from front to back.
///
/// Nobody may cut the file short while it is mapped: reading beyond its new end would end the process (SIGBUS), as it
/// does in any program that maps captures.
pub fn map_file(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and private to this process; that the file keeps its length is the caller's
    // promise, stated above.
    let map = unsafe { Mmap::map(&file)? };
    let _ = map.advise(Advice::Sequential);
    Ok(map)
}

/// Gives an open file its blocks up to this length.
pub(crate) fn allocate(file: std::os::fd::RawFd, length: libc::off_t) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed from an open file for the call; no memory is handed over.
    if unsafe { libc::fallocate(file, 0, 0, length) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that a file system has free for us.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
    // SAFETY: zeroes are a valid value of this struct of integers.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the name ends with a zero byte and the struct is written by the call alone.
    if unsafe { libc::statvfs(name.as_ptr(), &raw mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer.f_bavail.saturating_mul(answer.f_frsize))
}
