//! The master: enrols sensors, stores and searches, knows devices, fetches packets back, serves API and page.
#![forbid(unsafe_code)]

/// The one clock.
pub mod clock;
/// The data folder.
pub mod data;
/// Tokens, users, sensors and audit: the small state.
pub mod book;
/// Who asks, and what they may see.
pub mod access;
/// Sensors connected now.
pub mod sensors;
/// Whose rows a connection may bring.
mod bearer;
/// Groups of agents over all vSensors.
pub mod groups;
/// Batches in: journal, sync, acknowledge.
pub mod ingest;
/// Devices, from rows.
pub mod entity;
/// Packets fetched back from sensors.
pub mod retrieve;
/// The HTTP API.
pub mod api;
/// The page.
pub mod ui;
/// Prometheus metrics.
pub mod metrics;
/// Verbs that speak to the running master.
pub mod admin;
/// What OS-sensors are to do.
pub mod policies;
/// OS-sensors, by the command line.
pub mod agents;
/// Everything into a file, and back.
pub mod backup;
/// What the master needs, looked at.
pub mod doctor;
/// The names under which this host is reached.
pub mod advertise;
/// All of it, running.
pub mod server;
