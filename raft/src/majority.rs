//! Majorities of voters. There are two sets of voters while they change, and nothing is decided without a majority of each. Pure.

use std::collections::BTreeSet;

use crate::command::NodeId;

/// Whether those voters of which `counts` says so are a majority of each set; never without voters.
pub(crate) fn is_majority(sets: &[BTreeSet<NodeId>], counts: impl Fn(NodeId) -> bool) -> bool {
    !sets.is_empty() && sets.iter().all(|voters| voters.iter().filter(|id| counts(**id)).count() > voters.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sets: &[&[NodeId]], counting: &[NodeId], expected: bool) {
        let sets: Vec<BTreeSet<NodeId>> = sets.iter().map(|voters| voters.iter().copied().collect()).collect();
        assert_eq!(is_majority(&sets, |id| counting.contains(&id)), expected, "{counting:?} of {sets:?}");
    }

    #[test]
    fn more_than_half_of_each_set() {
        check(&[], &[1], false);
        check(&[&[1]], &[1], true);
        check(&[&[1]], &[2, 3], false);
        check(&[&[1, 2]], &[1], false);
        check(&[&[1, 2, 3]], &[1, 3], true);
        check(&[&[1, 2, 3, 4]], &[1, 2], false);
        check(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3], false);
        check(&[&[1, 2, 3], &[3, 4, 5]], &[2, 3, 4], true);
        // a leader that the change removes does not count in the set without it
        check(&[&[1, 2], &[2, 3]], &[1, 2], false);
    }
}
