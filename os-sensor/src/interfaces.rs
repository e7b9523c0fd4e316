//! Which interfaces are taken, and the addresses that this host claims.
//!
//! A host with real network cards is taken at these alone: what its containers and bridges exchange with the world passes
//! there, and would else be taken twice. A host without any (a container, a namespace) is taken at all but loopback.

use std::collections::BTreeMap;
use thymus_record::message::{AgentInterface, Policy};

/// The interfaces to take now.
pub fn chosen(policy: &Policy) -> Vec<AgentInterface> {
    let kinds = up();
    let mut found: BTreeMap<String, Vec<String>> = kinds.keys().map(|name| (name.clone(), Vec::new())).collect();
    for address in if_addrs::get_if_addrs().unwrap_or_default() {
        if !address.is_loopback()
            && let Some(addresses) = found.get_mut(&address.name)
        {
            addresses.push(address.ip().to_string());
        }
    }
    let is_real = |name: &String| kinds.get(name).copied().unwrap_or(false);
    let real = found.keys().any(is_real);
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

/// Interfaces that are up, loopback left out, and whether each is a network card, a virtual machine's included.
#[cfg(target_os = "linux")]
fn up() -> BTreeMap<String, bool> {
    let folder = std::path::Path::new("/sys/class/net");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // Flags: 1 up, 8 loopback.
    let flags = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name).join("flags")).unwrap_or_default();
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0)
    };
    let is_up = names.filter(|name| flags(name) & 9 == 1);
    is_up.map(|name| (name.clone(), folder.join(name).join("device").exists())).collect()
}

/// Adapters that are up, loopback left out, by the names that people see, and whether each is a network card.
#[cfg(windows)]
fn up() -> BTreeMap<String, bool> {
    let adapters = crate::capture::windows::adapters::all().unwrap_or_default();
    adapters.into_iter().filter(|each| each.up).map(|each| (each.name, each.hardware)).collect()
}
