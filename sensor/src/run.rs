//! `thymus-sensor run`: capture, record, forward, until SIGTERM. The first configured core receives; where there are
//! several, it deals to the others.

use crate::clock::{Clock, SystemClock};
use crate::config::{AgentsSection, Config, Port};
use crate::counters::write_ledger;
use crate::deal::{DealNotes, Dealer, DealtSource, deal_to};
use crate::metrics;
use crate::orders::Orders;
use crate::own::OwnTransport;
use crate::pipeline::{Destination, Pipeline, PipelineConfig, Shared};
use crate::relay::{self, Group, GroupParts};
use crate::silence::Opened;
use crate::source::{AnySource, Burst, SourceCounters};
use crate::worker::{Gauges, LoopBody, LoopPort, Stage, poll};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use thymus_dissect::flow::Roots;
use thymus_link::relay::Relay;
use thymus_link::{Exchange, Identity};
use thymus_witness::SpanWatch;

/// Between two observations of the sensor's health, and two status files.
const OBSERVE_EVERY: Duration = Duration::from_secs(2);
/// Parcels that were dealt are taken within this time.
const DEALT_WITHIN: Duration = Duration::from_millis(200);
/// How long the master is waited for after the last packet; what it has not taken then stays in the spool.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Captures packets until SIGTERM.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// The state folder that 'join' made.
    #[arg(long, default_value = crate::DEFAULT_STATE, conflicts_with = "standalone")]
    state: PathBuf,
    /// Without a master: records are made, encoded, counted and dropped.
    #[arg(long)]
    standalone: bool,
    /// Write the closing ledger as a line of JSON to this file, '-' for stdout.
    #[arg(long)]
    ledger: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: &RunArgs) -> ExitCode {
    match capture(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => crate::failed("run", &why),
    }
}

type Ports = Vec<LoopPort<AnySource>>;

