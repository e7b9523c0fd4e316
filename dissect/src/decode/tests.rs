//! Decoding, layer by layer, on frames written out by hand; then on anything.

use super::*;
use proptest::prelude::*;
use thymus_record::Time;
use thymus_record::column::Proto;

const A: [u8; 4] = [192, 0, 2, 1];
const B: [u8; 4] = [192, 0, 2, 2];
/// UDP 1000 → 2000, "hello".
const UDP: [u8; 13] = [0x03, 0xe8, 0x07, 0xd0, 0, 13, 0, 0, b'h', b'e', b'l', b'l', b'o'];
/// TCP 4096 → 80, sequence 1, acknowledged 2, PSH ACK, window 512, four bytes of options, "hi".
const TCP: [u8; 26] = [
    0x10, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x60, 0x18, 2, 0, 0, 0, 0, 0, 1, 1, 1, 0, b'h', b'i', //
];

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn ethernet(ether_type: u16, inside: &[u8]) -> Vec<u8> {
    join(&[&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], &ether_type.to_be_bytes(), inside])
}

fn v4(proto: u8, inside: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(inside.len() + 20).unwrap().to_be_bytes();
    join(&[&[0x45, 0, high, low, 0, 7, 0x40, 0, 64, proto, 0, 0], &A, &B, inside])
}

fn v6(next: u8, inside: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(inside.len()).unwrap().to_be_bytes();
    let (mut source, mut target) = ([0; 16], [0; 16]);
    (source[0], source[15], target[0], target[15]) = (0xfd, 1, 0xfd, 2);
    join(&[&[0x60, 0, 0, 0, high, low, next, 63], &source, &target, inside])
}

fn udp(target: u16, inside: &[u8]) -> Vec<u8> {
    let length = u16::try_from(inside.len() + 8).unwrap().to_be_bytes();
    join(&[&[0xc0, 0], &target.to_be_bytes(), &length, &[0, 0], inside])
}

fn frame(bytes: &[u8], link: LinkType) -> Frame<'_> {
    Frame { bytes, wire_len: u32::try_from(bytes.len()).unwrap(), time: Time(0), link, port: 0, ..Frame::default() }
}

fn on_ethernet(bytes: &[u8]) -> Packet<'_> {
    decode(&frame(bytes, LinkType::Ethernet))
}

fn datagram<'a>(packet: &Packet<'a>) -> Datagram<'a> {
    match packet.content {
        Content::Ip(datagram) => datagram,
        other => panic!("no IP but {other:?}"),
    }
}

/// True if the innermost packet is UDP's "hello" from A to B.
fn is_hello(packet: &Packet<'_>) -> bool {
    let datagram = datagram(packet);
    let ends = (datagram.source, datagram.target) == (Address::from_v4(A), Address::from_v4(B));
    ends && matches!(datagram.transport, Transport::Udp(udp) if udp.payload == b"hello" && udp.payload_len == 5)
}

fn layers(packet: &Packet<'_>) -> Vec<String> {
    packet.layers.iter().map(|layer| layer.to_string()).collect()
}

#[test]
fn tcp_over_ipv4_gives_every_field_and_cuts_padding_off() {
    let mut bytes = ethernet(0x0800, &v4(6, &TCP));
    bytes.extend([0; 8]);
    let packet = on_ethernet(&bytes);
    assert_eq!(packet.macs, Some((Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]))));
    assert_eq!(packet.weird, Weird::default());
    let datagram = datagram(&packet);
    assert_eq!((datagram.ttl, datagram.id, datagram.ip_len, datagram.v6), (64, 7, 46, false));
    assert_eq!(datagram.bytes.len(), 46);
    let Transport::Tcp(tcp) = datagram.transport else { panic!("no TCP") };
    assert_eq!((tcp.source, tcp.target, tcp.seq, tcp.ack, tcp.window), (4096, 80, 1, 2, 512));
    assert_eq!((tcp.flags, tcp.payload, tcp.payload_len), (TcpFlags(0x18), &b"hi"[..], 2));
}

#[test]
fn a_frame_cut_by_the_capture_keeps_the_lengths_of_its_heads() {
    let bytes = ethernet(0x0800, &v4(6, &TCP));
    let cut = Frame { bytes: &bytes[..58], ..frame(&bytes, LinkType::Ethernet) };
    let packet = decode(&cut);
    let Transport::Tcp(tcp) = datagram(&packet).transport else { panic!("no TCP") };
    assert_eq!((tcp.payload.len(), tcp.payload_len, datagram(&packet).ip_len), (0, 2, 46));
    assert_eq!(packet.weird, Weird::default());
}

