//! The whole link over real TLS on loopback: joining, delivering, answering, and what wrong peers get.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use base64::Engine;
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
use thymus_record::message::{Health, Held, Hello, ToMaster, ToSensor};
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
    renews: Arc<AtomicBool>,
    revokes: Arc<AtomicBool>,
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
        let revokes: Arc<AtomicBool> = Arc::default();
        let revoked = Arc::clone(&revokes);
        let revoked = Arc::new(move |_, _: &[u8]| revoked.load(Ordering::Acquire));
        let listener = Arc::new(Listener::new(Arc::clone(&issuer), book.clone(), revoked).unwrap());
        let (held, answers, cut, renews) = <(Arc<_>, Arc<_>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let state =
            (Arc::clone(&held), Arc::clone(&answers), Arc::clone(&cut), Arc::clone(&renews), Arc::clone(&issuer));
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
        Master { book, issuer, address, held, answers, cut, renews, revokes, _dir: dir, _runtime: runtime }
    }

    fn token(&self, uses: u32) -> String {
        let (token, grant) = self.issuer.issue_token(vec![self.address.to_string()]);
        self.book.grants.lock().unwrap().push((grant, uses));
        token.to_string()
    }
}

type Shared = (Arc<Mutex<BTreeSet<(u64, u64)>>>, Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>, Arc<AtomicBool>, Arc<Issuer>);

