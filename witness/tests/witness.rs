//! One copy of every packet, whoever sees it; and no claim that is not checked.

use proptest::prelude::*;
use std::collections::HashMap;
use thymus_record::Address;
use thymus_record::message::{Member, Members};
use thymus_witness::{Choice, Claims, Copies, Ends, Witness, claim_of};

fn host(number: u8) -> Address {
    Address::from_v4([10, 0, 0, number])
}

fn members(hosts: &[u8], provisional: bool, seed: u64) -> Members {
    let member = |host_number: &u8| Member {
        id: u32::from(*host_number),
        claims: vec![claim_of(seed, host(*host_number))],
        provisional,
    };
    Members { epoch: 1, seed, members: hosts.iter().map(member).collect(), ..Members::default() }
}

fn ends(source: u8, target: u8, port: u16) -> Ends {
    Ends { source: host(source), target: host(target), source_port: port, target_port: 443, proto: 6 }
}

proptest! {
    #[test]
    fn of_all_witnesses_exactly_one_sends(
        seed in any::<u64>(), source in 1u8..9, target in 1u8..9, port in any::<u16>(), first in 1u8..6,
    ) {
        prop_assume!(source != target);
        let hosts: Vec<u8> = (first..first + 4).collect();
        let group = members(&hosts, false, seed);
        let sees = |host: u8| host == source || host == target;
        let choices: HashMap<u8, Choice> =
            hosts.iter().map(|host| (*host, Witness::new(u32::from(*host), &group).choose(&ends(source, target, port)))).collect();
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
        // The other direction has the same owner.
        for at in &hosts {
            let back = Ends { source: host(target), target: host(source), source_port: 443, target_port: port, proto: 6 };
            prop_assert_eq!(Witness::new(u32::from(*at), &group).choose(&back), choices[at]);
        }
    }

    #[test]
    fn several_claimants_or_unchecked_claims_make_every_witness_send(seed in any::<u64>(), port in any::<u16>()) {
        let mut group = members(&[1, 2], false, seed);
        group.members[1].claims.push(claim_of(seed, host(1)));
        for me in [1, 2] {
            prop_assert_eq!(Witness::new(me, &group).choose(&ends(1, 7, port)), Choice::SendToo);
        }
        let group = members(&[1, 2], true, seed);
        for me in [1, 2] {
            prop_assert_eq!(Witness::new(me, &group).choose(&ends(1, 2, port)), Choice::SendToo);
        }
    }

    #[test]
    fn copies_of_others_go_and_repetitions_stay(own in 1u16..5, others in 1u16..5) {
        let mut copies = Copies::default();
        let mut kept = 0;
        for (member, count) in [(1, own), (2, others)] {
            for _ in 0..count {
                kept += u16::from(!copies.is_copy(77, member));
            }
        }
        prop_assert_eq!(kept, own.max(others));
        copies.turn();
        prop_assert!(copies.is_copy(77, 3), "remembered over one turn");
        copies.turn();
        copies.turn();
        prop_assert!(!copies.is_copy(77, 3), "and forgotten after two");
    }
}

#[test]
fn flows_between_two_members_are_shared_about_evenly() {
    let group = members(&[1, 2], false, 99);
    let one = Witness::new(1, &group);
    let mine = (0..10_000).filter(|port| one.choose(&ends(1, 2, *port)) == Choice::Send).count();
    assert!((4_700..5_300).contains(&mine), "{mine}");
}

#[test]
fn a_member_that_sends_nothing_of_what_is_left_to_it_loses_its_claims_within_seconds() {
    let mut claims = Claims::default();
    claims.enter(1);
    claims.enter(2);
    let mut voided = None;
    for second in 1..10 {
        for member in [1, 2] {
            claims.left_to(member, 500_000);
        }
        claims.delivered(1, 480_000);
        claims.declared(1, 20_000);
        let verdict = claims.turn();
        if verdict.void.contains(&2) {
            voided.get_or_insert(second);
        }
        assert!(!verdict.void.contains(&1));
    }
    assert_eq!(voided, Some(3));
    assert!(claims.is_void(2) && claims.is_provisional(2));
    assert!(!claims.is_void(1) && !claims.is_provisional(1));
    claims.leave(2);
    claims.enter(2);
    assert!(claims.is_void(2), "who comes anew within the minute is still not relied on");
    (0..60).for_each(|_| drop(claims.turn()));
    assert!(!claims.is_void(2) && claims.is_provisional(2), "then it is checked anew");
    (0..10).for_each(|_| drop(claims.turn()));
    assert!(claims.is_provisional(2), "and nothing is left to it before it has shown that it sends");
    claims.left_to(2, 1_000);
    claims.delivered(2, 1_000);
    assert_eq!(claims.turn().held, [2]);
}
