//! Which faults and timers make sense. All that is wrong with a request is told at once.

use std::collections::BTreeSet;

use super::{Direction, FOR_MS_MAX, Fault, Problem, Timers, TimersChange};
use crate::command::NodeId;

/// The longest delay, in milliseconds: longer than any time-out of a store.
const DELAY_MS_MAX: u64 = 60_000;
/// The shortest heartbeat, in milliseconds: raft's clock ticks about five times in each.
const HEARTBEAT_MS_MIN: u64 = 5;
/// The longest election time-out, in milliseconds.
const ELECTION_MS_MAX: u64 = 60_000;

impl Fault {
    /// The fault as it begins on `own_id`, whose peers are `peers`: what was left out is filled in.
    ///
    /// # Errors
    /// Every problem, with its field.
    pub(crate) fn checked(mut self, own_id: NodeId, peers: &BTreeSet<NodeId>) -> Result<Self, Vec<Problem>> {
        let kind = self.kind;
        let mut problems = Vec::new();
        let forbidden = |field| Problem::Forbidden { field, why: format!("does not apply to kind {:?}", kind.name()) };
        if self.id.is_some() {
            problems.push(Problem::Forbidden { field: "id", why: "is given by the member".into() });
        }
        if self.ends_in_ms.is_some() {
            problems.push(Problem::Forbidden { field: "endsInMs", why: "follows from forMs".into() });
        }
        match self.peer {
            None => {}
            Some(_) if !kind.is_of_messages() => problems.push(forbidden("peer")),
            Some(peer) if peer == own_id => {
                problems.push(invalid("peer", peer, "is this member itself: a fault is with another one".into()));
            }
            Some(peer) if !peers.contains(&peer) => {
                let known = peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                problems.push(invalid("peer", peer, format!("no such member; the others are {known}")));
            }
            Some(_) => {}
        }
        match self.direction {
            Some(_) if !kind.is_of_messages() => problems.push(forbidden("direction")),
            None if kind.is_of_messages() => self.direction = Some(Direction::Both),
            _ => {}
        }
        match self.probability {
            Some(_) if !kind.has_probability() => problems.push(forbidden("probability")),
            Some(probability) if !(0.0..=1.0).contains(&probability) => {
                problems.push(invalid("probability", probability, "must be between 0 and 1".into()));
            }
            None if kind.has_probability() => self.probability = Some(1.0),
            _ => {}
        }
        match self.delay_ms {
            Some(_) if !kind.has_delay() => problems.push(forbidden("delayMs")),
            None if kind.has_delay() => {
                problems.push(Problem::Required { field: "delayMs", why: format!("kind {:?} needs one", kind.name()) });
            }
            Some(delay) if !(1..=DELAY_MS_MAX).contains(&delay) => {
                problems.push(invalid("delayMs", delay, format!("must be between 1 and {DELAY_MS_MAX}")));
            }
            _ => {}
        }
        match self.jitter_ms {
            Some(_) if kind != super::FaultKind::Delay => problems.push(forbidden("jitterMs")),
            Some(jitter) if self.delay_ms.is_some_and(|delay| jitter > delay) => {
                problems.push(invalid("jitterMs", jitter, "must not be greater than delayMs: nothing arrives before it was sent".into()));
            }
            None if kind == super::FaultKind::Delay => self.jitter_ms = Some(0),
            _ => {}
        }
        problems.extend(lifetime(self.for_ms));
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }
}

impl TimersChange {
    /// The timers that it makes of the configured ones.
    ///
    /// # Errors
    /// Every problem, with its field.
    pub(crate) fn checked(self, configured: Timers) -> Result<Timers, Vec<Problem>> {
        let timers = Timers {
            heartbeat_ms: self.heartbeat_ms.unwrap_or(configured.heartbeat_ms),
            election_min_ms: self.election_min_ms.unwrap_or(configured.election_min_ms),
            election_max_ms: self.election_max_ms.unwrap_or(configured.election_max_ms),
            pre_vote: self.pre_vote.unwrap_or(configured.pre_vote),
        };
        let Timers { heartbeat_ms, election_min_ms, election_max_ms, .. } = timers;
        let mut problems = Vec::new();
        if heartbeat_ms < HEARTBEAT_MS_MIN {
            problems.push(invalid("heartbeatMs", heartbeat_ms, format!("must be at least {HEARTBEAT_MS_MIN}")));
        }
        // raft's own rules, in words
        if election_min_ms <= heartbeat_ms {
            let why =
                format!("must be greater than heartbeatMs ({heartbeat_ms}): a living leader would be replaced between two heartbeats");
            problems.push(invalid("electionMinMs", election_min_ms, why));
        }
        if election_max_ms <= election_min_ms {
            let why = format!("must be greater than electionMinMs ({election_min_ms}): time-outs are random, or votes split for ever");
            problems.push(invalid("electionMaxMs", election_max_ms, why));
        }
        if election_max_ms > ELECTION_MS_MAX {
            problems.push(invalid("electionMaxMs", election_max_ms, format!("must be at most {ELECTION_MS_MAX}")));
        }
        problems.extend(lifetime(self.for_ms));
        if problems.is_empty() { Ok(timers) } else { Err(problems) }
    }
}

