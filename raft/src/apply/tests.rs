//! Apply against a plain model, and the properties everything else leans on.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const TERM: Term = 3;

/// A few keys and terms, so that transactions meet.
fn any_key() -> impl Strategy<Value = Key> {
    (0..3_u8, 0..4_u8).prop_map(|(group, name)| Bytes::from(format!("g{group}/k{name}")))
}

fn any_op() -> impl Strategy<Value = Op> {
    let terms = proptest::collection::vec((0..3_u8).prop_map(|term| Bytes::from(format!("t{term}"))), 0..3);
    prop_oneof![
        3 => (any_key(), any::<u8>(), terms).prop_map(|(key, value, terms)| Op::Put { key, value: Bytes::from(vec![value]), split: 1, terms }),
        1 => any_key().prop_map(|key| Op::Delete { key }),
    ]
}

fn any_guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        (any_key(), 0..30_u64).prop_map(|(key, revision)| Guard::Revision { key, revision }),
        any_key().prop_map(|key| Guard::Absent { key }),
        any_key().prop_map(|key| Guard::Present { key }),
        (2..5_u64).prop_map(Guard::Term),
    ]
}

/// Ids repeat now and then.
pub(crate) fn any_txn() -> impl Strategy<Value = Txn> {
    let guards = proptest::collection::vec(any_guard(), 0..2);
    let ops = proptest::collection::vec(any_op(), 0..4);
    (0..60_u128, guards, ops).prop_map(|(id, guards, ops)| Txn { id: TxnId(id), guards, ops, cause: Cause::default() })
}

/// The simplest thing that could be right.
#[derive(Default)]
struct Model {
    revision: Revision,
    records: BTreeMap<Key, (Bytes, Vec<Bytes>, Revision, Revision)>,
    answers: BTreeMap<TxnId, Outcome>,
}

impl Model {
    fn apply(&mut self, txn: &Txn) -> Outcome {
        if let Some(answer) = self.answers.get(&txn.id) {
            return answer.clone();
        }
        let answer = self.answer(txn);
        self.answers.insert(txn.id, answer.clone());
        answer
    }

    fn answer(&mut self, txn: &Txn) -> Outcome {
        for (number, guard) in txn.guards.iter().enumerate() {
            let actual = |key: &Key| self.records.get(key).map(|record| record.2);
            let (holds, actual) = match guard {
                Guard::Revision { key, revision } => (actual(key) == Some(*revision), actual(key)),
                Guard::Absent { key } => (actual(key).is_none(), actual(key)),
                Guard::Present { key } => (actual(key).is_some(), actual(key)),
                Guard::Term(term) => (*term == TERM, None),
            };
            if !holds {
                return Outcome::Refused(Refusal { guard: u32::try_from(number).unwrap(), actual });
            }
        }
        let next = self.revision + 1;
        let mut last: BTreeMap<Key, Op> = BTreeMap::new();
        for op in &txn.ops {
            last.insert(op.key().clone(), op.clone());
        }
        for (key, op) in last {
            match op {
                Op::Put { value, terms, .. } => {
                    let created = self.records.get(&key).map_or(next, |record| record.3);
                    self.records.insert(key, (value, terms, next, created));
                    self.revision = next;
                }
                Op::Delete { .. } => {
                    if self.records.remove(&key).is_some() {
                        self.revision = next;
                    }
                }
            }
        }
        Outcome::At(self.revision)
    }
}

