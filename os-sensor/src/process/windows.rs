//! Windows: the IP helper's tables name the process of a connection, and the process its program and user. A service
//! of another session, or a protected process, tells only its name.

use super::{Ends, Held, table};
use crate::clock::Clock;
use std::collections::HashMap;
use std::io;
use std::ptr::null_mut;
use std::time::Duration;
use thymus_record::owner::{Who, why};
use windows_sys::Win32::Foundation::{CloseHandle, ERROR_INSUFFICIENT_BUFFER, ERROR_SUCCESS, HANDLE};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GetExtendedTcpTable, GetExtendedUdpTable, TCP_TABLE_OWNER_PID_ALL, UDP_TABLE_OWNER_PID,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET, AF_INET6};
use windows_sys::Win32::Security::{GetTokenInformation, LookupAccountSidW, TOKEN_QUERY, TOKEN_USER, TokenUser};
use windows_sys::Win32::System::Threading::{
    OpenProcess, OpenProcessToken, PROCESS_NAME_WIN32, PROCESS_QUERY_LIMITED_INFORMATION, QueryFullProcessImageNameW,
};

/// A table is good for so long, and what is known of a process.
const TABLE_FOR: Duration = Duration::from_millis(100);
const PROCESS_FOR: Duration = Duration::from_secs(5);
const PROCESSES_MAX: usize = 1_024;
const TABLE_BYTES_MAX: u32 = 16 << 20;
const TEXT_MAX: usize = 1_024;

/// Sockets of this host.
pub struct Sockets {
    clock: Clock,
    /// By protocol and family.
    tables: HashMap<(bool, bool), (Duration, Vec<u32>)>,
    processes: HashMap<u32, (Duration, Who)>,
}

impl Sockets {
    /// Asks for nothing yet.
    pub fn open() -> io::Result<Sockets> {
        Ok(Sockets { clock: Clock::new(), tables: HashMap::new(), processes: HashMap::new() })
    }

    /// The socket of this connection; `None` if there is none.
    pub fn find(&mut self, ends: &Ends) -> io::Result<Option<Held>> {
        let (now, key) = (self.clock.monotonic(), (ends.proto == 6, ends.local.is_ipv4()));
        let is_fresh = self.tables.get(&key).is_some_and(|(at, _)| now.saturating_sub(*at) < TABLE_FOR);
        if !is_fresh {
            self.tables.insert(key, (now, read(key.0, key.1)?));
        }
        let Some((_, words)) = self.tables.get(&key) else { return Ok(None) };
        let Some((process, listens)) = table::holder(words, ends) else { return Ok(None) };
        let who = match self.processes.get(&process) {
            Some((at, who)) if now.saturating_sub(*at) < PROCESS_FOR => who.clone(),
            _ => {
                if self.processes.len() >= PROCESSES_MAX {
                    self.processes.clear();
                }
                let who = who_is(process);
                self.processes.insert(process, (now, who.clone()));
                who
            }
        };
        Ok(Some(Held { who, listens, ..Held::default() }))
    }
}

fn read(is_tcp: bool, is_v4: bool) -> io::Result<Vec<u32>> {
    let family = u32::from(if is_v4 { AF_INET } else { AF_INET6 });
    let mut bytes = 16 << 10;
    for _ in 0..4 {
        let mut words = vec![0u32; (bytes as usize).div_ceil(4)];
        let target = words.as_mut_ptr().cast();
        // SAFETY: the room is ours and its size is given.
        let done = unsafe {
            if is_tcp {
                GetExtendedTcpTable(target, &raw mut bytes, 0, family, TCP_TABLE_OWNER_PID_ALL, 0)
            } else {
                GetExtendedUdpTable(target, &raw mut bytes, 0, family, UDP_TABLE_OWNER_PID, 0)
            }
        };
        match done {
            ERROR_SUCCESS => return Ok(words),
            ERROR_INSUFFICIENT_BUFFER if bytes <= TABLE_BYTES_MAX => bytes += bytes / 4,
            other => return Err(io::Error::from_raw_os_error(other.cast_signed())),
        }
    }
    Err(io::Error::other("the table of connections grows faster than it is read"))
}

/// A handle that is closed at its end.
struct Open(HANDLE);

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: the handle is open and goes.
        unsafe { CloseHandle(self.0) };
    }
}

fn who_is(process: u32) -> Who {
    let unknown = |why: &str| Who { pid: Some(process), ..Who::unknown(why) };
    // 0 holds what is closing, 4 is the kernel.
    match process {
        0 => return Who::unknown(why::CLOSED),
        4 => return unknown(why::KERNEL),
        _ => {}
    }
    // SAFETY: a number alone; the handle is checked before it is owned.
    let handle = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, process) };
    if handle.is_null() {
        return unknown(why::ENDED);
    }
    let handle = Open(handle);
    let (mut text, mut len) = ([0u16; TEXT_MAX], u32::try_from(TEXT_MAX).unwrap_or(0));
    // SAFETY: the handle is open; the room is ours and its size is given.
    let named =
        unsafe { QueryFullProcessImageNameW(handle.0, PROCESS_NAME_WIN32, text.as_mut_ptr(), &raw mut len) } != 0;
    let executable = named.then(|| String::from_utf16_lossy(text.get(..len as usize).unwrap_or_default()));
    let name = executable.as_deref().and_then(|path| path.rsplit('\\').next()).map(Box::from);
    Who {
        user: user_of(&handle).map(Into::into),
        process: name,
        pid: Some(process),
        unnamed: executable.is_none().then(|| why::ENDED.into()),
        executable: executable.map(Into::into),
        ..Who::default()
    }
}

/// `DOMAIN\user` of a process.
fn user_of(process: &Open) -> Option<String> {
    let mut token = null_mut();
    // SAFETY: the handle is open; the token is checked before it is owned.
    let done = unsafe { OpenProcessToken(process.0, TOKEN_QUERY, &raw mut token) };
    if done == 0 {
        return None;
    }
    let token = Open(token);
    // In words of 8 bytes, as the answer must be aligned; 256 bytes hold the longest.
    let (mut answer, mut len) = ([0u64; 32], 0);
    // SAFETY: the handle is open; the room is ours and its size is given.
    let done = unsafe { GetTokenInformation(token.0, TokenUser, answer.as_mut_ptr().cast(), 256, &raw mut len) };
    if done == 0 {
        return None;
    }
    // SAFETY: the system wrote this structure there; its pointer is into the same room.
    let sid = unsafe { (*answer.as_ptr().cast::<TOKEN_USER>()).User.Sid };
    let (mut name, mut domain) = ([0u16; 256], [0u16; 256]);
    let (mut name_len, mut domain_len, mut kind) = (256, 256, 0);
    // SAFETY: the account number is whole; both rooms are ours and their sizes are given.
    let done = unsafe {
        let (name, domain) = (name.as_mut_ptr(), domain.as_mut_ptr());
        LookupAccountSidW(null_mut(), sid, name, &raw mut name_len, domain, &raw mut domain_len, &raw mut kind)
    };
    let text = |units: &[u16], len: u32| String::from_utf16_lossy(units.get(..len as usize).unwrap_or_default());
    (done != 0).then(|| format!("{}\\{}", text(&domain, domain_len), text(&name, name_len)))
}
