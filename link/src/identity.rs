//! Identities: a certificate names one role and id as a SAN URI, `thymus://<deployment>/master|sensor|agent/<id>`, and
//! every peer checks the role that it expects.

use crate::issuer::{RENEW_BEFORE, pem_of};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use thymus_record::message::ToRelay;
use thymus_record::{SensorId, Time};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The master.
    Master,
    /// A vSensor.
    Sensor,
    /// An OS-sensor.
    Agent,
}

impl Role {
    /// The word in the URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Sensor => "sensor",
            Role::Agent => "agent",
        }
    }
}

/// Who a certificate says it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The deployment.
    pub deployment: String,
    /// The role.
    pub role: Role,
    /// The id.
    pub id: u32,
    /// The certificate's serial number.
    pub serial: Vec<u8>,
}

impl Named {
    /// The SAN URI.
    pub fn uri(deployment: &str, role: Role, id: u32) -> String {
        format!("thymus://{deployment}/{}/{id}", role.as_str())
    }

    /// Reads the one identity of a certificate; `None` if it has none or more than one.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Named> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("thymus://"),
            _ => None,
        });
        let (uri, None) = (uris.next()?, uris.next()) else { return None };
        let mut parts = uri.split('/');
        let (deployment, role, id) = (parts.next()?, parts.next()?, parts.next()?);
        let role = [Role::Master, Role::Sensor, Role::Agent].into_iter().find(|each| each.as_str() == role)?;
        Some(Named {
            deployment: deployment.to_owned(),
            role,
            id: id.parse().ok()?,
            serial: parsed.raw_serial().to_vec(),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Card {
    sensor: u32,
    deployment: String,
    group: String,
    addresses: Vec<String>,
}

/// A sensor's key and certificate, and where its master is.
#[derive(Debug)]
pub struct Identity {
    /// Its number.
    pub sensor: SensorId,
    /// The deployment that it belongs to.
    pub deployment: String,
    /// Its group: the root of its network paths.
    pub group: String,
    /// Where the master is.
    pub addresses: Vec<String>,
    /// Its certificate, and what leads to the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The deployment's root.
    pub root: CertificateDer<'static>,
    /// The folder that it was read from.
    pub state: PathBuf,
}

/// There is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// None yet.
    #[error("{0} holds no identity: join first, with 'join TOKEN --state {0}'")]
    Missing(String),
    /// Cannot be read or written.
    #[error("{path}: {why}")]
    Unusable {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
}

fn unusable(path: &Path, why: impl ToString) -> IdentityError {
    IdentityError::Unusable { path: path.display().to_string(), why: why.to_string() }
}

impl Identity {
    /// Reads a state folder.
    pub fn load(state: &Path) -> Result<Identity, IdentityError> {
        let path = state.join("identity.toml");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(IdentityError::Missing(state.display().to_string()));
            }
            other => other.map_err(|error| unusable(&path, error))?,
        };
        let card: Card = toml::from_str(&text).map_err(|error| unusable(&path, error))?;
        let path = state.join("cert.pem");
        let chain = CertificateDer::pem_file_iter(&path)
            .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
            .map_err(|error| unusable(&path, error))?;
        let path = state.join("root.pem");
        let root = CertificateDer::from_pem_file(&path).map_err(|error| unusable(&path, error))?;
        let path = state.join("key.pem");
        let key = PrivateKeyDer::from_pem_file(&path).map_err(|error| unusable(&path, error))?;
        let Card { sensor, deployment, group, addresses } = card;
        let state = state.to_owned();
        Ok(Identity { sensor: SensorId(sensor), deployment, group, addresses, chain, key, root, state })
    }

    /// A request for the next certificate of the same key, DER.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let failed = |error: rcgen::Error| unusable(&self.state.join("key.pem"), error);
        let key = KeyPair::try_from(&self.key).map_err(failed)?;
        let request = CertificateParams::new(Vec::<String>::new()).and_then(|params| params.serialize_request(&key));
        Ok(request.map_err(failed)?.der().to_vec())
    }

    /// Takes the next certificate, which must be for the same key, role and number; it counts from the next connection.
    pub fn renew(&self, chain: &str) -> Result<(), IdentityError> {
        let refused = |why: &str| unusable(&self.state.join("cert.pem"), format!("the next certificate {why}"));
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|_error| refused("is damaged"))?;
        let (Some(own), Some(next)) = (self.chain.first().and_then(Named::of), Named::of(&leaf)) else {
            return Err(refused("names nobody"));
        };
        if (&own.deployment, own.role, own.id) != (&next.deployment, next.role, next.id) {
            return Err(refused("is for somebody else"));
        }
        let key = KeyPair::try_from(&self.key).map_err(|error| unusable(&self.state.join("key.pem"), error))?;
        let same = X509Certificate::from_der(&leaf)
            .is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info().as_slice());
        if !same {
            return Err(refused("is for another key"));
        }
        write_private(&self.state.join("cert.pem"), chain.as_bytes())
    }

    /// An OS-sensor's request for the next certificate, once the one that it has has lived a third of its life.
    pub(crate) fn renewal(&self, now: Time) -> Option<ToRelay> {
        let due = self.expires().is_none_or(|expires| expires.since(now) < RENEW_BEFORE);
        let request = if due { self.request().ok()? } else { return None };
        let chain = self.chain.iter().map(pem_of).collect();
        Some(ToRelay::Renew { request: STANDARD.encode(request), chain })
    }

    /// Until when its certificate is valid.
    pub fn expires(&self) -> Option<Time> {
        self.chain.first().and_then(expiry)
    }

    /// Writes a state folder: the key first, `identity.toml` last, so that a half-written one does not count.
    pub(crate) fn save(state: &Path, files: &IdentityFiles<'_>) -> Result<(), IdentityError> {
        fs::create_dir_all(state).map_err(|error| unusable(state, error))?;
        write_private(&state.join("key.pem"), files.key_pem.as_bytes())?;
        write_private(&state.join("cert.pem"), files.chain_pem.as_bytes())?;
        write_private(&state.join("root.pem"), files.root_pem.as_bytes())?;
        let card = Card {
            sensor: files.sensor.0,
            deployment: files.deployment.to_owned(),
            group: files.group.to_owned(),
            addresses: files.addresses.to_vec(),
        };
        let text = toml::to_string(&card).map_err(|error| unusable(state, error))?;
        write_private(&state.join("identity.toml"), text.as_bytes())
    }
}

/// Until when a certificate is valid.
pub fn expiry(certificate: &CertificateDer<'_>) -> Option<Time> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(Time::from_parts(seconds, 0))
}

/// What [`Identity::save`] writes.
pub(crate) struct IdentityFiles<'a> {
    pub(crate) sensor: SensorId,
    pub(crate) deployment: &'a str,
    pub(crate) group: &'a str,
    pub(crate) addresses: &'a [String],
    pub(crate) chain_pem: &'a str,
    pub(crate) root_pem: &'a str,
    pub(crate) key_pem: &'a str,
}

/// Writes a file that only its owner reads, whole or not at all. On Windows the folder says who reads it, and who makes
/// the folder sees to that.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let part: PathBuf = path.with_extension("part");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let write = || {
        let mut file = options.open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|error: std::io::Error| unusable(path, error))
}
