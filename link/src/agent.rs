//! An OS-sensor and its vSensor: captured frames one way, who sends what the other way, over one mutual TLS connection.
//!
//! ```text
//! parcel = frames, as the payload of a frame of kind 5 whose stream is the parcel's number
//! frame  = time u64 ns | wire length u32 | length u32 | flags u8 (1: others may send it too) | bytes     little-endian
//! ```
//!
//! A parcel counts as delivered when the vSensor says so; what a broken connection left undecided is sent again under
//! its number, and taken once.

use crate::cure::{with_cure, words_of};
use crate::enrol::connect;
use crate::frame::{FrameReader, Kind, WireFrame};
use crate::tls::{agent_client, peer_as, sensor_name};
use crate::uplink::UplinkState;
use crate::{Identity, Role};
use rand::Rng;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thymus_record::Time;
use thymus_record::message::{ToAgent, ToRelay};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Bytes in front of each frame in a parcel.
pub const FRAME_HEAD: usize = 17;
/// Parcels sent and not yet taken.
const UNDECIDED_MAX: usize = 32;
/// Parcels waiting to be sent; at 64 KiB each, a second of 34 Mbit/s.
const WAITING_MAX: usize = 64;
/// The vSensor pings every second.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often the certificate is looked at, beside once a connection.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What stands in front of a captured frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    /// When it was captured.
    pub time: Time,
    /// Its length on the wire.
    pub wire_len: u32,
    /// Others may send it too.
    pub shared: bool,
}

/// Adds a frame to a parcel.
pub fn put_frame(parcel: &mut Vec<u8>, head: &FrameHead, bytes: &[u8]) {
    parcel.extend_from_slice(&head.time.0.to_le_bytes());
    parcel.extend_from_slice(&head.wire_len.to_le_bytes());
    parcel.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    parcel.push(u8::from(head.shared));
    parcel.extend_from_slice(bytes);
}

/// Takes the next frame off a parcel; `None` at its end, and where it is damaged.
pub fn take_frame<'a>(parcel: &mut &'a [u8]) -> Option<(FrameHead, &'a [u8])> {
    let (head, rest) = parcel.split_first_chunk::<FRAME_HEAD>()?;
    let (time, more) = head.split_first_chunk::<8>()?;
    let (wire_len, more) = more.split_first_chunk::<4>()?;
    let (len, flags) = more.split_first_chunk::<4>()?;
    let bytes = rest.get(..u32::from_le_bytes(*len) as usize)?;
    *parcel = rest.get(bytes.len()..)?;
    let shared = flags.first().is_some_and(|flags| flags & 1 != 0);
    Some((FrameHead { time: Time(u64::from_le_bytes(*time)), wire_len: u32::from_le_bytes(*wire_len), shared }, bytes))
}

/// Parcels on their way: waiting, then sent and undecided.
#[derive(Default)]
struct Parcels {
    next: u64,
    undecided: VecDeque<(u64, Arc<Vec<u8>>)>,
    /// How many of the undecided were sent over the connection at hand.
    sent: usize,
}

