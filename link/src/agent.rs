//! An OS-sensor and its vSensor: captured frames one way, who sends what the other way, over one mutual TLS connection.
//!
//! ```text
//! parcel = frames, as the payload of a frame of kind 5 whose stream is the parcel's number
//! frame  = time u64 ns | wire length u32 | length u32 | flags u8 | bytes     little-endian
//! flags  = 1: others may send it too; 2: it was left to another one, and is sent after all
//! late   = run u64 | parcel, as the payload of a frame of kind 6 whose stream is the parcel's number in that run
//! ```
//!
//! A parcel counts as delivered when the vSensor says so; what a broken connection left undecided is sent again under
//! its number, and taken once; where the next connection is to another vSensor, by that one.
//!
//! While no vSensor is there, parcels wait in memory (6 MiB: see `outgoing.rs`), then on disk, as far as the spool's limit
//! goes; what it does not take goes back to the caller, who counts it. They go on, oldest first, at [`LATE_PER_SECOND`]
//! beside what is captured now. Batches of metadata go the same way, and stay in their spool until the master holds them.

pub use crate::allowance::Allowance;
pub use crate::control::AgentControl;
use crate::cure::{with_cure, words_of};
use crate::delivered::Delivered;
pub use crate::delivered::ENDED_MAX;
use crate::dial::{Peers, dial, silence};
use crate::frame::{FrameReader, WireFrame};
use crate::goodbye::last_words;
use crate::outgoing::Outgoing;
pub use crate::parcel::{FRAME_HEAD, FrameHead, Spares, count_frames, put_frame, take_frame};
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
use thymus_record::ledger::Count;
use thymus_record::message::{Ended, ToAgent, ToRelay};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
    /// The run that numbers parcels; and those before that were ended without warning and are not told yet.
    pub run: (u64, Vec<Ended>),
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
    delivered: Arc<Delivered>,
}

