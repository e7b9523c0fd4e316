//! Verbs that speak to the running master over a unix socket in the data folder (mode 0600): one JSON object a line,
//! one answer. Where no master runs they open the folder themselves, under its lock.

use crate::access::{hash_of, hash_password, random_text};
use crate::agents::{self, AgentVerb};
use crate::book::{AccessRole, Account, Grant, to_hex};
use crate::clock::wall;
use crate::data::Data;
use crate::server::{Master, Options, ServerError};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thymus_record::time::SECOND;
use thymus_record::{NetworkPath, SensorId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

const REQUEST_MAX: u64 = 64 << 10;
/// How often and how long a master is waited for that holds the folder and does not answer yet.
const STARTING_TRIES: u32 = 100;
const STARTING_WAIT: Duration = Duration::from_millis(100);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// A token for sensors.
    Token {
        /// Uses; `None` for unlimited.
        uses: Option<u32>,
        /// How long it is good, in seconds.
        expires: u64,
        /// The joiners' group.
        group: String,
        /// For OS-sensors.
        agent: bool,
    },
    /// A user, new or with a new password.
    User {
        /// Name.
        name: String,
        /// Role.
        role: AccessRole,
        /// Networks that they see; none: all.
        networks: Vec<String>,
        /// The password.
        password: String,
    },
    /// An API token.
    ApiToken {
        /// Role.
        role: AccessRole,
        /// Networks that it sees; none: all.
        networks: Vec<String>,
    },
    /// The link that makes the administrator.
    SetupLink,
    /// Everything into one file.
    Backup {
        /// The file to make.
        file: PathBuf,
    },
    /// Looks at everything.
    Doctor,
    /// OS-sensors and their policies.
    Agent {
        /// What to do.
        what: AgentVerb,
    },
    /// Lets a sensor in no more.
    Revoke {
        /// Its number or name.
        sensor: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    ok: bool,
    text: String,
}

/// Refuses what is no name of a group.
pub fn check_group(group: &str) -> Result<(), String> {
    if group.is_empty() || group.len() > 64 || group.contains(['/', '"']) || group.chars().any(char::is_control) {
        return Err("a group is a name of 1 to 64 letters without '/' and '\"'".to_owned());
    }
    Ok(())
}

/// Makes a token for sensors; gives its text.
pub fn make_token(
    master: &Master,
    uses: Option<u32>,
    expires: u64,
    group: &str,
    agent: bool,
    who: &str,
) -> Result<String, String> {
    if uses == Some(0) || expires == 0 {
        return Err("a token needs at least one use and some time".to_owned());
    }
    check_group(group)?;
    let addresses = if agent { master.sensors.agent_addresses() } else { master.token_addresses()? };
    if addresses.is_empty() {
        return Err("no vSensor that is connected listens for OS-sensors: set [agents] listen in a sensor's configuration, and see that it is connected".to_owned());
    }
    let (token, grant) = master.issuer.issue_token(addresses);
    let now = wall();
    let grant_kept = Grant {
        public_key: to_hex(&grant.public_key),
        uses,
        expires: now + expires.saturating_mul(SECOND),
        group: group.to_owned(),
        created: now,
        agent,
    };
    let kept = master.book.add_grant(&grant.id, &grant_kept);
    let audited = kept.and_then(|()| master.book.audit(who, "token create", &format!("group {group}, uses {uses:?}")));
    audited.map_err(|error| error.to_string())?;
    Ok(token.to_string())
}

/// Lets a sensor in no more and cuts it off; gives what was done in words. A name must be of one sensor alone.
pub fn revoke(master: &Master, sensor: &str, who: &str) -> Result<String, String> {
    let said = |error: crate::book::BookError| error.to_string();
    let entries = master.book.sensors().map_err(said)?;
    let mut found = entries.into_iter().filter(|entry| entry.name == sensor || entry.id.to_string() == sensor);
    let mut entry = match (found.next(), found.next()) {
        (Some(entry), None) => entry,
        (None, _) => return Err(format!("no sensor is named '{sensor}': the page and /api/v1/sensors list them")),
        (Some(_), Some(_)) => return Err(format!("several sensors are named '{sensor}': give the number of one")),
    };
    entry.revoked = true;
    master.book.put_sensor(&entry).map_err(said)?;
    master.book.audit(who, "sensor revoke", &format!("{} ({})", entry.name, entry.id)).map_err(said)?;
    let id = SensorId(entry.id);
    master.sensors.cut(id);
    master.tell_vsensors();
    master.tell_sensor(id);
    Ok(format!("sensor {} ({}) is revoked: it is cut off, and what it sent stays", entry.id, entry.name))
}

fn paths(networks: &[String]) -> Vec<NetworkPath> {
    networks.iter().map(|text| NetworkPath::from_text(text)).collect()
}

fn carry_out(master: &Master, request: Request) -> Result<String, String> {
    let said = |error: crate::book::BookError| error.to_string();
    match request {
        Request::Token { uses, expires, group, agent } => make_token(master, uses, expires, &group, agent, "console"),
        Request::User { name, role, networks, password } => {
            if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
                return Err("a user's name has 1 to 64 letters".to_owned());
            }
            let account = Account { role, networks: paths(&networks), password: hash_password(&password)? };
            master.book.put_user(&name, &account).map_err(said)?;
            master.book.audit("console", "user create", &format!("{name}, {role:?}")).map_err(said)?;
            Ok(format!("user {name} can sign in"))
        }
        Request::ApiToken { role, networks } => {
            let text = random_text();
            let account = Account { role, networks: paths(&networks), password: String::new() };
            master.book.add_api_token(&hash_of(&text), &account).map_err(said)?;
            master.book.audit("console", "api-token create", &format!("{role:?}")).map_err(said)?;
            Ok(text)
        }
        Request::SetupLink => crate::server::first_line(master).map_err(|error| error.to_string()),
        Request::Agent { what } => agents::carry_out(master, what),
        Request::Revoke { sensor } => revoke(master, &sensor, "console"),
        Request::Backup { file } => {
            let done = crate::backup::backup(master, &file)?;
            master.book.audit("console", "backup", &file.display().to_string()).map_err(said)?;
            Ok(done)
        }
        Request::Doctor => Ok(crate::doctor::examine(master)),
    }
}