impl Parcels {
    fn taken(&mut self, up_to: u64) {
        while self.undecided.front().is_some_and(|(number, _)| *number < up_to) {
            self.undecided.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

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
    /// Hears what the vSensor says, and with `None` that a connection begins.
    pub hear: Box<dyn Fn(Option<ToAgent>) + Send + Sync>,
}

/// Tells the vSensor something, from any thread.
#[derive(Clone)]
pub struct AgentControl(mpsc::UnboundedSender<ToRelay>);

impl AgentControl {
    /// See [`AgentLink::tell`].
    pub fn tell(&self, message: ToRelay) {
        let _ = self.0.send(message);
    }
}

/// The running link of an agent.
pub struct AgentLink {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<UplinkState>>,
    parcels: mpsc::Sender<Vec<u8>>,
    control: mpsc::UnboundedSender<ToRelay>,
}

impl AgentLink {
    /// Starts the thread.
    pub fn start(parts: AgentLinkParts) -> io::Result<AgentLink> {
        let (stop, state) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(UplinkState::default())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (parcels, waiting) = mpsc::channel(WAITING_MAX);
        let (control, messages) = mpsc::unbounded_channel();
        let boot: u64 = rand::rng().random();
        let mut link = Running {
            parts,
            boot,
            waiting,
            messages,
            parcels: Parcels::default(),
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
        };
        let run = move || runtime.block_on(link.keep_connected());
        let thread = std::thread::Builder::new().name("link".to_owned()).spawn(run)?;
        Ok(AgentLink { thread: Some(thread), stop, state, parcels, control })
    }

    /// Hands a parcel over; gives it back where too many wait.
    pub fn send(&self, parcel: Vec<u8>) -> Result<(), Vec<u8>> {
        self.parcels.try_send(parcel).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Tells the vSensor something. Where none is there, it is forgotten when the next connection begins.
    pub fn tell(&self, message: ToRelay) {
        let _ = self.control.send(message);
    }

    /// Tells from another thread.
    pub fn control(&self) -> AgentControl {
        AgentControl(self.control.clone())
    }

    /// What the link says of itself.
    pub fn state(&self) -> UplinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Tls = TlsStream<TcpStream>;

struct Running {
    parts: AgentLinkParts,
    boot: u64,
    waiting: mpsc::Receiver<Vec<u8>>,
    messages: mpsc::UnboundedReceiver<ToRelay>,
    parcels: Parcels,
    state: Arc<Mutex<UplinkState>>,
    stop: Arc<AtomicBool>,
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
        while !self.stop.load(Ordering::Acquire) {
            let ended = self.one_connection().await;
            if self.state.lock().unwrap_or_else(PoisonError::into_inner).connected {
                wait = BACKOFF.0;
            }
            self.show(UplinkState { words: format!("the link is down: {ended}"), ..UplinkState::default() });
            tokio::time::sleep(wait.mul_f64(rand::rng().random_range(0.5..1.5))).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Connects and serves until the connection ends; gives the reason.
    async fn one_connection(&mut self) -> String {
        let identity = &self.parts.identity;
        let stream = match connect(&identity.addresses).await {
            Ok(stream) => stream,
            Err(_) => return format!("no vSensor answers at {}", identity.addresses.join(", ")),
        };
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
        let hello = ToRelay::Hello { software, name, boot: self.boot };
        writer.write_all(&WireFrame::control(&hello).encode()).await?;
        writer.flush().await?;
        while self.messages.try_recv().is_ok() {}
        self.parcels.sent = 0;
        (self.parts.hear)(None);
        let mut renewals = tokio::time::interval(RENEW_EVERY);
        loop {
            self.send_waiting(&mut writer).await?;
            let room = self.parcels.undecided.len() < UNDECIDED_MAX;
            tokio::select! {
                biased;
                () = stopped(&self.stop) => return Ok(()),
                message = next(&mut reader) => match message? {
                    None => return Ok(()),
                    Some(ToAgent::Taken { up_to }) => self.parcels.taken(up_to),
                    Some(ToAgent::Renewed { chain }) => self.renewed(&chain),
                    Some(ToAgent::Refused { why }) => return Err(io::Error::other(why)),
                    Some(message) => (self.parts.hear)(Some(message)),
                },
                _ = renewals.tick() => {
                    if let Some(request) = self.parts.identity.renewal((self.parts.wall)()) {
                        writer.write_all(&WireFrame::control(&request).encode()).await?;
                    }
                }
                Some(message) = self.messages.recv() => {
                    writer.write_all(&WireFrame::control(&message).encode()).await?;
                    writer.flush().await?;
                }
                Some(parcel) = self.waiting.recv(), if room => {
                    self.parcels.undecided.push_back((self.parcels.next, Arc::new(parcel)));
                    self.parcels.next += 1;
                }
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

    /// Sends what was not sent over this connection.
    async fn send_waiting(&mut self, writer: &mut WriteHalf<Tls>) -> io::Result<()> {
        while let Some((number, parcel)) = self.parcels.undecided.get(self.parcels.sent) {
            let frame = WireFrame { kind: Kind::Frames, stream: *number, payload: parcel.to_vec() };
            writer.write_all(&frame.encode()).await?;
            self.parcels.sent += 1;
        }
        writer.flush().await
    }
}

async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn next(reader: &mut FrameReader<ReadHalf<Tls>>) -> io::Result<Option<ToAgent>> {
    let frame = timeout(SILENCE_MAX, reader.next()).await;
    let frame = frame.map_err(|_elapsed| io::Error::other("the vSensor has been silent for 5 s"))??;
    Ok(frame.map(|frame| serde_json::from_slice(&frame.payload).unwrap_or(ToAgent::Unknown)))
}
