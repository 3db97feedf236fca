//! Whether what clients saw of single objects can be explained by one copy of each that changes in one order, which respects what was over
//! before something else began.
//!
//! [`Record`] takes down calls and answers as they happen, [`Record::check`] judges them. The judge is stateright's tester. It tries orders
//! without remembering which it has tried, so whoever writes should leave an object after some dozens of calls and go on to the next:
//! a whole is linearizable if each object is, so nothing is lost by that, and a million calls are judged as fast as they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::Duration;

use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

/// What a client asks of an object that holds a number; every number is written only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make it with this number.
    Create(u64),
    /// Say which number it holds.
    Read,
    /// Let it hold this number, whatever it holds now.
    Write(u64),
    /// Let it hold `new` if it still holds `expected`.
    Swap {
        /// What the client saw last.
        expected: u64,
        /// What it should hold.
        new: u64,
    },
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was done.
    Done,
    /// It holds this number.
    Value(u64),
    /// It is there already.
    Exists,
    /// It is not there.
    Missing,
    /// It holds another number than expected.
    Conflict,
}

/// One object, as one copy of it would behave.
#[derive(Clone, Debug)]
struct Object(Option<u64>);

impl SequentialSpec for Object {
    type Op = Operation;
    type Ret = Seen;

    fn invoke(&mut self, operation: &Operation) -> Seen {
        match (*operation, self.0) {
            (Operation::Create(_), Some(_)) => Seen::Exists,
            (Operation::Read, Some(value)) => Seen::Value(value),
            (Operation::Read | Operation::Write(_) | Operation::Swap { .. }, None) => Seen::Missing,
            (Operation::Swap { expected, .. }, Some(value)) if value != expected => Seen::Conflict,
            (Operation::Create(new) | Operation::Write(new) | Operation::Swap { new, .. }, _) => {
                self.0 = Some(new);
                Seen::Done
            }
        }
    }
}

/// A call that was begun.
#[derive(Clone, Debug)]
pub struct Call {
    object: String,
    number: usize,
}

/// Something that happened to an object.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Began {
        call: usize,
        client: usize,
        operation: Operation,
    },
    Ended {
        call: usize,
        seen: Seen,
    },
    /// It had no effect and never will.
    Withdrawn {
        call: usize,
    },
}

/// All calls of a run, in the order in which they began and ended. A call that never ends may have its effect at any time after it began,
/// or never.
#[derive(Debug, Default)]
pub struct Record {
    objects: BTreeMap<String, Vec<Moment>>,
}

/// How much was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Objects.
    pub objects: usize,
    /// Calls that were answered.
    pub answered: usize,
    /// Calls of unknown outcome.
    pub unknown: usize,
}

impl Record {
    /// A client is about to ask.
    pub fn begin(&mut self, object: &str, client: usize, operation: Operation) -> Call {
        let moments = self.objects.entry(object.to_owned()).or_default();
        let number = moments.len();
        moments.push(Moment::Began { call: number, client, operation });
        Call { object: object.to_owned(), number }
    }

    /// It was answered.
    pub fn end(&mut self, call: Call, seen: Seen) {
        self.push(call.object, Moment::Ended { call: call.number, seen });
    }

    /// It was refused, or was a read that nobody answered: it had no effect and never will.
    pub fn withdraw(&mut self, call: Call) {
        self.push(call.object, Moment::Withdrawn { call: call.number });
    }

    fn push(&mut self, object: String, moment: Moment) {
        self.objects.entry(object).or_default().push(moment);
    }

    /// Judges every object. The tester may need very long to be sure that no order explains what was seen, so each object has `patience`.
    ///
    /// # Errors
    /// The objects of which no order was found, each with all that happened to it.
    pub fn check(&self, patience: Duration) -> Result<Judged, Vec<String>> {
        let (mut judged, mut violations) = (Judged::default(), Vec::new());
        for (object, moments) in &self.objects {
            let fates = fates(moments);
            judged.objects += 1;
            judged.answered += fates.values().filter(|fate| matches!(fate, Fate::Answered)).count();
            judged.unknown +=
                moments.iter().filter(|moment| matches!(moment, Moment::Began { call, .. } if !fates.contains_key(call))).count();
            // what nobody saw may never have taken effect; that is so most of the time, and tried much faster
            let explained = judge(tester(moments, &fates, &seen(moments)), patience);
            let explained = explained.or_else(|_| judge(tester(moments, &fates, &written(moments)), patience));
            if let Err(why) = explained {
                violations.push(format!("{object}: {why}\n{}", tell(moments)));
            }
        }
        if violations.is_empty() { Ok(judged) } else { Err(violations) }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    Withdrawn,
}

fn fates(moments: &[Moment]) -> BTreeMap<usize, Fate> {
    let fate = |moment: &Moment| match moment {
        Moment::Began { .. } => None,
        Moment::Ended { call, .. } => Some((*call, Fate::Answered)),
        Moment::Withdrawn { call } => Some((*call, Fate::Withdrawn)),
    };
    moments.iter().filter_map(fate).collect()
}

/// Every number that somebody has seen.
fn seen(moments: &[Moment]) -> BTreeSet<u64> {
    let numbers = moments.iter().map(|moment| match moment {
        Moment::Ended { seen: Seen::Value(value), .. } => Some(*value),
        Moment::Began { operation: Operation::Swap { expected, .. }, .. } => Some(*expected),
        _ => None,
    });
    numbers.flatten().collect()
}

/// The number that an operation writes.
fn number(operation: Operation) -> Option<u64> {
    match operation {
        Operation::Create(new) | Operation::Write(new) | Operation::Swap { new, .. } => Some(new),
        Operation::Read => None,
    }
}

/// Every number that somebody has tried to write.
fn written(moments: &[Moment]) -> BTreeSet<u64> {
    let numbers = moments.iter().map(|moment| match moment {
        Moment::Began { operation, .. } => number(*operation),
        _ => None,
    });
    numbers.flatten().collect()
}

/// Who acts. A call of unknown outcome stays open, so whoever made it goes on as somebody else; the tester tries those last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    Client(usize),
    Unknown(usize),
}

