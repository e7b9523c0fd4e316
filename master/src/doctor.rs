//! `doctor`: everything that the master needs, looked at one by one, each with its cure.

use crate::admin::{Request, ask};
use crate::clock::wall;
use crate::server::Master;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fs;
use std::path::Path;
use thymus_link::identity::expiry;

/// An authority with less time left is named: its sensors must join again before it ends.
const SOON: u64 = 90 * 86_400_000_000_000;

/// Looks at a running or just opened master; a line a finding, those that need hands begin with `FAIL`.
pub fn examine(master: &Master) -> String {
    let mut lines = Vec::new();
    let sensors = master.book.sensors().map(|sensors| sensors.len());
    match (sensors, master.book.has_no_user()) {
        (Ok(count), Ok(false)) => lines.push(format!("ok    book: readable, {count} sensors")),
        (Ok(_), Ok(true)) => {
            lines.push("warn  book: nobody can sign in yet: open the set-up link that 'run' prints".to_owned())
        }
        (Err(error), _) | (_, Err(error)) => lines.push(format!("FAIL  {error}; restore a backup")),
    }
    for name in ["root.pem", "issuing.pem"] {
        lines.push(certificate(&master.issuer.dir().join(name)));
    }
    let counts = master.store.counts();
    let wrong = master.store.verify();
    if wrong.is_empty() {
        let rows = counts.file_rows + counts.memory_rows;
        lines.push(format!("ok    store: {rows} rows in {} files, {} bytes, all readable", counts.files, counts.bytes));
    }
    lines.extend(wrong.into_iter().map(|why| format!("FAIL  store: {why}")));
    lines.push(disk(&master.path("store"), counts.bytes));
    match master.token_addresses() {
        Ok(addresses) => lines.push(format!("ok    sensors reach the master at {}", addresses.join(", "))),
        Err(why) => lines.push(format!("warn  {why}")),
    }
    lines.join("\n")
}

fn certificate(path: &Path) -> String {
    let name = path.display();
    let until = CertificateDer::from_pem_file(path).ok().as_ref().and_then(expiry);
    match until.map(|until| until.since(wall())) {
        None => format!("FAIL  {name}: cannot be read; restore a backup"),
        Some(0) => format!(
            "FAIL  {name}: has expired; set the clock right, or begin a new data folder and join all sensors again"
        ),
        Some(left) if left < SOON => format!("warn  {name}: ends in {} days", left / 86_400_000_000_000),
        Some(left) => format!("ok    {name}: valid for {} days", left / 86_400_000_000_000),
    }
}

fn disk(path: &Path, used: u64) -> String {
    match rustix::fs::statvfs(path) {
        Ok(answer) => {
            let free = answer.f_bavail.saturating_mul(answer.f_frsize);
            if free < (1 << 30) {
                format!("FAIL  disk: {free} bytes are free: make room, or the store drops its oldest rows")
            } else {
                format!("ok    disk: {free} bytes are free, the store uses {used}")
            }
        }
        Err(error) => format!("warn  disk: {error}"),
    }
}

/// `thymus-master doctor`
pub fn command(data: &Path) -> Result<String, String> {
    if !data.join(crate::data::MARK).exists() && fs::metadata(data).is_err() {
        return Err(format!("{} is not there: give the folder that 'thymus-master run' uses", data.display()));
    }
    let running = std::os::unix::net::UnixStream::connect(data.join("admin.sock")).is_ok();
    let found = ask(data, Request::Doctor)?;
    let first =
        if running { "ok    a master runs on it" } else { "warn  no master runs on it: it was opened for this look" };
    let text = format!("{first}\n{found}");
    if text.contains("FAIL  ") { Err(format!("something needs your hands:\n{text}")) } else { Ok(text) }
}
