//! `run`: capture, select, send, until SIGTERM.

/// What it shows of itself.
mod shown;

use crate::capture::{Ring, cure, name_now, wait};
use crate::clock::Clock;
use crate::cost::{Capped, Cost, Meter};
use crate::every::Every;
use crate::gate::Gate;
use crate::interfaces::chosen;
use crate::meter::MeterParts;
use crate::owners::Owners;
use crate::select::Select;
use crate::status::{Status, ended, load_policy, save_policy, write};
use crate::system::host_name;
use crate::views::Card;
use crate::waiting::Waiting;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use thymus_forward::SharedOwners;
use thymus_link::Identity;
use thymus_link::agent::{AgentLink, AgentLinkParts};
use thymus_record::ledger::Count;
use thymus_record::message::{AgentInterface, Members, Policy, ToAgent, ToRelay};
use thymus_record::owner::Owner;
use thymus_witness::Report;

/// While nothing is captured, whatever else there is to do waits so long; a new vSensor is spoken to a little later.
const IDLE: Duration = Duration::from_millis(50);
/// Between two looks while the cap on CPU allows nothing.
const REST: Duration = Duration::from_millis(20);
const ALIVE_EVERY: Duration = Duration::from_millis(100);
const LEDGER_EVERY: Duration = Duration::from_secs(1);
const INTERFACES_EVERY: Duration = Duration::from_millis(500);
/// Connections whose owners are remembered for rows that are made here.
const OWNERS_MAX: usize = 16_384;
/// A vSensor that is silent for longer is not there: what others were to send is sent, while it is still remembered.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// At the end, what was captured is still sent.
const LAST: Duration = Duration::from_millis(300);

/// The agent at work.
struct Agent {
    state: PathBuf,
    identity: Identity,
    link: AgentLink,
    heard: Receiver<Option<ToAgent>>,
    gate: Gate,
    select: Select,
    owners: Option<Owners>,
    /// What is told of flows beside their packets, for rows that are made here.
    book: SharedOwners,
    policy: Policy,
    interfaces: Vec<AgentInterface>,
    rings: BTreeMap<String, Ring>,
    /// What is wrong with the interfaces, with the policy, and with the certificate.
    items: [Vec<String>; 3],
    own: Vec<SocketAddr>,
    /// When the vSensor was last heard, on the agent's clock; nothing once it was given up.
    heard_at: Option<Duration>,
    /// The vSensor's name.
    vsensor: String,
    meter: Meter,
    cost: Cost,
    waiting: Waiting,
    peers: Vec<SocketAddr>,
    /// What the limits took in the last second.
    capped: Capped,
}

/// Runs until told to stop.
pub fn run(state: &Path, spool_bytes: u64, stop: &AtomicBool) -> Result<(), String> {
    let identity = Identity::load(state).map_err(|error| error.to_string())?;
    let (tell, heard) = channel();
    let waiting = Waiting::open(state, spool_bytes);
    let (run, boot) = (rand::random(), Arc::new(AtomicU64::new(rand::random())));
    let book = SharedOwners::with_max(OWNERS_MAX);
    let mut select = Select::new(identity.sensor.0);
    let parts = AgentLinkParts {
        identity: Identity::load(state).map_err(|error| error.to_string())?,
        name: host_name(),
        software: format!("thymus-os-sensor {}", env!("CARGO_PKG_VERSION")),
        wall: Clock::wall,
        spares: select.spares(),
        run: (run, ended(state)),
        allowance: select.allowance(),
        late: waiting.parcels.clone(),
        batches: waiting.batches.clone().map(|spool| (spool, Arc::clone(&boot))),
        hear: Box::new(move |message| drop(tell.send(message))),
    };
    let link = AgentLink::start(parts).map_err(|error| format!("no link: {error}"))?;
    // Until the vSensor says otherwise, what it said last.
    let policy = load_policy(state);
    let gate = Gate::new(&policy, &[]).map_err(|error| error.to_string())?;
    if let Some(spool) = waiting.batches.clone() {
        let (agent, group, secret) = (identity.sensor, identity.group.clone(), [rand::random(), rand::random()]);
        select.set_meter(MeterParts { agent, group, boot, secret, spool, owners: book.clone() });
    }
    select.set_policy(policy.clone());
    let mut agent = Agent {
        state: state.to_owned(),
        identity,
        link,
        heard,
        gate,
        select,
        owners: None,
        book: book.clone(),
        policy,
        interfaces: Vec::new(),
        rings: BTreeMap::new(),
        items: Default::default(),
        own: Vec::new(),
        heard_at: None,
        vsensor: String::new(),
        meter: Meter::default(),
        cost: Cost::default(),
        capped: Capped::default(),
        waiting,
        peers: Vec::new(),
    };
    agent.watch_owners(book);
    agent.look_at_interfaces();
    if agent.rings.is_empty() && !agent.interfaces.is_empty() {
        let why = agent.items.concat().join("; ");
        agent.link.stop(Count::default());
        return Err(format!("nothing can be captured: {why}"));
    }
    agent.work(stop);
    Ok(())
}

