//! The vSensor's side of its agents: one port, on which agents with a certificate are served and joiners are passed on
//! to the master as they are, so that the vSensor sees neither their token nor their key.

use crate::cure::ended;
use crate::frame::{Assembly, FrameReader, Kind, WireFrame};
use crate::goodbye::refuse;
use crate::tls::{ALPN_AGENT, ALPN_JOIN, agent_server, peer_as};
use crate::{Identity, Role};
use rustls::server::Acceptor;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thymus_record::message::{ToAgent, ToRelay};
use tokio::io::{AsyncWriteExt, ReadHalf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// An agent says ten times a second that it lives; one that is silent so long is gone, and others take over.
const SILENCE_MAX: Duration = Duration::from_millis(500);
/// Until its first sign of life an agent may take longer.
const FIRST_MAX: Duration = Duration::from_secs(5);
/// A joiner has as long as joining takes.
const JOIN_MAX: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(100);
/// An agent that has another vSensor waits 1.2 s for a sign of life.
const PING_EVERY: Duration = Duration::from_millis(300);
/// Messages on their way to one agent, and about how many bytes of memory they take.
const MESSAGES_MAX: usize = 1_024;
const MESSAGES_BYTES_MAX: usize = 8 << 20;
/// How long what was taken may wait to be told together with the next.
const TAKEN_WITHIN: Duration = Duration::from_millis(5);
/// Connections at once, joiners included.
const CONNECTIONS_MAX: usize = 4_096;
/// Largest hello that is looked at.
const HELLO_MAX: usize = 16 << 10;
/// Runs of agents whose parcel numbers are remembered.
const RUNS_MAX: usize = 16_384;

/// How a connection ends that we refuse to serve any longer.
const REFUSED: io::ErrorKind = io::ErrorKind::PermissionDenied;

/// Speaks to one agent.
#[derive(Clone)]
pub struct AgentSender {
    queue: mpsc::Sender<ToAgent>,
    /// What the messages in the queue take.
    bytes: Arc<AtomicUsize>,
    is_stuck: Arc<Notify>,
}

impl AgentSender {
    /// Sends a message; one to an agent that is gone is lost. An agent that does not take what it is sent is cut off, so
    /// that it costs no memory and never goes on with half of what it was told.
    pub fn send(&self, message: ToAgent) {
        let bytes = weight(&message);
        let is_full = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > MESSAGES_BYTES_MAX;
        let sent = if is_full { Err(TrySendError::Full(message)) } else { self.queue.try_send(message) };
        if let Err(failed) = sent {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            if matches!(failed, TrySendError::Full(_)) {
                self.is_stuck.notify_one();
            }
        }
    }
}

/// What is on its way to one agent.
struct Messages {
    queue: mpsc::Receiver<ToAgent>,
    bytes: Arc<AtomicUsize>,
}

impl Messages {
    async fn next(&mut self) -> Option<ToAgent> {
        let message = self.queue.recv().await;
        message.inspect(|message| self.went(message))
    }

    fn next_now(&mut self) -> Option<ToAgent> {
        let message = self.queue.try_recv().ok();
        message.inspect(|message| self.went(message))
    }

    fn went(&self, message: &ToAgent) {
        self.bytes.fetch_sub(weight(message), Ordering::Relaxed);
    }
}

/// The queue to one agent, from its two sides.
fn queue() -> (AgentSender, Messages) {
    let (sender, queue) = mpsc::channel(MESSAGES_MAX);
    let bytes: Arc<AtomicUsize> = Arc::default();
    (AgentSender { queue: sender, bytes: Arc::clone(&bytes), is_stuck: Arc::default() }, Messages { queue, bytes })
}

/// About how many bytes of memory a message takes.
fn weight(message: &ToAgent) -> usize {
    let more = match message {
        ToAgent::Members(part) => {
            let members = part.members.iter().map(|member| 80 + 8 * (member.claims.len() + member.covered.len()));
            members.sum::<usize>() + 4 * part.gone.len()
        }
        ToAgent::Policy(policy) => policy.filter.len() + 8 * policy.program.len(),
        ToAgent::Renewed { chain } => chain.len(),
        ToAgent::Acknowledge(held) | ToAgent::Unwanted(held) => 16 * held.ranges.len(),
        _ => 0,
    };
    size_of::<ToAgent>() + more
}

/// Our end of a connection, and the peer's.
pub type Ends = (SocketAddr, SocketAddr);

/// What a vSensor does with its agents. Calls come from one thread, one at a time.
pub trait Agents: Send {
    /// An agent connected, between our end and its own; gives an error in words to refuse it.
    fn enter(&mut self, agent: u32, name: &str, ends: Ends, sender: AgentSender) -> Result<(), String>;
    /// It said something.
    fn hear(&mut self, agent: u32, message: ToRelay);
    /// This run of it sent frames: see [`crate::agent::take_frame`]. A parcel that is not new was taken before.
    fn take(&mut self, run: (u32, u64), parcel: &[u8], is_new: bool);
    /// It sent frames that a run of it had kept on its disk.
    fn take_late(&mut self, agent: u32, parcel: &[u8]);
    /// It sent a batch of its own metadata; gives an error in words to end its connection.
    fn batch(&mut self, agent: u32, bytes: Vec<u8>) -> Result<(), String>;
    /// It is gone.
    fn leave(&mut self, agent: u32);
    /// A tenth of a second has passed.
    fn tick(&mut self);
}

/// The running relay.
pub struct Relay {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Relay {
    /// Listens and starts the thread.
    pub fn start(identity: Identity, listen: SocketAddr, agents: Box<dyn Agents>) -> io::Result<Relay> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = runtime.block_on(TcpListener::bind(listen))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let shared = Arc::new(Shared { identity, agents: Mutex::new(agents), runs: Mutex::default() });
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&shared, &socket) => {}
                    () = tick(&shared, &told) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(run)?;
        Ok(Relay { thread: Some(thread), stop })
    }

    /// Ends the thread; all agents are cut off.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Shared {
    identity: Identity,
    agents: Mutex<Box<dyn Agents>>,
    /// The next parcel of each run of an agent, and of its disk.
    runs: Mutex<HashMap<(u32, u64, Lane), u64>>,
}

