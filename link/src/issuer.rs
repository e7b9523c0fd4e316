//! The master's own certification authority: a root that tokens pin, an issuing intermediate, and the server's own
//! certificate. The issuer takes nothing from a request but its public key.

use crate::identity::{IdentityError, Named, Role, write_private};
use crate::tls::verify_client;
use crate::token::Token;
use ed25519_dalek::SigningKey;
use rand::Rng;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use thymus_record::Time;
use thymus_record::time::SECOND;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The name in every master's certificate that sensors verify; the role in the SAN URI says the rest.
pub const MASTER_NAME: &str = "master.thymus.internal";
/// The name in every vSensor's certificate that its agents verify.
pub const SENSOR_NAME: &str = "sensor.thymus.internal";
/// Days that a leaf is valid.
const LEAF_DAYS: u64 = 30;
/// A leaf with less life left than this is renewed: from a third of its life on, so that a master that was away for
/// weeks finds its sensors still able to connect.
pub const RENEW_BEFORE: u64 = 20 * DAY;
/// Days that the server's certificate is valid, and the age at which it is made anew.
const SERVER_DAYS: (u64, u64) = (397, 200);
/// Days that the root and the intermediate are valid.
const ROOT_DAYS: u64 = 3_650;
const DAY: u64 = 86_400 * SECOND;
/// Certificates in a chain that is looked at.
const CHAIN_MAX: usize = 4;

/// The authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file of it.
    #[error(transparent)]
    File(#[from] IdentityError),
    /// A key or certificate of it.
    #[error("the certification authority in {dir} cannot be used: {why}; restore the folder from a backup")]
    Damaged {
        /// Its folder.
        dir: String,
        /// What is wrong.
        why: String,
    },
    /// A request that is none.
    #[error("the certificate request is not valid: {0}")]
    Request(String),
}

/// What the master keeps of a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenGrant {
    /// Its name.
    pub id: [u8; 16],
    /// The key that its requests are signed with.
    pub public_key: [u8; 32],
}

/// The authority.
pub struct Issuer {
    dir: PathBuf,
    deployment: String,
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    signer: rcgen::Issuer<'static, KeyPair>,
    names: Vec<String>,
    server: Mutex<Server>,
}

/// The server's chain and key, and when they were made.
struct Server {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    made: Time,
}

impl Issuer {
    /// Opens the authority in this folder, or makes one. `names` are the host names and addresses of the web page.
    pub fn open_or_create(dir: &Path, names: &[String], now: Time) -> Result<Issuer, IssuerError> {
        if !dir.join("deployment").exists() {
            create(dir, now)?;
        }
        let damaged = |why: String| IssuerError::Damaged { dir: dir.display().to_string(), why };
        let read = |name: &str| fs::read_to_string(dir.join(name)).map_err(|error| damaged(format!("{name}: {error}")));
        let deployment = read("deployment")?.trim().to_owned();
        let certificate = |name: &str| {
            CertificateDer::from_pem_file(dir.join(name)).map_err(|error| damaged(format!("{name}: {error}")))
        };
        let (root, intermediate) = (certificate("root.pem")?, certificate("issuing.pem")?);
        let key = KeyPair::from_pem(&read("issuing-key.pem")?).map_err(|error| damaged(error.to_string()))?;
        let signer = rcgen::Issuer::from_ca_cert_der(&intermediate, key).map_err(|error| damaged(error.to_string()))?;
        let server = server_leaf(&deployment, names, now, &signer).map_err(|error| damaged(error.to_string()))?;
        let (leaf, key) = server;
        let chain = vec![leaf, intermediate.clone(), root.clone()];
        let (server, names) = (Mutex::new(Server { chain, key, made: now }), names.to_vec());
        Ok(Issuer { dir: dir.to_owned(), deployment, root, intermediate, signer, names, server })
    }

    /// The deployment's id.
    pub fn deployment(&self) -> &str {
        &self.deployment
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The root that everything leads to.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The server's chain and key.
    pub fn server(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        (server.chain.clone(), server.key.clone_key())
    }

    /// Makes the server's certificate anew once it is old; true if it did.
    pub fn renew_server(&self, now: Time) -> bool {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(server.made) < SERVER_DAYS.1 * DAY {
            return false;
        }
        let Ok((leaf, key)) = server_leaf(&self.deployment, &self.names, now, &self.signer) else { return false };
        *server = Server { chain: vec![leaf, self.intermediate.clone(), self.root.clone()], key, made: now };
        true
    }

    /// A new token, and what is kept of it.
    pub fn issue_token(&self, addresses: Vec<String>) -> (Token, TokenGrant) {
        let mut random = rand::rng();
        let (id, seed): ([u8; 16], [u8; 32]) = (random.random(), random.random());
        let token = Token { root: fingerprint(&self.root), id, seed, addresses };
        let public_key = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
        (token, TokenGrant { id, public_key })
    }

    /// Signs the next certificate of a peer that is not connected itself: whoever brings the request can only get a
    /// certificate for the key that already has one. `chain` is that one as PEM, still valid, of this role and id, and
    /// the request is signed by its key.
    pub fn renew(&self, request: &[u8], chain: &str, role: Role, id: u32, now: Time) -> Result<String, IssuerError> {
        let refused = |why: &str| IssuerError::Request(why.to_owned());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .take(CHAIN_MAX)
            .collect::<Result<_, _>>()
            .map_err(|_error| refused("the certificate that it renews is damaged"))?;
        let (leaf, rest) = chain.split_first().ok_or_else(|| refused("it brings no certificate to renew"))?;
        verify_client(&self.root, leaf, rest, now)
            .map_err(|error| IssuerError::Request(format!("the certificate that it renews is not valid: {error}")))?;
        let named = Named::of(leaf).ok_or_else(|| refused("the certificate that it renews names nobody"))?;
        if (named.deployment.as_str(), named.role, named.id) != (self.deployment.as_str(), role, id) {
            return Err(refused("the certificate that it renews is for somebody else"));
        }
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| IssuerError::Request(error.to_string()))?;
        let (_, asked) = X509CertificationRequest::from_der(request)
            .map_err(|error| IssuerError::Request(format!("no request: {error}")))?;
        if leaf.public_key().raw != asked.certification_request_info.subject_pki.raw {
            return Err(refused("it is for another key than the certificate that it renews"));
        }
        self.sign(request, role, id, now)
    }

