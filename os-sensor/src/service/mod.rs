//! The agent as a service of the system: set up, taken away and, on Windows, spoken with.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod own;
#[cfg(windows)]
#[path = "windows.rs"]
mod own;

#[cfg(windows)]
pub use own::serve;
pub use own::{install, uninstall};

use std::path::Path;

/// Gives the identity up: what the agent wrote goes, and the folder with it.
pub fn forget(state: &Path) -> Result<(), String> {
    let known = ["identity.toml", "status.json", "token"].iter().any(|name| state.join(name).exists());
    if known {
        std::fs::remove_dir_all(state).map_err(|error| format!("{}: {error}", state.display()))?;
    } else {
        // An empty one is nobody's; one with something else in it is not ours.
        let _ = std::fs::remove_dir(state);
    }
    if let Some(parent) = state.parent().filter(|_| *state == crate::system::default_state()) {
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}