#[test]
fn a_length_beyond_the_wire_is_noted_and_a_length_of_zero_means_the_frame() {
    let mut bytes = ethernet(0x0800, &v4(17, &UDP));
    bytes[17] += 9;
    assert!(on_ethernet(&bytes).weird.has(Weird::IP_TRUNCATED));
    (bytes[16], bytes[17]) = (0, 0);
    let packet = on_ethernet(&bytes);
    assert!(is_hello(&packet));
    assert_eq!((packet.weird, datagram(&packet).ip_len), (Weird::default(), 33));
}

#[test]
fn heads_that_contradict_themselves_are_damaged_and_never_read() {
    for (at, value) in [(14, 0x44), (14, 0x4f), (14, 0x55), (17, 19)] {
        let mut bytes = ethernet(0x0800, &v4(17, &UDP));
        bytes[at] = value;
        let packet = on_ethernet(&bytes);
        assert!(matches!(packet.content, Content::Other), "byte {at} = {value}");
        assert!(packet.weird.has(Weird::IP_DAMAGED));
    }
    for (proto, transport, at, value) in [(6, &TCP[..], 12, 0x40), (6, &TCP[..], 12, 0xf0), (17, &UDP[..5], 0, 0)] {
        let mut transport = transport.to_vec();
        transport[at] = value;
        let bytes = ethernet(0x0800, &v4(proto, &transport));
        let packet = on_ethernet(&bytes);
        assert!(matches!(datagram(&packet).transport, Transport::Damaged));
        assert!(packet.weird.has(Weird::TRANSPORT_DAMAGED));
    }
}

#[test]
fn a_udp_length_beyond_ip_is_noted_and_ip_counts() {
    let mut transport = UDP;
    transport[5] = 200;
    let bytes = ethernet(0x0800, &v4(17, &transport));
    let packet = on_ethernet(&bytes);
    assert!(is_hello(&packet) && packet.weird.has(Weird::TRANSPORT_DAMAGED));
}

#[test]
fn options_stand_between_the_ip_head_and_its_transport() {
    let mut ip = v4(17, &join(&[&[1, 1, 1, 0], &UDP]));
    ip[0] = 0x46;
    assert!(is_hello(&on_ethernet(&ethernet(0x0800, &ip))));
}

#[test]
fn vlan_tags_become_layers_and_a_priority_tag_does_not() {
    let inner = join(&[&[0, 20, 0x08, 0x00], &v4(17, &UDP)]);
    let middle = join(&[&[0xe0, 0, 0x81, 0x00], &inner]);
    let bytes = ethernet(0x88a8, &join(&[&[0x60, 10, 0x81, 0x00], &middle]));
    let packet = on_ethernet(&bytes);
    assert!(is_hello(&packet));
    assert_eq!(layers(&packet), ["vlan:10", "vlan:20"]);
}

#[test]
fn layers_beyond_the_cap_are_noted_and_the_packet_is_still_read() {
    let mut inside = join(&[&[0, 1, 0x08, 0x00], &v4(17, &UDP)]);
    for _ in 0..LAYERS_MAX {
        inside = join(&[&[0, 1, 0x81, 0x00], &inside]);
    }
    let bytes = ethernet(0x8100, &inside);
    let packet = on_ethernet(&bytes);
    assert!(is_hello(&packet) && packet.weird.has(Weird::TOO_DEEP));
    assert_eq!(packet.layers.iter().count(), LAYERS_MAX);
}

#[test]
fn llc_with_snap_names_an_ethertype_and_spanning_tree_is_foreign() {
    let snap = join(&[&[0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0x00], &v4(17, &UDP)]);
    assert!(is_hello(&on_ethernet(&ethernet(41, &snap))));
    let bytes = ethernet(38, &[0x42, 0x42, 3, 0, 0, 0, 0, 0]);
    let packet = on_ethernet(&bytes);
    assert!(matches!(packet.content, Content::Other) && packet.weird == Weird::default());
}

