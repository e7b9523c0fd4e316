//! Sockets in the network namespaces of this host's containers. A table that was opened in a namespace stays of it, so
//! each is entered once.

use crate::process::{Ends, Held, Sockets, enter_network};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Namespaces kept.
const NAMESPACES_MAX: usize = 512;
/// Searches in a second.
const SEARCHES_MAX: u32 = 200;

/// The tables by the namespace's number.
pub(super) struct Namespaces {
    own: File,
    known: HashMap<u64, Option<Sockets>>,
    second: Duration,
    searches: u32,
}

impl Namespaces {
    /// None yet but our own, to which this thread returns.
    pub(super) fn new() -> std::io::Result<Namespaces> {
        let own = File::open("/proc/self/ns/net")?;
        let known = HashMap::from([(own.metadata()?.ino(), None)]);
        Ok(Namespaces { own, known, second: Duration::ZERO, searches: 0 })
    }

    /// Opens the table of a process's namespace, if it is a new one.
    pub(super) fn see(&mut self, pid: u32) {
        let path = format!("/proc/{pid}/ns/net");
        let Ok(about) = std::fs::metadata(&path) else { return };
        if self.known.contains_key(&about.ino()) {
            return;
        }
        if self.known.len() >= NAMESPACES_MAX {
            // Most are of containers that are gone; those that live are seen again at the next scan.
            let own = self.own.metadata().map_or(0, |own| own.ino());
            self.known.retain(|number, _| *number == own);
        }
        let opened = File::open(&path).and_then(|namespace| {
            enter_network(&namespace)?;
            let sockets = Sockets::open();
            enter_network(&self.own)?;
            sockets
        });
        // Where it may not be entered, it is not tried again.
        self.known.insert(about.ino(), opened.ok());
    }

    /// The socket with these ends, in whichever namespace.
    pub(super) fn find(&mut self, ends: &Ends, now: Duration) -> Option<Held> {
        if now.saturating_sub(self.second) >= Duration::from_secs(1) {
            (self.second, self.searches) = (now, 0);
        }
        self.searches += 1;
        if self.searches > SEARCHES_MAX {
            return None;
        }
        let tables = self.known.values_mut().flatten();
        tables.into_iter().find_map(|sockets| sockets.find(ends).ok().flatten().filter(|held| held.inode != 0))
    }
}
