//! One adapter of Windows: by Packet Monitor, which comes with Server 2022 and Windows 11 and needs no driver, else by
//! Npcap where the user has it. Both are loaded at run time; neither is required to start, and neither is bundled.
#![expect(unsafe_code, reason = "the system's and the drivers' interfaces are C")]

pub(crate) mod adapters;
mod npcap;
mod packet_monitor;

use crate::capture::Taker;
use std::io;
use std::time::Duration;
use thymus_record::policy::Instruction;

/// The buffers take 8 MiB: 160 ms at 400 Mbit/s.
const NAP_MAX: Duration = Duration::from_millis(10);

/// An adapter being captured.
pub struct Ring(Route);

enum Route {
    PacketMonitor(packet_monitor::Session),
    Npcap(npcap::Handle),
}

impl Ring {
    /// Opens an adapter by the name that people see.
    pub fn open(interface: &str, _filter: &[Instruction]) -> io::Result<Ring> {
        let adapter = adapters::all()?.into_iter().find(|each| each.name == interface);
        let adapter = adapter.ok_or_else(|| io::Error::other("there is no such adapter"))?;
        let first = match packet_monitor::Session::open(&adapter) {
            Ok(session) => {
                tracing::info!("{interface}: by Packet Monitor");
                return Ok(Ring(Route::PacketMonitor(session)));
            }
            Err(why) => why,
        };
        match npcap::Handle::open(&adapter) {
            Ok(handle) => {
                tracing::info!("{interface}: by Npcap ({first})");
                Ok(Ring(Route::Npcap(handle)))
            }
            Err(second) => Err(io::Error::other(format!("{first}; {second}"))),
        }
    }

    /// Neither route takes a filter: it runs in the agent.
    pub fn filter(&mut self, _filter: &[Instruction]) {}

    /// False: the filter is the caller's to run.
    pub fn is_filtering(&self) -> bool {
        false
    }

    /// Gives every frame that is there to the taker.
    pub fn drain(&mut self, taker: &mut impl Taker) {
        match &mut self.0 {
            Route::PacketMonitor(session) => session.drain(taker),
            Route::Npcap(handle) => handle.drain(taker),
        }
    }

    /// Packets that were lost before we saw them, since the call before.
    pub fn drops(&self) -> u64 {
        match &self.0 {
            Route::PacketMonitor(session) => session.drops(),
            Route::Npcap(handle) => handle.drops(),
        }
    }
}

/// What to do about an error of `open`: its own text says it already.
pub fn cure(_error: &io::Error) -> &'static str {
    ""
}

/// Waits for packets: neither route can wake a waiter for several adapters, so this is a nap.
pub fn wait<'a>(_rings: impl Iterator<Item = &'a Ring>, at_most: Duration) {
    std::thread::sleep(at_most.min(NAP_MAX));
}