fn check_view(view: &View, model: &Model) {
    assert_eq!(view.revision(), model.revision);
    let listed: Vec<_> = view.range(b"", None).map(|record| record.key.clone()).collect();
    assert_eq!(listed, model.records.keys().cloned().collect::<Vec<_>>());
    for (key, (value, terms, revision, created)) in &model.records {
        let record = view.get(key).unwrap();
        assert_eq!((&record.value, &record.terms, record.revision, record.create_revision), (value, terms, *revision, *created));
    }
    for prefix in ["", "g1/", "g2/k3", "x"].map(str::as_bytes) {
        let below: Vec<_> = model.records.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        assert_eq!(view.count(prefix), below.len());
        for after in [None, Some("g1/k1"), Some("g0"), Some("z")] {
            let after = after.map(str::as_bytes);
            let expected: Vec<_> = below.iter().filter(|key| after.is_none_or(|after| key.as_ref() > after)).cloned().collect();
            assert_eq!(view.range(prefix, after).map(|record| record.key.clone()).collect::<Vec<_>>(), expected);
        }
        for term in ["t0", "t1", "t2", "t"].map(str::as_bytes) {
            let holds = |key: &Key| model.records[key].1.iter().any(|found| found.as_ref() == term);
            let expected: Vec<_> = below.iter().filter(|key| holds(key)).cloned().collect();
            assert_eq!(view.by_term(term, prefix).map(|record| record.key.clone()).collect::<Vec<_>>(), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn apply_does_what_the_model_does(txns in proptest::collection::vec(any_txn(), 1..80)) {
        let (mut state, mut model) = (State::default(), Model::default());
        for (index, txn) in (1_u64..).zip(&txns) {
            let at = Position { term: TERM, index };
            let earlier = state.view.clone();
            let before = earlier.revision();
            let decision = decide(&state, at, txn, 0);
            prop_assert_eq!(&decision.outcome, &model.apply(txn));
            // one revision for everything, keys in order, each once
            prop_assert!(decision.changes.windows(2).all(|pair| pair[0].key < pair[1].key));
            prop_assert_eq!(decision.revision, before + u64::from(!decision.changes.is_empty()));
            state.absorb(&decision, at);
            check_view(&state.view, &model);
            // an older snapshot does not change
            prop_assert_eq!(earlier.revision(), before);
            prop_assert!(earlier.range(b"", None).all(|record| record.revision <= before));
        }
    }

    #[test]
    fn apply_is_a_function_of_the_log(txns in proptest::collection::vec(any_txn(), 1..40)) {
        let run = || {
            let mut state = State::default();
            let outcomes: Vec<_> = (1_u64..).zip(&txns).map(|(index, txn)| {
                let at = Position { term: TERM, index };
                let decision = decide(&state, at, txn, 0);
                state.absorb(&decision, at);
                decision.outcome
            }).collect();
            (outcomes, state.outcomes)
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn an_id_older_than_the_window_is_not_guessed_at() {
    let mut state = State::default();
    let txn = |id: usize| Txn { id: TxnId(id as u128), guards: Vec::new(), ops: Vec::new(), cause: Cause::default() };
    for index in 1..=OUTCOMES_KEPT as u64 {
        let decision = decide(&state, Position { term: TERM, index }, &txn(usize::try_from(index).unwrap()), 0);
        assert_eq!(state.absorb(&decision, Position { term: TERM, index }), None);
    }
    // full, nothing forgotten yet
    let at = Position { term: TERM, index: OUTCOMES_KEPT as u64 + 1 };
    let decision = decide(&state, at, &txn(OUTCOMES_KEPT + 1), 0);
    assert_eq!(decision.outcome, Outcome::At(0));
    assert_eq!(state.absorb(&decision, at), Some(1));
    // 1 is forgotten: whoever may have sent it before cannot know; whoever sends it for the first time now can
    let at = Position { term: TERM, index: at.index + 1 };
    assert_eq!(decide(&state, at, &txn(1), 0).outcome, Outcome::Forgotten);
    assert_eq!(decide(&state, at, &txn(1), 1).outcome, Outcome::At(0));
    assert_eq!(decide(&state, at, &txn(2), 0).outcome, Outcome::At(0));
}

#[test]
fn compaction_keeps_what_later_reads_need() {
    let key = |key: &str| Bytes::from(key.to_owned());
    let mut state = State::default();
    // a changes at 1 and 3, b at 2 and is deleted at 4, c at 5
    let ops = [("a", true), ("b", true), ("a", true), ("b", false), ("c", true)];
    for (index, (name, put)) in (1_u64..).zip(ops) {
        let op =
            if put { Op::Put { key: key(name), value: Bytes::new(), split: 0, terms: Vec::new() } } else { Op::Delete { key: key(name) } };
        let txn = Txn { id: TxnId(u128::from(index)), guards: Vec::new(), ops: vec![op], cause: Cause::default() };
        let at = Position { term: TERM, index };
        let decision = decide(&state, at, &txn, 0);
        state.absorb(&decision, at);
    }
    let row =
        |revision, name, is_delete, previous| HistoryHead { revision, key: key(name), is_delete, previous, time_unix_ms: 0, size_bytes: 0 };
    // up to 2: b's version at 2 must stay for reads at 2 and 3; a's at 1 too, as it is changed only at 3
    assert_eq!(compaction(&[row(1, "a", false, None), row(2, "b", false, None)]), []);
    // up to 4: a at 1 is gone, a at 3 is current; b's version and its delete are gone
    assert_eq!(compaction(&[row(3, "a", false, Some(1)), row(4, "b", true, Some(2))]), [(1, key("a")), (2, key("b")), (4, key("b"))]);
}
