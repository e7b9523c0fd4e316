//! Where packets come from. A source lends a whole burst and its time for the length of one call; an empty burst is
//! lent too, so that an idle port's time goes on.

/// Traffic made from a seed.
pub mod generate;
/// A Linux interface, by AF_PACKET.
pub mod af_packet;
/// A DPDK port.
#[cfg(feature = "dpdk")]
pub mod dpdk;
/// Capture files.
pub mod replay;

use crate::clock::Clock;
use crate::config::Port;
use crate::sight::{Link, Sight};
use std::sync::Arc;
use thymus_dissect::Frame;
use thymus_record::Time;
use thymus_record::ledger::Count;

/// Most frames in a burst.
pub const BURST_MAX: usize = 64;

/// Frames received together.
#[derive(Clone, Copy, Debug)]
pub struct Burst<'a> {
    /// The frames, at most [`BURST_MAX`], in the order received; never an earlier time than the frame before, per port.
    pub frames: &'a [Frame<'a>],
    /// Packet time now: the last frame's time, or where none came what the source says the time is.
    pub now: Time,
}

/// What a source counted so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SourceCounters {
    /// Delivered in bursts.
    pub received: Count,
    /// Dropped before us by NIC or kernel: no mbuf, no descriptor, socket buffer full.
    pub missed: Count,
    /// Delivered in part or not at all because they were not whole.
    pub error: Count,
    /// Received, and left out as copies before they were lent.
    pub duplicate: Count,
}

/// The network card behind a port, as far as it is one.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its own address.
    pub address: Option<[u8; 6]>,
    /// Its name in Linux; none for a card that DPDK has taken over.
    pub interface: Option<String>,
}

impl Card {
    /// A Linux interface's.
    pub fn of(interface: &str) -> Card {
        let path = std::path::Path::new("/sys/class/net").join(interface).join("address");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut bytes = text.trim().split(':').map(|part| u8::from_str_radix(part, 16).ok());
        let address = std::array::from_fn(|_| bytes.next().flatten());
        let address = address.iter().all(Option::is_some).then(|| address.map(Option::unwrap_or_default));
        Card { address, interface: Some(interface.to_owned()) }
    }
}

/// What became of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// So many frames were lent; 0 if none were there.
    Frames(usize),
    /// The source has come to its end (files, a bounded generator, a port that went away).
    End,
}

/// A place that packets come from, owned by one worker.
pub trait PacketSource {
    /// Lends the next burst to `each`, exactly once unless the source has ended. Never blocks longer than a poll.
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError>
    where
        Self: Sized;

    /// What the source counted so far.
    fn counters(&mut self) -> SourceCounters;

    /// The link, of a card that only the source can ask.
    fn link(&mut self) -> Link {
        Link::Unknown
    }
}

/// A source cannot go on. The text says what broke, where, and the cure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// A live port of either kind.
pub enum AnySource {
    /// By AF_PACKET.
    AfPacket(Box<af_packet::AfPacketPort>),
    /// By DPDK.
    #[cfg(feature = "dpdk")]
    Dpdk(Box<dpdk::DpdkPort>),
    /// OS-sensors.
    Agents(Box<crate::relay::AgentSource>),
}

impl AnySource {
    /// Opens a port as configured.
    pub fn open(port: &Port, number: u16, clock: &Arc<dyn Clock>) -> Result<AnySource, SourceError> {
        match port {
            Port::AfPacket(interface) => {
                let port = af_packet::AfPacketPort::open(interface, number, Arc::clone(clock))?;
                Ok(AnySource::AfPacket(Box::new(port)))
            }
            #[cfg(feature = "dpdk")]
            Port::Dpdk(device) => {
                let port = dpdk::DpdkPort::open(device, number, Arc::clone(clock))?;
                Ok(AnySource::Dpdk(Box::new(port)))
            }
            #[cfg(not(feature = "dpdk"))]
            Port::Dpdk(device) => Err(SourceError(format!(
                "dpdk:{device}: this build has no DPDK; name the interface as \"af_packet:NAME\" instead"
            ))),
        }
    }
}

impl AnySource {
    /// The watch over its card; `None` for OS-sensors.
    pub fn sight(&self) -> Option<Arc<Sight>> {
        let card = match self {
            AnySource::AfPacket(port) => port.card(),
            #[cfg(feature = "dpdk")]
            AnySource::Dpdk(port) => port.card(),
            AnySource::Agents(_) => return None,
        };
        Some(Arc::new(Sight::new(card)))
    }
}

impl PacketSource for AnySource {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        match self {
            AnySource::AfPacket(port) => port.receive_burst(each),
            #[cfg(feature = "dpdk")]
            AnySource::Dpdk(port) => port.receive_burst(each),
            AnySource::Agents(agents) => agents.receive_burst(each),
        }
    }

    fn counters(&mut self) -> SourceCounters {
        match self {
            AnySource::AfPacket(port) => port.counters(),
            #[cfg(feature = "dpdk")]
            AnySource::Dpdk(port) => port.counters(),
            AnySource::Agents(agents) => agents.counters(),
        }
    }
    fn link(&mut self) -> Link {
        match self {
            #[cfg(feature = "dpdk")]
            AnySource::Dpdk(port) => port.link(),
            _ => Link::Unknown,
        }
    }
}