#[test]
fn mpls_carries_ip_or_a_pseudowire_with_and_without_control_word() {
    let (ip, labels) = (v4(17, &UDP), [0, 0x01, 0x00, 64, 0, 0x02, 0x01, 64]);
    let inner = ethernet(0x0800, &ip);
    for inside in [ip, join(&[&[0, 0, 0, 0], &inner]), inner] {
        assert!(is_hello(&on_ethernet(&ethernet(0x8847, &join(&[&labels, &inside])))));
    }
}

#[test]
fn pppoe_keeps_its_session_and_ppp_may_leave_fields_out() {
    let ppp = join(&[&[0x00, 0x21], &v4(17, &UDP)]);
    let bytes = ethernet(0x8864, &join(&[&[0x11, 0, 0x12, 0x34, 0, 35], &ppp]));
    let packet = on_ethernet(&bytes);
    assert!(is_hello(&packet));
    assert_eq!(packet.tunnel.map(|tunnel| (tunnel.kind, tunnel.id)), Some((TunnelKind::Pppoe, 0x1234)));
    for head in [&[0xff, 0x03, 0x00, 0x21][..], &[0x21], &[0x00, 0x21], &[0x0f, 0x00, 0x08, 0x00]] {
        assert!(is_hello(&decode(&frame(&join(&[head, &v4(17, &UDP)]), LinkType::Ppp))));
    }
}

#[test]
fn cooked_loopback_and_raw_links_lead_to_ip() {
    let ip = v4(17, &UDP);
    let sll = join(&[&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 0x08, 0x00], &ip]);
    let sll2 = join(&[&[0x08, 0x00, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0], &ip]);
    for (link, bytes) in [
        (LinkType::LinuxSll, sll),
        (LinkType::LinuxSll2, sll2),
        (LinkType::Loopback, join(&[&[2, 0, 0, 0], &ip])),
        (LinkType::Loopback, join(&[&[0, 0, 0, 2], &ip])),
        (LinkType::Ip, ip),
    ] {
        assert!(is_hello(&decode(&frame(&bytes, link))), "{link:?}");
    }
    assert_eq!(decode(&frame(&[1, 2, 3], LinkType::Unknown(147))).weird, Weird::LINK_UNKNOWN);
}

#[test]
fn arp_names_both_ends() {
    let request = join(&[&[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1], &A, &[0; 6], &B]);
    let bytes = ethernet(0x0806, &request);
    let Content::Arp(arp) = on_ethernet(&bytes).content else { panic!("no ARP") };
    assert_eq!((arp.operation, arp.sender_mac), (1, Mac([2, 0, 0, 0, 0, 1])));
    assert_eq!((arp.sender, arp.target), (Address::from_v4(A), Address::from_v4(B)));
}

