//! Generations of `state/`.

use tempfile::TempDir;

use super::*;
use crate::apply::Write;
use crate::command::{Key, Outcome, TxnId};
use crate::records::{HistoryRow, HistoryVersion};

#[test]
fn leftovers_of_an_interrupted_replacement_are_removed() {
    let dir = TempDir::new().unwrap();
    drop(StateDb::open_current(dir.path(), None).unwrap());
    // a crash came before `current` named the next generation
    fs::create_dir(dir.path().join("000002")).unwrap();
    fs::write(dir.path().join("current.new"), "000002").unwrap();
    let db = StateDb::open_current(dir.path(), None).unwrap();
    assert!(db.path.ends_with("000001"));
    assert!(!dir.path().join("000002").exists());
    assert!(!dir.path().join("current.new").exists());
}

#[test]
fn a_replacement_is_complete_and_the_old_generation_goes() {
    let dir = TempDir::new().unwrap();
    let old = StateDb::open_current(&dir.path().join("state"), None).unwrap();
    let meta = StateMeta { revision: 7, ..StateMeta::default() };
    old.write(&Rows::default(), &meta).unwrap();
    let incoming = dir.path().join("incoming");
    old.checkpoint(&incoming).unwrap();
    assert_eq!(StateDb::meta_of_checkpoint(&incoming).unwrap(), meta);
    let new = old.replace_by(&incoming).unwrap();
    assert_eq!(new.load().unwrap().1, meta);
    drop(old);
    assert!(!dir.path().join("state/000001").exists());
    drop(new);
    let reopened = StateDb::open_current(&dir.path().join("state"), None).unwrap();
    assert!(reopened.path.ends_with("000002"));
    assert_eq!(reopened.load().unwrap().1, meta);
}

#[test]
fn an_odd_name_in_current_is_damage() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(CURRENT), "../elsewhere").unwrap();
    let error = StateDb::open_current(dir.path(), None).err().unwrap();
    assert!(error.reason.contains("damaged"), "{error}");
}

/// A state as a program of format 1 has left it: `current` was compacted, so that only its own row is left of it.
fn legacy_state(dir: &Path) -> StateMeta {
    fs::create_dir_all(dir).unwrap();
    let db = DB::open_cf(&database_options(), dir, ["objects", "history", "outcomes", "meta"]).unwrap();
    let version = |value: &str| HistoryVersion { create_revision: 1, split: 0, terms: Vec::new(), value: value.to_owned().into() };
    let history = |revision, key: &str, previous, version| {
        let row = HistoryRow { version, previous, cause: crate::command::Cause::default(), time_unix_ms: 7 };
        db.put_cf(db.cf_handle("history").unwrap(), keys::history(revision, key.as_bytes()), records::encode(&row)).unwrap();
    };
    let object = |revision, key: &str, value: &str| {
        let HistoryVersion { create_revision, split, terms, value } = version(value);
        let row = crate::records::ObjectRow { revision, create_revision, split, terms, value };
        db.put_cf(db.cf_handle("objects").unwrap(), key, records::encode(&row)).unwrap();
    };
    object(1, "a", "compacted");
    history(2, "b", None, Some(version("older")));
    history(3, "c", None, Some(version("deleted")));
    history(4, "b", Some(2), Some(version("newer")));
    object(4, "b", "newer");
    history(5, "c", Some(3), None);
    let meta = StateMeta { revision: 5, compacted: 1, ..StateMeta::default() };
    db.put_cf(db.cf_handle("meta").unwrap(), keys::STATE_META, records::encode(&meta)).unwrap();
    meta
}

#[test]
fn a_state_of_format_1_is_taken_over() {
    let dir = TempDir::new().unwrap();
    let generation = dir.path().join("000001");
    let meta = legacy_state(&generation);
    for _ in 0..2 {
        let db = StateDb::open_current(dir.path(), None).unwrap();
        let (state, loaded) = db.load().unwrap();
        let found: Vec<_> = state.view.range(b"", None).map(|record| (record.revision, record.key.clone(), record.value.clone())).collect();
        assert_eq!(found, [(1, "a".into(), "compacted".into()), (4, "b".into(), "newer".into())]);
        assert_eq!(loaded, meta);
        let changes: Vec<_> =
            db.forgotten(1, 5).unwrap().changes.iter().map(|head| (head.revision, head.is_delete, head.previous)).collect();
        assert_eq!(changes, [(2, false, None), (3, false, None), (4, false, Some(2)), (5, true, Some(3))]);
    }
    assert!(!DB::list_cf(&rocksdb::Options::default(), &generation).unwrap().contains(&"objects".to_owned()));
    // its program refuses the result instead of finding it empty
    let db = DB::open_cf(&database_options(), &generation, StateColumn::ALL.map(StateColumn::name)).unwrap();
    assert_eq!(db.get_cf(db.cf_handle("meta").unwrap(), keys::STATE_META).unwrap().unwrap()[0], 2);
}