    /// Signs a request's public key as this role and id; gives the chain without the root, as PEM.
    pub fn sign(&self, request: &[u8], role: Role, id: u32, now: Time) -> Result<String, IssuerError> {
        let refused = |error: rcgen::Error| IssuerError::Request(error.to_string());
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request.to_vec()))
            .map_err(refused)?;
        let mut params = leaf_params(&self.deployment, role, id, now).map_err(refused)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role == Role::Sensor {
            // A vSensor is a server too, to its agents.
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            let name = Ia5String::try_from(SENSOR_NAME).map_err(refused)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let certificate = params.signed_by(&request.public_key, &self.signer).map_err(refused)?;
        Ok(format!("{}{}", certificate.pem(), pem_of(&self.intermediate)))
    }
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate.as_ref()).into()
}

/// A certificate as PEM.
pub(crate) fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let coded = base64::engine::general_purpose::STANDARD.encode(certificate.as_ref());
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in coded.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap_or_default());
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn date(time: Time) -> OffsetDateTime {
    let seconds = i64::try_from(time.0 / SECOND).unwrap_or_default();
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A first start accepts a clock that is a day wrong.
fn set_validity(params: &mut CertificateParams, now: Time, days: u64) {
    params.not_before = date(now - DAY);
    params.not_after = date(now + days * DAY);
}

fn authority(name: &str, now: Time) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, ROOT_DAYS);
    Ok(params)
}

fn leaf_params(deployment: &str, role: Role, id: u32, now: Time) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Thymus {} {id}", role.as_str()));
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(Named::uri(deployment, role, id))?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, LEAF_DAYS);
    Ok(params)
}

fn create(dir: &Path, now: Time) -> Result<(), IssuerError> {
    let damaged = |why: String| IssuerError::Damaged { dir: dir.display().to_string(), why };
    fs::create_dir_all(dir).map_err(|error| damaged(error.to_string()))?;
    let failed = |error: rcgen::Error| damaged(error.to_string());
    let deployment: String = format!("{:016x}", rand::rng().random::<u64>());
    let root_key = KeyPair::generate().map_err(failed)?;
    let params = authority(&format!("Thymus root {deployment}"), now).map_err(failed)?;
    let root = params.self_signed(&root_key).map_err(failed)?;
    let root_issuer = rcgen::Issuer::from_ca_cert_der(root.der(), &root_key).map_err(failed)?;
    let key = KeyPair::generate().map_err(failed)?;
    let intermediate = authority(&format!("Thymus issuing {deployment}"), now)
        .and_then(|params| params.signed_by(&key, &root_issuer))
        .map_err(failed)?;
    write_private(&dir.join("root-key.pem"), root_key.serialize_pem().as_bytes())?;
    write_private(&dir.join("root.pem"), root.pem().as_bytes())?;
    write_private(&dir.join("issuing-key.pem"), key.serialize_pem().as_bytes())?;
    write_private(&dir.join("issuing.pem"), intermediate.pem().as_bytes())?;
    write_private(&dir.join("deployment"), deployment.as_bytes())?;
    Ok(())
}

/// The server's certificate is made at each start and before it grows old: the key never leaves memory, and names
/// follow the configuration.
fn server_leaf(
    deployment: &str,
    names: &[String],
    now: Time,
    signer: &rcgen::Issuer<'static, KeyPair>,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = leaf_params(deployment, Role::Master, 0, now)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(MASTER_NAME)?));
    for name in names {
        let name = name.trim_matches(['[', ']']);
        match name.parse::<IpAddr>() {
            Ok(address) => params.subject_alt_names.push(SanType::IpAddress(address)),
            Err(_) => params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name)?)),
        }
    }
    set_validity(&mut params, now, SERVER_DAYS.0);
    let certificate = params.signed_by(&key, signer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).ok().ok_or(rcgen::Error::CouldNotParseKeyPair)?;
    Ok((certificate.der().clone(), key))
}
