//! Packets of this host's interfaces, both directions.

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub use linux::{Ring, wait};