#[test]
fn ipv6_extension_heads_are_skipped_and_a_routing_head_names_the_target() {
    let mut last = [0; 16];
    (last[0], last[15]) = (0xfd, 9);
    let routing = join(&[&[60, 2, 0, 1, 0, 0, 0, 0], &last]);
    let inside = join(&[&[43, 0, 1, 4, 0, 0, 0, 0], &routing, &[51, 0, 1, 4, 0, 0, 0, 0]]);
    let authentication = [17, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
    let bytes = ethernet(0x86dd, &v6(0, &join(&[&inside, &authentication, &UDP])));
    let packet = on_ethernet(&bytes);
    let datagram = datagram(&packet);
    assert_eq!((datagram.target, datagram.proto), (Address(last), Proto::UDP));
    assert!(matches!(datagram.transport, Transport::Udp(udp) if udp.payload == b"hello"));
}

#[test]
fn too_many_or_cut_extension_heads_are_damaged() {
    let many = [[0, 0, 1, 4, 0, 0, 0, 0]; 11].concat();
    for (inside, weird) in [(many, Weird::TOO_DEEP), (vec![17, 9, 0, 0], Weird::IP_DAMAGED)] {
        let bytes = ethernet(0x86dd, &v6(0, &inside));
        let packet = on_ethernet(&bytes);
        assert!(matches!(datagram(&packet).transport, Transport::Damaged));
        assert!(packet.weird.has(weird));
    }
}

#[test]
fn fragments_say_where_they_belong_and_their_datagram_decodes_whole() {
    let mut first = v4(17, &UDP[..8]);
    first[6] = 0x20;
    let bytes = ethernet(0x0800, &first);
    let packet = on_ethernet(&bytes);
    let head = datagram(&packet);
    assert_eq!(head.fragment, Some(Fragment { offset: 0, more: true, data_at: 20 }));
    assert!(matches!(head.transport, Transport::Fragment));
    let together = join(&[&head.bytes[..20], &UDP]);
    assert!(is_hello(&decode_datagram(&together, &packet)));

    let fragment = join(&[&[17, 0, 0, 0x11, 0, 0, 0, 5], &UDP[8..]]);
    let bytes = ethernet(0x86dd, &v6(44, &fragment));
    let packet = on_ethernet(&bytes);
    let tail = datagram(&packet);
    assert_eq!(tail.fragment, Some(Fragment { offset: 16, more: true, data_at: 48 }));
    assert_eq!((tail.id, tail.proto), (5, Proto::UDP));
    let together = join(&[&tail.bytes[..48], &UDP]);
    let whole = decode_datagram(&together, &packet);
    assert!(matches!(datagram(&whole).transport, Transport::Udp(udp) if udp.payload == b"hello"));
    assert_eq!(whole.macs, packet.macs);
}

#[test]
fn a_fragment_head_around_a_whole_packet_is_no_fragment() {
    let bytes = ethernet(0x86dd, &v6(44, &join(&[&[17, 0, 0, 0, 0, 0, 0, 5], &UDP])));
    let packet = on_ethernet(&bytes);
    assert_eq!((datagram(&packet).fragment, datagram(&packet).id), (None, 5));
    assert!(matches!(datagram(&packet).transport, Transport::Udp(_)));
}

/// A tunnel's bytes in an outer IPv4 packet, and what decoding must make of them.
fn check(outer: &[u8], kind: TunnelKind, id: u64, wanted: &[&str]) {
    let bytes = ethernet(0x0800, outer);
    let packet = on_ethernet(&bytes);
    assert!(is_hello(&packet), "{kind:?}: {packet:?}");
    let tunnel = packet.tunnel.unwrap();
    assert_eq!((tunnel.kind, tunnel.id, tunnel.depth), (kind, id, 1));
    assert_eq!((tunnel.source, tunnel.target), (Address::from_v4(A), Address::from_v4(B)));
    assert_eq!(layers(&packet), wanted, "{kind:?}");
    assert_eq!(packet.weird, Weird::default());
}

#[test]
fn ip_in_ip_and_gre_in_all_its_forms_are_opened() {
    let ip = v4(17, &UDP);
    let frame = ethernet(0x0800, &ip);
    let gre = |parts: &[&[u8]]| v4(47, &join(parts));
    check(&v4(4, &ip), TunnelKind::IpInIp, 0, &[]);
    check(&gre(&[&[0, 0, 8, 0], &ip]), TunnelKind::Gre, 0, &[]);
    let all = [0xb0, 0, 8, 0, 1, 2, 0, 0, 0, 0, 0, 42, 0, 0, 0, 1];
    check(&gre(&[&all, &ip]), TunnelKind::Gre, 42, &[]);
    let routed = [0x40, 0, 8, 0, 0, 0, 0, 0, 8, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0];
    check(&gre(&[&routed, &ip]), TunnelKind::Gre, 0, &[]);
    let pptp = [0x30, 0x81, 0x88, 0x0b, 0, 35, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0x03, 0x00, 0x21];
    check(&gre(&[&pptp, &ip]), TunnelKind::Gre, 7, &[]);
    check(&gre(&[&[0, 0, 0x65, 0x58], &frame]), TunnelKind::GreEthernet, 0, &[]);
    check(&gre(&[&[0x20, 0, 0x65, 0x58, 0, 0, 0, 9], &frame]), TunnelKind::GreEthernet, 9, &[]);
    check(&gre(&[&[0x20, 0, 0x65, 0x58, 0, 0x20, 0, 9], &frame]), TunnelKind::GreEthernet, 0x2000, &["nvgre:8192"]);
    check(&gre(&[&[0, 0, 0x88, 0xbe], &frame]), TunnelKind::Erspan, 0, &[]);
    let second = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 100, 0, 0, 0, 0];
    check(&gre(&[&second, &frame]), TunnelKind::Erspan, 100, &[]);
    let third = [0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0, 0, 101, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    check(&gre(&[&third, &frame]), TunnelKind::Erspan, 101, &[]);
    let third_ip = [0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0, 0, 102, 0, 0, 0, 0, 0, 0, 8, 0];
    check(&gre(&[&third_ip, &ip]), TunnelKind::Erspan, 102, &[]);
}

#[test]
fn tunnels_in_udp_are_opened_and_their_ids_are_layers_where_they_tell_networks_apart() {
    let ip = v4(17, &UDP);
    let frame = ethernet(0x0800, &ip);
    let carried = |port: u16, parts: &[&[u8]]| v4(17, &udp(port, &join(parts)));
    for port in [4789, 8472] {
        check(&carried(port, &[&[8, 0, 0, 0, 0, 0x10, 0, 0], &frame]), TunnelKind::Vxlan, 4096, &["vxlan:4096"]);
    }
    check(&carried(6081, &[&[0, 0, 0x65, 0x58, 0, 0, 5, 0], &frame]), TunnelKind::Geneve, 5, &["geneve:5"]);
    let options = [8, 0, 8, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 1, 1, 2, 3, 4, 1, 8, 1, 2, 0, 0, 0, 0, 0, 0, 0xab, 0xcd];
    let options = join(&[&options, &[1, 8, 3, 1, 9, 9, 9, 9]]);
    let mut options = options;
    options[0] = 7;
    check(&carried(6081, &[&options, &ip]), TunnelKind::Geneve, 0, &["gwlb:000000000000abcd"]);
    check(&carried(4754, &[&[0, 0, 8, 0], &ip]), TunnelKind::Gre, 0, &[]);
    check(&carried(2152, &[&[0x30, 255, 0, 33, 0, 0, 1, 0], &ip]), TunnelKind::Gtp, 256, &[]);
    let extended = [0x34, 255, 0, 41, 0, 0, 1, 0, 0, 0, 0, 0x85, 1, 0, 9, 0];
    check(&carried(2152, &[&extended, &ip]), TunnelKind::Gtp, 256, &[]);
}

#[test]
fn teredo_shows_on_any_port_by_its_prefix_and_length_alone() {
    let mut ip = v6(17, &UDP);
    ip[8..12].copy_from_slice(&[0x20, 0x01, 0, 0]);
    let origin = join(&[&[0, 0, 0x12, 0x34, 1, 2, 3, 4], &ip]);
    for (port, payload) in [(3544, &ip), (40000, &ip), (3544, &origin)] {
        let bytes = ethernet(0x0800, &v4(17, &udp(port, payload)));
        assert_eq!(on_ethernet(&bytes).tunnel.map(|tunnel| tunnel.kind), Some(TunnelKind::Teredo));
    }
    ip.push(0);
    let bytes = ethernet(0x0800, &v4(17, &udp(40000, &ip)));
    assert_eq!(on_ethernet(&bytes).tunnel, None);
}

#[test]
fn a_tunnel_with_an_unreadable_inside_counts_as_what_carries_it() {
    let damaged = [8, 0, 0, 0, 0, 0, 9, 0, 1, 2, 3];
    for (bytes, noted) in [
        (ethernet(0x0800, &v4(17, &udp(4789, &damaged))), true),
        (ethernet(0x0800, &v4(17, &udp(4789, &damaged[..4]))), true),
        (ethernet(0x0800, &v4(17, &udp(4789, &join(&[&damaged[..8], &ethernet(0x88cc, &[0; 40])])))), false),
    ] {
        let packet = on_ethernet(&bytes);
        assert!(matches!(datagram(&packet).transport, Transport::Udp(udp) if udp.target == 4789));
        assert_eq!((packet.tunnel, packet.layers), (None, Layers::default()));
        assert_eq!(packet.weird.has(Weird::TUNNEL_DAMAGED), noted);
        assert_eq!(packet.macs, Some((Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]))));
    }
}