fn capture(args: &RunArgs) -> Result<(), String> {
    let stop = crate::stop_signal()?;
    let config = Config::load(&args.config).map_err(|error| error.to_string())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let cores = cores_of(&config)?;
    let (mut ports, opened) = open_ports(&config.capture.ports, &clock)?;
    let mut names: Vec<String> = config.capture.ports.iter().map(Port::to_string).collect();
    let (exchange, roots, watch): (Arc<Exchange>, Arc<Roots>, Arc<SpanWatch>) = Default::default();
    let own: Arc<OwnTransport> = Arc::default();
    let shared = (Arc::clone(&exchange), Arc::clone(&roots), Arc::clone(&watch), Arc::clone(&own));
    let relayed = agents_of(args, &config, (&mut ports, &mut names), shared, &clock)?;
    let destination = if args.standalone { Destination::Standalone } else { Destination::Master(args.state.clone()) };
    let workers = cores.len().saturating_sub(1).max(1);
    let mut pipeline = Pipeline::start(PipelineConfig {
        ports: names.clone(),
        workers,
        flows_max: config.flows.max,
        secret: [crate::random_boot()?.0, crate::random_boot()?.0],
        boot: crate::random_boot()?,
        ring: config.ring.as_ref().map(|ring| (ring.path.clone(), ring.bytes.0)),
        destination,
        live: true,
        duplicates: config.capture.duplicates,
        agents: relayed.as_ref().map(|relayed| relayed.0.addresses()).unwrap_or_default(),
        exchange,
        roots,
        watch,
        own,
    })
    .map_err(|error| error.to_string())?;
    let waiting = waiting(&config.capture.ports, &opened);
    pipeline.shared.watch_ports(opened);
    let (report, ended) = mpsc::channel();
    let stages = std::mem::take(&mut pipeline.stages);
    let halt = Arc::new(AtomicBool::new(false));
    let threads = start_threads(ports, stages, &cores, &halt, &clock, &report)?;
    let relay = match relayed {
        Some((section, group)) => Some(start_relay(args, &section, group, &pipeline.shared)?),
        None => None,
    };
    tracing::info!("capturing from {}", names.join(", "));
    if let Some(listen) = config.metrics.listen {
        serve_metrics(listen, &pipeline.shared);
    }
    let broken = attend(args, &pipeline.shared, &stop, &ended, &waiting);
    if let Some(relay) = relay {
        relay.stop();
        // What agents sent is dealt, and taken before the poll loops end.
        std::thread::sleep(DEALT_WITHIN);
    }
    halt.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    let finished = pipeline.finish_records();
    finished.shared.health();
    finished.drain(DRAIN_MAX);
    let shared = finished.stop();
    if let Some(path) = &args.ledger {
        write_ledger(&shared.ledger(), path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    broken.map_or(Ok(()), Err)
}

/// Until it is told to stop, a poll loop ends, or a port that was refused can be had: observes and notes the state.
fn attend(
    args: &RunArgs,
    shared: &Shared,
    stop: &AtomicBool,
    ended: &mpsc::Receiver<String>,
    waiting: &[Port],
) -> Option<String> {
    while !stop.load(Ordering::Relaxed) {
        let broken = ended.recv_timeout(OBSERVE_EVERY).ok();
        shared.health();
        if !args.standalone {
            write_status(&args.state, shared);
        }
        let there = waiting.iter().find(|port| port.is_there());
        let broken = broken.or(there.map(|port| format!("{port} is there now: starting again takes it")));
        if broken.is_some() {
            return broken;
        }
    }
    None
}

/// Where OS-sensors are taken: their group, and their source as one more port.
fn agents_of(
    args: &RunArgs,
    config: &Config,
    (ports, names): (&mut Ports, &mut Vec<String>),
    (exchange, roots, watch, own): (Arc<Exchange>, Arc<Roots>, Arc<SpanWatch>, Arc<OwnTransport>),
    clock: &Arc<dyn Clock>,
) -> Result<Option<(AgentsSection, Group)>, String> {
    let Some(section) = config.agents.clone() else { return Ok(None) };
    if args.standalone {
        return Err("[agents] needs a master, which knows them: join one, and run without --standalone".to_owned());
    }
    let number = u16::try_from(ports.len()).map_err(|_error| "too many ports".to_owned())?;
    let identity = Identity::load(&args.state).map_err(|error| error.to_string())?;
    let (group, source) = relay::group(GroupParts {
        port: number,
        sensor: (identity.sensor.0, identity.group),
        exchange,
        roots,
        watch,
        homes: args.state.join("homes.json"),
        own,
        orders: Orders::load(&args.state),
        clock: Arc::clone(clock),
    });
    ports.push(LoopPort { port: number, source: AnySource::Agents(Box::new(source)), sight: None });
    names.push("agents".to_owned());
    Ok(Some((section, group)))
}

fn start_relay(args: &RunArgs, section: &AgentsSection, mut group: Group, shared: &Shared) -> Result<Relay, String> {
    let identity = Identity::load(&args.state).map_err(|error| error.to_string())?;
    shared.take_agents(group.notes());
    group.tell_owners(shared.owners());
    let relay = Relay::start(identity, section.listen, Box::new(group));
    relay.map_err(|error| format!("[agents] listen {}: {error}; choose another address or port", section.listen))
}

/// The cores to use: those configured, else all but the first.
fn cores_of(config: &Config) -> Result<Vec<usize>, String> {
    let there: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let cores = match &config.capture.cores {
        Some(cores) => cores.clone(),
        None if there.len() > 1 => there.iter().skip(1).copied().collect(),
        None => there.clone(),
    };
    match cores.iter().find(|core| !there.is_empty() && !there.contains(core)) {
        Some(core) => Err(format!("[capture] cores names core {core}, and this machine lets us use {there:?}")),
        None => Ok(cores),
    }
}

/// Opens what can be opened: one card that cannot be must not blind the others. None at all is an error.
fn open_ports(ports: &[Port], clock: &Arc<dyn Clock>) -> Result<(Ports, Vec<Opened>), String> {
    let (mut open, mut opened, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for (number, port) in (0u16..).zip(ports) {
        match AnySource::open(port, number, clock) {
            Ok(source) => {
                let sight = source.sight();
                opened.push(Opened::Yes(sight.clone()));
                open.push(LoopPort { port: number, source, sight });
            }
            Err(error) => {
                tracing::error!("{error}");
                opened.push(Opened::No(error.to_string()));
                refused.push(error.to_string());
            }
        }
    }
    if open.is_empty() && !refused.is_empty() { Err(refused.join("; ")) } else { Ok((open, opened)) }
}

/// Ports that were refused for want of their device: once it is there, starting again takes them.
fn waiting(ports: &[Port], opened: &[Opened]) -> Vec<Port> {
    let refused = ports.iter().zip(opened).filter(|(_, opened)| matches!(opened, Opened::No(_)));
    refused.map(|(port, _)| port.clone()).filter(|port| !port.is_there()).collect()
}

/// One core does all, or the first receives and deals to the others.
fn start_threads(
    ports: Ports,
    mut stages: Vec<Stage>,
    cores: &[usize],
    stop: &Arc<AtomicBool>,
    clock: &Arc<dyn Clock>,
    report: &mpsc::Sender<String>,
) -> Result<Vec<JoinHandle<()>>, String> {
    let mut threads = Vec::new();
    if let ([core], 1) = (cores, stages.len()) {
        let Some(stage) = stages.pop() else { return Ok(threads) };
        let (core, stop, clock, report) = (*core, Arc::clone(stop), Arc::clone(clock), report.clone());
        threads.push(spawn("poll-0", core, move || poll_all(ports, stage, &stop, clock.as_ref(), &report))?);
        return Ok(threads);
    }
    let (dealer, sources) = deal_to(stages.len());
    let workers = cores.get(1..).unwrap_or_default();
    for (number, (stage, source)) in stages.into_iter().zip(sources).enumerate() {
        let core = workers.get(number).or(cores.first()).copied().unwrap_or_default();
        let (clock, notes) = (Arc::clone(clock), (number == 0).then(|| dealer.notes()));
        threads.push(spawn(&format!("worker-{number}"), core, move || {
            work(source, stage, notes.as_deref(), clock.as_ref())
        })?);
    }
    let core = cores.first().copied().unwrap_or_default();
    let (stop, clock, report) = (Arc::clone(stop), Arc::clone(clock), report.clone());
    threads.push(spawn("receive", core, move || receive(ports, dealer, &stop, clock.as_ref(), &report))?);
    Ok(threads)
}

fn spawn(name: &str, core: usize, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    let pinned = move || {
        core_affinity::set_for_current(core_affinity::CoreId { id: core });
        run();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(pinned).map_err(|error| format!("no thread: {error}"))
}

/// One core: poll the ports and take every burst to its end.
fn poll_all(mut ports: Ports, mut stage: Stage, stop: &AtomicBool, clock: &dyn Clock, report: &mpsc::Sender<String>) {
    let gauges = Arc::clone(&stage.gauges);
    let ended = poll(&mut ports, &mut stage, stop, clock, &gauges);
    stage.finish();
    if let Err(error) = ended {
        let _ = report.send(error.to_string());
    }
}

/// The receiving core: deal to the workers, and note what they have no room for.
fn receive(mut ports: Ports, mut dealer: Dealer, stop: &AtomicBool, clock: &dyn Clock, report: &mpsc::Sender<String>) {
    if let Err(error) = poll(&mut ports, &mut dealer, stop, clock, &Gauges::default()) {
        let _ = report.send(error.to_string());
    }
}

/// A worker: what was dealt to it, to its end. The first one keeps the receiving core's account.
fn work(source: DealtSource, mut stage: Stage, notes: Option<&DealNotes>, clock: &dyn Clock) {
    let gauges = Arc::clone(&stage.gauges);
    let never = AtomicBool::new(false);
    let mut body = Worker { stage: &mut stage, notes };
    // A dealt source cannot break: it ends when the receiving core does.
    let _ = poll(&mut [LoopPort { port: 0, source, sight: None }], &mut body, &never, clock, &gauges);
    stage.finish();
}

struct Worker<'a> {
    stage: &'a mut Stage,
    notes: Option<&'a DealNotes>,
}

impl LoopBody for Worker<'_> {
    fn burst(&mut self, burst: Burst<'_>) {
        self.stage.burst(burst);
    }

    fn settle(&mut self, _: u16, _: &SourceCounters) {
        let Some(notes) = self.notes else { return };
        let notes = notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (port, (late, counters)) in (0u16..).zip(notes) {
            self.stage.settle_late(port, late);
            self.stage.settle(port, &counters);
        }
    }
}

fn serve_metrics(listen: std::net::SocketAddr, shared: &Arc<Shared>) {
    let shown = Arc::clone(shared);
    match metrics::serve(listen, Arc::new(move || shown.snapshot())) {
        Ok(address) => tracing::info!("metrics at http://{address}/metrics"),
        Err(error) => tracing::warn!("no metrics: {listen}: {error}; choose another [metrics] listen"),
    }
}

/// What 'status' reads: the newest state, whole or not at all.
fn write_status(state: &Path, shared: &Shared) {
    let part = state.join("status.part");
    let text = serde_json::to_vec(&shared.snapshot()).unwrap_or_default();
    if std::fs::write(&part, text).is_ok() {
        let _ = std::fs::rename(part, state.join("status.json"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(names: &[&str]) -> Result<(Ports, Vec<Opened>), String> {
        let ports: Vec<Port> = names.iter().map(|name| Port::try_from((*name).to_owned()).unwrap()).collect();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let found = open_ports(&ports, &clock);
        if let Ok((_, opened)) = &found {
            assert_eq!(waiting(&ports, opened), [Port::AfPacket("none0".to_owned())]);
        }
        found
    }

    #[test]
    fn a_port_that_cannot_be_opened_does_not_blind_the_others_and_is_waited_for() {
        let refused = opened(&["af_packet:none0", "af_packet:none1"]).map(|_| ()).unwrap_err();
        assert!(refused.contains("none0") && refused.contains("none1"), "{refused}");
        if let Err(why) = AnySource::open(&Port::AfPacket("lo".to_owned()), 0, &(Arc::new(SystemClock::default()) as _))
        {
            eprintln!("skipped: a port that cannot be opened beside one that can: {why}");
            return;
        }
        let (ports, opened) = opened(&["af_packet:none0", "af_packet:lo"]).unwrap();
        assert_eq!(
            ports.iter().map(|port| port.port).collect::<Vec<_>>(),
            [1],
            "numbers stay those of the configuration"
        );
        assert!(matches!(&opened[0], Opened::No(why) if why.contains("there is no such interface")));
        assert!(matches!(&opened[1], Opened::Yes(Some(_))));
    }
}
