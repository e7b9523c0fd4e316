//! `run`: capture, select, send, until SIGTERM.

use crate::capture::{Ring, cure, wait};
use crate::clock::Clock;
use crate::interfaces::chosen;
use crate::select::Select;
use crate::status::{Status, write};
use crate::system::host_name;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use thymus_link::Identity;
use thymus_link::agent::{AgentLink, AgentLinkParts};
use thymus_record::message::{AgentInterface, Policy, ToAgent, ToRelay};

/// A parcel that is not full is sent after this long.
const FLUSH_EVERY: Duration = Duration::from_millis(20);
const ALIVE_EVERY: Duration = Duration::from_millis(100);
const LEDGER_EVERY: Duration = Duration::from_secs(1);
const INTERFACES_EVERY: Duration = Duration::from_secs(2);
/// At the end, what was captured is still sent.
const LAST: Duration = Duration::from_millis(300);

/// Happens every so often.
struct Every {
    period: Duration,
    next: Duration,
}

impl Every {
    fn new(period: Duration) -> Every {
        Every { period, next: Duration::ZERO }
    }

    fn is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.period;
        }
        due
    }
}

/// The agent at work.
struct Agent {
    identity: Identity,
    link: AgentLink,
    heard: Receiver<Option<ToAgent>>,
    select: Select,
    policy: Policy,
    interfaces: Vec<AgentInterface>,
    rings: BTreeMap<String, Ring>,
    items: Vec<String>,
    members: usize,
}

/// Runs until told to stop.
pub fn run(state: &Path, stop: &AtomicBool) -> Result<(), String> {
    let identity = Identity::load(state).map_err(|error| error.to_string())?;
    let (tell, heard) = channel();
    let parts = AgentLinkParts {
        identity: Identity::load(state).map_err(|error| error.to_string())?,
        name: host_name(),
        software: format!("thymus-os-sensor {}", env!("CARGO_PKG_VERSION")),
        hear: Box::new(move |message| drop(tell.send(message))),
    };
    let link = AgentLink::start(parts).map_err(|error| format!("no link: {error}"))?;
    let select = Select::new(identity.sensor.0);
    let mut agent = Agent {
        identity,
        link,
        heard,
        select,
        policy: Policy::default(),
        interfaces: Vec::new(),
        rings: BTreeMap::new(),
        items: Vec::new(),
        members: 0,
    };
    agent.set_own();
    agent.look_at_interfaces();
    if agent.rings.is_empty() {
        let why = agent.items.join("; ");
        agent.link.stop();
        return Err(format!("nothing can be captured: {why}"));
    }
    agent.work(state, stop);
    Ok(())
}

impl Agent {
    fn work(mut self, state: &Path, stop: &AtomicBool) {
        let clock = Clock::new();
        let [mut flush, mut alive, mut ledger, mut interfaces] =
            [FLUSH_EVERY, ALIVE_EVERY, LEDGER_EVERY, INTERFACES_EVERY].map(Every::new);
        while !stop.load(Ordering::Relaxed) {
            wait(self.rings.values(), FLUSH_EVERY);
            self.drain();
            while let Ok(message) = self.heard.try_recv() {
                self.hear(message);
            }
            let now = clock.monotonic();
            if flush.is_due(now) {
                self.flush();
            }
            if interfaces.is_due(now) {
                self.set_own();
                self.look_at_interfaces();
            }
            if alive.is_due(now) {
                let told = ledger.is_due(now);
                if told {
                    let drops = self.rings.values().map(Ring::drops).sum();
                    self.select.kernel_dropped(drops);
                    write(state, &self.status());
                }
                let (left, dropped) = self.select.take_reports();
                self.link.tell(ToRelay::Alive { ledger: told.then(|| self.select.ledger()), left, dropped });
            }
        }
        self.drain();
        self.flush();
        std::thread::sleep(LAST);
        write(state, &self.status());
        self.link.stop();
    }

    fn drain(&mut self) {
        let Agent { rings, select, link, .. } = self;
        let mut send = |parcel| link.send(parcel);
        rings.values_mut().for_each(|ring| ring.drain(|frame| select.take(frame, &mut send)));
    }

    fn flush(&mut self) {
        let Agent { select, link, .. } = self;
        select.flush(&mut |parcel| link.send(parcel));
    }

    fn hear(&mut self, message: Option<ToAgent>) {
        match message {
            // A new connection: the vSensor must hear what we are.
            None => self.link.tell(ToRelay::Interfaces { interfaces: self.interfaces.clone() }),
            Some(ToAgent::Members(members)) => {
                self.members = members.members.len();
                let Agent { select, link, .. } = self;
                select.members(&members, &mut |parcel| link.send(parcel));
                self.flush();
            }
            Some(ToAgent::Policy(policy)) => {
                self.policy = policy.clone();
                self.select.set_policy(policy);
                self.look_at_interfaces();
            }
            Some(_) => {}
        }
    }

    /// Where the vSensors are now, by name or address.
    fn set_own(&mut self) {
        let resolve = |address: &String| address.to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
        let own: Vec<SocketAddr> =
            self.identity.addresses.iter().filter_map(|each| resolve(each).ok()).flatten().collect();
        if !own.is_empty() {
            self.select.set_own(own);
        }
    }

    /// Opens what came, closes what went, and tells the vSensor.
    fn look_at_interfaces(&mut self) {
        let now = chosen(&self.policy);
        self.items.clear();
        self.rings.retain(|name, _| now.iter().any(|each| each.name == *name));
        for interface in &now {
            if self.rings.contains_key(&interface.name) {
                continue;
            }
            match Ring::open(&interface.name) {
                Ok(ring) => {
                    tracing::info!("capturing {} ({})", interface.name, interface.addresses.join(" "));
                    self.rings.insert(interface.name.clone(), ring);
                }
                Err(error) => {
                    self.items.push(format!("{} cannot be captured: {error}{}", interface.name, cure(&error)));
                }
            }
        }
        if now.is_empty() {
            self.items.push("no interface is up but loopback".to_owned());
        }
        if now != self.interfaces {
            self.interfaces = now;
            self.link.tell(ToRelay::Interfaces { interfaces: self.interfaces.clone() });
        }
    }

    fn status(&self) -> Status {
        let link = self.link.state();
        Status {
            connected: link.connected,
            link: link.words,
            id: self.identity.sensor.0,
            group: self.identity.group.clone(),
            interfaces: self.interfaces.clone(),
            members: self.members,
            epoch: self.select.epoch(),
            ledger: self.select.ledger(),
            items: self.items.clone(),
            taken: Clock::wall(),
            pid: std::process::id(),
        }
    }
}
