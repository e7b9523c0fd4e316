//! All of it, running: one port for sensors, joiners and browsers.

use crate::access::{Access, hash_of, random_text};
use crate::book::{Book, BookError};
use crate::clock::wall;
use crate::data::{Data, DataError};
use crate::entity::Entities;
use crate::groups::{self, Groups};
use crate::policies::Policies;
use crate::sensors::Sensors;
use crate::{admin, api, ingest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thymus_link::{Accepted, Issuer, Listener};
use thymus_record::{Record, Scope, SensorId};
use thymus_store::{Embedded, IngestedBatch, StoreOptions};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast, watch};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4_096;
/// Devices are written down this often; what came since is taken from the journal again.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);

/// How the master is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data folder.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Names under which it is reached.
    pub advertise: Vec<String>,
}

/// It cannot run; the text says why and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(String);

impl From<DataError> for ServerError {
    fn from(error: DataError) -> ServerError {
        ServerError(error.to_string())
    }
}

impl From<BookError> for ServerError {
    fn from(error: BookError) -> ServerError {
        ServerError(error.to_string())
    }
}

fn words(error: impl std::fmt::Display) -> ServerError {
    ServerError(error.to_string())
}

/// A change that the page hears of, with the network that must be allowed to hear it.
#[derive(Clone, Debug)]
pub enum Update {
    /// A batch of rows.
    Rows(Arc<IngestedBatch>),
    /// A device changed.
    Device(String),
    /// A sensor told its health.
    Sensor(SensorId),
}

/// The master's state, shared by all tasks.
pub struct Master {
    /// Small state.
    pub book: Book,
    /// Journal and tables.
    pub store: Arc<Embedded>,
    /// Sensors connected now.
    pub sensors: Sensors,
    /// Groups of agents.
    pub groups: Groups,
    /// Sessions.
    pub access: Access,
    /// The authority.
    pub issuer: Arc<Issuer>,
    /// How it is run.
    pub options: Options,
    /// Live updates.
    pub updates: broadcast::Sender<Update>,
    /// What OS-sensors are to do.
    pub policies: Mutex<Policies>,
    /// Changes whenever what vSensors are to know of OS-sensors does.
    pub orders: watch::Sender<u64>,
    entities: Mutex<Entities>,
    data: Data,
}

impl Master {
    /// Opens everything that is in the data folder.
    pub fn open(options: Options) -> Result<Arc<Master>, ServerError> {
        let data = Data::open(&options.data)?;
        let book = Book::open(&data.path("book.redb"))?;
        let mut names: Vec<String> = vec!["localhost".to_owned(), options.listen.ip().to_string()];
        names.extend(options.advertise.iter().map(|name| host_of(name).to_owned()));
        names.dedup();
        let issuer = Issuer::open_or_create(&data.path("authority"), &names, wall()).map_err(words)?;
        let store = Embedded::open(&data.path("store"), StoreOptions::default()).map_err(words)?;
        let groups = Groups::load(&book)?;
        let mut entities: Entities = book.meta("entities")?.unwrap_or_default();
        let from = entities.position;
        store.replay(from, |batch| drop(entities.take(&batch))).map_err(words)?;
        let policies: Policies = book.meta("policies")?.unwrap_or_default();
        let (updates, _) = broadcast::channel(1_024);
        Ok(Arc::new(Master {
            book,
            store: Arc::new(store),
            sensors: Sensors::default(),
            groups,
            access: Access::default(),
            issuer: Arc::new(issuer),
            options,
            updates,
            policies: Mutex::new(policies),
            orders: watch::channel(0).0,
            entities: Mutex::new(entities),
            data,
        }))
    }

    /// A path in the data folder.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.data.path(name)
    }

    /// The devices.
    pub fn entities(&self) -> MutexGuard<'_, Entities> {
        self.entities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sensor's name, for people.
    pub fn sensor_name(&self, sensor: SensorId) -> String {
        self.book.sensor(sensor).ok().flatten().map_or_else(|| format!("sensor {}", sensor.0), |entry| entry.name)
    }

    /// The page hears that a sensor told its health.
    pub fn tell_sensor(&self, sensor: SensorId) {
        let _ = self.updates.send(Update::Sensor(sensor));
    }

    /// Every vSensor that takes OS-sensors hears at once what they are to do now.
    pub fn tell_vsensors(&self) {
        self.orders.send_modify(|version| *version += 1);
    }

    /// An agent was enrolled: the vSensors hear which group it belongs to.
    fn enrolled(&self, agent: u32, group: &str) {
        self.groups.enrol(agent, group);
        if let Some(home) = self.groups.home(agent, &self.book) {
            self.sensors.tell_relays(&home);
        }
        // A policy of its group may have been set before it came.
        self.tell_vsensors();
    }

    /// The addresses that go into tokens, or why none can.
    pub fn token_addresses(&self) -> Result<Vec<String>, String> {
        if !self.options.advertise.is_empty() {
            return Ok(self.options.advertise.clone());
        }
        if self.options.listen.ip().is_unspecified() {
            return Err("the master listens on all addresses, so a token cannot say which one sensors reach: \
                        start it with --advertise HOST:PORT"
                .to_owned());
        }
        Ok(vec![self.options.listen.to_string()])
    }

    /// Host names under which the page may be asked for.
    pub fn host_names(&self) -> Vec<String> {
        let mut names = vec!["localhost".to_owned()];
        names.extend(self.options.advertise.iter().map(|name| host_of(name).to_owned()));
        names
    }

    /// Writes the devices down, so that a start need not learn them again from the journal.
    pub(crate) fn checkpoint(&self) {
        let entities = self.entities().clone();
        if let Err(error) = self.book.put_meta("entities", &entities) {
            tracing::error!("the devices could not be written down: {error}");
        }
    }
}

