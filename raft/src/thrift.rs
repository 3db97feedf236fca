//! Which followers may have to wait for an entry. It is committed once a majority has it on disk, so a leader sends it at once to as few as are one
//! together with it, and to each of the others not more often than every few milliseconds: those take several entries with one message, one
//! wake-up and one sync. Pure; [`crate::network::client`] waits. `docs/decisions/0014-a-majority-first.md` says what it costs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::command::NodeId;
use crate::log_store::MESSAGE_BYTES_MAX;
use crate::majority::is_majority;
use crate::raft_types::Entry;
use crate::records::EntryRecord;
use crate::reign_check::first_asked;

/// How long a follower that is not needed waits after one message for the next one, unless somebody waits there.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);
/// Whoever is sent more entries at once, or more bytes, has company enough, or a backlog.
const FEW_ENTRIES: usize = 64;
const FEW_BYTES: usize = MESSAGE_BYTES_MAX / 2;
/// Nobody counts on a follower that has owed an answer for longer.
const OVERDUE: Duration = Duration::from_millis(10);
/// Nor on one that lacks more entries than this.
const BEHIND_ENTRIES: u64 = 1024;

/// What a leader knows of those it sends entries to.
#[derive(Debug, Default)]
pub(crate) struct Thrift {
    voters: Vec<BTreeSet<NodeId>>,
    followers: BTreeMap<NodeId, Follower>,
}

/// One to which entries are on the way or may be.
#[derive(Debug)]
struct Follower {
    /// Of the connection.
    session: u64,
    unanswered: usize,
    /// When the first of the unanswered left, or a later answer came.
    since: Instant,
    /// Index of the last entry that it was sent.
    sent: u64,
    /// Index of the last entry that it has on disk.
    has: u64,
}

impl Thrift {
    /// Notes the sets of voters. Before it knows them, nobody waits.
    pub(crate) fn note_voters(&mut self, voters: Vec<BTreeSet<NodeId>>) {
        self.voters = voters;
    }

    /// A connection for entries is there.
    pub(crate) fn begin(&mut self, follower: NodeId, session: u64, now: Instant) {
        self.followers.insert(follower, Follower { session, unanswered: 0, since: now, sent: 0, has: 0 });
    }

    /// It has ended. Another one may have begun before.
    pub(crate) fn end(&mut self, follower: NodeId, session: u64) {
        if self.followers.get(&follower).is_some_and(|known| known.session == session) {
            self.followers.remove(&follower);
        }
    }

    /// Entries leave up to the one at index `last`, or none do.
    pub(crate) fn asked(&mut self, follower: NodeId, last: Option<u64>, now: Instant) {
        if let Some(follower) = self.followers.get_mut(&follower) {
            if follower.unanswered == 0 {
                follower.since = now;
            }
            follower.unanswered += 1;
            follower.sent = follower.sent.max(last.unwrap_or(0));
        }
    }

    /// The follower has everything up to the entry at index `has` on disk.
    pub(crate) fn answered(&mut self, follower: NodeId, has: u64, now: Instant) {
        if let Some(follower) = self.followers.get_mut(&follower) {
            follower.unanswered = follower.unanswered.saturating_sub(1);
            follower.since = now;
            follower.has = follower.has.max(has);
        }
    }

