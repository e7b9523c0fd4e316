//! The manifest: which files are in force, up to where the journal is in them, and which batches are held. It is
//! replaced whole: written beside, synced, renamed over, and the folder synced, so that a crash leaves the old or the new.

use crate::file::FileMeta;
use crate::journal::{io, sync_dir};
use crate::known::Known;
use crate::types::StoreError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

const NAME: &str = "manifest.json";
const FORMAT: u32 = 1;

/// The state of a store that is not in its journal.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) store: String,
    pub(crate) format: u32,
    /// Journal entries before this position are in the files.
    pub(crate) flushed: u64,
    /// The number of the next file.
    pub(crate) next_file: u64,
    pub(crate) files: Vec<FileMeta>,
    /// The batches before `flushed`.
    pub(crate) known: Known,
}

impl Manifest {
    pub(crate) fn new() -> Manifest {
        Manifest { store: "thymus".into(), format: FORMAT, ..Manifest::default() }
    }

    /// Reads the folder's manifest, or begins one in an empty folder.
    pub(crate) fn open(dir: &Path) -> Result<Manifest, StoreError> {
        let foreign = |why: String| StoreError::Foreign(dir.to_owned(), why);
        let path = dir.join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut others = fs::read_dir(dir).map_err(io("listing", dir))?.flatten();
                let known = |name: &str| matches!(name, "lock" | "journal" | "tables" | "manifest.new");
                if let Some(other) = others.find(|it| !it.file_name().to_str().is_some_and(known)) {
                    return Err(foreign(format!("it holds {}", other.file_name().display())));
                }
                let manifest = Manifest::new();
                manifest.save(dir)?;
                return Ok(manifest);
            }
            Err(error) => return Err(io("reading", &path)(error)),
        };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| foreign(format!("{NAME}: {error}")))?;
        match manifest.format {
            _ if manifest.store != "thymus" => Err(foreign(format!("its {NAME} is another program's"))),
            FORMAT => Ok(manifest),
            newer => Err(foreign(format!("its format {newer} is not {FORMAT}, the one that this version reads"))),
        }
    }

    /// Swaps this manifest in.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), StoreError> {
        let (path, beside) = (dir.join(NAME), dir.join("manifest.new"));
        let text = serde_json::to_vec(self).map_err(std::io::Error::other).map_err(io("encoding", &path))?;
        let mut file = File::create(&beside).map_err(io("creating", &beside))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io("writing", &beside))?;
        fs::rename(&beside, &path).map_err(io("replacing", &path))?;
        sync_dir(dir)
    }
}
