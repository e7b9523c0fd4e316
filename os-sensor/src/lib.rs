//! The OS-sensor: a host's own traffic, one copy of each packet, to a vSensor. Modules in the order of the data.
#![deny(unsafe_code)]

/// The clock.
pub mod clock;
/// What each operating system does in its own way.
pub mod system;
/// Packets of this host's interfaces.
pub mod capture;
/// Which interfaces, and which addresses.
pub mod interfaces;
/// The policy's filter, in the kernel or here.
pub mod filter;
/// The cap on CPU.
pub mod throttle;
/// What is let in to be worked on.
pub mod gate;
/// The clock without its steps.
pub mod steady;
/// The head of each flow.
pub mod heads;
/// Metadata mode: flows become rows here.
pub mod meter;
/// Metadata mode, on and off.
pub mod metering;
/// What waits on disk.
pub mod waiting;
/// What is done every so often.
mod every;
/// Frames put together.
mod parcel;
/// How large packets are.
mod sizes;
/// Two views of one packet.
pub mod views;
/// What is sent, and what is left to others.
pub mod select;
/// What it takes, sends and costs.
pub mod cost;
/// Who holds a socket.
pub mod process;
/// The second service, which knows processes.
pub mod names;
/// Who holds this host's ends of its connections.
pub mod owners;
/// What the agent says of itself.
pub mod status;
/// Joining a deployment.
pub mod join;
/// All of it, running.
pub mod run;
/// Running as a service of the system.
pub mod service;