/// Listens on the socket.
pub fn serve(master: Arc<Master>, path: PathBuf) -> Result<JoinHandle<()>, ServerError> {
    let failed = |error: std::io::Error| crate::data::DataError(format!("{}: {error}", path.display()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let master = Arc::clone(&master);
            tokio::spawn(async move {
                let (reader, mut writer) = stream.into_split();
                let mut line = String::new();
                let read = tokio::io::BufReader::new(reader.take(REQUEST_MAX)).read_line(&mut line).await;
                let answer = match read.ok().and_then(|_| serde_json::from_str(&line).ok()) {
                    Some(request) => tokio::task::spawn_blocking(move || carry_out(&master, request))
                        .await
                        .unwrap_or_else(|_| Err("failed".to_owned())),
                    None => Err("the request is not understood: master and command differ in version".to_owned()),
                };
                let (ok, text) = answer.map_or_else(|why| (false, why), |text| (true, text));
                let mut bytes = serde_json::to_vec(&Answer { ok, text }).unwrap_or_default();
                bytes.push(b'\n');
                let _ = writer.write_all(&bytes).await;
            });
        }
    }))
}

/// Asks the running master; without one, opens the folder.
pub fn ask(data: &Path, request: Request) -> Result<String, String> {
    match UnixStream::connect(data.join("admin.sock")) {
        Ok(stream) => speak(stream, &request).map_err(|error| format!("the running master did not answer: {error}"))?,
        Err(_) if matches!(request, Request::SetupLink) => Err(not_running(data)),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(format!("{} is another user's: run this as root (sudo)", data.display()))
        }
        Err(_) if !data.join("thymus-master").exists() => {
            Err(format!("{} is no master's data folder: give the one that 'thymus-master run' uses", data.display()))
        }
        Err(_) if matches!(request, Request::Token { .. }) => Err(not_running(data)),
        Err(_) => {
            let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 443));
            let options = Options { data: data.to_owned(), listen, advertise: Vec::new() };
            match Master::open(options) {
                Ok(master) => carry_out(&master, request),
                Err(error) => match starting(data) {
                    Some(stream) => speak(stream, &request)
                        .map_err(|error| format!("the running master did not answer: {error}"))?,
                    None => Err(error.to_string()),
                },
            }
        }
    }
}

/// A master that is just starting holds the folder already, and answers soon.
fn starting(data: &Path) -> Option<UnixStream> {
    for _ in 0..STARTING_TRIES {
        if let Ok(stream) = UnixStream::connect(data.join("admin.sock")) {
            return Some(stream);
        }
        if !Data::is_held(data) {
            return None;
        }
        std::thread::sleep(STARTING_WAIT);
    }
    None
}

fn not_running(data: &Path) -> String {
    format!(
        "no master runs on {0}: start it with 'systemctl start thymus-master' or 'thymus-master run --data {0}', then ask again",
        data.display()
    )
}

fn speak(mut stream: UnixStream, request: &Request) -> std::io::Result<Result<String, String>> {
    // A backup and a look at everything take as long as they take.
    let long = matches!(request, Request::Backup { .. } | Request::Doctor);
    stream.set_read_timeout((!long).then_some(Duration::from_secs(30)))?;
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    stream.write_all(&bytes)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Answer = serde_json::from_str(&line)?;
    Ok(if answer.ok { Ok(answer.text) } else { Err(answer.text) })
}
