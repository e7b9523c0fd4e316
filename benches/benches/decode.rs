//! Frame → packet, in nanoseconds a frame, beside etherparse and smoltcp's wire views; then filters.
//!
//! Each round goes over 1,024 frames of different ends, in a buffer that fits the second cache as a burst's frames do.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a bench may fail, and counts are small")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};
use std::hint::black_box;
use thymus_dissect::decode::decode;
use thymus_dissect::filter::Filter;
use thymus_dissect::{Frame, LinkType};
use thymus_record::Time;

const FRAMES: usize = 1024;

fn ethernet(ether_type: [u8; 2], inside: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], &ether_type[..], inside].concat()
}

fn ipv4(number: usize, proto: u8, inside: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(inside.len() + 20).unwrap().to_be_bytes();
    let [_, b, c, d] = (number as u32).to_be_bytes();
    [&[0x45, 0, high, low, 0, 7, 0x40, 0, 64, proto, 0, 0, 10, b, c, d, 10, 0, 0, 1][..], inside].concat()
}

fn ipv6(number: usize, next: u8, inside: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(inside.len()).unwrap().to_be_bytes();
    let (mut source, target) = ([0xfd; 16], [0xfc; 16]);
    source[12..].copy_from_slice(&(number as u32).to_be_bytes());
    [&[0x60, 0, 0, 0, high, low, next, 64], &source[..], &target, inside].concat()
}

fn tcp(payload: usize) -> Vec<u8> {
    [&[0x10, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 2, 0, 0, 0, 0, 0][..], &vec![7; payload]].concat()
}

fn udp(target: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
    [&[0x30, 0x39], &target.to_be_bytes()[..], &length, &[0, 0], payload].concat()
}

fn vxlan(number: usize) -> Vec<u8> {
    let inner = ethernet([8, 0], &ipv4(number, 6, &tcp(6)));
    ethernet([8, 0], &ipv4(1, 17, &udp(4789, &[&[8, 0, 0, 0, 0, 0, 9, 0], &inner[..]].concat())))
}

/// The kinds of frames measured.
fn kinds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let of = |make: &dyn Fn(usize) -> Vec<u8>| (0..FRAMES).map(make).collect::<Vec<_>>();
    vec![
        ("tcp4_60", of(&|number| ethernet([8, 0], &ipv4(number, 6, &tcp(6))))),
        ("udp4_60", of(&|number| ethernet([8, 0], &ipv4(number, 17, &udp(53, &[7; 18]))))),
        ("tcp6_80", of(&|number| ethernet([0x86, 0xdd], &ipv6(number, 6, &tcp(6))))),
        ("tcp4_608", of(&|number| ethernet([8, 0], &ipv4(number, 6, &tcp(554))))),
        ("vlan_tcp4", of(&|number| ethernet([0x81, 0], &[&[0, 5, 8, 0], &ipv4(number, 6, &tcp(6))[..]].concat()))),
        ("vxlan_tcp4", of(&vxlan)),
    ]
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    Frame { bytes, wire_len: bytes.len() as u32, time: Time(0), link: LinkType::Ethernet, port: 0, ..Frame::default() }
}

/// Decodes as the poll loop does: the whole packet is made, in memory, for the stages behind it.
fn ours(frames: &[Vec<u8>]) {
    for bytes in frames {
        black_box(&decode(&frame(black_box(bytes))));
    }
}

/// What the peers are asked for: ends, ports and the payload's length, so that they may not leave work out.
fn etherparse(bytes: &[u8]) -> u64 {
    use ::etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let Ok(packet) = SlicedPacket::from_ethernet(bytes) else { return 0 };
    let ends = match packet.net {
        Some(NetSlice::Ipv4(ip)) => ip.header().source()[3] ^ ip.header().destination()[3],
        Some(NetSlice::Ipv6(ip)) => ip.header().source()[15] ^ ip.header().destination()[15],
        _ => 0,
    };
    let (ports, length) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port() ^ tcp.destination_port(), tcp.payload().len()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port() ^ udp.destination_port(), udp.payload().len()),
        _ => (0, 0),
    };
    u64::from(ends) + u64::from(ports) + length as u64
}

fn smoltcp(bytes: &[u8]) -> u64 {
    let Ok(ethernet) = EthernetFrame::new_checked(bytes) else { return 0 };
    let (ends, proto, inside) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let Ok(ip) = Ipv4Packet::new_checked(ethernet.payload()) else { return 0 };
            (ip.src_addr().octets()[3] ^ ip.dst_addr().octets()[3], ip.next_header(), ip.payload())
        }
        EthernetProtocol::Ipv6 => {
            let Ok(ip) = Ipv6Packet::new_checked(ethernet.payload()) else { return 0 };
            (ip.src_addr().octets()[15] ^ ip.dst_addr().octets()[15], ip.next_header(), ip.payload())
        }
        _ => return 0,
    };
    let (ports, length) = match proto {
        IpProtocol::Tcp => {
            let Ok(tcp) = TcpPacket::new_checked(inside) else { return 0 };
            (tcp.src_port() ^ tcp.dst_port(), tcp.payload().len())
        }
        IpProtocol::Udp => {
            let Ok(udp) = UdpPacket::new_checked(inside) else { return 0 };
            (udp.src_port() ^ udp.dst_port(), udp.payload().len())
        }
        _ => (0, 0),
    };
    u64::from(ends) + u64::from(ports) + length as u64
}

fn decoders(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for (name, frames) in kinds() {
        group.bench_with_input(BenchmarkId::new("thymus", name), &frames, |bench, frames| {
            bench.iter(|| ours(frames));
        });
        // Tunnels and tags are not what the peers open, so their figure would be another one.
        if name.starts_with('v') {
            continue;
        }
        for (decoder, run) in [("etherparse", etherparse as fn(&[u8]) -> u64), ("smoltcp", smoltcp)] {
            group.bench_with_input(BenchmarkId::new(decoder, name), &frames, |bench, frames| {
                bench.iter(|| frames.iter().map(|bytes| run(black_box(bytes))).sum::<u64>());
            });
        }
    }
    group.finish();
}

fn filters(c: &mut Criterion) {
    let mut group = c.benchmark_group("filter");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let (_, frames) = kinds().swap_remove(0);
    for text in ["host 10.0.0.9", "tcp port 80 and net 10.0.0.0/24 and not host 10.0.0.9"] {
        let filter = Filter::parse(text).unwrap();
        group.bench_function(text, |bench| {
            bench.iter(|| frames.iter().filter(|bytes| filter.matches(&frame(black_box(bytes)))).count());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = decoders, filters
}
criterion_main!(benches);
