//! How a machine is divided: which tier it makes, which cores capture, how much memory is set aside for it.

use serde::Deserialize;
use std::fmt::Write;

/// A size of an appliance, as `benches/tiers.toml` declares it.
#[derive(Clone, Deserialize, PartialEq, Eq, Debug)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Cores.
    pub cpus: usize,
    /// Memory.
    pub memory_gib: u64,
    /// Disk.
    pub disk_gib: u64,
}

#[derive(Deserialize)]
struct Tiers {
    tier: Vec<Tier>,
}

/// All tiers, the smallest first.
pub fn tiers() -> Vec<Tier> {
    toml::from_str::<Tiers>(include_str!("../../../benches/tiers.toml")).map(|tiers| tiers.tier).unwrap_or_default()
}

/// What runs on the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A vSensor alone.
    Sensor,
    /// A master alone.
    Master,
    /// A master and a vSensor beside it.
    Both,
}

/// The machine found.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Cores.
    pub cpus: usize,
    /// Memory that the kernel has, somewhat less than was given to the machine.
    pub memory_mib: u64,
    /// The data partition.
    pub disk_gib: u64,
}

/// How it is divided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The tier that it makes; `None` below the smallest.
    pub tier: Option<String>,
    /// Cores that poll; none for a master alone.
    pub capture: Vec<usize>,
    /// All other cores, as a list for the kernel; all where nothing captures.
    pub others: String,
    /// Hugepages of 2 MiB.
    pub hugepages: u64,
    /// What the master may have before it is slowed down, in MiB.
    pub master_mib: u64,
    /// Percent of the data partition that the rolling capture takes.
    pub ring_percent: u64,
    /// What does not fit, in sentences.
    pub problems: Vec<String>,
}

/// Divides a machine.
pub fn divide(role: Role, machine: Machine, wanted: Option<&str>) -> Plan {
    let fits = |tier: &Tier| {
        let short = |name: &str, has: u64, needs: u64| (has < needs).then(|| format!("{has} of {needs} {name}"));
        // A kernel sees up to a tenth less than the machine was given.
        let lacks = [
            short("CPUs", machine.cpus as u64, tier.cpus as u64),
            short("MiB of memory", machine.memory_mib, tier.memory_gib * 1024 * 9 / 10),
        ];
        let lacks: Vec<String> = lacks.into_iter().flatten().collect();
        if lacks.is_empty() { Ok(()) } else { Err(lacks.join(" and ")) }
    };
    let tiers = tiers();
    let made = tiers.iter().rfind(|tier| fits(tier).is_ok());
    let mut problems = Vec::new();
    let asked = wanted.filter(|name| *name != "auto").and_then(|name| tiers.iter().find(|tier| tier.name == name));
    match (asked.map(|tier| (tier, fits(tier))), made, tiers.first()) {
        (Some((tier, Err(lacks))), _, _) => problems.push(format!(
            "the machine is too small for tier {}: it has {lacks}; give it more, or choose a smaller tier",
            tier.name
        )),
        (None, None, Some(smallest)) => {
            let lacks = fits(smallest).err().unwrap_or_default();
            problems.push(format!(
                "the machine is smaller than tier {}: it has {lacks}; packets may be missed",
                smallest.name
            ));
        }
        _ => {}
    }
    let tier = asked.filter(|tier| fits(tier).is_ok()).or(made);
    if let Some(tier) = tier.filter(|tier| machine.disk_gib * 10 < tier.disk_gib * 8) {
        problems.push(format!(
            "the disk leaves {} GiB for data, and tier {} counts on {}: the capture reaches back less far; a larger disk is taken into use at the next start",
            machine.disk_gib, tier.name, tier.disk_gib
        ));
    }
    let last = machine.cpus.max(1);
    let polling = match role {
        Role::Master => 0,
        _ if last == 1 => 1,
        Role::Sensor => last - 1,
        Role::Both => (last / 4).max(1),
    };
    let hugepages = match (role, machine.memory_mib) {
        (Role::Master, _) => 0,
        (_, ..6_000) => 192,
        (Role::Both, _) | (_, ..20_000) => 512,
        _ => 1_024,
    };
    let kept = if role == Role::Both { 900 } else { 400 };
    Plan {
        tier: tier.map(|tier| tier.name.clone()),
        capture: (last - polling..last).collect(),
        others: if last - polling > 1 { format!("0-{}", last - polling - 1) } else { "0".to_owned() },
        hugepages,
        master_mib: machine.memory_mib.saturating_sub(hugepages * 2 + kept).max(256),
        ring_percent: match role {
            Role::Sensor => 85,
            Role::Master => 0,
            Role::Both => 50,
        },
        problems,
    }
}

