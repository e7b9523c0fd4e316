//! An OS-sensor and its vSensor over real TLS on loopback: certificates renewed through the vSensor, agents cut off, and
//! what a hostile vSensor or agent gets.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thymus_link::agent::{AgentLink, AgentLinkParts, Allowance, Spares};
use thymus_link::enrol::{Redeemed, TokenBook, join};
use thymus_link::frame::WireFrame;
use thymus_link::issuer::TokenGrant;
use thymus_link::relay::{AgentSender, Agents, Ends, Relay};
use thymus_link::{Identity, Issuer, Listener, Role};
use thymus_record::message::{Member, Members, ToAgent, ToRelay};
use thymus_record::{SensorId, Time};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const DAY: u64 = 86_400_000_000_000;

fn now() -> Time {
    Time(u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap())
}

/// Gives tokens for the role that is asked for by the uses of a token: 1 a sensor, 2 an agent.
#[derive(Default)]
struct Book(Mutex<Vec<(TokenGrant, Role)>>, Mutex<u32>);

impl TokenBook for Book {
    fn public_key(&self, id: &[u8; 16], _: Time, _: IpAddr) -> Result<[u8; 32], String> {
        let grants = self.0.lock().unwrap();
        grants.iter().find(|grant| grant.0.id == *id).map(|grant| grant.0.public_key).ok_or_else(|| "no".to_owned())
    }

    fn redeem(&self, id: &[u8; 16], _: Time, _: IpAddr, _: &str) -> Result<Redeemed, String> {
        let role = self.0.lock().unwrap().iter().find(|grant| grant.0.id == *id).unwrap().1;
        let mut next = self.1.lock().unwrap();
        *next += 1;
        Ok(Redeemed { sensor: SensorId(*next), group: "blue".to_owned(), role })
    }
}

struct Master {
    issuer: Arc<Issuer>,
    book: Arc<Book>,
    address: SocketAddr,
    dir: tempfile::TempDir,
    _runtime: Runtime,
}

impl Master {
    fn start() -> Master {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::open_or_create(&dir.path().join("authority"), &["localhost".to_owned()], now()).unwrap();
        let (issuer, book, runtime) = (Arc::new(issuer), Arc::new(Book::default()), Runtime::new().unwrap());
        let socket = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener::new(Arc::clone(&issuer), book.clone(), Arc::new(|_, _| false)).unwrap();
        runtime.spawn(async move {
            while let Ok((stream, peer)) = socket.accept().await {
                let _ = listener.accept(stream, peer, now()).await;
            }
        });
        Master { issuer, book, address, dir, _runtime: runtime }
    }

    /// A member that has joined; its certificate is so many days old.
    fn member(&self, name: &str, role: Role, age_days: u64) -> Identity {
        let (token, grant) = self.issuer.issue_token(vec![self.address.to_string()]);
        self.book.0.lock().unwrap().push((grant, role));
        let state = self.dir.path().join(name);
        let identity = join(&token.to_string(), &state, None, name).unwrap();
        let request = identity.request().unwrap();
        let chain = self.issuer.sign(&request, role, identity.sensor.0, now() - age_days * DAY).unwrap();
        identity.renew(&chain).unwrap();
        Identity::load(&state).unwrap()
    }
}

/// A vSensor whose master answers at once.
struct Served {
    issuer: Arc<Issuer>,
    sender: Arc<Mutex<Option<AgentSender>>>,
    refuses: Arc<Mutex<Option<String>>>,
}

impl Agents for Served {
    fn enter(&mut self, _: u32, _: &str, _: Ends, sender: AgentSender) -> Result<(), String> {
        if let Some(why) = self.refuses.lock().unwrap().clone() {
            return Err(why);
        }
        *self.sender.lock().unwrap() = Some(sender);
        Ok(())
    }

    fn hear(&mut self, agent: u32, message: ToRelay) {
        let ToRelay::Renew { request, chain } = message else { return };
        let request = STANDARD.decode(request).unwrap();
        let answer = match self.issuer.renew(&request, &chain, Role::Agent, agent, now()) {
            Ok(chain) => ToAgent::Renewed { chain },
            Err(error) => ToAgent::RenewRefused { why: error.to_string() },
        };
        self.sender.lock().unwrap().as_ref().unwrap().send(answer);
    }

