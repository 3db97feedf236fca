//! Whether a leader still reigns, asked for a linearizable read without raft's core on either side. Pure; [`crate::read_index`] asks.
//!
//! The leader asks the voters, after the read has come, for the votes that they have on disk. A member grants a vote, or takes a leader's entries,
//! only after its vote is there, and a vote on disk only ever gets newer. So whoever was elected in a later term before the read came had a majority
//! with newer votes by then. A majority without newer ones, the leader itself included, would share a member with that one: nobody was elected, so
//! nobody else has acknowledged or shown anything. An answer promises nothing for later, and no clock takes part. What this leader has acknowledged
//! it had applied; what others show of its term it had told them; all that came before its term precedes its first entry, which is applied.

use std::collections::BTreeSet;

use crate::command::NodeId;
use crate::majority::is_majority;
use crate::network::messages::Append;
use crate::records::VoteRecord;
use crate::store::Leadership;

/// Whether a member that knows this of its leadership, and has this vote on disk, may ask: it leads, and has applied an entry of its term.
pub(crate) fn may_ask(own: NodeId, leadership: Leadership, vote: VoteRecord) -> bool {
    let as_leader = VoteRecord { term: leadership.term, voted_for: own, committed: true };
    leadership.established && leadership.leader == Some(own) && vote == as_leader
}

/// The question, for the leader with this vote: a heartbeat that says nothing. Older programs answer it, too, by way of raft.
pub(crate) fn question(vote: VoteRecord) -> Append {
    Append { vote, previous: None, entries: Vec::new(), committed: None }
}

/// Whether `append` is the question of the leader for whom the `saved` vote is. Any other one is raft's to answer: it may have to follow that leader
/// first.
pub(crate) fn is_of_own_leader(append: &Append, saved: VoteRecord) -> bool {
    saved.committed && *append == question(saved)
}

/// Whom to ask at first, among the `reachable`: as few as are a majority with this member, those in `prompt` before others. Everybody, if all are
/// too few.
pub(crate) fn first_asked(
    own: NodeId,
    sets: &[BTreeSet<NodeId>],
    reachable: &BTreeSet<NodeId>,
    prompt: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    let mut asked = BTreeSet::new();
    for id in reachable.intersection(prompt).chain(reachable.difference(prompt)) {
        if is_majority(sets, |id| id == own || asked.contains(&id)) {
            break;
        }
        asked.insert(*id);
    }
    asked
}

