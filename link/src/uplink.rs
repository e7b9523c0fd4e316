//! The sensor's side of the connection: a thread of its own dials the master, delivers the spool, answers packet
//! queries and tells the sensor's health. Control goes before metadata, metadata before packets, and packets only
//! against credit, so that control never waits behind them. Capture never waits for any of this.

use crate::answering::{Running, answer};
use crate::cure::{with_cure, words_of};
use crate::enrol::connect;
use crate::exchange::{Exchange, slices_of};
use crate::frame::{FrameReader, WireFrame};
use crate::goodbye::last_words;
use crate::settle::{is_own, renew_boot, settle};
use crate::spool::Spool;
use crate::tls::{link_client, master_name, peer_as};
use crate::{Identity, Role};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thymus_record::message::{CREDIT_FIRST, Health, Hello, ToAgent, ToMaster, ToSensor, VERSIONS};
use thymus_record::query::{PcapQuery, QueryReport};
use thymus_record::{BootId, SensorId};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Batches under way before the first must be acknowledged.
const WINDOW: u64 = 64;
/// Queries answered at once; more are refused as busy.
const QUERIES_MAX: usize = 4;
const HEALTH_EVERY: Duration = Duration::from_secs(2);
/// The master pings every 5 s; a silent one is dead.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Answers packet queries.
pub trait Answer: Send + Sync {
    /// Gives the pieces of a pcapng stream to `out`, which returns false when nobody wants more.
    fn answer(
        &self,
        query: &PcapQuery,
        cancelled: &AtomicBool,
        out: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<QueryReport, String>;
}

/// What an uplink works with.
pub struct UplinkParts {
    /// Who we are.
    pub identity: Identity,
    /// The run; replaced when the master reports a fork.
    pub boot: Arc<AtomicU64>,
    /// Software version, for people.
    pub software: String,
    /// Host name, for people.
    pub name: String,
    /// Where OS-sensors reach us, if we take them.
    pub agents: Vec<String>,
    /// Hears which batches of others, that we pass on, the master holds, does not want, or saw otherwise.
    pub relayed: Arc<dyn Fn(SensorId, ToAgent) + Send + Sync>,
    /// What is to be delivered.
    pub spool: Arc<Spool>,
    /// Who answers queries.
    pub answer: Arc<dyn Answer>,
    /// Who tells the sensor's health.
    pub health: Arc<dyn Fn() -> Health + Send + Sync>,
    /// Where what concerns agents is exchanged.
    pub exchange: Arc<Exchange>,
}

/// What the uplink says of itself.
#[derive(Clone, Default, Debug)]
pub struct UplinkState {
    /// The connection stands.
    pub connected: bool,
    /// Its state in words: to whom, or why not.
    pub words: String,
    /// Our end and the master's.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// Tells an uplink's state.
#[derive(Clone)]
pub struct UplinkHandle(Arc<Mutex<UplinkState>>);

impl UplinkHandle {
    /// What the uplink says of itself.
    pub fn state(&self) -> UplinkState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The running uplink.
pub struct Uplink {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<UplinkState>>,
    spool: Arc<Spool>,
}

impl Uplink {
    /// Starts the thread.
    pub fn start(parts: UplinkParts) -> io::Result<Uplink> {
        let (stop, state) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(UplinkState::default())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (told, shown, spool) = (Arc::clone(&stop), Arc::clone(&state), Arc::clone(&parts.spool));
        let run = move || runtime.block_on(keep_connected(Arc::new(parts), &told, &shown));
        let thread = std::thread::Builder::new().name("uplink".to_owned()).spawn(run)?;
        Ok(Uplink { thread: Some(thread), stop, state, spool })
    }

    /// A handle that tells its state to other threads.
    pub fn handle(&self) -> UplinkHandle {
        UplinkHandle(Arc::clone(&self.state))
    }

    /// What it says of itself.
    pub fn state(&self) -> UplinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everything pushed was acknowledged, at most this long; true if it was.
    pub fn drain(&self, at_most: Duration) -> bool {
        let step = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        while self.spool.counts().batches > 0 && waited < at_most {
            std::thread::sleep(step);
            waited += step;
        }
        self.spool.counts().batches == 0
    }

