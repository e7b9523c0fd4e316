//! Text from the wire: bounded, printable, and never mistaken for anything else.

use std::fmt::Write;

/// Bytes as printable UTF-8 of at most `max` bytes of input; others stand as `\xHH`.
pub(crate) fn printable(bytes: &[u8], max: usize) -> String {
    let bytes = bytes.get(..bytes.len().min(max)).unwrap_or_default();
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() {
                escape(letter.encode_utf8(&mut [0; 4]).as_bytes(), &mut out);
            } else {
                out.push(letter);
            }
        }
        escape(chunk.invalid(), &mut out);
    }
    out
}

fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
