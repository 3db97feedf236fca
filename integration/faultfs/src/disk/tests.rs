use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NOTHING: fn(u64) -> u64 = |_| 0;
const EVERYTHING: fn(u64) -> u64 = |most| most;

fn disk() -> Disk {
    Disk::new(1 << 30)
}

fn file(disk: &mut Disk, name: &str, bytes: &[u8]) -> Inode {
    let inode = disk.make(ROOT, OsStr::new(name), Kind::File, 0o644).unwrap();
    disk.write(inode, 0, bytes).unwrap();
    inode
}

fn content(disk: &Disk, name: &str) -> Result<Vec<u8>, Errno> {
    disk.read(disk.find(ROOT, OsStr::new(name))?, 0, u32::MAX).map(<[u8]>::to_vec)
}

fn paths(disk: &Disk) -> Vec<PathBuf> {
    disk.shown.files().into_iter().map(|(path, _)| path).collect()
}

#[test]
fn what_was_synced_survives_and_the_rest_does_not() {
    let mut disk = disk();
    let kept = file(&mut disk, "kept", b"one");
    disk.sync(kept).unwrap();
    disk.write(kept, 3, b"two").unwrap();
    file(&mut disk, "lost", b"three");
    assert_eq!(content(&disk, "kept").unwrap(), b"onetwo");
    assert_eq!(disk.unsynced_bytes(), 8);
    disk.cut_power(NOTHING);
    assert_eq!(content(&disk, "kept").unwrap(), b"one");
    assert_eq!(content(&disk, "lost"), Err(Errno::ENOENT));
    assert_eq!(disk.unsynced_bytes(), 0);
}

#[test]
fn a_write_may_be_torn_at_any_byte() {
    for kept in 0..=6 {
        let mut disk = disk();
        let inode = file(&mut disk, "log", b"a");
        disk.sync(inode).unwrap();
        disk.write(inode, 1, b"bcd").unwrap();
        disk.write(inode, 4, b"efg").unwrap();
        disk.cut_power(|_| kept);
        assert_eq!(content(&disk, "log").unwrap(), b"abcdefg"[..=usize::try_from(kept).unwrap()]);
    }
}

#[test]
fn a_rename_replaces_in_one_step_and_lasts_with_any_sync() {
    let replace = |disk: &mut Disk| {
        let old = file(disk, "current", b"old");
        disk.sync(old).unwrap();
        let new = file(disk, "current.new", b"new");
        disk.sync(new).unwrap();
        disk.move_to(ROOT, OsStr::new("current.new"), ROOT, OsStr::new("current")).unwrap();
    };
    let mut lost = disk();
    replace(&mut lost);
    lost.cut_power(NOTHING);
    assert_eq!(content(&lost, "current").unwrap(), b"old");
    assert_eq!(content(&lost, "current.new").unwrap(), b"new");
    let mut kept = disk();
    replace(&mut kept);
    kept.sync(ROOT).unwrap();
    kept.cut_power(NOTHING);
    assert_eq!(content(&kept, "current").unwrap(), b"new");
    assert_eq!(content(&kept, "current.new"), Err(Errno::ENOENT));
}

#[test]
fn a_name_may_last_without_its_bytes() {
    let mut disk = disk();
    file(&mut disk, "empty", b"bytes");
    disk.sync(ROOT).unwrap();
    disk.cut_power(NOTHING);
    assert_eq!(content(&disk, "empty").unwrap(), b"");
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let mut disk = disk();
    let inode = file(&mut disk, "7.log", b"one");
    disk.fail_syncs(".log", 1);
    let other = file(&mut disk, "other", b"");
    disk.sync(other).unwrap();
    assert_eq!(disk.sync(inode), Err(Errno::EIO));
    assert_eq!(content(&disk, "7.log").unwrap(), b"one");
    disk.write(inode, 3, b"two").unwrap();
    disk.sync(inode).unwrap();
    assert_eq!(disk.failures_left(), 0);
    disk.cut_power(EVERYTHING);
    assert_eq!(content(&disk, "7.log").unwrap(), b"\0\0\0two");
}

