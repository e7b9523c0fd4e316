//! What conversations say: templates made at start, in which a conversation's own bytes are put in place.
//!
//! A server is named `s0000.example`, its digits from its number; random fields come from the conversation's salt.

use super::Random;
use super::wire::{self, TCP_HEADS};
use std::ops::Range;

/// Room for any frame that is not bulk.
pub(super) const FRAME_BYTES_MAX: usize = 640;

const NAME: &[u8] = b"s0000.example";
const CONTENT_LENGTH: &[u8] = b"0000000000";

/// A message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Message {
    HttpRequest,
    HttpResponse,
    ClientHello,
    ServerHello,
    Finished,
    Greeting,
    DnsQuery,
    DnsResponse,
}

/// Bytes with places that differ from one conversation to the next.
struct Template {
    bytes: Vec<u8>,
    /// Four digits of a server's name.
    name_at: Option<usize>,
    /// Ten digits of a content's length.
    length_at: Option<usize>,
    /// Bytes from the salt.
    random: Option<Range<usize>>,
    /// The server's address.
    address_at: Option<usize>,
}

/// All templates.
pub(super) struct Messages {
    http_request: Template,
    http_response: Template,
    client_hello: Template,
    server_hello: Template,
    finished: Template,
    greeting: Template,
    dns_query: Template,
    dns_response: Template,
    /// Sum of the payload that every bulk segment has.
    pub(super) bulk_sum: u64,
}

impl Messages {
    pub(super) fn new(segment: usize) -> Messages {
        let request: &[&[u8]] = &[
            b"GET /index.html HTTP/1.1\r\nHost: ",
            NAME,
            b"\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) generated\r\nAccept: */*\r\n\r\n",
        ];
        let response: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\nServer: generated\r\nContent-Type: application/octet-stream\r\nContent-Length: ",
            CONTENT_LENGTH,
            b"\r\n\r\n",
        ];
        // Change cipher spec, then an encrypted record of 53 bytes.
        let finished = [&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 53][..], &[0; 53]].concat();
        Messages {
            http_request: Template::new(request.concat(), None),
            http_response: Template::new(response.concat(), None),
            client_hello: client_hello(),
            server_hello: server_hello(),
            finished: Template::new(finished, Some(11..64)),
            greeting: Template::new(b"generated bulk\n".to_vec(), None),
            dns_query: dns_query(),
            dns_response: dns_response(),
            bulk_sum: wire::sum_of(bulk_frame(segment).get(TCP_HEADS..).unwrap_or_default()),
        }
    }

    /// Writes a message about a server; gives its length.
    pub(super) fn write(&self, message: Message, room: &mut [u8], server: u16, salt: u64, content_len: u64) -> usize {
        let template = match message {
            Message::HttpRequest => &self.http_request,
            Message::HttpResponse => &self.http_response,
            Message::ClientHello => &self.client_hello,
            Message::ServerHello => &self.server_hello,
            Message::Finished => &self.finished,
            Message::Greeting => &self.greeting,
            Message::DnsQuery => &self.dns_query,
            Message::DnsResponse => &self.dns_response,
        };
        template.write(room, server, salt, content_len)
    }
}

impl Template {
    fn new(bytes: Vec<u8>, random: Option<Range<usize>>) -> Template {
        let find = |wanted: &[u8]| bytes.windows(wanted.len()).position(|window| window == wanted);
        let (name_at, length_at) = (find(b"s0000").map(|at| at + 1), find(CONTENT_LENGTH));
        Template { bytes, name_at, length_at, random, address_at: None }
    }

    fn write(&self, room: &mut [u8], server: u16, salt: u64, content_len: u64) -> usize {
        let Some(room) = room.get_mut(..self.bytes.len()) else { return 0 };
        room.copy_from_slice(&self.bytes);
        if let Some(place) = self.name_at.and_then(|at| room.get_mut(at..at + 4)) {
            digits(place, u64::from(server % 10_000));
        }
        if let Some(place) = self.length_at.and_then(|at| room.get_mut(at..at + CONTENT_LENGTH.len())) {
            digits(place, content_len);
        }
        if let Some(place) = self.random.clone().and_then(|range| room.get_mut(range)) {
            let mut random = Random(salt);
            for bytes in place.chunks_mut(8) {
                bytes.iter_mut().zip(random.next().to_le_bytes()).for_each(|(byte, random)| *byte = random);
            }
        }
        if let Some(place) = self.address_at.and_then(|at| room.get_mut(at..at + 4)) {
            let [high, low] = server.to_be_bytes();
            place.copy_from_slice(&[198, 18, high, low]);
        }
        self.bytes.len()
    }
}

