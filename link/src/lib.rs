//! The link between sensor and master: one TLS connection that carries everything, both ways, and who may make it.
//!
//! Sensor side: [`enrol::join`] makes an identity, [`spool::Spool`] keeps batches on disk, [`uplink::Uplink`] delivers
//! them and answers packet queries. Master side: [`issuer::Issuer`] signs, [`listener::Listener`] accepts.
#![forbid(unsafe_code)]

/// What lets a sensor join, as text.
pub mod token;
/// A sensor's key, certificate and master.
pub mod identity;
/// The master's own certification authority.
pub mod issuer;
/// TLS configurations: one family of protocols each.
pub mod tls;
/// Messages on the wire.
pub mod frame;
/// Joining by token, both sides.
pub mod enrol;
/// Batches waiting on disk.
pub mod spool;
/// Packet queries answered.
mod answering;
/// Root works on a service's folder as its user.
pub mod owner;
/// Which process wrote a state.
pub mod process;
/// Failures in words.
pub mod cure;
/// Messages between the master and what serves a vSensor's agents.
pub mod exchange;
/// An OS-sensor and its vSensor.
pub mod agent;
/// Captured frames put together.
mod parcel;
/// What the master says of batches.
mod settle;
/// Refused, and heard.
mod goodbye;
/// Which of several vSensors.
mod dial;
/// The limit on what an agent sends.
mod allowance;
/// Told to stop.
mod stop;
/// Parcels on their way to the link's thread.
mod outgoing;
/// What an agent has not delivered yet.
mod undelivered;
/// What was delivered, and what the run before did not.
mod delivered;
/// What an agent tells its vSensor.
mod control;
/// The vSensor's side of its agents' connections.
pub mod relay;
/// The sensor's side of the connection.
pub mod uplink;
/// The master's side.
pub mod listener;

pub use exchange::Exchange;
pub use identity::{Identity, Role};
pub use issuer::Issuer;
pub use listener::{Accepted, FromSensor, LinkReceiver, LinkSender, Listener, SensorPeer};
pub use spool::Spool;
pub use token::Token;
pub use uplink::{Answer, Uplink};
