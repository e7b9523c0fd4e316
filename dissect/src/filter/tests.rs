//! Filters: what they match, what they refuse, and what an index may conclude.

use super::*;
use crate::LinkType;
use proptest::prelude::*;
use thymus_record::{Address, Time};

/// VLAN 10 of 10.0.0.1 → 10.0.0.2, VXLAN 4096 in it, and inside TCP 192.0.2.1:4096 → 192.0.2.2:443.
fn nested() -> Vec<u8> {
    let tcp = [&[0x10, 0, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 2, 0][..], &[0; 4]].concat();
    let inner = [&[2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 3, 8, 0][..], &v4(6, [192, 0, 2], &tcp)].concat();
    let udp = [&[0xc0, 0, 0x12, 0xb5, 0, u8::try_from(inner.len() + 16).unwrap(), 0, 0][..]].concat();
    let vxlan = [&udp[..], &[8, 0, 0, 0, 0, 0x10, 0, 0], &inner].concat();
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 10, 8, 0][..], &v4(17, [10, 0, 0], &vxlan)].concat()
}

fn v4(proto: u8, [a, b, c]: [u8; 3], inside: &[u8]) -> Vec<u8> {
    let length = u8::try_from(inside.len() + 20).unwrap();
    [&[0x45, 0, 0, length, 0, 7, 0, 0, 64, proto, 0, 0, a, b, c, 1, a, b, c, 2][..], inside].concat()
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    let wire_len = u32::try_from(bytes.len()).unwrap();
    Frame { bytes, wire_len, time: Time(0), link: LinkType::Ethernet, port: 0, ..Frame::default() }
}

fn matches(text: &str, bytes: &[u8]) -> bool {
    Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).matches(&frame(bytes))
}

#[test]
fn a_condition_holds_at_any_layer() {
    let bytes = nested();
    for text in [
        "",
        "host 10.0.0.1",
        "192.0.2.2",
        "src 192.0.2.1",
        "src host 10.0.0.1 and dst host 192.0.2.2",
        "net 192.0.2.0/24",
        "src net 10.0.0.0/8",
        "net 0.0.0.0/0",
        "port 443",
        "tcp dst port 443",
        "udp port 4789",
        "portrange 400-500",
        "vlan",
        "vlan 10",
        "vni",
        "vni 4096",
        "vlan 10 && vni 4096",
        "ether host 02:00:00:00:00:03",
        "ether src 2:0:0:0:0:1",
        "ip proto 6",
        "proto udp",
        "tcp and udp",
        "not icmp",
        "!arp",
        "greater 100",
        "not (host 192.0.2.9 or vlan 11)",
        "port 80 or 443",
        "tcp src port 443 or 4096",
    ] {
        assert!(matches(text, &bytes), "{text}");
    }
    for text in [
        "host 192.0.2.3",
        "dst host 192.0.2.1",
        "ip6",
        "arp",
        "vlan 4095",
        "vni 10",
        "udp port 443",
        "tcp src port 443",
        "ether dst 02:00:00:00:00:01",
        "portrange 444-4000",
        "less 100",
        "not tcp",
        "net ::/0",
        "icmp6",
    ] {
        assert!(!matches(text, &bytes), "{text}");
    }
}

#[test]
fn and_and_or_bind_alike_from_left_to_right() {
    let bytes = nested();
    assert!(!matches("tcp or udp and arp", &bytes));
    assert!(matches("tcp or (udp and arp)", &bytes));
    assert!(matches("arp and udp or tcp", &bytes));
}