/// Parcels that come at once, and those that waited on the agent's disk, are numbered apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    Live,
    Late,
}

impl Shared {
    fn agents(&self) -> MutexGuard<'_, Box<dyn Agents>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tick(shared: &Shared, stop: &AtomicBool) {
    let mut ticks = interval(TICK);
    while !stop.load(Ordering::Acquire) {
        ticks.tick().await;
        shared.agents().tick();
    }
}

async fn accept(shared: &Arc<Shared>, socket: &TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, peer)) = socket.accept().await else {
            // Out of file descriptors, mostly: wait for some to come back.
            tokio::time::sleep(TICK).await;
            continue;
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(why) = welcome(&shared, stream, peer).await {
                tracing::info!("{peer}: {why}");
            }
        });
    }
}

async fn welcome(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let asked = timeout(HANDSHAKE_MAX, protocols(&stream)).await;
    let asked = asked.map_err(|_elapsed| "no TLS hello within 10 s".to_owned())??;
    match asked.as_slice() {
        [one] if one == ALPN_JOIN => pass_on(shared, stream).await,
        [one] if one == ALPN_AGENT => {
            let config = crate::Identity::load(&shared.identity.state);
            let config =
                agent_server(config.as_ref().unwrap_or(&shared.identity)).map_err(|error| error.to_string())?;
            let tls = timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(stream)).await;
            let tls = tls.map_err(|_elapsed| "no handshake within 10 s".to_owned())?;
            let tls = tls.map_err(|error| format!("the TLS handshake failed: {error}"))?;
            let certificates = tls.get_ref().1.peer_certificates();
            let agent = peer_as(certificates, Role::Agent, &shared.identity.deployment)?.id;
            serve(shared, agent, tls, peer).await.map_err(|error| format!("agent {agent}: {}", ended(&error)))
        }
        _ => Err("speaks neither to agents nor to joiners".to_owned()),
    }
}

