//! One copy of each packet: what this member owns goes into parcels, or into rows where the mode is metadata; what others
//! own is left to them and remembered for three seconds, in case they go.

use crate::heads::{Heads, heads_len};
use crate::meter::MeterParts;
use crate::metering::Metering;
use crate::owners::Watch;
use crate::parcel::Parcel;
use crate::sizes::Sizes;
use crate::steady::Steady;
use crate::views::Views;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use thymus_dissect::Frame;
use thymus_dissect::decode::{Content, Packet, Transport, decode};
use thymus_link::agent::{Allowance, FRAME_HEAD, FrameHead, Spares};
use thymus_record::Time;
use thymus_record::message::{AgentLedger, Members, Mode, Passed, Policy, ShedReasons};
use thymus_witness::{Choice, Left, Look, Member, Report, ends_of, ends_of_flow, flow_hash, passed_of};

/// A parcel is handed over when it is as large.
const PARCEL_BYTES: usize = 60 << 10;
/// Longest frame that is sent; a longer one is cut.
const FRAME_MAX: usize = 128 << 10;
/// Whoever was stopped for so long was taken for gone, after half a second, for certain. After a shorter stop what came
/// meanwhile is sent: the vSensor still knows whether it came from another one too.
const STALL: Duration = Duration::from_millis(1_500);

/// What is sent, and what is left.
pub struct Select {
    me: u32,
    /// This host among those that see the same packets.
    member: Member,
    /// Where the vSensors are: what is spoken with them is never captured.
    own: Vec<SocketAddr>,
    policy: Policy,
    /// Sees which flows begin.
    watch: Option<Watch>,
    views: Views,
    parcel: Parcel,
    ledger: AgentLedger,
    sizes: Sizes,
    reasons: ShedReasons,
    /// Bytes handed over, since the start.
    sent_bytes: u64,
    dropped: Passed,
    /// What we made rows of, by the member that saw it too.
    metered: BTreeMap<u32, Passed>,
    heads: Option<Heads>,
    metering: Metering,
    spooled_bytes: u64,
    steady: Steady,
    /// What is added to our time to get the vSensor's.
    offset: i64,
    turned: (Time, Duration),
    /// A vSensor served us then.
    was_connected: bool,
    /// While we were stopped others took over.
    stalled: Option<(Time, Time)>,
    /// Bytes that may still be sent within the limit of the policy.
    allowance: Allowance,
}

impl Select {
    /// For member `me`.
    pub fn new(me: u32) -> Select {
        Select {
            me,
            member: Member::new(me),
            own: Vec::new(),
            policy: Policy::default(),
            watch: None,
            views: Views::new(rand::random()),
            parcel: Parcel::default(),
            ledger: AgentLedger::default(),
            sizes: Sizes::default(),
            reasons: ShedReasons::default(),
            sent_bytes: 0,
            dropped: Passed::default(),
            metered: BTreeMap::new(),
            heads: None,
            metering: Metering::default(),
            spooled_bytes: 0,
            steady: Steady::default(),
            offset: 0,
            turned: (Time(0), Duration::ZERO),
            was_connected: false,
            stalled: None,
            allowance: Allowance::default(),
        }
    }

    /// What was done since the start; what lies in the parcel counts as sent.
    pub fn ledger(&self) -> AgentLedger {
        let (records, metadata_bytes) = self.metering.records();
        let mut sent = self.ledger.sent;
        sent += self.parcel.frames;
        AgentLedger { sent, records, metadata_bytes, spooled_bytes: self.spooled_bytes, ..self.ledger }
    }

    /// How metadata is made, where the mode asks for it.
    pub fn set_meter(&mut self, parts: MeterParts) {
        self.metering.set_parts(parts);
    }

    /// What the link knows: rows that the master did not want, bytes that wait on disk.
    pub fn note_link(&mut self, unwanted: u64, spooled_bytes: u64) {
        self.metering.set_unwanted(unwanted);
        self.spooled_bytes = spooled_bytes;
    }

