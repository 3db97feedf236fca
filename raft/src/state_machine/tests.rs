//! The adapter over a real database: what is shown equals what a restart finds, however entries are grouped.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::apply::tests::any_txn;
use crate::command::{Cause, Op, Txn, TxnId};
use crate::raft_types::Payload;

fn open(dir: &std::path::Path) -> StateMachine {
    let state = StateDb::open_current(&dir.join("state"), None).unwrap();
    let (_, core_applied) = watch::channel(None);
    StateMachine::new(state, dir.join("snapshots"), core_applied).unwrap()
}

fn entries(commands: &[Command]) -> Vec<Entry> {
    (1_u64..)
        .zip(commands)
        .map(|(index, command)| Entry {
            log_id: LogId::new_term_index(3, index),
            payload: EntryPayload::Normal(Payload(records::encode(command).into())),
        })
        .collect()
}

fn apply(machine: &mut StateMachine, entries: Vec<Entry>) {
    let stream = futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
    block_on(machine.apply(stream)).unwrap();
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Ends it as an orderly end of the process does, or as one that takes what was not written.
fn end(machine: StateMachine, in_order: bool) {
    if in_order {
        machine.shared.db().unwrap().flush().unwrap();
    }
}

/// Applies those of the entries that it has not applied, one by one.
fn catch_up(machine: &mut StateMachine, entries: &[Entry]) {
    let applied = machine.meta.applied.map_or(0, |applied| applied.index);
    for entry in entries.iter().filter(|entry| entry.log_id.index() > applied) {
        apply(machine, vec![entry.clone()]);
    }
}

type Dump = (Revision, Revision, Vec<(bytes::Bytes, bytes::Bytes, Revision, Revision)>, apply::Outcomes, StateMeta, Vec<String>);

fn dump(machine: &StateMachine) -> Dump {
    let view = machine.shared.view();
    let records = view.range(b"", None);
    let records = records.map(|record| (record.key.clone(), record.value.clone(), record.revision, record.create_revision)).collect();
    let db = machine.shared.db().unwrap();
    let history = db.listed().unwrap();
    let compacted = machine.meta.compacted;
    // what forgetting will look at is what is there
    let heads = db.forgotten(compacted, u64::MAX).unwrap().changes;
    assert_eq!(heads, history.iter().filter(|row| row.revision > compacted).cloned().collect::<Vec<_>>());
    assert_eq!(heads.iter().map(|head| head.size_bytes).sum::<u64>(), machine.meta.history_bytes);
    let history = history.iter().map(|row| format!("{} {:?} {} {:?}", row.revision, row.key, row.is_delete, row.previous)).collect();
    (view.revision(), machine.shared.compacted(), records, machine.state.outcomes.clone(), machine.meta.clone(), history)
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        12 => any_txn().prop_map(|txn| Command::Txn { txn, after_index: 0, time_unix_ms: 0 }),
        1 => (0..40_u64).prop_map(|upto| Command::Compact { upto }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_restart_and_another_grouping_arrive_at_the_same_state(
        commands in proptest::collection::vec(any_command(), 1..80),
        cut in 0..80_usize,
        in_order: [bool; 2],
    ) {
        let entries = entries(&commands);
        let cut = cut.min(entries.len());
        let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut whole = open(one.path());
        apply(&mut whole, entries.clone());
        // the other restarts in between
        let mut parts = open(other.path());
        apply(&mut parts, entries[..cut].to_vec());
        prop_assert_eq!(parts.meta.applied.map_or(0, |applied| applied.index), cut as u64);
        end(parts, in_order[0]);
        let mut parts = open(other.path());
        if in_order[0] {
            prop_assert_eq!(parts.meta.applied.map_or(0, |applied| applied.index), cut as u64);
        }
        catch_up(&mut parts, &entries);
        if in_order[1] {
            prop_assert_eq!(dump(&whole), dump(&parts));
        }
        end(parts, in_order[1]);
        let mut parts = open(other.path());
        catch_up(&mut parts, &entries);
        prop_assert_eq!(dump(&whole), dump(&parts));
    }
}

/// What was written before a crash said that a compaction was applied, but nothing of what it had done.
#[test]
fn an_entry_is_written_with_its_position_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let mut machine = open(dir.path());
    let put = Op::Put { key: "key".into(), value: "value".into(), split: 0, terms: Vec::new() };
    let txn = Txn { id: TxnId(1), guards: Vec::new(), ops: vec![put], cause: Cause::default() };
    let commands = [Command::Txn { txn, after_index: 0, time_unix_ms: 0 }, Command::Compact { upto: 1 }, Command::Skip { revisions: 9 }];
    let entries = entries(&commands);
    for (entry, expected) in entries.iter().zip([(1, 0), (1, 1), (10, 10)]) {
        apply(&mut machine, vec![entry.clone()]);
        let state = |meta: &StateMeta| (meta.revision, meta.compacted);
        assert_eq!(state(&machine.meta), expected);
        // what was settled on the way is all that a crash leaves
        drop(machine);
        machine = open(dir.path());
        catch_up(&mut machine, &entries[..=usize::try_from(entry.log_id.index() - 1).unwrap()]);
        assert_eq!(state(&machine.meta), expected, "{entry:?}");
    }
}

#[test]
fn an_entry_of_another_version_stops_this_member_instead_of_diverging() {
    let dir = TempDir::new().unwrap();
    let mut machine = open(dir.path());
    let mut bytes = records::encode(&Command::Compact { upto: 1 });
    bytes[0] = 99;
    let entry = Entry { log_id: LogId::new_term_index(1, 1), payload: EntryPayload::Normal(Payload(bytes.into())) };
    let stream = futures::stream::iter([Ok((entry, None))]);
    let error = block_on(machine.apply(stream)).unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}