    fn take(&mut self, _: (u32, u64), _: &[u8], _: bool) {}
    fn take_late(&mut self, _: u32, _: &[u8]) {}
    fn batch(&mut self, _: u32, _: Vec<u8>) -> Result<(), String> {
        Ok(())
    }
    fn leave(&mut self, _: u32) {}
    fn tick(&mut self) {}
}

struct Rig {
    relay: Relay,
    address: SocketAddr,
    sender: Arc<Mutex<Option<AgentSender>>>,
    refuses: Arc<Mutex<Option<String>>>,
}

fn vsensor(master: &Master) -> Rig {
    let identity = master.member("vsensor", Role::Sensor, 0);
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (sender, refuses) = <(Arc<Mutex<Option<AgentSender>>>, Arc<Mutex<Option<String>>>)>::default();
    let served =
        Served { issuer: Arc::clone(&master.issuer), sender: Arc::clone(&sender), refuses: Arc::clone(&refuses) };
    Rig { relay: Relay::start(identity, address, Box::new(served)).unwrap(), address, sender, refuses }
}

fn agent(mut identity: Identity, address: SocketAddr) -> (AgentLink, Arc<Mutex<Vec<ToAgent>>>) {
    identity.addresses = vec![address.to_string()];
    let heard: Arc<Mutex<Vec<ToAgent>>> = Arc::default();
    let hearing = Arc::clone(&heard);
    let parts = AgentLinkParts {
        spares: Spares::default(),
        allowance: Allowance::default(),
        identity,
        name: "host".to_owned(),
        software: "test".to_owned(),
        wall: now,
        late: None,
        run: (1, Vec::new()),
        batches: None,
        hear: Box::new(move |message| hearing.lock().unwrap().extend(message)),
    };
    (AgentLink::start(parts).unwrap(), heard)
}

