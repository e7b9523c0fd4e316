//! Names of users, from /etc/passwd alone: a directory service asked over the network would hold up its own traffic.

use std::collections::HashMap;
use std::time::Duration;

/// How long a file that was read is taken to be as it was.
const FRESH: Duration = Duration::from_secs(30);
/// Users kept.
const USERS_MAX: usize = 65_536;

/// Users by number.
#[derive(Default)]
pub struct Users {
    names: HashMap<u32, Box<str>>,
    read: Option<Duration>,
}

impl Users {
    /// The user's name, or the number where it has none.
    pub fn name(&mut self, user: u32, now: Duration) -> Box<str> {
        let is_stale = self.read.is_none_or(|read| now.saturating_sub(read) > FRESH);
        if !self.names.contains_key(&user) && is_stale {
            self.names = names(&std::fs::read_to_string("/etc/passwd").unwrap_or_default());
            self.read = Some(now);
        }
        self.names.get(&user).cloned().unwrap_or_else(|| user.to_string().into())
    }
}

fn names(passwd: &str) -> HashMap<u32, Box<str>> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((fields.nth(1)?.parse().ok()?, name.into()))
    };
    // Of two names for one number the first holds, as everywhere.
    let mut names = HashMap::new();
    for (number, name) in passwd.lines().take(USERS_MAX).filter_map(user) {
        names.entry(number).or_insert(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_file_and_strange_lines_do_no_harm() {
        let names =
            names("root:x:0:0:root:/root:/bin/sh\nbroken\n:x:5:5::\ntoor:x:0:0::/:\na:x:99999999999:0:\nbob:x:7");
        assert_eq!(names.get(&0).map(|name| &**name), Some("root"));
        assert_eq!(names.get(&7).map(|name| &**name), Some("bob"));
        assert_eq!(names.len(), 2);
    }
}
