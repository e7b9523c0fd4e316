//! `tier [SMALL|MEDIUM|LARGE…] [--seconds N]`: the whole sensor on generated traffic at the rate of each tier of
//! `tiers.toml`: poll loop, flows, records, batches, and a ring on disk. Like a NIC, the source has 4,096 descriptors;
//! what comes while all are taken is missed. Prints loss, metadata share, CPU, memory and the margin, and ends with 1
//! where a tier does not hold.
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use serde::Deserialize;
use std::error::Error;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use thymus_record::BootId;
use thymus_record::ledger::Ledger;
use thymus_record::time::SECOND;
use thymus_sensor::clock::{Clock, SystemClock};
use thymus_sensor::pipeline::{Destination, Pipeline, PipelineConfig};
use thymus_sensor::source::generate::{Generate, Limit, Traffic};
use thymus_sensor::source::{Burst, PacketSource, Received, SourceCounters, SourceError};
use thymus_sensor::worker::{Gauges, LoopPort, poll};

const DESCRIPTORS: u64 = 4_096;

#[derive(Deserialize)]
struct Tiers {
    tier: Vec<Tier>,
}

#[derive(Clone, Deserialize)]
struct Tier {
    name: String,
    devices: u32,
    mbps: u32,
    connections_per_minute: u32,
    cpus: usize,
    memory_gib: u64,
    disk_gib: u64,
}

impl Tier {
    fn traffic(&self, seconds: u64) -> Traffic {
        Traffic {
            devices: self.devices,
            mbps: self.mbps,
            connections_per_minute: self.connections_per_minute,
            limit: Limit::Nanoseconds(seconds * SECOND),
            ..Traffic::default()
        }
    }
}

/// Generated traffic at the pace of the clock. Who comes late finds at most the descriptors full; the rest is missed.
struct Paced {
    source: Generate,
    clock: Arc<dyn Clock>,
    began: Option<(u64, Duration)>,
    missed: SourceCounters,
    is_paced: bool,
}

impl PacketSource for Paced {
    fn receive_burst(&mut self, each: impl FnOnce(Burst<'_>)) -> Result<Received, SourceError> {
        let (clock, began, missed, is_paced) = (&self.clock, &mut self.began, &mut self.missed, self.is_paced);
        self.source.receive_burst(|burst| {
            let (Some(first), Some(last)) = (burst.frames.first(), burst.frames.last()) else { return each(burst) };
            let (packet, wall) = *began.get_or_insert_with(|| (first.time.0, clock.monotonic()));
            let due = wall + Duration::from_nanos(last.time.0 - packet);
            let now = clock.monotonic();
            if is_paced && now < due {
                std::thread::sleep(due.checked_sub(now).unwrap_or_default());
            }
            let gap = (last.time.0 - first.time.0).max(1);
            let late = u64::try_from(now.saturating_sub(due).as_nanos()).unwrap_or(u64::MAX);
            // So many packets came meanwhile, at the rate of this burst.
            if is_paced && late / (gap / burst.frames.len() as u64 + 1) > DESCRIPTORS {
                burst.frames.iter().for_each(|frame| missed.missed.add(u64::from(frame.wire_len)));
                return each(Burst { frames: &[], now: burst.now });
            }
            each(burst);
        })
    }

    fn counters(&mut self) -> SourceCounters {
        SourceCounters { missed: self.missed.missed, ..self.source.counters() }
    }
}

/// User and system time of this process, and its peak memory in KiB.
fn used() -> Result<(f64, u64), Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let peak = peak.trim().trim_end_matches(" kB").parse()?;
    // Linux counts in hundredths of a second wherever it runs.
    Ok(((ticks(11) + ticks(12)) / 100.0, peak))
}

