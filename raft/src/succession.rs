//! Who takes over from a leader whose process has gone, and who agrees that it has. Pure: [`crate::departed`] looks and acts.
//!
//! Every voter that sees it asks all others, and puts those that see it, too, in the same order: the longest log first, then the lowest id.
//! The first one stands for election at once; another one only if those before it have let their turn pass.
//! `docs/decisions/0010-a-leader-that-has-gone.md` says why this is safe.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::{NodeId, Term};
use crate::doubt::Standing;
use crate::majority::is_majority;

/// A leader in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reign {
    /// Its term.
    pub(crate) term: Term,
    /// Who leads.
    pub(crate) leader: NodeId,
}

/// What a member sees of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Whom this member follows.
    pub(crate) follows: Option<Reign>,
    /// The leader still holds a connection to it.
    pub(crate) is_connected: bool,
    /// The leader's machine said that nobody listens at its address.
    pub(crate) is_refused: bool,
}

/// Why a member does not agree that the leader has gone, if so.
pub(crate) fn objection(reign: Reign, sight: Sight) -> Option<&'static str> {
    if sight.follows != Some(reign) {
        Some("it does not follow that leader in that term")
    } else if sight.is_connected {
        Some("the leader holds a connection to it")
    } else if !sight.is_refused {
        Some("the leader's address does not refuse connections")
    } else {
        None
    }
}

/// How many stand before `own`; `None` if it must not stand. `witnesses` are the members that see that the leader has gone, itself included.
/// Those in doubt of their log do not count, and a quorum is a majority of each set of voters.
pub(crate) fn turn(own: NodeId, sets: &[BTreeSet<NodeId>], witnesses: &BTreeMap<NodeId, Standing>) -> Option<usize> {
    let place = |id: &NodeId| {
        let standing = witnesses.get(id).filter(|standing| standing.doubt.is_none())?;
        Some((Reverse(standing.last), *id))
    };
    let voters: BTreeSet<NodeId> = sets.iter().flatten().copied().collect();
    if !voters.contains(&own) || !is_majority(sets, |id| place(&id).is_some()) {
        return None;
    }
    let own_place = place(&own)?;
    Some(voters.iter().filter_map(place).filter(|other| *other < own_place).count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::doubt::Doubt;
    use crate::records::LogIdRecord;

    fn sound(term: Term, index: u64) -> Standing {
        Standing { last: Some(LogIdRecord { term, index }), doubt: None }
    }

    fn doubtful(term: Term, index: u64) -> Standing {
        Standing { doubt: Some(Doubt::Tail), ..sound(term, index) }
    }

    /// Whose turn is when, among all that could stand.
    fn check(sets: &[&[NodeId]], witnesses: &[(NodeId, Standing)], expected: &[(NodeId, usize)]) {
        let sets: Vec<BTreeSet<NodeId>> = sets.iter().map(|voters| voters.iter().copied().collect()).collect();
        let witnesses: BTreeMap<NodeId, Standing> = witnesses.iter().copied().collect();
        let turns: Vec<(NodeId, usize)> = (1..=9).filter_map(|own| Some((own, turn(own, &sets, &witnesses)?))).collect();
        assert_eq!(turns, expected);
    }

    #[test]
    fn the_longest_log_stands_first_and_nobody_without_a_quorum() {
        // member 1 led
        check(&[&[1, 2, 3]], &[(2, sound(4, 9)), (3, sound(4, 9))], &[(2, 0), (3, 1)]);
        check(&[&[1, 2, 3]], &[(2, sound(4, 8)), (3, sound(4, 9))], &[(2, 1), (3, 0)]);
        check(&[&[1, 2, 3]], &[(2, sound(3, 99)), (3, sound(4, 9))], &[(2, 1), (3, 0)]);
        // the other one still hears the leader, or does not answer
        check(&[&[1, 2, 3]], &[(2, sound(4, 9))], &[]);
        // of two none may go on alone, and of one there is nobody left
        check(&[&[1, 2]], &[(2, sound(4, 9))], &[]);
        check(&[&[1]], &[], &[]);
        let five: &[NodeId] = &[1, 2, 3, 4, 5];
        check(&[five], &[(2, sound(4, 7)), (3, sound(4, 9)), (5, sound(4, 9))], &[(2, 2), (3, 0), (5, 1)]);
        check(&[five], &[(2, sound(4, 7)), (3, sound(4, 9))], &[]);
    }

    #[test]
    fn learners_and_doubtful_members_neither_stand_nor_count() {
        check(&[&[1, 2, 3]], &[(2, sound(4, 9)), (7, sound(4, 9))], &[]);
        check(&[&[1, 2, 3]], &[(2, sound(4, 9)), (3, doubtful(4, 9))], &[]);
        let four = [(2, doubtful(4, 20)), (3, sound(4, 9)), (4, sound(4, 9)), (5, sound(4, 8)), (7, sound(5, 1))];
        check(&[&[1, 2, 3, 4, 5]], &four, &[(3, 0), (4, 1), (5, 2)]);
    }

    #[test]
    fn both_sets_of_voters_count_while_they_change() {
        let sets: &[&[NodeId]] = &[&[1, 2, 3], &[3, 4, 5]];
        check(sets, &[(2, sound(4, 9)), (3, sound(4, 9))], &[]);
        check(sets, &[(2, sound(4, 9)), (3, sound(4, 8)), (4, sound(4, 9))], &[(2, 0), (3, 2), (4, 1)]);
    }

    #[test]
    fn a_member_agrees_only_with_what_it_sees_itself() {
        let reign = Reign { term: 4, leader: 1 };
        let gone = Sight { follows: Some(reign), is_connected: false, is_refused: true };
        assert_eq!(objection(reign, gone), None);
        for sight in [
            Sight { follows: None, ..gone },
            Sight { follows: Some(Reign { term: 5, ..reign }), ..gone },
            Sight { follows: Some(Reign { leader: 2, ..reign }), ..gone },
            Sight { is_connected: true, ..gone },
            Sight { is_refused: false, ..gone },
        ] {
            assert!(objection(reign, sight).is_some(), "{sight:?}");
        }
    }

    proptest! {
        /// Whoever stands first has the longest log of all that see it, so nobody who sees it refuses it for its log; and no two have the same turn.
        #[test]
        fn turns_are_different_and_follow_the_logs(
            voters in 1_u64..6,
            witnesses in prop::collection::btree_map(1_u64..8, (0_u64..4, 0_u64..5, any::<bool>()), 0..8),
        ) {
            let voters: BTreeSet<NodeId> = (1..=voters).collect();
            let witnesses: BTreeMap<NodeId, Standing> = witnesses
                .into_iter()
                .map(|(id, (term, index, doubts))| (id, if doubts { doubtful(term, index) } else { sound(term, index) }))
                .collect();
            let mut turns: Vec<(usize, NodeId)> =
                (1..8).filter_map(|own| Some((turn(own, std::slice::from_ref(&voters), &witnesses)?, own))).collect();
            turns.sort_unstable();
            prop_assert!(turns.iter().enumerate().all(|(place, (turn, _))| place == *turn));
            prop_assert!(turns.is_empty() || turns.len() > voters.len() / 2);
            let logs: Vec<_> = turns.iter().map(|(_, id)| witnesses[id].last).collect();
            prop_assert!(logs.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }
}