fn until(what: &str, probe: impl Fn() -> bool) {
    for _ in 0..400 {
        if probe() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("not within 10 s: {what}");
}

fn expires(state: &Path) -> Time {
    Identity::load(state).unwrap().expires().unwrap()
}

#[test]
fn an_agent_renews_its_certificate_through_its_vsensor_once_a_third_of_its_life_is_over() {
    let master = Master::start();
    let rig = vsensor(&master);
    let young = master.member("young", Role::Agent, 5);
    let old = master.member("old", Role::Agent, 25);
    let (young_state, old_state) = (young.state.clone(), old.state.clone());
    let before = (expires(&young_state), expires(&old_state));
    let (first, _) = agent(young, rig.address);
    until("the young one is connected", || first.state().connected);
    first.stop(Default::default());
    let (second, heard) = agent(old, rig.address);
    until("the old one has its next certificate", || expires(&old_state) > before.1 + 20 * DAY);
    until("and is told", || heard.lock().unwrap().iter().any(|each| matches!(each, ToAgent::Renewed { .. })));
    second.stop(Default::default());
    assert_eq!(expires(&young_state), before.0, "a young certificate stays");
    let (again, _) = agent(Identity::load(&old_state).unwrap(), rig.address);
    until("it connects with the next one", || again.state().connected);
    again.stop(Default::default());
    rig.relay.stop();
}

#[test]
fn nobody_gets_a_certificate_with_a_key_that_has_none_or_for_somebody_else() {
    let (master, other) = (Master::start(), Master::start());
    let (mine, theirs) = (master.member("mine", Role::Agent, 1), master.member("theirs", Role::Agent, 1));
    let vsensor = master.member("vsensor", Role::Sensor, 1);
    let foreign = other.member("foreign", Role::Agent, 1);
    let expired = master.member("expired", Role::Agent, 40);
    let pem = |identity: &Identity| std::fs::read_to_string(identity.state.join("cert.pem")).unwrap();
    let renew = |request: &Identity, chain: String, id: u32| {
        let issued = master.issuer.renew(&request.request().unwrap(), &chain, Role::Agent, id, now());
        issued.map(|_| String::new()).unwrap_or_else(|error| error.to_string())
    };
    let id = mine.sensor.0;
    assert_eq!(renew(&mine, pem(&mine), id), "", "who has the key gets it");
    for (said, words) in [
        // A vSensor that wants the agent's certificate for its own key.
        (renew(&vsensor, pem(&mine), id), "another key"),
        (renew(&vsensor, pem(&vsensor), id), "somebody else"),
        // An agent that wants to be another one.
        (renew(&mine, pem(&mine), theirs.sensor.0), "somebody else"),
        (renew(&mine, pem(&theirs), theirs.sensor.0), "another key"),
        // Of another deployment, expired, and nothing at all.
        (renew(&foreign, pem(&foreign), foreign.sensor.0), "not valid"),
        (renew(&expired, pem(&expired), expired.sensor.0), "not valid"),
        (renew(&mine, String::new(), id), "no certificate"),
        (renew(&mine, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned(), id), "certificate"),
    ] {
        assert!(said.contains(words), "{said:?} should say {words:?}");
    }
    // A request whose signature is not by its key.
    let mut forged = mine.request().unwrap();
    *forged.last_mut().unwrap() ^= 1;
    assert!(master.issuer.renew(&forged, &pem(&mine), Role::Agent, id, now()).is_err());
    assert!(master.issuer.renew(b"no request", &pem(&mine), Role::Agent, id, now()).is_err());
}

#[test]
fn an_agent_that_is_refused_is_cut_off_says_why_and_comes_back_when_it_may() {
    let master = Master::start();
    let rig = vsensor(&master);
    let (link, _) = agent(master.member("agent", Role::Agent, 1), rig.address);
    until("it is connected", || link.state().connected);
    let why = "this OS-sensor was revoked at the master";
    *rig.refuses.lock().unwrap() = Some(why.to_owned());
    rig.sender.lock().unwrap().as_ref().unwrap().send(ToAgent::Refused { why: why.to_owned() });
    until("it is cut off", || !link.state().connected && link.state().words.contains(why));
    std::thread::sleep(Duration::from_millis(500));
    assert!(link.state().words.contains(why), "{:?}", link.state());
    *rig.refuses.lock().unwrap() = None;
    until("it is let in again", || link.state().connected);
    link.stop(Default::default());
    rig.relay.stop();
}

#[test]
fn a_sensor_is_no_agent_and_an_agent_of_another_deployment_is_not_let_in() {
    let (master, other) = (Master::start(), Master::start());
    let rig = vsensor(&master);
    for identity in [master.member("second", Role::Sensor, 0), other.member("foreign", Role::Agent, 0)] {
        let (link, _) = agent(identity, rig.address);
        std::thread::sleep(Duration::from_millis(700));
        assert!(rig.sender.lock().unwrap().is_none(), "{:?}", link.state());
        link.stop(Default::default());
    }
    rig.relay.stop();
}

/// Who is there: each agent's sender, and how often one came and went.
#[derive(Default)]
struct Seen {
    senders: BTreeMap<u32, AgentSender>,
    came: Vec<u32>,
    went: Vec<u32>,
}

#[derive(Clone, Default)]
struct Present(Arc<Mutex<Seen>>);

impl Present {
    fn send(&self, agent: u32, message: ToAgent) {
        let sender = self.0.lock().unwrap().senders.get(&agent).cloned();
        sender.inspect(|sender| sender.send(message));
    }

    fn came(&self, agent: u32) -> usize {
        self.0.lock().unwrap().came.iter().filter(|each| **each == agent).count()
    }

    fn went(&self, agent: u32) -> usize {
        self.0.lock().unwrap().went.iter().filter(|each| **each == agent).count()
    }
}

impl Agents for Present {
    fn enter(&mut self, agent: u32, _: &str, _: Ends, sender: AgentSender) -> Result<(), String> {
        let mut present = self.0.lock().unwrap();
        present.senders.insert(agent, sender);
        present.came.push(agent);
        Ok(())
    }

    fn leave(&mut self, agent: u32) {
        self.0.lock().unwrap().went.push(agent);
    }

    fn hear(&mut self, _: u32, _: ToRelay) {}
    fn take(&mut self, _: (u32, u64), _: &[u8], _: bool) {}
    fn take_late(&mut self, _: u32, _: &[u8]) {}
    fn batch(&mut self, _: u32, _: Vec<u8>) -> Result<(), String> {
        Ok(())
    }
    fn tick(&mut self) {}
}

/// Connects as this agent, says hello and that it lives, as long as it can, and reads nothing. Gives why it ended.
fn speak_and_never_read(identity: &Identity, address: SocketAddr) -> std::io::Error {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.root.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![thymus_link::tls::ALPN_AGENT.to_vec()];
    let name = thymus_link::issuer::SENSOR_NAME.try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).unwrap();
    }
    let mut say = |message: &ToRelay| {
        tls.writer().write_all(&WireFrame::control(message).encode())?;
        while tls.wants_write() {
            tls.write_tls(&mut socket)?;
        }
        Ok(())
    };
    let hello = ToRelay::Hello {
        software: String::new(),
        name: "deaf".to_owned(),
        boot: 1,
        taken: Default::default(),
        ended: Vec::new(),
    };
    let (left, metered, own) = <(Vec<_>, Vec<_>, Vec<_>)>::default();
    let alive = ToRelay::Alive { ledger: None, left, dropped: Default::default(), metered, own, time: None };
    let mut said = say(&hello);
    while said.is_ok() {
        std::thread::sleep(Duration::from_millis(50));
        said = say(&alive);
    }
    said.unwrap_err()
}