impl AgentLink {
    /// Starts the thread.
    pub fn start(mut parts: AgentLinkParts) -> io::Result<AgentLink> {
        let (stop, state) = (Arc::<Stop>::default(), Arc::new(Mutex::new(UplinkState::default())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outgoing = Arc::<Outgoing>::default();
        let (control, messages) = AgentControl::new(Arc::clone(&state));
        let (boot, agent) = (parts.run.0, parts.identity.sensor);
        // A run before that was killed is told to the vSensor that knows best what came of it, if it is there.
        let known = |ended: &Ended| parts.identity.addresses.iter().position(|address| *address == ended.at);
        let at = parts.run.1.last().and_then(known).unwrap_or(0);
        let delivered = Arc::new(Delivered::new(boot, std::mem::take(&mut parts.run.1)));
        let late = parts.late.clone().map(|spool| Arc::new(Late::new(spool, agent, boot, Arc::clone(&delivered))));
        let unwanted = Arc::new(AtomicU64::new(0));
        let left = Undelivered {
            agent,
            parcels: Parcels { spares: parts.spares.clone(), delivered: Arc::clone(&delivered), ..Parcels::default() },
            late: late.clone(),
            batches: parts.batches.clone(),
            unwanted: Arc::clone(&unwanted),
        };
        let peers: Arc<Mutex<Peers>> = Arc::default();
        let mut link = Running {
            peers: Arc::clone(&peers),
            at,
            served: false,
            silent: false,
            parts,
            boot,
            outgoing: Arc::clone(&outgoing),
            control: control.clone(),
            messages,
            left,
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
        };
        let run = move || {
            runtime.block_on(link.keep_connected());
            // What found no vSensor in the end waits on disk for the next start; a vSensor may get some of it twice.
            link.left.keep(&link.outgoing);
        };
        let thread = std::thread::Builder::new().name("link".to_owned()).spawn(run)?;
        Ok(AgentLink { thread: Some(thread), stop, state, outgoing, control, late, unwanted, peers, delivered })
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

    /// What the next run must tell if this one ends without warning now, having sent so much.
    pub fn if_ended(&self, sent: Count) -> Vec<Ended> {
        self.delivered.if_ended(sent)
    }

    /// Tells from another thread.
    pub fn control(&self) -> AgentControl {
        self.control.clone()
    }

    /// What the link says of itself.
    pub fn state(&self) -> UplinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread, having sent so much; gives what the next run must tell.
    pub fn stop(mut self, sent: Count) -> Vec<Ended> {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.delivered.if_ended(sent)
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
    control: AgentControl,
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
        let vsensor = match peer_as(tls.get_ref().1.peer_certificates(), Role::Sensor, &identity.deployment) {
            Ok(named) => named.id,
            Err(why) => return why.to_owned(),
        };
        self.show(UplinkState { connected: true, words: format!("connected to {}", words_of(ends)), ends });
        let (reader, mut writer) = tokio::io::split(tls);
        let mut reader = FrameReader::of_orders(reader);
        match self.serve(vsensor, &mut reader, &mut writer).await {
            Ok(()) => "the vSensor closed the connection".to_owned(),
            Err(error) => with_cure(&last_words(error, &mut reader).await),
        }
    }

    /// Says who we are, and serves.
    async fn serve(
        &mut self,
        vsensor: u32,
        reader: &mut FrameReader<ReadHalf<Tls>>,
        writer: &mut WriteHalf<Tls>,
    ) -> io::Result<()> {
        let (software, name) = (self.parts.software.clone(), self.parts.name.clone());
        let address = self.parts.identity.addresses.get(self.at).map(String::as_str).unwrap_or_default();
        let (taken, ended) = self.left.parcels.delivered.begin(vsensor, address);
        let hello = ToRelay::Hello { software, name, boot: self.boot, taken, ended };
        writer.write_all(&WireFrame::control(&hello).encode()).await?;
        while self.messages.try_recv().is_ok() {}
        let interfaces = self.control.interfaces();
        if let Some(interfaces) = &interfaces {
            writer.write_all(&WireFrame::control(interfaces).encode()).await?;
        }
        writer.flush().await?;
        self.left.rewind();
        (self.parts.hear)(None);
        let heard = AtomicBool::new(true);
        let patience = if self.parts.identity.addresses.len() > 1 { SILENCE_SHORT } else { SILENCE_MAX };
        let ended = tokio::select! {
            ended = self.exchange(reader, writer, (&heard, interfaces.is_some())) => Some(ended),
            () = silence(&heard, patience) => None,
        };
        self.silent = ended.is_none();
        let silent = || Err(io::Error::other(format!("the vSensor has been silent for {} ms", patience.as_millis())));
        ended.unwrap_or_else(silent)
    }

    /// Speaks and listens until the connection ends. `heard` is set by every word of the vSensor. Nothing goes before the
    /// vSensor is told the interfaces.
    async fn exchange(
        &mut self,
        reader: &mut FrameReader<ReadHalf<Tls>>,
        writer: &mut WriteHalf<Tls>,
        (heard, mut is_known): (&AtomicBool, bool),
    ) -> io::Result<()> {
        let late = self.parts.late.clone();
        let batches = self.parts.batches.as_ref().map(|(spool, _)| Arc::clone(spool));
        let (mut late_due, mut retry) = (interval(Duration::from_secs(1) / LATE_PER_SECOND), interval(NO_ROOM));
        late_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_room = true;
        let mut renewals = interval(RENEW_EVERY);
        loop {
            if is_known {
                self.left.parcels.send(&self.outgoing, writer).await?;
            }
            if is_known && has_room {
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
                        self.left.parcels.delivered.told();
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
                    is_known |= matches!(message, ToRelay::Interfaces { .. });
                    writer.write_all(&WireFrame::control(&message).encode()).await?;
                }
                () = filled(batches.as_deref()) => {}
                _ = retry.tick() => has_room = true,
                _ = late_due.tick(), if is_late && is_known => {
                    self.left.send_late(&self.parts.allowance, writer).await?;
                }
                () = self.outgoing.wait(), if is_known && self.left.parcels.has_room() => {}
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
}

async fn next(reader: &mut FrameReader<ReadHalf<Tls>>, heard: &AtomicBool) -> io::Result<Option<ToAgent>> {
    let frame = reader.next().await?;
    heard.store(true, Ordering::Relaxed);
    Ok(frame.map(|frame| serde_json::from_slice(&frame.payload).unwrap_or(ToAgent::Unknown)))
}
