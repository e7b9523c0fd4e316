//! The pieces put together: workers with their stages, the forwarder, the ring, the spool and the uplink, and the
//! ledger over all of them.

use crate::answer::RingAnswer;
use crate::clock::{Clock, SystemClock};
use crate::counters::{PortAccount, PortCounts, PublishedCounts};
use crate::duplicate::DuplicateWindow;
use crate::health::{Observation, Snapshot, Watcher};
use crate::own::OwnTransport;
use crate::relay::RelayNotes;
use crate::ring::{Ring, RingConfig};
use crate::silence::Opened;
use crate::worker::{Gauges, Stage};
use ringbuf::HeapRb;
use ringbuf::traits::Split;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thymus_dissect::flow::{FlowShard, NetworkTable, Roots, ShardConfig};
use thymus_forward::forwarder::ForwarderParts;
use thymus_forward::{Batcher, Forwarder, Outlet, RecordCounts, SharedOwners};
use thymus_link::process::Process;
use thymus_link::spool::SpoolLimits;
use thymus_link::uplink::{UplinkHandle, UplinkParts, UplinkState};
use thymus_link::{Exchange, Identity, Spool, Uplink};
use thymus_record::ledger::Ledger;
use thymus_record::message::{Health, ToAgent};
use thymus_record::{BootId, SensorId};
use thymus_witness::{SpanEye, SpanWatch};

/// Chunks on their way from a worker to the forwarder: at 1,000 rows each more than a minute of the largest tier.
const CHUNKS: usize = 64;

/// Where records go.
pub enum Destination {
    /// Nowhere: encoded, counted and dropped.
    Standalone,
    /// To the master that this state folder belongs to.
    Master(PathBuf),
}

/// How a pipeline is made.
pub struct PipelineConfig {
    /// Names of the capture ports, by number.
    pub ports: Vec<String>,
    /// Workers.
    pub workers: usize,
    /// Flows open at once, over all workers.
    pub flows_max: usize,
    /// The hash secret.
    pub secret: [u64; 2],
    /// The run.
    pub boot: BootId,
    /// The ring's folder and size.
    pub ring: Option<(PathBuf, u64)>,
    /// Where records go.
    pub destination: Destination,
    /// Live ports shed where files wait, and have duplicates removed.
    pub live: bool,
    /// Remove duplicates.
    pub duplicates: bool,
    /// Where OS-sensors reach this sensor; their frames come to the last port.
    pub agents: Vec<String>,
    /// What their part and the master say to each other.
    pub exchange: Arc<Exchange>,
    /// Groups of OS-sensors.
    pub roots: Arc<Roots>,
    /// What the spans look for of OS-sensors' addresses.
    pub watch: Arc<SpanWatch>,
    /// Which connections are our own transport.
    pub own: Arc<OwnTransport>,
}

/// It cannot be put together; the text says why and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PipelineError(pub String);

fn words(error: impl std::fmt::Display) -> PipelineError {
    PipelineError(error.to_string())
}

/// What all threads share.
pub struct Shared {
    clock: SystemClock,
    sensor: SensorId,
    ports: Vec<String>,
    published: Vec<Vec<Arc<PublishedCounts>>>,
    gauges: Vec<Arc<Gauges>>,
    counts: Arc<RecordCounts>,
    ring: Option<Arc<Ring>>,
    spool: Option<Arc<Spool>>,
    boot: Arc<AtomicU64>,
    watcher: Mutex<(Watcher, Health)>,
    opened: Mutex<Vec<Opened>>,
    link: Mutex<Option<UplinkHandle>>,
    agents: Mutex<Option<Arc<RelayNotes>>>,
    owners: SharedOwners,
    own: Arc<OwnTransport>,
    is_live: bool,
}

/// A pipeline whose stages wait for their workers.
pub struct Pipeline {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// One stage a worker; taken by the threads that run them.
    pub stages: Vec<Stage>,
    forwarder: Forwarder,
    uplink: Option<Uplink>,
}