fn run_sensor(tier: &Tier, seconds: u64, is_paced: bool) -> Result<(Ledger, f64), Box<dyn Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let base = std::env::var("THYMUS_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".to_owned());
    let dir = tempfile::tempdir_in(base)?;
    let mut pipeline = Pipeline::start(PipelineConfig {
        ports: vec!["generated".to_owned()],
        workers: 1,
        flows_max: 131_072,
        secret: [7, 11],
        boot: BootId(1),
        ring: Some((dir.path().to_owned(), (tier.disk_gib << 30).min(1 << 30))),
        destination: Destination::Standalone,
        live: is_paced,
        duplicates: is_paced,
        agents: Vec::new(),
        exchange: std::sync::Arc::default(),
        roots: std::sync::Arc::default(),
        watch: std::sync::Arc::default(),
        own: Arc::default(),
    })?;
    let mut stage = pipeline.stages.pop().ok_or("no worker")?;
    let source = Generate::new(tier.traffic(seconds))?;
    let source = Paced { source, clock: Arc::clone(&clock), began: None, missed: SourceCounters::default(), is_paced };
    let began = clock.monotonic();
    poll(
        &mut [LoopPort { port: 0, source, sight: None }],
        &mut stage,
        &AtomicBool::new(false),
        clock.as_ref(),
        &Gauges::default(),
    )?;
    stage.finish();
    drop(stage);
    let shared = pipeline.finish_records().stop();
    Ok((shared.ledger(), (clock.monotonic().saturating_sub(began)).as_secs_f64()))
}

/// One tier, in this process alone; a line of figures.
fn measure(tier: &Tier, seconds: u64) -> Result<bool, Box<dyn Error>> {
    let (ledger, wall) = run_sensor(tier, seconds, true)?;
    let (cpu, peak) = used()?;
    let mut idle = Generate::new(tier.traffic(seconds))?;
    while idle.receive_burst(|_| ())? != Received::End {}
    let generator = used()?.0 - cpu;
    let (fast, took) = run_sensor(tier, seconds, false)?;
    let packets = ledger.offered.packets as f64;
    let lost = ledger.missed.packets + ledger.shed.packets + ledger.records.shed;
    let share = 100.0 * ledger.metadata_bytes as f64 / ledger.received.bytes.max(1) as f64;
    let sensor = (cpu - generator).max(0.0);
    let margin = seconds as f64 / took;
    let holds =
        lost == 0 && ledger.imbalances().is_empty() && fast.imbalances().is_empty() && peak >> 20 <= tier.memory_gib;
    println!(
        "{:<7} {:>5.0} Mbit/s {:>9} packets  lost {lost}  metadata {share:.3} %  CPU {:.1} % of a core ({:.0} ns a packet)  peak {} MiB of {} GiB  margin {margin:.1} x  {}",
        tier.name,
        ledger.offered.bytes as f64 * 8e-6 / wall,
        ledger.offered.packets,
        100.0 * sensor / wall,
        1e9 * sensor / packets.max(1.0),
        peak >> 10,
        tier.memory_gib,
        if holds { "holds" } else { "DOES NOT HOLD" }
    );
    Ok(holds)
}

fn all(names: &[String], seconds: u64) -> Result<bool, Box<dyn Error>> {
    let tiers: Tiers = toml::from_str(include_str!("../../tiers.toml"))?;
    let here = std::thread::available_parallelism()?.get();
    let mut holds = true;
    for tier in tiers.tier.iter().filter(|tier| names.is_empty() || names.contains(&tier.name)) {
        // A process a tier: its own cores, and its own peak of memory.
        let cores = tier.cpus.min(here);
        let mut command = Command::new("taskset");
        command.args(["-c", &format!("0-{}", cores - 1)]).arg(std::env::current_exe()?);
        let status = command.args(["--one", &tier.name, "--seconds", &seconds.to_string()]).status()?;
        if cores < tier.cpus {
            println!("        on {cores} cores: this machine has no {}", tier.cpus);
        }
        holds &= status.success();
    }
    Ok(holds)
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let at = arguments.iter().position(|each| each == name)?;
        let value = arguments.get(at + 1).cloned();
        arguments.drain(at..(at + 2).min(arguments.len()));
        value
    };
    let seconds = option("--seconds").and_then(|text| text.parse().ok()).unwrap_or(10);
    let one = option("--one");
    let tiers: Result<Tiers, _> = toml::from_str(include_str!("../../tiers.toml"));
    let done = match (one, tiers) {
        (Some(name), Ok(tiers)) => match tiers.tier.iter().find(|tier| tier.name == name) {
            Some(tier) => measure(tier, seconds),
            None => Err(format!("no tier is named {name}").into()),
        },
        _ => all(&arguments, seconds),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tier: {error}");
            ExitCode::FAILURE
        }
    }
}
