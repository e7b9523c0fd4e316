//! Who holds a socket of this host. The seam between the systems: each has its [`Sockets`].
//!
//! ```text
//! Sockets::open() → find(&Ends) → Held: what the system tells without more privilege than capturing
//! Early::open() → next(): the first packets of connections, where the system can tell them from the rest
//! bell() → (Bell, Waiter): wakes the thread that looks up
//! ```
//! What the system does not tell stays empty, and the reason is in `Held::who.unnamed`.

/// Control groups, and the containers and pods that their paths name.
pub mod cgroup;
/// Messages of Linux's sock_diag.
pub mod diag;
/// Names of users.
pub mod users;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
/// The IP helper's tables.
#[cfg(any(windows, test))]
mod table;
#[cfg(windows)]
#[expect(unsafe_code, reason = "the system's tables and processes are reached through C")]
mod windows;

#[cfg(not(any(target_os = "linux", windows)))]
pub use elsewhere::Sockets;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Bell, Early, Waiter, bell};
#[cfg(target_os = "linux")]
pub use linux::{Bell, Early, Sockets, Waiter, bell, enter_network, wait_for};
#[cfg(windows)]
pub use windows::Sockets;

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use thymus_record::owner::Who;

/// One connection, from this host's side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Ends {
    /// IP protocol: TCP (6) or UDP (17); of others nobody asks.
    pub proto: u8,
    /// The end on this host.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// A socket, and what the system tells of its holder.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Held {
    /// What is known of the holder.
    pub who: Who,
    /// The socket's number, by which a process's open files name it (Linux); 0 for none.
    pub inode: u32,
    /// The number of its control group (Linux); 0 for none.
    pub cgroup_id: u64,
    /// It waits for connections: the holder of those that are not taken yet.
    pub listens: bool,
}