async fn serve(link: thymus_link::listener::SensorLink, (held, answers, cut, renews, issuer): Shared) {
    let known: Vec<Held> = held
        .lock()
        .unwrap()
        .iter()
        .map(|(boot, at)| Held { boot: BootId(*boot), ranges: vec![(*at, *at)], ..Held::default() })
        .collect();
    let (sender, mut receiver) = link.split(Hello { held: known, ..Hello::default() });
    sender.send(ToSensor::Query { id: 5, query: PcapQuery::default() }).await;
    if renews.load(Ordering::Acquire) {
        sender.send(ToSensor::Renew {}).await;
    }
    while let Ok(Some(message)) = receiver.next().await {
        match message {
            FromSensor::Batch(bytes) => {
                let sequence = u64::from_le_bytes(*bytes.first_chunk().unwrap());
                held.lock().unwrap().insert((7, sequence));
                // Cut before it is acknowledged: the sensor must bring nothing twice into its counts.
                if cut.swap(false, Ordering::AcqRel) {
                    return;
                }
                sender
                    .send(ToSensor::Acknowledge(Held {
                        boot: BootId(7),
                        ranges: vec![(sequence, sequence)],
                        ..Held::default()
                    }))
                    .await;
            }
            FromSensor::Packets { bytes, .. } => {
                answers.lock().unwrap().extend(bytes);
                sender.send(ToSensor::Credit { id: 5, pieces: 1 }).await;
            }
            FromSensor::Control(ToMaster::Renew { request }) => {
                let request = base64::engine::general_purpose::STANDARD.decode(request).unwrap();
                let chain = issuer.sign(&request, Role::Sensor, 1, now()).unwrap();
                sender.send(ToSensor::Renewed { chain }).await;
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
        agents: Vec::new(),
        relayed: Arc::new(|_, _| ()),
        spool: Arc::clone(spool),
        answer: Arc::new(Long),
        health: Arc::new(Health::default),
        exchange: Arc::default(),
    })
    .unwrap()
}

fn push(spool: &Spool, sequence: u64) {
    let mut bytes = sequence.to_le_bytes().to_vec();
    bytes.resize(90_000, 1);
    spool.push(SpooledBatch { sensor: SensorId(1), boot: BootId(7), sequence, records: 2, bytes }).unwrap();
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
fn a_sensor_that_joined_by_another_way_keeps_to_it() {
    let master = Master::start();
    let dir = tempfile::tempdir().unwrap();
    let mut token = master.token(1).parse::<thymus_link::Token>().unwrap();
    token.addresses = vec!["127.0.0.1:1".to_owned()];
    let (token, way) = (token.to_string(), master.address.to_string());
    let said = join(&token, &dir.path().join("state"), None, "host").unwrap_err().to_string();
    assert!(said.contains("127.0.0.1:1"), "{said}");
    let identity = join(&token, &dir.path().join("state"), Some(&way), "host").unwrap();
    assert_eq!(identity.addresses, [way.as_str(), "127.0.0.1:1"]);
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

#[test]
fn an_old_certificate_is_renewed_over_the_link_and_only_for_its_own_key() {
    let master = Master::start();
    let dir = tempfile::tempdir().unwrap();
    let (state, other) = (dir.path().join("state"), dir.path().join("other"));
    let identity = join(&master.token(1), &state, None, "host").unwrap();
    let stranger = join(&master.token(1), &other, None, "host").unwrap();
    let day = 86_400_000_000_000;
    let sign = |request: &[u8], id: u32, at: Time| master.issuer.sign(request, Role::Sensor, id, at).unwrap();
    for (chain, words) in [
        (sign(&stranger.request().unwrap(), 1, now()), "for another key"),
        (sign(&identity.request().unwrap(), 2, now()), "for somebody else"),
        ("no certificate".to_owned(), "damaged"),
    ] {
        let said = identity.renew(&chain).unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(Identity::load(&state).unwrap().expires(), identity.expires());
    let next = sign(&identity.request().unwrap(), 1, now() + day / 2);
    identity.renew(&next).unwrap();
    assert!(Identity::load(&state).unwrap().expires() > identity.expires());
    // The link asks by itself: the master sends Renew, and signs what comes.
    master.renews.store(true, Ordering::Release);
    let before = Identity::load(&state).unwrap().chain;
    let spool = Arc::new(Spool::open(&dir.path().join("spool"), SpoolLimits::default()).unwrap());
    let uplink = uplink(identity, &spool);
    let mut waited = 0;
    while Identity::load(&state).unwrap().chain == before && waited < 200 {
        std::thread::sleep(Duration::from_millis(50));
        waited += 1;
    }
    assert!(Identity::load(&state).unwrap().chain != before);
    push(&spool, 0);
    assert!(uplink.drain(Duration::from_secs(20)), "renewing loses nothing");
    uplink.stop();
}

#[test]
fn expired_and_revoked_sensors_are_refused_with_the_cure() {
    let master = Master::start();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let identity = join(&master.token(1), &state, None, "host").unwrap();
    let spool = Arc::new(Spool::open(&dir.path().join("spool"), SpoolLimits::default()).unwrap());
    push(&spool, 0);
    let words_of = |identity: Identity, wanted: &str| {
        let uplink = uplink(identity, &spool);
        let mut waited = 0;
        while !uplink.state().words.contains(wanted) && waited < 200 {
            std::thread::sleep(Duration::from_millis(50));
            waited += 1;
        }
        let state = uplink.state();
        uplink.stop();
        assert!(!state.connected && state.words.contains(wanted), "{state:?}");
    };
    let old = Time(now().0 - 60 * 86_400_000_000_000);
    let expired = master.issuer.sign(&identity.request().unwrap(), Role::Sensor, 1, old).unwrap();
    identity.renew(&expired).unwrap();
    words_of(Identity::load(&state).unwrap(), "our certificate has expired");
    let fresh = master.issuer.sign(&identity.request().unwrap(), Role::Sensor, 1, now()).unwrap();
    identity.renew(&fresh).unwrap();
    master.revokes.store(true, Ordering::Release);
    words_of(Identity::load(&state).unwrap(), "was revoked at the master");
    assert_eq!(spool.counts().batches, 1, "what was not delivered is kept");
    master.revokes.store(false, Ordering::Release);
    let uplink = uplink(Identity::load(&state).unwrap(), &spool);
    assert!(uplink.drain(Duration::from_secs(20)));
    uplink.stop();
}
