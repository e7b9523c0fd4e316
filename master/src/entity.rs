//! Devices: who is behind an address. A device is found by (network, MAC) where ARP or neighbour discovery tie the MAC to
//! the address, else by (network, address); each attribution keeps its evidence. Volumes count primary rows alone, so
//! that a conversation seen by two sensors counts once.
//!
//! Frames from an OS-sensor that owns neither of their ends may be forged, and so may rows that it made of them: such rows
//! teach nothing, and of a flow that has some such frames the volumes count by the share of the others. A row that is the
//! outer view of a conversation which its host translates teaches nothing either; where only that host saw it, the inner
//! view's row counts for that host, which is known to own its outer address.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use thymus_record::table::{DnsRow, FlowKind, FlowRow, HostRow};
use thymus_record::view::outer_ends;
use thymus_record::{Address, Mac, NetworkPath, Record, Scope, Time};
use thymus_store::IngestedBatch;

/// Devices kept; a new one beyond them is not made, and counted.
pub const DEVICES_MAX: usize = 200_000;
/// Addresses of one MAC beyond which it is a gateway and names no device.
const GATEWAY_ADDRESSES: usize = 8;
/// Names and lines of evidence kept for a device.
const WORDS_MAX: usize = 8;

/// A device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Device {
    /// Its id in links: stable while its first address or MAC is.
    pub id: String,
    /// Its network.
    pub network: String,
    /// Its addresses, and when each was last its.
    pub addresses: BTreeMap<String, Time>,
    /// Its MACs.
    pub macs: BTreeSet<String>,
    /// Names that others or it itself use for it.
    pub names: Vec<String>,
    /// First and last packet.
    pub first_seen: Time,
    /// See `first_seen`.
    pub last_seen: Time,
    /// IP bytes that it sent and got.
    pub sent_bytes: u64,
    /// See `sent_bytes`.
    pub got_bytes: u64,
    /// Connections.
    pub flows: u64,
    /// Why all this is believed.
    pub evidence: Vec<String>,
    /// Sensors that saw it.
    pub sensors: BTreeSet<String>,
    /// It routes for others.
    pub gateway: bool,
}

/// All devices; a checkpoint is the whole of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Entities {
    devices: BTreeMap<String, Device>,
    by_address: HashMap<String, String>,
    by_mac: HashMap<String, String>,
    mac_addresses: HashMap<String, BTreeSet<String>>,
    /// Devices that found no room.
    pub refused: u64,
    /// The journal position behind the last batch taken in.
    pub position: u64,
}

fn key(network: &NetworkPath, what: &str) -> String {
    format!("{network} {what}")
}

fn id_of(key: &str) -> String {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("d{hash:016x}")
}

