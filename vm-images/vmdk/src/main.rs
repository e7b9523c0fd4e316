//! `thymus-vmdk RAW VMDK`: a raw disk as a streamOptimized VMDK.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::ExitCode;

fn convert(raw: &Path, vmdk: &Path) -> Result<(), String> {
    let said = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let from = File::open(raw).map_err(|error| said(raw, error))?;
    let bytes = from.metadata().map_err(|error| said(raw, error))?.len();
    let to = File::create(vmdk).map_err(|error| said(vmdk, error))?;
    let name = vmdk.file_name().unwrap_or_default().to_string_lossy();
    thymus_vmdk::write(&mut BufReader::new(from), bytes, BufWriter::new(to), &name).map_err(|error| said(vmdk, error))
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [raw, vmdk] = arguments.as_slice() else {
        eprintln!("thymus-vmdk RAW VMDK");
        return ExitCode::from(2);
    };
    match convert(Path::new(raw), Path::new(vmdk)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("thymus-vmdk: {why}");
            ExitCode::FAILURE
        }
    }
}
