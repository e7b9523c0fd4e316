//! The sensor's configuration: few keys, good defaults, and every wrong key, type or value named with its line.

use serde::Deserialize;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where packets come from.
    pub capture: Capture,
    /// The rolling capture; without it packets are not kept.
    pub ring: Option<RingSection>,
    /// OS-sensors; without it none are taken.
    pub agents: Option<AgentsSection>,
    /// Prometheus metrics.
    #[serde(default)]
    pub metrics: Metrics,
    /// Flow table.
    #[serde(default)]
    pub flows: Flows,
}

/// `[capture]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Ports: `dpdk:…` or `af_packet:…`.
    pub ports: Vec<Port>,
    /// Cores to pin poll loops to; default: all but the first. With several, the first receives and deals to the others.
    pub cores: Option<Vec<usize>>,
    /// Remove the second copy of a frame that a virtual switch shows twice.
    #[serde(default = "yes")]
    pub duplicates: bool,
}

fn yes() -> bool {
    true
}

/// `[ring]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingSection {
    /// Its folder.
    pub path: PathBuf,
    /// Its size, preallocated.
    pub bytes: Bytes,
}

/// `[agents]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentsSection {
    /// Where OS-sensors connect.
    pub listen: SocketAddr,
    /// `HOST:PORT` under which they reach it, for their tokens; default: the listen address, if it is no wildcard.
    #[serde(default)]
    pub advertise: Vec<String>,
}

impl AgentsSection {
    /// The addresses that go into tokens.
    pub fn addresses(&self) -> Vec<String> {
        if self.advertise.is_empty() { vec![self.listen.to_string()] } else { self.advertise.clone() }
    }
}

/// `[metrics]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where `/metrics` is served; off where it is empty.
    pub listen: Option<SocketAddr>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9465))) }
    }
}

/// `[flows]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flows {
    /// Most flows open at once, over all workers.
    pub max: usize,
}

impl Default for Flows {
    fn default() -> Flows {
        Flows { max: 131_072 }
    }
}

/// A capture port as configured.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Port {
    /// A DPDK device: PCI address, or vdev with its arguments.
    Dpdk(String),
    /// A Linux interface.
    AfPacket(String),
}

impl TryFrom<String> for Port {
    type Error = String;
    fn try_from(text: String) -> Result<Port, String> {
        match text.split_once(':') {
            Some(("dpdk", device)) if !device.is_empty() => Ok(Port::Dpdk(device.to_owned())),
            Some(("af_packet", interface)) if !interface.is_empty() => Ok(Port::AfPacket(interface.to_owned())),
            _ => Err(format!(
                "'{text}' is no port: write \"dpdk:PCI-ADDRESS\", \"dpdk:net_af_packet0,iface=NAME\" or \"af_packet:NAME\""
            )),
        }
    }
}

/// Drivers that leave a card to DPDK.
pub const DPDK_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

impl Port {
    /// The Linux interface that it reads, if it reads one.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Port::AfPacket(name) => Some(name),
            Port::Dpdk(device) => device.split(',').find_map(|part| part.strip_prefix("iface=")),
        }
    }

    /// The folder of its PCI device, if it is one.
    pub fn pci(&self) -> Option<PathBuf> {
        let Port::Dpdk(device) = self else { return None };
        let address = device.split(',').next().filter(|address| address.contains(':'))?;
        let domain = if address.matches(':').count() == 1 { "0000:" } else { "" };
        Some(Path::new("/sys/bus/pci/devices").join(format!("{domain}{address}")))
    }

    /// Whether its device is there, and DPDK may have it.
    pub fn is_there(&self) -> bool {
        match (self.interface(), self.pci()) {
            (Some(interface), _) => Path::new("/sys/class/net").join(interface).exists(),
            (_, Some(folder)) => driver_of(&folder).is_some_and(|driver| DPDK_DRIVERS.contains(&driver.as_str())),
            _ => true,
        }
    }
}

