//! Handshakes made by hand, in any pieces.

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
        resp_p: 443,
        proto: thymus_record::column::Proto::TCP,
        unverified: false,
    }
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &vector(body)].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    record(22, &[&[kind], &length[1..], body].concat())
}

fn client_hello() -> Vec<u8> {
    let name = [&[0][..], &vector(b"WWW.Example")].concat();
    let extensions = [
        [&[0, 0][..], &vector(&vector(&name))].concat(),
        [&[0, 10][..], &vector(&vector(&[0x0a, 0x0a, 0, 29]))].concat(),
        [&[0, 16][..], &vector(&vector(b"\x02h2\x08http/1.1"))].concat(),
        [&[0, 43][..], &vector(&[4, 3, 4, 3, 3])].concat(),
    ]
    .concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &vector(&[0x0a, 0x0a, 0x13, 1, 0xc0, 0x2f]), &[1, 0], &vector(&extensions)]
            .concat();
    handshake(1, &body)
}

fn server_hello() -> Vec<u8> {
    let extensions =
        [[&[0, 43][..], &vector(&[3, 4])].concat(), [&[0, 51][..], &vector(&[0, 29, 0, 1, 9])].concat()].concat();
    handshake(2, &[&[3, 3][..], &[8; 32], &[0, 0x13, 1, 0], &vector(&extensions)].concat())
}

fn read(client: &[u8], server: &[u8], last: &[u8], piece: usize) -> Vec<Record> {
    let mut sink: Vec<Record> = Vec::new();
    let Some(mut tls) = Tls::probe(Direction::Originator, client) else { return sink };
    let mut going = true;
    for (direction, bytes) in
        [(Direction::Originator, client), (Direction::Responder, server), (Direction::Originator, last)]
    {
        for piece in bytes.chunks(piece.max(1)) {
            going = going && tls.on_bytes(&flow(), direction, piece, &mut sink) == Verdict::Continue;
        }
    }
    if going {
        tls.on_close(&flow(), &mut sink);
    }
    sink
}

#[test]
fn a_handshake_of_1_3_is_told_whole() {
    let server = [server_hello(), record(20, &[1]), record(23, &[0; 40])].concat();
    let last = [record(20, &[1]), record(23, &[0; 60])].concat();
    let records = read(&client_hello(), &server, &last, 10_000);
    let [Record::Tls(row)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(row.server_name.as_deref(), Some("www.example"));
    assert_eq!((row.version.as_deref(), row.cipher.as_deref()), (Some("TLSv13"), Some("TLS_AES_128_GCM_SHA256")));
    assert_eq!(row.curve.as_deref(), Some("x25519"));
    assert_eq!(row.client_alpn, ["h2", "http/1.1"]);
    assert!(row.established);
    assert!(row.ja4.as_deref().unwrap().starts_with("t13d0204h2_"), "{:?}", row.ja4);
}

#[test]
fn a_refused_handshake_names_its_alert() {
    let records = read(&client_hello(), &record(21, &[2, 40]), &[], 10_000);
    let [Record::Tls(row)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(row.last_alert.as_deref(), Some("handshake_failure"));
    assert!(!row.established);
}

proptest! {
    #[test]
    fn pieces_change_nothing(piece in 1usize..300) {
        let server = [server_hello(), record(23, &[0; 40])].concat();
        let last = record(23, &[0; 60]);
        prop_assert_eq!(read(&client_hello(), &server, &last, piece), read(&client_hello(), &server, &last, 10_000));
    }

    #[test]
    fn any_bytes_behind_a_hello_do_no_harm(more in prop::collection::vec(any::<u8>(), 0..500), server in prop::collection::vec(any::<u8>(), 0..500), piece in 1usize..60) {
        let client = [client_hello().get(..20).unwrap().to_vec(), more.clone()].concat();
        read(&client, &server, &more, piece);
        read(&handshake(1, &more), &handshake(2, &server), &handshake(11, &more), piece);
    }
}