impl Agent {
    fn work(mut self, stop: &AtomicBool) {
        let [mut alive, mut ledger, mut interfaces] = [ALIVE_EVERY, LEDGER_EVERY, INTERFACES_EVERY].map(Every::new);
        while !stop.load(Ordering::Relaxed) {
            let is_open = self.gate.is_open();
            if is_open {
                wait(self.rings.values(), IDLE);
            } else {
                std::thread::sleep(REST);
            }
            self.look_at_peers();
            self.gate.turn(&mut self.select, self.link.is_connected());
            if is_open {
                self.drain();
            }
            let now = self.gate.now();
            if self.select.is_late(now) {
                // Stopped since: what came meanwhile is taken first, by who was known before.
                continue;
            }
            while let Ok(message) = self.heard.try_recv() {
                if self.heard_at.replace(now).is_none() {
                    self.select.recall();
                }
                self.hear(message);
            }
            if self.heard_at.is_some_and(|at| now.saturating_sub(at) > SILENCE_MAX) {
                self.heard_at = None;
                self.members(None);
            }
            self.flush();
            if interfaces.is_due(now) {
                self.set_own();
                self.look_at_interfaces();
            }
            if alive.is_due(now) {
                let told = ledger.is_due(now);
                if told {
                    self.select.note_link(self.link.unwanted_rows(), self.waiting.bytes());
                    self.take_stock(now);
                }
                self.tell_views();
                let (Report { left, own }, dropped) = self.select.take_reports();
                let (metered, time) = (self.select.take_metered(), Some(self.select.time(Clock::wall())));
                let ledger = told.then(|| Box::new(self.select.ledger()));
                self.link.tell(ToRelay::Alive { ledger, left, dropped, metered, own, time });
            }
        }
        self.drain();
        self.flush();
        self.tell_views();
        self.select.finish();
        std::thread::sleep(LAST);
        let status = self.status();
        write(&self.state, &status);
        if let Some(owners) = self.owners {
            owners.stop();
        }
        // What is in its memory went on disk, as far as it took it.
        let ended = self.link.stop(status.ledger.sent);
        write(&self.state, &Status { ended, ..status });
    }

    /// Once a second: what the kernel dropped, what all of it costs, and who is to know.
    fn take_stock(&mut self, now: Duration) {
        let capped = self.gate.take_capped();
        let drops = self.rings.values().map(Ring::drops).sum();
        self.select.kernel_dropped(drops, capped);
        let mbps_packets = self.select.shed_reasons().mbps.packets;
        self.capped = Capped { cpu: capped, mbps: mbps_packets > self.capped.mbps_packets, mbps_packets };
        let ledger = self.select.ledger();
        self.cost = self.meter.look(now, &ledger, self.select.sent_bytes() + ledger.metadata_bytes);
        let status = self.status();
        write(&self.state, &status);
        self.link.tell(ToRelay::State(Box::new(status.state)));
    }

    /// Looks up who holds this host's ends of connections, where the system lets us.
    fn watch_owners(&mut self, book: SharedOwners) {
        let (control, group) = (self.link.control(), self.identity.group.clone());
        let tell = move |owners: Vec<Owner>| {
            // Rows that are made here get them here.
            owners.iter().for_each(|owner| book.add(&group, owner.clone()));
            control.tell(ToRelay::Owners { owners });
        };
        match Owners::start(&self.state, &self.identity.group, rand::random(), Box::new(tell)) {
            Ok((owners, watch)) => {
                self.select.watch(watch);
                self.owners = Some(owners);
            }
            Err(error) => tracing::warn!("users and processes are not told: {error}"),
        }
    }

    /// Conversations that this host translates; rows that are made here are marked here.
    fn tell_views(&mut self) {
        let views = self.select.views().take_told();
        if !views.is_empty() {
            views.iter().for_each(|view| self.book.add_view(&self.identity.group, None, view));
            self.link.tell(ToRelay::Views { views });
        }
    }

    fn drain(&mut self) {
        let Agent { rings, gate, select, link, .. } = self;
        for (card, ring) in rings.values_mut().enumerate() {
            let in_kernel = ring.is_filtering();
            select.views().look_at(card);
            ring.drain(&mut gate.intake(select, in_kernel, |parcel| link.send(parcel)));
        }
    }

    fn flush(&mut self) {
        let Agent { select, link, .. } = self;
        select.flush(&mut |parcel| link.send(parcel));
        link.go();
    }

