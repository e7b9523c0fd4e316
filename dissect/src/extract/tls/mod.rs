//! TLS (RFC 5246, RFC 8446) on any port, told by its first record. Reads the handshake, then lets go. Memory a flow: a
//! record of at most 18 KiB and handshake messages of at most 64 KiB a side.

mod certificate;
mod fingerprint;
mod message;
mod names;
#[cfg(test)]
mod tests;

use super::{Direction, Extractor, FlowContext, Verdict};
use message::{ClientHello, ServerHello};
use thymus_record::RecordSink;
use thymus_record::table::TlsRow;

/// Longest record (RFC 8446 §5.2), with some slack for old ones.
const RECORD_MAX: usize = (16 << 10) + 2_048;
/// Handshake messages put together from records.
const HANDSHAKE_MAX: usize = 64 << 10;
const HEAD: usize = 5;

const CHANGE_CIPHER: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

#[derive(Default, Debug)]
struct Side {
    buffer: Vec<u8>,
    handshake: Vec<u8>,
    encrypted: bool,
    finished: bool,
}

/// One flow's reader.
#[derive(Debug)]
pub struct Tls {
    client: Side,
    server: Side,
    row: Option<TlsRow>,
    client_session: Vec<u8>,
    version: u16,
    certificates: u32,
    saw_server: bool,
    saw_certificate: bool,
    confirmed: bool,
}

