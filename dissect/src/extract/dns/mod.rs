//! DNS over UDP and TCP: queries paired with their answers by transaction id. A flow keeps at most 32 open queries, and
//! over TCP one unfinished message a side, at most 64 KiB each.

mod message;
#[cfg(test)]
mod tests;

use super::{Direction, Extractor, FlowContext, Verdict};
use message::Message;
use std::collections::VecDeque;
use thymus_record::column::Proto;
use thymus_record::table::DnsRow;
use thymus_record::{Record, RecordSink, Time};

/// Open queries kept a flow; the oldest is told without its answer when there are more.
const PENDING_MAX: usize = 32;
const PORTS: [u16; 4] = [53, 5353, 5355, 137];

/// Reader of a flow of DNS.
#[derive(Default)]
pub struct Dns {
    pending: VecDeque<DnsRow>,
    buffers: [Vec<u8>; 2],
    ordinal: u32,
    confirmed: bool,
}

impl Dns {
    /// A reader, if these first bytes look like DNS: a whole message by UDP, on a port of DNS or one plain question to
    /// the Internet class; by TCP the port decides.
    pub fn probe(flow: &FlowContext, first: &[u8]) -> Option<Dns> {
        let known = PORTS.contains(&flow.orig_p) || PORTS.contains(&flow.resp_p);
        let mine = match flow.proto {
            Proto::TCP => flow.resp_p == 53,
            Proto::UDP => message::read(first).is_some_and(|message| known || plain(&message)),
            _ => false,
        };
        mine.then(Dns::default)
    }

    fn emit(&mut self, mut row: DnsRow, sink: &mut dyn RecordSink) {
        row.ordinal = self.ordinal;
        self.ordinal = self.ordinal.wrapping_add(1);
        sink.emit(Record::Dns(row));
    }

    fn take(&mut self, flow: &FlowContext, bytes: &[u8], sink: &mut dyn RecordSink) -> bool {
        let Some(message) = message::read(bytes) else { return false };
        self.confirmed = true;
        if message.flags & 0x8000 != 0 {
            let open = self.pending.iter().position(|row| row.trans_id == message.id);
            let mut row = match open.and_then(|at| self.pending.remove(at)) {
                Some(row) => DnsRow { rtt: Some(Time(flow.now.since(row.ts))), ..row },
                None => rows(flow, &message).next().unwrap_or_else(|| start(flow, &message)),
            };
            answer(&mut row, message);
            row.unverified = flow.unverified.then_some(true);
            self.emit(row, sink);
            return true;
        }
        for row in rows(flow, &message) {
            if self.pending.len() >= PENDING_MAX
                && let Some(oldest) = self.pending.pop_front()
            {
                self.emit(oldest, sink);
            }
            self.pending.push_back(row);
        }
        true
    }

    fn take_stream(&mut self, flow: &FlowContext, direction: Direction, sink: &mut dyn RecordSink) -> bool {
        let side = usize::from(direction == Direction::Responder);
        let mut buffer = self.buffers.get_mut(side).map(std::mem::take).unwrap_or_default();
        let (mut at, mut good) = (0, true);
        while let Some(length) = buffer.get(at..).and_then(|rest| rest.first_chunk()) {
            let end = at + 2 + usize::from(u16::from_be_bytes(*length));
            let Some(bytes) = buffer.get(at + 2..end) else { break };
            good = self.take(flow, bytes, sink);
            if !good {
                break;
            }
            at = end;
        }
        buffer.drain(..at);
        if let Some(place) = self.buffers.get_mut(side) {
            *place = buffer;
        }
        good
    }

    fn leave(&mut self, flow: &FlowContext, sink: &mut dyn RecordSink) -> Verdict {
        if !self.confirmed {
            return Verdict::NotMine;
        }
        self.on_close(flow, sink);
        Verdict::Done
    }
}

fn plain(message: &Message) -> bool {
    let asked = message.questions.first();
    message.flags & 0x7840 == 0 && message.questions.len() == 1 && asked.is_some_and(|asked| asked.class == 1)
}

fn start(flow: &FlowContext, message: &Message) -> DnsRow {
    DnsRow {
        ts: flow.now,
        shard: flow.shard,
        sequence: flow.sequence,
        network: flow.network,
        orig_h: flow.orig_h,
        orig_p: flow.orig_p,
        resp_h: flow.resp_h,
        resp_p: flow.resp_p,
        proto: flow.proto,
        trans_id: message.id,
        rd: message.flags & 0x0100 != 0,
        unverified: flow.unverified.then_some(true),
        ..DnsRow::default()
    }
}

fn rows(flow: &FlowContext, message: &Message) -> impl Iterator<Item = DnsRow> {
    message.questions.iter().map(|asked| DnsRow {
        query: Some(asked.name.clone()),
        qclass: Some(asked.class),
        qtype: Some(asked.kind),
        qtype_name: Some(message::type_name(asked.kind)),
        ..start(flow, message)
    })
}

fn answer(row: &mut DnsRow, message: Message) {
    let flags = message.flags;
    row.rcode = Some(flags & 0xf);
    row.rcode_name = Some(message::code_name(flags & 0xf));
    (row.aa, row.tc, row.ra) = (flags & 0x400 != 0, flags & 0x200 != 0, flags & 0x80 != 0);
    row.z = u8::try_from(flags >> 4 & 7).unwrap_or_default();
    row.rejected = message.bare;
    (row.answers, row.ttls) = message.answers.into_iter().unzip();
}

impl Extractor for Dns {
    fn on_bytes(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        bytes: &[u8],
        sink: &mut dyn RecordSink,
    ) -> Verdict {
        if flow.proto == Proto::UDP {
            return if self.take(flow, bytes, sink) || self.confirmed { Verdict::Continue } else { Verdict::NotMine };
        }
        // In pieces that leave no more than one unfinished message behind, however much comes at once.
        for piece in bytes.chunks(4096) {
            if let Some(buffer) = self.buffers.get_mut(usize::from(direction == Direction::Responder)) {
                buffer.extend_from_slice(piece);
            }
            if !self.take_stream(flow, direction, sink) {
                return self.leave(flow, sink);
            }
        }
        Verdict::Continue
    }

    fn on_gap(&mut self, flow: &FlowContext, _: Direction, _: u64, sink: &mut dyn RecordSink) -> Verdict {
        self.leave(flow, sink)
    }

    fn on_close(&mut self, _: &FlowContext, sink: &mut dyn RecordSink) {
        while let Some(row) = self.pending.pop_front() {
            self.emit(row, sink);
        }
    }

    fn service(&self) -> Option<&'static str> {
        self.confirmed.then_some("dns")
    }
}
