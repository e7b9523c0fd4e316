//! One TCP stream that one agent sees in segments of up to 64 KiB, before its card cuts them, and the other in frames of
//! 1,448 bytes: claims hold, each byte of payload is sent once, and a takeover loses none.

use proptest::prelude::*;
use thymus_dissect::Frame;
use thymus_dissect::decode::decode;
use thymus_record::message::{Member as Known, Members, Passed, Shared};
use thymus_record::time::SECOND;
use thymus_record::{Address, Time};
use thymus_witness::{Choice, Claims, Member, Roster, SHADOW, Verdict, Witness, claim_of, ends_of, passed_of};

const SEED: u64 = 11;
const START: u64 = 1_800_000_000 * SECOND;
const MTU_PAYLOAD: usize = 1_448;
/// Agent 1 has a card that cuts, agent 2 sees what comes out of it.
const LARGE: u32 = 1;
const SMALL: u32 = 2;
const SEGMENTS_A_SECOND: u64 = 10;
/// With their acknowledgements.
const PIECES_A_SECOND: usize = 20;
/// Between an agent's end and the news of it.
const SILENCE: u64 = SECOND / 2;

/// A stretch of the stream, or, empty, its acknowledgement.
#[derive(Clone, Copy)]
struct Piece {
    at: usize,
    len: usize,
    time: u64,
}

/// From host 1 to host 2; an acknowledgement comes back.
fn tcp(piece: Piece, port: u16) -> Vec<u8> {
    let (source, target, ports) = if piece.len > 0 { (1, 2, [port, 443]) } else { (2, 1, [443, port]) };
    let mut bytes = vec![2, 0, 0, 0, 0, target, 2, 0, 0, 0, 0, source, 8, 0, 0x45, 0];
    bytes.extend_from_slice(&u16::try_from(40 + piece.len).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, source, 10, 0, 0, target]);
    ports.iter().for_each(|port| bytes.extend_from_slice(&port.to_be_bytes()));
    bytes.extend_from_slice(&u32::try_from(piece.at).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    bytes.resize(54 + piece.len, 7);
    bytes
}

fn frame(bytes: &[u8], time: u64) -> Frame<'_> {
    let wire_len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Frame { bytes, wire_len, time: Time(START + time), ..Frame::default() }
}

fn members(gone: Vec<u32>, ids: &[u32]) -> Members {
    let member = |id: &u32| {
        let host = u8::try_from(*id).unwrap_or_default();
        Known { id: *id, claims: vec![claim_of(SEED, Address::from_v4([10, 0, 0, host]))], ..Known::default() }
    };
    Members { epoch: 2, seed: SEED, anew: true, members: ids.iter().map(member).collect(), gone, ..Members::default() }
}

/// What came of the stream: how often each byte, and how many acknowledgements.
struct Came {
    bytes: Vec<u8>,
    bare: u64,
}

impl Came {
    fn take(&mut self, sent: &[u8]) {
        let number = sent.get(38..42).and_then(|bytes| bytes.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes);
        let (at, len) = (number as usize, sent.len() - 54);
        self.bare += u64::from(len == 0);
        self.bytes.iter_mut().skip(at).take(len).for_each(|times| *times += 1);
    }
}

/// Two agents, and what checks their claims.
struct Rig {
    agents: Vec<(u32, Member)>,
    receiver: Witness,
    claims: Claims,
    port: u16,
    came: Came,
}

impl Rig {
    fn new(port: u16, total: usize) -> Rig {
        let mut roster = Roster::new(SEED);
        let group = members(Vec::new(), &[LARGE, SMALL]);
        group.members.iter().cloned().for_each(|member| roster.put(member));
        let mut claims = Claims::default();
        let agents = [LARGE, SMALL].into_iter().map(|id| {
            let mut member = Member::new(id);
            member.hear(&group, |_| ());
            claims.enter(id, false);
            (id, member)
        });
        let agents = agents.collect();
        let came = Came { bytes: vec![0; total], bare: 0 };
        Rig { agents, receiver: Witness::new(0, &roster), claims, port, came }
    }

    fn owner(&self) -> u32 {
        let bytes = tcp(Piece { at: 0, len: 1, time: 0 }, self.port);
        let ends = ends_of(&decode(&frame(&bytes, 0)));
        ends.and_then(|ends| self.receiver.pair(&ends)).map_or(0, |pair| pair.0)
    }

