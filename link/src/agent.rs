//! An OS-sensor and its vSensor: captured frames one way, who sends what the other way, over one mutual TLS connection.
//!
//! ```text
//! parcel = frames, as the payload of a frame of kind 5 whose stream is the parcel's number
//! frame  = time u64 ns | wire length u32 | length u32 | flags u8 | bytes     little-endian
//! flags  = 1: others may send it too; 2: it was left to another one, and is sent after all
//! ```
//!
//! late   = run u64 | parcel, as the payload of a frame of kind 6 whose stream is the parcel's number in that run
//!
//! A parcel counts as delivered when the vSensor says so; what a broken connection left undecided is sent again under
//! its number, and taken once; where the next connection is to another vSensor, by that one.
//!
//! While no vSensor is there, parcels wait in memory (6 MiB: see the queue in `outgoing.rs`), then on disk, as far as the spool's limit goes; what it does not take goes back to the caller, who counts it. They go on,
//! oldest first, at [`LATE_PER_SECOND`] beside what is captured now. Batches of metadata go the same way, and stay in
//! their spool until the master holds them.

pub use crate::allowance::Allowance;
use crate::cure::{with_cure, words_of};
use crate::dial::{Peers, dial, silence};
use crate::frame::{FrameReader, WireFrame};
use crate::outgoing::Outgoing;
pub use crate::parcel::{FRAME_HEAD, FrameHead, Spares, put_frame, take_frame};
use crate::spool::Spool;
use crate::stop::Stop;
use crate::tls::{agent_client, peer_as, sensor_name};
use crate::undelivered::{Late, Parcels, Undelivered, filled};
use crate::uplink::UplinkState;
use crate::{Identity, Role};
use rand::Rng;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thymus_record::Time;
use thymus_record::message::{Ended, ToAgent, ToRelay};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Messages waiting to be told.
const MESSAGES_MAX: usize = 1_024;
/// Parcels off the disk that are sent in a second: 4 MiB.
const LATE_PER_SECOND: u32 = 64;
/// A batch of metadata that found no room is sent again after a while.
const NO_ROOM: Duration = Duration::from_secs(1);
/// The vSensor pings three times a second. Where there is another one, patience is short.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often the certificate is looked at, beside once a connection.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);
const SILENCE_SHORT: Duration = Duration::from_millis(1_200);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What an agent's link works with.
pub struct AgentLinkParts {
    /// Who we are.
    pub identity: Identity,
    /// Host name, for people.
    pub name: String,
    /// Software version, for people.
    pub software: String,
    /// Epoch time.
    pub wall: fn() -> Time,
    /// The run that numbers parcels; and the one before, if it was ended without warning.
    pub run: (u64, Option<Ended>),
    /// Where parcels wait while no vSensor takes them.
    pub late: Option<Arc<Spool>>,
    /// Batches of our own metadata, and the run that numbers them.
    pub batches: Option<(Arc<Spool>, Arc<AtomicU64>)>,
    /// Where parcels that were taken go, to be filled again.
    pub spares: Spares,
    /// What may be sent of what waited.
    pub allowance: Allowance,
    /// Hears what the vSensor says, and with `None` that a connection begins.
    pub hear: Box<dyn Fn(Option<ToAgent>) + Send + Sync>,
}

/// Tells the vSensor something, from any thread.
#[derive(Clone)]
pub struct AgentControl {
    messages: mpsc::Sender<ToRelay>,
    state: Arc<Mutex<UplinkState>>,
}

impl AgentControl {
    /// Tells the vSensor something. Where none is there, or it is far behind, it is forgotten.
    pub fn tell(&self, message: ToRelay) {
        if self.state.lock().unwrap_or_else(PoisonError::into_inner).connected {
            let _ = self.messages.try_send(message);
        }
    }
}

/// The running link of an agent.
pub struct AgentLink {
    thread: Option<JoinHandle<()>>,
    stop: Arc<Stop>,
    state: Arc<Mutex<UplinkState>>,
    outgoing: Arc<Outgoing>,
    control: AgentControl,
    late: Option<Arc<Late>>,
    unwanted: Arc<AtomicU64>,
    peers: Arc<Mutex<Peers>>,
}

