//! Finds DPDK by pkg-config, compiles the shim, makes the bindings, and links the drivers whole: their constructors
//! register them, and a linker that takes only what is called would leave them out.

use std::path::{Path, PathBuf};

/// Libraries that every port needs.
const CORE: &[&str] = &[
    "eal",
    "kvargs",
    "telemetry",
    "ring",
    "rcu",
    "mempool",
    "mbuf",
    "net",
    "meter",
    "ethdev",
    "pci",
    "hash",
    "timer",
    "cryptodev",
    "dmadev",
    "security",
    "vhost",
    "bus_pci",
    "bus_vdev",
    "bus_vmbus",
    "mempool_ring",
    "common_iavf",
];

/// Drivers for virtual machines, their hosts, and tests; what a system lacks is left out.
const DRIVERS: &[&str] = &[
    "net_virtio",
    "net_vmxnet3",
    "net_e1000",
    "net_ixgbe",
    "net_i40e",
    "net_iavf",
    "net_ena",
    "net_gve",
    "net_netvsc",
    "net_af_packet",
    "net_pcap",
    "net_ring",
    "net_null",
    "net_memif",
    "net_vhost",
    "net_af_xdp",
];

/// Libraries beside DPDK that drivers ask for, and the driver each is for.
const BESIDE: &[(&str, Option<&str>)] = &[
    ("numa", None),
    ("bsd", None),
    ("pcap", Some("net_pcap")),
    ("bpf", Some("net_af_xdp")),
    ("xdp", Some("net_af_xdp")),
];

fn main() {
    println!("cargo:rerun-if-changed=src/shim.c");
    println!("cargo:rerun-if-changed=src/shim.h");
    let dpdk = match pkg_config::Config::new().cargo_metadata(false).range_version("22.11".."23").probe("libdpdk") {
        Ok(dpdk) => dpdk,
        Err(error) => {
            eprintln!("DPDK 22.11 was not found: {error}");
            eprintln!("cure: apt-get install libdpdk-dev libclang-dev libbsd-dev libnuma-dev libpcap-dev");
            eprintln!("or build the sensor without it: cargo build -p thymus-sensor --no-default-features");
            std::process::exit(1);
        }
    };
    // DPDK 22.11 is built for SSE4.2; a fixed target keeps an image from depending on the machine that built it.
    let flags = ["-march=x86-64-v2", "-include", "rte_config.h"];
    let mut shim = cc::Build::new();
    shim.file("src/shim.c").includes(&dpdk.include_paths).opt_level(3).warnings(false);
    for flag in flags {
        shim.flag(flag);
    }
    shim.compile("thymus_shim");
    let bindings = bindgen::Builder::default()
        .header("src/shim.h")
        .header_contents("eal.h", "#include <rte_eal.h>\n#include <rte_errno.h>\n#include <rte_ethdev.h>")
        .clang_args(dpdk.include_paths.iter().map(|path| format!("-I{}", path.display())))
        .clang_args(flags)
        .allowlist_function("thymus_.*|rte_eal_init|rte_eal_cleanup|rte_strerror|rte_eth_dev_count_avail")
        .allowlist_function("rte_eth_dev_get_port_by_name|rte_eth_dev_get_name_by_port|rte_eth_find_next|rte_eal_hotplug_add|rte_dev_probe")
        .allowlist_type("thymus_row")
        .generate_comments(false)
        .layout_tests(false)
        .generate();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    let written = bindings
        .map_err(|error| error.to_string())
        .and_then(|bindings| bindings.write_to_file(out).map_err(|error| error.to_string()));
    if let Err(error) = written {
        eprintln!("the bindings of DPDK could not be made: {error}; cure: apt-get install libclang-dev");
        std::process::exit(1);
    }
    if std::env::var_os("CARGO_FEATURE_SHARED").is_some() {
        let _ = pkg_config::Config::new().range_version("22.11".."23").probe("libdpdk");
        return;
    }
    link(&dpdk.link_paths);
}

fn link(paths: &[PathBuf]) {
    let system = [PathBuf::from("/usr/lib/x86_64-linux-gnu")];
    let paths: Vec<&PathBuf> = paths.iter().chain(&system).collect();
    let has = |file: String| paths.iter().any(|path| Path::new(path).join(&file).exists());
    paths.iter().for_each(|path| println!("cargo:rustc-link-search=native={}", path.display()));
    let af_xdp = ["bpf", "xdp"].iter().all(|library| has(format!("lib{library}.so")));
    let wanted = |driver: &&&str| {
        (**driver != "net_af_xdp" || af_xdp) && (**driver != "net_pcap" || has("libpcap.so".to_owned()))
    };
    let drivers: Vec<&&str> =
        DRIVERS.iter().filter(|driver| has(format!("librte_{driver}.a"))).filter(wanted).collect();
    for library in drivers.iter().copied().chain(CORE.iter().filter(|library| has(format!("librte_{library}.a")))) {
        println!("cargo:rustc-link-lib=static:+whole-archive,-bundle=rte_{library}");
    }
    for (library, driver) in BESIDE {
        if driver.is_none_or(|driver| drivers.iter().any(|each| **each == driver)) {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }
    for library in ["dl", "pthread", "m"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
}
