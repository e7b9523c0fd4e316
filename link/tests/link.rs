//! The whole link over real TLS on loopback: joining, delivering, answering, and what wrong peers get.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thymus_link::enrol::{Redeemed, TokenBook, join};
use thymus_link::issuer::TokenGrant;
use thymus_link::spool::{SpoolLimits, SpooledBatch};
use thymus_link::uplink::UplinkParts;
use thymus_link::{Accepted, Answer, FromSensor, Identity, Issuer, Listener, Role, Spool, Uplink};
use thymus_record::message::{Health, Held, Hello, ToSensor};
use thymus_record::query::{PcapQuery, QueryReport};
use thymus_record::{BootId, SensorId, Time};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// 2026-11-24, as the tests' clock.
fn now() -> Time {
    let wall = std::time::UNIX_EPOCH.elapsed().unwrap();
    Time(u64::try_from(wall.as_nanos()).unwrap())
}

#[derive(Default)]
struct Book {
    grants: Mutex<Vec<(TokenGrant, u32)>>,
    next: Mutex<u32>,
}

impl TokenBook for Book {
    fn public_key(&self, id: &[u8; 16], _: Time, _: IpAddr) -> Result<[u8; 32], String> {
        let grants = self.grants.lock().unwrap();
        let grant = grants.iter().find(|grant| grant.0.id == *id).ok_or("the master does not know this token")?;
        if grant.1 == 0 { Err("the token is used up".to_owned()) } else { Ok(grant.0.public_key) }
    }

    fn redeem(&self, id: &[u8; 16], _: Time, _: IpAddr, _: &str) -> Result<Redeemed, String> {
        let mut grants = self.grants.lock().unwrap();
        grants.iter_mut().find(|grant| grant.0.id == *id).unwrap().1 -= 1;
        let mut next = self.next.lock().unwrap();
        *next += 1;
        Ok(Redeemed { sensor: SensorId(*next), group: "blue".to_owned(), role: Role::Sensor })
    }
}

/// A master that keeps what it gets and asks one question.
struct Master {
    book: Arc<Book>,
    issuer: Arc<Issuer>,
    address: SocketAddr,
    held: Arc<Mutex<BTreeSet<(u64, u64)>>>,
    answers: Arc<Mutex<Vec<u8>>>,
    cut: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
    _runtime: Runtime,
}

impl Master {
    fn start() -> Master {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Arc::new(Issuer::open_or_create(dir.path(), &["localhost".to_owned()], now()).unwrap());
        let book = Arc::new(Book::default());
        let runtime = Runtime::new().unwrap();
        let socket = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = socket.local_addr().unwrap();
        let listener =
            Arc::new(Listener::new(Arc::clone(&issuer), book.clone(), Arc::new(|sensor, _| sensor.0 == 66)).unwrap());
        let (held, answers, cut) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let state = (Arc::clone(&held), Arc::clone(&answers), Arc::clone(&cut));
        runtime.spawn(async move {
            loop {
                let (stream, peer) = socket.accept().await.unwrap();
                let (listener, state) = (Arc::clone(&listener), state.clone());
                tokio::spawn(async move {
                    if let Ok(Accepted::Sensor(_, link)) = listener.accept(stream, peer, now()).await {
                        serve(*link, state).await;
                    }
                });
            }
        });
        Master { book, issuer, address, held, answers, cut, _dir: dir, _runtime: runtime }
    }

    fn token(&self, uses: u32) -> String {
        let (token, grant) = self.issuer.issue_token(vec![self.address.to_string()]);
        self.book.grants.lock().unwrap().push((grant, uses));
        token.to_string()
    }
}

type Shared = (Arc<Mutex<BTreeSet<(u64, u64)>>>, Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>);

async fn serve(link: thymus_link::listener::SensorLink, (held, answers, cut): Shared) {
    let known: Vec<Held> =
        held.lock().unwrap().iter().map(|(boot, at)| Held { boot: BootId(*boot), ranges: vec![(*at, *at)] }).collect();
    let (sender, mut receiver) = link.split(Hello { held: known, ..Hello::default() });
    sender.send(ToSensor::Query { id: 5, query: PcapQuery::default() }).await;
    while let Ok(Some(message)) = receiver.next().await {
        match message {
            FromSensor::Batch(bytes) => {
                let sequence = u64::from_le_bytes(*bytes.first_chunk().unwrap());
                held.lock().unwrap().insert((7, sequence));
                // Cut before it is acknowledged: the sensor must bring nothing twice into its counts.
                if cut.swap(false, Ordering::AcqRel) {
                    return;
                }
                sender.send(ToSensor::Acknowledge(Held { boot: BootId(7), ranges: vec![(sequence, sequence)] })).await;
            }
            FromSensor::Packets { bytes, .. } => {
                answers.lock().unwrap().extend(bytes);
                sender.send(ToSensor::Credit { id: 5, pieces: 1 }).await;
            }
            FromSensor::Control(_) => {}
        }
    }
}