impl Pipeline {
    /// Puts a pipeline together and starts forwarder and uplink.
    pub fn start(config: PipelineConfig) -> Result<Pipeline, PipelineError> {
        let identity = match &config.destination {
            Destination::Standalone => None,
            Destination::Master(state) => Some((Identity::load(state).map_err(words)?, state.clone())),
        };
        let group = identity.as_ref().map_or_else(|| "default".to_owned(), |(identity, _)| identity.group.clone());
        let ring = match &config.ring {
            None => None,
            Some((dir, bytes)) => {
                let ring = RingConfig {
                    dir: dir.clone(),
                    bytes: *bytes,
                    writers: config.workers,
                    ports: ports_of(&config.ports, &group),
                    roots: Arc::clone(&config.roots),
                    waits: !config.live,
                };
                Some(Arc::new(Ring::open(ring).map_err(words)?))
            }
        };
        let spool = match &identity {
            None => None,
            Some((_, state)) => {
                Some(Arc::new(Spool::open(&state.join("spool"), SpoolLimits::default()).map_err(words)?))
            }
        };
        let counts = Arc::new(RecordCounts::default());
        let (mut stages, mut inboxes) = (Vec::new(), Vec::new());
        for worker in 0..config.workers {
            let (outbox, inbox) = HeapRb::new(CHUNKS).split();
            inboxes.push(inbox);
            let stage = stage_of(&config, worker, &group, outbox, ring.as_ref())?;
            counts.watch(stage.batcher.counts());
            stages.push(stage);
        }
        let boot = Arc::new(AtomicU64::new(config.boot.0));
        let outlet = match &spool {
            None => Outlet::Standalone,
            Some(spool) => Outlet::Spool { spool: Arc::clone(spool), waits: !config.live },
        };
        let sensor = identity.as_ref().map_or(SensorId(0), |(identity, _)| identity.sensor);
        let owners = SharedOwners::default();
        let (counted, told) = (Arc::clone(&counts), owners.clone());
        let parts = ForwarderParts { sensor, boot: Arc::clone(&boot), inboxes, outlet, counts: counted, owners: told };
        let forwarder = Forwarder::start(parts).map_err(words)?;
        let shared = Arc::new(Shared {
            clock: SystemClock::default(),
            sensor,
            ports: config.ports.clone(),
            published: stages.iter().map(Stage::published).collect(),
            gauges: stages.iter().map(|stage| Arc::clone(&stage.gauges)).collect(),
            counts,
            ring,
            spool,
            boot: Arc::clone(&boot),
            watcher: Mutex::default(),
            opened: Mutex::default(),
            link: Mutex::default(),
            agents: Mutex::default(),
            owners,
            own: Arc::clone(&config.own),
            is_live: config.live,
        });
        let uplink = match identity {
            Some((identity, _)) => {
                Some(start_uplink(identity, &shared, config.ring.map(|ring| ring.0), (config.agents, config.exchange))?)
            }
            None => None,
        };
        Ok(Pipeline { shared, stages, forwarder, uplink })
    }

    /// Ends the forwarder after its last chunk. The stages must have finished before.
    pub fn finish_records(self) -> Finished {
        self.forwarder.finish();
        if let Some(ring) = &self.shared.ring {
            ring.flush();
        }
        Finished { shared: self.shared, uplink: self.uplink }
    }
}

/// A pipeline whose packets have all gone their way; its uplink still delivers and answers.
pub struct Finished {
    /// What all threads share.
    pub shared: Arc<Shared>,
    uplink: Option<Uplink>,
}

impl Finished {
    /// Waits until the master has everything, at most this long.
    pub fn drain(&self, at_most: Duration) -> bool {
        self.uplink.as_ref().is_none_or(|uplink| uplink.drain(at_most))
    }

    /// Ends the uplink.
    pub fn stop(self) -> Arc<Shared> {
        if let Some(uplink) = self.uplink {
            uplink.stop();
        }
        self.shared
    }
}

