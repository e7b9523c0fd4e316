//! TLS handshakes (RFC 8446, RFC 5246).

use crate::column::{Proto, table};
use crate::{Address, Time};

table! {
    /// A TLS handshake.
    Tls: TlsRow {
        /// The client hello, or the first handshake message seen.
        1 ts: Time = "ts",
        /// Flow shard, part of the uid.
        2 shard: u8 = "shard",
        /// Number of the flow in its shard, part of the uid.
        3 sequence: u64 = "sequence",
        /// Number of this row in its flow and table, from 0.
        4 ordinal: u32 = "ordinal",
        /// Network path, by number in this batch.
        5 network: u32 = "network",
        /// Originator's address.
        6 orig_h: Address = "id.orig_h",
        /// Originator's port.
        7 orig_p: u16 = "id.orig_p",
        /// Responder's address.
        8 resp_h: Address = "id.resp_h",
        /// Responder's port.
        9 resp_p: u16 = "id.resp_p",
        /// IP protocol.
        10 proto: Proto = "proto",
        /// Version agreed on, e.g. `TLSv13`.
        11 version: Option<String> = "version",
        /// Cipher suite agreed on, by IANA's name, or hex.
        12 cipher: Option<String> = "cipher",
        /// Key exchange group agreed on.
        13 curve: Option<String> = "curve",
        /// Name that the client asked for (SNI).
        14 server_name: Option<String> = "server_name",
        /// The session was resumed.
        15 resumed: bool = "resumed",
        /// Protocol agreed on by ALPN (from the server hello, so TLS 1.2 and below).
        16 next_protocol: Option<String> = "next_protocol",
        /// Protocols that the client offered by ALPN.
        17 client_alpn: Vec<String> = "client_alpn",
        /// The handshake completed, as far as can be seen.
        18 established: bool = "established",
        /// Last alert, if the handshake failed.
        19 last_alert: Option<String> = "last_alert",
        /// JA3 of the client hello, MD5 in hex.
        20 ja3: Option<String> = "ja3",
        /// JA3S of the server hello, MD5 in hex.
        21 ja3s: Option<String> = "ja3s",
        /// JA4 of the client hello.
        22 ja4: Option<String> = "ja4",
        /// SHA-256 fingerprints of the server's certificates, leaf first.
        23 cert_chain_fps: Vec<String> = "cert_chain_fps",
        /// SHA-256 fingerprints of the client's certificates, leaf first.
        24 client_cert_chain_fps: Vec<String> = "client_cert_chain_fps",
        /// Zeek's history of the handshake: one letter a message, upper case from the client.
        25 ssl_history: String = "ssl_history",
    }
}
