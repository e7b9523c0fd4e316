//! A certificate as a row.

use crate::extract::FlowContext;
use crate::extract::text::{hex, printable};
use sha2::{Digest, Sha256};
use thymus_record::Time;
use thymus_record::table::CertRow;
use thymus_record::time::SECOND;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Longest text kept.
const TEXT_MAX: usize = 512;
/// Names kept.
const NAMES_MAX: usize = 32;

/// SHA-256 of a certificate, in hex.
pub(super) fn fingerprint(der: &[u8]) -> String {
    hex(&Sha256::digest(der))
}

fn time(seconds: i64) -> Time {
    Time(u64::try_from(seconds).unwrap_or_default().saturating_mul(SECOND))
}

/// The row of a certificate; `None` if its bytes are none.
pub(super) fn row(der: &[u8], fingerprint: &str, flow: &FlowContext, ordinal: u32) -> Option<CertRow> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let text = |name: String| printable(name.as_bytes(), TEXT_MAX);
    let names = certificate.subject_alternative_name().ok().flatten();
    let san = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(text((*name).to_owned())),
        GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some(text((*name).to_owned())),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(thymus_record::Address::from_v4(v4).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|v6| thymus_record::Address(v6).to_string()),
        },
        _ => None,
    });
    let version = certificate.version().0.saturating_add(1);
    Some(CertRow {
        ts: flow.now,
        shard: flow.shard,
        sequence: flow.sequence,
        ordinal,
        network: flow.network,
        fingerprint: fingerprint.to_owned(),
        version: u8::try_from(version).unwrap_or_default(),
        serial: hex(certificate.raw_serial().get(..64.min(certificate.raw_serial().len())).unwrap_or_default())
            .to_uppercase(),
        subject: text(certificate.subject().to_string()),
        issuer: text(certificate.issuer().to_string()),
        not_before: time(certificate.validity().not_before.timestamp()),
        not_after: time(certificate.validity().not_after.timestamp()),
        key_alg: certificate.public_key().algorithm.algorithm.to_id_string(),
        sig_alg: certificate.signature_algorithm.algorithm.to_id_string(),
        san: san.take(NAMES_MAX).collect(),
        ca: certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca),
    })
}
