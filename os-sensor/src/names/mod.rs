//! The second service: which process holds a socket, for the capture service to ask over one unix socket.
//!
//! It reads /proc and other network namespaces, for which it needs CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH and
//! CAP_SYS_ADMIN; it has no network of its own and sees no packets. The capture service has none of these, and what it
//! asks is not believed: numbers alone, bounded.
//!
//! ```text
//! question = {"id", "inode", "cgroup_id", "ends"?} newline      ends: no socket here, look in other namespaces
//! answer   = {"id", "who": {…}} newline
//! ```

#[cfg(target_os = "linux")]
mod client;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
mod service;

#[cfg(target_os = "linux")]
pub use client::Client;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::Client;
#[cfg(target_os = "linux")]
pub use service::run;

use crate::process::Ends;
use serde::{Deserialize, Serialize};
use thymus_record::owner::Who;

/// Whose socket is this?
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Names the answer.
    pub id: u64,
    /// The socket's number; 0 where none was found.
    pub inode: u32,
    /// Its control group's number; 0 if the kernel does not tell.
    pub cgroup_id: u64,
    /// Its ends, where none was found in the capture's own network namespace.
    pub ends: Option<Ends>,
}

/// This one's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The question's.
    pub id: u64,
    /// Who holds it.
    pub who: Who,
}
