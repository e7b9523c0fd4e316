//! What an agent tells its vSensor, from any thread, and what a new connection is told first.

use crate::uplink::UplinkState;
use std::sync::{Arc, Mutex, PoisonError};
use thymus_record::message::ToRelay;
use tokio::sync::mpsc;

/// Messages waiting to be told.
const MESSAGES_MAX: usize = 1_024;

/// Tells the vSensor something, from any thread.
#[derive(Clone)]
pub struct AgentControl {
    messages: mpsc::Sender<ToRelay>,
    state: Arc<Mutex<UplinkState>>,
    interfaces: Arc<Mutex<Option<ToRelay>>>,
}

impl AgentControl {
    /// Where messages go that are told while this state says so.
    pub(crate) fn new(state: Arc<Mutex<UplinkState>>) -> (AgentControl, mpsc::Receiver<ToRelay>) {
        let (messages, told) = mpsc::channel(MESSAGES_MAX);
        (AgentControl { messages, state, interfaces: Arc::default() }, told)
    }

    /// Tells the vSensor something. Where none is there, or it is far behind, it is forgotten; but which interfaces there
    /// are each connection is told first, since whose packets come is judged by them.
    pub fn tell(&self, message: ToRelay) {
        if matches!(message, ToRelay::Interfaces { .. }) {
            *self.interfaces.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.clone());
        }
        if self.state.lock().unwrap_or_else(PoisonError::into_inner).connected {
            let _ = self.messages.try_send(message);
        }
    }

    /// The interfaces, once they were told.
    pub(crate) fn interfaces(&self) -> Option<ToRelay> {
        self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
