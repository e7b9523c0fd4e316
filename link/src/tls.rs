//! TLS configurations. A hello chooses one family, and families share no tickets: `thymus/1` (mutual, TLS 1.3 alone, no
//! resumption, no early data), `thymus-join/1` (no client certificate), and the web's.

use crate::issuer::{Issuer, MASTER_NAME, SENSOR_NAME, fingerprint};
use crate::{Identity, Role, identity::Named};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::Arc;
use thymus_record::Time;

/// The link.
pub const ALPN_LINK: &[u8] = b"thymus/1";
/// From an OS-sensor to its vSensor.
pub const ALPN_AGENT: &[u8] = b"thymus-agent/1";
/// Joining.
pub const ALPN_JOIN: &[u8] = b"thymus-join/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(root: &CertificateDer<'static>) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    store.add(root.clone())?;
    Ok(store)
}

/// The name that sensors verify.
pub(crate) fn master_name() -> ServerName<'static> {
    ServerName::try_from(MASTER_NAME).unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

/// The server's three families.
#[derive(Clone)]
pub(crate) struct ServerConfigs {
    pub(crate) link: Arc<ServerConfig>,
    pub(crate) join: Arc<ServerConfig>,
    pub(crate) web: Arc<ServerConfig>,
}

impl ServerConfigs {
    pub(crate) fn new(issuer: &Issuer) -> Result<ServerConfigs, Error> {
        let roots = Arc::new(roots(issuer.root())?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let modern = &[&rustls::version::TLS13];
        let (chain, key) = issuer.server();
        let mut link = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(modern)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        link.alpn_protocols = vec![ALPN_LINK.to_vec()];
        link.session_storage = Arc::new(NoServerSessionStorage {});
        link.send_tls13_tickets = 0;
        let mut join = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(modern)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.clone_key())?;
        join.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        join.session_storage = Arc::new(NoServerSessionStorage {});
        join.send_tls13_tickets = 0;
        let mut web = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        web.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ServerConfigs { link: Arc::new(link), join: Arc::new(join), web: Arc::new(web) })
    }
}

/// The sensor's configuration for the link.
pub(crate) fn link_client(identity: &Identity) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(&identity.root)?)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that agents verify.
pub(crate) fn sensor_name() -> ServerName<'static> {
    ServerName::try_from(SENSOR_NAME).unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

/// The agent's configuration for its vSensor.
pub(crate) fn agent_client(identity: &Identity) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(&identity.root)?)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_AGENT.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The vSensor's configuration for its agents.
pub(crate) fn agent_server(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&identity.root)?), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_AGENT.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The joiner's configuration: the server must lead to the root that the token pins.
pub(crate) fn join_client(pinned: [u8; 32]) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedRoot { pinned, provider: provider() }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Accepts a server whose chain ends in the root with this fingerprint, and verifies the chain against it.
#[derive(Debug)]
struct PinnedRoot {
    pinned: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = intermediates.iter().find(|each| fingerprint(each) == self.pinned);
        let root =
            root.ok_or_else(|| Error::General("the server is not the master that the token names".to_owned()))?;
        let mut store = RootCertStore::empty();
        store.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies a client's certificate as a handshake would, at this time.
pub(crate) fn verify_client(
    root: &CertificateDer<'static>,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: Time,
) -> Result<(), Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(root)?), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_nanos(now.0));
    verifier.verify_client_cert(leaf, rest, now).map(|_| ())
}

/// The peer's name, if it has the role and deployment expected.
pub(crate) fn peer_as(
    certificates: Option<&[CertificateDer<'_>]>,
    role: Role,
    deployment: &str,
) -> Result<Named, &'static str> {
    let leaf = certificates.and_then(<[_]>::first).ok_or("the peer showed no certificate")?;
    let named = Named::of(leaf).ok_or("the peer's certificate names no role")?;
    if named.role != role {
        return Err("the peer's certificate is for another role");
    }
    if named.deployment != deployment {
        return Err("the peer's certificate is of another deployment");
    }
    Ok(named)
}
