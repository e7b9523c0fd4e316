//! Stream → record: one folder a protocol. An extractor sees the bytes of one flow in order, each direction apart, in
//! memory that it bounds itself, and emits records. `Analyzer` is the closed set of them, so that calls are static.

pub mod dns;
/// HTTP/1.
pub mod http;
/// TLS handshakes and certificates.
pub mod tls;
/// Services known by their first bytes alone.
pub mod banner;
/// Text from the wire.
mod text;

use thymus_record::column::Proto;
use thymus_record::{Address, RecordSink, Time};

/// The flow that bytes belong to; its values stand in every record made from it.
#[derive(Clone, Copy, Debug)]
pub struct FlowContext {
    /// Time of the packet that completed these bytes.
    pub now: Time,
    /// Flow shard, part of the uid.
    pub shard: u8,
    /// Number of the flow in its shard, part of the uid.
    pub sequence: u64,
    /// Network path by the shard's number.
    pub network: u32,
    /// Originator.
    pub orig_h: Address,
    /// Its port.
    pub orig_p: u16,
    /// Responder.
    pub resp_h: Address,
    /// Its port.
    pub resp_p: u16,
    /// Transport.
    pub proto: Proto,
    /// These bytes come from an agent that owns neither end.
    pub unverified: bool,
}

/// Which end sent the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The flow's originator.
    Originator,
    /// Its responder.
    Responder,
}

/// What an extractor wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// More bytes.
    Continue,
    /// Nothing more: it has said all (e.g. the TLS handshake is over). Its service stands.
    Done,
    /// These bytes are not its protocol: drop it, the flow has no service of it.
    NotMine,
}

/// One protocol's reader of one flow. For UDP each call holds one datagram.
pub trait Extractor {
    /// Takes the next bytes of one direction.
    fn on_bytes(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        bytes: &[u8],
        sink: &mut dyn RecordSink,
    ) -> Verdict;
    /// `missing` bytes of one direction will never come.
    fn on_gap(&mut self, flow: &FlowContext, direction: Direction, missing: u64, sink: &mut dyn RecordSink) -> Verdict;
    /// The flow ends: emit what is pending.
    fn on_close(&mut self, flow: &FlowContext, sink: &mut dyn RecordSink);
    /// Zeek's name of the service, once the bytes have confirmed it.
    fn service(&self) -> Option<&'static str>;
}

/// The reader of one flow, of the protocol that its first bytes show.
pub enum Analyzer {
    /// See [`dns::Dns`].
    Dns(dns::Dns),
    /// See [`http::Http`].
    Http(Box<http::Http>),
    /// See [`tls::Tls`].
    Tls(Box<tls::Tls>),
    /// See [`banner::Banner`].
    Banner(banner::Banner),
}

impl Analyzer {
    /// A reader for a flow whose first bytes of one direction are these, if they are of a protocol that is read.
    pub fn probe(flow: &FlowContext, direction: Direction, first: &[u8]) -> Option<Analyzer> {
        dns::Dns::probe(flow, first)
            .map(Analyzer::Dns)
            .or_else(|| tls::Tls::probe(direction, first).map(|tls| Analyzer::Tls(Box::new(tls))))
            .or_else(|| http::Http::probe(flow, direction, first).map(|http| Analyzer::Http(Box::new(http))))
            .or_else(|| banner::Banner::probe(flow, direction, first).map(Analyzer::Banner))
    }

    /// See [`Extractor::on_bytes`].
    pub fn on_bytes(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        bytes: &[u8],
        sink: &mut dyn RecordSink,
    ) -> Verdict {
        match self {
            Analyzer::Dns(dns) => dns.on_bytes(flow, direction, bytes, sink),
            Analyzer::Http(http) => http.on_bytes(flow, direction, bytes, sink),
            Analyzer::Tls(tls) => tls.on_bytes(flow, direction, bytes, sink),
            Analyzer::Banner(banner) => banner.on_bytes(flow, direction, bytes, sink),
        }
    }

    /// See [`Extractor::on_gap`].
    pub fn on_gap(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        missing: u64,
        sink: &mut dyn RecordSink,
    ) -> Verdict {
        match self {
            Analyzer::Dns(dns) => dns.on_gap(flow, direction, missing, sink),
            Analyzer::Http(http) => http.on_gap(flow, direction, missing, sink),
            Analyzer::Tls(tls) => tls.on_gap(flow, direction, missing, sink),
            Analyzer::Banner(banner) => banner.on_gap(flow, direction, missing, sink),
        }
    }

    /// See [`Extractor::on_close`].
    pub fn on_close(&mut self, flow: &FlowContext, sink: &mut dyn RecordSink) {
        match self {
            Analyzer::Dns(dns) => dns.on_close(flow, sink),
            Analyzer::Http(http) => http.on_close(flow, sink),
            Analyzer::Tls(tls) => tls.on_close(flow, sink),
            Analyzer::Banner(banner) => banner.on_close(flow, sink),
        }
    }

    /// See [`Extractor::service`].
    pub fn service(&self) -> Option<&'static str> {
        match self {
            Analyzer::Dns(dns) => dns.service(),
            Analyzer::Http(http) => http.service(),
            Analyzer::Tls(tls) => tls.service(),
            Analyzer::Banner(banner) => banner.service(),
        }
    }
}
