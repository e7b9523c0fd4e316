//! Commands that root gives on a folder of a service's own user: they run as that user, so that no file in it ends up
//! with root, which the confined service could not read.

use std::path::Path;
use std::process::Command;

/// Whose folder it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    /// The owner of a folder, if we are root and the folder is another user's.
    pub fn to_become(folder: &Path) -> Option<Owner> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let ours = std::fs::metadata("/proc/self").ok()?.uid();
            let theirs = std::fs::metadata(folder).ok()?;
            let owner = Owner { user: theirs.uid(), group: theirs.gid() };
            (ours == 0 && owner.user != 0).then_some(owner)
        }
        #[cfg(not(unix))]
        {
            let _ = folder;
            None
        }
    }

    /// This program, run as the owner.
    pub fn command(self) -> std::io::Result<Command> {
        let command = Command::new(std::env::current_exe()?);
        #[cfg(unix)]
        let command = {
            use std::os::unix::process::CommandExt;
            let mut command = command;
            command.uid(self.user).gid(self.group);
            command
        };
        Ok(command)
    }
}

/// Where root works on another user's folder, the program starts again as that user; else nothing happens.
pub fn become_owner(folder: &Path) -> Result<(), String> {
    let Some(owner) = Owner::to_become(folder) else { return Ok(()) };
    let failed = |error| {
        format!("{} belongs to user {}, and cannot be worked on as that user: {error}", folder.display(), owner.user)
    };
    let mut command = owner.command().map_err(failed)?;
    command.args(std::env::args_os().skip(1));
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        Err(failed(command.exec()))
    }
    #[cfg(not(unix))]
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, chown};

    #[test]
    fn root_becomes_the_owner_of_anothers_folder_and_of_no_other() {
        let room = tempfile::tempdir().unwrap();
        assert_eq!(Owner::to_become(room.path()), None);
        assert_eq!(Owner::to_become(&room.path().join("missing")), None);
        if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
            eprintln!("skipped: the owner of another's folder: not root");
            return;
        }
        chown(room.path(), Some(65_534), Some(65_534)).unwrap();
        assert_eq!(Owner::to_become(room.path()), Some(Owner { user: 65_534, group: 65_534 }));
    }
}
