//! `doctor`: everything that a sensor needs, looked at one by one, each with its cure.

use crate::clock::now_seconds;
use crate::config::{Config, DPDK_DRIVERS, Port, driver_of};
use crate::status::duration;
use clap::Args;
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use thymus_link::Identity;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration to look at.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The sensor's state folder.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
}

/// What one look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// The findings so far.
#[derive(Default)]
struct Findings(Vec<(Verdict, String)>);

impl Findings {
    fn ok(&mut self, what: String) {
        self.0.push((Verdict::Ok, what));
    }

    fn warn(&mut self, what: String) {
        self.0.push((Verdict::Warn, what));
    }

    fn fail(&mut self, what: String) {
        self.0.push((Verdict::Fail, what));
    }
}

/// Runs the verb: prints a line a finding; 1 if one of them keeps the sensor from working.
pub fn run(args: &DoctorArgs) -> ExitCode {
    let findings = examine(args);
    let mut failed = false;
    for (verdict, what) in &findings.0 {
        let word = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        failed |= *verdict == Verdict::Fail;
        println!("{word}  {what}");
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn examine(args: &DoctorArgs) -> Findings {
    let mut findings = Findings::default();
    cores(&mut findings);
    if let Some(path) = &args.config {
        match Config::load(path) {
            Ok(config) => configured(&config, &mut findings),
            Err(error) => findings.fail(error.to_string()),
        }
    } else {
        findings.warn("no configuration was given: --config FILE looks at its ports and ring too".to_owned());
        hugepages(&mut findings);
    }
    if let Some(mapped) = mapped() {
        staging(Path::new("/dev/shm"), &mapped, &mut findings);
    }
    identity(&args.state, &mut findings);
    findings
}

/// What all processes have mapped, as the kernel lists it; `None` if it does not show us others'.
fn mapped() -> Option<String> {
    fs::read_to_string("/proc/1/maps").ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    Some(processes.filter_map(|process| fs::read_to_string(process.path().join("maps")).ok()).collect())
}

/// Staging of rings that no running sensor has: one that was killed left it for its next start.
fn staging(shared: &Path, mapped: &str, findings: &mut Findings) {
    let files = fs::read_dir(shared).into_iter().flatten().flatten();
    let left = files.filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with(crate::ring::STAGING) && !mapped.contains(&name)
    });
    let sizes: Vec<u64> = left.filter_map(|file| Some(file.metadata().ok()?.len())).collect();
    if !sizes.is_empty() {
        findings.warn(format!(
            "memory: {} MiB in {}/{}* are the last packets of {} sensors that were ended without warning: start those again, or remove the files",
            sizes.iter().sum::<u64>() >> 20,
            shared.display(),
            crate::ring::STAGING,
            sizes.len()
        ));
    }
}

fn cores(findings: &mut Findings) {
    let cores = core_affinity::get_core_ids().unwrap_or_default().len();
    match cores {
        0 | 1 => findings
            .warn(format!("{cores} core: capture and everything else share it; two are the least for 10 Mbit/s")),
        _ => findings.ok(format!("{cores} cores")),
    }
}

fn number_in(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn hugepages(findings: &mut Findings) {
    let base = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    match (number_in(&format!("{base}/nr_hugepages")), number_in(&format!("{base}/free_hugepages"))) {
        (Some(all), Some(free)) if free >= 64 => findings.ok(format!("hugepages: {free} of {all} free")),
        (Some(all), Some(free)) => findings.warn(format!(
            "hugepages: {free} of {all} free: DPDK goes on without, slower; cure: sysctl vm.nr_hugepages={}",
            (all - free) + 256
        )),
        _ => findings.warn("this kernel has no 2 MiB hugepages: DPDK goes on without, slower".to_owned()),
    }
}

fn configured(config: &Config, findings: &mut Findings) {
    if config.capture.ports.iter().any(|port| matches!(port, Port::Dpdk(_))) {
        if cfg!(feature = "dpdk") {
            hugepages(findings);
        } else {
            findings.fail("dpdk: this build has no DPDK; name the interface as \"af_packet:NAME\"".to_owned());
        }
    }
    for port in &config.capture.ports {
        capture_port(port, findings);
    }
    match &config.ring {
        Some(ring) => ring_folder(&ring.path, ring.bytes.0, findings),
        None => findings.warn("no [ring]: packets are not kept, only metadata; add [ring] path and bytes".to_owned()),
    }
}

fn capture_port(port: &Port, findings: &mut Findings) {
    let Some(name) = port.interface() else {
        if let Port::Dpdk(device) = port {
            pci_device(device, port, findings);
        }
        return;
    };
    let base = Path::new("/sys/class/net").join(name);
    if !base.exists() {
        let names = fs::read_dir("/sys/class/net").map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(", ")
        });
        findings.fail(format!("{port}: there is no interface {name}; there are: {}", names.unwrap_or_default()));
        return;
    }
    let read = |file: &str| fs::read_to_string(base.join(file)).unwrap_or_default().trim().to_owned();
    if read("operstate") == "down" {
        findings.fail(format!("{port}: {name} is down: ip link set {name} up"));
        return;
    }
    let packets = || read("statistics/rx_packets").parse::<u64>().unwrap_or_default();
    let before = packets();
    std::thread::sleep(Duration::from_secs(2));
    match packets() - before.min(packets()) {
        0 => findings.warn(format!(
            "{port}: {name} is up and received nothing in 2 s: is the virtual switch's span (promiscuous mode, port mirror) set to it?"
        )),
        came => findings.ok(format!("{port}: {name} is up and receives {} packets/s", came / 2)),
    }
}