    /// What the vSensor measured between our time and its own.
    pub fn set_offset(&mut self, nanoseconds: i64) {
        self.offset = nanoseconds;
    }

    /// Our time: the host's clock without its steps.
    pub fn time(&self, wall: Time) -> Time {
        self.steady.apply(wall)
    }

    /// Why no metadata can be made, in words.
    pub fn trouble(&self) -> Option<String> {
        self.metering.trouble()
    }

    /// Time passes: called before each look at what was captured.
    pub fn turn(&mut self, wall: Time, monotonic: Duration, is_connected: bool) {
        self.steady.look(wall, monotonic);
        let now = self.steady.apply(wall);
        // That the connection is gone may be known here before the stop is: what counts is that others saw us on it.
        if self.was_connected && self.is_late(monotonic) {
            self.stalled = Some((self.turned.0, now));
            self.member.was_stopped();
        }
        (self.turned, self.was_connected) = ((now, monotonic), is_connected);
        self.metering.turn(now, self.offset);
        self.allowance.turn(now);
    }

    /// True if we were stopped for long since the last turn.
    pub fn is_late(&self, monotonic: Duration) -> bool {
        monotonic.saturating_sub(self.turned.1) > STALL
    }

    /// A turn in the midst of a look at what was captured.
    pub fn catch_up(&mut self, wall: Time, monotonic: Duration) {
        self.turn(wall, monotonic, self.was_connected);
    }

    /// The end: all rows are on their way.
    pub fn finish(&mut self) {
        (self.ledger.records, self.ledger.metadata_bytes) = self.metering.records();
        self.metering.finish();
    }

    /// What was given up since the start, by reason.
    pub fn shed_reasons(&self) -> ShedReasons {
        self.reasons
    }

    /// Bytes handed over since the start.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// This host as a member of its group.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Shows each packet to who looks for new flows.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Which interfaces are captured, and how packets pass between them.
    pub fn views(&mut self) -> &mut Views {
        &mut self.views
    }

    /// Flows that go on are new again: a vSensor that has not heard of them listens.
    pub fn forget_flows(&mut self) {
        self.views.forget();
        if let Some(watch) = &mut self.watch {
            watch.forget();
        }
    }

    /// Where empty parcels come from.
    pub fn spares(&self) -> Spares {
        self.parcel.spares.clone()
    }