/// The protocols that a TLS hello asks for; the hello stays in the socket.
async fn protocols(stream: &TcpStream) -> Result<Vec<Vec<u8>>, String> {
    let mut seen = vec![0; HELLO_MAX];
    loop {
        let len = stream.peek(&mut seen).await.map_err(|error| error.to_string())?;
        let mut acceptor = Acceptor::default();
        let mut bytes = seen.get(..len).unwrap_or_default();
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes).map_err(|error| error.to_string())?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Ok(accepted.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect());
            }
            Ok(None) if len > 0 && len < HELLO_MAX => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok(None) => return Err("its TLS hello has no end".to_owned()),
            Err((error, _)) => return Err(format!("no TLS hello: {error}")),
        }
    }
}

/// A joiner and the master speak to each other through us, in TLS of their own.
async fn pass_on(shared: &Shared, mut joiner: TcpStream) -> Result<(), String> {
    let mut master = crate::enrol::connect(&shared.identity.addresses).await.map_err(|error| error.to_string())?;
    let passed = timeout(JOIN_MAX, copy_bidirectional(&mut joiner, &mut master)).await;
    passed.map_err(|_elapsed| "a joiner took too long".to_owned())?.map_err(|error| error.to_string())?;
    Ok(())
}

async fn serve(shared: &Shared, agent: u32, tls: TlsStream<TcpStream>, peer: SocketAddr) -> io::Result<()> {
    let ends = (tls.get_ref().0.local_addr()?, peer);
    let (reader, mut writer) = tokio::io::split(tls);
    let mut reader = FrameReader::new(reader);
    let hello = timeout(FIRST_MAX, reader.next()).await.map_err(|_elapsed| io::Error::other("it said nothing"))??;
    let hello = hello.and_then(|frame| serde_json::from_slice(&frame.payload).ok());
    let Some(ToRelay::Hello { software, name, boot, taken, ended }) = hello else {
        return Err(io::Error::other("it did not say hello"));
    };
    let name: String = name.chars().filter(|letter| !letter.is_control()).take(64).collect();
    let (sender, mut messages) = queue();
    let next = shared
        .runs
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&(agent, boot, Lane::Live))
        .copied()
        .unwrap_or(0);
    sender.send(ToAgent::Taken { up_to: next });
    let entered = shared.agents().enter(agent, &name, ends, sender.clone());
    if let Err(why) = entered {
        return Err(refuse(why, &mut writer, &mut reader).await);
    }
    shared.agents().hear(agent, ToRelay::Hello { software, name, boot, taken, ended });
    let speak = async {
        let mut pings = interval(PING_EVERY);
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                _ = pings.tick() => Some(ToAgent::Ping {}),
            };
            let Some(mut message) = message else { return Ok(()) };
            if matches!(message, ToAgent::Taken { .. }) {
                // A little later is as good: to wake the agent up costs it more than a parcel.
                tokio::time::sleep(TAKEN_WITHIN).await;
                let taken;
                (taken, message) = newest_taken(message, &mut messages);
                if let Some(taken) = taken {
                    writer.write_all(&WireFrame::control(&taken).encode()).await?;
                }
            }
            if let ToAgent::Refused { why } = message {
                return Err(io::Error::new(REFUSED, why));
            }
            writer.write_all(&WireFrame::control(&message).encode()).await?;
            writer.flush().await?;
        }
    };
    let ended = tokio::select! {
        ended = listen(shared, (agent, boot), &mut reader, &sender) => ended,
        ended = speak => ended,
        () = sender.is_stuck.notified() => Err(io::Error::other("it does not take what it is sent")),
    };
    shared.agents().leave(agent);
    match ended {
        Err(error) if error.kind() == REFUSED => Err(refuse(error.to_string(), &mut writer, &mut reader).await),
        ended => ended,
    }
}

