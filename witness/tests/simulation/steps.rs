//! Agents, vSensors and the master at work, a moment at a time.

use super::*;

pub(super) fn host(number: usize) -> Address {
    Address::from_v4([10, 0, 0, number as u8])
}

fn bytes_of(packet: u32, (source, target): (usize, usize)) -> Vec<u8> {
    let [s, t] = [source as u8, target as u8];
    let mut bytes = vec![2, 0, 0, 0, 0, t, 2, 0, 0, 0, 0, s, 8, 0];
    let [.., high, low] = packet.to_be_bytes();
    bytes.extend_from_slice(&[0x45, 0, 0, 40, high, low, 0, 0, 64, 17, 0, 0, 10, 0, 0, s, 10, 0, 0, t]);
    let port = 1_000 + (packet % 37) as u16;
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 53, 0, 20, 0, 0]);
    bytes.extend_from_slice(&packet.to_be_bytes());
    bytes.resize(54, 7);
    bytes
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..5 {
            random.next();
        }
        let sensors = 1 + random.below(2) as usize;
        let agents = 3 + random.below(3) as u32;
        let spanned = if random.below(2) == 0 { BTreeSet::new() } else { [1, 2].into() };
        let sensor = |at: usize| {
            let watch: Arc<SpanWatch> = Arc::default();
            let eye = SpanEye::new(Arc::clone(&watch));
            Sensor {
                id: 101 + at as u32,
                relay: None,
                alive: BTreeMap::new(),
                taken: BTreeMap::new(),
                master_up: true,
                connected: false,
                up: Pipe::default(),
                down: Pipe::default(),
                heard: 0,
                watch,
                eye,
                span_works: true,
            }
        };
        let agent = |id| Agent {
            id,
            run: 0,
            member: Some(Member::new(id)),
            paused: false,
            paused_at: 0,
            buffer: Vec::new(),
            undecided: VecDeque::new(),
            numbers: 0,
            connected: false,
            link_up: true,
            up: Pipe::default(),
            down: Pipe::default(),
            heard: None,
            lies_from: u64::MAX,
        };
        let mut world = World {
            random,
            now: 0,
            agents: (1..=agents).map(agent).collect(),
            sensors: (0..sensors).map(sensor).collect(),
            master: Some(Group::new(GROUP_SEED)),
            epoch: 0,
            packets: Vec::new(),
            deaths: BTreeMap::new(),
            died_with: BTreeSet::new(),
            stops: Vec::new(),
            faults: Vec::new(),
            spanned,
        };
        (0..sensors).for_each(|at| world.start_sensor(at));
        world
    }

    pub(super) fn time(&self) -> Time {
        Time((self.now + 1_000) * MS)
    }

    pub(super) fn sensor_of(&self, agent: usize) -> usize {
        // Hosts of the span have the first vSensor.
        if self.spanned.contains(&(agent + 1)) { 0 } else { agent % self.sensors.len() }
    }

    pub(super) fn start_sensor(&mut self, at: usize) {
        let agents = self.agents.iter().map(|agent| agent.id).collect();
        let sensor = &mut self.sensors[at];
        let mut relay = Relay::new(sensor.id, "g", Arc::clone(&sensor.watch));
        relay.homes(&[Home { group: "g".into(), seed: GROUP_SEED, agents }]);
        sensor.watch.want(&[]);
        sensor.relay = Some(relay);
        sensor.alive.clear();
        sensor.taken.clear();
        sensor.connected = false;
    }

    pub(super) fn connect_agents(&mut self) {
        let now = self.now;
        for at in 0..self.agents.len() {
            let on = self.sensor_of(at);
            let (agent, sensor) = (&mut self.agents[at], &mut self.sensors[on]);
            let able = agent.member.is_some() && !agent.paused && agent.link_up;
            let Some(relay) = sensor.relay.as_mut().filter(|_| able && !agent.connected) else { continue };
            if relay.enter(agent.id).is_err() {
                continue;
            }
            agent.connected = true;
            agent.heard = Some(now);
            (agent.up, agent.down) = Default::default();
            let mac = Mac([2, 0, 0, 0, 0, agent.id as u8]);
            let mut addresses = vec![(host(at + 1), Some(mac))];
            if agent.lies_from == 0 {
                // It claims all others' addresses too.
                addresses.extend((1..=HOSTS).map(|number| (host(number), None)));
            }
            relay.addresses(agent.id, &addresses);
            sensor.alive.insert(agent.id, now);
            // What the connection before left undecided is sent again under its number.
            for (_, frame) in agent.undecided.clone() {
                agent.up.send(now, &mut self.random, frame);
            }
        }
        for sensor in &mut self.sensors {
            let able = sensor.master_up && !sensor.connected;
            if let (Some(relay), Some(master), true) = (&mut sensor.relay, &mut self.master, able) {
                sensor.connected = true;
                sensor.heard = now;
                (sensor.up, sensor.down) = Default::default();
                master.welcome(sensor.id, Time((now + 1_000) * MS));
                relay.connected();
            }
        }
    }

    pub(super) fn break_agent(&mut self, at: usize) {
        let on = self.sensor_of(at);
        let agent = &mut self.agents[at];
        agent.connected = false;
        let (id, sensor) = (agent.id, &mut self.sensors[on]);
        if sensor.alive.remove(&id).is_some()
            && let Some(relay) = &mut sensor.relay
        {
            relay.leave(id);
        }
    }

    pub(super) fn kill_agent(&mut self, at: usize) {
        self.agents[at].member = None;
        let (id, run) = (self.agents[at].id, self.agents[at].run);
        self.deaths.insert((id, run), self.now);
        for (_, frame) in std::mem::take(&mut self.agents[at].undecided) {
            if let FromAgent::Frame { packet, .. } = frame {
                self.died_with.insert((packet, id));
            }
        }
        self.agents[at].buffer.clear();
        // The system closes its connection at once; the vSensor may still learn of it late.
        if self.random.below(2) == 0 {
            self.break_agent(at);
        } else {
            self.agents[at].connected = false;
            self.agents[at].up = Pipe::default();
        }
    }

    pub(super) fn start_agent(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        agent.run += 1;
        agent.numbers = 0;
        agent.paused = false;
        agent.member = Some(Member::new(agent.id));
    }

    /// A packet passes: agents of its hosts see it, and the span.
    pub(super) fn pass(&mut self, hosts: (usize, usize)) {
        let number = self.packets.len() as u32;
        let mut witnesses = Vec::new();
        for end in [hosts.0, hosts.1] {
            if let Some(agent) = self.agents.get(end - 1).filter(|agent| agent.member.is_some()) {
                witnesses.push((agent.id, agent.run));
            }
        }
        let at_span = self.spanned.contains(&hosts.0) || self.spanned.contains(&hosts.1);
        let spanned = at_span && self.sensors[0].span_works && self.sensors[0].relay.is_some();
        self.packets.push(Packet { time: self.now, hosts, witnesses, kept: u32::from(spanned), spanned });
        if spanned {
            let bytes = bytes_of(number, hosts);
            let eye = &mut self.sensors[0].eye;
            if eye.is_open() {
                eye.see(&frame(&bytes, self.now), (host(hosts.0), host(hosts.1)));
            }
        }
        for end in [hosts.0, hosts.1] {
            match self.agents.get_mut(end - 1) {
                Some(agent) if agent.paused => agent.buffer.push(number),
                Some(agent) if agent.member.is_some() => self.capture(end - 1, number),
                _ => {}
            }
        }
    }

    pub(super) fn capture(&mut self, at: usize, number: u32) {
        let hosts = self.packets[number as usize].hosts;
        let bytes = bytes_of(number, hosts);
        let frame = frame(&bytes, self.now);
        let agent = &mut self.agents[at];
        let Some(member) = &mut agent.member else { return };
        let choice = member.take(&decode(&frame), &frame).choice;
        if let Choice::Send | Choice::SendToo = choice
            && self.now < agent.lies_from
        {
            self.send(at, number, choice == Choice::SendToo, false);
        }
    }

    pub(super) fn send(&mut self, at: usize, packet: u32, shared: bool, again: bool) {
        let agent = &mut self.agents[at];
        let number = agent.numbers;
        agent.numbers += 1;
        let frame = FromAgent::Frame { number, packet, shared, again };
        agent.undecided.push_back((number, frame.clone()));
        if agent.connected {
            agent.up.send(self.now, &mut self.random, frame);
        }
    }

    /// What an agent sends after all.
    pub(super) fn hear_members(&mut self, at: usize, part: Option<&Members>) {
        let mut again = Vec::new();
        let Some(member) = &mut self.agents[at].member else { return };
        let note = |left: &thymus_witness::Left<'_>| {
            again.push(u32::from_be_bytes(*left.bytes[42..].first_chunk().unwrap()));
        };
        match part {
            Some(part) => member.hear(part, note),
            None => member.forget(note),
        }
        if self.now < self.agents[at].lies_from {
            again.into_iter().for_each(|packet| self.send(at, packet, true, true));
        }
    }

    pub(super) fn run_agents(&mut self) {
        for at in 0..self.agents.len() {
            if self.agents[at].paused || self.agents[at].member.is_none() {
                continue;
            }
            std::mem::take(&mut self.agents[at].buffer).into_iter().for_each(|number| self.capture(at, number));
            while self.agents[at].connected && self.agents[at].link_up {
                let Some(part) = self.agents[at].down.receive(self.now) else { break };
                self.agents[at].heard = Some(self.now);
                self.hear_members(at, Some(&part));
            }
            let agent = &mut self.agents[at];
            let on = if agent.connected && agent.link_up { Some(()) } else { None };
            if on.is_some() && self.now.is_multiple_of(300) {
                // The vSensor's ping.
                agent.heard = Some(self.now);
            }
            if agent.heard.is_some_and(|heard| self.now - heard > 1_500) {
                agent.heard = None;
                self.hear_members(at, None);
            }
            let agent = &mut self.agents[at];
            if self.now.is_multiple_of(100)
                && agent.connected
                && let Some(member) = &mut agent.member
            {
                let report = member.report();
                let alive = FromAgent::Alive { left: report.left, dropped: Passed::default(), own: report.own };
                agent.up.send(self.now, &mut self.random, alive);
            }
        }
    }

    pub(super) fn run_sensors(&mut self) {
        let time = self.time();
        for at in 0..self.agents.len() {
            let on = self.sensor_of(at);
            let (agent, sensor) = (&mut self.agents[at], &mut self.sensors[on]);
            let Some(relay) = &mut sensor.relay else {
                agent.connected = false;
                continue;
            };
            while agent.link_up && sensor.alive.contains_key(&agent.id) {
                let Some(message) = agent.up.receive(self.now) else { break };
                sensor.alive.insert(agent.id, self.now);
                match message {
                    FromAgent::Alive { left, dropped, own } => {
                        relay.report(agent.id, (&left, &[]), dropped, &own, time)
                    }
                    FromAgent::Frame { number, packet, shared, again } => {
                        let next = sensor.taken.entry((agent.id, agent.run)).or_default();
                        if number >= *next {
                            *next = number + 1;
                            let known = &mut self.packets[packet as usize];
                            let bytes = bytes_of(packet, known.hosts);
                            let verdict = relay.frame(agent.id, (shared, again), &frame(&bytes, self.now));
                            known.kept += u32::from(verdict.is_some_and(|verdict| !verdict.copy));
                        }
                        while agent.undecided.front().is_some_and(|(first, _)| *first <= number) {
                            agent.undecided.pop_front();
                        }
                    }
                }
            }
            if sensor.alive.get(&agent.id).is_some_and(|heard| self.now - heard > 500) {
                self.break_agent(at);
            }
        }
        for sensor in &mut self.sensors {
            let Some(relay) = &mut sensor.relay else { continue };
            while sensor.connected && sensor.master_up {
                let Some(message) = sensor.down.receive(self.now) else { break };
                sensor.heard = self.now;
                relay.heard(time);
                if let Some(part) = message {
                    relay.members("g", &part);
                }
            }
            if sensor.connected && self.now - sensor.heard > 3_000 {
                sensor.connected = false;
            }
            if self.now.is_multiple_of(100) {
                relay.tick(time);
            }
            let mut events = Vec::new();
            for out in relay.take_out() {
                match out {
                    Out::Agent(id, part) => {
                        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.id == id && agent.connected) {
                            agent.down.send(self.now, &mut self.random, part);
                        }
                    }
                    Out::Master(event) => events.push(event),
                }
            }
            if sensor.connected && (self.now.is_multiple_of(100) || !events.is_empty()) {
                sensor.up.send(self.now, &mut self.random, events);
            }
        }
    }

    pub(super) fn run_master(&mut self) {
        let (now, time) = (self.now, self.time());
        let Some(master) = &mut self.master else {
            self.sensors.iter_mut().for_each(|sensor| sensor.connected = false);
            return;
        };
        for sensor in self.sensors.iter_mut().filter(|sensor| sensor.connected && sensor.master_up) {
            while let Some(events) = sensor.up.receive(now) {
                master.alive(sensor.id, time);
                events.iter().for_each(|event| master.hear(sensor.id, event, time));
            }
        }
        if now.is_multiple_of(1_000) {
            master.turn();
        }
        if !now.is_multiple_of(100) {
            return;
        }
        let epoch = &mut self.epoch;
        let told = master.publish(time, || {
            *epoch += 1;
            *epoch
        });
        for (relay, part) in told {
            let Some(sensor) = self.sensors.iter_mut().find(|sensor| sensor.id == relay) else { continue };
            if sensor.connected { sensor.down.send(now, &mut self.random, Some(part)) } else { master.missed(relay) }
        }
        if now.is_multiple_of(300) {
            for sensor in self.sensors.iter_mut().filter(|sensor| sensor.connected) {
                sensor.down.send(now, &mut self.random, None);
            }
        }
    }

    pub(super) fn step(&mut self) {
        self.connect_agents();
        self.run_agents();
        self.run_sensors();
        self.run_master();
        // Every pair of hosts talks, some more than others.
        if self.now > 1_000 && self.now < END - 3_000 && self.random.below(2) == 0 {
            let from = 1 + self.random.below(HOSTS as u64) as usize;
            let to = 1 + (from + self.random.below(HOSTS as u64 - 1) as usize) % HOSTS;
            self.pass((from, to));
        }
        self.now += STEP;
    }
}

fn frame(bytes: &[u8], now: u64) -> Frame<'_> {
    Frame { bytes, wire_len: bytes.len() as u32, time: Time((now + 1_000) * MS), ..Frame::default() }
}