/// The voters other than this member.
pub(crate) fn others(own: NodeId, sets: &[BTreeSet<NodeId>]) -> BTreeSet<NodeId> {
    sets.iter().flatten().copied().filter(|id| *id != own).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::command::Term;
    use crate::raft_types::Vote;
    use crate::records::LogIdRecord;

    fn vote(term: Term, voted_for: NodeId, committed: bool) -> VoteRecord {
        VoteRecord { term, voted_for, committed }
    }

    #[test]
    fn only_an_established_leader_asks() {
        let leadership = Leadership { term: 4, leader: Some(1), established: true };
        assert!(may_ask(1, leadership, vote(4, 1, true)));
        // not elected yet, deposed meanwhile, by itself even; and what was known is old
        for saved in [vote(4, 1, false), vote(5, 2, false), vote(5, 2, true), vote(5, 1, false), vote(5, 1, true)] {
            assert!(!may_ask(1, leadership, saved), "{saved:?}");
        }
        for leadership in [Leadership { established: false, ..leadership }, Leadership { leader: Some(2), ..leadership }] {
            assert!(!may_ask(1, leadership, vote(4, 1, true)), "{leadership:?}");
        }
    }

    #[test]
    fn raft_answers_whatever_is_not_the_question_of_the_own_leader() {
        let asked = question(vote(4, 1, true));
        assert!(is_of_own_leader(&asked, vote(4, 1, true)));
        for saved in [vote(3, 1, true), vote(4, 1, false), vote(4, 2, false), vote(5, 2, false), vote(5, 1, true)] {
            assert!(!is_of_own_leader(&asked, saved), "{saved:?}");
        }
        // a candidate is no leader, and a heartbeat of raft has something to say
        assert!(!is_of_own_leader(&question(vote(4, 1, false)), vote(4, 1, false)));
        let at = Some(LogIdRecord { term: 4, index: 9 });
        for beat in [Append { previous: at, ..asked.clone() }, Append { committed: at, ..asked }] {
            assert!(!is_of_own_leader(&beat, vote(4, 1, true)), "{beat:?}");
        }
    }

    #[test]
    fn every_voter_of_both_sets_is_asked_once() {
        let sets = [BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4])];
        assert_eq!(others(1, &sets), BTreeSet::from([2, 3, 4]));
        assert_eq!(others(1, &[BTreeSet::from([1])]), BTreeSet::new());
    }

    fn check_first(sets: &[&[NodeId]], reachable: &[NodeId], prompt: &[NodeId], expected: &[NodeId]) {
        let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<NodeId>>();
        let sets: Vec<_> = sets.iter().map(|voters| set(voters)).collect();
        assert_eq!(first_asked(1, &sets, &set(reachable), &set(prompt)), set(expected), "{reachable:?} of {sets:?}");
    }

    #[test]
    fn no_more_are_asked_than_are_needed_and_the_prompt_before_others() {
        check_first(&[&[1]], &[], &[], &[]);
        check_first(&[&[1, 2, 3]], &[2, 3], &[], &[2]);
        check_first(&[&[1, 2, 3]], &[2, 3], &[3], &[3]);
        // the prompt one has gone since
        check_first(&[&[1, 2, 3]], &[2], &[3], &[2]);
        check_first(&[&[1, 2, 3, 4, 5]], &[2, 3, 4, 5], &[4, 5], &[4, 5]);
        check_first(&[&[1, 2, 3, 4, 5]], &[2], &[4, 5], &[2]);
        check_first(&[&[1, 2, 3], &[1, 4, 5]], &[2, 3, 4, 5], &[2], &[2, 3, 4]);
        // this member is about to leave
        check_first(&[&[2, 3]], &[2, 3], &[2], &[2, 3]);
    }

    /// Voters, and who was elected when.
    struct Group {
        saved: BTreeMap<NodeId, VoteRecord>,
        elected: Vec<VoteRecord>,
    }

    impl Group {
        fn new(voters: u64) -> Self {
            Self { saved: (1..=voters).map(|id| (id, vote(0, 0, false))).collect(), elected: Vec::new() }
        }

        /// Saves `asked` at `member`, if raft's order of votes allows.
        fn take(&mut self, member: NodeId, asked: VoteRecord) -> bool {
            let saved = self.saved.get_mut(&member).expect("it is a voter");
            let takes = Vote::from(asked) >= Vote::from(*saved);
            if takes {
                *saved = asked;
            }
            takes
        }

        /// `candidate` stands, `asked` get its question, and `heard` hear of it if it wins.
        fn elect(&mut self, candidate: NodeId, asked: &[NodeId], heard: &[NodeId]) {
            let standing = vote(self.saved[&candidate].term + 1, candidate, false);
            let granted: BTreeSet<NodeId> = [candidate].iter().chain(asked).copied().filter(|id| self.take(*id, standing)).collect();
            if is_majority(&[self.voters()], |id| granted.contains(&id)) {
                let won = VoteRecord { committed: true, ..standing };
                self.elected.push(won);
                [candidate].iter().chain(heard).for_each(|id| _ = self.take(*id, won));
            }
        }

        fn voters(&self) -> BTreeSet<NodeId> {
            self.saved.keys().copied().collect()
        }

        /// What `member` answers to the leader with `asked`.
        fn agrees(&mut self, member: NodeId, asked: VoteRecord) -> bool {
            is_of_own_leader(&question(asked), self.saved[&member]) || self.take(member, asked)
        }
    }

    type Election = (NodeId, Vec<NodeId>, Vec<NodeId>);

    fn elections(voters: u64) -> impl Strategy<Value = Vec<Election>> {
        let some = || prop::collection::vec(1..=voters, 0..5);
        prop::collection::vec((1..=voters, some(), some()), 0..12)
    }

    proptest! {
        /// Whoever still believes to lead hears it from a majority only if nobody was elected after it before it asked, whatever happens
        /// between the answers.
        #[test]
        fn a_majority_agrees_only_with_the_last_leader(
            (before, meanwhile, order) in (1_u64..6).prop_flat_map(|voters| {
                (elections(voters).prop_map(move |before| (voters, before)), elections(voters), Just((1..=voters).collect::<Vec<_>>()).prop_shuffle())
            }),
        ) {
            let (voters, before) = before;
            let mut group = Group::new(voters);
            before.iter().for_each(|(candidate, asked, heard)| group.elect(*candidate, asked, heard));
            let elected = group.elected.clone();
            for leader in &elected {
                let own = leader.voted_for;
                if group.saved[&own] != *leader {
                    continue;
                }
                let mut agreeing = BTreeSet::from([own]);
                let mut meanwhile = meanwhile.iter();
                for member in order.iter().filter(|id| **id != own) {
                    if group.agrees(*member, *leader) {
                        agreeing.insert(*member);
                    }
                    if let Some((candidate, asked, heard)) = meanwhile.next() {
                        group.elect(*candidate, asked, heard);
                    }
                }
                if is_majority(&[group.voters()], |id| agreeing.contains(&id)) {
                    prop_assert!(elected.iter().all(|other| other.term <= leader.term), "{leader:?} of {elected:?}");
                }
            }
        }
    }
}
