//! Messages between the master and the part of a vSensor that serves agents, over the uplink: that part reads what came
//! when it has time, and says what it has to say while a connection stands.

use crate::frame::WireFrame;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use thymus_record::message::{AgentHealth, Hello, ToMaster, ToSensor};
use tokio::sync::mpsc::UnboundedSender;

/// Messages that wait to be read; beyond it the oldest goes, and the master says it again when it connects.
const WAITING_MAX: usize = 1_024;

/// Bytes of agents in one message; beside them it holds the number of each.
const SLICE_BYTES: usize = 24 << 10;

#[derive(Default)]
struct State {
    heard: VecDeque<ToSensor>,
    outbox: Option<UnboundedSender<WireFrame>>,
}

/// The place where they meet.
#[derive(Default)]
pub struct Exchange(Mutex<State>);

impl Exchange {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the master said since the call before; its hello where a connection begins.
    pub fn heard(&self) -> Vec<ToSensor> {
        self.state().heard.drain(..).collect()
    }

    /// Tells the master something; false where no connection stands, and it is lost.
    pub fn tell(&self, message: &ToMaster) -> bool {
        let state = self.state();
        state.outbox.as_ref().is_some_and(|outbox| outbox.send(WireFrame::control(message)).is_ok())
    }

    /// The master said something.
    pub fn hear(&self, message: ToSensor) {
        let mut state = self.state();
        if state.heard.len() >= WAITING_MAX {
            state.heard.pop_front();
        }
        state.heard.push_back(message);
    }

    /// A connection stands, or none does.
    pub(crate) fn connect(&self, outbox: Option<UnboundedSender<WireFrame>>) {
        if outbox.is_some() {
            self.hear(ToSensor::Hello(Hello::default()));
        }
        self.state().outbox = outbox;
    }
}

/// All agents in messages that each fit a frame; without any agent one that says so.
pub(crate) fn slices_of(agents: Vec<AgentHealth>) -> Vec<ToMaster> {
    let connected: Vec<u32> = agents.iter().map(|agent| agent.id).collect();
    let (mut slices, mut slice, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut close = |agents: Vec<AgentHealth>| {
        slices.push(ToMaster::Agents { connected: connected.clone(), agents });
    };
    for agent in agents {
        bytes += serde_json::to_vec(&agent).map_or(0, |text| text.len());
        slice.push(agent);
        if bytes > SLICE_BYTES {
            close(std::mem::take(&mut slice));
            bytes = 0;
        }
    }
    close(slice);
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PAYLOAD_MAX;

    #[test]
    fn thousands_of_agents_fit_frames_and_each_is_told_once() {
        let agent = |id| AgentHealth { id, name: "x".repeat(500), ..AgentHealth::default() };
        for count in [0, 1, 2_000] {
            let slices = slices_of((0..count).map(agent).collect());
            let mut told = Vec::new();
            for slice in &slices {
                assert!(serde_json::to_vec(slice).unwrap().len() <= PAYLOAD_MAX);
                let ToMaster::Agents { connected, agents } = slice else { panic!("another message") };
                assert_eq!(connected.len(), count as usize);
                told.extend(agents.iter().map(|agent| agent.id));
            }
            assert_eq!(told, (0..count).collect::<Vec<u32>>());
        }
    }

    #[test]
    fn what_nobody_reads_is_bounded_and_nothing_is_told_without_a_connection() {
        let exchange = Exchange::default();
        (0..5_000).for_each(|_| exchange.hear(ToSensor::Ping {}));
        assert_eq!(exchange.heard().len(), WAITING_MAX);
        assert!(exchange.heard().is_empty());
        assert!(!exchange.tell(&ToMaster::Unknown));
    }
}