/// Writes a number with leading zeros.
fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

/// A bulk frame without its heads: one TLS record of encrypted data.
pub(super) fn bulk_frame(segment: usize) -> Box<[u8]> {
    let mut frame = vec![0; TCP_HEADS + segment];
    let mut random = Random(0);
    frame.iter_mut().skip(TCP_HEADS + 5).for_each(|byte| *byte = random.next().to_le_bytes()[0]);
    let [high, low] = u16::try_from(segment.saturating_sub(5)).unwrap_or_default().to_be_bytes();
    frame.iter_mut().skip(TCP_HEADS).zip([23, 3, 3, high, low]).for_each(|(byte, head)| *byte = head);
    frame.into_boxed_slice()
}

/// Bytes behind their length of two bytes.
fn counted(parts: &[&[u8]]) -> Vec<u8> {
    let bytes = parts.concat();
    let length = u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes();
    [&length[..], &bytes].concat()
}

fn extension(number: u16, parts: &[&[u8]]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &counted(parts)].concat()
}

/// A handshake message in a TLS record. Random and session id stand at the same place in both hellos.
fn handshake(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let message = [&[kind, 0][..], &counted(parts)].concat();
    [&[22, 3, 1][..], &counted(&[&message])].concat()
}

/// Random and session id: from behind record head, message head and version.
const HELLO_RANDOM: Range<usize> = 11..43;

/// RFC 8446 §4.1.2.
fn client_hello() -> Template {
    let extensions = [
        extension(0, &[&counted(&[&[0], &counted(&[NAME])])]),
        extension(10, &[&[0, 4, 0, 29, 0, 23]]),
        extension(11, &[&[1, 0]]),
        extension(13, &[&[0, 6, 4, 3, 8, 4, 4, 1]]),
        extension(16, &[&[0, 12, 2], b"h2", &[8], b"http/1.1"]),
        extension(43, &[&[4, 3, 4, 3, 3]]),
        extension(51, &[&[0, 36, 0, 29, 0, 32], &[7; 32]]),
    ]
    .concat();
    let ciphers = [0, 8, 0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 0xc0, 0x2f];
    let bytes = handshake(1, &[&[3, 3], &[0; 32], &[32], &[9; 32], &ciphers, &[1, 0], &counted(&[&extensions])]);
    Template::new(bytes, Some(HELLO_RANDOM))
}

/// RFC 8446 §4.1.3, then what is encrypted.
fn server_hello() -> Template {
    let extensions = [extension(43, &[&[3, 4]]), extension(51, &[&[0, 29, 0, 32], &[8; 32]])].concat();
    let hello = handshake(2, &[&[3, 3], &[0; 32], &[32], &[9; 32], &[0x13, 0x01, 0], &counted(&[&extensions])]);
    let change = [20, 3, 3, 0, 1, 1];
    let encrypted = [&[23, 3, 3][..], &counted(&[&[5; 200]])].concat();
    Template::new([&hello[..], &change, &encrypted].concat(), Some(HELLO_RANDOM))
}

/// Question for an address (RFC 1035 §4.1.2).
fn question() -> Vec<u8> {
    let mut labels = Vec::new();
    for label in NAME.split(|byte| *byte == b'.') {
        labels.push(u8::try_from(label.len()).unwrap_or_default());
        labels.extend_from_slice(label);
    }
    [&labels[..], &[0, 0, 1, 0, 1]].concat()
}

fn dns_query() -> Template {
    Template::new([&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &question()].concat(), Some(0..2))
}

fn dns_response() -> Template {
    let head = [0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    // The name by pointer, A, IN, 300 s, four bytes.
    let answer = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 0, 0, 0, 0];
    let bytes = [&head[..], &question(), &answer].concat();
    let address_at = Some(bytes.len() - 4);
    Template { address_at, ..Template::new(bytes, Some(0..2)) }
}