/// The most memory that this process has had, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
fn an_agent_that_never_reads_is_cut_off_at_bounded_cost_and_the_others_hear_everything() {
    let master = Master::start();
    let (identity, present) = (master.member("vsensor", Role::Sensor, 0), Present::default());
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let relay = Relay::start(identity, address, Box::new(present.clone())).unwrap();
    let (deaf, well) = (master.member("deaf", Role::Agent, 1), master.member("well", Role::Agent, 1));
    let (deaf_id, well_id) = (deaf.sensor.0, well.sensor.0);
    let (link, heard) = agent(well, address);
    let told = {
        let alive = link.control();
        move || {
            let (left, metered, own) = <(Vec<_>, Vec<_>, Vec<_>)>::default();
            alive.tell(ToRelay::Alive { ledger: None, left, dropped: Default::default(), metered, own, time: None });
        }
    };
    let deaf = std::thread::spawn(move || speak_and_never_read(&deaf, address));
    until("both are served", || {
        present.came(deaf_id) == 1 && {
            told();
            present.came(well_id) == 1
        }
    });
    // A group that changes all the time: 256 KiB in memory, and as much again on the wire, for each agent.
    let member = |id| Member { id, claims: vec![u64::MAX; 20], ..Member::default() };
    let group = Members { members: (0..1_000).map(member).collect(), ..Members::default() };
    let (before, mut sent) = (memory(), 0);
    while present.went(deaf_id) == 0 {
        assert!(sent < 4_000, "{sent} messages, a gigabyte, and it is still there");
        present.send(deaf_id, ToAgent::Members(group.clone()));
        present.send(well_id, ToAgent::Offset { nanoseconds: sent });
        sent += 1;
        told();
        let hears = || heard.lock().unwrap().iter().any(|each| *each == ToAgent::Offset { nanoseconds: sent - 1 });
        until("the other one hears what it is told", || {
            told();
            hears()
        });
    }
    let grown = memory() - before;
    assert!(grown < 48 << 20, "the vSensor grew by {grown} bytes for an agent that does not read");
    let ended = deaf.join().unwrap();
    assert!(matches!(ended.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe), "{ended}");
    let offsets: Vec<i64> = heard
        .lock()
        .unwrap()
        .iter()
        .filter_map(|each| match each {
            ToAgent::Offset { nanoseconds } => Some(*nanoseconds),
            _ => None,
        })
        .collect();
    assert_eq!(offsets, (0..sent).collect::<Vec<i64>>(), "each once, in order");
    assert_eq!((present.came(well_id), present.went(well_id)), (1, 0), "{:?}", link.state());
    link.stop(Default::default());
    relay.stop();
}
