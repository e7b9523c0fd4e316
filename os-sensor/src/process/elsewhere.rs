//! Systems other than Linux.

use crate::names::Client;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

#[cfg(not(windows))]
pub use nothing::Sockets;

/// Systems that cannot be asked yet.
#[cfg(not(windows))]
mod nothing {
    use crate::process::{Ends, Held};
    use std::io;
    use thymus_record::owner::{Who, why};

    /// Sockets of which nothing is told.
    pub struct Sockets(());

    impl Sockets {
        /// Opens what there is.
        pub fn open() -> io::Result<Sockets> {
            Ok(Sockets(()))
        }

        /// The socket of this connection; `None` if there is none.
        pub fn find(&mut self, _: &Ends) -> io::Result<Option<Held>> {
            Ok(Some(Held { who: Who::unknown(why::NOT_HERE), ..Held::default() }))
        }
    }
}

/// First packets cannot be told from the rest.
pub struct Early(());

impl Early {
    /// There is no such thing here.
    pub fn open() -> io::Result<Early> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never one.
    pub fn next<'a>(&mut self, _: &'a mut [u8; 128]) -> Option<&'a [u8]> {
        None
    }
}

/// Wakes the thread.
pub struct Bell(SyncSender<()>);

/// The thread's end of the bell.
pub struct Waiter(Receiver<()>);

/// A bell.
pub fn bell() -> io::Result<(Bell, Waiter)> {
    let (ring, hear) = sync_channel(1);
    Ok((Bell(ring), Waiter(hear)))
}

impl Bell {
    /// Rings it.
    pub fn ring(&self) {
        let _ = self.0.try_send(());
    }
}

impl Waiter {
    /// Waits for the bell, at most so many milliseconds.
    pub fn wait(&mut self, _: Option<&Early>, _: &Client, at_most_ms: i32) {
        let _ = self.0.recv_timeout(Duration::from_millis(u64::try_from(at_most_ms).unwrap_or_default()));
    }
}