#[test]
fn tunnels_beyond_the_cap_count_as_the_deepest_one_opened() {
    let mut ip = v4(17, &UDP);
    for _ in 0..=TUNNELS_MAX {
        ip = v4(4, &ip);
    }
    let bytes = ethernet(0x0800, &ip);
    let packet = on_ethernet(&bytes);
    assert_eq!(packet.tunnel.map(|tunnel| tunnel.depth), Some(TUNNELS_MAX));
    assert!(packet.weird.has(Weird::TOO_DEEP));
    assert!(matches!(datagram(&packet).transport, Transport::Other(_)));
}

#[test]
fn a_wrong_checksum_is_seen_and_a_missing_one_is_not_wrong() {
    let mut segment = TCP;
    for (checksum, right) in [([0x9f, 0x05], true), ([0x28, 0x76], false)] {
        segment[16..18].copy_from_slice(&checksum);
        let bytes = ethernet(0x0800, &v4(6, &segment));
        assert_eq!(datagram(&on_ethernet(&bytes)).checksum_ok(), right, "{checksum:02x?}");
    }
    assert!(datagram(&on_ethernet(&ethernet(0x0800, &v4(17, &UDP)))).checksum_ok());
}

const LINKS: [LinkType; 6] = [
    LinkType::Ethernet,
    LinkType::Ip,
    LinkType::LinuxSll,
    LinkType::LinuxSll2,
    LinkType::Loopback,
    LinkType::Ppp, //
];

