//! The event log: what a service says, as it has no console. One entry a sentence, under Windows Logs, Application.
#![expect(unsafe_code, reason = "the event log is reached through C")]

use super::registry;
use std::io;
use std::ptr::{null, null_mut};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE, RegisterEventSourceW,
    ReportEventW,
};

/// The name under which entries stand.
const SOURCE: &str = "Thymus OS-sensor";
const KEY: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application\Thymus OS-sensor";
/// A library of the system's whose message 1 is its first text.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";
const MESSAGE: u32 = 1;
/// Longest entry, in units; the system's limit is 31,839.
const ENTRY_MAX: usize = 30_000;

/// Lets the event viewer show our entries as they are.
pub(crate) fn register() -> io::Result<()> {
    registry::set_text(KEY, "EventMessageFile", MESSAGES)?;
    registry::set_number(KEY, "TypesSupported", 7)
}

/// Takes the name away; entries stay.
pub(crate) fn unregister() -> io::Result<()> {
    registry::remove_key(KEY)
}

/// Writes what is logged as entries.
pub(crate) struct EventLog;

/// An entry being written.
pub(crate) struct Entry {
    level: Level,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for EventLog {
    type Writer = Entry;

    fn make_writer(&'a self) -> Entry {
        Entry { level: Level::INFO, text: Vec::new() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Entry {
        Entry { level: *meta.level(), text: Vec::new() }
    }
}

impl io::Write for Entry {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        let kind = match self.level {
            Level::ERROR => EVENTLOG_ERROR_TYPE,
            Level::WARN => EVENTLOG_WARNING_TYPE,
            _ => EVENTLOG_INFORMATION_TYPE,
        };
        report(kind, text.trim());
    }
}

fn report(kind: u16, text: &str) {
    let wide = |text: &str| text.encode_utf16().take(ENTRY_MAX).chain([0]).collect::<Vec<u16>>();
    let (source, text) = (wide(SOURCE), wide(text));
    // SAFETY: a name that ends in NUL.
    let log: HANDLE = unsafe { RegisterEventSourceW(null(), source.as_ptr()) };
    if log.is_null() {
        return;
    }
    let texts = [text.as_ptr()];
    // SAFETY: the handle is open; one text that ends in NUL, no further bytes.
    unsafe {
        ReportEventW(log, kind, 0, MESSAGE, null_mut(), 1, 0, texts.as_ptr(), null());
        DeregisterEventSource(log);
    }
}
