//! Backup and restore: one tar file with everything, its list of contents and checksums at the end. What ends early,
//! was changed or is another program's is refused before anything is put in place.
//!
//! ```text
//! thymus-master, authority/…, book.redb, store/…      as in the data folder
//! contents.json                                       {"version": 1, "files": {name: {"bytes", "sha256"}}}, last
//! ```

use crate::admin::{Request, ask};
use crate::data::{LAYOUT, MARK, is_empty};
use crate::server::Master;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use thymus_link::owner::Owner;

const CONTENTS: &str = "contents.json";

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    files: BTreeMap<String, Listed>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    bytes: u64,
    sha256: String,
}

/// A stream that is summed as it passes.
struct Summed<S> {
    inner: S,
    bytes: u64,
    sum: Sha256,
}

impl<S> Summed<S> {
    fn new(inner: S) -> Summed<S> {
        Summed { inner, bytes: 0, sum: Sha256::new() }
    }

    fn listed(self) -> Listed {
        let sha256 = self.sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Listed { bytes: self.bytes, sha256 }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sum.update(bytes);
    }
}

impl<S: Read> Read for Summed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.pass(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Everything, into a new file; gives what was done in words.
pub fn backup(master: &Master, file: &Path) -> Result<String, String> {
    let room = master.path(&format!("backup-{}", std::process::id()));
    let _ = fs::remove_dir_all(&room);
    let done = gather(master, &room).and_then(|files| write(&room, files, file));
    let _ = fs::remove_dir_all(&room);
    if done.is_err() {
        let _ = fs::remove_file(part_of(file));
    }
    let bytes = done.map_err(|why| format!("no backup was made: {why}"))?;
    Ok(format!("{} holds everything, the authority's keys too: {bytes} bytes; keep it safe", file.display()))
}

/// Links and copies of all files in one place, as they are at one moment.
fn gather(master: &Master, room: &Path) -> Result<Vec<(PathBuf, u64)>, String> {
    let said = |error: io::Error| error.to_string();
    fs::create_dir_all(room.join("authority")).map_err(said)?;
    let mut files = vec![(PathBuf::from(MARK), LAYOUT.len() as u64)];
    fs::write(room.join(MARK), LAYOUT).map_err(said)?;
    for entry in fs::read_dir(master.issuer.dir()).map_err(said)?.flatten() {
        let name = Path::new("authority").join(entry.file_name());
        let bytes = fs::copy(entry.path(), room.join(&name)).map_err(said)?;
        files.push((name, bytes));
    }
    // The store first: devices written down later than its end are learned again, never missing.
    master.checkpoint();
    let store = master.store.freeze(&room.join("store")).map_err(|error| error.to_string())?;
    files.extend(store.into_iter().map(|(name, bytes)| (Path::new("store").join(name), bytes)));
    master.book.copy_to(&room.join("book.redb")).map_err(|error| error.to_string())?;
    files.push((PathBuf::from("book.redb"), fs::metadata(room.join("book.redb")).map_err(said)?.len()));
    Ok(files)
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    file.with_file_name(name)
}

fn write(room: &Path, files: Vec<(PathBuf, u64)>, file: &Path) -> Result<u64, String> {
    let part = part_of(file);
    let failed = |error: io::Error| format!("{}: {error}", part.display());
    let out = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(failed)?;
    let mut archive = tar::Builder::new(BufWriter::new(out));
    let mut contents = Contents { version: 1, files: BTreeMap::new() };
    for (name, bytes) in files {
        let from = File::open(room.join(&name)).map_err(failed)?;
        let mut summed = Summed::new(from.take(bytes));
        append(&mut archive, &name, bytes, &mut summed).map_err(failed)?;
        contents.files.insert(name.to_string_lossy().into_owned(), summed.listed());
    }
    let list = serde_json::to_vec(&contents).map_err(|error| error.to_string())?;
    append(&mut archive, Path::new(CONTENTS), list.len() as u64, &mut list.as_slice()).map_err(failed)?;
    let mut out = archive.into_inner().map_err(failed)?;
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)?;
    let bytes = out.get_ref().metadata().map_err(failed)?.len();
    fs::rename(&part, file).map_err(failed)?;
    Ok(bytes)
}

fn append(archive: &mut tar::Builder<impl Write>, name: &Path, bytes: u64, from: &mut impl Read) -> io::Result<()> {
    let mut head = tar::Header::new_gnu();
    head.set_size(bytes);
    head.set_mode(0o600);
    archive.append_data(&mut head, name, from)
}

