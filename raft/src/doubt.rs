//! When a member's log may lack what it once acknowledged, and what it may still decide then.
//!
//! Volatile entries are acknowledged before they reach the disk, so a machine that loses its power takes some of them along. Raft counts on
//! every voter for what it has acknowledged; such a member therefore abstains from elections until it knows again what the group has
//! committed. Normally a leader tells it within a heartbeat. If there is none because too many voters are in doubt, they may elect
//! whoever has the longest log among all of them. `docs/decisions/0006-volatile-writes.md` says why that is safe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::NodeId;
use crate::majority::is_majority;
use crate::records::LogIdRecord;

/// After so long without an answer a voter counts as lost, and the others may go on without it.
pub(crate) const MISSING_AFTER: Duration = Duration::from_secs(10);

/// How much of its log a member may have lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Doubt {
    /// Entries at the end that were never synced: the machine stopped without warning.
    Tail,
    /// Everything: the group had gone on with other entries than this member, which started over.
    Everything,
}

/// What a voter says of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Its last entry.
    pub(crate) last: Option<LogIdRecord>,
    /// Whether it may have lost some.
    pub(crate) doubt: Option<Doubt>,
}

/// A member's part in elections while it is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suffrage {
    /// As raft says.
    Full,
    /// None at all.
    Abstains,
    /// Only for those whose log reaches at least this far.
    AtLeast(Option<LogIdRecord>),
}

impl Doubt {
    /// What the doubtful member may do that is not among the voters as far as its log goes; others may know that it is, and need its vote.
    /// The change that made it a voter goes to the disk before it is acknowledged, and so does everything before it: what it may have lost it
    /// acknowledged while no quorum counted on it. Unless it has forgotten everything, that change too.
    pub(crate) fn suffrage_outside(self) -> Suffrage {
        match self {
            Self::Tail => Suffrage::Full,
            Self::Everything => Suffrage::Abstains,
        }
    }

    /// Why a member that doubts its log does not take part in elections as others do, and what ends that.
    pub(crate) fn reason(self, suffrage: Suffrage) -> String {
        let because = match self {
            Self::Tail => "its machine stopped without warning, so its log may lack what it had acknowledged",
            Self::Everything => "it started over, because the group had gone on without entries that it had applied",
        };
        let so = match suffrage {
            Suffrage::Full => "it votes as others do".to_owned(),
            Suffrage::Abstains => "it neither votes nor leads until a leader or enough other voters have answered".to_owned(),
            Suffrage::AtLeast(None) => "there is no leader, and it votes for anybody".to_owned(),
            Suffrage::AtLeast(Some(LogIdRecord { term, index })) => {
                format!("there is no leader, and it votes for nobody whose log ends before entry {index} of term {term}")
            }
        };
        format!("{because}; {so}")
    }
}

impl Suffrage {
    /// Whether a candidate with this last entry may have the member's vote, if raft agrees.
    pub(crate) fn allows(self, last: Option<LogIdRecord>) -> bool {
        match self {
            Self::Full => true,
            Self::Abstains => false,
            Self::AtLeast(floor) => last >= floor,
        }
    }
}

/// What the doubtful member may do after it has heard from some voters, itself included, for `waited`. While sound voters suffice for
/// a quorum they elect a leader by themselves, and it waits for that, but not for ever: they may know of a change of voters that needs its
/// vote. There are two sets of voters while they change, and a quorum is a majority of each.
pub(crate) fn suffrage(sets: &[BTreeSet<NodeId>], heard: &BTreeMap<NodeId, Standing>, waited: Duration) -> Suffrage {
    let is_quorum = |counts: &dyn Fn(&Standing) -> bool| is_majority(sets, |id| heard.get(&id).is_some_and(counts));
    let voters: BTreeSet<NodeId> = sets.iter().flatten().copied().collect();
    let standings: Vec<Standing> = voters.iter().filter_map(|id| heard.get(id)).copied().collect();
    let missing = voters.len() - standings.len();
    // one that lost everything had its share in quorums of which only the missing may know
    let may_go_without = waited >= MISSING_AFTER && standings.iter().all(|standing| standing.doubt != Some(Doubt::Everything));
    let sound_ones_elect = waited < MISSING_AFTER && is_quorum(&|standing| standing.doubt.is_none());
    if sound_ones_elect || !is_quorum(&|_| true) || (missing > 0 && !may_go_without) {
        return Suffrage::Abstains;
    }
    Suffrage::AtLeast(standings.iter().map(|standing| standing.last).max().flatten())
}