#[test]
fn what_is_forgotten_at_once_is_bounded_but_for_the_rest_of_a_transaction() {
    let dir = TempDir::new().unwrap();
    let db = StateDb::open_current(dir.path(), None).unwrap();
    let mut rows = Rows::default();
    let row_bytes = |value_bytes: usize| {
        let value = vec![0; value_bytes].into();
        let version = HistoryVersion { create_revision: 1, split: 0, terms: Vec::new(), value };
        HistoryRow { version: Some(version), previous: None, cause: crate::command::Cause::default(), time_unix_ms: 7 }
    };
    // one transaction of three keys, then single ones
    for (revision, key) in [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (3, "a"), (4, "a")] {
        let change = crate::records::HistoryChange { key: key.into(), revision, row: row_bytes(1000) };
        rows.stage(Write::PutHistory(change));
    }
    db.write(&rows, &StateMeta { revision: 4, ..StateMeta::default() }).unwrap();
    let row_bytes = rows.iter().filter_map(|row| Some((row.key.len() + row.value.as_ref()?.len()) as u64)).next().unwrap();
    let check = |before_unix_ms, excess_bytes, changes_max, (upto, changes, more)| {
        let found = db.to_forget(0, before_unix_ms, excess_bytes, changes_max).unwrap();
        assert_eq!(found, ToForget { upto, bytes: changes * row_bytes, more });
        assert_eq!(db.forgotten(0, found.upto).unwrap().changes.len() as u64, changes);
    };
    check(8, 0, 1000, (4, 6, false));
    check(7, 0, 1000, (0, 0, false));
    check(7, 3500, 1000, (2, 4, false));
    // a transaction goes as a whole
    check(8, 0, 1, (1, 3, true));
    check(8, 0, 4, (2, 4, true));
    // what stays is not more to forget
    check(7, 1, 3, (1, 3, false));
}

#[test]
fn heads_are_in_rows_of_some_whole_transactions_and_a_row_goes_when_all_of_it_is_forgotten() {
    let dir = TempDir::new().unwrap();
    let db = StateDb::open_current(dir.path(), None).unwrap();
    // transactions of one, two and 300 changes, written in two parts
    let transactions = (1..=600).map(|revision| (revision, 1)).chain([(601, 2), (602, 300), (603, 1)]);
    let (mut rows, mut all) = (Rows::default(), Vec::new());
    for (revision, changes) in transactions {
        for number in 0..changes {
            let key = Key::from(format!("k/{number:03}"));
            let version = HistoryVersion { create_revision: 1, split: 0, terms: Vec::new(), value: "v".into() };
            let row = HistoryRow { version: Some(version), previous: None, cause: crate::command::Cause::default(), time_unix_ms: 7 };
            rows.stage(Write::PutHistory(crate::records::HistoryChange { key: key.clone(), revision, row }));
            all.push((revision, key));
        }
        if revision == 100 {
            db.write(&std::mem::take(&mut rows), &StateMeta { revision, ..StateMeta::default() }).unwrap();
        }
    }
    db.write(&rows, &StateMeta { revision: 603, ..StateMeta::default() }).unwrap();
    for (after, upto) in [(0, 0), (0, 1), (0, 99), (0, 100), (42, 400), (355, 356), (0, 601), (601, 602), (602, 603), (0, 603), (603, 603)]
    {
        let Forgotten { changes, rows_of_heads } = db.forgotten(after, upto).unwrap();
        let changes: Vec<_> = changes.into_iter().map(|head| (head.revision, head.key)).collect();
        let expected: Vec<_> = all.iter().filter(|(revision, _)| (after + 1..=upto).contains(revision)).cloned().collect();
        assert_eq!(changes, expected, "{after} {upto}");
        let gone: Vec<_> = [100, 356, 602, 603].into_iter().filter(|last| (after + 1..=upto).contains(last)).collect();
        assert_eq!(rows_of_heads, gone, "{after} {upto}");
    }
}

#[test]
fn a_state_without_heads_gets_them_even_after_an_interruption() {
    let dir = TempDir::new().unwrap();
    let db = StateDb::open_current(dir.path(), None).unwrap();
    let mut rows = Rows::default();
    for revision in 1..=1000 {
        let row = HistoryRow { version: None, previous: Some(revision - 1), cause: crate::command::Cause::default(), time_unix_ms: 7 };
        rows.stage(Write::PutHistory(crate::records::HistoryChange { key: "key".into(), revision, row }));
    }
    db.write(&rows, &StateMeta { revision: 1000, compacted: 10, ..StateMeta::default() }).unwrap();
    let expected = db.forgotten(10, 1000).unwrap().changes;
    assert_eq!(expected.len(), 990);
    // nothing is there, or only what is written first
    for upto in [1000, 744] {
        let heads: Vec<_> = db.forgotten(0, upto).unwrap().rows_of_heads;
        assert!(!heads.is_empty());
        let mut removed = Rows::default();
        removed.stage_removed_heads(heads);
        db.write(&removed, &db.meta().unwrap()).unwrap();
        assert_eq!(db.forgotten(10, upto).unwrap().changes, []);
        db.complete_heads().unwrap();
        assert_eq!(db.forgotten(10, 1000).unwrap().changes, expected);
    }
}

