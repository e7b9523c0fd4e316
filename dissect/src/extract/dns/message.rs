//! DNS messages (RFC 1035, 3596, 2782): pure reading of one whole message.

use std::fmt::Write as _;
use thymus_record::Address;

/// Jumps of compression followed in one name.
const JUMPS_MAX: usize = 16;
/// Bytes of one name, without its escapes.
const NAME_MAX: usize = 255;
/// Questions and answers read of one message.
const ENTRIES_MAX: u16 = 64;

/// A question.
pub(super) struct Question {
    pub(super) name: String,
    pub(super) kind: u16,
    pub(super) class: u16,
}

/// A message, as far as rows need it.
pub(super) struct Message {
    pub(super) id: u16,
    pub(super) flags: u16,
    pub(super) questions: Vec<Question>,
    pub(super) answers: Vec<(String, u64)>,
    /// An answer without any resource record.
    pub(super) bare: bool,
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}

/// Text safe to show: what is not printable ASCII becomes `\xHH`.
fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            0x20..=0x7e => out.push(char::from(*byte)),
            other => {
                let _ = write!(out, "\\x{other:02x}");
            }
        }
    }
}

/// A name in lower case, and where it ends. Jumps and length are bounded, so that a loop ends.
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut out, mut end, mut jumps, mut length) = (String::new(), None, 0, 0);
    loop {
        let first = usize::from(*bytes.get(at)?);
        match first >> 6 {
            0 if first == 0 => return Some((out, end.unwrap_or(at + 1))),
            0 => {
                length += first + 1;
                if length > NAME_MAX {
                    return None;
                }
                if !out.is_empty() {
                    out.push('.');
                }
                escape(&bytes.get(at + 1..at + 1 + first)?.to_ascii_lowercase(), &mut out);
                at += 1 + first;
            }
            3 => {
                jumps += 1;
                if jumps > JUMPS_MAX {
                    return None;
                }
                end = end.or(Some(at + 2));
                at = usize::from(number(bytes, at)? & 0x3fff);
            }
            _ => return None,
        }
    }
}

fn texts(data: &[u8], label: &str) -> String {
    let (mut out, mut rest) = (String::new(), data);
    while let Some((length, after)) = rest.split_first() {
        let Some((text, next)) = after.split_at_checked(usize::from(*length)) else { break };
        let _ = write!(out, "{}{label} {length} ", if out.is_empty() { "" } else { " " });
        escape(text, &mut out);
        rest = next;
    }
    out
}

/// An answer's data as Zeek writes it; `None` for types that it leaves out.
fn data(message: &[u8], kind: u16, at: usize, length: usize) -> Option<String> {
    let data = message.get(at..at + length)?;
    match kind {
        1 => data.try_into().ok().map(|four| Address::from_v4(four).to_string()),
        28 => data.try_into().ok().map(|all| Address(all).to_string()),
        2 | 5 | 6 | 12 => name(message, at).map(|found| found.0),
        15 => name(message, at + 2).map(|found| found.0),
        33 => name(message, at + 6).map(|found| found.0),
        16 => Some(texts(data, "TXT")),
        99 => Some(texts(data, "SPF")),
        _ => None,
    }
}

/// Reads a message; `None` if these bytes are not one.
pub(super) fn read(bytes: &[u8]) -> Option<Message> {
    let (id, flags) = (number(bytes, 0)?, number(bytes, 2)?);
    let (asked, answered) = (number(bytes, 4)?, number(bytes, 6)?);
    let bare = answered == 0 && number(bytes, 8)? == 0 && number(bytes, 10)? == 0;
    if asked > ENTRIES_MAX || (asked == 0 && answered == 0 && flags & 0x8000 == 0) {
        return None;
    }
    let (mut questions, mut answers, mut at) = (Vec::new(), Vec::new(), 12);
    for _ in 0..asked {
        let (name, end) = name(bytes, at)?;
        questions.push(Question { name, kind: number(bytes, end)?, class: number(bytes, end + 2)? });
        at = end + 4;
    }
    for _ in 0..answered.min(ENTRIES_MAX) {
        let Some((_, end)) = name(bytes, at) else { break };
        let (Some(kind), Some(high), Some(low), Some(length)) =
            (number(bytes, end), number(bytes, end + 4), number(bytes, end + 6), number(bytes, end + 8))
        else {
            break;
        };
        let length = usize::from(length);
        if let Some(text) = data(bytes, kind, end + 10, length) {
            answers.push((text, u64::from(high) << 16 | u64::from(low)));
        }
        at = end + 10 + length;
    }
    Some(Message { id, flags, questions, answers, bare })
}

/// Zeek's name of a type.
pub(super) fn type_name(kind: u16) -> String {
    let name = match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        32 => "NB",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        99 => "SPF",
        249 => "TKEY",
        250 => "TSIG",
        251 => "IXFR",
        252 => "AXFR",
        255 => "*",
        _ => return format!("query-{kind}"),
    };
    name.to_owned()
}

/// Zeek's name of a response code.
pub(super) fn code_name(code: u16) -> String {
    const NAMES: [&str; 11] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH",
        "NOTZONE",
    ];
    NAMES.get(usize::from(code)).map_or_else(|| format!("rcode-{code}"), |name| (*name).to_owned())
}
