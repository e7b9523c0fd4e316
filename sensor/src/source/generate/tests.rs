//! Generated traffic: the same from the same seed, right in every head, and as much as was asked for.

use super::*;
use std::collections::HashMap;
use thymus_dissect::decode::{Content, Tcp, TcpFlags, Transport, Weird, decode};
use thymus_record::Address;

/// Hands every frame of the traffic on.
fn each_frame(traffic: Traffic, mut each: impl FnMut(&Frame<'_>)) -> SourceCounters {
    let mut source = Generate::new(traffic).unwrap();
    while source.receive_burst(|burst| burst.frames.iter().for_each(&mut each)).unwrap() != Received::End {}
    source.counters()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let bytes = |seed| {
        let mut file = Vec::new();
        let traffic = Traffic { seed, limit: Limit::Packets(5000), ..Traffic::default() };
        assert_eq!(Generate::new(traffic).unwrap().write_pcap(&mut file).unwrap(), 5000);
        file
    };
    assert!(bytes(7) == bytes(7));
    assert!(bytes(7) != bytes(8));
}

#[test]
fn rate_connections_devices_and_frame_length_are_as_asked() {
    for (devices, mbps, connections_per_minute, seconds) in
        [(10, 10, 1000, 60), (100, 100, 5000, 30), (500, 400, 20_000, 15)]
    {
        let traffic = Traffic {
            devices,
            mbps,
            connections_per_minute,
            limit: Limit::Nanoseconds(u64::from(seconds) * SECOND),
            ..Traffic::default()
        };
        let (mut opened, mut seen) = (0u32, HashMap::new());
        let counters = each_frame(traffic, |frame| {
            let Content::Ip(datagram) = decode(frame).content else { panic!("no IP") };
            if matches!(datagram.source.as_v4(), Some([10, 16, ..])) {
                seen.insert(datagram.source, ());
            }
            opened += u32::from(match datagram.transport {
                Transport::Tcp(tcp) => tcp.flags == TcpFlags(TcpFlags::SYN),
                Transport::Udp(udp) => udp.target == 53,
                _ => panic!("neither TCP nor UDP"),
            });
        });
        let near = |got: f64, wanted: f64, share: f64| (got / wanted - 1.0).abs() < share;
        let rate = counters.received.bytes as f64 * 8.0 / 1e6 / f64::from(seconds);
        assert!(near(rate, f64::from(mbps), 0.1), "{rate} Mbit/s of {mbps}");
        assert!(near(f64::from(opened) * 60.0, f64::from(connections_per_minute * seconds), 0.02), "{opened} opened");
        let mean = counters.received.bytes as f64 / counters.received.packets as f64;
        assert!(near(mean, 700.0, 0.1), "{mean} bytes a frame");
        assert_eq!(seen.len(), devices as usize);
    }
}

#[test]
fn every_checksum_is_right_and_time_never_goes_back() {
    let mut last = Time(0);
    let counters = each_frame(Traffic { limit: Limit::Packets(20_000), ..Traffic::default() }, |frame| {
        let packet = decode(frame);
        assert_eq!(packet.weird, Weird::default());
        let Content::Ip(datagram) = packet.content else { panic!("no IP") };
        assert!(datagram.checksum_ok(), "{datagram:?}");
        let sum: u32 = datagram.bytes[..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert!(frame.time >= last && frame.bytes.len() >= FRAME_BYTES_MIN);
        last = frame.time;
    });
    assert_eq!(counters.received.packets, 20_000);
}

#[test]
fn tcp_streams_have_no_gap_and_acknowledge_what_was_sent() {
    let mut next: HashMap<(Address, u16, Address, u16), u32> = HashMap::new();
    let (mut finished, mut hello, mut requests) = (0, 0, 0);
    each_frame(Traffic { limit: Limit::Packets(100_000), ..Traffic::default() }, |frame| {
        let Content::Ip(datagram) = decode(frame).content else { panic!("no IP") };
        let Transport::Tcp(Tcp { source, target, seq, ack, flags, payload, .. }) = datagram.transport else { return };
        let (own, other) =
            ((datagram.source, source, datagram.target, target), (datagram.target, target, datagram.source, source));
        if !flags.any(TcpFlags::SYN) {
            assert_eq!(next.get(&own), Some(&seq));
            assert_eq!(next.get(&other), Some(&ack));
        }
        let counted = u32::try_from(payload.len()).unwrap() + u32::from(flags.any(TcpFlags::SYN | TcpFlags::FIN));
        next.insert(own, seq.wrapping_add(counted));
        finished += u32::from(flags.any(TcpFlags::FIN));
        hello += u32::from(payload.starts_with(&[22, 3, 1]) && payload.windows(8).any(|window| window == b".example"));
        requests += u32::from(payload.starts_with(b"GET /"));
    });
    assert!(finished > 100 && hello > 100 && requests > 50, "{finished} {hello} {requests}");
}

#[test]
fn a_wrong_wish_is_named() {
    for traffic in [
        Traffic { devices: 1, ..Traffic::default() },
        Traffic { devices: DEVICES_MAX + 1, ..Traffic::default() },
        Traffic { mbps: 0, ..Traffic::default() },
        Traffic { connections_per_minute: 0, ..Traffic::default() },
    ] {
        assert!(Generate::new(traffic).is_err(), "{traffic:?}");
    }
}
