//! Why a vote was refused: an answer says only that, with the vote and the log of whoever gave it.

use crate::command::{NodeId, Term};
use crate::records::{LogIdRecord, VoteRecord};

/// Why whoever has this vote and this log refused `candidate`, which asked in `term` with a log that ends at `last`.
pub(crate) fn why_refused(
    (candidate, term, last): (NodeId, Term, Option<LogIdRecord>),
    vote: &VoteRecord,
    own_last: Option<LogIdRecord>,
) -> String {
    let end = |log: Option<LogIdRecord>| log.map_or_else(|| "empty".to_owned(), |end| format!("{}-{}", end.term, end.index));
    if vote.term > term {
        format!("knows a later term, {}", vote.term)
    } else if own_last > last {
        format!("has a longer log: {} against {}", end(own_last), end(last))
    } else if vote.term == term && vote.voted_for != candidate {
        format!("has voted for member {} in this term", vote.voted_for)
    } else if vote.committed {
        format!("still counts on member {}, whose lease lasts", vote.voted_for)
    } else {
        "abstains".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_reason() {
        let at = |term, index| Some(LogIdRecord { term, index });
        let vote = |term, voted_for, committed| VoteRecord { term, voted_for, committed };
        let check = |asked, own, own_last, expected: &str| assert_eq!(why_refused(asked, &own, own_last), expected);
        check((2, 5, at(4, 9)), vote(6, 3, false), at(4, 9), "knows a later term, 6");
        check((2, 5, at(4, 9)), vote(4, 1, true), at(4, 12), "has a longer log: 4-12 against 4-9");
        check((2, 5, None), vote(4, 1, true), at(4, 12), "has a longer log: 4-12 against empty");
        check((2, 5, at(4, 9)), vote(5, 3, false), at(4, 9), "has voted for member 3 in this term");
        check((2, 5, at(4, 9)), vote(4, 1, true), at(4, 9), "still counts on member 1, whose lease lasts");
        check((2, 5, at(4, 9)), vote(4, 2, false), at(4, 9), "abstains");
    }
}