    fn hear(&mut self, message: Option<ToAgent>) {
        match message {
            // A new connection: the vSensor must hear what we are.
            None => {
                self.set_own();
                self.link.tell(ToRelay::Interfaces { interfaces: self.interfaces.clone() });
                self.select.forget_flows();
            }
            Some(ToAgent::Members(part)) => self.members(Some(&part)),
            Some(ToAgent::Policy(policy)) => self.follow(policy),
            Some(ToAgent::Hello { name }) => self.vsensor = name.chars().take(64).collect(),
            Some(ToAgent::Renewed { .. }) => self.items[2].clear(),
            Some(ToAgent::RenewRefused { why }) => {
                self.items[2] = vec![format!("the next certificate is refused: {why}")];
            }
            Some(ToAgent::Offset { nanoseconds }) => self.select.set_offset(nanoseconds),
            Some(_) => {}
        }
    }

    /// Another policy, from the next packet on; one that cannot be followed changes nothing.
    fn follow(&mut self, policy: Policy) {
        let taken = policy.check().and_then(|()| self.gate.set(&policy, &self.own).map_err(|error| error.to_string()));
        if let Err(why) = taken {
            self.items[1] = vec![format!("the vSensor's policy cannot be followed, and the one before goes on: {why}")];
            return;
        }
        self.items[1].clear();
        tracing::info!("policy: {}", policy.words());
        save_policy(&self.state, &policy);
        self.policy = policy.clone();
        self.select.set_policy(policy);
        self.look_at_interfaces();
        self.filter_rings();
    }

    fn filter_rings(&mut self) {
        let Agent { rings, gate, .. } = self;
        rings.values_mut().for_each(|ring| ring.filter(gate.instructions()));
    }

    fn members(&mut self, part: Option<&Members>) {
        let Agent { select, link, .. } = self;
        select.members(part, &mut |parcel| link.send(parcel));
        self.flush();
    }

    /// The link may have found a vSensor at another address, and goes there next.
    fn look_at_peers(&mut self) {
        if let Some(peers) = self.link.new_peers() {
            self.peers = peers;
            self.set_own();
        }
    }

    /// Where the vSensors are, as far as the link has found them.
    fn set_own(&mut self) {
        let mut own = self.peers.clone();
        // The connection itself, by whatever address it goes: our end of it is ours alone.
        own.extend(self.link.state().ends.iter().flat_map(|(ours, theirs)| [*ours, *theirs]));
        own.sort_unstable();
        own.dedup();
        if !own.is_empty() && own != self.own {
            self.own = own;
            self.select.set_own(self.own.clone());
            // The policy's filter was taken before, so it is taken again.
            let _ = self.gate.set(&self.policy, &self.own);
            self.filter_rings();
        }
    }

    /// Opens what came, closes what went, and tells the vSensor.
    fn look_at_interfaces(&mut self) {
        let (now, items) = chosen(&self.policy);
        self.items[0] = items;
        self.keep_rings(&now);
        for interface in &now {
            if self.rings.contains_key(&interface.name) {
                continue;
            }
            match Ring::open(&interface.name, self.gate.instructions()) {
                Ok(ring) => {
                    tracing::info!("capturing {} ({})", interface.name, interface.addresses.join(" "));
                    self.rings.insert(interface.name.clone(), ring);
                }
                Err(error) => {
                    self.items[0].push(format!("{} cannot be captured: {error}{}", interface.name, cure(&error)));
                }
            }
        }
        self.select.views().set_cards(self.rings.keys().map(|name| card_of(&now, name)).collect());
        if let Some(owners) = &self.owners {
            owners.set_local(if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip));
        }
        if now != self.interfaces {
            self.interfaces = now;
            self.link.tell(ToRelay::Interfaces { interfaces: self.interfaces.clone() });
        }
    }

    /// Renamed interfaces go on under their new name; what those that went had captured is still taken, and their drops
    /// are told.
    fn keep_rings(&mut self, now: &[AgentInterface]) {
        let Agent { rings, gate, select, link, .. } = self;
        for (card, (name, mut ring)) in std::mem::take(rings).into_iter().enumerate() {
            select.views().look_at(card);
            match name_now(&ring, &name).filter(|name| now.iter().any(|each| each.name == *name)) {
                Some(name) => drop(rings.insert(name, ring)),
                None => {
                    let in_kernel = ring.is_filtering();
                    ring.drain(&mut gate.intake(select, in_kernel, |parcel| link.send(parcel)));
                    select.kernel_dropped(ring.drops(), false);
                    tracing::info!("{name} is captured no more");
                }
            }
        }
    }
}

/// An interface as the views of packets know it.
fn card_of(interfaces: &[AgentInterface], name: &str) -> Card {
    let found = interfaces.iter().find(|each| each.name == name);
    let addresses = found.iter().flat_map(|each| &each.addresses).filter_map(|text| text.parse().ok()).collect();
    Card { mac: found.and_then(|each| each.mac.parse().ok()), addresses }
}
