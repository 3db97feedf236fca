//! What a leader has told its peers in its term: they may act on it before raft's core gives an account of it to other tasks. Pure.

use std::collections::BTreeSet;

use crate::command::{NodeId, Term};
use crate::network::messages::Append;
use crate::records::PayloadRecord;

/// What was told. Everything in it is in the leader's log, which a leader never shortens.
#[derive(Debug, Default)]
pub(crate) struct Told {
    term: Term,
    /// Index of the last entry that is committed.
    committed: u64,
    /// The newest sets of voters, and the index of their entry.
    voters: Option<(u64, Vec<BTreeSet<NodeId>>)>,
}

impl Told {
    /// Notes what is about to be sent.
    pub(crate) fn note(&mut self, append: &Append) {
        if append.vote.term < self.term {
            return;
        }
        if append.vote.term > self.term {
            *self = Self { term: append.vote.term, ..Self::default() };
        }
        self.committed = self.committed.max(append.committed.map_or(0, |committed| committed.index));
        for entry in &append.entries {
            if let PayloadRecord::Membership(membership) = &entry.payload
                && self.voters.as_ref().is_none_or(|(index, _)| *index < entry.log_id.index)
            {
                self.voters = Some((entry.log_id.index, membership.voters.clone()));
            }
        }
    }

    /// Index of the last entry that the leader of `term` has called committed; 0 if there is none.
    pub(crate) fn committed(&self, term: Term) -> u64 {
        if self.term == term { self.committed } else { 0 }
    }

    /// The sets of voters that the leader of `term` has told of, if they came after the entry at `index`.
    pub(crate) fn voters_after(&self, term: Term, index: u64) -> Option<&[BTreeSet<NodeId>]> {
        let (at, sets) = self.voters.as_ref().filter(|_| self.term == term)?;
        (*at > index).then_some(sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{EntryRecord, LogIdRecord, MembershipRecord, VoteRecord};

    fn append(term: Term, committed: u64, changes: &[(u64, &[NodeId])]) -> Append {
        let entries = changes.iter().map(|(index, voters)| {
            let membership = MembershipRecord { voters: vec![voters.iter().copied().collect()], ..MembershipRecord::default() };
            EntryRecord { log_id: LogIdRecord { term, index: *index }, payload: PayloadRecord::Membership(membership) }
        });
        Append {
            vote: VoteRecord { term, voted_for: 1, committed: true },
            previous: None,
            entries: entries.collect(),
            committed: Some(LogIdRecord { term, index: committed }),
        }
    }

    #[test]
    fn the_furthest_and_the_newest_counts() {
        let mut told = Told::default();
        told.note(&append(4, 9, &[(10, &[1, 2, 3]), (12, &[1, 2])]));
        // a peer that lags is sent the older change later
        told.note(&append(4, 7, &[(10, &[1, 2, 3])]));
        assert_eq!(told.committed(4), 9);
        assert_eq!(told.voters_after(4, 11), Some([BTreeSet::from([1, 2])].as_slice()));
        assert_eq!(told.voters_after(4, 12), None);
    }

    #[test]
    fn what_was_told_in_another_term_may_never_have_been_so() {
        let mut told = Told::default();
        told.note(&append(4, 9, &[(10, &[1, 2])]));
        assert_eq!((told.committed(5), told.voters_after(5, 0)), (0, None));
        told.note(&append(6, 8, &[]));
        assert_eq!((told.committed(6), told.voters_after(6, 0)), (8, None));
        // a late one of the term before
        told.note(&append(4, 99, &[(98, &[1])]));
        assert_eq!((told.committed(6), told.voters_after(6, 0)), (8, None));
    }
}
