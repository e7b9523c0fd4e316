//! Filters against tcpdump itself, over all plain frames of the captures that stand beside a checkout: without VLAN
//! tags, tunnels and IPv6 extension heads, where both languages mean the same.
#![expect(clippy::unwrap_used, reason = "who sets a test up may fail it")]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use thymus_dissect::decode::{Content, Datagram, Visit, Weird, walk};
use thymus_dissect::filter::Filter;
use thymus_dissect::{Frame, LinkType};

const FILTERS: [&str; 34] = [
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp",
    "port 53",
    "tcp port 80 or 443",
    "udp src port 53",
    "dst port 445",
    "portrange 1000-2000",
    "udp portrange 50-60",
    "host 192.168.2.16",
    "src host 192.168.2.16",
    "dst 192.168.2.16",
    "host 192.168.2.16 and not port 80",
    "net 192.168.0.0/16",
    "src net 10.0.0.0/8",
    "dst net 10.0.0.0/8 and tcp",
    "net fe80::/10",
    "ip6 and udp",
    "arp host 192.168.0.1",
    "ip host 192.168.0.1",
    "net 192.168.0.0/24 and arp",
    "tcp or udp and port 53",
    "not (tcp or udp)",
    "not ip and not ip6",
    "less 60",
    "greater 1000 and tcp",
    "ip proto 6",
    "ip6 proto 17",
    "ether host ff:ff:ff:ff:ff:ff",
];

/// Counts IP heads: what lies in a tunnel counts even if it holds nothing.
struct Datagrams(usize);

impl Visit for Datagrams {
    fn datagram(&mut self, _datagram: &Datagram<'_>) {
        self.0 += 1;
    }
}

fn is_plain(frame: &Frame<'_>) -> bool {
    let mut datagrams = Datagrams(0);
    let packet = walk(frame, &mut datagrams);
    let head = matches!(
        frame.bytes,
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00 | 0x06, ..]
            | [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..]
    );
    let transport_follows = match packet.content {
        Content::Ip(datagram) if datagram.v6 => datagram.bytes.get(6) == Some(&datagram.proto.0),
        Content::Other => false,
        _ => true,
    };
    head && frame.link == LinkType::Ethernet && datagrams.0 < 2 && packet.weird == Weird::default() && transport_follows
}

/// A capture whose packets carry their number as time.
fn capture(frames: &[support::Kept]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_le_bytes());
    }
    for (number, kept) in frames.iter().enumerate() {
        for word in [number, 0, kept.bytes.len(), kept.wire_len as usize] {
            file.extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        file.extend(&kept.bytes);
    }
    file
}

/// Numbers of the packets that tcpdump keeps.
fn kept_by_tcpdump(filter: &str, file: &[u8]) -> Vec<usize> {
    let mut child = Command::new("tcpdump")
        .args(["-r", "-", "-w", "-", filter])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(file).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "tcpdump {filter}");
    let word = |at: usize| output.stdout.get(at..at + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    let (mut at, mut numbers) = (24, Vec::new());
    while let (Some(number), Some(length)) = (word(at), word(at + 8)) {
        numbers.push(number as usize);
        at += 16 + length as usize;
    }
    numbers
}

#[test]
fn filters_keep_the_frames_that_tcpdump_keeps() {
    let folders = support::folders();
    if folders.is_empty() || Command::new("tcpdump").arg("--version").output().is_err() {
        eprintln!("skipped: no captures beside the checkout, or no tcpdump");
        return;
    }
    let all = folders.iter().filter_map(|folder| support::frames(&folder.join("input.pcap"))).flatten();
    let frames: Vec<support::Kept> = all.filter(|kept| is_plain(&kept.frame())).collect();
    let file = capture(&frames);
    for text in FILTERS {
        let filter = Filter::parse(text).unwrap();
        let ours: Vec<usize> = (0..frames.len()).filter(|number| filter.matches(&frames[*number].frame())).collect();
        let theirs = kept_by_tcpdump(text, &file);
        eprintln!("{text}: {} of {}", theirs.len(), frames.len());
        let differ: Vec<usize> = (0..frames.len())
            .filter(|number| ours.binary_search(number).is_ok() != theirs.binary_search(number).is_ok())
            .collect();
        assert!(differ.is_empty(), "{text}: {} frames differ, first {:02x?}", differ.len(), frames[differ[0]].bytes);
    }
}
