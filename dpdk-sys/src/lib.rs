//! DPDK 22.11 for Rust: bindings made from the system's headers, and a shim for what only C can reach. Nothing is safe
//! here; `sensor/src/source/dpdk/` makes it so.
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case, missing_docs, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
