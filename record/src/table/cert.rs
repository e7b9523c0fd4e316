//! X.509 certificates (RFC 5280), one row per fingerprint and boot of the sensor.

use crate::Time;
use crate::column::table;

table! {
    /// A certificate, the first time that it was seen.
    Cert: CertRow {
        /// When it was first seen.
        1 ts: Time = "ts",
        /// Flow shard, part of the uid.
        2 shard: u8 = "shard",
        /// Number of the flow in its shard, part of the uid.
        3 sequence: u64 = "sequence",
        /// Number of this row in its flow and table, from 0.
        4 ordinal: u32 = "ordinal",
        /// Network path, by number in this batch.
        5 network: u32 = "network",
        /// SHA-256 of the DER bytes, in hex.
        6 fingerprint: String = "fingerprint",
        /// Version, 1 to 3.
        7 version: u8 = "certificate.version",
        /// Serial number, in hex.
        8 serial: String = "certificate.serial",
        /// Subject, RFC 4514 form.
        9 subject: String = "certificate.subject",
        /// Issuer, RFC 4514 form.
        10 issuer: String = "certificate.issuer",
        /// Not valid before, Unix seconds.
        11 not_before: Time = "certificate.not_valid_before",
        /// Not valid after, Unix seconds.
        12 not_after: Time = "certificate.not_valid_after",
        /// Algorithm of the key, e.g. `rsaEncryption`.
        13 key_alg: String = "certificate.key_alg",
        /// Algorithm of the signature.
        14 sig_alg: String = "certificate.sig_alg",
        /// DNS names and addresses of the subject.
        15 san: Vec<String> = "san",
        /// May sign certificates.
        16 ca: bool = "basic_constraints.ca",
    }
}