struct Long;

impl Answer for Long {
    fn answer(&self, _: &PcapQuery, _: &AtomicBool, out: &mut dyn FnMut(&[u8]) -> bool) -> Result<QueryReport, String> {
        for piece in 0..100u8 {
            if !out(&vec![piece; 64 << 10]) {
                return Err("nobody is there".to_owned());
            }
        }
        Ok(QueryReport::default())
    }
}

fn uplink(identity: Identity, spool: &Arc<Spool>) -> Uplink {
    Uplink::start(UplinkParts {
        identity,
        boot: Arc::new(AtomicU64::new(7)),
        software: "test".to_owned(),
        name: "test".to_owned(),
        spool: Arc::clone(spool),
        answer: Arc::new(Long),
        health: Arc::new(Health::default),
    })
    .unwrap()
}

fn push(spool: &Spool, sequence: u64) {
    let mut bytes = sequence.to_le_bytes().to_vec();
    bytes.resize(90_000, 1);
    spool.push(SpooledBatch { boot: BootId(7), sequence, records: 2, bytes }).unwrap();
}

#[test]
fn a_sensor_joins_delivers_and_answers_across_a_cut() {
    let master = Master::start();
    let dir = tempfile::tempdir().unwrap();
    let identity = join(&master.token(1), &dir.path().join("state"), None, "host").unwrap();
    assert_eq!((identity.sensor, identity.group.as_str()), (SensorId(1), "blue"));
    let spool = Arc::new(Spool::open(&dir.path().join("spool"), SpoolLimits::default()).unwrap());
    (0..30).for_each(|sequence| push(&spool, sequence));
    let uplink = uplink(identity, &spool);
    std::thread::sleep(Duration::from_millis(300));
    master.cut.store(true, Ordering::Release);
    (30..100).for_each(|sequence| push(&spool, sequence));
    assert!(uplink.drain(Duration::from_secs(30)), "{:?} {:?}", spool.counts(), uplink.state());
    assert_eq!(spool.counts().acknowledged_records, 200, "each record is acknowledged exactly once");
    assert_eq!(master.held.lock().unwrap().len(), 100);
    let mut waited = 0;
    while master.answers.lock().unwrap().len() < 100 << 16 && waited < 200 {
        std::thread::sleep(Duration::from_millis(50));
        waited += 1;
    }
    assert!(master.answers.lock().unwrap().len() >= 100 << 16, "an answer beyond its first credit arrives whole");
    uplink.stop();
}

#[test]
fn wrong_tokens_are_refused_in_words_and_leave_nothing() {
    let (master, other) = (Master::start(), Master::start());
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let good = master.token(1);
    let mut secret = good.parse::<thymus_link::Token>().unwrap();
    secret.seed = [9; 32];
    let mut foreign = other.token(1).parse::<thymus_link::Token>().unwrap();
    foreign.addresses = vec![master.address.to_string()];
    let mut nowhere = good.parse::<thymus_link::Token>().unwrap();
    nowhere.addresses = vec!["127.0.0.1:1".to_owned()];
    for (token, words) in [
        (String::new(), "empty"),
        (good[..good.len() - 8].to_owned(), "damaged or cut short"),
        (secret.to_string(), "secret is wrong"),
        (foreign.to_string(), "may be of another master"),
        (nowhere.to_string(), "no master answers"),
        (master.token(0), "used up"),
    ] {
        let said = join(&token, &state, None, "host").unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
        assert!(!state.join("identity.toml").exists());
    }
    join(&good, &state, None, "host").unwrap();
    let said = join(&good, &dir.path().join("second"), None, "host").unwrap_err().to_string();
    assert!(said.contains("used up"), "{said}");
    let said = join(&master.token(1), &state, None, "host").unwrap_err().to_string();
    assert!(said.contains("already holds"), "{said}");
}

#[test]
fn a_sensor_of_another_deployment_and_random_bytes_are_not_let_in() {
    let (master, other) = (Master::start(), Master::start());
    let dir = tempfile::tempdir().unwrap();
    let mut identity = join(&other.token(1), &dir.path().join("state"), None, "host").unwrap();
    identity.addresses = vec![master.address.to_string()];
    let spool = Arc::new(Spool::open(&dir.path().join("spool"), SpoolLimits::default()).unwrap());
    push(&spool, 0);
    let uplink = uplink(identity, &spool);
    assert!(!uplink.drain(Duration::from_secs(2)));
    assert!(!uplink.state().connected && uplink.state().words.contains("link is down"), "{:?}", uplink.state());
    uplink.stop();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 600]] {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(master.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0; 64]);
    }
    join(&master.token(1), &dir.path().join("again"), None, "host").unwrap();
}
