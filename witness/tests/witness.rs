//! One copy of every packet, whoever sees it; and no claim that is not checked.

use proptest::prelude::*;
use std::collections::HashMap;
use thymus_record::Address;
use thymus_record::message::{Member, Passed, Shared};
use thymus_witness::{Choice, Claims, Copies, Ends, Roster, SPAN, Witness, claim_of};

fn host(number: u8) -> Address {
    Address::from_v4([10, 0, 0, number])
}

fn roster(hosts: &[u8], provisional: bool, seed: u64) -> Roster {
    let mut roster = Roster::new(seed);
    for number in hosts {
        let claims = vec![claim_of(seed, host(*number))];
        roster.put(Member { id: u32::from(*number), claims, provisional, ..Member::default() });
    }
    roster
}

fn ends(source: u8, target: u8, port: u16) -> Ends {
    Ends { source: host(source), target: host(target), source_port: port, target_port: 443, proto: 6 }
}

fn choice(me: u32, roster: &Roster, ends: &Ends) -> Choice {
    Witness::new(me, roster).look(ends).choice
}

proptest! {
    #[test]
    fn of_all_witnesses_exactly_one_sends(
        seed in any::<u64>(), source in 1u8..9, target in 1u8..9, port in any::<u16>(), first in 1u8..6,
    ) {
        prop_assume!(source != target);
        let hosts: Vec<u8> = (first..first + 4).collect();
        let group = roster(&hosts, false, seed);
        let sees = |host: u8| host == source || host == target;
        let choices: HashMap<u8, Choice> =
            hosts.iter().map(|host| (*host, choice(u32::from(*host), &group, &ends(source, target, port)))).collect();
        let senders = choices.iter().filter(|(_, choice)| **choice == Choice::Send).count();
        let candidates = hosts.iter().filter(|host| sees(**host)).count();
        prop_assert_eq!(senders, usize::from(candidates > 0));
        for (at, choice) in &choices {
            match choice {
                Choice::Send => prop_assert!(sees(*at), "only who sees it for certain owns it"),
                Choice::Leave(owner) => prop_assert_eq!(u8::try_from(*owner).ok().and_then(|owner| choices.get(&owner)), Some(&Choice::Send)),
                Choice::SendToo => prop_assert_eq!(candidates, 0),
            }
        }
        // The other direction has the same owner, and the receiver expects it from the same one.
        for at in &hosts {
            let back = Ends { source: host(target), target: host(source), source_port: 443, target_port: port, proto: 6 };
            let look = Witness::new(u32::from(*at), &group).look(&back);
            prop_assert_eq!(look.choice, choices[at]);
            if let Some((owner, second)) = Witness::new(0, &group).pair(&back) {
                prop_assert_eq!(look.second, Some(second));
                let owns = choices.iter().find(|(_, choice)| **choice == Choice::Send).map(|(at, _)| u32::from(*at));
                prop_assert_eq!(owns, Some(owner));
            }
        }
    }

    #[test]
    fn several_claimants_or_unchecked_claims_make_every_witness_send(seed in any::<u64>(), port in any::<u16>()) {
        let mut group = roster(&[1, 2], false, seed);
        let both = vec![claim_of(seed, host(1)), claim_of(seed, host(2))];
        group.put(Member { id: 2, claims: both, ..Member::default() });
        for me in [1, 2] {
            prop_assert_eq!(choice(me, &group, &ends(1, 7, port)), Choice::SendToo);
        }
        let group = roster(&[1, 2], true, seed);
        for me in [1, 2] {
            prop_assert_eq!(choice(me, &group, &ends(1, 2, port)), Choice::SendToo);
        }
    }

    #[test]
    fn what_a_span_covers_all_leave_to_it(seed in any::<u64>(), port in any::<u16>()) {
        let mut group = roster(&[1, 2, 3], false, seed);
        let claims = vec![claim_of(seed, host(1))];
        group.put(Member { id: 1, covered: claims.clone(), claims, ..Member::default() });
        for me in [1, 2] {
            prop_assert_eq!(choice(me, &group, &ends(1, 2, port)), Choice::Leave(SPAN));
        }
        prop_assert_ne!(choice(2, &group, &ends(3, 2, port)), Choice::Leave(SPAN));
    }

    #[test]
    fn copies_of_others_go_and_repetitions_stay(own in 1u16..5, others in 1u16..5) {
        let mut copies = Copies::default();
        let mut kept = 0;
        for (member, count) in [(1, own), (2, others)] {
            for _ in 0..count {
                kept += u16::from(!copies.is_copy(77, member, true));
            }
        }
        prop_assert_eq!(kept, own.max(others));
        copies.turn();
        prop_assert!(copies.is_copy(77, 3, true), "remembered over one turn");
        copies.turn();
        copies.turn();
        prop_assert!(!copies.is_copy(77, 3, true), "and forgotten after two");
    }

    #[test]
    fn what_is_sent_of_others_addresses_never_takes_the_place_of_the_owners(first in any::<bool>(), forged in 1u16..5) {
        let mut copies = Copies::default();
        let forge = |copies: &mut Copies| (0..forged).filter(|_| !copies.is_copy(77, 9, false)).count();
        if first { forge(&mut copies); }
        prop_assert!(!copies.is_copy(77, 1, true), "the owner's is kept whatever came before");
        if !first { prop_assert_eq!(forge(&mut copies), usize::from(forged) - 1); }
        prop_assert!(copies.is_copy(77, 2, true), "the other owner's is a copy of the owner's");
    }
}

