//! The policy's filter as this host runs it: in the kernel where it can, else here.
//!
//! ```text
//! own stream → 0, the kernel drops it    filtered → 1 byte, counted by its wire length    taken → all of it
//! ```
//!
//! A filter that looks at VLAN tags runs here: kernels take the outermost tag off before they run one. All others are
//! for frames without that tag, wherever they run.

use std::net::{IpAddr, SocketAddr};
use thymus_dissect::Frame;
use thymus_dissect::bpf::{BpfError, Program};
use thymus_record::policy::{Instruction, PROGRAM_MAX, Policy};

/// What the kernel returns for a filtered packet, so that it is counted.
const REJECT: u32 = 1;
const ACCEPT: u32 = 262_144;
/// Most that Linux takes.
const WHOLE_MAX: usize = 4_096;
/// Ends of our own stream that are looked at.
const OWN_MAX: usize = 32;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_LENGTH: u16 = 0x80;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_BITS: u16 = 0x45;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
/// Stands for a jump to what follows, until its distance is known.
const TO_END: u32 = u32::MAX;

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Our own stream: as if it had not been there.
    Own,
    /// Left out by the policy.
    Filtered,
    /// Taken.
    Taken,
}

/// The filter.
pub struct Filter {
    /// Returns 0 for our own stream.
    own: Option<Program>,
    given: Option<Program>,
    sees_tags: bool,
    kernel: Vec<Instruction>,
    /// Packets from this length on are judged by the kernel, where it runs the filter; below, a load beyond the packet
    /// could reject it without a count.
    judged_from: Option<u32>,
    scratch: Vec<u8>,
}

impl Filter {
    /// For this policy, beside a stream with these ends. What a vSensor sends is checked here, whatever the kernel does.
    pub fn new(policy: &Policy, own: &[SocketAddr]) -> Result<Filter, BpfError> {
        let take_all = step(RETURN, ACCEPT);
        let given = match policy.program.as_slice() {
            [] => None,
            program => Some(Program::parse(program, PROGRAM_MAX)?),
        };
        let judged = given.as_ref().filter(|_| !policy.sees_tags);
        let judged = judged.and_then(|given| Some((given, given.reach()?)));
        let mut kernel = leave_own(own);
        let own = [kernel.as_slice(), &[take_all]].concat();
        match judged {
            None => kernel.push(take_all),
            Some((given, reach)) => {
                kernel.extend([step(LOAD_LENGTH, 0), unless(IF_AT_LEAST, reach, 1), step(JUMP, 1), take_all]);
                kernel.extend(rewritten(given));
            }
        }
        Program::parse(&kernel, WHOLE_MAX)?;
        let own = if own.len() > 1 { Some(Program::parse(&own, WHOLE_MAX)?) } else { None };
        let judged_from = judged.map(|(_, reach)| reach);
        Ok(Filter { own, given, sees_tags: policy.sees_tags, kernel, judged_from, scratch: Vec::new() })
    }

    /// What the kernel runs.
    pub fn instructions(&self) -> &[Instruction] {
        &self.kernel
    }

    /// What becomes of a frame; `in_kernel` where the kernel runs [`Filter::instructions`].
    pub fn verdict(&mut self, frame: &Frame<'_>, in_kernel: bool) -> Verdict {
        if in_kernel && frame.bytes.len() == REJECT as usize && frame.wire_len > REJECT {
            return Verdict::Filtered;
        }
        let Filter { own, given, sees_tags, judged_from, scratch, .. } = self;
        let (bytes, wire_len) = without_tag(frame, scratch);
        if !in_kernel && own.as_ref().is_some_and(|own| own.run(bytes, wire_len) == 0) {
            return Verdict::Own;
        }
        let Some(given) = given else { return Verdict::Taken };
        let taken = if *sees_tags {
            given.run(frame.bytes, frame.wire_len) != 0
        } else {
            (in_kernel && judged_from.is_some_and(|from| wire_len >= from)) || given.run(bytes, wire_len) != 0
        };
        if taken { Verdict::Taken } else { Verdict::Filtered }
    }
}

