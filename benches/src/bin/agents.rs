//! Many agents of one vSensor: each joins for its own certificate, connects over mutual TLS, tells its interfaces, gives
//! ten signs of life a second and sends frames. Prints one line of JSON: how many joined and connected, how long that
//! took, how many frames were sent and taken, and what an agent was told.
//!
//! `agents TOKEN FOLDER AGENTS SECONDS` (the folder keeps identities, so that a second run need not join again)

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thymus_link::Identity;
use thymus_link::agent::{AgentLink, AgentLinkParts, Allowance, FrameHead, Spares, put_frame};
use thymus_record::Time;
use thymus_record::ledger::Count;
use thymus_record::message::{AgentInterface, AgentLedger, ToAgent, ToRelay};
use thymus_sensor::clock::{Clock, SystemClock};

/// Frames that an agent sends in a second.
const FRAMES: u32 = 20;
/// At the end, what was sent is taken before the links end.
const LAST: Duration = Duration::from_secs(2);
/// Joiners at once.
const JOINERS: usize = 8;

fn wall() -> Time {
    SystemClock::default().wall()
}

/// What agents heard.
#[derive(Default)]
struct Heard {
    connections: AtomicU64,
    refusals: AtomicU64,
    members: AtomicU64,
    member_bytes: AtomicU64,
}