    /// Ends the thread.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn show(state: &Mutex<UplinkState>, new: UplinkState) {
    let mut shown = state.lock().unwrap_or_else(PoisonError::into_inner);
    if shown.words != new.words {
        tracing::info!("{}", new.words);
    }
    *shown = new;
}

async fn keep_connected(parts: Arc<UplinkParts>, stop: &AtomicBool, state: &Mutex<UplinkState>) {
    let mut wait = BACKOFF.0;
    while !stop.load(Ordering::Acquire) {
        let ended = tokio::select! {
            ended = one_connection(&parts, state) => ended,
            () = stopped(stop) => return,
        };
        let was_connected = state.lock().unwrap_or_else(PoisonError::into_inner).connected;
        if was_connected {
            wait = BACKOFF.0;
        }
        show(state, UplinkState { words: format!("the link is down: {ended}"), ..UplinkState::default() });
        let jitter = rand::rng().random_range(0.5..1.5);
        tokio::select! {
            () = tokio::time::sleep(wait.mul_f64(jitter)) => {}
            () = stopped(stop) => return,
        }
        wait = (wait * 2).min(BACKOFF.1);
    }
}

pub(crate) async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

type Tls = TlsStream<TcpStream>;

/// Connects and serves until the connection ends; gives the reason.
async fn one_connection(parts: &Arc<UplinkParts>, state: &Mutex<UplinkState>) -> String {
    let stream = match connect(&parts.identity.addresses).await {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
    // The certificate may have been renewed since the start.
    let newest = Identity::load(&parts.identity.state);
    let config = match link_client(newest.as_ref().unwrap_or(&parts.identity)) {
        Ok(config) => config,
        Err(error) => return format!("our certificate cannot be used: {error}; join again"),
    };
    let handshake = timeout(Duration::from_secs(10), TlsConnector::from(config).connect(master_name(), stream)).await;
    let tls = match handshake {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return format!("the TLS handshake failed: {}", with_cure(&error)),
        Err(_) => return "the master does not answer the TLS handshake".to_owned(),
    };
    if let Err(why) = peer_as(tls.get_ref().1.peer_certificates(), Role::Master, &parts.identity.deployment) {
        return why.to_owned();
    }
    let shown = UplinkState { connected: true, words: format!("connected to {}", words_of(ends)), ends };
    match serve(parts, tls, || show(state, shown.clone())).await {
        Ok(()) => "the master closed the connection".to_owned(),
        Err(error) => with_cure(&error),
    }
}

/// Queues of one connection, by priority.
#[derive(Clone)]
pub(crate) struct Outbox {
    pub(crate) control: mpsc::UnboundedSender<WireFrame>,
    pub(crate) packets: mpsc::Sender<WireFrame>,
}

async fn serve(parts: &Arc<UplinkParts>, tls: Tls, ready: impl Fn()) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(tls);
    let mut reader = FrameReader::of_orders(reader);
    let (control, control_out) = mpsc::unbounded_channel();
    let (packets, packets_out) = mpsc::channel(4);
    let outbox = Outbox { control, packets };
    let hello = Hello {
        versions: VERSIONS.to_vec(),
        software: parts.software.clone(),
        sensor: parts.identity.sensor,
        boot: BootId(parts.boot.load(Ordering::Acquire)),
        name: parts.name.clone(),
        agents: parts.agents.clone(),
        held: Vec::new(),
    };
    let _ = outbox.control.send(WireFrame::control(&ToMaster::Hello(hello)));
    let mut writer = Writer { writer, control: control_out, packets: packets_out };
    match converse(parts, &mut reader, &mut writer, &outbox, ready).await {
        Err(error) => Err(last_words(error, &mut reader).await),
        done => done,
    }
}

/// Says hello, and serves.
async fn converse(
    parts: &Arc<UplinkParts>,
    reader: &mut FrameReader<ReadHalf<Tls>>,
    writer: &mut Writer,
    outbox: &Outbox,
    ready: impl Fn(),
) -> io::Result<()> {
    writer.flush_control().await?;
    let hello = timeout(SILENCE_MAX, reader.next()).await.map_err(io::Error::other)??;
    match hello.as_ref().and_then(|frame| serde_json::from_slice(&frame.payload).ok()) {
        Some(ToSensor::Hello(hello)) => hello.held.into_iter().for_each(|held| settle(parts, held)),
        Some(ToSensor::Refused { why }) => return Err(io::Error::other(why)),
        _ => return Err(io::Error::other("the master did not say hello")),
    }
    parts.spool.rewind();
    ready();
    parts.exchange.connect(Some(outbox.control.clone()));
    let ended = tokio::select! {
        ended = listen(parts, reader, outbox) => ended,
        ended = writer.run(&parts.spool) => ended,
        () = tell_health(parts, outbox) => Ok(()),
    };
    parts.exchange.connect(None);
    ended
}

async fn tell_health(parts: &UplinkParts, outbox: &Outbox) {
    let mut ticks = interval(HEALTH_EVERY);
    loop {
        ticks.tick().await;
        let mut health = (parts.health)();
        let agents = std::mem::take(&mut health.agents);
        let _ = outbox.control.send(WireFrame::control(&ToMaster::Health(Box::new(health))));
        if parts.agents.is_empty() {
            continue;
        }
        for slice in slices_of(agents) {
            let _ = outbox.control.send(WireFrame::control(&slice));
        }
    }
}

/// Writes frames, the most urgent first.
struct Writer {
    writer: WriteHalf<Tls>,
    control: mpsc::UnboundedReceiver<WireFrame>,
    packets: mpsc::Receiver<WireFrame>,
}

impl Writer {
    async fn flush_control(&mut self) -> io::Result<()> {
        while let Ok(frame) = self.control.try_recv() {
            self.writer.write_all(&frame.encode()).await?;
        }
        self.writer.flush().await
    }