fn pci_device(device: &str, port: &Port, findings: &mut Findings) {
    let Some(base) = port.pci() else {
        return findings.ok(format!("dpdk:{device}: a virtual device, which DPDK makes by itself"));
    };
    match driver_of(&base) {
        _ if !base.exists() => findings.fail(format!("dpdk:{device}: there is no such PCI device: see lspci -D")),
        Some(driver) if DPDK_DRIVERS.contains(&driver.as_str()) => {
            findings.ok(format!("dpdk:{device}: bound to {driver}"));
        }
        other => findings.fail(format!(
            "dpdk:{device}: bound to {}: bind it to vfio-pci (or uio_pci_generic where there is no IOMMU) by driver_override",
            other.as_deref().unwrap_or("no driver")
        )),
    }
}

fn ring_folder(path: &Path, bytes: u64, findings: &mut Findings) {
    if path.exists() && !path.is_dir() {
        findings.fail(format!("ring {}: is a file: give a folder", path.display()));
        return;
    }
    let there = path.ancestors().find(|each| each.exists()).unwrap_or(Path::new("/"));
    let probe = there.join(format!(".thymus-doctor-{}", std::process::id()));
    if let Err(error) = fs::write(&probe, b"probe") {
        findings.fail(format!("ring {}: cannot be written: {error}", path.display()));
        return;
    }
    let _ = fs::remove_file(&probe);
    if path.join("superblock").exists() {
        findings.ok(format!("ring {}: there, with its space taken", path.display()));
        return;
    }
    match crate::memory::free_bytes(there) {
        Ok(free) if free < bytes => findings.fail(format!(
            "ring {}: {free} bytes are free and {bytes} are wanted: make room, or set [ring] bytes lower",
            path.display()
        )),
        Ok(free) => findings.ok(format!("ring {}: {free} bytes are free, {bytes} are wanted", path.display())),
        Err(error) => findings.warn(format!("ring {}: free space unknown: {error}", path.display())),
    }
}

fn identity(state: &Path, findings: &mut Findings) {
    let identity = match Identity::load(state) {
        Ok(identity) => identity,
        Err(error) => return findings.warn(format!("{error} (not needed with --standalone)")),
    };
    let left = identity.expires().map_or(0.0, |at| at.0 as f64 / 1e9 - now_seconds());
    if left > 0.0 {
        findings.ok(format!(
            "identity: sensor {} in group {}, valid for {}",
            identity.sensor.0,
            identity.group,
            duration(left)
        ));
    } else {
        findings.fail(format!(
            "identity: the certificate expired {} ago: check this machine's clock, else join again with a new token",
            duration(-left)
        ));
    }
    let mut why = "it names no address".to_owned();
    for address in &identity.addresses {
        let found = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        for socket in found.as_deref().unwrap_or_default() {
            match TcpStream::connect_timeout(socket, Duration::from_secs(3)) {
                Ok(_) => return findings.ok(format!("master: {address} answers")),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        if let Err(error) = found {
            why = format!("{address}: the name cannot be resolved: {error}");
        }
    }
    findings.fail(format!("master: {why}; records wait in the spool until it answers"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: &str) -> Vec<(Verdict, String)> {
        let mut findings = Findings::default();
        configured(&Config::parse(config).unwrap(), &mut findings);
        findings.0
    }

    fn has(findings: &[(Verdict, String)], verdict: Verdict, words: &str) -> bool {
        findings.iter().any(|(each, what)| *each == verdict && what.contains(words))
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let dir = tempfile::tempdir().unwrap();
        let (ring, file) = (dir.path().join("ring"), dir.path().join("file"));
        fs::write(&file, b"x").unwrap();
        let with = |port: &str, ring: &Path, bytes: &str| {
            found(&format!(
                "[capture]\nports = [\"{port}\"]\n[ring]\npath = \"{}\"\nbytes = \"{bytes}\"\n",
                ring.display()
            ))
        };
        let findings = with("af_packet:nope0", &ring, "1MiB");
        assert!(has(&findings, Verdict::Fail, "there is no interface nope0"), "{findings:?}");
        assert!(has(&findings, Verdict::Ok, "bytes are free"), "{findings:?}");
        let findings = with("af_packet:nope0", &file, "1MiB");
        assert!(has(&findings, Verdict::Fail, "is a file"), "{findings:?}");
        let findings = with("af_packet:nope0", &ring, "900TiB");
        assert!(has(&findings, Verdict::Fail, "make room"), "{findings:?}");
        let mut findings = Findings::default();
        let name = |number: u8| format!("{}{number}", crate::ring::STAGING);
        (1..4).for_each(|number| fs::write(dir.path().join(name(number)), vec![0; 1 << 20]).unwrap());
        staging(dir.path(), &format!("7f00 rw-s 00:19 7 /dev/shm/{}\n", name(2)), &mut findings);
        assert!(has(&findings.0, Verdict::Warn, "memory: 2 MiB"), "{:?}", findings.0);
        let mut findings = Findings::default();
        identity(dir.path(), &mut findings);
        assert!(has(&findings.0, Verdict::Warn, "join first"), "{:?}", findings.0);
    }
}
