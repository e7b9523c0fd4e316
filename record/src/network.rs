//! The network path: tenancy's key. Two networks with the same addresses differ in it and share nothing.
//!
//! A path is the group of the port or agent that delivered the packet, then the encapsulation ids met on the way in,
//! in order: `default/vlan:10/vxlan:4096`. An id found inside a packet only extends the path of the port it came by.
//! Inside a sensor and inside a batch a path is a 32-bit number; the master joins by the path itself.

use std::fmt;

/// One encapsulation that tells networks apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Layer {
    /// IEEE 802.1Q VLAN id; each tag of a QinQ stack is a layer.
    Vlan(u16),
    /// VXLAN network identifier (RFC 7348).
    Vxlan(u32),
    /// GENEVE virtual network identifier (RFC 8926).
    Geneve(u32),
    /// NVGRE virtual subnet id (RFC 7637).
    Nvgre(u32),
    /// Endpoint id of an AWS gateway load balancer (a GENEVE option).
    Gwlb(u64),
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layer::Vlan(id) => write!(f, "vlan:{id}"),
            Layer::Vxlan(id) => write!(f, "vxlan:{id}"),
            Layer::Geneve(id) => write!(f, "geneve:{id}"),
            Layer::Nvgre(id) => write!(f, "nvgre:{id}"),
            Layer::Gwlb(id) => write!(f, "gwlb:{id:016x}"),
        }
    }
}

/// A network path in its text form, `group` or `group/layer:id/…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct NetworkPath(String);

impl NetworkPath {
    /// The path of `group` extended by `layers` from the outermost in. A `/` in the group becomes `_`.
    pub fn new(group: &str, layers: &[Layer]) -> NetworkPath {
        let mut text = group.replace('/', "_");
        for layer in layers {
            text.push('/');
            text.push_str(&layer.to_string());
        }
        NetworkPath(text)
    }

    /// A path from its text form, as a batch or a scope carries it.
    pub fn from_text(text: &str) -> NetworkPath {
        NetworkPath(text.to_owned())
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The group that the path begins with.
    pub fn root(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// True if `self` is `root` or lies below it: `a/vlan:1` is within `a`, `ab` is not.
    pub fn is_within(&self, root: &NetworkPath) -> bool {
        self.0.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for NetworkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The networks that somebody may see. Every store, packet, live-update and export call takes one.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All networks.
    All,
    /// These paths and what lies below them; none if empty.
    Within(Vec<NetworkPath>),
}

impl Scope {
    /// True if rows of this network may be seen.
    pub fn allows(&self, path: &NetworkPath) -> bool {
        match self {
            Scope::All => true,
            Scope::Within(roots) => roots.iter().any(|root| path.is_within(root)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_within_its_prefixes_by_whole_steps_only() {
        let path = NetworkPath::new("blue", &[Layer::Vlan(1), Layer::Vxlan(42)]);
        assert_eq!(path.as_str(), "blue/vlan:1/vxlan:42");
        assert!(path.is_within(&NetworkPath::from_text("blue")));
        assert!(path.is_within(&NetworkPath::from_text("blue/vlan:1")));
        assert!(!path.is_within(&NetworkPath::from_text("blue/vlan:1/vxlan:4")));
        assert!(!path.is_within(&NetworkPath::from_text("blu")));
    }
}
