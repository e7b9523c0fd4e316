//! JA3 and JA3S (MD5 of what the hellos offer, GREASE left out) and JA4 of the client hello (FoxIO, TLS client, BSD).

use super::message::{ClientHello, ServerHello, is_grease};
use crate::extract::text::hex;
use md5::{Digest, Md5};
use sha2::Sha256;
use std::fmt::Write;

fn joined(numbers: impl Iterator<Item = u16>) -> String {
    let texts: Vec<String> = numbers.filter(|number| !is_grease(*number)).map(|number| number.to_string()).collect();
    texts.join("-")
}

/// JA3 of a client hello.
pub(super) fn ja3(hello: &ClientHello) -> String {
    let text = format!(
        "{},{},{},{},{}",
        hello.version,
        joined(hello.ciphers.iter().copied()),
        joined(hello.extensions.iter().copied()),
        joined(hello.groups.iter().copied()),
        joined(hello.formats.iter().map(|format| u16::from(*format)))
    );
    hex(&Md5::digest(text))
}

/// JA3S of a server hello.
pub(super) fn ja3s(hello: &ServerHello) -> String {
    let extensions: Vec<String> = hello.extensions.iter().map(ToString::to_string).collect();
    hex(&Md5::digest(format!("{},{},{}", hello.version, hello.cipher, extensions.join("-"))))
}

/// JA4 of a client hello over TCP.
pub(super) fn ja4(hello: &ClientHello) -> String {
    let ciphers: Vec<u16> = hello.ciphers.iter().copied().filter(|cipher| !is_grease(*cipher)).collect();
    let extensions: Vec<u16> = hello.extensions.iter().copied().filter(|kind| !is_grease(*kind)).collect();
    let offered = hello.versions.iter().copied().filter(|version| !is_grease(*version)).max().unwrap_or(hello.version);
    let version = match offered {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    };
    let named = if extensions.contains(&0) { 'd' } else { 'i' };
    let mut out =
        format!("t{version}{named}{:02}{:02}{}_", ciphers.len().min(99), extensions.len().min(99), alpn(hello));
    let mut sorted = ciphers;
    sorted.sort_unstable();
    out.push_str(&digest(&list(&sorted)));
    let mut sorted: Vec<u16> = extensions.into_iter().filter(|kind| !matches!(kind, 0 | 16)).collect();
    sorted.sort_unstable();
    let mut text = list(&sorted);
    let signatures: Vec<u16> = hello.signatures.iter().copied().filter(|scheme| !is_grease(*scheme)).collect();
    if !text.is_empty() && !signatures.is_empty() {
        text.push('_');
        text.push_str(&list(&signatures));
    }
    let _ = write!(out, "_{}", digest(&text));
    out
}

fn list(numbers: &[u16]) -> String {
    let texts: Vec<String> = numbers.iter().map(|number| format!("{number:04x}")).collect();
    texts.join(",")
}

fn digest(text: &str) -> String {
    if text.is_empty() {
        return "000000000000".to_owned();
    }
    hex(Sha256::digest(text).first_chunk::<6>().unwrap_or(&[0; 6]))
}

/// First and last letter of the first protocol offered; of its hex form where they are no letters or digits.
fn alpn(hello: &ClientHello) -> String {
    let Some(first) = hello.alpn.first().filter(|name| !name.is_empty()) else { return "00".to_owned() };
    let bytes = first.as_bytes();
    let (Some(a), Some(b)) = (bytes.first(), bytes.last()) else { return "00".to_owned() };
    if a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric() {
        return format!("{}{}", char::from(*a), char::from(*b));
    }
    format!("{:x}{:x}", a >> 4, b & 15)
}
