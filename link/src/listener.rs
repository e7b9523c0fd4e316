//! The master's side: one port for sensors, joiners and browsers, told apart by what their TLS hello asks for.

use crate::Role;
use crate::enrol::{Redeemed, TokenBook, serve};
use crate::frame::{Assembly, FrameReader, Kind, WireFrame, read};
use crate::goodbye::refuse;
use crate::identity::expiry;
use crate::issuer::Issuer;
use crate::tls::{ALPN_JOIN, ALPN_LINK, ServerConfigs, peer_as};
use rustls::server::Acceptor;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thymus_record::message::{Hello, ToMaster, ToSensor};
use thymus_record::{SensorId, Time};
use tokio::io::{AsyncWriteExt, ReadHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A sensor tells its health every 2 s; a silent one is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const PING_EVERY: Duration = Duration::from_secs(5);
/// Messages waiting for one sensor.
const OUTBOX: usize = 256;

/// A connection was not accepted; the text says why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AcceptError(pub String);

/// A sensor that showed a valid certificate.
#[derive(Clone, Debug)]
pub struct SensorPeer {
    /// Its number.
    pub sensor: SensorId,
    /// Its certificate's serial number.
    pub serial: Vec<u8>,
    /// Where it dialled from.
    pub address: SocketAddr,
    /// What it said first.
    pub hello: Hello,
    /// Until when its certificate is valid.
    pub expires: Time,
}

/// What came in.
pub enum Accepted {
    /// A sensor.
    Sensor(Box<SensorPeer>, Box<SensorLink>),
    /// Somebody joined, under this name.
    Enrolled(Redeemed, String),
    /// A browser or API client.
    Web(Box<TlsStream<TcpStream>>),
}

/// Tells whether a sensor, or its certificate of this serial number, is revoked.
pub type Revoked = Arc<dyn Fn(SensorId, &[u8]) -> bool + Send + Sync>;

/// The listener's TLS side; the master owns the socket.
pub struct Listener {
    configs: Mutex<ServerConfigs>,
    issuer: Arc<Issuer>,
    book: Arc<dyn TokenBook>,
    revoked: Revoked,
}

impl Listener {
    /// A listener with this authority, book of tokens and list of revoked certificates.
    pub fn new(issuer: Arc<Issuer>, book: Arc<dyn TokenBook>, revoked: Revoked) -> Result<Listener, AcceptError> {
        let configs = ServerConfigs::new(&issuer).map_err(|error| AcceptError(error.to_string()))?;
        Ok(Listener { configs: Mutex::new(configs), issuer, book, revoked })
    }

    /// The configurations, with the server's certificate of today.
    fn configs(&self, now: Time) -> ServerConfigs {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if self.issuer.renew_server(now)
            && let Ok(fresh) = ServerConfigs::new(&self.issuer)
        {
            *configs = fresh;
        }
        configs.clone()
    }

    /// Takes a connection through its handshake; a joiner is served to its end.
    pub async fn accept(&self, stream: TcpStream, peer: SocketAddr, now: Time) -> Result<Accepted, AcceptError> {
        let accepted = timeout(HANDSHAKE_MAX, self.shake_hands(stream, peer, now)).await;
        accepted.unwrap_or_else(|_elapsed| Err(AcceptError("no handshake within 10 s".to_owned())))
    }

    async fn shake_hands(&self, stream: TcpStream, peer: SocketAddr, now: Time) -> Result<Accepted, AcceptError> {
        let failed = |error: io::Error| AcceptError(format!("the TLS handshake failed: {error}"));
        let _ = stream.set_nodelay(true);
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(failed)?;
        let asked: Vec<Vec<u8>> = start.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        let configs = self.configs(now);
        let (links, joins) = (asked.iter().any(|each| each == ALPN_LINK), asked.iter().any(|each| each == ALPN_JOIN));
        match (links, joins) {
            (false, false) => {
                let tls = start.into_stream(configs.web).await.map_err(failed)?;
                Ok(Accepted::Web(Box::new(tls)))
            }
            (true, false) if asked.len() == 1 => {
                let tls = start.into_stream(configs.link).await.map_err(failed)?;
                self.welcome(tls, peer).await
            }
            (false, true) if asked.len() == 1 => {
                let mut tls = start.into_stream(configs.join).await.map_err(failed)?;
                let served = serve(&mut tls, &self.issuer, self.book.as_ref(), now, peer.ip()).await;
                served.map(|(redeemed, name)| Accepted::Enrolled(redeemed, name)).map_err(AcceptError)
            }
            _ => Err(AcceptError("the hello mixes protocols that exclude each other".to_owned())),
        }
    }

    async fn welcome(&self, mut tls: TlsStream<TcpStream>, address: SocketAddr) -> Result<Accepted, AcceptError> {
        let named = peer_as(tls.get_ref().1.peer_certificates(), Role::Sensor, self.issuer.deployment());
        let named = named.map_err(|why| AcceptError(why.to_owned()))?;
        let sensor = SensorId(named.id);
        let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let expires = leaf.and_then(expiry).unwrap_or_default();
        let first = read(&mut tls).await.map_err(|error| AcceptError(format!("no hello: {error}")))?;
        let first = first.and_then(|frame| serde_json::from_slice(&frame.payload).ok());
        let Some(ToMaster::Hello(hello)) = first else {
            return Err(AcceptError("the sensor did not say hello".to_owned()));
        };
        if (self.revoked)(sensor, &named.serial) {
            let why = "this sensor was revoked at the master: to let it in again, give it a new token and an empty state folder";
            let (reader, mut writer) = tokio::io::split(tls);
            refuse(why.to_owned(), &mut writer, &mut FrameReader::new(reader)).await;
            return Err(AcceptError(format!("sensor {} is revoked", named.id)));
        }
        let peer = SensorPeer { sensor, serial: named.serial, address, hello, expires };
        Ok(Accepted::Sensor(Box::new(peer), Box::new(SensorLink { tls })))
    }
}

/// The connection of a sensor, before the master has answered its hello.
pub struct SensorLink {
    tls: TlsStream<TcpStream>,
}

/// Something from a sensor.
#[derive(Debug)]
pub enum FromSensor {
    /// A control message.
    Control(ToMaster),
    /// A batch.
    Batch(Vec<u8>),
    /// A piece of an answer.
    Packets {
        /// The query's id.
        query: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
}

/// Sends to one sensor; clones share the connection.
#[derive(Clone)]
pub struct LinkSender {
    outbox: mpsc::Sender<ToSensor>,
}

/// Receives from one sensor.
pub struct LinkReceiver {
    reader: ReadHalf<TlsStream<TcpStream>>,
    assembly: Assembly,
}

impl SensorLink {
    /// Answers the hello and gives both directions. The writing half runs as a task until the connection ends.
    pub fn split(self, hello: Hello) -> (LinkSender, LinkReceiver) {
        let (reader, mut writer) = tokio::io::split(self.tls);
        let (outbox, mut messages) = mpsc::channel::<ToSensor>(OUTBOX);
        let first = WireFrame::control(&ToSensor::Hello(hello)).encode();
        tokio::spawn(async move {
            writer.write_all(&first).await?;
            writer.flush().await?;
            loop {
                let message = match timeout(PING_EVERY, messages.recv()).await {
                    Ok(Some(message)) => message,
                    Ok(None) => return writer.shutdown().await,
                    Err(_) => ToSensor::Ping {},
                };
                writer.write_all(&WireFrame::control(&message).encode()).await?;
                writer.flush().await?;
            }
        });
        (LinkSender { outbox }, LinkReceiver { reader, assembly: Assembly::default() })
    }
}

impl LinkSender {
    /// Sends a message; false if the connection is gone.
    pub async fn send(&self, message: ToSensor) -> bool {
        self.outbox.send(message).await.is_ok()
    }

    /// Sends a message from a thread that may wait; false if the connection is gone.
    pub fn blocking_send(&self, message: ToSensor) -> bool {
        self.outbox.blocking_send(message).is_ok()
    }

    /// Sends a message without waiting; false if the connection is gone or does not keep up.
    pub fn try_send(&self, message: ToSensor) -> bool {
        self.outbox.try_send(message).is_ok()
    }
}

impl LinkReceiver {
    /// The next thing; `None` when the sensor closed the connection.
    pub async fn next(&mut self) -> io::Result<Option<FromSensor>> {
        loop {
            let frame = timeout(SILENCE_MAX, read(&mut self.reader)).await;
            let frame = frame.map_err(|_elapsed| io::Error::other("the sensor has been silent for 15 s"))??;
            let Some(frame) = frame else { return Ok(None) };
            match frame.kind {
                Kind::Control => {
                    let message = serde_json::from_slice(&frame.payload).unwrap_or(ToMaster::Unknown);
                    return Ok(Some(FromSensor::Control(message)));
                }
                Kind::Frames | Kind::LateFrames => {
                    return Err(io::Error::other("a vSensor sends no frames of its own"));
                }
                Kind::Packets => return Ok(Some(FromSensor::Packets { query: frame.stream, bytes: frame.payload })),
                Kind::BatchPiece | Kind::BatchEnd => {
                    if let Some(batch) = self.assembly.add(frame)? {
                        return Ok(Some(FromSensor::Batch(batch)));
                    }
                }
            }
        }
    }
}