struct Agent {
    link: AgentLink,
    address: [u8; 4],
    interfaces: Vec<AgentInterface>,
    told: bool,
    ledger: AgentLedger,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, token, folder, agents, seconds] = args.as_slice() else {
        eprintln!("agents TOKEN FOLDER AGENTS SECONDS");
        return ExitCode::from(2);
    };
    let (Ok(agents), Ok(seconds)) = (agents.parse(), seconds.parse()) else {
        eprintln!("agents: AGENTS and SECONDS are numbers");
        return ExitCode::from(2);
    };
    match run(token, Path::new(folder), agents, Duration::from_secs(seconds)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("agents: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(token: &str, folder: &Path, count: usize, so_long: Duration) -> Result<String, String> {
    let clock = SystemClock::default();
    let states: Vec<PathBuf> = (0..count).map(|number| folder.join(format!("agent{number}"))).collect();
    std::thread::scope(|scope| {
        let chunks = states.chunks(count.div_ceil(JOINERS).max(1));
        let joiners: Vec<_> = chunks.map(|chunk| scope.spawn(move || join_all(token, chunk))).collect();
        joiners.into_iter().try_for_each(|joiner| joiner.join().unwrap_or_else(|_| Err("a joiner panicked".to_owned())))
    })?;
    let joined = clock.monotonic();
    let heard = Arc::<Heard>::default();
    let agents: Result<Vec<Agent>, String> = states.iter().map(|state| start(state, &heard)).collect();
    let mut agents = agents?;
    let connected = drive(&mut agents, so_long);
    let sent: u64 = agents.iter().map(|agent| agent.ledger.sent.packets).sum();
    let shed: u64 = agents.iter().map(|agent| agent.ledger.shed.packets).sum();
    let here = agents.iter().filter(|agent| agent.link.state().connected).count();
    // One after the other they fall silent now, and are cut off: that no longer counts.
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let [connections, members, member_bytes] = [&heard.connections, &heard.members, &heard.member_bytes].map(of);
    agents.into_iter().for_each(|agent| drop(agent.link.stop(agent.ledger.sent)));
    Ok(format!(
        "{{\"agents\":{count},\"join_seconds\":{:.1},\"connect_seconds\":{:.1},\"connected_at_the_end\":{here},\
         \"connections\":{},\"refusals\":{},\"frames_sent\":{sent},\"frames_shed\":{shed},\"member_messages\":{},\
         \"member_bytes\":{}}}",
        joined.as_secs_f64(),
        connected.as_secs_f64(),
        connections,
        of(&heard.refusals),
        members,
        member_bytes,
    ))
}

fn join_all(token: &str, states: &[PathBuf]) -> Result<(), String> {
    for state in states {
        if Identity::load(state).is_err() {
            let name = state.file_name().unwrap_or_default().to_string_lossy();
            thymus_link::enrol::join(token, state, None, &name).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn start(state: &Path, heard: &Arc<Heard>) -> Result<Agent, String> {
    let identity = Identity::load(state).map_err(|error| error.to_string())?;
    let [_, _, high, low] = identity.sensor.0.to_be_bytes();
    let address = [10, 9, high, low];
    let heard = Arc::clone(heard);
    let hear = move |message: Option<ToAgent>| match message {
        None => {
            heard.connections.fetch_add(1, Ordering::Relaxed);
        }
        Some(ToAgent::Refused { .. }) => {
            heard.refusals.fetch_add(1, Ordering::Relaxed);
        }
        Some(ToAgent::Members(members)) => {
            heard.members.fetch_add(1, Ordering::Relaxed);
            // As long as on the link, near enough: an id, its claims, and names.
            let bytes = members.members.iter().map(|member| 45 + 21 * member.claims.len() as u64).sum();
            heard.member_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Some(_) => {}
    };
    let parts = AgentLinkParts {
        identity,
        name: state.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        software: "agents".to_owned(),
        wall,
        run: (wall().0, Vec::new()),
        late: None,
        batches: None,
        spares: Spares::default(),
        allowance: Allowance::default(),
        hear: Box::new(hear),
    };
    let link = AgentLink::start(parts).map_err(|error| format!("no link: {error}"))?;
    let text = address.map(|byte| byte.to_string()).join(".");
    let interfaces = vec![AgentInterface { name: "eth0".to_owned(), addresses: vec![text], mac: String::new() }];
    Ok(Agent { link, address, interfaces, told: false, ledger: AgentLedger::default() })
}

/// Ten signs of life a second from each, and frames once a second, until the time is over; gives how long it took until
/// all were connected.
fn drive(agents: &mut [Agent], so_long: Duration) -> Duration {
    let (clock, mut connected, mut turn) = (SystemClock::default(), None, 0u32);
    while clock.monotonic() < connected.map_or(so_long * 4, |at: Duration| at + so_long + LAST) {
        let next = Duration::from_millis(100) * turn;
        std::thread::sleep(next.saturating_sub(clock.monotonic()));
        let mut here = 0;
        for (number, agent) in agents.iter_mut().enumerate() {
            // There is no capture that would have to leave our own stream out.
            let _ = agent.link.new_peers();
            let is_here = agent.link.state().connected;
            here += usize::from(is_here);
            if is_here && !agent.told {
                agent.link.tell(ToRelay::Interfaces { interfaces: agent.interfaces.clone() });
            }
            agent.told = is_here;
            let is_full = (turn as usize + number).is_multiple_of(10);
            let ledger = is_full.then(|| Box::new(agent.ledger));
            agent.link.tell(ToRelay::Alive {
                ledger,
                left: Vec::new(),
                dropped: Default::default(),
                metered: Vec::new(),
                own: Vec::new(),
                time: Some(wall()),
            });
            if is_full && connected.is_some_and(|at| clock.monotonic() < at + so_long) {
                send(agent, turn);
            }
        }
        if here == agents.len() && connected.is_none() {
            connected = Some(clock.monotonic());
        }
        turn += 1;
    }
    connected.unwrap_or(Duration::MAX)
}

/// A second's frames of an agent: UDP to a host without an agent, all different.
fn send(agent: &mut Agent, turn: u32) {
    let mut parcel = Vec::with_capacity(FRAMES as usize * 120);
    let mut count = Count::default();
    for number in 0..FRAMES {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 88, 0, 1, 0, 0, 64, 17, 0, 0];
        frame.extend_from_slice(&agent.address);
        frame.extend_from_slice(&[192, 0, 2, 1, 0x20, 0, 0x23, 0x28, 0, 68, 0, 0]);
        frame.extend_from_slice(&turn.to_be_bytes());
        frame.extend_from_slice(&number.to_be_bytes());
        frame.resize(102, 7);
        let head = FrameHead { time: wall(), wire_len: 102, shared: true, again: false };
        put_frame(&mut parcel, &head, &frame);
        count.add(102);
    }
    agent.ledger.seen += count;
    match agent.link.send(parcel) {
        Ok(()) => agent.ledger.sent += count,
        Err(_) => agent.ledger.shed += count,
    }
    agent.link.go();
}