#[test]
fn rows_that_wait_are_there_for_whoever_reads() {
    type Sees = fn(&StateDb) -> bool;
    let readers: [(&str, Sees); 7] = [
        ("what is forgotten", |db| db.forgotten(0, 9).unwrap().changes.len() == 1),
        ("events", |db| db.events_after(b"", 0, 9, 9).unwrap().events.len() == 1),
        ("versions", |db| db.versions_at(b"", 0, 9).unwrap().len() == 1),
        ("the last change", |db| db.last_change_unix_ms().unwrap() == Some(7)),
        ("what to forget", |db| db.to_forget(0, 8, 0, 9).unwrap().upto == 1),
        ("everything", |db| db.load().unwrap().1.revision == 1),
        ("a checkpoint", |db| {
            let copy = db.path.with_file_name("copy");
            db.checkpoint(&copy).unwrap();
            StateDb::meta_of_checkpoint(&copy).unwrap().revision == 1
        }),
    ];
    for (what, sees) in readers {
        let dir = TempDir::new().unwrap();
        let db = StateDb::open_current(dir.path(), None).unwrap();
        let version = HistoryVersion { create_revision: 1, split: 0, terms: Vec::new(), value: "v".into() };
        let row = HistoryRow { version: Some(version), previous: None, cause: crate::command::Cause::default(), time_unix_ms: 7 };
        let mut rows = Rows::default();
        rows.stage(Write::PutHistory(crate::records::HistoryChange { key: "key".into(), revision: 1, row }));
        let meta = StateMeta { revision: 1, ..StateMeta::default() };
        assert_eq!(db.write_later(rows, &meta, 1).unwrap(), Urgency::None);
        assert_eq!(db.meta().unwrap().revision, 0, "it does not wait");
        assert!(sees(&db), "{what}");
    }
}

#[test]
fn a_flush_is_worth_its_files() {
    let dir = TempDir::new().unwrap();
    let db = StateDb::open_current(dir.path(), None).unwrap();
    // four times what may be in memory, and flushes are under way all the time
    let count = (4 * MEMORY_BYTES / (16 << 10)) as u64;
    for revision in 1..=count {
        let version = HistoryVersion { create_revision: 1, split: 0, terms: Vec::new(), value: vec![7; 16 << 10].into() };
        let row = HistoryRow { version: Some(version), previous: None, cause: crate::command::Cause::default(), time_unix_ms: 7 };
        let mut rows = Rows::default();
        rows.stage(Write::PutHistory(crate::records::HistoryChange { key: "key".into(), revision, row }));
        rows.stage(Write::PutOutcome { index: revision, id: TxnId(revision.into()), outcome: Outcome::At(revision) });
        db.write_later(rows, &StateMeta { revision, ..StateMeta::default() }, 1).unwrap();
        if revision % 16 == 0 {
            db.settle_to_read().unwrap();
        }
    }
    db.flush().unwrap();
    let files = std::fs::read_dir(&db.path).unwrap().map(|entry| entry.unwrap().file_name());
    let flushes = files.filter(|name| name.to_string_lossy().ends_with(".blob")).count();
    // each takes about FLUSH_BYTES
    let expected = 4 * MEMORY_BYTES / FLUSH_BYTES;
    assert!((expected - 1..=expected + 2).contains(&flushes), "{flushes} flushes instead of {expected}");
}

#[test]
fn all_parts_of_the_history_that_are_read_at_the_same_time_are_about_as_large() {
    let dir = TempDir::new().unwrap();
    let db = StateDb::open_current(dir.path(), None).unwrap();
    // more tables than RocksDB looks into when it opens the database: it knows of no rows in the others
    let (tables, value_bytes) = (48, 4000);
    for number in 0..tables {
        let mut rows = Rows::default();
        let revisions = number * 100 + 1..=(number + 1) * 100;
        for revision in revisions.clone() {
            let version = HistoryVersion { create_revision: 1, split: 0, terms: Vec::new(), value: uneven(revision, value_bytes).into() };
            let row = HistoryRow { version: Some(version), previous: None, cause: crate::command::Cause::default(), time_unix_ms: 7 };
            let key = revision.to_string().into();
            rows.stage(Write::PutHistory(crate::records::HistoryChange { key, revision, row }));
        }
        db.write(&rows, &StateMeta { revision: *revisions.end(), ..StateMeta::default() }).unwrap();
        db.flush().unwrap();
    }
    drop(db);
    let db = StateDb::open_current(dir.path(), None).unwrap();
    let begins = db.parts(4).unwrap();
    assert_eq!(begins.len(), 4);
    let ends = begins.iter().skip(1).copied().chain([tables * 100 + 1]);
    let rows: Vec<u64> = begins.iter().zip(ends).map(|(begin, end)| end - begin).collect();
    let even = tables * 100 / 4;
    assert!(rows.iter().all(|rows| (even / 2..=even * 2).contains(rows)), "{rows:?}");
    let view = db.load().unwrap().0.view;
    assert!((1..=tables * 100).all(|revision| view.get(revision.to_string().as_bytes()).is_some_and(|record| record.revision == revision)));
}

/// So many bytes that hardly shrink.
fn uneven(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}