impl Shared {
    /// The ledger of this run so far.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for counts in self.published.iter().flatten() {
            counts.read().add_to(&mut ledger);
        }
        if let Some(ring) = &self.ring {
            let ring = ring.counts();
            ledger.ring_bytes = ring.ring_bytes;
            ledger.index_bytes = ring.index_bytes;
            // What the disk refused after it was appended is not in the ring after all.
            for count in [&mut ledger.in_ring, &mut ledger.stored] {
                count.packets -= ring.lost.packets.min(count.packets);
                count.bytes -= ring.lost.bytes.min(count.bytes);
            }
            ledger.shed += ring.lost;
        }
        let boot = BootId(self.boot.load(Ordering::Acquire));
        ledger.records = self.counts.records(self.spool.as_ref().map(|spool| spool.acknowledged_of(self.sensor, boot)));
        ledger.metadata_bytes = self.counts.metadata_bytes();
        ledger
    }

    /// The ring, where one is kept.
    #[cfg(test)]
    pub(crate) fn ring(&self) -> Option<&Arc<Ring>> {
        self.ring.as_ref()
    }

    /// OS-sensors are taken, and tell this.
    pub fn take_agents(&self, notes: Arc<RelayNotes>) {
        if let Some(spool) = &self.spool {
            notes.set_spool(Arc::clone(spool));
        }
        *self.agents.lock().unwrap_or_else(PoisonError::into_inner) = Some(notes);
    }

    /// Where OS-sensors' words on who holds the ends of flows go.
    pub fn owners(&self) -> SharedOwners {
        self.owners.clone()
    }

    /// The master said this of an agent's batches.
    fn relay(&self, agent: SensorId, message: ToAgent) {
        if let Some(notes) = &*self.agents.lock().unwrap_or_else(PoisonError::into_inner) {
            notes.relay(agent, message);
        }
    }

    /// How the ports were opened, by number.
    pub fn watch_ports(&self, opened: Vec<Opened>) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = opened;
    }

    fn port_counts(&self) -> Vec<(String, PortCounts)> {
        let mut ports: Vec<(String, PortCounts)> =
            self.ports.iter().map(|name| (name.clone(), PortCounts::default())).collect();
        for worker in &self.published {
            for ((_, sum), counts) in ports.iter_mut().zip(worker) {
                *sum = sum.plus(&counts.read());
            }
        }
        ports
    }

    /// Observes now; called every two seconds.
    pub fn health(&self) -> Health {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(UplinkHandle::state);
        self.own.set_master(link.and_then(|link| link.ends));
        let at = self.clock.monotonic();
        let busy = self.gauges.iter().map(|gauges| gauges.busy_ns.load(Ordering::Relaxed)).sum();
        let all = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX).saturating_mul(self.gauges.len() as u64);
        let observation = Observation {
            at,
            ports: self.port_counts(),
            ledger: self.ledger(),
            busy: (busy, all),
            flows_open: self.gauges.iter().map(|gauges| gauges.flows_open.load(Ordering::Relaxed)).sum(),
            ring_oldest: self.ring.as_ref().and_then(|ring| ring.oldest()),
            is_live: self.is_live,
            looks: self.opened.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Opened::look).collect(),
        };
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut health = watcher.0.observe(observation);
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        health.agents = agents.map(|notes| notes.health()).unwrap_or_default();
        watcher.1 = health.clone();
        health
    }

    /// What the sensor says of itself now.
    pub fn snapshot(&self) -> Snapshot {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(UplinkHandle::state);
        let standalone = UplinkState { words: "standalone: no master".to_owned(), ..UplinkState::default() };
        let link = link.unwrap_or(standalone);
        Snapshot {
            health: self.last_health(),
            connected: link.connected,
            link: link.words,
            taken: seconds(self.clock.wall()),
            pid: std::process::id(),
            process: Process::current(),
        }
    }

    /// The health observed last.
    pub fn last_health(&self) -> Health {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// Starts the uplink of a sensor that has an identity, and so a spool.
fn start_uplink(
    identity: Identity,
    shared: &Arc<Shared>,
    ring: Option<PathBuf>,
    (agents, exchange): (Vec<String>, Arc<Exchange>),
) -> Result<Uplink, PipelineError> {
    let spool = shared.spool.clone().ok_or_else(|| PipelineError("no spool".to_owned()))?;
    let (health, relayed) = (Arc::clone(shared), Arc::clone(shared));
    let parts = UplinkParts {
        identity,
        boot: Arc::clone(&shared.boot),
        software: format!("thymus-sensor {}", env!("CARGO_PKG_VERSION")),
        name: host_name(),
        agents,
        relayed: Arc::new(move |agent, message| relayed.relay(agent, message)),
        spool,
        answer: Arc::new(RingAnswer { dir: ring, sensor: host_name() }),
        health: Arc::new(move || health.health()),
        exchange,
    };
    let uplink = Uplink::start(parts).map_err(words)?;
    *shared.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(uplink.handle());
    Ok(uplink)
}

fn ports_of(names: &[String], group: &str) -> Vec<(String, String)> {
    names.iter().map(|name| (name.clone(), group.to_owned())).collect()
}

fn stage_of(
    config: &PipelineConfig,
    worker: usize,
    group: &str,
    outbox: ringbuf::HeapProd<thymus_forward::Chunk>,
    ring: Option<&Arc<Ring>>,
) -> Result<Stage, PipelineError> {
    let shard = u8::try_from(worker).map_err(|_error| PipelineError("at most 256 workers".to_owned()))?;
    let groups: Vec<&str> = config.ports.iter().map(|_| group).collect();
    let networks = NetworkTable::with_roots(&groups, Arc::clone(&config.roots));
    let flows_max = config.flows_max.div_ceil(config.workers.max(1));
    let shard_config = ShardConfig { shard, flows_max, secret: config.secret, ports: config.ports.len() };
    let accounts = (0u16..).zip(&config.ports).map(|(port, name)| PortAccount::new(port, name, 0)).collect();
    Ok(Stage {
        shard: FlowShard::new(shard_config),
        networks,
        appender: ring.map(|ring| ring.appender(worker)).transpose().map_err(words)?,
        batcher: Batcher::new(shard, outbox, !config.live),
        accounts,
        duplicates: (config.live && config.duplicates).then(|| DuplicateWindow::new(config.secret)),
        agents: (!config.agents.is_empty()).then(|| u16::try_from(config.ports.len() - 1).unwrap_or(u16::MAX)),
        eye: SpanEye::new(Arc::clone(&config.watch)),
        own: (Arc::clone(&config.own), 0),
        waits: !config.live,
        gauges: Arc::default(),
    })
}

/// This host's name, for people.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "sensor".to_owned() } else { name.to_owned() }
}

#[expect(clippy::cast_precision_loss, reason = "shown to people")]
fn seconds(time: thymus_record::Time) -> f64 {
    (time.0 / 1_000) as f64 / 1e6
}