impl AgentLink {
    /// Starts the thread.
    pub fn start(parts: AgentLinkParts) -> io::Result<AgentLink> {
        let (stop, state) = (Arc::<Stop>::default(), Arc::new(Mutex::new(UplinkState::default())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outgoing = Arc::<Outgoing>::default();
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let control = AgentControl { messages: sender, state: Arc::clone(&state) };
        let (boot, agent) = (parts.run.0, parts.identity.sensor);
        let late = parts.late.clone().map(|spool| Arc::new(Late::new(spool, agent, boot)));
        let unwanted = Arc::new(AtomicU64::new(0));
        let left = Undelivered {
            agent,
            parcels: Parcels { spares: parts.spares.clone(), ..Parcels::default() },
            late: late.clone(),
            batches: parts.batches.clone(),
            unwanted: Arc::clone(&unwanted),
        };
        let peers: Arc<Mutex<Peers>> = Arc::default();
        let mut link = Running {
            peers: Arc::clone(&peers),
            at: 0,
            served: false,
            silent: false,
            parts,
            boot,
            outgoing: Arc::clone(&outgoing),
            messages,
            left,
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
        };
        let run = move || {
            runtime.block_on(link.keep_connected());
            // What found no vSensor in the end waits on disk for the next start.
            link.keep();
        };
        let thread = std::thread::Builder::new().name("link".to_owned()).spawn(run)?;
        Ok(AgentLink { thread: Some(thread), stop, state, outgoing, control, late, unwanted, peers })
    }

    /// Hands a parcel over; gives an empty one back where too many wait in memory and on disk. It goes with others: after
    /// the last one call [`AgentLink::go`].
    pub fn send(&self, parcel: Vec<u8>) -> Result<(), Vec<u8>> {
        let Err(parcel) = self.outgoing.push(parcel) else { return Ok(()) };
        let kept = self.late.as_ref().is_some_and(|late| late.push(parcel));
        if kept { Ok(()) } else { Err(Vec::new()) }
    }

    /// What was handed over goes.
    pub fn go(&self) {
        self.outgoing.go();
    }

    /// Tells the vSensor something.
    pub fn tell(&self, message: ToRelay) {
        self.control.tell(message);
    }

    /// Where the vSensors are, if a new address was found since the call before.
    pub fn new_peers(&self) -> Option<Vec<SocketAddr>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).take_new()
    }