/// The tester with everything that happened; calls of unknown outcome may have taken effect if they write one of the numbers in `effective`.
fn tester(
    moments: &[Moment],
    fates: &BTreeMap<usize, Fate>,
    effective: &BTreeSet<u64>,
) -> Result<LinearizabilityTester<Actor, Object>, String> {
    let mut tester = LinearizabilityTester::new(Object(None));
    let mut clients = BTreeMap::new();
    for moment in moments {
        match *moment {
            Moment::Began { call, client, operation } => {
                match fates.get(&call) {
                    Some(Fate::Answered) => tester.on_invoke(Actor::Client(client), operation)?,
                    Some(Fate::Withdrawn) => continue,
                    None if number(operation).is_none_or(|number| !effective.contains(&number)) => continue,
                    None => tester.on_invoke(Actor::Unknown(call), operation)?,
                };
                clients.insert(call, client);
            }
            Moment::Ended { call, seen } => {
                let client = clients.get(&call).ok_or("a call ended that never began")?;
                tester.on_return(Actor::Client(*client), seen)?;
            }
            Moment::Withdrawn { .. } => {}
        }
    }
    Ok(tester)
}

fn judge(tester: Result<LinearizabilityTester<Actor, Object>, String>, patience: Duration) -> Result<(), String> {
    let tester = tester?;
    let (tell, told) = mpsc::channel();
    // the tester cannot be interrupted: a thread that takes too long is left to itself
    std::thread::spawn(move || tell.send(tester.is_consistent()));
    match told.recv_timeout(patience) {
        Ok(true) => Ok(()),
        Ok(false) => Err("no order explains".to_owned()),
        Err(_) => Err(format!("no order was found in {} s that explains", patience.as_secs())),
    }
}