    /// Both agents see a segment, each in its own way; `lost` of what the owner sends never comes.
    fn pass(&mut self, piece: Piece, mut lost: impl FnMut(&Piece) -> bool) {
        let Rig { agents, receiver, claims, port, came } = self;
        for (id, member) in agents {
            let cut = if *id == LARGE || piece.len == 0 { piece.len.max(1) } else { MTU_PAYLOAD };
            for at in (0..piece.len.max(1)).step_by(cut) {
                let part = Piece { at: piece.at + at, len: cut.min(piece.len - at.min(piece.len)), ..piece };
                let bytes = tcp(part, *port);
                let seen = frame(&bytes, piece.time);
                let packet = decode(&seen);
                if member.take(&packet, &seen).choice != Choice::Send || lost(&part) {
                    continue;
                }
                came.take(&bytes);
                let pair = ends_of(&packet).and_then(|ends| receiver.pair(&ends));
                if let Some((owner, second)) = pair {
                    claims.came(&Shared { owner, second, passed: passed_of(&packet) });
                }
            }
        }
    }

    /// A second has passed.
    fn turn(&mut self) -> Verdict {
        for (second, member) in &mut self.agents {
            for (owner, passed) in member.report().left {
                self.claims.left(&Shared { owner, second: *second, passed });
            }
        }
        self.claims.turn()
    }
}

/// The segments of a stream, ten a second, each with its acknowledgement.
fn stream(lens: &[usize]) -> Vec<Piece> {
    let mut at = 0;
    let pieces = (0u64..).zip(lens).flat_map(|(number, len)| {
        let time = number * SECOND / SEGMENTS_A_SECOND;
        let piece = Piece { at, len: *len, time };
        at += len;
        [piece, Piece { at, len: 0, time: time + 1_000_000 }]
    });
    pieces.collect()
}

fn lens() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..3_000, 1usize..=65_160], 100..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn each_byte_of_payload_is_sent_once_and_claims_hold(port in 1_024u16.., lens in lens()) {
        let mut rig = Rig::new(port, lens.iter().sum());
        let owner = rig.owner();
        let mut held = Vec::new();
        for second in stream(&lens).chunks(PIECES_A_SECOND) {
            second.iter().for_each(|piece| rig.pass(*piece, |_| false));
            let verdict = rig.turn();
            prop_assert!(verdict.void.is_empty() && verdict.unsent == Passed::default(), "{verdict:?}");
            held.extend(verdict.held);
        }
        prop_assert!(held.contains(&owner), "{held:?}");
        prop_assert!(rig.came.bytes.iter().all(|times| *times == 1), "each byte once");
        prop_assert_eq!(rig.came.bare, lens.len() as u64);
    }

    #[test]
    fn who_keeps_back_half_of_the_bytes_loses_its_claims(port in 1_024u16.., mut lens in lens()) {
        lens.iter_mut().for_each(|len| *len = 60_000 + *len % 5_000);
        let mut rig = Rig::new(port, lens.iter().sum());
        let (owner, mut void) = (rig.owner(), Vec::new());
        for second in stream(&lens).chunks(PIECES_A_SECOND) {
            second.iter().for_each(|piece| rig.pass(*piece, |part| part.len > 0 && (part.at / 65_160).is_multiple_of(2)));
            void.extend(rig.turn().void);
        }
        prop_assert_eq!(void, [owner]);
    }

    #[test]
    fn a_takeover_loses_no_byte(port in 1_024u16.., lens in lens(), at in 25usize..60) {
        let mut rig = Rig::new(port, lens.iter().sum());
        let owner = rig.owner();
        let pieces = stream(&lens);
        let died = pieces[2 * at].time;
        let (before, after): (Vec<Piece>, Vec<Piece>) = pieces.iter().partition(|piece| piece.time < died + SILENCE);
        before.iter().for_each(|piece| rig.pass(*piece, |part| part.time >= died));
        rig.agents.retain(|(id, _)| *id != owner);
        let Rig { agents, came, .. } = &mut rig;
        for (id, member) in agents {
            member.hear(&members(vec![owner], &[*id]), |left| came.take(left.bytes));
        }
        after.iter().for_each(|piece| rig.pass(*piece, |_| false));
        prop_assert!(rig.came.bytes.iter().all(|times| (1..=2).contains(times)), "none is missing");
        let once = pieces.iter().filter(|piece| piece.time + SHADOW + SECOND < died || piece.time >= died);
        for piece in once {
            prop_assert!(rig.came.bytes[piece.at..piece.at + piece.len].iter().all(|times| *times == 1));
        }
    }
}
