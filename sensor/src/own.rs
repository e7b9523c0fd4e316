//! The connections of the sensor's own transport, for poll loops: to the master, and from agents. A span or an agent that
//! sees them shows again what is in the ring already, as packets of packets; their frames are counted as filtered.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thymus_dissect::flow::OwnEnds;

/// Our end and the peer's.
pub type Connection = (SocketAddr, SocketAddr);

#[derive(Default)]
struct State {
    master: Option<Connection>,
    agents: Vec<(u32, Connection)>,
    ends: Arc<OwnEnds>,
}

/// Written by who speaks, read by poll loops.
#[derive(Default)]
pub struct OwnTransport {
    generation: AtomicU32,
    state: Mutex<State>,
}

impl OwnTransport {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, mut state: MutexGuard<'_, State>) {
        let agents = state.agents.iter().map(|(_, connection)| *connection);
        state.ends = Arc::new(OwnEnds::new(agents.chain(state.master)));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The connection to the master now. One that ended stays until the next: its last packets may still come.
    pub fn set_master(&self, connection: Option<Connection>) {
        let mut state = self.state();
        if connection.is_some() && connection != state.master {
            state.master = connection;
            self.publish(state);
        }
    }

    /// An agent connected; a restarted one may be there twice.
    pub fn enter(&self, agent: u32, connection: Connection) {
        let mut state = self.state();
        state.agents.push((agent, connection));
        self.publish(state);
    }

    /// An agent is gone, with all its connections.
    pub fn leave(&self, agent: u32) {
        let mut state = self.state();
        state.agents.retain(|(id, _)| *id != agent);
        self.publish(state);
    }

    /// All connections, where they are others than those that were `known`. Called once a burst.
    #[inline]
    pub fn newer(&self, known: &mut u32) -> Option<Arc<OwnEnds>> {
        let generation = self.generation.load(Ordering::Acquire);
        if generation == *known {
            return None;
        }
        *known = generation;
        Some(Arc::clone(&self.state().ends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_loops_hear_of_each_change_once() {
        let (own, mut known) = (OwnTransport::default(), 0);
        let connection = |port| ("10.0.0.1:443".parse().unwrap(), SocketAddr::from(([10, 0, 0, 2], port)));
        assert!(own.newer(&mut known).is_none());
        own.set_master(Some(connection(1)));
        own.enter(7, connection(2));
        own.enter(7, connection(3));
        let of = |ports: &[u16]| OwnEnds::new(ports.iter().map(|port| connection(*port)));
        assert_eq!(*own.newer(&mut known).unwrap(), of(&[1, 2, 3]));
        assert!(own.newer(&mut known).is_none());
        own.set_master(None);
        own.set_master(Some(connection(1)));
        assert!(own.newer(&mut known).is_none(), "nothing changed");
        own.leave(7);
        assert_eq!(*own.newer(&mut known).unwrap(), of(&[1]));
    }
}