impl Tls {
    /// A reader, if these bytes begin with a handshake record (or an alert that refuses one).
    pub fn probe(_direction: Direction, first: &[u8]) -> Option<Tls> {
        let begins = match *first {
            [HANDSHAKE, 3, 0..=4, high, _, kind, ..] => usize::from(high) <= RECORD_MAX >> 8 && matches!(kind, 1 | 2),
            _ => false,
        };
        begins.then(|| Tls {
            client: Side::default(),
            server: Side::default(),
            row: None,
            client_session: Vec::new(),
            version: 0,
            certificates: 0,
            saw_server: false,
            saw_certificate: false,
            confirmed: false,
        })
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Originator => &mut self.client,
            Direction::Responder => &mut self.server,
        }
    }

    fn row(&mut self, flow: &FlowContext) -> &mut TlsRow {
        self.row.get_or_insert_with(|| TlsRow {
            ts: flow.now,
            shard: flow.shard,
            sequence: flow.sequence,
            network: flow.network,
            orig_h: flow.orig_h,
            orig_p: flow.orig_p,
            resp_h: flow.resp_h,
            resp_p: flow.resp_p,
            proto: flow.proto,
            ..TlsRow::default()
        })
    }

    fn note(&mut self, flow: &FlowContext, direction: Direction, letter: char) {
        let letter = if direction == Direction::Originator { letter.to_ascii_uppercase() } else { letter };
        let history = &mut self.row(flow).ssl_history;
        if history.len() < 30 {
            history.push(letter);
        }
    }

    /// The next whole record of this side: its type and body.
    fn take_record(&mut self, direction: Direction) -> Result<Option<(u8, Vec<u8>)>, ()> {
        let side = self.side(direction);
        let Some([kind, major, _, high, low]) = side.buffer.first_chunk::<HEAD>().copied() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(CHANGE_CIPHER..=24).contains(&kind) || major != 3 || length > RECORD_MAX {
            return Err(());
        }
        if side.buffer.len() < HEAD + length {
            return Ok(None);
        }
        let body = side.buffer.get(HEAD..HEAD + length).unwrap_or_default().to_vec();
        side.buffer.drain(..HEAD + length);
        Ok(Some((kind, body)))
    }

    /// Takes a record; false when the handshake is over.
    fn record(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        kind: u8,
        body: &[u8],
        sink: &mut dyn RecordSink,
    ) -> bool {
        match kind {
            CHANGE_CIPHER => {
                self.note(flow, direction, 'i');
                self.side(direction).encrypted = true;
            }
            ALERT if !self.side(direction).encrypted => {
                self.note(flow, direction, 'l');
                if let [_, code, ..] = *body {
                    self.row(flow).last_alert = Some(names::alert(code));
                }
            }
            ALERT => self.note(flow, direction, 'l'),
            HANDSHAKE if self.side(direction).encrypted && self.version < 0x0304 => {
                self.side(direction).finished = true;
            }
            HANDSHAKE => return self.handshake(flow, direction, body, sink),
            DATA => {
                // Behind the hellos of TLS 1.3 even handshake messages look like this; the client's second is data.
                let known = self.side(direction).finished;
                self.side(direction).finished = true;
                if self.version >= 0x0304 || known {
                    self.side(direction).encrypted = true;
                }
            }
            _ => {}
        }
        if self.client.finished && self.server.finished {
            self.note(flow, direction, 'd');
            self.row(flow).established = true;
            return false;
        }
        true
    }

    fn handshake(&mut self, flow: &FlowContext, direction: Direction, body: &[u8], sink: &mut dyn RecordSink) -> bool {
        let side = self.side(direction);
        if side.handshake.len() + body.len() > HANDSHAKE_MAX {
            return false;
        }
        side.handshake.extend_from_slice(body);
        loop {
            let buffer = &self.side(direction).handshake;
            let Some([kind, a, b, c]) = buffer.first_chunk::<4>().copied() else { return true };
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if length > HANDSHAKE_MAX {
                return false;
            }
            let Some(message) = buffer.get(4..4 + length).map(<[u8]>::to_vec) else { return true };
            self.side(direction).handshake.drain(..4 + length);
            if !self.message(flow, direction, kind, &message, sink) {
                return false;
            }
        }
    }

    fn message(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        kind: u8,
        body: &[u8],
        sink: &mut dyn RecordSink,
    ) -> bool {
        let letter = match kind {
            0 => 'h',
            1 => 'c',
            2 => 's',
            4 => 't',
            11 => 'x',
            12 => 'k',
            13 => 'r',
            14 => 'n',
            15 => 'y',
            16 => 'g',
            20 => 'f',
            22 => 'u',
            _ => 'z',
        };
        match kind {
            1 => {
                let Some(hello) = ClientHello::parse(body) else { return false };
                self.note(flow, direction, letter);
                self.client_hello(flow, &hello);
            }
            2 => {
                let Some(hello) = ServerHello::parse(body) else { return false };
                self.note(flow, direction, if hello.is_retry { 'j' } else { letter });
                self.server_hello(flow, &hello);
            }
            11 => {
                self.note(flow, direction, letter);
                self.take_certificates(flow, direction, body, sink);
            }
            12 => {
                self.note(flow, direction, letter);
                let curve = message::named_curve(body);
                if let (Some(curve), true) =
                    (curve, self.row(flow).cipher.as_ref().is_some_and(|cipher| cipher.contains("_ECDH")))
                {
                    self.row(flow).curve = Some(names::group(curve));
                }
            }
            _ => self.note(flow, direction, letter),
        }
        true
    }

    fn client_hello(&mut self, flow: &FlowContext, hello: &ClientHello) {
        self.confirmed = true;
        self.client_session.clone_from(&hello.session);
        let row = self.row(flow);
        row.server_name = hello.server_name.clone().or(row.server_name.take());
        row.client_alpn.clone_from(&hello.alpn);
        // After a retry the client comes with fewer extensions: its first hello is what tells clients apart.
        row.ja3.get_or_insert_with(|| fingerprint::ja3(hello));
        row.ja4.get_or_insert_with(|| fingerprint::ja4(hello));
    }

    fn server_hello(&mut self, flow: &FlowContext, hello: &ServerHello) {
        self.confirmed = true;
        self.saw_server = true;
        self.version = hello.agreed();
        let version = self.version;
        // Before TLS 1.3 a session that comes back unchanged is resumed, unless certificates follow.
        let same = !hello.session.is_empty() && hello.session == self.client_session && version < 0x0304;
        let row = self.row(flow);
        row.version = Some(names::version(version));
        row.cipher = Some(names::cipher(hello.cipher));
        row.next_protocol = hello.alpn.clone();
        row.curve = hello.group.map(names::group).or(row.curve.take());
        row.ja3s = Some(fingerprint::ja3s(hello));
        row.resumed = same || (version >= 0x0304 && hello.extensions.contains(&41));
    }

    fn take_certificates(&mut self, flow: &FlowContext, direction: Direction, body: &[u8], sink: &mut dyn RecordSink) {
        self.saw_certificate = true;
        let mut prints = Vec::new();
        for der in message::certificates(body) {
            let print = certificate::fingerprint(der);
            if let Some(row) = certificate::row(der, &print, flow, self.certificates) {
                self.certificates += 1;
                sink.emit(row.into());
            }
            prints.push(print);
        }
        let row = self.row(flow);
        row.resumed = false;
        match direction {
            Direction::Originator => row.client_cert_chain_fps = prints,
            Direction::Responder => row.cert_chain_fps = prints,
        }
    }

    fn stop(&mut self, sink: &mut dyn RecordSink) -> Verdict {
        if !self.confirmed {
            return Verdict::NotMine;
        }
        if let Some(row) = self.row.take() {
            sink.emit(row.into());
        }
        Verdict::Done
    }
}

impl Extractor for Tls {
    fn on_bytes(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        bytes: &[u8],
        sink: &mut dyn RecordSink,
    ) -> Verdict {
        let mut rest = bytes;
        while !rest.is_empty() {
            let side = self.side(direction);
            let room = (HEAD + RECORD_MAX).saturating_sub(side.buffer.len());
            let (now, later) = rest.split_at(rest.len().min(room));
            side.buffer.extend_from_slice(now);
            rest = later;
            loop {
                match self.take_record(direction) {
                    Ok(Some((kind, body))) => {
                        if !self.record(flow, direction, kind, &body, sink) {
                            return self.stop(sink);
                        }
                    }
                    Ok(None) => break,
                    Err(()) => return self.stop(sink),
                }
            }
        }
        Verdict::Continue
    }

    fn on_gap(&mut self, _: &FlowContext, _: Direction, _: u64, sink: &mut dyn RecordSink) -> Verdict {
        self.stop(sink)
    }

    fn on_close(&mut self, _: &FlowContext, sink: &mut dyn RecordSink) {
        self.stop(sink);
    }

    fn service(&self) -> Option<&'static str> {
        self.confirmed.then_some("ssl")
    }
}
