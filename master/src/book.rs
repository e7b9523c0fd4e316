//! The small state, in one transactional file: tokens, users, API tokens, sensors, revocations, audit, checkpoints.
//! Secrets are kept as hashes or public keys alone.

use crate::clock::wall;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::Path;
use thymus_link::Role;
use thymus_link::enrol::{Redeemed, TokenBook};
use thymus_record::{NetworkPath, Scope, SensorId, Time};

const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
const USERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("users");
const API_TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("api_tokens");
const SENSORS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("sensors");
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The book cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the master's book: {0}")]
pub struct BookError(String);

fn failed(error: impl std::fmt::Display) -> BookError {
    BookError(error.to_string())
}

/// What a user or API token may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum AccessRole {
    /// Sees metadata.
    Viewer,
    /// Fetches packets too.
    Analyst,
    /// Administers too.
    Admin,
}

/// A user, or an API token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// Role.
    pub role: AccessRole,
    /// Networks that it sees; none named: all.
    pub networks: Vec<NetworkPath>,
    /// Argon2 hash of the password; empty for API tokens.
    #[serde(default)]
    pub password: String,
}

impl Account {
    /// What it may see.
    pub fn scope(&self) -> Scope {
        if self.networks.is_empty() { Scope::All } else { Scope::Within(self.networks.clone()) }
    }
}

/// A token for sensors, as kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// The key of its requests, hex.
    pub public_key: String,
    /// Uses left; `None` for unlimited.
    pub uses: Option<u32>,
    /// Until when.
    pub expires: Time,
    /// The joiners' group.
    pub group: String,
    /// When it was made.
    pub created: Time,
    /// For OS-sensors.
    #[serde(default)]
    pub agent: bool,
}

/// A sensor that joined.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SensorEntry {
    /// Its number.
    pub id: u32,
    /// Its name, for people.
    pub name: String,
    /// Its group.
    pub group: String,
    /// When it joined.
    pub joined: Time,
    /// When it was last connected.
    pub last_seen: Option<Time>,
    /// Its software, last seen.
    pub software: String,
    /// No longer let in.
    pub revoked: bool,
    /// An OS-sensor, which a vSensor takes.
    #[serde(default)]
    pub agent: bool,
}

/// A line of the audit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub ts: f64,
    /// Who: a user, `api-token …`, or the address of a joiner.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To what, and why.
    pub detail: String,
}

/// The book.
pub struct Book {
    database: Database,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Book {
    /// Opens the book, or makes it.
    pub fn open(path: &Path) -> Result<Book, BookError> {
        let database = Database::create(path).map_err(failed)?;
        let write = database.begin_write().map_err(failed)?;
        for table in [TOKENS, USERS, API_TOKENS, SENSORS, META] {
            write.open_table(table).map_err(failed)?;
        }
        write.open_table(AUDIT).map_err(failed)?;
        write.commit().map_err(failed)?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Book { database })
    }

    /// Writes all of it, as it is now, into a new file.
    pub fn copy_to(&self, path: &Path) -> Result<(), BookError> {
        let copy = Book::open(path)?;
        let (read, write) = (self.database.begin_read().map_err(failed)?, copy.database.begin_write().map_err(failed)?);
        for definition in [TOKENS, USERS, API_TOKENS, SENSORS, META] {
            let mut to = write.open_table(definition).map_err(failed)?;
            for row in read.open_table(definition).map_err(failed)?.iter().map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                to.insert(key.value(), value.value()).map_err(failed)?;
            }
        }
        {
            let mut to = write.open_table(AUDIT).map_err(failed)?;
            for row in read.open_table(AUDIT).map_err(failed)?.iter().map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                to.insert(key.value(), value.value()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    fn get<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
        key: &str,
    ) -> Result<Option<T>, BookError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(table).map_err(failed)?;
        let value = table.get(key).map_err(failed)?;
        value.map(|value| serde_json::from_slice(value.value()).map_err(failed)).transpose()
    }