fn invalid(field: &'static str, value: impl ToString, why: String) -> Problem {
    Problem::Invalid { field, value: value.to_string(), why }
}

fn lifetime(for_ms: u64) -> Option<Problem> {
    match for_ms {
        0 => Some(Problem::Required { field: "forMs", why: format!("an experiment ends by itself, after at most {FOR_MS_MAX}") }),
        1..=FOR_MS_MAX => None,
        _ => Some(invalid("forMs", for_ms, format!("must be at most {FOR_MS_MAX}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::experiment::FaultKind;

    fn check_fault(fault: Fault, expected: &[&str]) {
        let problems = fault.checked(1, &BTreeSet::from([2, 3])).err().unwrap_or_default();
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    fn fault(json: &str) -> Fault {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_kind_has_its_fields() {
        check_fault(fault(r#"{"kind":"drop","peer":2,"direction":"out","probability":0.5,"forMs":1000}"#), &[]);
        check_fault(fault(r#"{"kind":"delay","delayMs":50,"jitterMs":50,"forMs":600000}"#), &[]);
        check_fault(fault(r#"{"kind":"duplicate","forMs":1}"#), &[]);
        check_fault(fault(r#"{"kind":"reorder","delayMs":50,"forMs":1}"#), &[]);
        check_fault(fault(r#"{"kind":"pause","forMs":1}"#), &[]);
        check_fault(fault(r#"{"kind":"slowSync","delayMs":50,"forMs":1}"#), &[]);
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once() {
        check_fault(
            fault(r#"{"kind":"pause","id":7,"peer":2,"direction":"in","probability":1,"delayMs":5,"jitterMs":1}"#),
            &[
                "id: Forbidden: is given by the member",
                "peer: Forbidden: does not apply to kind \"pause\"",
                "direction: Forbidden: does not apply to kind \"pause\"",
                "probability: Forbidden: does not apply to kind \"pause\"",
                "delayMs: Forbidden: does not apply to kind \"pause\"",
                "jitterMs: Forbidden: does not apply to kind \"pause\"",
                "forMs: Required value: an experiment ends by itself, after at most 600000",
            ],
        );
        check_fault(
            fault(r#"{"kind":"drop","peer":9,"probability":1.5,"forMs":600001}"#),
            &[
                "peer: Invalid value: 9: no such member; the others are 2, 3",
                "probability: Invalid value: 1.5: must be between 0 and 1",
                "forMs: Invalid value: 600001: must be at most 600000",
            ],
        );
        check_fault(
            fault(r#"{"kind":"delay","peer":1,"forMs":1}"#),
            &[
                "peer: Invalid value: 1: is this member itself: a fault is with another one",
                "delayMs: Required value: kind \"delay\" needs one",
            ],
        );
        check_fault(
            fault(r#"{"kind":"delay","delayMs":5,"jitterMs":6,"forMs":1}"#),
            &["jitterMs: Invalid value: 6: must not be greater than delayMs: nothing arrives before it was sent"],
        );
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let checked = Fault::new(FaultKind::Drop, Duration::from_secs(1)).checked(1, &BTreeSet::from([2])).unwrap();
        assert_eq!((checked.direction, checked.probability, checked.delay_ms), (Some(Direction::Both), Some(1.0), None));
        let checked = Fault::new(FaultKind::Pause, Duration::from_secs(1)).checked(1, &BTreeSet::new()).unwrap();
        assert_eq!((checked.direction, checked.probability), (None, None));
    }

    #[test]
    fn unknown_fields_and_kinds_are_refused() {
        let refused = |json: &str| serde_json::from_str::<Fault>(json).unwrap_err().to_string();
        assert!(refused(r#"{"kind":"drop","for":1}"#).starts_with("unknown field `for`"));
        assert!(refused(r#"{"kind":"explode"}"#).starts_with("unknown variant `explode`, expected one of `drop`"));
    }

    #[test]
    fn timers_keep_rafts_rules() {
        let configured = Timers { heartbeat_ms: 100, election_min_ms: 150, election_max_ms: 300, pre_vote: true };
        let check = |change: TimersChange, expected: Result<Timers, &[&str]>| {
            let found = change.checked(configured).map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(found, expected.map_err(|texts| texts.iter().map(ToString::to_string).collect()));
        };
        let change = TimersChange { for_ms: 1000, ..TimersChange::default() };
        check(change, Ok(configured));
        check(TimersChange { pre_vote: Some(false), ..change }, Ok(Timers { pre_vote: false, ..configured }));
        check(
            TimersChange { heartbeat_ms: Some(150), ..change },
            Err(&["electionMinMs: Invalid value: 150: must be greater than heartbeatMs (150): a living leader would be replaced between \
                   two heartbeats"]),
        );
        check(
            TimersChange { heartbeat_ms: Some(1), election_min_ms: Some(400), for_ms: 0, ..change },
            Err(&[
                "heartbeatMs: Invalid value: 1: must be at least 5",
                "electionMaxMs: Invalid value: 300: must be greater than electionMinMs (400): time-outs are random, or votes split for ever",
                "forMs: Required value: an experiment ends by itself, after at most 600000",
            ]),
        );
    }
}