    /// True while a vSensor serves us.
    pub fn is_connected(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).connected
    }

    /// Rows of our metadata that the master did not want.
    pub fn unwanted_rows(&self) -> u64 {
        self.unwanted.load(Ordering::Relaxed)
    }

    /// Tells from another thread.
    pub fn control(&self) -> AgentControl {
        self.control.clone()
    }

    /// What the link says of itself.
    pub fn state(&self) -> UplinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread.
    pub fn stop(mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Tls = TlsStream<TcpStream>;

struct Running {
    parts: AgentLinkParts,
    peers: Arc<Mutex<Peers>>,
    /// The address that is tried first.
    at: usize,
    /// This connection's vSensor serves us.
    served: bool,
    /// It has gone silent.
    silent: bool,
    boot: u64,
    outgoing: Arc<Outgoing>,
    messages: mpsc::Receiver<ToRelay>,
    left: Undelivered,
    state: Arc<Mutex<UplinkState>>,
    stop: Arc<Stop>,
}

impl Running {
    fn show(&self, new: UplinkState) {
        let mut shown = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.words != new.words {
            tracing::info!("{}", new.words);
        }
        *shown = new;
    }

    async fn keep_connected(&mut self) {
        let mut wait = BACKOFF.0;
        while !self.stop.is_set() {
            (self.served, self.silent) = (false, false);
            let stop = Arc::clone(&self.stop);
            let ended = tokio::select! {
                ended = self.one_connection() => ended,
                () = stop.wait() => return,
            };
            if self.served {
                wait = BACKOFF.0;
            }
            // One that is silent, or does not serve us, is tried last.
            self.at += usize::from(self.silent || !self.served);
            self.show(UplinkState { words: format!("the link is down: {ended}"), ..UplinkState::default() });
            tokio::time::sleep(wait.mul_f64(rand::rng().random_range(0.5..1.5))).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Connects and serves until the connection ends; gives the reason.
    async fn one_connection(&mut self) -> String {
        let Some(stream) = dial(&self.parts.identity.addresses, &mut self.at, &self.peers).await else {
            return format!("no vSensor answers at {}", self.parts.identity.addresses.join(", "));
        };
        let identity = &self.parts.identity;
        let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
        let newest = Identity::load(&identity.state);
        let config = match agent_client(newest.as_ref().unwrap_or(identity)) {
            Ok(config) => config,
            Err(error) => return format!("our certificate cannot be used: {error}; join again"),
        };
        let handshake =
            timeout(Duration::from_secs(10), TlsConnector::from(config).connect(sensor_name(), stream)).await;
        let tls = match handshake {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return format!("the TLS handshake failed: {}", with_cure(&error)),
            Err(_) => return "the vSensor does not answer the TLS handshake".to_owned(),
        };
        if let Err(why) = peer_as(tls.get_ref().1.peer_certificates(), Role::Sensor, &identity.deployment) {
            return why.to_owned();
        }
        self.show(UplinkState { connected: true, words: format!("connected to {}", words_of(ends)), ends });
        match self.serve(tls).await {
            Ok(()) => "the vSensor closed the connection".to_owned(),
            Err(error) => with_cure(&error),
        }
    }

    async fn serve(&mut self, tls: Tls) -> io::Result<()> {
        let (reader, mut writer) = tokio::io::split(tls);
        let mut reader = FrameReader::of_orders(reader);
        let (software, name) = (self.parts.software.clone(), self.parts.name.clone());
        let (taken, before) = (self.left.parcels.first(), self.parts.run.1.clone());
        let hello = ToRelay::Hello { software, name, boot: self.boot, taken, before };
        writer.write_all(&WireFrame::control(&hello).encode()).await?;
        writer.flush().await?;
        while self.messages.try_recv().is_ok() {}
        self.left.rewind();
        (self.parts.hear)(None);
        let heard = AtomicBool::new(true);
        let patience = if self.parts.identity.addresses.len() > 1 { SILENCE_SHORT } else { SILENCE_MAX };
        let ended = tokio::select! {
            ended = self.exchange(&mut reader, &mut writer, &heard) => Some(ended),
            () = silence(&heard, patience) => None,
        };
        self.silent = ended.is_none();
        let silent = || Err(io::Error::other(format!("the vSensor has been silent for {} ms", patience.as_millis())));
        ended.unwrap_or_else(silent)
    }

    /// Speaks and listens until the connection ends. `heard` is set by every word of the vSensor.
    async fn exchange(
        &mut self,
        reader: &mut FrameReader<ReadHalf<Tls>>,
        writer: &mut WriteHalf<Tls>,
        heard: &AtomicBool,
    ) -> io::Result<()> {
        let (late, batches) =
            (self.parts.late.clone(), self.parts.batches.as_ref().map(|(spool, _)| Arc::clone(spool)));
        let (mut late_due, mut retry) = (interval(Duration::from_secs(1) / LATE_PER_SECOND), interval(NO_ROOM));
        late_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_room = true;
        let mut renewals = interval(RENEW_EVERY);
        loop {
            self.left.parcels.send(&self.outgoing, writer).await?;
            if has_room {
                self.left.send_batches(&self.parts.allowance, writer).await?;
            }
            writer.flush().await?;
            let is_late = late.as_ref().is_some_and(|spool| spool.counts().batches > 0);
            tokio::select! {
                biased;
                message = next(reader, heard) => match message? {
                    None => return Ok(()),
                    Some(ToAgent::Renewed { chain }) => self.renewed(&chain),
                    Some(ToAgent::Refused { why }) => return Err(io::Error::other(why)),
                    Some(ToAgent::NoRoom { boot, sequence }) => {
                        has_room = false;
                        self.left.put_back(boot, sequence);
                    }
                    Some(ToAgent::Ping {}) => {
                        self.served = true;
                        // A sign of life, while there is nothing to say.
                        (self.parts.hear)(Some(ToAgent::Ping {}));
                    }
                    Some(message) => {
                        if let Some(message) = self.left.settle(message) {
                            (self.parts.hear)(Some(message));
                        }
                    }
                },
                _ = renewals.tick() => {
                    if let Some(request) = self.parts.identity.renewal((self.parts.wall)()) {
                        writer.write_all(&WireFrame::control(&request).encode()).await?;
                    }
                }
                Some(message) = self.messages.recv() => {
                    writer.write_all(&WireFrame::control(&message).encode()).await?;
                }
                () = filled(batches.as_deref()) => {}
                _ = retry.tick() => has_room = true,
                _ = late_due.tick(), if is_late => {
                    self.left.send_late(&self.parts.allowance, writer).await?;
                }
                () = self.outgoing.wait(), if self.left.parcels.has_room() => {}
            }
        }
    }

    /// The next certificate, which counts from the next connection.
    fn renewed(&mut self, chain: &str) {
        let heard = match self.parts.identity.renew(chain) {
            Ok(()) => {
                tracing::info!("the next certificate is here");
                ToAgent::Renewed { chain: String::new() }
            }
            Err(error) => ToAgent::RenewRefused { why: error.to_string() },
        };
        if let Ok(newest) = Identity::load(&self.parts.identity.state) {
            self.parts.identity = newest;
        }
        (self.parts.hear)(Some(heard));
    }

    /// At the end: what was not delivered goes to the disk, as far as it takes it; a vSensor may get some of it twice.
    fn keep(&mut self) {
        let undecided = std::mem::take(&mut self.left.parcels.undecided);
        let Some(late) = &self.left.late else { return };
        undecided.into_iter().for_each(|(_, parcel)| {
            late.push(parcel);
        });
        while let Some(parcel) = self.outgoing.take() {
            late.push(parcel);
        }
    }
}

async fn next(reader: &mut FrameReader<ReadHalf<Tls>>, heard: &AtomicBool) -> io::Result<Option<ToAgent>> {
    let frame = reader.next().await?;
    heard.store(true, Ordering::Relaxed);
    Ok(frame.map(|frame| serde_json::from_slice(&frame.payload).unwrap_or(ToAgent::Unknown)))
}