/// Whether appending `entries` after `previous` would replace entries that were already applied: the group has gone on without them.
/// `known` answers which term the entry at an index has here, if it is still here.
pub(crate) fn rewrites_applied(
    applied: LogIdRecord,
    previous: Option<LogIdRecord>,
    entries: impl Iterator<Item = LogIdRecord>,
    known: impl Fn(u64) -> Option<u64>,
) -> bool {
    if previous.is_some_and(|previous| previous.index > applied.index) {
        return false;
    }
    let differs = |id: LogIdRecord| {
        let here = if id.index == applied.index { Some(applied.term) } else { known(id.index) };
        here.is_some_and(|term| term != id.term)
    };
    previous.into_iter().chain(entries.take_while(|id| id.index <= applied.index)).any(differs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(term: u64, index: u64) -> Option<LogIdRecord> {
        Some(LogIdRecord { term, index })
    }

    fn sound(last: Option<LogIdRecord>) -> Standing {
        Standing { last, doubt: None }
    }

    fn doubtful(last: Option<LogIdRecord>) -> Standing {
        Standing { last, doubt: Some(Doubt::Tail) }
    }

    fn check(voters: u64, heard: &[(NodeId, Standing)], waited: Duration, expected: Suffrage) {
        let heard = heard.iter().copied().collect();
        assert_eq!(suffrage(&[(1..=voters).collect()], &heard, waited), expected);
    }

    #[test]
    fn both_sets_of_voters_count_while_they_change() {
        let sets = [BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3])];
        let heard = BTreeMap::from([(1, doubtful(at(2, 7))), (2, sound(at(2, 9))), (3, sound(at(2, 9)))]);
        // the sound ones are a majority of three, not of two: without the doubtful one they elect nobody
        assert_eq!(suffrage(&sets, &heard, Duration::ZERO), Suffrage::AtLeast(at(2, 9)));
        let heard = BTreeMap::from([(1, doubtful(at(2, 7))), (3, sound(at(2, 9)))]);
        assert_eq!(suffrage(&sets, &heard, MISSING_AFTER), Suffrage::Abstains);
    }

    #[test]
    fn who_may_vote_after_a_power_cut() {
        let (now, late) = (Duration::ZERO, MISSING_AFTER);
        let longest = Suffrage::AtLeast(at(2, 9));
        // alone there is nobody to ask
        check(1, &[(1, doubtful(at(2, 9)))], now, longest);
        // the sound ones elect a leader
        check(3, &[(1, doubtful(at(2, 7))), (2, sound(at(2, 9))), (3, sound(at(2, 9)))], now, Suffrage::Abstains);
        // unless they cannot: by voters of which the doubtful one has not heard yet
        check(3, &[(1, doubtful(at(2, 7))), (2, sound(at(2, 9))), (3, sound(at(2, 9)))], late, longest);
        // all lost their power
        check(3, &[(1, doubtful(at(2, 7))), (2, doubtful(at(2, 9))), (3, doubtful(at(1, 20)))], now, longest);
        // the sound one may know more
        check(3, &[(1, doubtful(at(2, 7))), (2, doubtful(at(2, 8))), (3, sound(at(2, 9)))], now, longest);
        // the third may be sound, or never come back
        check(3, &[(1, doubtful(at(2, 7))), (2, doubtful(at(2, 9)))], now, Suffrage::Abstains);
        check(3, &[(1, doubtful(at(2, 7))), (2, doubtful(at(2, 9)))], late, longest);
        check(3, &[(1, doubtful(at(2, 9)))], late, Suffrage::Abstains);
        // one that lost everything needs them all
        let nothing = Standing { last: None, doubt: Some(Doubt::Everything) };
        check(3, &[(1, nothing), (2, doubtful(at(2, 9)))], late, Suffrage::Abstains);
        check(3, &[(1, nothing), (2, doubtful(at(2, 9))), (3, sound(None))], now, longest);
        // somebody who is no voter does not count
        check(1, &[(1, doubtful(at(2, 9))), (7, sound(at(8, 8)))], now, longest);
    }

    #[test]
    fn whoever_was_made_a_voter_unawares_votes_unless_it_has_forgotten_everything() {
        // 1 and 2 were to go on without 3, and only 1 knows yet that 2 votes: without its vote nobody is ever elected
        let sets = [BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2])];
        let heard = BTreeMap::from([(1, doubtful(at(2, 63))), (2, doubtful(at(1, 5))), (3, doubtful(at(1, 55)))]);
        assert_eq!(suffrage(&sets, &heard, Duration::ZERO), Suffrage::AtLeast(at(2, 63)));
        assert!(Doubt::Tail.suffrage_outside().allows(at(2, 63)));
        assert!(!Doubt::Everything.suffrage_outside().allows(at(2, 63)));
    }

    #[test]
    fn a_doubtful_member_says_what_it_waits_for() {
        let reason = Doubt::Tail.reason(Suffrage::AtLeast(at(2, 9)));
        assert!(reason.ends_with("it votes for nobody whose log ends before entry 9 of term 2"), "{reason}");
        let reason = Doubt::Everything.reason(Suffrage::Abstains);
        assert!(reason.starts_with("it started over") && reason.ends_with("enough other voters have answered"), "{reason}");
    }

    proptest! {
        /// Nobody votes without a quorum of answers, and never for a log shorter than one that was heard of.
        #[test]
        fn votes_need_a_quorum_and_the_longest_log(
            voters in 1_u64..6,
            heard in prop::collection::btree_map(1_u64..6, (0_u64..4, 0_u64..9, 0_u8..3), 0..6),
            waited in 0_u64..20,
        ) {
            let voters: BTreeSet<NodeId> = (1..=voters).collect();
            let heard: BTreeMap<NodeId, Standing> = heard
                .into_iter()
                .map(|(id, (term, index, doubt))| (id, Standing { last: at(term, index), doubt: [None, Some(Doubt::Tail), Some(Doubt::Everything)][usize::from(doubt)] }))
                .collect();
            let answers: Vec<_> = voters.iter().filter_map(|id| heard.get(id)).collect();
            match suffrage(std::slice::from_ref(&voters), &heard, Duration::from_secs(waited)) {
                Suffrage::Full => prop_assert!(false, "never full while in doubt"),
                Suffrage::Abstains => {}
                Suffrage::AtLeast(floor) => {
                    prop_assert!(answers.len() > voters.len() / 2);
                    prop_assert!(answers.iter().all(|standing| standing.last <= floor));
                }
            }
        }
    }

    #[test]
    fn applied_entries_are_never_replaced_silently() {
        let id = |term, index| LogIdRecord { term, index };
        let applied = id(3, 10);
        let known = |index| (5..=12).contains(&index).then_some(3);
        let rewrites = |previous, entries: &[LogIdRecord]| rewrites_applied(applied, previous, entries.iter().copied(), known);
        // what usually happens
        assert!(!rewrites(at(3, 12), &[id(3, 13)]));
        assert!(!rewrites(at(3, 10), &[id(4, 11)]));
        // a conflict behind what was applied is raft's daily work
        assert!(!rewrites(at(4, 11), &[]));
        // sent again
        assert!(!rewrites(at(3, 7), &[id(3, 8), id(3, 9), id(3, 10), id(4, 11)]));
        // purged here long ago
        assert!(!rewrites(at(1, 2), &[id(1, 3)]));
        assert!(rewrites(at(2, 10), &[]));
        assert!(rewrites(at(4, 7), &[]));
        assert!(rewrites(at(3, 9), &[id(4, 10)]));
        assert!(rewrites(at(3, 6), &[id(3, 7), id(4, 8)]));
    }
}
