use super::*;
use proptest::prelude::*;
use thymus_record::Address;

fn flow(proto: Proto) -> FlowContext {
    let (orig_h, resp_h) = (Address::from_v4([10, 0, 0, 1]), Address::from_v4([10, 0, 0, 2]));
    let now = Time(5_000);
    FlowContext {
        now,
        shard: 1,
        sequence: 2,
        network: 0,
        orig_h,
        orig_p: 4000,
        resp_h,
        resp_p: 53,
        proto,
        unverified: false,
    }
}

const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03WwW\x01a\0\0\x01\0\x01";
const ANSWER: &[u8] = b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0\x03www\x01a\0\0\x01\0\x01\
    \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04";

#[test]
fn an_answer_completes_its_query() {
    let (mut flow, mut out) = (flow(Proto::UDP), Vec::new());
    let mut dns = Dns::probe(&flow, QUERY).unwrap();
    dns.on_bytes(&flow, Direction::Originator, QUERY, &mut out);
    assert!(out.is_empty());
    flow.now = Time(9_000);
    dns.on_bytes(&flow, Direction::Responder, ANSWER, &mut out);
    let [Record::Dns(row)] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((row.query.as_deref(), row.rtt, row.ts), (Some("www.a"), Some(Time(4_000)), Time(5_000)));
    assert_eq!((row.answers.as_slice(), row.ttls.as_slice()), (["1.2.3.4".to_owned()].as_slice(), [60].as_slice()));
    assert_eq!((row.rcode_name.as_deref(), dns.service()), (Some("NOERROR"), Some("dns")));
}

#[test]
fn the_answer_decides_whether_a_row_is_marked() {
    for (query, answer, marked) in [(false, true, Some(true)), (true, false, None), (true, true, Some(true))] {
        let (mut flow, mut out) = (flow(Proto::UDP), Vec::new());
        let mut dns = Dns::probe(&flow, QUERY).unwrap();
        flow.unverified = query;
        dns.on_bytes(&flow, Direction::Originator, QUERY, &mut out);
        flow.unverified = answer;
        dns.on_bytes(&flow, Direction::Responder, ANSWER, &mut out);
        let [Record::Dns(row)] = out.as_slice() else { panic!("{out:?}") };
        assert_eq!(row.unverified, marked);
    }
}

#[test]
fn a_name_that_points_at_itself_is_not_a_message() {
    assert!(message::read(b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01").is_none());
}

fn feed(bytes: &[u8], size: usize) -> Vec<Record> {
    let (flow, mut out, mut dns) = (flow(Proto::TCP), Vec::new(), Dns::default());
    for piece in bytes.chunks(size) {
        if dns.on_bytes(&flow, Direction::Originator, piece, &mut out) != Verdict::Continue {
            return out;
        }
        assert!(dns.pending.len() <= PENDING_MAX && dns.buffers[0].len() <= 2 + usize::from(u16::MAX));
    }
    dns.on_close(&flow, &mut out);
    out
}

proptest! {
    #[test]
    fn a_stream_split_differently_gives_the_same_rows(
        noise in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..40,
    ) {
        let length = [0, u8::try_from(QUERY.len()).unwrap()];
        let stream = [length.as_slice(), QUERY, length.as_slice(), QUERY, &noise].concat();
        let rows = feed(&stream, size);
        prop_assert!(rows.len() >= 2);
        prop_assert_eq!(rows, feed(&stream, stream.len()));
    }

    #[test]
    fn arbitrary_datagrams_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (flow, mut out, mut dns) = (flow(Proto::UDP), Vec::new(), Dns::default());
        dns.on_bytes(&flow, Direction::Responder, &bytes, &mut out);
        dns.on_close(&flow, &mut out);
    }
}