#[test]
fn a_full_disk_takes_nothing_until_there_is_room() {
    let mut disk = Disk::new(4 * BLOCK);
    let inode = file(&mut disk, "a", b"x");
    assert_eq!(disk.capacity_and_free(), (4 * BLOCK, 2 * BLOCK));
    disk.reserve(inode, 3 * BLOCK).unwrap();
    disk.write(inode, 1, b"in what was set aside").unwrap();
    assert_eq!(disk.write(inode, 3 * BLOCK, b"x"), Err(Errno::ENOSPC));
    assert_eq!(disk.make(ROOT, OsStr::new("b"), Kind::File, 0o644), Err(Errno::ENOSPC));
    disk.punch(inode, BLOCK, 3 * BLOCK).unwrap();
    disk.make(ROOT, OsStr::new("b"), Kind::File, 0o644).unwrap();
    disk.set_capacity(0);
    assert_eq!(disk.capacity_and_free(), (0, 0));
    assert_eq!(disk.write(inode, 2 * BLOCK, b"x"), Err(Errno::ENOSPC));
    disk.write(inode, 0, b"y").unwrap();
}

#[test]
fn a_flipped_bit_shows_at_once_and_lasts() {
    let mut disk = disk();
    let inode = file(&mut disk, "a", b"abc");
    assert_eq!(disk.flip(Path::new("a"), 1, 1), Err(Errno::ENOENT), "it is not stored yet");
    disk.sync(inode).unwrap();
    disk.flip(Path::new("a"), 1, 1).unwrap();
    assert_eq!(disk.flip(Path::new("a"), 3, 1), Err(Errno::EINVAL));
    assert_eq!(content(&disk, "a").unwrap(), b"acc");
    disk.cut_power(NOTHING);
    assert_eq!(content(&disk, "a").unwrap(), b"acc");
    assert_eq!(disk.stored_files(), [(PathBuf::from("a"), 3)]);
}

#[test]
fn a_removed_file_is_there_while_it_is_open() {
    let mut disk = disk();
    let inode = file(&mut disk, "a", b"abc");
    disk.opened(inode);
    disk.link(inode, ROOT, OsStr::new("b")).unwrap();
    disk.remove(ROOT, OsStr::new("a"), Kind::File).unwrap();
    disk.remove(ROOT, OsStr::new("b"), Kind::File).unwrap();
    disk.write(inode, 3, b"d").unwrap();
    assert_eq!(disk.read(inode, 0, 9).unwrap(), b"abcd");
    disk.sync(inode).unwrap();
    disk.closed(inode);
    assert_eq!(disk.read(inode, 0, 9), Err(Errno::ENOENT));
    assert_eq!(disk.used_bytes(), BLOCK, "the root is left");
}

#[test]
fn errors_are_those_of_system_calls() {
    let mut disk = disk();
    let inode = file(&mut disk, "a", b"");
    let folder = disk.make(ROOT, OsStr::new("d"), Kind::Directory, 0o755).unwrap();
    let name = OsStr::new;
    disk.make(folder, name("inside"), Kind::File, 0o644).unwrap();
    assert_eq!(disk.make(ROOT, name("a"), Kind::File, 0), Err(Errno::EEXIST));
    assert_eq!(disk.make(inode, name("b"), Kind::File, 0), Err(Errno::ENOTDIR));
    assert_eq!(disk.remove(ROOT, name("d"), Kind::Directory), Err(Errno::ENOTEMPTY));
    assert_eq!(disk.remove(ROOT, name("d"), Kind::File), Err(Errno::EISDIR));
    assert_eq!(disk.remove(ROOT, name("a"), Kind::Directory), Err(Errno::ENOTDIR));
    assert_eq!(disk.move_to(ROOT, name("a"), ROOT, name("d")), Err(Errno::EISDIR));
    assert_eq!(disk.move_to(ROOT, name("d"), ROOT, name("a")), Err(Errno::ENOTDIR));
    assert_eq!(disk.link(folder, ROOT, name("e")), Err(Errno::EPERM));
    assert_eq!(disk.write(folder, 0, b"x"), Err(Errno::EISDIR));
    assert_eq!(disk.move_to(ROOT, name("nothing"), ROOT, name("e")), Err(Errno::ENOENT));
}