/// The host of `host:port`.
pub fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}

/// Runs until SIGTERM or Ctrl-C. Prints one line with the URL; on the first run its link makes the administrator.
pub async fn run(mut options: Options) -> Result<(), ServerError> {
    let listen = options.listen;
    options.advertise = crate::advertise::expand(&options.advertise, listen);
    let master = tokio::task::spawn_blocking(move || Master::open(options)).await.map_err(words)??;
    let socket = TcpListener::bind(listen).await.map_err(|error| {
        ServerError(format!(
            "cannot listen on {listen}: {error}; choose another --listen ADDR:PORT (below 1024 needs root)"
        ))
    })?;
    let admin = admin::serve(Arc::clone(&master), master.data.path("admin.sock"))?;
    println!("{}", first_line(&master)?);
    let revoking = Arc::clone(&master);
    let revoked = Arc::new(move |sensor: SensorId, _: &[u8]| {
        revoking.book.sensor(sensor).ok().flatten().is_none_or(|entry| entry.revoked)
    });
    let book: Arc<dyn thymus_link::enrol::TokenBook> = Arc::new(BookOf(Arc::clone(&master)));
    let listener = Arc::new(Listener::new(Arc::clone(&master.issuer), book, revoked).map_err(words)?);
    let follow = tokio::spawn(follow(Arc::clone(&master)));
    let grouping = tokio::spawn(groups::run(Arc::clone(&master)));
    let accept = tokio::spawn(accept(Arc::clone(&master), socket, listener));
    stopped().await;
    accept.abort();
    follow.abort();
    grouping.abort();
    admin.abort();
    let _ = std::fs::remove_file(master.data.path("admin.sock"));
    let closing = Arc::clone(&master);
    let _ = tokio::task::spawn_blocking(move || {
        closing.checkpoint();
        closing.store.flush()
    })
    .await;
    Ok(())
}

struct BookOf(Arc<Master>);

impl thymus_link::enrol::TokenBook for BookOf {
    fn public_key(&self, id: &[u8; 16], now: thymus_record::Time, peer: std::net::IpAddr) -> Result<[u8; 32], String> {
        self.0.book.public_key(id, now, peer)
    }

    fn redeem(
        &self,
        id: &[u8; 16],
        now: thymus_record::Time,
        peer: std::net::IpAddr,
        name: &str,
    ) -> Result<thymus_link::enrol::Redeemed, String> {
        let redeemed = self.0.book.redeem(id, now, peer, name)?;
        if redeemed.role == thymus_link::Role::Agent {
            self.0.tell_vsensors();
        }
        Ok(redeemed)
    }
}

/// The URL; without a user, the one-time link that makes the administrator.
pub(crate) fn first_line(master: &Master) -> Result<String, ServerError> {
    let host = match master.options.advertise.first() {
        Some(name) => name.clone(),
        None if master.options.listen.ip().is_unspecified() => format!("localhost:{}", master.options.listen.port()),
        None => master.options.listen.to_string(),
    };
    if !master.book.has_no_user()? {
        return Ok(format!("https://{host}/"));
    }
    let secret = random_text();
    master.book.put_meta("setup", &crate::book::to_hex(&hash_of(&secret)))?;
    Ok(format!("https://{host}/#/setup/{secret}"))
}

async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn accept(master: Arc<Master>, socket: TcpListener, listener: Arc<Listener>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let router = api::router(Arc::clone(&master));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: wait for some to come back.
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (master, listener, router) = (Arc::clone(&master), Arc::clone(&listener), router.clone());
        tokio::spawn(async move {
            let _permit = permit;
            match listener.accept(stream, peer, wall()).await {
                Ok(Accepted::Sensor(peer, link)) => ingest::serve(master, *peer, *link).await,
                Ok(Accepted::Enrolled(redeemed, name)) => {
                    tracing::info!("{name} joined as sensor {} in group {}", redeemed.sensor.0, redeemed.group);
                    if redeemed.role == thymus_link::Role::Agent {
                        master.enrolled(redeemed.sensor.0, &redeemed.group);
                    }
                }
                Ok(Accepted::Web(tls)) => {
                    let service = TowerToHyperService::new(router);
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    server.http1().header_read_timeout(None).keep_alive(true);
                    let _ = server.serve_connection(TokioIo::new(*tls), service).await;
                }
                Err(error) => tracing::debug!("{peer}: {error}"),
            }
        });
    }
}

/// Keeps the devices in step with the journal, and tells the page.
async fn follow(master: Arc<Master>) {
    let mut batches = master.store.subscribe();
    let mut ticks = tokio::time::interval(CHECKPOINT_EVERY);
    loop {
        let batch = tokio::select! {
            batch = batches.recv() => batch,
            _ = ticks.tick() => {
                let saving = Arc::clone(&master);
                let _ = tokio::task::spawn_blocking(move || saving.checkpoint()).await;
                continue;
            }
        };
        match batch {
            Ok(batch) => {
                let changed = master.entities().take(&batch);
                for id in changed {
                    let _ = master.updates.send(Update::Device(id));
                }
                if batch.batch.records.iter().any(|record| matches!(record, Record::Flow(_))) {
                    let _ = master.updates.send(Update::Rows(batch));
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                // Too far behind: what was missed is still in the journal.
                let catching = Arc::clone(&master);
                let _ = tokio::task::spawn_blocking(move || {
                    let from = catching.entities().position;
                    let _ = catching.store.replay(from, |batch| drop(catching.entities().take(&batch)));
                })
                .await;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// All networks, for work of the master's own.
pub const EVERYTHING: Scope = Scope::All;
