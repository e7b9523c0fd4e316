//! `traffic FILE [--mbps N] [--seconds N] [--connections N]`: generated traffic as a pcap file, for tests that send it.

use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;
use thymus_record::time::SECOND;
use thymus_sensor::source::generate::{Generate, Limit, Traffic};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, otherwise: u32| {
        let at = arguments.iter().position(|each| each == name);
        at.and_then(|at| arguments.get(at + 1)).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let Some(path) = arguments.first().filter(|first| !first.starts_with("--")) else {
        eprintln!("traffic FILE [--mbps N] [--seconds N] [--connections N]");
        return ExitCode::from(2);
    };
    let traffic = Traffic {
        devices: 100,
        mbps: number("--mbps", 100),
        connections_per_minute: number("--connections", 5_000),
        limit: Limit::Nanoseconds(u64::from(number("--seconds", 20)) * SECOND),
        ..Traffic::default()
    };
    let written = Generate::new(traffic).map_err(|error| error.to_string()).and_then(|source| {
        let mut file = BufWriter::new(File::create(path).map_err(|error| error.to_string())?);
        source.write_pcap(&mut file).map_err(|error| error.to_string())
    });
    match written {
        Ok(packets) => {
            println!("{packets}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("traffic: {path}: {why}");
            ExitCode::FAILURE
        }
    }
}
