//! Decoding against tshark, packet by packet, over the captures that stand beside a checkout.

mod support;

use std::collections::HashMap;
use std::net::IpAddr;
use thymus_dissect::decode::{Content, Datagram, Transport, Weird, decode};
use thymus_record::Layer;

/// Protocol, and both ends in order.
type Tuple = (&'static str, [(IpAddr, u16); 2]);

fn ordered(proto: &'static str, mut ends: [(IpAddr, u16); 2]) -> Tuple {
    ends.sort();
    (proto, ends)
}

/// The flows of a row, from the outermost in, without those that an ICMP error quotes.
fn flows(row: &HashMap<&str, &str>) -> Vec<Tuple> {
    let list = |name: &str| row.get(name).map_or(Vec::new(), |text| text.split('|').collect::<Vec<_>>());
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let (mut hosts, mut flows) = (None, Vec::new());
    for layer in row["frame.protocols"].split(':') {
        let at = *seen.get(layer).unwrap_or(&0);
        *seen.entry(layer).or_default() += 1;
        let host = |side: &str| list(&format!("{layer}.{side}")).get(at).and_then(|text| text.parse::<IpAddr>().ok());
        let port = |side: &str| list(&format!("{layer}.{side}")).get(at).and_then(|text| text.parse::<u16>().ok());
        match layer {
            "ip" | "ipv6" => hosts = host("src").zip(host("dst")),
            "tcp" | "udp" => {
                if let (Some((source, target)), Some(from), Some(to)) = (hosts, port("srcport"), port("dstport")) {
                    let name = if layer == "tcp" { "tcp" } else { "udp" };
                    flows.push(ordered(name, [(source, from), (target, to)]));
                }
            }
            "icmp" | "icmpv6" => {
                flows.extend(hosts.map(|(source, target)| ordered("icmp", [(source, 0), (target, 0)])));
                break;
            }
            _ => {}
        }
    }
    flows
}

fn ours(frame: &thymus_dissect::Frame<'_>) -> Option<Tuple> {
    let Content::Ip(datagram) = decode(frame).content else { return None };
    let (source, target) = (datagram.source.to_ip(), datagram.target.to_ip());
    Some(match datagram.transport {
        Transport::Tcp(tcp) => ordered("tcp", [(source, tcp.source), (target, tcp.target)]),
        Transport::Udp(udp) => ordered("udp", [(source, udp.source), (target, udp.target)]),
        Transport::Icmp(_) => ordered("icmp", [(source, 0), (target, 0)]),
        _ => return None,
    })
}

fn vlan(layer: Layer) -> Option<String> {
    match layer {
        Layer::Vlan(id) => Some(id.to_string()),
        _ => None,
    }
}

/// Where we mean to differ: tshark knows Teredo by its port alone, does not follow a routing head, and goes by PPPoE's
/// length where IP says more.
fn differs_by_intent(folder: &str) -> bool {
    ["zeek__tunnels__Teredo.pcap", "zeek__ipv6-hbh-routing0.pcap", "zeek__pppoe-over-qinq.pcap"].contains(&folder)
}

#[test]
fn tuples_vlans_and_lengths_are_those_that_tshark_gives() {
    let folders = support::folders();
    if folders.is_empty() {
        eprintln!("skipped: no captures beside the checkout");
    }
    let (mut packets, mut wrong) = (0, Vec::new());
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let Some(frames) = support::frames(&folder.join("input.pcap")) else { continue };
        let Ok(table) = std::fs::read(folder.join("tshark.tsv")) else { continue };
        let table = String::from_utf8_lossy(&table).into_owned();
        let mut lines = table.split('\n');
        let head: Vec<&str> = lines.next().unwrap().split('\t').collect();
        for (number, (kept, line)) in frames.iter().zip(lines).enumerate() {
            let row: HashMap<&str, &str> = head.iter().copied().zip(line.split('\t')).collect();
            if !row.contains_key("frame.protocols") {
                continue;
            }
            packets += 1;
            let (wanted, got) = (flows(&row).last().copied(), ours(&kept.frame()));
            // tshark puts fragments together; what it then says stands in the last fragment's row.
            let packet = decode(&kept.frame());
            let fragment = matches!(packet.content, Content::Ip(datagram) if datagram.fragment.is_some());
            if wanted != got && !fragment && !differs_by_intent(&name) {
                wrong.push(format!("{name} packet {}: {wanted:?}, ours {got:?}", number + 1));
            }
            let vlans: Vec<String> = packet.layers.iter().filter_map(vlan).collect();
            let wanted: Vec<&str> = row["vlan.id"].split('|').filter(|id| !["", "0"].contains(id)).collect();
            if vlans != wanted {
                wrong.push(format!("{name} packet {}: VLAN {}, ours {vlans:?}", number + 1, row["vlan.id"]));
            }
            let length = match packet.content {
                Content::Ip(Datagram { transport: Transport::Tcp(tcp), .. }) => tcp.payload_len.to_string(),
                _ => continue,
            };
            let differs = row["tcp.len"].split('|').next_back() != Some(&length);
            if differs && !packet.weird.has(Weird::IP_TRUNCATED) && !differs_by_intent(&name) {
                wrong.push(format!("{name} packet {}: TCP length {}, ours {length}", number + 1, row["tcp.len"]));
            }
        }
    }
    eprintln!("{packets} packets compared");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
