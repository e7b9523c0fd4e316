//! Handshake messages of TLS 1.0 to 1.3 (RFC 5246, RFC 8446), as checked views.

use crate::extract::text::printable;

/// Longest name kept.
const NAME_MAX: usize = 255;
/// Extensions and suites looked at.
const ITEMS_MAX: usize = 256;

/// What is left of a message.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    fn u24(&mut self) -> Option<usize> {
        let [a, b, c] = *self.take(3)?.first_chunk()?;
        Some(usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))
    }

    /// A vector whose length stands in one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// A vector whose length stands in two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

fn numbers(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().take(ITEMS_MAX).map(|pair| u16::from_be_bytes(*pair)).collect()
}

/// Reserved values that keep implementations tolerant (RFC 8701).
pub(super) fn is_grease(number: u16) -> bool {
    number & 0x0f0f == 0x0a0a && number >> 8 == number & 0xff
}

/// A client hello.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct ClientHello {
    pub(super) version: u16,
    pub(super) has_session: bool,
    pub(super) session: Vec<u8>,
    pub(super) ciphers: Vec<u16>,
    pub(super) extensions: Vec<u16>,
    pub(super) server_name: Option<String>,
    pub(super) alpn: Vec<String>,
    pub(super) groups: Vec<u16>,
    pub(super) formats: Vec<u8>,
    pub(super) signatures: Vec<u16>,
    pub(super) versions: Vec<u16>,
}

/// A server hello.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct ServerHello {
    pub(super) version: u16,
    pub(super) session: Vec<u8>,
    pub(super) cipher: u16,
    pub(super) extensions: Vec<u16>,
    pub(super) alpn: Option<String>,
    pub(super) chosen: Option<u16>,
    pub(super) group: Option<u16>,
    pub(super) is_retry: bool,
}

/// The random of a server hello that asks the client to try again (RFC 8446 §4.1.3).
const RETRY: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];

impl ClientHello {
    /// Reads the body of a client hello.
    pub(super) fn parse(body: &[u8]) -> Option<ClientHello> {
        let mut reader = Reader(body);
        let version = reader.u16()?;
        reader.take(32)?;
        let session = reader.short()?;
        let ciphers = numbers(reader.long()?);
        reader.short()?;
        let mut hello = ClientHello {
            version,
            has_session: !session.is_empty(),
            session: session.to_vec(),
            ciphers,
            ..ClientHello::default()
        };
        let mut extensions = Reader(reader.long().unwrap_or_default());
        while let (Some(kind), Some(data)) = (extensions.u16(), extensions.long()) {
            if hello.extensions.len() >= ITEMS_MAX {
                break;
            }
            hello.extensions.push(kind);
            hello.extension(kind, data);
        }
        Some(hello)
    }

    fn extension(&mut self, kind: u16, data: &[u8]) {
        let mut data = Reader(data);
        match kind {
            0 => {
                let mut list = Reader(data.long().unwrap_or_default());
                if let (Some(0), Some(name)) = (list.u8(), list.long()) {
                    self.server_name = Some(printable(name, NAME_MAX).to_ascii_lowercase());
                }
            }
            10 => self.groups = numbers(data.long().unwrap_or_default()),
            11 => self.formats = data.short().unwrap_or_default().to_vec(),
            13 => self.signatures = numbers(data.long().unwrap_or_default()),
            16 => {
                let mut list = Reader(data.long().unwrap_or_default());
                while let Some(name) = list.short() {
                    if self.alpn.len() < 16 {
                        self.alpn.push(printable(name, NAME_MAX));
                    }
                }
            }
            43 => self.versions = numbers(data.short().unwrap_or_default()),
            _ => {}
        }
    }
}

impl ServerHello {
    /// Reads the body of a server hello.
    pub(super) fn parse(body: &[u8]) -> Option<ServerHello> {
        let mut reader = Reader(body);
        let version = reader.u16()?;
        let is_retry = reader.take(32)?.starts_with(&RETRY);
        let session = reader.short()?.to_vec();
        let cipher = reader.u16()?;
        reader.u8()?;
        let mut hello = ServerHello { version, session, cipher, is_retry, ..ServerHello::default() };
        let mut extensions = Reader(reader.long().unwrap_or_default());
        while let (Some(kind), Some(data)) = (extensions.u16(), extensions.long()) {
            if hello.extensions.len() >= ITEMS_MAX {
                break;
            }
            hello.extensions.push(kind);
            let mut data = Reader(data);
            match kind {
                16 => {
                    let mut list = Reader(data.long().unwrap_or_default());
                    hello.alpn = list.short().map(|name| printable(name, NAME_MAX));
                }
                43 => hello.chosen = data.u16(),
                51 => hello.group = data.u16(),
                _ => {}
            }
        }
        Some(hello)
    }

    /// The version agreed on.
    pub(super) fn agreed(&self) -> u16 {
        self.chosen.unwrap_or(self.version)
    }
}

/// The DER bytes of a certificate message of TLS 1.2 and below.
pub(super) fn certificates(body: &[u8]) -> Vec<&[u8]> {
    let mut reader = Reader(body);
    let Some(length) = reader.u24() else { return Vec::new() };
    let mut list = Reader(reader.0.get(..length).unwrap_or(reader.0));
    let mut found = Vec::new();
    while let Some(certificate) = list.u24().and_then(|length| list.take(length)) {
        if found.len() < 16 {
            found.push(certificate);
        }
    }
    found
}

/// The named curve of a server key exchange (RFC 8422 §5.4).
pub(super) fn named_curve(body: &[u8]) -> Option<u16> {
    let mut reader = Reader(body);
    if reader.u8()? == 3 { reader.u16() } else { None }
}
