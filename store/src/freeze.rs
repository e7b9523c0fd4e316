//! What a backup copies, and whether what is stored can be read.

use crate::columns::Layout;
use crate::embedded::{Embedded, lock};
use crate::journal::{io, read_segment};
use crate::types::StoreError;
use std::fs;
use std::path::{Path, PathBuf};

impl Embedded {
    /// Links all files of the store, as they are at one moment, into an empty folder on the same file system, and tells
    /// how much of each counts: the last segment of the journal grows on. Every batch acknowledged before is in it.
    pub fn freeze(&self, into: &Path) -> Result<Vec<(PathBuf, u64)>, StoreError> {
        let core = &self.core;
        // While this is held no file is made, merged or dropped.
        let manifest = lock(&core.keeping);
        self.sync()?;
        let (journal, end) = {
            let state = lock(&core.state);
            (state.journal.files_from(0), state.journal.end())
        };
        for part in ["journal", "tables"] {
            fs::create_dir_all(into.join(part)).map_err(io("creating", &into.join(part)))?;
        }
        let mut files = Vec::new();
        let mut link = |from: &Path, to: PathBuf, len: u64| {
            let target = into.join(&to);
            fs::hard_link(from, &target).map_err(io("linking", &target))?;
            files.push((to, len));
            Ok::<(), StoreError>(())
        };
        for meta in &manifest.files {
            link(&core.tables().join(&meta.name), Path::new("tables").join(&meta.name), meta.bytes)?;
        }
        let mut segments = journal.iter().peekable();
        while let Some((start, path)) = segments.next() {
            let until = segments.peek().map_or(end, |next| next.0);
            let name = path.file_name().map(PathBuf::from).unwrap_or_default();
            link(path, Path::new("journal").join(name), until - start)?;
        }
        manifest.save(into)?;
        let name = PathBuf::from("manifest.json");
        let len = fs::metadata(into.join(&name)).map_err(io("reading", into))?.len();
        files.push((name, len));
        Ok(files)
    }

    /// Reads all that is stored; gives a sentence for each file that cannot be read.
    pub fn verify(&self) -> Vec<String> {
        let files = self.snapshot().files;
        let damaged = |file: &std::sync::Arc<crate::file::DataFile>| {
            let table = file.table()?;
            let read = file.read_all(Layout::of(table));
            read.err().map(|error| {
                format!("{}: {error}; restore a backup, or move the file away to lose its rows", file.meta.name)
            })
        };
        let mut wrong: Vec<String> = files.iter().filter_map(damaged).collect();
        for (start, path) in lock(&self.core.state).journal.files_from(0) {
            if let Err(error) = read_segment(&path, start, &mut |_| Ok(())) {
                wrong.push(error.to_string());
            }
        }
        wrong
    }
}