/// `thymus-master backup`
pub fn command(file: &Path, data: &Path) -> Result<String, String> {
    if file != Path::new("-") {
        let file = std::path::absolute(file).map_err(|error| error.to_string())?;
        if let Some(owner) = Owner::to_become(data) {
            return as_owner(owner, &file, data);
        }
        return ask(data, Request::Backup { file });
    }
    let data = std::path::absolute(data).map_err(|error| error.to_string())?;
    let between = data.join(format!("backup-{}.tar", std::process::id()));
    ask(&data, Request::Backup { file: between.clone() })?;
    let copied = File::open(&between).and_then(|mut from| io::copy(&mut from, &mut io::stdout().lock()));
    let _ = fs::remove_file(&between);
    copied.map(|_| String::new()).map_err(|error| format!("stdout: {error}"))
}

/// The service's user cannot write where root wants the file: it gives the bytes, and root writes them.
fn as_owner(owner: Owner, file: &Path, data: &Path) -> Result<String, String> {
    let part = part_of(file);
    let failed = |error: io::Error| format!("no backup was made: {}: {error}", part.display());
    let out = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(failed)?;
    let mut command = owner.command().map_err(failed)?;
    command.args(["backup", "-", "--data"]).arg(data).stdout(out.try_clone().map_err(failed)?);
    if !command.status().map_err(failed)?.success() {
        let _ = fs::remove_file(&part);
        return Err("no backup was made: see above".to_owned());
    }
    out.sync_all().and_then(|()| fs::rename(&part, file)).map_err(failed)?;
    let bytes = fs::metadata(file).map_err(failed)?.len();
    Ok(format!("{} holds everything, the authority's keys too: {bytes} bytes; keep it safe", file.display()))
}

/// `thymus-master restore`: a data folder from a backup, whole or not at all.
pub fn restore(file: &Path, data: &Path) -> Result<String, String> {
    if data.exists() && !(data.is_dir() && is_empty(data)) {
        return Err(format!(
            "{} is not empty: restore into an empty folder, then move it where you want it",
            data.display()
        ));
    }
    let part = part_of(&std::path::absolute(data).map_err(|error| error.to_string())?);
    let _ = fs::remove_dir_all(&part);
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file).map_err(|error| format!("{}: {error}", file.display()))?)
    };
    let done = unpack(from, &part).and_then(|count| {
        let _ = fs::remove_dir(data);
        fs::rename(&part, data).map_err(|error| format!("{}: {error}", data.display()))?;
        Ok(count)
    });
    if done.is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    let count = done.map_err(|why| format!("nothing was restored: {why}"))?;
    Ok(format!("{} files are back: start the master with 'thymus-master run --data {}'", count, data.display()))
}

fn unpack(from: impl Read, into: &Path) -> Result<usize, String> {
    // Not the error's own text, which quotes the foreign bytes.
    let foreign = |error: io::Error| match error.to_string() {
        text if text.contains("EOF") => "it is no whole backup: it was cut short".to_owned(),
        _ => "it is no backup of a master, or damaged".to_owned(),
    };
    let failed = |error: io::Error| format!("{}: {error}", into.display());
    let mut archive = tar::Archive::new(BufReader::new(from));
    let mut found: BTreeMap<String, Listed> = BTreeMap::new();
    let mut contents: Option<Contents> = None;
    for entry in archive.entries().map_err(foreign)? {
        let mut entry = entry.map_err(foreign)?;
        let name = entry.path().map_err(foreign)?.into_owned();
        let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || !entry.header().entry_type().is_file() || contents.is_some() {
            return Err(format!("it is no backup of a master: it holds {}", name.display()));
        }
        if name == Path::new(CONTENTS) {
            let mut text = Vec::new();
            entry.by_ref().take(64 << 20).read_to_end(&mut text).map_err(foreign)?;
            contents = Some(serde_json::from_slice(&text).map_err(|error| format!("its {CONTENTS}: {error}"))?);
            continue;
        }
        let path = into.join(&name);
        let folder = path.parent().unwrap_or(into);
        fs::create_dir_all(folder).map_err(failed)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let mut out = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let mut summed = Summed::new(entry);
        io::copy(&mut summed, &mut out).map_err(foreign)?;
        out.sync_all().map_err(failed)?;
        found.insert(name.to_string_lossy().into_owned(), summed.listed());
    }
    let contents = contents.ok_or("it is no whole backup: its list of contents is missing, so it was cut short")?;
    if contents.version != 1 {
        return Err(format!("it is of version {}: upgrade this master", contents.version));
    }
    match contents.files.iter().find(|(name, listed)| found.get(*name) != Some(listed)) {
        Some((name, _)) => Err(format!("{name} is damaged: its checksum is not the one that was written")),
        None if found.len() != contents.files.len() => Err("it holds files that its list does not name".to_owned()),
        None => Ok(found.len()),
    }
}
