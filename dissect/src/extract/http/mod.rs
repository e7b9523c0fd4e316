//! HTTP/1 (RFC 9112): requests paired with their answers, also pipelined; bodies are measured, not kept. Memory a flow: a
//! head of at most 64 KiB a side, and 32 open requests.

mod message;
#[cfg(test)]
mod tests;

use super::{Direction, Extractor, FlowContext, Verdict};
use message::{AnswerView, Length, RequestView, end_of_head, is_answer, is_request};
use std::collections::VecDeque;
use thymus_record::RecordSink;
use thymus_record::table::HttpRow;

/// Longest head.
const HEAD_MAX: usize = 64 << 10;
/// Requests without an answer yet.
const OPEN_MAX: usize = 32;
/// Longest line that says a chunk's length.
const CHUNK_LINE_MAX: usize = 1_024;

/// Where one direction stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Head,
    Body(u64),
    /// In a chunk: bytes left, with the line end behind it.
    Chunk(u64),
    ChunkLine,
    /// Lines behind the last chunk.
    Trailer,
    UntilClose,
}

#[derive(Debug)]
struct Side {
    state: State,
    buffer: Vec<u8>,
}

/// One flow's reader.
#[derive(Debug)]
pub struct Http {
    request: Side,
    answer: Side,
    open: VecDeque<HttpRow>,
    depth: u32,
    rows: u32,
    confirmed: bool,
}

impl Http {
    /// A reader, if these bytes begin a request, or an answer whose request was missed.
    pub fn probe(_flow: &FlowContext, direction: Direction, first: &[u8]) -> Option<Http> {
        let begins = match direction {
            Direction::Originator => is_request(first),
            Direction::Responder => is_answer(first),
        };
        let side = || Side { state: State::Head, buffer: Vec::new() };
        begins.then(|| Http {
            request: side(),
            answer: side(),
            open: VecDeque::new(),
            depth: 0,
            rows: 0,
            confirmed: false,
        })
    }

