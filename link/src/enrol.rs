//! Joining by token. Over `thymus-join/1`, each message a length (u32, big-endian, at most 16 KiB) and a JSON object:
//!
//! ```text
//! joiner → master  {"token": id}
//! master → joiner  {"nonce": …}
//! joiner → master  {"request": certificate request, "signature": Ed25519 over (id, nonce, request), "name": host name}
//! master → joiner  {"chain": PEM, "root": PEM, "sensor": n, "group": …, "deployment": …}   or at any step {"refused": words}
//! ```
//!
//! The token's seed never travels, so that who relays this cannot use it. The joiner checks that the answer certifies
//! its own key under the root that the token pins.

use crate::Role;
use crate::identity::{Identity, IdentityError, IdentityFiles, Named};
use crate::issuer::{Issuer, fingerprint};
use crate::tls::{join_client, master_name};
use crate::token::{Token, TokenError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use rand::Rng;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use thymus_record::{SensorId, Time};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const MESSAGE_MAX: usize = 16 << 10;
const STEP: Duration = Duration::from_secs(10);

/// Joining failed; the text says why and what to do.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token's text.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] IdentityError),
    /// The folder belongs to somebody else.
    #[error(
        "{0} already holds the identity of a sensor of this or another deployment: choose another --state, or remove that folder to give the identity up"
    )]
    Taken(String),
    /// No address answered.
    #[error("no {0} answers at {1}: check the address, the port and the firewall between")]
    Unreachable(&'static str, String),
    /// The master said no.
    #[error("the master refused: {0}")]
    Refused(String),
    /// The other side is not the master that the token names, or does not speak.
    #[error("{0}")]
    Broken(String),
}

/// The master's book of tokens.
pub trait TokenBook: Send + Sync {
    /// The key of a token that can be used now, or why not, in words.
    fn public_key(&self, id: &[u8; 16], now: Time, peer: IpAddr) -> Result<[u8; 32], String>;
    /// Uses a token once, after its signature was checked: counts the use and numbers the new sensor, in one step.
    fn redeem(&self, id: &[u8; 16], now: Time, peer: IpAddr, name: &str) -> Result<Redeemed, String>;
}

/// What a token gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redeemed {
    /// The new member's number.
    pub sensor: SensorId,
    /// Its group.
    pub group: String,
    /// What it is.
    pub role: Role,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Message {
    #[serde(skip_serializing_if = "String::is_empty")]
    token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    nonce: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    request: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    signature: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    chain: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    deployment: String,
    sensor: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    refused: String,
}

async fn put<S: AsyncWrite + Unpin>(to: &mut S, message: &Message) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    to.write_all(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()).await?;
    to.write_all(&bytes).await?;
    to.flush().await
}

async fn take<S: AsyncRead + Unpin>(from: &mut S) -> io::Result<Message> {
    let read = async {
        let length = from.read_u32().await? as usize;
        if length > MESSAGE_MAX {
            return Err(io::Error::other("a message beyond the limit of 16 KiB"));
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes).await?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    };
    timeout(STEP, read).await.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
}

fn signed(id: &[u8; 16], nonce: &[u8], request: &[u8]) -> Vec<u8> {
    [b"thymus-join/1".as_slice(), id, nonce, request].concat()
}

