//! What the masters of a cluster say about elections: how things stand, and what happens while somebody listens.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Who leads, and by whose votes. The same twice means that nobody stood for election in between: a term never goes back, and nobody stands
/// for election in an old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reign {
    /// The term, in which all masters are.
    pub term: u64,
    /// The number of the master that leads, as all of them say.
    pub leader: u64,
}

impl Reign {
    /// From what `raft status -o json` prints.
    ///
    /// # Errors
    /// The masters do not agree, or one of them has voted for somebody else; with what they say.
    pub fn read(status: &Value) -> Result<Self> {
        let masters = status.as_object().context("raft status prints an object")?;
        let said: BTreeSet<_> = masters.values().map(|one| (one["term"].as_u64(), one["leader"].as_u64(), one["vote"].as_u64())).collect();
        match said.iter().collect::<Vec<_>>()[..] {
            [(Some(term), Some(leader), Some(vote))] if leader == vote => Ok(Self { term: *term, leader: *leader }),
            _ => anyhow::bail!("the masters say different things: {status}"),
        }
    }
}

/// What has happened since somebody began to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What no reign survives, as the masters said it: votes, elections, leaders of a later term, nobody who leads.
    pub upheavals: Vec<String>,
    /// Questions to a peer whether it would vote for the one who asks: heartbeats were missed, and nobody's term rises.
    pub pre_votes: usize,
    /// How often each master heard nothing of a peer, or of the leader, for three intervals of heartbeats.
    pub missed: BTreeMap<u64, usize>,
    /// Happenings that were not told, because they came faster than they were read.
    pub lost: u64,
    /// What was said beside happenings: the connection to a master ended.
    pub interruptions: Vec<String>,
}

impl Account {
    /// Takes down a line of `raft events -f -o json` while this reign should last.
    pub fn note(&mut self, line: &str, reign: &Reign) {
        let Ok(happening) = serde_json::from_str::<Value>(line) else {
            self.interruptions.push(line.to_owned());
            return;
        };
        match happening["event"].as_str() {
            Some("vote-asked") if happening["preVote"] == true => self.pre_votes += 1,
            // the other sides of the same question
            Some("vote-answered" | "vote-cast") if happening["preVote"] == true => {}
            Some("heartbeat-missed") => *self.missed.entry(happening["nodeId"].as_u64().unwrap_or(0)).or_default() += 1,
            Some("lost") => self.lost += happening["count"].as_u64().unwrap_or(1),
            // what the new leader writes afterwards says nothing more
            Some("append" | "commit" | "snapshot") => {}
            Some("vote-asked" | "vote-answered" | "vote-cast" | "leader-gone") => self.upheavals.push(line.to_owned()),
            Some("leader") if happening["leader"] != reign.leader => self.upheavals.push(line.to_owned()),
            Some("role") if happening["role"] == "candidate" => self.upheavals.push(line.to_owned()),
            _ if happening["term"] != reign.term => self.upheavals.push(line.to_owned()),
            _ => {}
        }
    }

    /// What it says in one line.
    pub fn summary(&self) -> String {
        let missed: Vec<String> = self.missed.iter().map(|(master, count)| format!("m{master} {count}")).collect();
        format!(
            "three heartbeats missed: {}; questions before a vote: {}; interrupted {} times; {} happenings not told",
            if missed.is_empty() { "never".to_owned() } else { missed.join(", ") },
            self.pre_votes,
            self.interruptions.len(),
            self.lost
        )
    }
}

/// Listens to all masters. Dropping it ends that.
pub struct Listener {
    events: Child,
    account: Arc<Mutex<Account>>,
}

impl Listener {
    /// Starts `command`, which prints what `raft events -f -o json` does.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(command: &mut Command, reign: Reign) -> Result<Self> {
        let mut events = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot listen to events")?;
        let lines = BufReader::new(events.stdout.take().context("its output is piped")?).lines();
        let account = Arc::new(Mutex::new(Account::default()));
        let shared = Arc::clone(&account);
        // ends with the process that it reads from
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| lock(&shared).note(&line, &reign)));
        Ok(Self { events, account })
    }

    /// What has happened so far.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub fn account(&mut self) -> Result<Account> {
        let ended = self.events.try_wait()?;
        ensure!(ended.is_none(), "who listens to events has ended: {ended:?}");
        Ok(lock(&self.account).clone())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // it may have ended
        let _gone = self.events.kill();
        let _status = self.events.wait();
    }
}

fn lock(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const REIGN: Reign = Reign { term: 4, leader: 2 };

    #[test]
    fn a_reign_is_what_all_masters_say() {
        let says = |term: u64, leader: Option<u64>, vote: u64| json!({"term": term, "leader": leader, "vote": vote});
        let check = |second: Value, expected: Option<Reign>| {
            assert_eq!(Reign::read(&json!({"m1": says(4, Some(2), 2), "m2": second})).ok(), expected);
        };
        check(says(4, Some(2), 2), Some(REIGN));
        check(says(5, Some(2), 2), None);
        check(says(4, None, 2), None);
        check(says(4, Some(2), 1), None);
        check(json!({"error": "does not answer"}), None);
        assert!(Reign::read(&json!({})).is_err());
    }

    /// An event with its fields, and whether no reign survives it.
    #[track_caller]
    fn check(event: Value, ends: bool) -> Account {
        let mut happening = json!({"atMs": 1.5, "timeUnixMs": 1, "nodeId": 3, "term": 4});
        for (field, value) in event.as_object().into_iter().flatten() {
            happening[field] = value.clone();
        }
        let mut account = Account::default();
        account.note(&happening.to_string(), &REIGN);
        assert_eq!(!account.upheavals.is_empty(), ends, "{happening}");
        account
    }

    #[test]
    fn what_ends_a_reign_is_told_from_what_does_not() {
        check(json!({"event": "commit", "committed": 7}), false);
        check(json!({"event": "vote", "candidate": 2, "granted": true}), false);
        check(json!({"event": "leader", "leader": 2}), false);
        check(json!({"event": "role", "role": "follower"}), false);
        check(json!({"event": "vote", "term": 5, "candidate": 3, "granted": false}), true);
        check(json!({"event": "leader", "leader": null}), true);
        check(json!({"event": "leader", "leader": 1}), true);
        check(json!({"event": "role", "role": "candidate"}), true);
        check(json!({"event": "leader-gone", "leader": 2}), true);
        check(json!({"event": "append", "term": 5, "last": 9, "lastTerm": 5}), false);
        check(json!({"event": "vote-cast", "candidate": 1, "preVote": false, "granted": false}), true);
    }

    #[test]
    fn what_nearly_ends_a_reign_is_counted() {
        assert_eq!(check(json!({"event": "vote-asked", "term": 5, "peer": 1, "preVote": true}), false).pre_votes, 1);
        assert_eq!(check(json!({"event": "vote-cast", "term": 5, "candidate": 1, "preVote": true, "granted": true}), false).pre_votes, 0);
        assert_eq!(check(json!({"event": "heartbeat-missed", "peer": 2}), false).missed, BTreeMap::from([(3, 1)]));
        assert_eq!(check(json!({"event": "lost", "count": 12}), false).lost, 12);
        let mut account = Account::default();
        account.note("m2  the connection ended", &REIGN);
        assert_eq!((account.interruptions.len(), account.upheavals.len()), (1, 0));
    }
}