    /// What may be sent of all that is.
    pub fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }

    /// Where the vSensors are.
    pub fn set_own(&mut self, own: Vec<SocketAddr>) {
        self.own = own;
    }

    /// What to take.
    pub fn set_policy(&mut self, policy: Policy) {
        let mode = policy.mode;
        self.allowance.set(policy.mbps_max);
        self.policy = policy;
        self.metering.switch(mode == Mode::Metadata, self.turned.0);
        self.heads = if mode == Mode::Head { self.heads.take().or_else(|| Some(Heads::default())) } else { None };
    }

    /// What is reported as a member, and what was given up, since the call before.
    pub fn take_reports(&mut self) -> (Report, Passed) {
        (self.member.report(), std::mem::take(&mut self.dropped))
    }

    /// What we made rows of and another one saw too, since the call before.
    pub fn take_metered(&mut self) -> Vec<(u32, Passed)> {
        std::mem::take(&mut self.metered).into_iter().collect()
    }

    /// The kernel dropped so many; `capped` where it had to, because we may use no more CPU.
    pub fn kernel_dropped(&mut self, packets: u64, capped: bool) {
        // Their bytes are not known: what is usual stands for them where it counts who sends what.
        self.dropped += Passed { bytes: packets * self.sizes.take(), packets, bare: packets };
        self.ledger.seen.packets += packets;
        self.ledger.shed.packets += packets;
        (if capped { &mut self.reasons.cpu } else { &mut self.reasons.kernel }).packets += packets;
    }

    /// A frame that the policy's filter leaves out.
    pub fn filtered(&mut self, wire_len: u32) {
        self.ledger.seen.add(u64::from(wire_len));
        self.ledger.filtered.add(u64::from(wire_len));
    }

    /// A frame that there is no CPU time for.
    pub fn shed_cpu(&mut self, wire_len: u32) {
        let wire = u64::from(wire_len);
        self.ledger.seen.add(wire);
        self.ledger.shed.add(wire);
        self.reasons.cpu.add(wire);
        self.dropped += Passed { bytes: wire, packets: 1, bare: 1 };
    }

    /// A frame of this host; full parcels go to `send`, which gives back what finds no room.
    pub fn take(&mut self, frame: &Frame<'_>, send: &mut impl FnMut(Vec<u8>) -> Result<(), Vec<u8>>) {
        let frame = &Frame { time: self.steady.apply(frame.time), ..*frame };
        let packet = decode(frame);
        if self.is_own(&packet) {
            return;
        }
        self.ledger.seen.add(u64::from(frame.wire_len));
        self.sizes.add(u64::from(frame.wire_len));
        if let (Some(watch), Some(ends)) = (&mut self.watch, &ends_of(&packet)) {
            watch.note(&packet, ends, frame.time);
        }
        let look = self.member.take(&packet, frame);
        let is_second = self.views.is_second(&packet, frame);
        match look.choice {
            Choice::Leave(_) => self.ledger.left.add(u64::from(frame.wire_len)),
            _ if self.was_taken_over(&look, frame.time) => self.ledger.left.add(u64::from(frame.wire_len)),
            _ if is_second && look.second.is_none() => self.ledger.left.add(u64::from(frame.wire_len)),
            choice => {
                let passed = passed_of(&packet);
                self.note_metered(&look, passed);
                self.deliver(frame, packet, (choice == Choice::SendToo, false), passed, send);
            }
        }
    }

    /// True for what came while we were stopped, where another one sees it too: it has taken over, and sent it.
    fn was_taken_over(&self, look: &Look, time: Time) -> bool {
        look.second.is_some() && self.stalled.is_some_and(|(from, until)| from < time && time <= until)
    }

    /// Claims are compared by what came; of rows the vSensor cannot see whose packets they hold, so we say it.
    fn note_metered(&mut self, look: &Look, passed: Passed) {
        let (true, Some(owner), Some(second)) = (self.metering.is_on(), look.owner, look.second) else { return };
        if owner == self.me {
            *self.metered.entry(second).or_default() += passed;
        } else if second == self.me {
            self.member.leaves_to(owner, passed);
        }
    }

    /// A packet that is ours to account: it is sent, whole or in part, or becomes part of a row.
    fn deliver(
        &mut self,
        frame: &Frame<'_>,
        packet: Packet<'_>,
        (shared, again): (bool, bool),
        passed: Passed,
        send: &mut impl FnMut(Vec<u8>) -> Result<(), Vec<u8>>,
    ) {
        let wire_len = u64::from(frame.wire_len);
        if self.policy.mode == Mode::Metadata {
            if self.metering.take(frame, packet, self.offset) {
                self.ledger.metadata.add(wire_len);
            } else {
                self.ledger.shed.add(wire_len);
                self.reasons.link.add(wire_len);
                self.dropped += passed;
            }
            return;
        }
        let mut bytes = frame.bytes;
        if let (Some(heads), Some(ends)) = (&mut self.heads, ends_of(&packet)) {
            let flow = flow_hash(0, &ends);
            if !heads.is_head(flow, &packet, frame.time, frame.wire_len, self.policy.head_bytes) {
                bytes = bytes.get(..heads_len(frame, &packet)).unwrap_or(bytes);
            }
        }
        let head = FrameHead { time: frame.time, wire_len: frame.wire_len, shared, again };
        self.put(&head, bytes, passed, send);
    }

    /// True for what is spoken with a vSensor.
    fn is_own(&self, packet: &Packet<'_>) -> bool {
        let Content::Ip(datagram) = &packet.content else { return false };
        let Transport::Tcp(tcp) = &datagram.transport else { return false };
        let ends = [(datagram.source.to_ip(), tcp.source), (datagram.target.to_ip(), tcp.target)];
        ends.iter().any(|end| self.own.iter().any(|own| (own.ip(), own.port()) == *end))
    }

    /// The group changed: what was left to members that own it no more is sent now. Without members nobody has said for
    /// a while who is there.
    pub fn members(&mut self, part: Option<&Members>, send: &mut impl FnMut(Vec<u8>) -> Result<(), Vec<u8>>) {
        let mut member = std::mem::replace(&mut self.member, Member::new(self.me));
        let again = |left: &Left<'_>| {
            let wire = u64::from(left.wire_len);
            self.ledger.left.packets = self.ledger.left.packets.saturating_sub(1);
            self.ledger.left.bytes = self.ledger.left.bytes.saturating_sub(wire);
            let frame = Frame { bytes: left.bytes, wire_len: left.wire_len, time: left.time, ..Frame::default() };
            self.deliver(&frame, decode(&frame), (true, true), Passed::default(), send);
        };
        match part {
            Some(part) => member.hear(part, again),
            None => member.forget(again),
        }
        self.member = member;
        let Select { metering, member, .. } = self;
        metering.hand_over(|key| member.leaves(&ends_of_flow(key)));
    }

    /// The vSensor is heard again after a silence in which nobody was relied on.
    pub fn recall(&mut self) {
        self.member.recall();
    }

    fn put(
        &mut self,
        head: &FrameHead,
        bytes: &[u8],
        passed: Passed,
        send: &mut impl FnMut(Vec<u8>) -> Result<(), Vec<u8>>,
    ) {
        let snaplen = usize::try_from(self.policy.snaplen).unwrap_or(FRAME_MAX).clamp(64, FRAME_MAX);
        let bytes = bytes.get(..snaplen).unwrap_or(bytes);
        if self.policy.mbps_max > 0.0 && !self.allowance.allows(head.time, bytes.len() + FRAME_HEAD) {
            self.ledger.shed.add(u64::from(head.wire_len));
            self.reasons.mbps.add(u64::from(head.wire_len));
            self.dropped += passed;
            return;
        }
        self.parcel.put(head, bytes);
        self.ledger.cut_bytes += u64::from(head.wire_len).saturating_sub(bytes.len() as u64);
        self.parcel.frames.add(u64::from(head.wire_len));
        self.parcel.passed += passed;
        if self.parcel.bytes.len() >= PARCEL_BYTES {
            self.flush(send);
        }
    }

    /// Hands over what is in the parcel.
    pub fn flush(&mut self, send: &mut impl FnMut(Vec<u8>) -> Result<(), Vec<u8>>) {
        let (bytes, frames, passed) = self.parcel.take();
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len() as u64;
        match send(bytes) {
            Ok(()) => {
                self.ledger.sent += frames;
                self.sent_bytes += len;
            }
            Err(mut back) => {
                self.ledger.shed += frames;
                self.reasons.link += frames;
                self.dropped += passed;
                back.clear();
                self.parcel.bytes = back;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_link::agent::take_frame;
    use thymus_record::Address;
    use thymus_record::message::Member as Known;
    use thymus_record::time::SECOND;
    use thymus_witness::claim_of;

    fn packet(source: u8, target: u8, port: u16, proto: u8) -> Vec<u8> {
        let mut bytes =
            vec![2, 0, 0, 0, 0, target, 2, 0, 0, 0, 0, source, 8, 0, 0x45, 0, 0, 60, 0, 1, 0, 0, 64, proto, 0, 0];
        bytes.extend_from_slice(&[10, 0, 0, source, 10, 0, 0, target]);
        bytes.extend_from_slice(&port.to_be_bytes());
        bytes.extend_from_slice(&[1, 187]);
        bytes.extend_from_slice(if proto == 6 { &[0; 4] } else { &[0, 40, 0, 0] });
        bytes.resize(46, 0);
        bytes.extend_from_slice(&[0x50, 0x10, 1, 0]);
        bytes.resize(74, 7);
        bytes
    }

    fn group(seed: u64, gone: Vec<u32>, ids: &[u8]) -> Members {
        let member = |id: &u8| Known {
            id: u32::from(*id),
            claims: vec![claim_of(seed, Address::from_v4([10, 0, 0, *id]))],
            ..Known::default()
        };
        Members { epoch: 2, seed, members: ids.iter().map(member).collect(), gone, ..Members::default() }
    }

    fn feed(select: &mut Select, bytes: &[u8], time: u64, out: &mut Vec<Vec<u8>>) {
        let wire_len = u32::try_from(bytes.len()).unwrap();
        let frame = Frame { bytes, wire_len, time: Time(time), ..Frame::default() };
        select.take(&frame, &mut |parcel| {
            out.push(parcel);
            Ok(())
        });
    }

    fn frames_in(parcels: &[Vec<u8>]) -> usize {
        parcels
            .iter()
            .map(|parcel| {
                let (mut rest, mut count) = (parcel.as_slice(), 0);
                while take_frame(&mut rest).is_some() {
                    count += 1;
                }
                count
            })
            .sum()
    }

    #[test]
    fn two_members_send_each_packet_once_and_the_one_left_sends_what_the_other_should_have() {
        let (mut one, mut two) = (Select::new(1), Select::new(2));
        let (mut from_one, mut from_two) = (Vec::new(), Vec::new());
        for (select, out) in [(&mut one, &mut from_one), (&mut two, &mut from_two)] {
            select.members(Some(&group(9, Vec::new(), &[1, 2])), &mut |_| Ok(()));
            (0..500).for_each(|port| feed(select, &packet(1, 2, port, 17), 1_000, out));
            select.flush(&mut |parcel| {
                out.push(parcel);
                Ok(())
            });
        }
        assert_eq!(frames_in(&from_one) + frames_in(&from_two), 500);
        assert!(frames_in(&from_one) > 150 && frames_in(&from_two) > 150);
        let ledger = one.ledger();
        assert_eq!(ledger.seen.packets, ledger.sent.packets + ledger.left.packets);
        let mut again = Vec::new();
        one.members(Some(&group(9, vec![2], &[1])), &mut |parcel| {
            again.push(parcel);
            Ok(())
        });
        one.flush(&mut |parcel| {
            again.push(parcel);
            Ok(())
        });
        assert_eq!(frames_in(&again), frames_in(&from_two), "what was left to the one that is gone");
        assert_eq!((one.ledger().left.packets, one.ledger().sent.packets), (0, 500));
    }

    #[test]
    fn what_is_spoken_with_the_vsensor_is_never_taken_and_what_finds_no_room_is_counted() {
        let mut select = Select::new(1);
        select.set_own(vec!["10.0.0.2:443".parse().unwrap()]);
        let mut out = Vec::new();
        feed(&mut select, &packet(1, 2, 5, 6), 1_000, &mut out);
        assert_eq!(select.ledger().seen.packets, 0);
        feed(&mut select, &packet(1, 2, 5, 17), 1_000, &mut out);
        select.flush(&mut Err);
        let ledger = select.ledger();
        assert_eq!((ledger.seen.packets, ledger.sent.packets, ledger.shed.packets), (1, 0, 1));
    }

    #[test]
    fn the_limit_holds_and_what_is_beyond_is_counted() {
        let mut select = Select::new(1);
        select.set_policy(Policy { mbps_max: 1.0, ..Policy::default() });
        let mut out = Vec::new();
        // A second of 8 Mbit/s.
        (0..13_500u64).for_each(|n| feed(&mut select, &packet(1, 2, 5, 17), SECOND + n * SECOND / 13_500, &mut out));
        select.flush(&mut |_| Ok(()));
        let ledger = select.ledger();
        assert_eq!(ledger.seen.packets, ledger.sent.packets + ledger.shed.packets);
        assert!((100_000..140_000).contains(&ledger.sent.bytes), "{ledger:?}");
    }
}