/// Joins with a token's text; blocks until it is done. `via` replaces the token's addresses.
pub fn join(text: &str, state: &Path, via: Option<&str>, name: &str) -> Result<Identity, JoinError> {
    let token: Token = text.parse()?;
    if state.join("identity.toml").exists() {
        return Err(JoinError::Taken(state.display().to_string()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| JoinError::Broken(format!("no runtime: {error}")))?;
    runtime.block_on(join_with(&token, state, via, name))?;
    Ok(Identity::load(state)?)
}

async fn join_with(token: &Token, state: &Path, via: Option<&str>, name: &str) -> Result<(), JoinError> {
    let stream = connect(&via.map_or_else(|| token.addresses.clone(), |via| vec![via.to_owned()])).await?;
    let broken = |why: String| JoinError::Broken(why);
    let config = join_client(token.root).map_err(|error| broken(error.to_string()))?;
    let tls = timeout(STEP, TlsConnector::from(config).connect(master_name(), stream)).await;
    let mut tls = tls
        .map_err(|_elapsed| broken("the master does not answer the TLS handshake".to_owned()))?
        .map_err(|error| broken(format!("the TLS handshake failed: {error}; the token may be of another master")))?;
    let lost = |error: io::Error| JoinError::Broken(format!("the master broke off: {error}"));
    let said = |message: Message| {
        if message.refused.is_empty() { Ok(message) } else { Err(JoinError::Refused(message.refused)) }
    };
    put(&mut tls, &Message { token: STANDARD.encode(token.id), ..Message::default() }).await.map_err(lost)?;
    let nonce = said(take(&mut tls).await.map_err(lost)?)?.nonce;
    let nonce = STANDARD.decode(nonce).map_err(|error| broken(error.to_string()))?;
    let key = KeyPair::generate().map_err(|error| broken(error.to_string()))?;
    let request = CertificateParams::new(Vec::<String>::new()).and_then(|params| params.serialize_request(&key));
    let request = request.map_err(|error| broken(error.to_string()))?.der().to_vec();
    let signature = token.signing_key().sign(&signed(&token.id, &nonce, &request));
    let message = Message {
        request: STANDARD.encode(&request),
        signature: STANDARD.encode(signature.to_bytes()),
        name: name.to_owned(),
        ..Message::default()
    };
    put(&mut tls, &message).await.map_err(lost)?;
    let answer = said(take(&mut tls).await.map_err(lost)?)?;
    check(token, &answer, &key)?;
    // The way that led to the master now is the one to try first from now on.
    let mut addresses: Vec<String> = via.map(str::to_owned).into_iter().collect();
    addresses.extend(token.addresses.iter().filter(|address| via != Some(address.as_str())).cloned());
    let files = IdentityFiles {
        sensor: SensorId(answer.sensor),
        deployment: &answer.deployment,
        group: &answer.group,
        addresses: &addresses,
        chain_pem: &answer.chain,
        root_pem: &answer.root,
        key_pem: &key.serialize_pem(),
    };
    Ok(Identity::save(state, &files)?)
}

/// The answer must certify our own key, as a sensor, under the root that the token pins.
fn check(token: &Token, answer: &Message, key: &KeyPair) -> Result<(), JoinError> {
    let broken = |why: &str| JoinError::Broken(format!("the master's answer cannot be trusted: {why}"));
    let root = CertificateDer::from_pem_slice(answer.root.as_bytes()).ok().ok_or_else(|| broken("it holds no root"))?;
    if fingerprint(&root) != token.root {
        return Err(broken("its root is not the token's"));
    }
    let leaf = CertificateDer::from_pem_slice(answer.chain.as_bytes()).ok();
    let leaf = leaf.ok_or_else(|| broken("it holds no certificate"))?;
    let named = Named::of(&leaf).ok_or_else(|| broken("its certificate names no role"))?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(&leaf).ok().ok_or_else(|| broken("its certificate is damaged"))?;
    let own = parsed.public_key().raw == key.subject_public_key_info().as_slice();
    if !own || named.deployment != answer.deployment || named.id != answer.sensor {
        return Err(broken("its certificate is not for the key that we made"));
    }
    Ok(())
}

/// Connects to the first address that answers.
pub(crate) async fn connect(addresses: &[String]) -> Result<TcpStream, JoinError> {
    for address in addresses {
        if let Ok(Ok(stream)) = timeout(STEP, TcpStream::connect(address.as_str())).await {
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        }
    }
    Err(JoinError::Unreachable("master", addresses.join(", ")))
}

/// The master's side of a join; the text of a refusal goes to the joiner and to the caller's audit.
pub(crate) async fn serve<S>(
    stream: &mut S,
    issuer: &Issuer,
    book: &dyn TokenBook,
    now: Time,
    peer: IpAddr,
) -> Result<(Redeemed, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let done = serve_steps(stream, issuer, book, now, peer).await;
    if let Err(why) = &done {
        let _ = put(stream, &Message { refused: why.clone(), ..Message::default() }).await;
    }
    let _ = stream.shutdown().await;
    done
}

async fn serve_steps<S>(
    stream: &mut S,
    issuer: &Issuer,
    book: &dyn TokenBook,
    now: Time,
    peer: IpAddr,
) -> Result<(Redeemed, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let lost = |error: io::Error| format!("the joiner broke off: {error}");
    let malformed = || "the request is malformed".to_owned();
    let decode = |text: &str| STANDARD.decode(text).ok().ok_or_else(malformed);
    let id: [u8; 16] = decode(&take(stream).await.map_err(lost)?.token)?.try_into().ok().ok_or_else(malformed)?;
    let public_key = book.public_key(&id, now, peer)?;
    let nonce: [u8; 32] = rand::rng().random();
    put(stream, &Message { nonce: STANDARD.encode(nonce), ..Message::default() }).await.map_err(lost)?;
    let message = take(stream).await.map_err(lost)?;
    let (request, signature) = (decode(&message.request)?, decode(&message.signature)?);
    let signature: [u8; 64] = signature.try_into().ok().ok_or_else(malformed)?;
    let key = VerifyingKey::from_bytes(&public_key).ok().ok_or_else(malformed)?;
    if key.verify_strict(&signed(&id, &nonce, &request), &Signature::from_bytes(&signature)).is_err() {
        return Err("the token's secret is wrong: copy the token whole".to_owned());
    }
    let name: String = message.name.chars().filter(|letter| !letter.is_control()).take(64).collect();
    let redeemed = book.redeem(&id, now, peer, &name)?;
    let chain = issuer.sign(&request, redeemed.role, redeemed.sensor.0, now).map_err(|error| error.to_string())?;
    let answer = Message {
        chain,
        root: crate::issuer::pem_of(issuer.root()),
        group: redeemed.group.clone(),
        deployment: issuer.deployment().to_owned(),
        sensor: redeemed.sensor.0,
        ..Message::default()
    };
    put(stream, &answer).await.map_err(lost)?;
    Ok((redeemed, name))
}
