//! Generations of `state/`.

use tempfile::TempDir;

use super::*;

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
    old.write(&WriteBatch::default(), &meta).unwrap();
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