fn tell(moments: &[Moment]) -> String {
    let lines = moments.iter().map(|moment| match moment {
        Moment::Began { call, client, operation } => format!("  client {client} began call {call}: {operation:?}"),
        Moment::Ended { call, seen } => format!("  call {call} was answered: {seen:?}"),
        Moment::Withdrawn { call } => format!("  call {call} had no effect"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Plays calls of which each ends before the next begins.
    fn one_by_one(calls: &[(Operation, Seen)]) -> Record {
        let mut record = Record::default();
        for (client, (operation, seen)) in calls.iter().enumerate() {
            let call = record.begin("a", client % 2, *operation);
            record.end(call, *seen);
        }
        record
    }

    fn check(record: &Record, explicable: bool) {
        let outcome = record.check(PATIENCE);
        assert_eq!(outcome.is_ok(), explicable, "{outcome:?}");
    }

    #[test]
    fn an_object_answers_as_one_copy_would() {
        use Operation::{Create, Read, Swap, Write};
        let record = one_by_one(&[
            (Read, Seen::Missing),
            (Write(1), Seen::Missing),
            (Create(2), Seen::Done),
            (Create(3), Seen::Exists),
            (Swap { expected: 2, new: 4 }, Seen::Done),
            (Swap { expected: 2, new: 5 }, Seen::Conflict),
            (Write(6), Seen::Done),
            (Read, Seen::Value(6)),
        ]);
        assert_eq!(record.check(PATIENCE), Ok(Judged { objects: 1, answered: 8, unknown: 0 }));
    }

    #[test]
    fn a_stale_read_is_refused() {
        use Operation::{Create, Read, Write};
        let begin = [(Create(1), Seen::Done), (Write(2), Seen::Done)];
        check(&one_by_one(&[&begin[..], &[(Read, Seen::Value(2))]].concat()), true);
        check(&one_by_one(&[&begin[..], &[(Read, Seen::Value(1))]].concat()), false);
        check(&one_by_one(&[&begin[..], &[(Read, Seen::Value(2)), (Read, Seen::Value(1))]].concat()), false);
    }

    #[test]
    fn a_lost_write_is_refused() {
        use Operation::{Create, Read, Swap};
        check(&one_by_one(&[(Create(1), Seen::Done), (Swap { expected: 1, new: 2 }, Seen::Done), (Read, Seen::Value(1))]), false);
        check(&one_by_one(&[(Create(1), Seen::Done), (Read, Seen::Missing)]), false);
        // the second swap did not see the first
        let swap = |new| (Swap { expected: 1, new }, Seen::Done);
        check(&one_by_one(&[(Create(1), Seen::Done), swap(2), swap(3)]), false);
    }

    #[test]
    fn a_write_that_was_done_twice_is_refused() {
        use Operation::{Create, Read, Swap};
        // the first attempt took effect, the second told of a conflict
        check(&one_by_one(&[(Create(1), Seen::Done), (Swap { expected: 1, new: 2 }, Seen::Conflict), (Read, Seen::Value(2))]), false);
    }

    #[test]
    fn what_was_refused_must_not_show() {
        let mut record = one_by_one(&[(Operation::Create(1), Seen::Done)]);
        let refused = record.begin("a", 1, Operation::Write(2));
        record.withdraw(refused);
        let read = record.begin("a", 0, Operation::Read);
        record.end(read, Seen::Value(2));
        check(&record, false);
    }

    #[test]
    fn what_nobody_knows_may_show_late_or_never_but_not_come_and_go() {
        for (reads, explicable) in [(&[1, 1][..], true), (&[1, 2], true), (&[2, 2], true), (&[2, 1], false), (&[1, 2, 1], false)] {
            let mut record = one_by_one(&[(Operation::Create(1), Seen::Done)]);
            record.begin("a", 1, Operation::Write(2));
            for value in reads {
                let read = record.begin("a", 1, Operation::Read);
                record.end(read, Seen::Value(*value));
            }
            check(&record, explicable);
        }
    }

    #[test]
    fn what_nobody_saw_may_explain_a_conflict() {
        let mut record = one_by_one(&[(Operation::Create(1), Seen::Done)]);
        record.begin("a", 1, Operation::Write(2));
        let swap = record.begin("a", 0, Operation::Swap { expected: 1, new: 3 });
        record.end(swap, Seen::Conflict);
        check(&record, true);
    }

    /// While nobody answers, writes of unknown outcome pile up.
    #[test]
    fn an_object_nobody_could_reach_is_judged_in_no_time() {
        let mut record = one_by_one(&[(Operation::Create(1), Seen::Done)]);
        for number in 0..20 {
            record.begin("a", 0, Operation::Write(100 + number));
        }
        let calls = [2, 3].map(|number| (record.begin("a", number, Operation::Write(number as u64)), Seen::Done));
        for (call, seen) in calls {
            record.end(call, seen);
        }
        let read = record.begin("a", 1, Operation::Read);
        record.end(read, Seen::Value(2));
        assert_eq!(record.check(Duration::from_secs(5)), Ok(Judged { objects: 1, answered: 4, unknown: 20 }));
    }

    #[test]
    fn calls_at_the_same_time_may_take_effect_in_any_order() {
        for (second, explicable) in [(Seen::Value(1), true), (Seen::Value(2), true), (Seen::Missing, false)] {
            let mut record = one_by_one(&[(Operation::Create(1), Seen::Done)]);
            let write = record.begin("a", 0, Operation::Write(2));
            let read = record.begin("a", 1, Operation::Read);
            record.end(read, second);
            record.end(write, Seen::Done);
            check(&record, explicable);
        }
    }

    #[test]
    fn objects_are_judged_apart_and_named() {
        let mut record = Record::default();
        for (object, value) in [("good", 1), ("bad", 2)] {
            let call = record.begin(object, 0, Operation::Create(1));
            record.end(call, Seen::Done);
            let call = record.begin(object, 0, Operation::Read);
            record.end(call, Seen::Value(value));
        }
        let violations = record.check(PATIENCE).unwrap_err();
        assert!(
            matches!(&violations[..], [one] if one.starts_with("bad: no order explains") && one.contains("Value(2)")),
            "{violations:?}"
        );
    }

    /// Three clients at the same time on one object, as the load uses it, with one call of unknown outcome in each round.
    #[test]
    fn a_busy_object_is_judged_in_no_time() {
        let mut record = Record::default();
        let (mut held, mut next) = (0, 1);
        let call = record.begin("a", 0, Operation::Create(0));
        record.end(call, Seen::Done);
        for round in 0..10 {
            record.begin("a", 0, Operation::Swap { expected: u64::MAX - round, new: u64::MAX / 2 + round });
            let calls = [0, 1, 2].map(|client| {
                let operation = if client == 1 { Operation::Write(next) } else { Operation::Read };
                record.begin("a", client, operation)
            });
            for (client, call) in (0..).zip(calls) {
                record.end(call, if client == 1 { Seen::Done } else { Seen::Value(if client == 0 { held } else { next }) });
            }
            (held, next) = (next, next + 1);
        }
        assert_eq!(record.check(PATIENCE), Ok(Judged { objects: 1, answered: 31, unknown: 10 }));
    }
}
