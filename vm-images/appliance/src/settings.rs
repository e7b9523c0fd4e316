//! The settings in force: what the machine was given, and what was mended at its console.
//!
//! ```text
//! FOLDER/appliance.conf   key=value, in force (0600)
//! FOLDER/given            key handled seen: checksums of what a source said, and of what of it counts or was mended
//! ```
//!
//! A source is read at every boot. Its value counts when it is right and new: what was mended at the console stays until
//! the source says something else.

use crate::setting::{check, together};
use crate::source::Given;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The settings of one appliance.
#[derive(Debug)]
pub struct Settings {
    folder: PathBuf,
    values: BTreeMap<String, String>,
    given: BTreeMap<String, Sums>,
}

/// Checksums of what a source said; 0 for nothing.
#[derive(Clone, Copy, Default, Debug)]
struct Sums {
    handled: u64,
    seen: u64,
}

impl Settings {
    /// Those in a folder, or none.
    pub fn open(folder: &Path) -> Settings {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let sums = |line: &str| {
            let mut parts = line.split(' ');
            let key = parts.next()?.to_owned();
            let mut next = || u64::from_str_radix(parts.next()?, 16).ok();
            Some((key, Sums { handled: next()?, seen: next()? }))
        };
        Settings {
            folder: folder.to_owned(),
            values: read("appliance.conf").lines().filter_map(pair).collect(),
            given: read("given").lines().filter_map(sums).collect(),
        }
    }

    /// A setting in force.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Takes what the sources say, the last of a key; gives what is wrong with it in sentences.
    pub fn take(&mut self, given: Given) -> Vec<String> {
        let mut problems = given.complaints;
        let last: BTreeMap<String, String> = given.pairs.into_iter().collect();
        for (key, value) in last {
            let sums = self.given.entry(key.clone()).or_default();
            sums.seen = sum(&value);
            if sums.handled == sums.seen {
                continue;
            }
            match check(&key, &value) {
                Ok(value) => {
                    sums.handled = sums.seen;
                    self.values.insert(key, value);
                }
                Err(why) => problems.push(why),
            }
        }
        problems.extend(together(self.get("address"), self.get("gateway")));
        problems
    }

    /// Sets a key by hand, or takes it away; what a source said of it is thereby mended.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if value.is_empty() {
            self.values.remove(key);
        } else {
            self.values.insert(key.to_owned(), check(key, value)?);
        }
        if let Some(sums) = self.given.get_mut(key) {
            sums.handled = sums.seen;
        }
        Ok(())
    }

    /// Puts both files down, each whole or not at all.
    pub fn save(&self) -> std::io::Result<()> {
        let values: String = self.values.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let line = |(key, sums): (&String, &Sums)| format!("{key} {:x} {:x}\n", sums.handled, sums.seen);
        // What was set is down before it is noted as handled.
        self.put("appliance.conf", &values)?;
        self.put(
            "given",
            &self.given.iter().filter(|(key, _)| !key.contains(char::is_whitespace)).map(line).collect::<String>(),
        )
    }

    fn put(&self, name: &str, text: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let part = self.folder.join(format!("{name}.part"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(part, self.folder.join(name))
    }
}

/// FNV-1a, which is the same in every release.
fn sum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::lines;

    #[test]
    fn what_was_mended_at_the_console_stays_until_the_source_says_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let boot = |source: &str| {
            let mut settings = Settings::open(folder.path());
            let problems = settings.take(lines(source));
            settings.save().unwrap();
            (settings, problems)
        };
        let (settings, problems) = boot("address=192.0.2.9\nname=one\ntier=huge\n");
        assert_eq!((settings.get("address"), settings.get("name")), (None, Some("one")));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(boot("address=192.0.2.9\nname=one\ntier=huge\n").1.len(), 2, "it is said until it is mended");
        let mut settings = Settings::open(folder.path());
        assert!(settings.set("address", "nowhere").unwrap_err().contains("/24"));
        settings.set("address", "192.0.2.10/24").unwrap();
        settings.set("tier", "").unwrap();
        settings.save().unwrap();
        let (settings, problems) = boot("address=192.0.2.9\nname=one\ntier=huge\n");
        assert_eq!((settings.get("address"), problems.len()), (Some("192.0.2.10/24"), 0));
        let (settings, _) = boot("address=192.0.2.11/24\nname=two\n");
        assert_eq!((settings.get("address"), settings.get("name")), (Some("192.0.2.11/24"), Some("two")));
    }

    #[test]
    fn a_token_that_was_used_is_not_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::open(folder.path());
        settings.take(lines("token=abc\n"));
        settings.set("token", "").unwrap();
        settings.save().unwrap();
        let mut settings = Settings::open(folder.path());
        settings.take(lines("token=abc\n"));
        assert_eq!(settings.get("token"), None);
        settings.take(lines("token=def\n"));
        assert_eq!(settings.get("token"), Some("def"));
    }

    #[test]
    fn files_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::open(folder.path());
        settings.take(lines("token=abc\n"));
        settings.save().unwrap();
        for name in ["appliance.conf", "given"] {
            let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert!(!std::fs::read_to_string(folder.path().join("given")).unwrap().contains("abc"));
    }
}
