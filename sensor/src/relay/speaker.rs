//! Whose word counts on who holds an end of a flow.

/// True if `agent` may speak for the address of this claim: it claims it, or nobody does. `claims` are those of all
/// agents.
pub(super) fn speaks_for<'a>(agent: u32, claim: u64, claims: impl Iterator<Item = (u32, &'a [u64])>) -> bool {
    let mut is_claimed = false;
    for (id, theirs) in claims {
        let claims = theirs.contains(&claim);
        if claims && id == agent {
            return true;
        }
        is_claimed |= claims;
    }
    !is_claimed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_speaks_for_its_own_addresses_and_for_those_that_nobody_claims() {
        let all = [(1, vec![10, 11]), (2, vec![20, 99]), (3, vec![99])];
        let speaks = |agent, claim| speaks_for(agent, claim, all.iter().map(|(id, claims)| (*id, claims.as_slice())));
        assert!(speaks(1, 10) && speaks(2, 20));
        assert!(!speaks(1, 20), "another agent's");
        assert!(speaks(1, 77), "of a container behind it");
        assert!(speaks(2, 99) && speaks(3, 99) && !speaks(1, 99), "shared by two");
        assert!(!speaks(9, 10), "one that is not here any more");
    }
}