    fn put<T: Serialize>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
        key: &str,
        value: &T,
    ) -> Result<(), BookError> {
        let bytes = serde_json::to_vec(value).map_err(failed)?;
        let write = self.database.begin_write().map_err(failed)?;
        write.open_table(table).map_err(failed)?.insert(key, bytes.as_slice()).map_err(failed)?;
        write.commit().map_err(failed)
    }

    fn all<T: DeserializeOwned>(&self, table: TableDefinition<'_, &str, &[u8]>) -> Result<Vec<(String, T)>, BookError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(table).map_err(failed)?;
        let mut rows = Vec::new();
        for row in table.iter().map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            rows.push((key.value().to_owned(), serde_json::from_slice(value.value()).map_err(failed)?));
        }
        Ok(rows)
    }

    /// Keeps a token for sensors.
    pub fn add_grant(&self, id: &[u8; 16], grant: &Grant) -> Result<(), BookError> {
        self.put(TOKENS, &hex(id), grant)
    }

    /// Tokens for sensors, by id.
    pub fn grants(&self) -> Result<Vec<(String, Grant)>, BookError> {
        self.all(TOKENS)
    }

    /// Keeps a user.
    pub fn put_user(&self, name: &str, account: &Account) -> Result<(), BookError> {
        self.put(USERS, name, account)
    }

    /// A user.
    pub fn user(&self, name: &str) -> Result<Option<Account>, BookError> {
        self.get(USERS, name)
    }

    /// True while nobody can sign in.
    pub fn has_no_user(&self) -> Result<bool, BookError> {
        Ok(self.all::<Account>(USERS)?.is_empty())
    }

    /// Keeps an API token by the hash of its text.
    pub fn add_api_token(&self, hash: &[u8], account: &Account) -> Result<(), BookError> {
        self.put(API_TOKENS, &hex(hash), account)
    }

    /// The API token with this hash.
    pub fn api_token(&self, hash: &[u8]) -> Result<Option<Account>, BookError> {
        self.get(API_TOKENS, &hex(hash))
    }

    /// Sensors that joined, by number.
    pub fn sensors(&self) -> Result<Vec<SensorEntry>, BookError> {
        Ok(self.all(SENSORS)?.into_iter().map(|(_, entry)| entry).collect())
    }

    /// One sensor.
    pub fn sensor(&self, id: SensorId) -> Result<Option<SensorEntry>, BookError> {
        self.get(SENSORS, &format!("{:010}", id.0))
    }

    /// Keeps what is known of a sensor.
    pub fn put_sensor(&self, entry: &SensorEntry) -> Result<(), BookError> {
        self.put(SENSORS, &format!("{:010}", entry.id), entry)
    }

    /// A checkpoint or setting.
    pub fn meta<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, BookError> {
        self.get(META, name)
    }

    /// Keeps a checkpoint or setting.
    pub fn put_meta<T: Serialize>(&self, name: &str, value: &T) -> Result<(), BookError> {
        self.put(META, name, value)
    }

    /// Adds a line to the audit. There is no call that changes or removes one.
    pub fn audit(&self, who: &str, action: &str, detail: &str) -> Result<(), BookError> {
        let entry = AuditEntry {
            ts: crate::clock::seconds(wall()),
            who: who.to_owned(),
            action: action.to_owned(),
            detail: detail.to_owned(),
        };
        let bytes = serde_json::to_vec(&entry).map_err(failed)?;
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(AUDIT).map_err(failed)?;
            let next = table.last().map_err(failed)?.map_or(0, |(key, _)| key.value() + 1);
            table.insert(next, bytes.as_slice()).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }

    /// The newest lines of the audit.
    pub fn audit_lines(&self, limit: usize) -> Result<Vec<AuditEntry>, BookError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(AUDIT).map_err(failed)?;
        let mut lines = Vec::new();
        for row in table.iter().map_err(failed)?.rev().take(limit) {
            lines.push(serde_json::from_slice(row.map_err(failed)?.1.value()).map_err(failed)?);
        }
        Ok(lines)
    }

    /// Checks a token's state; gives its grant.
    fn usable(&self, id: &[u8; 16], now: Time) -> Result<Grant, String> {
        let grant: Option<Grant> = self.get(TOKENS, &hex(id)).map_err(|error| error.to_string())?;
        let grant = grant.ok_or("this master does not know the token: make one with 'thymus-master token create'")?;
        if grant.expires <= now {
            return Err("the token has expired: make a new one with 'thymus-master token create'".to_owned());
        }
        if grant.uses == Some(0) {
            return Err("the token is used up: make a new one with 'thymus-master token create'".to_owned());
        }
        Ok(grant)
    }
}