/// Of several words in a row that parcels were taken only the newest counts: it, and what else was waiting behind it.
fn newest_taken(taken: ToAgent, messages: &mut Messages) -> (Option<ToAgent>, ToAgent) {
    let mut newest = taken;
    while let Some(next) = messages.next_now() {
        if !matches!(next, ToAgent::Taken { .. }) {
            return (Some(newest), next);
        }
        newest = next;
    }
    (None, newest)
}

async fn listen(
    shared: &Shared,
    run: (u32, u64),
    reader: &mut FrameReader<ReadHalf<TlsStream<TcpStream>>>,
    sender: &AgentSender,
) -> io::Result<()> {
    let mut patience = FIRST_MAX;
    let mut assembly = Assembly::default();
    loop {
        let frame =
            timeout(patience, reader.next()).await.map_err(|_elapsed| io::Error::other("it has gone silent"))??;
        let Some(frame) = frame else { return Ok(()) };
        patience = SILENCE_MAX;
        match frame.kind {
            Kind::Control => {
                let message = serde_json::from_slice(&frame.payload).unwrap_or(ToRelay::Unknown);
                shared.agents().hear(run.0, message);
            }
            Kind::Frames => {
                let is_new = is_next(shared, (run.0, run.1, Lane::Live), frame.stream);
                shared.agents().take(run, &frame.payload, is_new);
                sender.send(ToAgent::Taken { up_to: frame.stream + 1 });
            }
            Kind::LateFrames => {
                let Some((boot, parcel)) = frame.payload.split_first_chunk::<8>() else {
                    return Err(io::Error::other("it sent a parcel of no run"));
                };
                let boot = u64::from_le_bytes(*boot);
                if is_next(shared, (run.0, boot, Lane::Late), frame.stream) {
                    shared.agents().take_late(run.0, parcel);
                }
                sender.send(ToAgent::TakenLate { boot, up_to: frame.stream.saturating_add(1) });
            }
            Kind::BatchPiece | Kind::BatchEnd => {
                if let Some(batch) = assembly.add(frame)? {
                    shared.agents().batch(run.0, batch).map_err(io::Error::other)?;
                }
            }
            Kind::Packets => return Err(io::Error::other("it sent what only a vSensor sends")),
        }
    }
}

/// True if this parcel of the run was not taken before.
fn is_next(shared: &Shared, run: (u32, u64, Lane), number: u64) -> bool {
    let mut runs = shared.runs.lock().unwrap_or_else(PoisonError::into_inner);
    if runs.len() >= RUNS_MAX && !runs.contains_key(&run) {
        // Agents that restarted so often that their old runs no longer matter.
        runs.retain(|known, _| known.0 != run.0);
    }
    let next = runs.entry(run).or_default();
    let is_new = number >= *next;
    *next = (*next).max(number.saturating_add(1));
    is_new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_behind_taken_parcels_all_come_in_order() {
        let taken = |up_to| ToAgent::Taken { up_to };
        let word = |name: &str| ToAgent::Hello { name: name.to_owned() };
        let (sender, mut messages) = queue();
        for message in [taken(2), taken(3), word("one"), word("two"), taken(4), word("three"), taken(5), taken(6)] {
            sender.send(message);
        }
        let mut said = Vec::new();
        let mut next = Some(taken(1));
        while let Some(message) = next {
            if matches!(message, ToAgent::Taken { .. }) {
                let (taken, message) = newest_taken(message, &mut messages);
                said.extend(taken.into_iter().chain([message]));
            } else {
                said.push(message);
            }
            next = messages.next_now();
        }
        assert_eq!(said, [taken(3), word("one"), word("two"), taken(4), word("three"), taken(6)]);
        assert_eq!(sender.bytes.load(Ordering::Relaxed), 0, "what went takes no room");
    }
}
