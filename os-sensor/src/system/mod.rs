//! What each operating system does in its own way: names, folders, signals. Both sides have the same functions.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod own;
#[cfg(windows)]
#[path = "windows.rs"]
mod own;
/// What a service says.
#[cfg(windows)]
pub(crate) mod event_log;
/// The registry of this machine.
#[cfg(windows)]
pub(crate) mod registry;

pub use own::{cpu_time, default_state, host_name, make_private, rss_bytes};

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// True after SIGTERM or Ctrl-C.
pub fn stop_signal() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| format!("no signal handler: {error}"))?;
    }
    Ok(stop)
}