/// True for addresses of one's own network: private, link-local, shared (RFC 1918, 3927, 6598, 4193, 4291).
pub fn is_local(address: Address) -> bool {
    match address.to_ip() {
        IpAddr::V4(v4) => {
            v4.is_private() || v4.is_link_local() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// True for addresses that stand for nobody: multicast, broadcast, unspecified, loopback.
fn is_nobody(address: Address) -> bool {
    match address.to_ip() {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified() || v6.is_loopback(),
    }
}

fn note(words: &mut Vec<String>, word: String) {
    if words.len() < WORDS_MAX && !words.contains(&word) {
        words.push(word);
    }
}

impl Entities {
    /// Takes a batch in; gives the ids of devices that changed.
    pub fn take(&mut self, ingested: &IngestedBatch) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for (record, mark) in ingested.batch.records.iter().zip(&ingested.marks) {
            let paths = &ingested.batch.head.networks;
            let Some(network) = usize::try_from(record.network()).ok().and_then(|at| paths.get(at)) else { continue };
            let sensor = &ingested.arrival.sensor_name;
            match record {
                Record::Flow(row) => self.flow(network, row, mark.primary, sensor, &mut changed),
                Record::Host(row) => self.host(network, row, &mut changed),
                Record::Dns(row) => self.dns(network, row),
                _ => {}
            }
        }
        self.position = self.position.max(ingested.position + 1);
        changed
    }

    fn flow(
        &mut self,
        network: &NetworkPath,
        row: &FlowRow,
        primary: bool,
        sensor: &str,
        changed: &mut BTreeSet<String>,
    ) {
        let is_foreign = row.unverified > 0 && row.unverified >= row.frames;
        let outer = row.translated.as_deref().filter(|_| is_foreign).and_then(outer_ends);
        if (is_foreign && outer.is_none()) || row.view_of.is_some() {
            return;
        }
        let counted = if outer.is_some() { row.frames } else { row.frames.saturating_sub(row.unverified) };
        let of_frames = share(counted, row.frames);
        let (orig_h, resp_h) = outer.unwrap_or((row.orig_h, row.resp_h));
        let ends = [
            (orig_h, resp_h, row.orig_ip_bytes, row.resp_ip_bytes, row.orig_pkts, true),
            (resp_h, orig_h, row.resp_ip_bytes, row.orig_ip_bytes, row.resp_pkts, false),
        ];
        for (own, other, sent, got, pkts, originates) in ends {
            // A network without private addresses still has devices: those that begin conversations with the outside.
            let is_known = self.by_address.contains_key(&key(network, &own.to_string()));
            let inside = is_local(own) || is_known || (originates && !is_local(other));
            if is_nobody(own) || !inside || (!originates && pkts == 0 && !is_known) {
                continue;
            }
            let Some(device) = self.device_of(network, own, row.ts) else { continue };
            device.addresses.insert(own.to_string(), row.until);
            device.first_seen = device.first_seen.min(row.ts);
            device.last_seen = device.last_seen.max(row.until);
            device.sensors.insert(sensor.to_owned());
            if primary {
                device.sent_bytes += of_frames(sent);
                device.got_bytes += of_frames(got);
                device.flows += u64::from(row.kind == FlowKind::End);
            }
            changed.insert(device.id.clone());
        }
    }

    /// The device behind an address now, made if there is room.
    fn device_of(&mut self, network: &NetworkPath, address: Address, now: Time) -> Option<&mut Device> {
        let key = key(network, &address.to_string());
        let id = match self.by_address.get(&key) {
            Some(id) => id.clone(),
            None => {
                if self.devices.len() >= DEVICES_MAX {
                    self.refused += 1;
                    return None;
                }
                let id = id_of(&key);
                self.by_address.insert(key, id.clone());
                id
            }
        };
        Some(self.devices.entry(id.clone()).or_insert_with(|| Device {
            id,
            network: network.to_string(),
            addresses: BTreeMap::from([(address.to_string(), now)]),
            first_seen: now,
            last_seen: now,
            ..Device::default()
        }))
    }

    /// A MAC claims an address: the address belongs to the MAC's device from now on.
    fn host(&mut self, network: &NetworkPath, row: &HostRow, changed: &mut BTreeSet<String>) {
        let is_proof = !is_nobody(row.address) && row.unverified != Some(true);
        let Some(mac) = row.mac.filter(|_| is_proof) else { return };
        let (mac_key, address_key) = (key(network, &mac.to_string()), key(network, &row.address.to_string()));
        let addresses = self.mac_addresses.entry(mac_key.clone()).or_default();
        addresses.insert(row.address.to_string());
        let is_gateway = addresses.len() > GATEWAY_ADDRESSES;
        let evidence = format!("{} said that {} has {}", row.source.as_str(), row.address, mac);
        if is_gateway {
            if let Some(device) = self.by_mac.get(&mac_key).and_then(|id| self.devices.get_mut(id)) {
                device.gateway = true;
            }
            return;
        }
        let by_mac = self.by_mac.get(&mac_key).cloned();
        let by_address = self.by_address.get(&address_key).cloned();
        let id = match (by_mac, by_address) {
            (Some(device), Some(other)) if device != other => {
                self.move_address(&other, &device, &row.address.to_string());
                self.by_address.insert(address_key, device.clone());
                device
            }
            (Some(device), _) => {
                self.by_address.insert(address_key, device.clone());
                device
            }
            (None, _) => match self.device_of(network, row.address, row.ts) {
                Some(device) => device.id.clone(),
                None => return,
            },
        };
        self.by_mac.insert(mac_key, id.clone());
        if let Some(device) = self.devices.get_mut(&id) {
            device.addresses.insert(row.address.to_string(), row.ts);
            device.last_seen = device.last_seen.max(row.ts);
            add_mac(device, mac);
            note(&mut device.evidence, evidence);
            changed.insert(id);
        }
    }

    /// An address moves to another device. One that was nothing but this address goes with it.
    fn move_address(&mut self, from: &str, to: &str, address: &str) {
        let Some(other) = self.devices.get_mut(from) else { return };
        let seen = other.addresses.remove(address).unwrap_or_default();
        let left = if other.addresses.is_empty() && other.macs.is_empty() { self.devices.remove(from) } else { None };
        let Some(device) = self.devices.get_mut(to) else { return };
        device.addresses.insert(address.to_owned(), seen);
        if let Some(left) = left {
            device.first_seen = device.first_seen.min(left.first_seen);
            device.last_seen = device.last_seen.max(left.last_seen);
            device.sent_bytes += left.sent_bytes;
            device.got_bytes += left.got_bytes;
            device.flows += left.flows;
            device.sensors.extend(left.sensors);
            left.names.into_iter().for_each(|name| note(&mut device.names, name));
            note(&mut device.evidence, format!("{address} was first seen alone, and is its"));
        }
    }

    /// Names by DNS: who an answer points at is called what was asked for.
    fn dns(&mut self, network: &NetworkPath, row: &DnsRow) {
        let is_proof = matches!(row.qtype, Some(1 | 28)) && row.unverified != Some(true);
        let Some(query) = row.query.as_ref().filter(|_| is_proof) else { return };
        for answer in &row.answers {
            let Ok(address) = answer.parse::<Address>() else { continue };
            let id = self.by_address.get(&key(network, &address.to_string()));
            if let Some(device) = id.and_then(|id| self.devices.get_mut(id)) {
                note(&mut device.names, query.clone());
                note(&mut device.evidence, format!("DNS: {query} is {address}"));
            }
        }
    }

    /// A device, if the scope allows it.
    pub fn device(&self, id: &str, scope: &Scope) -> Option<&Device> {
        self.devices.get(id).filter(|device| scope.allows(&NetworkPath::from_text(&device.network)))
    }

    /// The device behind an address.
    pub fn at(&self, network: &str, address: &str) -> Option<&Device> {
        self.by_address.get(&format!("{network} {address}")).and_then(|id| self.devices.get(id))
    }

    /// Devices that the scope allows and whose words hold `text`, last seen first, then by id.
    pub fn list(&self, scope: &Scope, text: &str) -> Vec<&Device> {
        let text = text.to_lowercase();
        let matches = |device: &&Device| {
            text.is_empty()
                || device
                    .addresses
                    .keys()
                    .chain(&device.macs)
                    .chain(&device.names)
                    .any(|word| word.to_lowercase().contains(&text))
        };
        let allowed = |device: &&Device| scope.allows(&NetworkPath::from_text(&device.network));
        let mut devices: Vec<&Device> = self.devices.values().filter(allowed).filter(matches).collect();
        devices.sort_by(|a, b| b.last_seen.cmp(&a.last_seen).then_with(|| a.id.cmp(&b.id)));
        devices
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// The part of bytes that belongs to `some` of `all` frames.
fn share(some: u64, all: u64) -> impl Fn(u64) -> u64 {
    move |bytes| match u128::from(bytes) * u128::from(some) / u128::from(all.max(1)) {
        _ if some == all => bytes,
        part => u64::try_from(part).unwrap_or(bytes),
    }
}

fn add_mac(device: &mut Device, mac: Mac) {
    if device.macs.len() < WORDS_MAX {
        device.macs.insert(mac.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_record::batch::{Batch, Head};
    use thymus_record::table::HostSource;
    use thymus_store::{Arrival, Mark};

    fn take(entities: &mut Entities, network: &str, records: Vec<Record>) {
        let marks = vec![Mark { primary: true, joined: None }; records.len()];
        let head = Head { networks: vec![NetworkPath::from_text(network)], ..Head::default() };
        let arrival = Arrival { time: Time(0), sensor_name: "s".into(), group: "g".into() };
        entities.take(&IngestedBatch { position: 0, batch: Batch { head, records }, arrival, marks });
    }

    fn flow(from: &str, to: &str) -> Record {
        let row = FlowRow {
            orig_h: from.parse().unwrap(),
            resp_h: to.parse().unwrap(),
            orig_pkts: 1,
            resp_pkts: 1,
            orig_ip_bytes: 100,
            resp_ip_bytes: 10,
            kind: FlowKind::End,
            ts: Time(5),
            until: Time(9),
            ..FlowRow::default()
        };
        row.into()
    }

    fn arp(address: &str, mac: u8) -> Record {
        let row = HostRow {
            address: address.parse().unwrap(),
            mac: Some(Mac([2, 0, 0, 0, 0, mac])),
            source: HostSource::Arp,
            ts: Time(7),
            ..HostRow::default()
        };
        row.into()
    }

    #[test]
    fn the_same_address_in_two_networks_is_two_devices() {
        let mut entities = Entities::default();
        take(&mut entities, "blue", vec![flow("10.0.0.1", "10.0.0.2")]);
        take(&mut entities, "green", vec![flow("10.0.0.1", "198.51.100.1")]);
        assert_eq!(entities.list(&Scope::All, "10.0.0.1").len(), 2);
        let green = Scope::Within(vec![NetworkPath::from_text("green")]);
        assert_eq!(entities.list(&green, "").len(), 1);
        assert_eq!(entities.len(), 3, "the public responder is no device");
    }

    #[test]
    fn who_has_not_the_address_ties_it_to_no_mac() {
        let mut entities = Entities::default();
        let Record::Host(told) = arp("10.0.0.2", 9) else { panic!("no host row") };
        let forged = HostRow { unverified: Some(true), ..told };
        take(&mut entities, "n", vec![flow("10.0.0.1", "10.0.0.9"), arp("10.0.0.2", 1), forged.into()]);
        assert!(entities.list(&Scope::All, "02:00:00:00:00:09").is_empty());
        assert_eq!(entities.list(&Scope::All, "02:00:00:00:00:01").len(), 1);
    }

    #[test]
    fn a_device_keeps_its_identity_when_its_address_changes_and_its_mac_does_not() {
        let mut entities = Entities::default();
        take(
            &mut entities,
            "n",
            vec![flow("10.0.0.1", "10.0.0.9"), arp("10.0.0.1", 1), flow("10.0.0.2", "10.0.0.9"), arp("10.0.0.2", 1)],
        );
        let device = entities.at("n", "10.0.0.2").unwrap();
        assert_eq!(device.id, entities.at("n", "10.0.0.1").unwrap().id);
        assert_eq!((device.addresses.len(), device.sent_bytes, device.flows), (2, 200, 2));
        assert_eq!(entities.len(), 2);
    }

    #[test]
    fn a_mac_with_many_addresses_is_a_gateway_and_swallows_nobody() {
        let mut entities = Entities::default();
        let claims = (1..30u8).map(|n| arp(&format!("10.0.0.{n}"), 9)).collect();
        take(&mut entities, "n", claims);
        take(&mut entities, "n", vec![flow("10.0.0.25", "10.0.0.26")]);
        assert_ne!(entities.at("n", "10.0.0.25").unwrap().id, entities.at("n", "10.0.0.1").unwrap().id);
        assert!(entities.at("n", "10.0.0.1").unwrap().gateway);
    }

    #[test]
    fn frames_forged_for_others_make_no_device_move_no_address_and_name_nobody() {
        let forged = |from: &str, to: &str, frames: u64, unverified: u64| {
            let Record::Flow(row) = flow(from, to) else { unreachable!("a flow") };
            let row = FlowRow { frames, unverified, until: Time(99), orig_ip_bytes: 1 << 40, ..row };
            Record::from(row)
        };
        let named = |unverified| {
            let row = DnsRow {
                query: Some("bank.example".into()),
                qtype: Some(1),
                answers: vec!["10.0.0.1".into()],
                unverified,
                ..DnsRow::default()
            };
            Record::from(row)
        };
        let mut entities = Entities::default();
        take(&mut entities, "n", vec![flow("10.0.0.1", "10.0.0.2"), arp("10.0.0.1", 1)]);
        let before = serde_json::to_value(&entities).unwrap();
        // Somebody speaks as another host, as hosts that are not there, and to those that are; and answers for their DNS.
        let attack = vec![
            forged("10.0.0.1", "10.0.0.2", 9, 9),
            forged("10.0.0.2", "198.51.100.9", 1, 1),
            forged("10.0.0.66", "10.0.0.1", 3, 3),
            forged("10.0.0.67", "198.51.100.9", 2, 2),
            named(Some(true)),
        ];
        take(&mut entities, "n", attack);
        assert_eq!(serde_json::to_value(&entities).unwrap(), before, "nothing was learnt");
        // In a flow that is true otherwise the forged part does not count.
        let whole = entities.at("n", "10.0.0.1").unwrap().sent_bytes;
        take(&mut entities, "n", vec![forged("10.0.0.1", "10.0.0.2", 4, 3), named(None)]);
        let device = entities.at("n", "10.0.0.1").unwrap();
        assert_eq!(device.sent_bytes, whole + (1 << 38));
        assert_eq!(device.names, ["bank.example"], "an answer that was seen on its way names");
    }

    #[test]
    fn a_translated_conversation_counts_once_for_whoever_is_known_to_take_part() {
        let row = |orig: &str, frames: u64, unverified: u64| {
            let Record::Flow(row) = flow(orig, "203.0.113.5") else { unreachable!("a flow") };
            FlowRow { frames, unverified, ..row }
        };
        let told = || Some("192.168.7.1:61000 > 203.0.113.5:80".into());
        let outer = FlowRow { view_of: Some("10.0.0.5:4000 > 203.0.113.5:80".into()), ..row("192.168.7.1", 3, 0) };
        // The router alone saw it, in both views; then the client's own agent tells of the inner one.
        for (inner, who) in [(row("10.0.0.5", 3, 3), "192.168.7.1"), (row("10.0.0.5", 3, 0), "10.0.0.5")] {
            let mut entities = Entities::default();
            let inner = FlowRow { translated: told(), ..inner };
            take(&mut entities, "n", vec![outer.clone().into(), inner.into()]);
            let devices = entities.list(&Scope::All, "");
            let counted: Vec<_> = devices.iter().map(|device| (device.sent_bytes, device.flows)).collect();
            assert_eq!((counted, entities.at("n", who).is_some()), (vec![(100, 1)], true), "{who}");
        }
    }

    #[test]
    fn a_checkpoint_reads_back_whole() {
        let mut entities = Entities::default();
        take(&mut entities, "n", vec![flow("10.0.0.1", "10.0.0.9"), arp("10.0.0.1", 1)]);
        let text = serde_json::to_vec(&entities).unwrap();
        let back: Entities = serde_json::from_slice(&text).unwrap();
        assert_eq!(serde_json::to_vec(&back.devices).unwrap(), serde_json::to_vec(&entities.devices).unwrap());
    }
}
