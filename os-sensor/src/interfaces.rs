//! Which interfaces are taken, and the addresses that this host claims.
//!
//! A host with real network cards is taken at these alone: what its containers and bridges exchange with the world passes
//! there, and would else be taken twice. A host without any (a container, a namespace) is taken at all but loopback.

use std::collections::BTreeMap;
use std::path::Path;
use thymus_record::message::{AgentInterface, Policy};

/// The interfaces to take now.
pub fn chosen(policy: &Policy) -> Vec<AgentInterface> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in up() {
        found.insert(name, Vec::new());
    }
    let mut claimed: Vec<String> = Vec::new();
    for address in if_addrs::get_if_addrs().unwrap_or_default() {
        if !address.is_loopback() {
            claimed.push(address.ip().to_string());
            if let Some(addresses) = found.get_mut(&address.name) {
                addresses.push(address.ip().to_string());
            }
        }
    }
    let real = found.keys().any(|name| is_real(name));
    let wanted = |name: &String| {
        let named = policy.include.iter().any(|each| each == name);
        let left_out = policy.exclude.iter().any(|each| each == name);
        !left_out && (named || (policy.include.is_empty() && (!real || is_real(name))))
    };
    found
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, addresses)| AgentInterface { name, addresses })
        .collect()
}

/// Interfaces that are up, loopback left out.
fn up() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let read = |name: &str, file: &str| {
        std::fs::read_to_string(Path::new("/sys/class/net").join(name).join(file)).unwrap_or_default()
    };
    // Flags: 1 up, 8 loopback.
    let flags = |name: &str| u32::from_str_radix(read(name, "flags").trim().trim_start_matches("0x"), 16).unwrap_or(0);
    names.filter(|name| flags(name) & 9 == 1).collect()
}

/// True for a network card, a virtual machine's included.
fn is_real(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("device").exists()
}
