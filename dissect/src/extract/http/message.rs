//! The heads of HTTP/1 messages (RFC 9112): read leniently, as servers do, and bounded.

use crate::extract::text::printable;

/// Longest request target kept.
const TARGET_MAX: usize = 2_048;
/// Longest value kept of any other field.
const VALUE_MAX: usize = 512;

/// Methods that make the first bytes of a flow a request.
const METHODS: &[&[u8]] = &[
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"SEARCH ",
    b"REPORT ",
    b"SUBSCRIBE ",
    b"NOTIFY ",
    b"M-SEARCH ",
    b"BITS_POST ",
    b"RPC_IN_DATA ",
    b"RPC_OUT_DATA ",
    b"CCM_POST ",
];

/// True if the bytes begin as a request.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| bytes.starts_with(method))
}

/// True if the bytes begin as an answer.
pub(super) fn is_answer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.")
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    /// After so many bytes.
    Bytes(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection, or, for requests, at once.
    Unsaid,
}

/// A request's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RequestView {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) version: Option<String>,
    pub(super) fields: Fields,
}

/// An answer's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AnswerView {
    pub(super) version: String,
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) fields: Fields,
}

/// The header fields that matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fields {
    pub(super) host: Option<String>,
    pub(super) referrer: Option<String>,
    pub(super) user_agent: Option<String>,
    pub(super) username: Option<String>,
    pub(super) mime_type: Option<String>,
    pub(super) length: Length,
}

fn trim(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

impl RequestView {
    /// Reads a head, without the empty line behind it.
    pub(super) fn parse(head: &[u8]) -> Option<RequestView> {
        let mut lines = head.split(|byte| *byte == b'\n');
        let first = trim(lines.next()?);
        let (method, rest) = split_at(first, b' ')?;
        let rest = trim(rest);
        let (target, version) = match rest.iter().rposition(|byte| *byte == b' ') {
            Some(at) if rest.get(at + 1..)?.starts_with(b"HTTP/") => (rest.get(..at)?, rest.get(at + 6..)),
            _ => (rest, None),
        };
        let method_ok = !method.is_empty() && method.len() <= 32 && method.iter().all(|byte| byte.is_ascii_graphic());
        method_ok.then(|| RequestView {
            method: printable(method, VALUE_MAX),
            target: printable(trim(target), TARGET_MAX),
            version: version.map(|version| printable(version, 8)),
            fields: Fields::parse(lines),
        })
    }
}

impl AnswerView {
    /// Reads a head, without the empty line behind it.
    pub(super) fn parse(head: &[u8]) -> Option<AnswerView> {
        let mut lines = head.split(|byte| *byte == b'\n');
        let first = trim(lines.next()?).strip_prefix(b"HTTP/")?;
        let (version, rest) = split_at(first, b' ')?;
        let rest = trim(rest);
        let (status, reason) = split_at(rest, b' ').unwrap_or((rest, &[]));
        let status = std::str::from_utf8(status).ok()?.parse().ok()?;
        let fields = Fields::parse(lines);
        Some(AnswerView { version: printable(version, 8), status, reason: printable(trim(reason), VALUE_MAX), fields })
    }
}

impl Fields {
    fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Fields {
        let mut fields = Fields {
            host: None,
            referrer: None,
            user_agent: None,
            username: None,
            mime_type: None,
            length: Length::Unsaid,
        };
        for line in lines {
            let Some((name, value)) = split_at(line, b':') else { continue };
            let (name, value) = (trim(name).to_ascii_lowercase(), trim(value));
            let text = || Some(printable(value, VALUE_MAX));
            match name.as_slice() {
                b"host" => fields.host = text().map(without_port),
                b"referer" => fields.referrer = text(),
                b"user-agent" => fields.user_agent = text(),
                b"content-type" => {
                    fields.mime_type =
                        text().map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
                }
                b"authorization" => fields.username = username(value),
                b"content-length" if fields.length != Length::Chunked => {
                    let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    fields.length = length.map_or(Length::Unsaid, Length::Bytes);
                }
                b"transfer-encoding" if value.to_ascii_lowercase().ends_with(b"chunked") => {
                    fields.length = Length::Chunked
                }
                _ => {}
            }
        }
        fields
    }
}

fn split_at(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|byte| *byte == at)?;
    Some((bytes.get(..position)?, bytes.get(position + 1..)?))
}

fn without_port(host: String) -> String {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name.to_owned()
        }
        _ => host,
    }
}

/// The user of a Basic authorization (RFC 7617); the password goes no further than this line.
fn username(value: &[u8]) -> Option<String> {
    let coded = value.strip_prefix(b"Basic ").or_else(|| value.strip_prefix(b"basic "))?;
    let digits = coded.get(..coded.len().min(VALUE_MAX))?.iter().map_while(|byte| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    });
    let (mut user, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for digit in digits {
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            let byte = u8::try_from(bits >> count & 0xff).unwrap_or_default();
            if byte == b':' {
                return Some(printable(&user, VALUE_MAX));
            }
            user.push(byte);
        }
    }
    None
}

/// Where a head ends in these bytes: its length, and that of the empty line behind it.
pub(super) fn end_of_head(bytes: &[u8]) -> Option<(usize, usize)> {
    let lf = bytes.windows(2).position(|pair| pair == b"\n\n").map(|at| (at, 2));
    let crlf = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| (at, 4));
    match (lf, crlf) {
        (Some(lf), Some(crlf)) => Some(if lf.0 < crlf.0 { lf } else { crlf }),
        (lf, crlf) => lf.or(crlf),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_user_and_loses_its_password() {
        let head = b"POST /a?b=c HTTP/1.1\r\nHost: www.example:8080\r\nAuthorization: Basic dXNlcjpzZWNyZXQ=\r\nContent-Length: 12\r\nContent-Type: Text/HTML; charset=x";
        let request = RequestView::parse(head).unwrap();
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/a?b=c"));
        assert_eq!(request.version.as_deref(), Some("1.1"));
        assert_eq!(request.fields.host.as_deref(), Some("www.example"));
        assert_eq!(request.fields.username.as_deref(), Some("user"));
        assert_eq!(request.fields.mime_type.as_deref(), Some("text/html"));
        assert_eq!(request.fields.length, Length::Bytes(12));
        assert!(!format!("{request:?}").contains("secret"));
    }

    #[test]
    fn an_answer_without_a_reason_is_one() {
        let answer = AnswerView::parse(b"HTTP/1.1 204\r\nTransfer-Encoding: chunked").unwrap();
        assert_eq!((answer.status, answer.reason.as_str(), answer.fields.length), (204, "", Length::Chunked));
    }
}
