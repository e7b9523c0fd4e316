//! `thymus-sensor replay`: capture files through the whole pipeline. It never sheds: it waits for ring and spool.

use crate::clock::{Clock, SystemClock};
use crate::config::Bytes;
use crate::counters::write_ledger;
use crate::pipeline::{Destination, Pipeline, PipelineConfig};
use crate::read::{FILE_BOOT, FILE_SECRET};
use crate::source::replay::{Pace, ReplaySource};
use crate::source::{PacketSource, Received};
use crate::worker::Stage;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thymus_record::BootId;

/// How long the master is waited for after the last packet.
const DRAIN_MAX: Duration = Duration::from_secs(3_600);
/// Between two observations of the sensor's health.
const OBSERVE_EVERY: Duration = Duration::from_secs(2);

/// Replays capture files through the pipeline of a live port.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// pcap or pcapng files, in this order.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// `1x` keeps the pace of the timestamps, `max` goes as fast as it can.
    #[arg(long, value_enum, default_value_t = PaceArg::Max)]
    pace: PaceArg,
    /// The sensor's state folder: records go to its master.
    #[arg(long, default_value = crate::DEFAULT_STATE, conflicts_with = "standalone")]
    state: PathBuf,
    /// Without a master: records are made, encoded, counted and dropped.
    #[arg(long)]
    standalone: bool,
    /// Keep the packets in a ring in this folder.
    #[arg(long)]
    ring: Option<PathBuf>,
    /// Size of the ring: bytes, or 512MiB, 8GiB.
    #[arg(long, default_value = "1GiB")]
    ring_bytes: Bytes,
    /// Write the closing ledger as a line of JSON to this file, '-' for stdout.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Answer packet queries after the last packet, until SIGTERM.
    #[arg(long)]
    stay: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum PaceArg {
    #[value(name = "1x")]
    Original,
    Max,
}

/// Runs the verb.
pub fn run(args: &ReplayArgs) -> ExitCode {
    match replay(args) {
        Ok(broken) if broken.is_empty() => ExitCode::SUCCESS,
        Ok(broken) => crate::failed("replay", &broken.join("\n")),
        Err(why) => crate::failed("replay", &why),
    }
}

fn replay(args: &ReplayArgs) -> Result<Vec<String>, String> {
    let stop = crate::stop_signal()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let pace = if args.pace == PaceArg::Original { Pace::Original } else { Pace::Max };
    let mut source =
        ReplaySource::open(args.files.clone(), pace, Arc::clone(&clock)).map_err(|error| error.to_string())?;
    let bytes: u64 = args.files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
    let destination = if args.standalone { Destination::Standalone } else { Destination::Master(args.state.clone()) };
    // Rows of a file are the same in every run, but two runs are two boots at a master.
    let boot = if args.standalone { FILE_BOOT } else { crate::random_boot()? };
    let mut pipeline = Pipeline::start(PipelineConfig {
        ports: vec![crate::read::port_name(&args.files)],
        workers: 1,
        flows_max: usize::try_from((bytes / 76).clamp(1_024, 262_144)).unwrap_or(1_024),
        secret: FILE_SECRET,
        boot: BootId(boot.0),
        ring: args.ring.clone().map(|dir| (dir, args.ring_bytes.0)),
        destination,
        live: false,
        duplicates: false,
        agents: Vec::new(),
        exchange: std::sync::Arc::default(),
        roots: std::sync::Arc::default(),
        watch: std::sync::Arc::default(),
        own: Arc::default(),
    })
    .map_err(|error| error.to_string())?;
    let mut stage = pipeline.stages.pop().ok_or("no worker")?;
    pump(&mut source, &mut stage, &stop, clock.as_ref(), || drop(pipeline.shared.health()))?;
    stage.finish();
    drop(stage);
    let finished = pipeline.finish_records();
    finished.shared.health();
    if args.stay {
        if let Some(path) = &args.ledger {
            finished.drain(DRAIN_MAX);
            write_ledger(&finished.shared.ledger(), path).map_err(|error| error.to_string())?;
        }
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
        }
    } else if !finished.drain(DRAIN_MAX) {
        return Err("the master did not take all records within an hour; they stay in the spool".to_owned());
    }
    let shared = finished.stop();
    if let Some(path) = args.ledger.as_ref().filter(|_| !args.stay) {
        write_ledger(&shared.ledger(), path).map_err(|error| error.to_string())?;
    }
    Ok(source.broken().to_vec())
}

/// All of the source through the stage.
fn pump(
    source: &mut ReplaySource,
    stage: &mut Stage,
    stop: &AtomicBool,
    clock: &dyn Clock,
    observe: impl Fn(),
) -> Result<(), String> {
    let mut observed = clock.monotonic();
    let mut bursts = 0u32;
    while !stop.load(Ordering::Relaxed) {
        match source.receive_burst(|burst| stage.burst(burst)).map_err(|error| error.to_string())? {
            Received::End => return Ok(()),
            Received::Frames(0) => std::thread::sleep(Duration::from_micros(500)),
            Received::Frames(_) => {}
        }
        bursts = bursts.wrapping_add(1);
        if bursts.is_multiple_of(1_024) && clock.monotonic().saturating_sub(observed) > OBSERVE_EVERY {
            observed = clock.monotonic();
            observe();
        }
    }
    Ok(())
}
