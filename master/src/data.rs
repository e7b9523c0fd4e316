//! The data folder: one folder holds all that the master knows.
//!
//! ```text
//! DATA/thymus-master      version of the layout
//! DATA/lock               held while a master runs
//! DATA/admin.sock         administrative verbs (0600)
//! DATA/authority/         the certification authority
//! DATA/book.redb          tokens, users, sensors, audit
//! DATA/store/             journal and tables
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What it says.
pub(crate) const LAYOUT: &str = "thymus-master data, layout 1\n";

/// The folder cannot be used; the text says why and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DataError(pub String);

/// The file that makes a folder a master's.
pub(crate) const MARK: &str = "thymus-master";

/// How often and how long a folder is waited for that another process holds.
const BUSY_TRIES: u32 = 20;
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// A data folder, locked by this process.
pub struct Data {
    dir: PathBuf,
    _lock: File,
}

impl Data {
    /// Opens the folder, or makes it; fails where another master runs or the folder is something else's.
    pub fn open(dir: &Path) -> Result<Data, DataError> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |why: std::io::Error| DataError(format!("the data folder {}: {why}", dir.display()));
        let mark = dir.join(MARK);
        match fs::read_to_string(&mark) {
            Ok(text) if text == LAYOUT => {}
            Ok(_) => {
                let dir = dir.display();
                return Err(DataError(format!(
                    "{dir} was written by a newer master: upgrade this one, or choose another --data"
                )));
            }
            Err(_) if !is_empty(dir) => {
                let dir = dir.display();
                return Err(DataError(format!(
                    "{dir} holds something else than a master's data: choose an empty folder with --data"
                )));
            }
            Err(_) => {
                fs::create_dir_all(dir).map_err(failed)?;
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
                fs::write(&mark, LAYOUT).map_err(failed)?;
            }
        }
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(failed)?;
        // A command may hold it for a moment.
        let mut taken = lock.try_lock();
        for _ in 0..BUSY_TRIES {
            if !matches!(taken, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(BUSY_WAIT);
            taken = lock.try_lock();
        }
        match taken {
            Ok(()) => Ok(Data { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(DataError(format!("another master runs on {}: stop it, or choose another --data", dir.display())))
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// True while another process holds the folder.
    pub(crate) fn is_held(dir: &Path) -> bool {
        let lock = File::options().write(true).open(dir.join("lock"));
        lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

pub(crate) fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_a_command_holds_for_a_moment_is_waited_for_and_one_that_a_master_holds_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let held = Data::open(dir.path()).unwrap();
        assert!(Data::is_held(dir.path()));
        let said = Data::open(dir.path()).err().unwrap().to_string();
        assert!(said.contains("another master runs"), "{said}");
        let path = dir.path().to_owned();
        let waiting = std::thread::spawn(move || Data::open(&path).is_ok());
        drop(held);
        assert!(waiting.join().unwrap());
        assert!(!Data::is_held(dir.path()));
    }
}
