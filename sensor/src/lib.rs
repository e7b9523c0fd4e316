//! The vSensor: packets in at a port, packets to the ring, metadata to the master. Modules in the order of the data.
#![deny(unsafe_code)]

/// Where packets come from: DPDK, AF_PACKET, capture files, the generator.
pub mod source;
/// The rolling capture: staging, slots, index, queries.
pub mod ring;
/// The one clock.
pub mod clock;
/// Memory that is not Rust's own.
pub mod memory;
/// What became of each packet.
pub mod counters;
/// What a port shows beside its packets.
pub mod sight;
/// Second copies of a span.
pub mod duplicate;
/// One receiving core deals to several workers.
pub mod deal;
/// How far an OS-sensor's clock is off.
pub mod offset;
/// OS-sensors as one more port.
pub mod relay;
/// Filters for OS-sensors, compiled.
pub mod filter;
/// What OS-sensors are to do.
pub mod orders;
/// Its own connections.
pub mod own;
/// One poll loop.
pub mod worker;
/// Packet queries answered.
pub mod answer;
/// Why a port shows nothing.
pub mod silence;
/// The sensor's state, from packets.
pub mod health;
/// Prometheus metrics.
pub mod metrics;
/// The configuration file.
pub mod config;
/// The pieces put together.
pub mod pipeline;
/// `query`: packets of a ring.
pub mod query;
/// `read`: capture files to Zeek logs or JSON lines.
pub mod read;
/// `run`: live ports until SIGTERM.
pub mod run;
/// `replay`: capture files through the pipeline.
pub mod replay;
/// `status`: the running sensor in words.
pub mod status;
/// `doctor`: what a sensor needs, looked at.
pub mod doctor;
/// `join`: an identity from a token.
pub mod join;

#[cfg(test)]
mod ledger_tests;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use thymus_record::BootId;

/// Where a sensor's key, certificate and spool are unless it is told otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/thymus/sensor";

/// Says on stderr why a verb failed; status 1.
pub fn failed(verb: &str, why: &str) -> ExitCode {
    eprintln!("thymus-sensor {verb}: {why}");
    ExitCode::FAILURE
}

/// True after SIGTERM or Ctrl-C.
pub fn stop_signal() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| format!("no signal handler: {error}"))?;
    }
    Ok(stop)
}

/// A fresh boot id, from the system's random numbers.
pub fn random_boot() -> Result<BootId, String> {
    let mut bytes = [0; 8];
    let read =
        std::fs::File::open("/dev/urandom").and_then(|mut source| std::io::Read::read_exact(&mut source, &mut bytes));
    read.map_err(|error| format!("/dev/urandom: {error}"))?;
    Ok(BootId(u64::from_le_bytes(bytes)))
}