impl Plan {
    /// As assignments for a shell.
    pub fn shell(&self) -> String {
        let mut text = String::new();
        let cores: Vec<String> = self.capture.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "tier={}", self.tier.as_deref().unwrap_or("none"));
        let _ = writeln!(text, "capture='{}'\nothers={}", cores.join(", "), self.others);
        let _ = writeln!(text, "hugepages={}\nmaster_mib={}", self.hugepages, self.master_mib);
        let _ = writeln!(text, "ring_percent={}", self.ring_percent);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Machine = Machine { cpus: 2, memory_mib: 2_960, disk_gib: 10 };

    #[test]
    fn each_tier_makes_itself() {
        for tier in tiers() {
            let machine =
                Machine { cpus: tier.cpus, memory_mib: tier.memory_gib * 1024 - 120, disk_gib: tier.disk_gib };
            let plan = divide(Role::Sensor, machine, Some(&tier.name));
            assert_eq!((plan.tier, plan.problems), (Some(tier.name), vec![]));
        }
        assert_eq!(tiers().len(), 3);
    }

    #[test]
    fn a_tier_that_the_machine_cannot_be_is_named_with_what_lacks() {
        let plan = divide(Role::Sensor, SMALL, Some("large"));
        assert_eq!(plan.tier.as_deref(), Some("small"));
        assert!(plan.problems[0].contains("2 of 8 CPUs") && plan.problems[0].contains("tier large"), "{plan:?}");
        let plan = divide(Role::Sensor, Machine { cpus: 1, memory_mib: 900, disk_gib: 2 }, None);
        assert_eq!((plan.tier.clone(), plan.capture.clone()), (None, vec![0]));
        assert!(plan.problems[0].contains("smaller than tier small"), "{plan:?}");
        let plan = divide(Role::Sensor, Machine { disk_gib: 3, ..SMALL }, None);
        assert!(plan.problems[0].contains("larger disk"), "{plan:?}");
    }

    #[test]
    fn all_in_one_leaves_the_master_most_cores() {
        let at = |cpus| divide(Role::Both, Machine { cpus, memory_mib: 8_000, disk_gib: 100 }, None);
        assert_eq!((at(2).capture, at(2).others.as_str()), (vec![1], "0"));
        assert_eq!((at(4).capture, at(4).others.as_str()), (vec![3], "0-2"));
        assert_eq!((at(8).capture, at(8).others.as_str()), (vec![6, 7], "0-5"));
        assert_eq!(divide(Role::Master, SMALL, None).capture, Vec::<usize>::new());
    }

    proptest! {
        #[test]
        fn every_core_has_one_use_and_memory_is_never_given_twice(cpus in 1usize..64, memory_mib in 1_500u64..70_000, role in 0usize..3) {
            let role = [Role::Sensor, Role::Master, Role::Both][role];
            let plan = divide(role, Machine { cpus, memory_mib, disk_gib: 100 }, None);
            prop_assert!(plan.capture.iter().all(|core| *core < cpus));
            let last: usize = plan.others.rsplit('-').next().unwrap().parse().unwrap();
            prop_assert!(cpus == 1 || plan.capture.first().is_none_or(|first| last + 1 == *first));
            prop_assert!(plan.hugepages * 2 + plan.master_mib <= memory_mib);
        }
    }
}