#[test]
fn arp_matches_by_host_and_later_fragments_by_host_alone() {
    let ends = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
    let arp = [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6][..], &ends].concat();
    assert!(matches("host 10.0.0.2", &arp) && matches("arp src host 10.0.0.1", &arp));
    assert!(!matches("ip host 10.0.0.2", &arp));
    let mut later = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..], &v4(17, [10, 0, 0], &[0, 80, 0, 80])].concat();
    later[20] = 0x20;
    assert!(matches("udp port 80", &later));
    later[21] = 1;
    assert!(!matches("port 80", &later) && matches("udp and host 10.0.0.2", &later));
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_its_cure() {
    for (text, position, cure) in [
        ("host example.com", 6, "names are not resolved"),
        ("port http", 6, "write a number"),
        ("host 1.2.3.4 and", 17, "a condition is missing"),
        ("(tcp", 5, "`)` is missing"),
        ("tcp)", 4, "remove it"),
        ("tcp udp", 5, "join it by `and` or `or`"),
        ("net 192.0.2.1/24", 5, "without bits set"),
        ("net 192.0.2.0/33", 5, "a net"),
        ("vlan 4096", 6, "0 to 4095"),
        ("icmp port 80", 6, "only tcp, udp and sctp"),
        ("portrange 9-1", 11, "a range"),
        ("port +80", 6, "write a number"),
        ("ether host 02:00", 12, "an Ethernet address"),
        ("frobnicate", 1, "is not known"),
        ("ip proto 300", 10, "0 to 255"),
        ("host 10.0.0.0/8", 6, "write `net`"),
    ] {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.message.contains(cure), "{text}: {error}");
    }
}

#[test]
fn length_depth_and_number_of_conditions_are_bounded() {
    assert!(Filter::parse(&" ".repeat(TEXT_BYTES_MAX + 1)).is_err());
    assert!(Filter::parse(&"(".repeat(TEXT_BYTES_MAX)).is_err());
    assert!(Filter::parse(&format!("{}tcp", "not ".repeat(DEPTH_MAX + 1))).is_err());
    assert!(Filter::parse(&format!("tcp{}", " or tcp and tcp".repeat(DEPTH_MAX))).is_err());
    assert!(Filter::parse(&format!("port 1{}", " or 2".repeat(TESTS_MAX - 1))).is_ok());
    assert!(Filter::parse(&format!("port 1{}", " or 2".repeat(TESTS_MAX))).is_err());
}

#[test]
fn hints_say_what_every_match_must_have_and_no_more() {
    let hint = |text: &str| Filter::parse(text).unwrap().hint();
    let hosts = |list: &[&str]| Some(list.iter().map(|text| text.parse::<Address>().unwrap()).collect::<Vec<_>>());
    assert_eq!(hint("host 10.0.0.1"), Hint { hosts: hosts(&["10.0.0.1"]), ports: None });
    assert_eq!(hint("net 10.0.0.1/32 and tcp port 80").ports, Some(vec![80]));
    assert_eq!(hint("host 10.0.0.2 or host 10.0.0.1").hosts, hosts(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(hint("(host 10.0.0.2 or 10.0.0.1) and host ::1").hosts, hosts(&["::1"]));
    for text in ["", "not host 10.0.0.1", "host 10.0.0.1 or tcp", "net 10.0.0.0/31", "host 10.0.0.1 or port 80"] {
        assert_eq!(hint(text), Hint::default(), "{text}");
    }
}

/// Words that a filter may hold, so that random sequences of them are often filters.
const WORDS: [&str; 24] = [
    "host",
    "10.0.0.1",
    "192.0.2.2",
    "port",
    "443",
    "and",
    "or",
    "not",
    "(",
    ")",
    "tcp",
    "vlan",
    "10",
    "vni",
    "net",
    "10.0.0.0/8",
    "src",
    "dst",
    "ether",
    "ip",
    "less",
    "!",
    "||",
    "&&",
];

proptest! {
    #[test]
    fn no_text_can_do_harm(text in "\\PC{0,60}") {
        if let Ok(filter) = Filter::parse(&text) {
            filter.matches(&frame(&nested()));
        }
    }

    #[test]
    fn a_filter_and_its_negation_part_the_frames(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 1..9)) {
        let text = words.join(" ");
        if let Ok(filter) = Filter::parse(&text) {
            let negation = Filter::parse(&format!("not ({text})")).unwrap();
            prop_assert_ne!(filter.matches(&frame(&nested())), negation.matches(&frame(&nested())));
        }
    }
}