/// The driver that a PCI device is bound to.
pub fn driver_of(folder: &Path) -> Option<String> {
    let driver = std::fs::read_link(folder.join("driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Dpdk(device) => write!(f, "dpdk:{device}"),
            Port::AfPacket(interface) => write!(f, "af_packet:{interface}"),
        }
    }
}

/// A size: a number of bytes, or text such as `8GiB` or `500MB`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "BytesText")]
pub struct Bytes(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum BytesText {
    Number(u64),
    Text(String),
}

impl TryFrom<BytesText> for Bytes {
    type Error = String;
    fn try_from(text: BytesText) -> Result<Bytes, String> {
        match text {
            BytesText::Number(bytes) => Ok(Bytes(bytes)),
            BytesText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Bytes, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" | "K" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            "TiB" | "T" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(format!("'{text}' is no size: write a number with KiB, MiB, GiB or TiB, e.g. \"8GiB\"")),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.map(Bytes).ok_or_else(|| format!("'{text}' is no size: write a number with a unit, e.g. \"8GiB\""))
    }
}

/// The configuration cannot be used; the text says where and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("cannot read the configuration {}: {error}", path.display())))?;
        Config::parse(&text).map_err(|ConfigError(why)| ConfigError(format!("{}: {why}", path.display())))
    }

    /// Reads text.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let config: Config =
            toml::from_str(text).map_err(|error| ConfigError(error.to_string().trim_end().to_owned()))?;
        if config.capture.ports.is_empty() && config.agents.is_none() {
            return Err(ConfigError("[capture] ports is empty: name at least one port, or take [agents]".to_owned()));
        }
        if config
            .agents
            .as_ref()
            .is_some_and(|agents| agents.listen.ip().is_unspecified() && agents.advertise.is_empty())
        {
            let cure = "name the address that OS-sensors reach: advertise = [\"HOST:PORT\"]";
            return Err(ConfigError(format!("[agents] listen is a wildcard: {cure}")));
        }
        if config.capture.cores.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError("[capture] cores is empty: leave it out for all but the first core".to_owned()));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_example_is_read() {
        let config = Config::parse(
            "[capture]\nports = [\"dpdk:net_af_packet0,iface=span0\"]\ncores = [1]\n[ring]\npath = \"/r\"\nbytes = \"8GiB\"\n",
        )
        .unwrap();
        assert_eq!(config.capture.ports, [Port::Dpdk("net_af_packet0,iface=span0".into())]);
        assert_eq!(config.ring.unwrap().bytes, Bytes(8 << 30));
    }

    #[test]
    fn ports_name_their_interface_or_their_pci_device() {
        let port = |text: &str| Port::try_from(text.to_owned()).unwrap();
        assert_eq!(port("dpdk:net_af_packet0,iface=eth1").interface(), Some("eth1"));
        assert_eq!(port("dpdk:03:00.0,x=1").pci().unwrap(), Path::new("/sys/bus/pci/devices/0000:03:00.0"));
        assert_eq!(port("dpdk:net_null0").pci(), None);
        assert!(port("af_packet:lo").is_there() && port("dpdk:net_null0").is_there());
        assert!(!port("af_packet:none0").is_there() && !port("dpdk:ffff:ff:1f.7").is_there());
    }

    #[test]
    fn wrong_keys_types_and_values_are_named_with_their_line() {
        for (text, named) in [
            ("[capture]\nports = [\"af_packet:a\"]\ncpus = [1]\n", "cpus"),
            ("[capture]\nports = \"af_packet:a\"\n", "line 2"),
            ("[capture]\nports = [\"eth0\"]\n", "'eth0' is no port"),
            ("[capture]\nports = [\"af_packet:a\"]\n[ring]\npath = \"/r\"\nbytes = \"8 apples\"\n", "line 5"),
            ("[capture]\nports = []\n", "at least one port"),
        ] {
            let said = Config::parse(text).unwrap_err().to_string();
            assert!(said.contains(named), "{said}");
        }
    }
}