/// What somebody does with a disk.
#[derive(Clone, Debug)]
enum Step {
    Append { file: u8, bytes: Vec<u8> },
    Sync { file: u8 },
    SyncNames,
    Move { file: u8, to: u8 },
    Link { file: u8, to: u8 },
    Remove { file: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0_u8..5;
    prop_oneof![
        6 => (file(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(file, bytes)| Step::Append { file, bytes }),
        3 => file().prop_map(|file| Step::Sync { file }),
        1 => Just(Step::SyncNames),
        2 => (file(), file()).prop_map(|(file, to)| Step::Move { file, to }),
        1 => (file(), file()).prop_map(|(file, to)| Step::Link { file, to }),
        1 => file().prop_map(|file| Step::Remove { file }),
    ]
}

/// What must be and what may be on the disk, kept in the simplest way: for each file what was synced and what was written, and every state
/// of the names since they were stored.
#[derive(Default)]
struct Promise {
    bytes: BTreeMap<Inode, (usize, Vec<u8>)>,
    names: Vec<BTreeMap<PathBuf, Inode>>,
}

fn play(disk: &mut Disk, steps: &[Step]) -> Promise {
    let mut promise = Promise { names: vec![BTreeMap::new()], ..Promise::default() };
    let name = |file: u8| OsString::from(file.to_string());
    for step in steps {
        let mut stores_names = false;
        match step {
            Step::Append { file, bytes } => {
                let found = disk.find(ROOT, &name(*file)).or_else(|_| disk.make(ROOT, &name(*file), Kind::File, 0o644)).unwrap();
                let (_, written) = promise.bytes.entry(found).or_default();
                disk.write(found, written.len() as u64, bytes).unwrap();
                written.extend(bytes);
            }
            Step::Sync { file } => {
                if let Ok(inode) = disk.find(ROOT, &name(*file)) {
                    disk.sync(inode).unwrap();
                    let (synced, written) = promise.bytes.entry(inode).or_default();
                    *synced = written.len();
                    stores_names = true;
                }
            }
            Step::SyncNames => {
                disk.sync(ROOT).unwrap();
                stores_names = true;
            }
            Step::Move { file, to } => drop(disk.move_to(ROOT, &name(*file), ROOT, &name(*to))),
            Step::Link { file, to } => {
                if let Ok(inode) = disk.find(ROOT, &name(*file)) {
                    let _taken = disk.link(inode, ROOT, &name(*to));
                }
            }
            Step::Remove { file } => drop(disk.remove(ROOT, &name(*file), Kind::File)),
        }
        if stores_names {
            promise.names.clear();
        }
        promise.names.push(disk.shown.files().into_iter().collect());
    }
    promise
}

proptest! {
    /// A power cut leaves a state of the names that was there since they were stored, and of each file all that was synced and nothing but
    /// a beginning of what was written.
    #[test]
    fn a_power_cut_keeps_every_promise(steps in prop::collection::vec(step(), 0..40), choices in prop::collection::vec(any::<u64>(), 1..8)) {
        let mut disk = disk();
        let promise = play(&mut disk, &steps);
        let mut choices = choices.into_iter().cycle();
        disk.cut_power(|most| choices.next().unwrap() % (most + 1));
        let names: BTreeMap<PathBuf, Inode> = disk.shown.files().into_iter().collect();
        prop_assert!(promise.names.contains(&names), "{names:?} is none of {:?}", promise.names);
        for inode in names.values().collect::<BTreeSet<_>>() {
            let found = disk.read(*inode, 0, u32::MAX).unwrap();
            let (synced, written) = promise.bytes.get(inode).cloned().unwrap_or_default();
            prop_assert!(found.len() >= synced && written.starts_with(found), "{found:?} of {written:?}, {synced} synced");
        }
        prop_assert_eq!(&disk.shown, &disk.stored);
    }

    /// When everything is synced, a power cut changes nothing.
    #[test]
    fn a_power_cut_after_syncs_changes_nothing(steps in prop::collection::vec(step(), 0..40)) {
        let mut disk = disk();
        play(&mut disk, &steps);
        for (_, inode) in disk.shown.files() {
            disk.sync(inode).unwrap();
        }
        disk.sync(ROOT).unwrap();
        let before = (paths(&disk), disk.shown.clone());
        disk.cut_power(NOTHING);
        prop_assert_eq!(before, (paths(&disk), disk.shown.clone()));
    }
}
