//! Conversations as they are on the wire, in any pieces.

use super::*;
use proptest::prelude::*;
use thymus_record::{Record, Time};

fn flow() -> FlowContext {
    FlowContext {
        now: Time(1),
        shard: 0,
        sequence: 0,
        network: 0,
        orig_h: Default::default(),
        orig_p: 1,
        resp_h: Default::default(),
        resp_p: 80,
        proto: thymus_record::column::Proto::TCP,
        unverified: false,
    }
}

fn read(request: &[u8], answer: &[u8], piece: usize) -> Vec<HttpRow> {
    let mut sink: Vec<Record> = Vec::new();
    let Some(mut http) = Http::probe(&flow(), Direction::Originator, request) else { return Vec::new() };
    let mut going = true;
    for (direction, bytes) in [(Direction::Originator, request), (Direction::Responder, answer)] {
        for piece in bytes.chunks(piece.max(1)) {
            going = going && http.on_bytes(&flow(), direction, piece, &mut sink) == Verdict::Continue;
        }
    }
    if going {
        http.on_close(&flow(), &mut sink);
    }
    sink.into_iter().filter_map(|record| if let Record::Http(row) = record { Some(row) } else { None }).collect()
}

const REQUESTS: &[u8] = b"GET /a HTTP/1.1\r\nHost: one\r\n\r\nPOST /b HTTP/1.1\r\nHost: two\r\nContent-Length: 3\r\n\r\nxyzHEAD /c HTTP/1.1\r\n\r\nGET /d HTTP/1.0\r\n\r\n";
const ANSWERS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n3;x=y\r\nefg\r\n0\r\nTrailer: t\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nHTTP/1.0 200 Fine\r\nContent-Type: text/plain\r\n\r\nuntil the end";

#[test]
fn pipelined_requests_get_their_answers() {
    let rows = read(REQUESTS, ANSWERS, 10_000);
    let said: Vec<_> = rows
        .iter()
        .map(|row| (row.uri.clone().unwrap(), row.status_code, row.request_body_len, row.response_body_len))
        .collect();
    assert_eq!(
        said,
        [
            ("/a".into(), Some(200), 0, 5),
            ("/b".into(), Some(201), 3, 7),
            ("/c".into(), Some(200), 0, 0),
            ("/d".into(), Some(200), 0, 13)
        ]
    );
    assert_eq!(rows[1].info_code, Some(100));
    assert_eq!(rows[3].resp_mime_type.as_deref(), Some("text/plain"));
}

proptest! {
    #[test]
    fn pieces_change_nothing(piece in 1usize..200) {
        prop_assert_eq!(read(REQUESTS, ANSWERS, piece), read(REQUESTS, ANSWERS, 10_000));
    }

    #[test]
    fn any_bytes_behind_a_request_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), answer in prop::collection::vec(any::<u8>(), 0..600), piece in 1usize..50) {
        read(&[b"GET / HTTP/1.1\r\n".as_slice(), &bytes].concat(), &[b"HTTP/1.1 200 OK\r\n".as_slice(), &answer].concat(), piece);
    }
}
