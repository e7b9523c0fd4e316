//! Which interfaces are taken, and the addresses that this host claims.
//!
//! A host with real network cards is taken at these alone: what its containers and bridges exchange with the world passes
//! there, and would else be taken twice. A host without any (a container, a namespace) is taken at all but loopback. The
//! policy's lists come before both; loopback is never taken.

use std::collections::BTreeMap;
use thymus_record::message::{AgentInterface, Policy};

/// An interface of this host.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Found {
    /// It is up.
    pub is_up: bool,
    /// It is loopback.
    pub is_loopback: bool,
    /// A network card, a virtual machine's included.
    pub is_real: bool,
    /// Addresses on it, as text.
    pub addresses: Vec<String>,
    /// Its Ethernet address, as text; empty where it has none.
    pub mac: String,
}

/// The interfaces to take now, and what is wrong with the policy's lists here, in sentences.
pub fn chosen(policy: &Policy) -> (Vec<AgentInterface>, Vec<String>) {
    choose(policy, &found())
}

fn choose(policy: &Policy, found: &BTreeMap<String, Found>) -> (Vec<AgentInterface>, Vec<String>) {
    let has_real = found.values().any(|each| each.is_real && each.is_up);
    let names = |patterns: &[String], name: &str| patterns.iter().any(|pattern| matches(pattern, name));
    let wanted = |name: &str, each: &Found| {
        let included = if policy.include.is_empty() { !has_real || each.is_real } else { names(&policy.include, name) };
        each.is_up && !each.is_loopback && included && !names(&policy.exclude, name)
    };
    let taken = found.iter().filter(|(name, each)| wanted(name, each));
    let taken: Vec<AgentInterface> = taken
        .map(|(name, each)| AgentInterface {
            name: name.clone(),
            addresses: each.addresses.clone(),
            mac: each.mac.clone(),
        })
        .collect();
    let mut items: Vec<String> = policy.include.iter().filter_map(|pattern| absent(pattern, found)).collect();
    if taken.is_empty() && items.is_empty() {
        let lists = !policy.include.is_empty() || !policy.exclude.is_empty();
        let why = if lists { "the policy leaves none that is up" } else { "none is up but loopback" };
        items.push(format!("no interface is captured: {why}"));
    }
    (taken, items)
}

/// What is wrong with a pattern that takes nothing.
fn absent(pattern: &str, found: &BTreeMap<String, Found>) -> Option<String> {
    let matching: Vec<(&String, &Found)> = found.iter().filter(|(name, _)| matches(pattern, name)).collect();
    if matching.iter().any(|(_, each)| each.is_up && !each.is_loopback) {
        return None;
    }
    let why = match matching.first() {
        None => "there is none on this host: it is captured as soon as there is",
        Some((_, Found { is_loopback: true, .. })) => "that is loopback, which is never captured",
        Some(_) => "it is down: it is captured as soon as it is up",
    };
    Some(format!("the policy includes the interface '{pattern}', and {why}"))
}

/// True if the name fits the pattern, where `*` is any text and `?` one letter.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name) = (0, 0);
    // Where the last star was, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(letter) if *letter == '?' || Some(letter) == name.get(in_name) => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((before, taken)) = star else { return false };
                star = Some((before, taken + 1));
                at = before + 1;
                in_name = taken + 1;
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|letter| *letter == '*'))
}

/// This host's interfaces.
fn found() -> BTreeMap<String, Found> {
    let mut found = all();
    let addresses = if_addrs::get_if_addrs().unwrap_or_default();
    for address in addresses.into_iter().filter(|address| !address.is_loopback()) {
        if let Some(each) = found.get_mut(&address.name) {
            each.addresses.push(address.ip().to_string());
        }
    }
    found
}

#[cfg(target_os = "linux")]
fn all() -> BTreeMap<String, Found> {
    let folder = std::path::Path::new("/sys/class/net");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let each = |name: String| {
        let flags = std::fs::read_to_string(folder.join(&name).join("flags")).ok()?;
        // 1 up, 8 loopback.
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        let is_real = folder.join(&name).join("device").exists();
        let mac = std::fs::read_to_string(folder.join(&name).join("address")).unwrap_or_default().trim().to_owned();
        let (is_up, is_loopback) = (flags & 1 != 0, flags & 8 != 0);
        Some((name, Found { is_up, is_loopback, is_real, addresses: Vec::new(), mac }))
    };
    names.filter_map(each).collect()
}

/// Adapters but loopback, by the names that people see.
#[cfg(windows)]
fn all() -> BTreeMap<String, Found> {
    let adapters = crate::capture::windows::adapters::all().unwrap_or_else(|error| {
        tracing::warn!("the adapters cannot be listed: {error}");
        Vec::new()
    });
    let each = |adapter: crate::capture::windows::adapters::Adapter| {
        let mac = thymus_record::Mac(adapter.mac).to_string();
        let found = Found { is_up: adapter.up, is_real: adapter.hardware, mac, ..Found::default() };
        (adapter.name, found)
    };
    adapters.into_iter().map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host() -> BTreeMap<String, Found> {
        let each = |is_up, is_loopback, is_real| Found { is_up, is_loopback, is_real, ..Found::default() };
        [
            ("lo", each(true, true, false)),
            ("eth0", each(true, false, true)),
            ("eth1", each(false, false, true)),
            ("veth7", each(true, false, false)),
        ]
        .map(|(name, each)| (name.to_owned(), each))
        .into()
    }

    fn taken(include: &[&str], exclude: &[&str]) -> (Vec<String>, Vec<String>) {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let policy = Policy { include: texts(include), exclude: texts(exclude), ..Policy::default() };
        let (taken, items) = choose(&policy, &host());
        (taken.into_iter().map(|each| each.name).collect(), items)
    }

    #[test]
    fn lists_come_before_habits_and_loopback_is_never_taken() {
        assert_eq!(taken(&[], &[]), (vec!["eth0".to_owned()], vec![]));
        assert_eq!(taken(&["*"], &["eth*"]).0, ["veth7"]);
        assert_eq!(taken(&["veth?", "eth0"], &[]).0, ["eth0", "veth7"]);
        let (none, items) = taken(&["lo"], &[]);
        assert!(none.is_empty() && items.iter().any(|item| item.contains("never captured")), "{items:?}");
    }

    #[test]
    fn an_interface_that_is_not_there_or_down_is_an_item_and_the_others_are_taken() {
        let (some, items) = taken(&["eth9", "eth0", "eth1"], &[]);
        assert_eq!(some, ["eth0"]);
        assert!(items.iter().any(|item| item.contains("'eth9'") && item.contains("none on this host")), "{items:?}");
        assert!(items.iter().any(|item| item.contains("'eth1'") && item.contains("down")), "{items:?}");
        let (none, items) = taken(&[], &["*"]);
        assert!(none.is_empty() && items.iter().any(|item| item.contains("the policy leaves none")), "{items:?}");
    }

    proptest! {
        #[test]
        fn patterns_match_as_they_would_in_a_shell(name in "[ab]{0,6}", pattern in "[ab?*]{0,6}") {
            fn slow(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([], rest) => rest.is_empty(),
                    ([b'*', more @ ..], rest) => (0..=rest.len()).any(|taken| slow(more, &rest[taken..])),
                    ([b'?', more @ ..], [_, rest @ ..]) => slow(more, rest),
                    ([letter, more @ ..], [first, rest @ ..]) => letter == first && slow(more, rest),
                    _ => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &name), slow(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