    /// Takes what one direction has; gives what is left, or `None` to stop.
    fn step<'a>(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        bytes: &'a [u8],
        sink: &mut dyn RecordSink,
    ) -> Option<&'a [u8]> {
        let side = self.side(direction);
        match side.state {
            State::Head => self.head(flow, direction, bytes, sink),
            State::Body(left) => {
                let (taken, rest) = take(bytes, left);
                self.measure(direction, taken);
                match left - taken {
                    0 => self.body_ends(flow, direction, sink),
                    left => self.side(direction).state = State::Body(left),
                }
                Some(rest)
            }
            State::Chunk(left) => {
                let (taken, rest) = take(bytes, left);
                self.measure(direction, taken.min(left.saturating_sub(2)));
                self.side(direction).state = if left == taken { State::ChunkLine } else { State::Chunk(left - taken) };
                Some(rest)
            }
            State::ChunkLine | State::Trailer => self.line(flow, direction, bytes, sink),
            State::UntilClose => {
                self.measure(direction, bytes.len() as u64);
                Some(&[])
            }
        }
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Originator => &mut self.request,
            Direction::Responder => &mut self.answer,
        }
    }

    /// Counts body bytes: of the newest request, or of the oldest one without an answer.
    fn measure(&mut self, direction: Direction, bytes: u64) {
        match direction {
            Direction::Originator => {
                if let Some(row) = self.open.back_mut() {
                    row.request_body_len += bytes;
                }
            }
            Direction::Responder => {
                if let Some(row) = self.open.front_mut() {
                    row.response_body_len += bytes;
                }
            }
        }
    }

    fn head<'a>(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        bytes: &'a [u8],
        sink: &mut dyn RecordSink,
    ) -> Option<&'a [u8]> {
        let side = self.side(direction);
        let before = side.buffer.len();
        let room = HEAD_MAX.saturating_sub(before);
        side.buffer.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        // Empty lines before a message are skipped (RFC 9112 §2.2).
        let blank = side.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let Some((end, behind)) = end_of_head(side.buffer.get(blank..).unwrap_or_default()) else {
            return if side.buffer.len() >= HEAD_MAX { None } else { Some(&[]) };
        };
        let total = blank + end + behind;
        let buffer = std::mem::take(&mut side.buffer);
        let head = buffer.get(blank..blank + end).unwrap_or_default();
        let rest = bytes.get(total.saturating_sub(before)..).unwrap_or_default();
        match direction {
            Direction::Originator => self.request_head(flow, &RequestView::parse(head)?, sink)?,
            Direction::Responder => self.answer_head(flow, &AnswerView::parse(head)?, sink)?,
        }
        Some(rest)
    }

    fn request_head(&mut self, flow: &FlowContext, request: &RequestView, sink: &mut dyn RecordSink) -> Option<()> {
        self.confirmed = true;
        if self.open.len() >= OPEN_MAX {
            self.emit_front(sink);
        }
        self.depth += 1;
        let fields = &request.fields;
        let row = HttpRow {
            method: Some(request.method.clone()),
            uri: Some(request.target.clone()),
            version: request.version.clone(),
            host: fields.host.clone(),
            referrer: fields.referrer.clone(),
            user_agent: fields.user_agent.clone(),
            username: fields.username.clone(),
            orig_mime_type: fields.mime_type.clone(),
            ..self.row(flow)
        };
        self.open.push_back(row);
        self.request.state = match fields.length {
            Length::Bytes(0) | Length::Unsaid => State::Head,
            Length::Bytes(bytes) => State::Body(bytes),
            Length::Chunked => State::ChunkLine,
        };
        Some(())
    }

    fn answer_head(&mut self, flow: &FlowContext, answer: &AnswerView, sink: &mut dyn RecordSink) -> Option<()> {
        self.confirmed = true;
        if self.open.is_empty() {
            self.depth += 1;
            let row = self.row(flow);
            self.open.push_back(row);
        }
        let row = self.open.front_mut()?;
        if (100..200).contains(&answer.status) && answer.status != 101 {
            row.info_code = Some(answer.status);
            row.info_msg = Some(answer.reason.clone());
            return Some(());
        }
        row.status_code = Some(answer.status);
        row.status_msg = Some(answer.reason.clone());
        row.version = Some(answer.version.clone());
        row.resp_mime_type = answer.fields.mime_type.clone();
        let method = row.method.as_deref().unwrap_or_default();
        // What follows a switch of protocols, or an open tunnel, is no HTTP.
        if answer.status == 101 || (method == "CONNECT" && (200..300).contains(&answer.status)) {
            return None;
        }
        let empty = method == "HEAD" || matches!(answer.status, 204 | 304);
        self.answer.state = match answer.fields.length {
            _ if empty => State::Head,
            Length::Bytes(0) => State::Head,
            Length::Bytes(bytes) => State::Body(bytes),
            Length::Chunked => State::ChunkLine,
            Length::Unsaid => State::UntilClose,
        };
        if self.answer.state == State::Head {
            self.emit_front(sink);
        }
        Some(())
    }

    /// A line between chunks, or behind the last one.
    fn line<'a>(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        bytes: &'a [u8],
        sink: &mut dyn RecordSink,
    ) -> Option<&'a [u8]> {
        let side = self.side(direction);
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            side.buffer.extend_from_slice(bytes);
            return if side.buffer.len() > CHUNK_LINE_MAX { None } else { Some(&[]) };
        };
        side.buffer.extend_from_slice(bytes.get(..end).unwrap_or_default());
        let line = std::mem::take(&mut side.buffer);
        let rest = bytes.get(end + 1..).unwrap_or_default();
        let line = line.trim_ascii();
        if side.state == State::Trailer {
            if line.is_empty() {
                self.body_ends(flow, direction, sink);
            }
            return Some(rest);
        }
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let length = std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok())?;
        side.state = if length == 0 { State::Trailer } else { State::Chunk(length.checked_add(2)?) };
        Some(rest)
    }

    fn body_ends(&mut self, _flow: &FlowContext, direction: Direction, sink: &mut dyn RecordSink) {
        self.side(direction).state = State::Head;
        if direction == Direction::Responder {
            self.emit_front(sink);
        }
    }

    fn row(&self, flow: &FlowContext) -> HttpRow {
        HttpRow {
            ts: flow.now,
            shard: flow.shard,
            sequence: flow.sequence,
            network: flow.network,
            orig_h: flow.orig_h,
            orig_p: flow.orig_p,
            resp_h: flow.resp_h,
            resp_p: flow.resp_p,
            proto: flow.proto,
            trans_depth: self.depth,
            ..HttpRow::default()
        }
    }

    fn emit_front(&mut self, sink: &mut dyn RecordSink) {
        if let Some(mut row) = self.open.pop_front() {
            row.ordinal = self.rows;
            self.rows += 1;
            sink.emit(row.into());
        }
    }

    fn emit_all(&mut self, sink: &mut dyn RecordSink) {
        while !self.open.is_empty() {
            self.emit_front(sink);
        }
    }

    fn stop(&mut self, sink: &mut dyn RecordSink) -> Verdict {
        self.emit_all(sink);
        if self.confirmed { Verdict::Done } else { Verdict::NotMine }
    }
}

fn take(bytes: &[u8], left: u64) -> (u64, &[u8]) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (taken as u64, bytes.get(taken..).unwrap_or_default())
}

impl Extractor for Http {
    fn on_bytes(
        &mut self,
        flow: &FlowContext,
        direction: Direction,
        bytes: &[u8],
        sink: &mut dyn RecordSink,
    ) -> Verdict {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.step(flow, direction, rest, sink) {
                Some(left) => rest = left,
                None => return self.stop(sink),
            }
        }
        Verdict::Continue
    }

    fn on_gap(&mut self, flow: &FlowContext, direction: Direction, missing: u64, sink: &mut dyn RecordSink) -> Verdict {
        let side = self.side(direction);
        match side.state {
            State::Body(left) if missing < left => {
                side.state = State::Body(left - missing);
                Verdict::Continue
            }
            State::Body(left) if missing == left => {
                self.body_ends(flow, direction, sink);
                Verdict::Continue
            }
            State::Chunk(left) if missing < left => {
                side.state = State::Chunk(left - missing);
                Verdict::Continue
            }
            State::UntilClose => Verdict::Continue,
            _ => self.stop(sink),
        }
    }

    fn on_close(&mut self, _flow: &FlowContext, sink: &mut dyn RecordSink) {
        self.emit_all(sink);
    }

    fn service(&self) -> Option<&'static str> {
        self.confirmed.then_some("http")
    }
}