    /// Whether a follower that was just sent these entries may have to wait for the next ones: others are a majority together with the leader
    /// `own`. Those in `prompt` are counted on before others.
    pub(crate) fn may_wait(&self, follower: NodeId, entries: &[Entry], own: NodeId, prompt: &BTreeSet<NodeId>, now: Instant) -> bool {
        if entries.len() > FEW_ENTRIES || entries.iter().map(EntryRecord::size_bytes).sum::<usize>() > FEW_BYTES {
            return false;
        }
        let sent = self.followers.values().map(|follower| follower.sent).max().unwrap_or(0);
        let is_reliable = |follower: &Follower| {
            let is_overdue = follower.unanswered > 0 && now.saturating_duration_since(follower.since) > OVERDUE;
            !is_overdue && follower.has + BEHIND_ENTRIES >= sent
        };
        let is_voter = |id: &NodeId| self.voters.iter().any(|voters| voters.contains(id));
        let reliable = self.followers.iter().filter(|(id, follower)| is_voter(id) && is_reliable(follower)).map(|(id, _)| *id).collect();
        let needed = first_asked(own, &self.voters, &reliable, prompt);
        !needed.contains(&follower) && is_majority(&self.voters, |id| id == own || needed.contains(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::{EntryPayload, LogId, Payload};

    const OWN: NodeId = 1;

    fn thrift(sets: &[&[NodeId]], followers: &[NodeId], now: Instant) -> Thrift {
        let mut thrift = Thrift::default();
        thrift.note_voters(sets.iter().map(|voters| voters.iter().copied().collect()).collect());
        followers.iter().for_each(|id| thrift.begin(*id, 7, now));
        thrift
    }

    /// Who may have to wait.
    fn waiting(thrift: &Thrift, prompt: &[NodeId], now: Instant) -> Vec<NodeId> {
        let prompt = prompt.iter().copied().collect();
        thrift.followers.keys().copied().filter(|id| thrift.may_wait(*id, &[entry(100)], OWN, &prompt, now)).collect()
    }

    #[test]
    fn whoever_is_not_needed_for_a_majority_may_wait() {
        let now = crate::clock::now();
        let check = |sets: &[&[NodeId]], followers: &[NodeId], prompt: &[NodeId], expected: &[NodeId]| {
            assert_eq!(waiting(&thrift(sets, followers, now), prompt, now), expected, "{followers:?} of {sets:?}");
        };
        check(&[&[1, 2, 3]], &[2, 3], &[], &[3]);
        check(&[&[1, 2, 3]], &[2, 3], &[1, 3], &[2]);
        check(&[&[1, 2, 3, 4, 5]], &[2, 3, 4, 5], &[5], &[3, 4]);
        // all are needed
        check(&[&[1, 2]], &[2], &[], &[]);
        check(&[&[1, 2, 3]], &[2], &[], &[]);
        check(&[&[1, 2, 3, 4, 5]], &[2, 3], &[], &[]);
        // too few are there, so whoever comes is needed
        check(&[&[1, 2, 3, 4, 5]], &[2], &[], &[]);
        // a learner never is
        check(&[&[1, 2, 3]], &[2, 9], &[9], &[9]);
        check(&[&[1]], &[9], &[], &[9]);
        // each set of voters has a majority of its own
        check(&[&[1, 2, 3], &[1, 4, 5]], &[2, 3, 4, 5], &[], &[5]);
        check(&[&[1, 2, 3], &[1, 4, 5]], &[2, 3, 4, 5], &[3, 4], &[2, 5]);
        // voters that nobody has told of
        check(&[], &[2, 3], &[], &[]);
    }

    fn entry(bytes: usize) -> Entry {
        Entry { log_id: LogId::new_term_index(1, 1), payload: EntryPayload::Normal(Payload(vec![0; bytes].into())) }
    }

    #[test]
    fn many_entries_and_large_ones_leave_at_once() {
        let now = crate::clock::now();
        let thrift = thrift(&[&[1, 2, 3]], &[2, 3], now);
        let may_wait = |count, bytes| thrift.may_wait(3, &vec![entry(bytes); count], OWN, &BTreeSet::new(), now);
        assert!(may_wait(0, 0) && may_wait(FEW_ENTRIES, 100) && !may_wait(FEW_ENTRIES + 1, 100));
        // a message that is full may have left others behind
        assert!(may_wait(1, 16 << 10) && !may_wait(MESSAGE_BYTES_MAX / (16 << 10), (16 << 10) - 100));
        assert!(!may_wait(1, MESSAGE_BYTES_MAX));
    }

    #[test]
    fn nobody_counts_on_a_follower_that_owes_an_answer() {
        let start = crate::clock::now();
        let mut thrift = thrift(&[&[1, 2, 3]], &[2, 3], start);
        let late = start + OVERDUE + Duration::from_millis(1);
        // a follower that was asked nothing owes nothing
        assert_eq!(waiting(&thrift, &[], late), [3]);
        thrift.asked(2, Some(1), start);
        assert_eq!(waiting(&thrift, &[], start), [3]);
        assert_eq!(waiting(&thrift, &[], late), [2]);
        // it works on a long queue, and answers
        thrift.asked(2, Some(2), late);
        thrift.answered(2, 1, late);
        assert_eq!(waiting(&thrift, &[], late + OVERDUE), [3]);
        assert_eq!(waiting(&thrift, &[], late + OVERDUE * 2), [2]);
        thrift.answered(2, 2, late + OVERDUE * 2);
        assert_eq!(waiting(&thrift, &[], late + OVERDUE * 4), [3]);
        // an older connection
        thrift.end(2, 6);
        assert_eq!(waiting(&thrift, &[], late + OVERDUE * 4), [3]);
        thrift.end(2, 7);
        assert_eq!(waiting(&thrift, &[], late + OVERDUE * 4), Vec::<NodeId>::new());
        // an answer that comes after the connection has ended
        thrift.answered(2, 2, late);
        assert_eq!(thrift.followers.len(), 1);
    }

    #[test]
    fn nobody_counts_on_a_follower_that_is_far_behind() {
        let now = crate::clock::now();
        let mut thrift = thrift(&[&[1, 2, 3]], &[2, 3], now);
        thrift.asked(3, Some(BEHIND_ENTRIES + 1), now);
        thrift.answered(3, BEHIND_ENTRIES + 1, now);
        assert_eq!(waiting(&thrift, &[], now), [2]);
        thrift.asked(2, Some(1), now);
        thrift.answered(2, 1, now);
        assert_eq!(waiting(&thrift, &[], now), [3]);
        // what was sent in an earlier term may never have become an entry of this one
        for follower in [2, 3] {
            thrift.begin(follower, 8, now);
        }
        assert_eq!(waiting(&thrift, &[], now), [3]);
    }
}
