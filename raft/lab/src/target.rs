//! Whom a step is about: a member by its part at that moment, by its number, or by a name that an earlier step gave.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trierarch_raft::NodeId;

/// One word, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// `leader`, `follower` (the running one with the lowest number), `followers`, `everybody`, `m2`, or a name given with `as`.
    One(String),
    /// All of them together.
    Several(Vec<String>),
}

/// What is known when a target is looked up.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Members whose processes run.
    pub running: &'a BTreeSet<NodeId>,
    /// All members.
    pub members: &'a BTreeSet<NodeId>,
    /// Names that earlier steps gave.
    pub names: &'a BTreeMap<String, BTreeSet<NodeId>>,
}

/// The words that stand for a part, which a name may not be.
const PARTS: [&str; 4] = ["leader", "follower", "followers", "everybody"];

impl Target {
    /// Its words.
    pub fn words(&self) -> Vec<&str> {
        match self {
            Self::One(word) => vec![word],
            Self::Several(words) => words.iter().map(String::as_str).collect(),
        }
    }

    /// The members meant; `None` while that is open, as when nobody leads.
    pub fn find(&self, known: Known<'_>) -> Option<BTreeSet<NodeId>> {
        let mut found = BTreeSet::new();
        for word in self.words() {
            found.extend(find(word, known)?);
        }
        Some(found)
    }
}

/// What is wrong with a word of a target, if anything; `names`: given by steps before.
pub fn problem(word: &str, members: u64, names: &BTreeSet<&str>) -> Option<String> {
    if PARTS.contains(&word) || names.contains(word) {
        return None;
    }
    match member(word) {
        Some(number) if (1..=members).contains(&number) => None,
        Some(_) => Some(format!("{word:?} is no member: there are m1 to m{members}")),
        None => {
            Some(format!("{word:?} is nobody: write {}, m1 to m{members}, or a name given by an earlier step with `as`", PARTS.join(", ")))
        }
    }
}

/// What is wrong with a name that a step gives, if anything.
pub fn name_problem(name: &str) -> Option<String> {
    (PARTS.contains(&name) || member(name).is_some()).then(|| format!("{name:?} cannot be given as a name: it stands for somebody already"))
}

/// How a member is called.
pub fn name(member: NodeId) -> String {
    format!("m{member}")
}

/// The number in `m2`.
pub fn member(word: &str) -> Option<NodeId> {
    word.strip_prefix('m')?.parse().ok()
}

fn find(word: &str, known: Known<'_>) -> Option<BTreeSet<NodeId>> {
    let followers = || known.leader.map(|leader| known.running.iter().copied().filter(move |id| *id != leader));
    Some(match word {
        "leader" => BTreeSet::from([known.leader?]),
        "follower" => BTreeSet::from([followers()?.next()?]),
        "followers" => followers()?.collect(),
        "everybody" => known.members.clone(),
        word => match known.names.get(word) {
            Some(named) => named.clone(),
            None => BTreeSet::from([member(word)?]),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_part_number_and_name() {
        let (members, running) = (BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3]));
        let names = BTreeMap::from([("victim".to_owned(), BTreeSet::from([1]))]);
        let find =
            |word: &str, leader| Target::One(word.to_owned()).find(Known { leader, running: &running, members: &members, names: &names });
        for (word, leader, expected) in [
            ("leader", Some(2), Some(vec![2])),
            ("leader", None, None),
            ("follower", Some(2), Some(vec![3])),
            ("followers", Some(3), Some(vec![2])),
            ("followers", None, None),
            ("everybody", None, Some(vec![1, 2, 3])),
            ("m3", None, Some(vec![3])),
            ("victim", None, Some(vec![1])),
        ] {
            assert_eq!(find(word, leader), expected.map(BTreeSet::from_iter), "{word}");
        }
        let both = Target::Several(vec!["victim".to_owned(), "m3".to_owned()]);
        assert_eq!(both.find(Known { leader: None, running: &running, members: &members, names: &names }), Some(BTreeSet::from([1, 3])));
    }

    #[test]
    fn words_that_are_nobody_are_named() {
        let names = BTreeSet::from(["victim"]);
        assert_eq!(problem("victim", 3, &names), None);
        assert_eq!(problem("m3", 3, &names), None);
        assert!(problem("m4", 3, &names).unwrap().contains("m1 to m3"));
        assert!(problem("led", 3, &names).unwrap().contains("followers"));
        assert!(name_problem("leader").is_some() && name_problem("m7").is_some() && name_problem("victim").is_none());
    }
}
