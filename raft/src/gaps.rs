//! Revisions that no transaction gets: a gap before everything that a new leader brings.
//!
//! A power cut of a majority takes volatile transactions that clients may have seen. The next transactions must not get the same revisions
//! again: a watch could resume in another history, and a compare-and-swap succeed on another version. The leader after a power cut cannot know
//! how many were lost, but it always has a new term. So the first entry of every term leaves a gap that is wider than what can have been
//! lost, and whoever comes back with a revision inside of one has seen what is gone. `docs/decisions/0006-volatile-writes.md` has the whole story.

use serde::{Deserialize, Serialize};

use crate::command::{Revision, Term};

/// How many revisions a new term leaves out. More than [`VOLATILE_WAITING_MAX`].
pub(crate) const GAP: u64 = 1 << 20;
/// Volatile entries that a log hands to the operating system before it syncs them all the same: no power cut takes more from any member.
pub(crate) const VOLATILE_WAITING_MAX: u64 = 1 << 16;
/// How many gaps are told apart; older ones are taken together with what lies between them.
const GAPS_KEPT: usize = 256;

/// The gaps in the history, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gaps {
    gaps: Vec<Gap>,
}

/// Revisions that were left out: those between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Gap {
    /// The last one that was given out before.
    after: Revision,
    /// What the store is at afterwards; the next transaction gets the one after it.
    upto: Revision,
}

/// The revision that the first entry of `term` leaves the store at, if it leaves a gap: `last_term` is that of the entry before it. A group's
/// first leader comes after nobody: what founds the group has term 0.
pub(crate) fn revision_after(revision: Revision, last_term: Option<Term>, term: Term) -> Option<Revision> {
    last_term.filter(|last| 0 < *last && *last < term).map(|_| revision.saturating_add(GAP))
}

impl Gaps {
    /// Adds the newest one.
    pub(crate) fn add(&mut self, after: Revision, upto: Revision) {
        self.gaps.push(Gap { after, upto });
        if self.gaps.len() > GAPS_KEPT {
            let oldest = self.gaps.remove(0);
            if let Some(first) = self.gaps.first_mut() {
                first.after = oldest.after;
            }
        }
    }

    /// Forgets those that history does not reach back to.
    pub(crate) fn forget(&mut self, compacted: Revision) {
        self.gaps.retain(|gap| gap.upto > compacted);
    }

    /// Where the gap ends in which this revision lies, if it does: nobody has it now, and whoever knows it has seen what was lost.
    pub(crate) fn end_of(&self, revision: Revision) -> Option<Revision> {
        let next = self.gaps.partition_point(|gap| gap.upto <= revision);
        self.gaps.get(next).filter(|gap| gap.after < revision).map(|gap| gap.upto)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_term_but_the_first_leaves_a_gap() {
        assert_eq!(revision_after(0, None, 0), None);
        assert_eq!(revision_after(0, Some(0), 1), None);
        assert_eq!(revision_after(0, Some(0), 3), None);
        assert_eq!(revision_after(7, Some(1), 1), None);
        // nothing is left, but there may have been something
        assert_eq!(revision_after(0, Some(1), 2), Some(GAP));
        assert_eq!(revision_after(7, Some(1), 2), Some(7 + GAP));
        assert_eq!(revision_after(7, Some(1), 9), Some(7 + GAP));
        const { assert!(GAP > VOLATILE_WAITING_MAX) };
    }

    #[test]
    fn what_lies_inside_a_gap_was_lost() {
        let mut gaps = Gaps::default();
        gaps.add(7, 107);
        gaps.add(110, 210);
        for (revision, expected) in
            [(0, None), (7, None), (8, Some(107)), (106, Some(107)), (107, None), (110, None), (111, Some(210)), (210, None)]
        {
            assert_eq!(gaps.end_of(revision), expected, "{revision}");
        }
        gaps.forget(107);
        assert_eq!((gaps.end_of(8), gaps.end_of(111)), (None, Some(210)));
    }

    proptest! {
        #[test]
        fn many_gaps_stay_few_and_none_is_lost(changes in prop::collection::vec(0_u64..4, 0..600)) {
            let (mut gaps, mut revision, mut inside) = (Gaps::default(), 1, Vec::new());
            for count in changes {
                revision += count;
                inside.push(revision + 1);
                gaps.add(revision, revision + GAP);
                revision += GAP;
            }
            prop_assert!(gaps.gaps.len() <= GAPS_KEPT);
            prop_assert!(inside.iter().all(|lost| gaps.end_of(*lost).is_some()));
            prop_assert_eq!(gaps.end_of(revision), None);
        }
    }
}