/// The frame as a kernel shows it to a filter.
fn without_tag<'a>(frame: &Frame<'a>, scratch: &'a mut Vec<u8>) -> (&'a [u8], u32) {
    let tagged = matches!(frame.bytes.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
    let (Some(macs), Some(rest), true) = (frame.bytes.get(..12), frame.bytes.get(16..), tagged) else {
        return (frame.bytes, frame.wire_len);
    };
    scratch.clear();
    scratch.extend_from_slice(macs);
    scratch.extend_from_slice(rest);
    (scratch, frame.wire_len.saturating_sub(4))
}

fn step(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// Goes on where the test holds, and skips so many instructions where it does not.
fn unless(code: u16, k: u32, skipped: u8) -> Instruction {
    Instruction { code, jt: 0, jf: skipped, k }
}

/// The same program, with what we return.
fn rewritten(program: &Program) -> Vec<Instruction> {
    let change = |each: Instruction| match each {
        Instruction { code: RETURN, k, .. } => step(RETURN, if k == 0 { REJECT } else { ACCEPT }),
        other => other,
    };
    program.instructions().map(change).collect()
}

/// Drops TCP with one of these ends, in IPv4 and IPv6 without options; all else goes on behind it.
fn leave_own(own: &[SocketAddr]) -> Vec<Instruction> {
    if own.is_empty() {
        return Vec::new();
    }
    // No load may go beyond the packet: that would drop it uncounted.
    let mut v4 = vec![
        step(LOAD_LENGTH, 0),
        unless(IF_AT_LEAST, 38, 7),
        step(LOAD_BYTE, 14),
        unless(IF_EQUAL, 0x45, 5),
        step(LOAD_BYTE, 23),
        unless(IF_EQUAL, 6, 3),
        step(LOAD_HALF, 20),
        Instruction { code: IF_BITS, jt: 1, jf: 0, k: 0x1fff },
        step(JUMP, 1),
        step(JUMP, TO_END),
    ];
    let mut v6 = vec![
        step(LOAD_LENGTH, 0),
        unless(IF_AT_LEAST, 58, 3),
        step(LOAD_BYTE, 20),
        unless(IF_EQUAL, 6, 1),
        step(JUMP, 1),
        step(JUMP, TO_END),
    ];
    for end in own.iter().take(OWN_MAX) {
        let port = u32::from(end.port());
        match end.ip().to_canonical() {
            IpAddr::V4(address) => {
                for (at, port_at) in [(26, 34), (30, 36)] {
                    v4.extend([step(LOAD_WORD, at), unless(IF_EQUAL, address.to_bits(), 3)]);
                    v4.extend([step(LOAD_HALF, port_at), unless(IF_EQUAL, port, 1), step(RETURN, 0)]);
                }
            }
            IpAddr::V6(address) => {
                let [a, b, c, d] = [96, 64, 32, 0].map(|shift| (address.to_bits() >> shift) & 0xffff_ffff);
                for (at, port_at) in [(22, 54), (38, 56)] {
                    for (word, (offset, left)) in [a, b, c, d].into_iter().zip([(0, 9), (4, 7), (8, 5), (12, 3)]) {
                        v6.push(step(LOAD_WORD, at + offset));
                        v6.push(unless(IF_EQUAL, u32::try_from(word).unwrap_or_default(), left));
                    }
                    v6.extend([step(LOAD_HALF, port_at), unless(IF_EQUAL, port, 1), step(RETURN, 0)]);
                }
            }
        }
    }
    v4.push(step(JUMP, TO_END));
    let v4_len = u32::try_from(v4.len()).unwrap_or_default();
    let mut all = vec![
        step(LOAD_LENGTH, 0),
        unless(IF_AT_LEAST, 14, 5),
        step(LOAD_HALF, 12),
        unless(IF_EQUAL, 0x0800, 1),
        step(JUMP, 3),
        unless(IF_EQUAL, 0x86dd, 1),
        step(JUMP, 1 + v4_len),
        step(JUMP, TO_END),
    ];
    all.extend(v4);
    all.extend(v6);
    let length = all.len();
    for (at, each) in all.iter_mut().enumerate() {
        if each.code == JUMP && each.k == TO_END {
            each.k = u32::try_from(length - at - 1).unwrap_or_default();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thymus_dissect::LinkType;
    use thymus_record::Time;

    fn frame(bytes: &[u8]) -> Frame<'_> {
        let wire_len = u32::try_from(bytes.len()).unwrap();
        Frame { bytes, wire_len, time: Time(0), link: LinkType::Ethernet, port: 0, ..Frame::default() }
    }

    /// TCP or UDP between two ends.
    fn packet(source: SocketAddr, target: SocketAddr, proto: u8, tag: bool) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        if tag {
            bytes.extend([0x81, 0, 0, 5]);
        }
        match (source.ip(), target.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, proto, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, proto, 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            _ => {}
        }
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(target.port().to_be_bytes());
        bytes.extend([0; 16]);
        bytes
    }

    fn tcp_port_80() -> Policy {
        // 'ip and tcp dst port 80', for heads without options.
        let program = vec![
            step(0x28, 12),
            unless(0x15, 0x800, 4),
            step(0x30, 23),
            unless(0x15, 6, 2),
            step(0x28, 36),
            Instruction { code: 0x15, jt: 1, jf: 0, k: 80 },
            step(0x6, 0),
            step(0x6, 65_535),
        ];
        Policy { filter: "tcp port 80".into(), program, ..Policy::default() }
    }

    #[test]
    fn own_traffic_goes_filtered_traffic_is_counted_and_the_rest_is_taken() {
        let [own, other]: [SocketAddr; 2] = ["10.0.0.1:443", "10.0.0.2:5000"].map(|end| end.parse().unwrap());
        let web: SocketAddr = "10.0.0.9:80".parse().unwrap();
        let mut filter = Filter::new(&tcp_port_80(), &[own]).unwrap();
        for tag in [false, true] {
            let mut verdict = |from, to, proto| filter.verdict(&frame(&packet(from, to, proto, tag)), false);
            assert_eq!(verdict(own, other, 6), Verdict::Own);
            assert_eq!(verdict(other, own, 6), Verdict::Own);
            assert_eq!(verdict(other, own, 17), Verdict::Filtered);
            assert_eq!(verdict(other, web, 6), Verdict::Taken);
            assert_eq!(verdict(web, other, 6), Verdict::Filtered);
        }
        assert_eq!(filter.verdict(&frame(&[2]), true), Verdict::Filtered, "what the kernel cut to a byte");
        assert_eq!(
            filter.verdict(&frame(&packet(web, other, 6, false)), true),
            Verdict::Taken,
            "the kernel has judged"
        );
    }

    #[test]
    fn a_filter_that_looks_at_tags_runs_on_frames_with_their_tags() {
        // vlan
        let program = vec![step(0x28, 12), Instruction { code: 0x15, jt: 0, jf: 1, k: 0x8100 }, step(6, 9), step(6, 0)];
        let policy = Policy { program, sees_tags: true, ..Policy::default() };
        let [from, to]: [SocketAddr; 2] = ["10.0.0.1:1", "10.0.0.2:2"].map(|end| end.parse().unwrap());
        let mut filter = Filter::new(&policy, &[]).unwrap();
        for in_kernel in [false, true] {
            assert_eq!(filter.verdict(&frame(&packet(from, to, 6, true)), in_kernel), Verdict::Taken);
            assert_eq!(filter.verdict(&frame(&packet(from, to, 6, false)), in_kernel), Verdict::Filtered);
        }
        assert_eq!(filter.instructions(), [step(RETURN, ACCEPT)], "the kernel takes all");
    }

    #[test]
    fn hostile_programs_are_refused() {
        let hostile = |program: Vec<Instruction>| Filter::new(&Policy { program, ..Policy::default() }, &[]).is_err();
        assert!(hostile(vec![step(RETURN, 0); PROGRAM_MAX + 1]));
        assert!(hostile(vec![step(JUMP, u32::MAX), step(RETURN, 0)]));
        assert!(hostile(vec![step(LOAD_WORD, 0xffff_f000), step(RETURN, 0)]));
        assert!(hostile(vec![step(0x1234, 0)]));
    }

    fn end() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (0u8..3, 0u16..3).prop_map(|(host, port)| SocketAddr::from(([10, 0, 0, host], port))),
            (0u16..3, 0u16..3).prop_map(|(host, port)| SocketAddr::from(([0xfd77, 0, 0, 0, 0, 0, host, 1], port))),
        ]
    }

    proptest! {
        #[test]
        fn exactly_tcp_with_one_of_our_ends_is_own(
            own in prop::collection::vec(end(), 0..OWN_MAX), source in end(), target in end(), tcp in any::<bool>(),
        ) {
            prop_assume!(source.is_ipv4() == target.is_ipv4());
            let mut filter = Filter::new(&Policy::default(), &own).unwrap();
            let bytes = packet(source, target, if tcp { 6 } else { 17 }, false);
            let is_own = tcp && own.iter().any(|end| *end == source || *end == target);
            let expected = if is_own { Verdict::Own } else { Verdict::Taken };
            prop_assert_eq!(filter.verdict(&frame(&bytes), false), expected);
        }

        #[test]
        fn here_and_in_the_kernel_the_verdict_is_the_same(
            mut bytes in prop::collection::vec(any::<u8>(), 0..90), kind in 0..4usize, port in prop::bool::ANY,
        ) {
            let kinds = [[8, 0, 0x45], [8, 0, 0x46], [0x86, 0xdd, 0x60], [8, 6, 0]];
            for (place, value) in (12..).zip(kinds[kind]).chain([(23, 6), (20, 0), (21, 0)]).chain(port.then_some((36, 0))).chain(port.then_some((37, 80))) {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = value;
                }
            }
            let own = ["10.0.0.1:443".parse().unwrap(), "[fd77::1]:443".parse().unwrap()];
            let mut filter = Filter::new(&tcp_port_80(), &own).unwrap();
            let here = filter.verdict(&frame(&bytes), false);
            // As the kernel does it.
            let kernel = Program::parse(filter.instructions(), WHOLE_MAX).unwrap();
            let by_kernel = match kernel.run(&bytes, u32::try_from(bytes.len()).unwrap()) {
                0 => Verdict::Own,
                1 => filter.verdict(&Frame { bytes: &[2], ..frame(&bytes) }, true),
                _ => filter.verdict(&frame(&bytes), true),
            };
            let tagged = matches!(bytes.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
            prop_assert!(tagged || bytes.len() < 2 || here == by_kernel, "{:?} {:?}", here, by_kernel);
        }
    }
}