/// What holds for whatever comes out.
fn assert_sound(packet: &Packet<'_>) {
    if let Content::Ip(datagram) = packet.content {
        let captured = u32::try_from(datagram.bytes.len()).unwrap();
        assert!(datagram.ip_len >= captured);
        if let Some(fragment) = datagram.fragment {
            assert!(usize::from(fragment.data_at) <= datagram.bytes.len());
        }
        if let Transport::Tcp(Tcp { payload, payload_len, .. }) | Transport::Udp(Udp { payload, payload_len, .. }) =
            datagram.transport
        {
            assert!(payload.len() <= usize::try_from(payload_len).unwrap());
        }
        let _ = datagram.checksum_ok();
        let _ = decode_datagram(datagram.bytes, packet);
    }
    assert!(packet.tunnel.is_none_or(|tunnel| tunnel.depth <= TUNNELS_MAX));
}

/// Frames with every kind of head, for mutation.
fn valid_frames() -> Vec<Vec<u8>> {
    let ip = v4(6, &TCP);
    let inner = ethernet(0x8100, &join(&[&[0, 5, 0x08, 0x00], &ip]));
    let vxlan = v4(17, &udp(4789, &join(&[&[8, 0, 0, 0, 0, 0, 9, 0], &inner])));
    let geneve = v4(17, &udp(6081, &join(&[&[1, 0, 0x65, 0x58, 0, 0, 5, 0, 1, 8, 3, 0], &inner])));
    let gtp = v4(17, &udp(2152, &join(&[&[0x34, 255, 0, 9, 0, 0, 1, 0, 0, 0, 0, 0x85, 1, 0, 9, 0], &ip])));
    let erspan = v4(47, &join(&[&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 100, 0, 0, 0, 0], &inner]));
    let routed = v4(47, &join(&[&[0x40, 0, 8, 0, 0, 0, 0, 0, 8, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0], &ip]));
    let extended = v6(0, &join(&[&[44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 5], &TCP]));
    let mpls = join(&[&[0, 1, 1, 64, 0, 0, 0, 0], &inner]);
    let pppoe = join(&[&[0x11, 0, 0, 1, 0, 48, 0, 0x21], &ip]);
    vec![
        ethernet(0x0800, &ip),
        ethernet(0x0800, &v4(17, &UDP)),
        ethernet(0x86dd, &v6(17, &UDP)),
        ethernet(0x0800, &vxlan),
        ethernet(0x0800, &geneve),
        ethernet(0x0800, &gtp),
        ethernet(0x0800, &erspan),
        ethernet(0x0800, &routed),
        ethernet(0x86dd, &extended),
        ethernet(0x86dd, &v6(4, &ip)),
        ethernet(0x8847, &mpls),
        ethernet(0x8864, &pppoe),
        inner,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_on_any_link_can_do_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200), link in prop::sample::select(&LINKS[..]), cut in 0u32..2000,
    ) {
        let frame = Frame { wire_len: u32::try_from(bytes.len()).unwrap() + cut, ..frame(&bytes, link) };
        assert_sound(&decode(&frame));
    }

    #[test]
    fn no_change_to_a_valid_frame_can_do_harm(
        which in 0usize..13, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(), cuts in any::<bool>(),
    ) {
        let mut bytes = valid_frames().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let whole = frame(&bytes, LinkType::Ethernet);
        let kept = if cuts { &bytes[..cut.index(bytes.len())] } else { &bytes[..] };
        let packet = decode(&Frame { bytes: kept, ..whole });
        assert_sound(&packet);
        // The short way for plain frames and the walk are one decoder.
        let walked = walk(&Frame { bytes: kept, ..whole }, &mut ());
        prop_assert_eq!(format!("{packet:?}"), format!("{walked:?}"));
    }
}