#[test]
fn flows_between_two_members_are_shared_about_evenly() {
    let group = roster(&[1, 2], false, 99);
    let one = Witness::new(1, &group);
    let mine = (0..10_000).filter(|port| one.look(&ends(1, 2, *port)).choice == Choice::Send).count();
    assert!((4_700..5_300).contains(&mine), "{mine}");
}

/// Seconds of two members, of which each leaves so much to the other and so much of it comes.
fn seconds(claims: &mut Claims, count: u32, left: Passed, from_one: Passed, from_two: Passed) -> Option<(u32, u32)> {
    let mut found = None;
    for second in 1..=count {
        for (owner, other, came) in [(1, 2, from_one), (2, 1, from_two)] {
            claims.left(&Shared { owner, second: other, passed: left });
            claims.came(&Shared { owner, second: other, passed: came });
        }
        if let Some(void) = claims.turn().void.first() {
            found = found.or(Some((*void, second)));
        }
    }
    found
}

fn passed(bytes: u64, bare: u64) -> Passed {
    Passed { bytes, packets: bytes.div_ceil(1_000), bare }
}

#[test]
fn a_member_that_sends_nothing_of_what_is_left_to_it_loses_its_claims_within_seconds() {
    let mut claims = Claims::default();
    [1, 2].iter().for_each(|member| claims.enter(*member, false));
    let much = passed(500_000, 100);
    assert_eq!(seconds(&mut claims, 5, much, much, much), None);
    assert!(!claims.is_provisional(1) && !claims.is_provisional(2));
    let (void, within) = seconds(&mut claims, 10, much, much, Passed::default()).unwrap();
    assert!(void == 2 && within <= 7, "member {void} within {within} s");
    assert!(claims.is_void(2) && claims.is_provisional(2) && !claims.is_void(1));
    claims.leave(2);
    claims.enter(2, false);
    assert!(claims.is_void(2), "who comes anew within the minute is still not relied on");
    (0..60).for_each(|_| drop(claims.turn()));
    assert!(!claims.is_void(2) && claims.is_provisional(2), "then it is checked anew");
    (0..10).for_each(|_| drop(claims.turn()));
    assert!(claims.is_provisional(2), "and nothing is left to it before it has shown that it sends");
    seconds(&mut claims, 4, passed(1_000, 1), passed(1_000, 1), passed(1_000, 1));
    assert!(!claims.is_provisional(2));
}

#[test]
fn who_keeps_a_trickle_or_acknowledgements_back_is_found_too_and_an_honest_loss_is_not() {
    for (left, came, before, at_most) in [
        // A ping a second, of which none comes.
        (passed(1_064, 1), Passed::default(), 3, 20),
        // All payload comes, and no acknowledgement.
        (passed(1_000_000, 300), passed(1_000_000, 0), 3, 20),
        // A twentieth is missing.
        (passed(1_000_000, 300), passed(950_000, 300), 1, 40),
        // The same, after much came that nobody left: that makes up for a minute of it, and no more.
        (passed(1_000_000, 300), passed(950_000, 300), 3, 90),
        // Much comes that nobody left, then it stops: that makes up for nothing.
        (passed(100_000, 10), Passed::default(), 3, 20),
    ] {
        let mut claims = Claims::default();
        [1, 2].iter().for_each(|member| claims.enter(*member, true));
        let surplus = passed(left.bytes * before, left.bare * before);
        assert_eq!(seconds(&mut claims, 20, left, left, surplus), None);
        let found = seconds(&mut claims, 100, left, left, came);
        assert!(found.is_some_and(|(member, within)| member == 2 && within <= at_most), "{left:?} {came:?}: {found:?}");
    }
    let mut claims = Claims::default();
    [1, 2].iter().for_each(|member| claims.enter(*member, false));
    let (left, came) = (passed(1_000_000, 1_000), passed(994_000, 995));
    assert_eq!(seconds(&mut claims, 300, left, came, came), None, "half a percent is lost on the way");
}

#[test]
fn what_is_declared_is_no_deficit_but_who_drops_most_is_not_relied_on() {
    let left = passed(1_000_000, 0);
    for (lost, voids) in [(100_000, false), (900_000, true)] {
        let mut claims = Claims::default();
        [1, 2].iter().for_each(|member| claims.enter(*member, true));
        let mut found = false;
        for _ in 0..20 {
            claims.left(&Shared { owner: 2, second: 1, passed: left });
            claims.came(&Shared { owner: 2, second: 1, passed: passed(1_000_000 - lost, 0) });
            claims.declared(2, passed(lost, 0));
            found |= !claims.turn().void.is_empty();
        }
        assert_eq!(found, voids, "{lost} of 1,000,000 dropped and declared");
    }
}

#[test]
fn the_larger_the_part_that_is_kept_back_the_sooner_it_is_found() {
    for (percent, within) in
        [(2u64, None), (3, Some(62)), (5, Some(36)), (10, Some(18)), (25, Some(10)), (100, Some(7))]
    {
        let mut claims = Claims::default();
        [1, 2].iter().for_each(|member| claims.enter(*member, true));
        let left = passed(1_000_000, 300);
        let came = passed(10_000 * (100 - percent), 3 * (100 - percent));
        assert_eq!(seconds(&mut claims, 60, left, left, left), None);
        let found = seconds(&mut claims, 300, left, left, came).map(|(member, second)| {
            assert_eq!(member, 2);
            second
        });
        assert!(found.is_none() == within.is_none() && found <= within, "{percent} %: {found:?}");
    }
}