impl TokenBook for Book {
    fn public_key(&self, id: &[u8; 16], now: Time, _peer: IpAddr) -> Result<[u8; 32], String> {
        let grant = self.usable(id, now)?;
        let mut key = [0; 32];
        for (place, pair) in key.iter_mut().zip(grant.public_key.as_bytes().chunks(2)) {
            let text = std::str::from_utf8(pair).unwrap_or_default();
            *place = u8::from_str_radix(text, 16).map_err(|error| error.to_string())?;
        }
        Ok(key)
    }

    fn redeem(&self, id: &[u8; 16], now: Time, peer: IpAddr, name: &str) -> Result<Redeemed, String> {
        let words = |error: BookError| error.to_string();
        let joined = || -> Result<Result<SensorEntry, String>, BookError> {
            let write = self.database.begin_write().map_err(failed)?;
            let entry = {
                let mut tokens = write.open_table(TOKENS).map_err(failed)?;
                let key = hex(id);
                let kept = tokens.get(key.as_str()).map_err(failed)?.map(|value| value.value().to_vec());
                let Some(kept) = kept else { return Ok(Err("this master does not know the token".to_owned())) };
                let mut grant: Grant = serde_json::from_slice(&kept).map_err(failed)?;
                if grant.expires <= now || grant.uses == Some(0) {
                    return Ok(Err("the token is used up or has expired".to_owned()));
                }
                grant.uses = grant.uses.map(|uses| uses - 1);
                let bytes = serde_json::to_vec(&grant).map_err(failed)?;
                tokens.insert(key.as_str(), bytes.as_slice()).map_err(failed)?;
                let mut sensors = write.open_table(SENSORS).map_err(failed)?;
                let last = sensors.last().map_err(failed)?.and_then(|(key, _)| key.value().parse::<u32>().ok());
                let number = last.unwrap_or(0) + 1;
                let entry = SensorEntry {
                    id: number,
                    name: if name.is_empty() { format!("sensor-{number}") } else { name.to_owned() },
                    group: grant.group,
                    joined: now,
                    last_seen: None,
                    software: String::new(),
                    revoked: false,
                    agent: grant.agent,
                };
                let bytes = serde_json::to_vec(&entry).map_err(failed)?;
                sensors.insert(format!("{number:010}").as_str(), bytes.as_slice()).map_err(failed)?;
                entry
            };
            write.commit().map_err(failed)?;
            Ok(Ok(entry))
        };
        let entry = joined().map_err(words)??;
        self.audit(
            &peer.to_string(),
            "join",
            &format!("sensor {} ({}) in group {}", entry.id, entry.name, entry.group),
        )
        .map_err(words)?;
        let role = if entry.agent { Role::Agent } else { Role::Sensor };
        Ok(Redeemed { sensor: SensorId(entry.id), group: entry.group, role })
    }
}

/// The hex form that the book uses for keys.
pub fn to_hex(bytes: &[u8]) -> String {
    hex(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_two_uses_gives_two_sensors_and_then_words() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("book")).unwrap();
        let grant = Grant {
            public_key: hex(&[7; 32]),
            uses: Some(2),
            expires: Time(100),
            group: "blue".into(),
            created: Time(0),
            agent: false,
        };
        book.add_grant(&[1; 16], &grant).unwrap();
        let peer = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(book.public_key(&[1; 16], Time(1), peer), Ok([7; 32]));
        assert_eq!(book.redeem(&[1; 16], Time(1), peer, "a").unwrap().sensor, SensorId(1));
        assert_eq!(book.redeem(&[1; 16], Time(1), peer, "").unwrap().group, "blue");
        assert!(book.redeem(&[1; 16], Time(1), peer, "c").is_err());
        assert!(book.public_key(&[1; 16], Time(1), peer).unwrap_err().contains("used up"));
        assert!(book.public_key(&[2; 16], Time(1), peer).unwrap_err().contains("does not know"));
        assert_eq!(book.sensors().unwrap().len(), 2);
        assert_eq!(book.audit_lines(10).unwrap().len(), 2);
    }

    #[test]
    fn an_expired_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("book")).unwrap();
        let grant = Grant {
            public_key: hex(&[7; 32]),
            uses: None,
            expires: Time(100),
            group: "g".into(),
            created: Time(0),
            agent: true,
        };
        book.add_grant(&[1; 16], &grant).unwrap();
        assert!(book.public_key(&[1; 16], Time(100), IpAddr::from([127, 0, 0, 1])).unwrap_err().contains("expired"));
    }
}