    async fn run(&mut self, spool: &Spool) -> io::Result<()> {
        loop {
            self.flush_control().await?;
            if let Some(batch) = spool.take_next(WINDOW) {
                for frame in WireFrame::batch(&batch.bytes) {
                    self.writer.write_all(&frame.encode()).await?;
                }
                continue;
            }
            self.writer.flush().await?;
            tokio::select! {
                biased;
                frame = self.control.recv() => {
                    if let Some(frame) = frame { self.writer.write_all(&frame.encode()).await?; }
                }
                () = spool.wait() => {}
                frame = self.packets.recv() => {
                    if let Some(frame) = frame { self.writer.write_all(&frame.encode()).await?; }
                }
            }
        }
    }
}

async fn listen(parts: &Arc<UplinkParts>, reader: &mut FrameReader<ReadHalf<Tls>>, outbox: &Outbox) -> io::Result<()> {
    let mut running: HashMap<u64, Running> = HashMap::new();
    let (done, mut finished) = mpsc::unbounded_channel();
    loop {
        let frame = tokio::select! {
            frame = timeout(SILENCE_MAX, reader.next()) => frame,
            Some(id) = finished.recv() => {
                running.remove(&id);
                continue;
            }
        };
        let frame = match frame {
            Err(_) => break Err(io::Error::other("the master has been silent for 15 s")),
            Ok(Err(error)) => break Err(error),
            Ok(Ok(None)) => break Ok(()),
            Ok(Ok(Some(frame))) => frame,
        };
        let message = serde_json::from_slice(&frame.payload).unwrap_or(ToSensor::Unknown);
        match message {
            ToSensor::Acknowledge(held) => settle(parts, held),
            ToSensor::Unwanted(held) => {
                tracing::warn!("the master does not want batches of agent {}: they go", held.sensor.0);
                parts.spool.give_up(&held);
                (parts.relayed)(held.sensor, ToAgent::Unwanted(held));
            }
            ToSensor::Fork { boot, sensor } if is_own(parts, sensor) => renew_boot(parts, boot),
            ToSensor::Fork { boot, sensor } => (parts.relayed)(sensor, ToAgent::Fork { boot }),
            ToSensor::Renew {} => match parts.identity.request() {
                Ok(request) => {
                    let request = STANDARD.encode(request);
                    let _ = outbox.control.send(WireFrame::control(&ToMaster::Renew { request }));
                }
                Err(error) => tracing::warn!("no request for the next certificate: {error}"),
            },
            ToSensor::Renewed { chain } => match parts.identity.renew(&chain) {
                Ok(()) => tracing::info!("the next certificate is here"),
                Err(error) => tracing::warn!("{error}"),
            },
            ToSensor::Refused { why } => break Err(io::Error::other(why)),
            ToSensor::Query { id, query } if running.len() < QUERIES_MAX => {
                let credit = Arc::new(Semaphore::new(CREDIT_FIRST as usize));
                let entry = Running { cancelled: Arc::default(), credit };
                answer(parts, id, query, &entry, outbox, done.clone());
                running.insert(id, entry);
            }
            ToSensor::Query { id, .. } => {
                let why = "the sensor is busy with other queries: try again in a moment".to_owned();
                let _ = outbox.control.send(WireFrame::control(&ToMaster::QueryFailed { id, why }));
            }
            ToSensor::Cancel { id } => {
                running.remove(&id);
            }
            ToSensor::Credit { id, pieces } => {
                if let Some(entry) = running.get(&id) {
                    entry.credit.add_permits(pieces.min(1_024) as usize);
                }
            }
            ToSensor::Hello(_) | ToSensor::Ping {} | ToSensor::Unknown => {}
            other => parts.exchange.hear(other),
        }
    }
}
