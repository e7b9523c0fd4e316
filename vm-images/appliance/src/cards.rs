//! Network cards that should be captured from and are not, found by comparing the machine as it is now with what was
//! taken at its start and with the sensor's configuration. Why a card that is captured from shows nothing, the sensor
//! says itself.

use serde::Deserialize;
use std::path::Path;

/// Drivers that leave a card to DPDK.
const DPDK_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// PCI's class of network cards: the first of three bytes.
const NETWORK_CLASS: &str = "0x02";

/// A network card.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its PCI address; none of a card on another bus.
    pub pci: Option<String>,
    /// Vendor and kind, as four hexadecimal digits each.
    pub kind: String,
    /// Its driver.
    pub driver: Option<String>,
    /// Its name in Linux.
    pub interface: Option<String>,
}

impl Card {
    /// The name of its port in the sensor's configuration.
    fn port(&self) -> Option<String> {
        match (&self.pci, &self.interface) {
            (Some(pci), _) if self.is_given() => Some(format!("dpdk:{pci}")),
            (_, Some(interface)) => Some(format!("af_packet:{interface}")),
            _ => None,
        }
    }

    fn is_given(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| DPDK_DRIVERS.contains(&driver))
    }

    fn name(&self) -> String {
        match (&self.pci, &self.interface) {
            (Some(pci), Some(interface)) => format!("{pci} ({interface})"),
            (Some(name), None) | (None, Some(name)) => name.clone(),
            (None, None) => "?".to_owned(),
        }
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn last_part(link: &Path) -> Option<String> {
    Some(std::fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// The network cards of a machine, PCI's first, in the order of their addresses.
pub fn found(sys: &Path) -> Vec<Card> {
    let mut cards = Vec::new();
    let bus = sys.join("bus/pci/devices");
    for pci in entries(&bus) {
        let folder = bus.join(&pci);
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default().trim().to_owned();
        if !read("class").starts_with(NETWORK_CLASS) {
            continue;
        }
        // virtio's interface belongs to a device below the PCI device.
        let below =
            entries(&folder).into_iter().filter(|name| name.starts_with("virtio")).map(|name| folder.join(name));
        let interface = std::iter::once(folder.clone()).chain(below).find_map(|at| entries(&at.join("net")).pop());
        let kind = format!("{}:{}", read("vendor").replace("0x", ""), read("device").replace("0x", ""));
        cards.push(Card { pci: Some(pci), kind, driver: last_part(&folder.join("driver")), interface });
    }
    let net = sys.join("class/net");
    for interface in entries(&net).into_iter().filter(|name| net.join(name).join("device").exists()) {
        if !cards.iter().any(|card| card.interface.as_ref() == Some(&interface)) {
            let driver = last_part(&net.join(&interface).join("device/driver"));
            cards.push(Card { pci: None, kind: String::new(), driver, interface: Some(interface) });
        }
    }
    cards
}

#[derive(Deserialize)]
struct Config {
    capture: Capture,
}

#[derive(Deserialize)]
struct Capture {
    ports: Vec<String>,
}

/// The ports that a configuration of a sensor names; `None` if it cannot be read.
pub fn configured(text: &str) -> Option<Vec<String>> {
    toml::from_str::<Config>(text).ok().map(|config| config.capture.ports)
}

/// What is wrong, a sentence a card. `taken` are the ports made at the start, `named` those of the configuration.
pub fn judge(cards: &[Card], taken: &[String], named: &[String]) -> Vec<String> {
    let management = cards.iter().find(|card| card.interface.is_some() && !card.is_given());
    let mut said = Vec::new();
    for card in cards.iter().filter(|card| Some(*card) != management) {
        let name = card.name();
        let is_in = |ports: &[String]| card.port().is_some_and(|port| ports.contains(&port));
        match card.port() {
            None => said.push(format!(
                "the card {name} of kind {} has no driver in Linux: give the machine a vmxnet3, virtio or e1000e card instead",
                card.kind
            )),
            Some(_) if is_in(named) => {}
            Some(port) if is_in(taken) => said.push(format!(
                "the card {name} is in no port of /etc/thymus/sensor.toml: add \"{port}\" to them, or delete that file, \
                 and restart"
            )),
            Some(_) => said.push(format!("the card {name} was added since the start: 8 Restart takes it as a span, and so does thymus-appliance prepare")),
        }
    }
    for port in named.iter().filter(|port| !cards.iter().any(|card| card.port().as_ref() == Some(*port))) {
        let is_card = port.strip_prefix("dpdk:").map_or(port.starts_with("af_packet:"), |device| device.contains(':'));
        if is_card {
            said.push(format!(
                "the port {port} of /etc/thymus/sensor.toml is no card of this machine now: give the card back, or \
                 restart without it"
            ));
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A machine's /sys with PCI network cards, and a disk controller beside them.
    fn machine(cards: &[(&str, Option<&str>, Option<&str>)]) -> (tempfile::TempDir, Vec<Card>) {
        let sys = tempfile::tempdir().unwrap();
        let bus = sys.path().join("bus/pci/devices");
        let device = |pci: &str, class: &str| {
            let folder = bus.join(pci);
            std::fs::create_dir_all(&folder).unwrap();
            for (file, text) in [("class", class), ("vendor", "0x15ad"), ("device", "0x07b0")] {
                std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
            folder
        };
        device("0000:00:01.0", "0x010601");
        for (pci, driver, interface) in cards {
            let folder = device(pci, "0x020000");
            if let Some(driver) = driver {
                symlink(format!("/sys/bus/pci/drivers/{driver}"), folder.join("driver")).unwrap();
            }
            if let Some(interface) = interface {
                let below = if *driver == Some("virtio-pci") { folder.join("virtio3") } else { folder.clone() };
                std::fs::create_dir_all(below.join("net").join(interface)).unwrap();
            }
        }
        let found = found(sys.path());
        (sys, found)
    }

    fn ports(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_machine_whose_cards_are_all_used_has_nothing_to_say() {
        let (_sys, cards) = machine(&[
            ("0000:00:05.0", Some("virtio-pci"), Some("eth0")),
            ("0000:00:06.0", Some("uio_pci_generic"), None),
            ("0000:00:07.0", Some("8139cp"), Some("eth2")),
        ]);
        assert_eq!(cards.len(), 3);
        assert_eq!(cards[0].interface.as_deref(), Some("eth0"));
        let all = ports(&["dpdk:0000:00:06.0", "af_packet:eth2"]);
        assert_eq!(judge(&cards, &all, &all), Vec::<String>::new());
    }

    #[test]
    fn a_card_added_left_out_or_without_a_driver_is_named_with_its_cure() {
        let (_sys, cards) = machine(&[
            ("0000:00:05.0", Some("vmxnet3"), Some("eth0")),
            ("0000:00:06.0", Some("vfio-pci"), None),
            ("0000:00:07.0", Some("vmxnet3"), Some("eth1")),
            ("0000:00:08.0", None, None),
        ]);
        let said = judge(&cards, &ports(&["dpdk:0000:00:06.0"]), &ports(&["dpdk:0000:00:09.0", "dpdk:net_null0"]));
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].contains("00:06.0") && said[0].contains("add \"dpdk:0000:00:06.0\""), "{said:?}");
        assert!(said[1].contains("00:07.0 (eth1) was added") && said[1].contains("8 Restart"), "{said:?}");
        assert!(said[2].contains("00:08.0 of kind 15ad:07b0 has no driver"), "{said:?}");
        assert!(said[3].contains("dpdk:0000:00:09.0") && said[3].contains("no card of this machine"), "{said:?}");
    }

    #[test]
    fn a_card_on_another_bus_is_a_card() {
        let sys = tempfile::tempdir().unwrap();
        for name in ["eth0", "eth1", "lo"] {
            let folder = sys.path().join("class/net").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            if name != "lo" {
                std::fs::create_dir(folder.join("device")).unwrap();
            }
        }
        let cards = found(sys.path());
        assert_eq!(cards.len(), 2, "the first is for management");
        assert!(judge(&cards, &[], &[])[0].contains("eth1 was added"));
        assert_eq!(judge(&cards, &[], &ports(&["af_packet:eth1"])), Vec::<String>::new());
    }

    #[test]
    fn the_ports_of_a_configuration_are_read_and_nothing_of_a_broken_one() {
        assert_eq!(configured("[capture]\nports = [\"af_packet:a\"]\ncores = [1]\n"), Some(ports(&["af_packet:a"])));
        assert_eq!(configured("[capture\n"), None);
    }
}
