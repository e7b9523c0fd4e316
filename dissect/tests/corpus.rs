//! Decoding against tshark, packet by packet, and against Zeek, conversation by conversation, over the captures that stand beside a checkout.

mod support;

use std::collections::HashMap;
use std::net::IpAddr;
use thymus_dissect::decode::{Content, Datagram, Fragment, Packet, Transport, Weird, decode, decode_datagram};
use thymus_record::{Address, Layer};

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

fn conversation(packet: &Packet<'_>) -> Option<Tuple> {
    let Content::Ip(datagram) = packet.content else { return None };
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
            let packet = decode(&kept.frame());
            let (wanted, got) = (flows(&row).last().copied(), conversation(&packet));
            // tshark puts fragments together; what it then says stands in the last fragment's row.
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

/// Packets of each conversation in Zeek's own log, those that carry a tunnel left out.
fn zeek_counts(log: &std::path::Path) -> HashMap<Tuple, u64> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut fields: Vec<&str> = Vec::new();
    let (mut counts, mut parents, mut rows) = (HashMap::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(names) = line.strip_prefix("#fields\t") {
            fields = names.split('\t').collect();
        } else if !line.starts_with('#') {
            rows.push(fields.iter().copied().zip(line.split('\t')).collect::<HashMap<&str, &str>>());
        }
    }
    for row in &rows {
        parents.extend(row.get("tunnel_parents").into_iter().flat_map(|uids| uids.split(',')));
    }
    for row in rows.iter().filter(|row| row.get("uid").is_none_or(|uid| !parents.contains(uid))) {
        let number = |name: &str| row.get(name).and_then(|text| text.parse::<u64>().ok());
        let host = |name: &str| row.get(name).and_then(|text| text.parse::<IpAddr>().ok());
        let proto = match row.get("proto") {
            Some(&"tcp") => "tcp",
            Some(&"udp") => "udp",
            Some(&"icmp") => "icmp",
            _ => continue,
        };
        let port = |name: &str| {
            if proto == "icmp" { 0 } else { number(name).and_then(|port| port.try_into().ok()).unwrap_or(0) }
        };
        if let (Some(source), Some(target), Some(sent), Some(received)) =
            (host("id.orig_h"), host("id.resp_h"), number("orig_pkts"), number("resp_pkts"))
        {
            let tuple = ordered(proto, [(source, port("id.orig_p")), (target, port("id.resp_p"))]);
            *counts.entry(tuple).or_default() += sent + received;
        }
    }
    counts
}

/// What fragments of one datagram have in common.
type Key = (Address, Address, u8, u32);

/// Fragments, each with its offset, and whether more follow.
#[derive(Default)]
struct Fragments(HashMap<Key, Vec<(u32, bool, Vec<u8>)>>);

impl Fragments {
    /// Keeps a fragment; gives the datagram once its parts lie end to end.
    fn join(&mut self, datagram: &Datagram<'_>, fragment: Fragment) -> Option<Vec<u8>> {
        let parts = self.0.entry((datagram.source, datagram.target, datagram.proto.0, datagram.id)).or_default();
        let (head, data) = datagram.bytes.split_at(usize::from(fragment.data_at));
        // The first part brings its head along.
        let kept = if fragment.offset == 0 { datagram.bytes } else { data };
        parts.push((fragment.offset, fragment.more, kept.to_vec()));
        parts.sort();
        let mut whole = Vec::new();
        for (offset, more, bytes) in parts.iter() {
            let at = if *offset == 0 { 0 } else { usize::try_from(*offset).ok()? + head.len() };
            if whole.len() != at {
                return None;
            }
            whole.extend_from_slice(bytes);
            if !more {
                return Some(whole);
            }
        }
        None
    }
}

#[test]
fn packets_of_each_conversation_are_as_many_as_zeek_counts() {
    let mut compared = 0;
    let mut wrong = Vec::new();
    for folder in support::folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let Some(frames) = support::frames(&folder.join("input.pcap")) else { continue };
        let (mut counts, mut fragments) = (HashMap::<Tuple, u64>::new(), Fragments::default());
        for kept in &frames {
            let packet = decode(&kept.frame());
            let whole = match packet.content {
                Content::Ip(datagram) => datagram.fragment.and_then(|place| fragments.join(&datagram, place)),
                _ => None,
            };
            let packet = whole.as_deref().map_or(packet, |bytes| decode_datagram(bytes, &packet));
            if let Some(tuple) = conversation(&packet) {
                *counts.entry(tuple).or_default() += 1;
            }
        }
        let Ok(baselines) = std::fs::read_dir(folder.join("zeek")) else { continue };
        for baseline in baselines.flatten() {
            for (tuple, wanted) in zeek_counts(&baseline.path().join("conn.log")) {
                compared += 1;
                let got = counts.get(&tuple).copied().unwrap_or(0);
                if got != wanted {
                    wrong.push(format!("{name}: {tuple:?} has {wanted} packets, ours {got}"));
                }
            }
        }
    }
    eprintln!("{compared} conversations compared");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
