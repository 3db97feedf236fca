//! A member's disk: how long a sync takes and whether it succeeds, and what is left after the machine has stopped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::dice::Dice;

/// A disk.
pub struct Disk {
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    sync_max_ms: u64,
    fails: bool,
    fullness: Fullness,
    /// Bytes of the log's growing files that were synced.
    synced: BTreeMap<PathBuf, u64>,
}

/// How full a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fullness {
    /// There is room.
    Room,
    /// There is room for what is under way, and no more.
    Nearly,
    /// Nothing can be written.
    Full,
}

/// How a member stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The process is killed: what it has written is with the operating system.
    Kill,
    /// The power is cut: only what was synced is left.
    PowerCut,
    /// The power is cut while the disk writes: some of what was not synced is left, too.
    TornPowerCut,
}

impl Disk {
    /// A disk that works.
    pub fn new(dice: Dice, sync_max_ms: u64) -> Self {
        Self { state: Mutex::new(State { dice, sync_max_ms, fails: false, fullness: Fullness::Room, synced: BTreeMap::new() }) }
    }

    /// Syncs take up to this long from now on.
    pub fn set_sync_max_ms(&self, sync_max_ms: u64) {
        self.state.lock().sync_max_ms = sync_max_ms;
    }

    /// The next sync fails.
    pub fn fail_once(&self) {
        self.state.lock().fails = true;
    }

    /// Fills it, or makes room.
    pub fn set_fullness(&self, fullness: Fullness) {
        self.state.lock().fullness = fullness;
    }

    /// How many bytes may still be written to it.
    pub fn free_bytes(&self) -> u64 {
        match self.state.lock().fullness {
            Fullness::Room => u64::MAX,
            Fullness::Nearly => 10 << 20,
            Fullness::Full => 0,
        }
    }

    /// It works and has room again, and syncs take up to this long.
    pub fn heal(&self, sync_max_ms: u64) {
        let mut state = self.state.lock();
        (state.sync_max_ms, state.fails, state.fullness) = (sync_max_ms, false, Fullness::Room);
    }

    /// How long the next sync takes, in milliseconds.
    pub fn roll_delay_ms(&self) -> u64 {
        let mut state = self.state.lock();
        let sync_max_ms = state.sync_max_ms;
        state.dice.between(0, sync_max_ms)
    }

    /// The result of a sync.
    ///
    /// # Errors
    /// The disk fails, once; or it is full.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.fails) {
            Err(io::Error::other("input/output error"))
        } else if state.fullness == Fullness::Full {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        } else {
            Ok(())
        }
    }

    /// All that the files in `log_dir` hold is synced.
    pub fn note_synced(&self, log_dir: &Path) {
        let sizes = growing_sizes(log_dir);
        self.state.lock().synced = sizes;
    }

    /// Copies from `old` to `new`, two directories of a member, what survives when it stops in this way.
    ///
    /// # Errors
    /// Of the file system below.
    pub fn keep_survivors(&self, old: &Path, new: &Path, stop: Stop) -> io::Result<()> {
        fs::create_dir_all(new)?;
        for part in ["log", "state"] {
            copy_settled(&old.join(part), &new.join(part))?;
        }
        if stop == Stop::Kill {
            return Ok(());
        }
        let mut state = self.state.lock();
        for (name, size) in growing_sizes(&new.join("log")) {
            let synced = state.synced.get(&name).copied().unwrap_or(0).min(size);
            let kept = if stop == Stop::TornPowerCut { state.dice.between(synced, size) } else { synced };
            fs::File::options().write(true).open(new.join("log").join(&name))?.set_len(kept)?;
        }
        Ok(())
    }
}

/// The sizes of a log's files that grow: its segments of entries, and its database's write-ahead files.
fn growing_sizes(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = |below: &str| fs::read_dir(directory.join(below)).into_iter().flatten().flatten();
    entries("")
        .chain(entries("entries"))
        .filter_map(|entry| {
            let path = entry.path();
            let grows = path.extension().is_some_and(|extension| extension == "log");
            let name = path.strip_prefix(directory).ok()?.to_owned();
            Some((name, entry.metadata().ok()?.len())).filter(|_| grows)
        })
        .collect()
}

/// Copies a database that is open: again, if its list of tables changed meanwhile, as RocksDB compacts in the background.
fn copy_settled(old: &Path, new: &Path) -> io::Result<()> {
    loop {
        if new.exists() {
            fs::remove_dir_all(new)?;
        }
        let before = manifests(old)?;
        match copy_tree(old, new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            copied => copied?,
        }
        if manifests(old)? == before && manifests(new)? == before {
            return Ok(());
        }
    }
}

/// The files below `directory` that say which tables a database has, with their sizes.
fn manifests(directory: &Path) -> io::Result<BTreeMap<PathBuf, u64>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(directory) else { return Ok(found) };
    for entry in entries {
        let entry = entry?;
        if entry.path().is_dir() {
            let below = manifests(&entry.path())?;
            found.extend(below.into_iter().map(|(name, size)| (Path::new(&entry.file_name()).join(name), size)));
        } else if entry.file_name().to_string_lossy().starts_with("MANIFEST") {
            found.insert(entry.file_name().into(), entry.metadata()?.len());
        }
    }
    Ok(found)
}

fn copy_tree(old: &Path, new: &Path) -> io::Result<()> {
    fs::create_dir_all(new)?;
    if !old.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(old)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &new.join(&name))?;
        } else if Path::new(&*text).extension().is_some_and(|extension| extension == "sst") {
            fs::hard_link(entry.path(), new.join(&name))?;
        } else if text != "LOCK" && !text.starts_with("LOG") {
            fs::copy(entry.path(), new.join(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survivors(stop: Stop) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir_all(old.join("log/entries")).unwrap();
        fs::write(old.join("log/entries/000004.log"), vec![1; 100]).unwrap();
        let disk = Disk::new(Dice::new(3), 0);
        disk.note_synced(&old.join("log"));
        fs::write(old.join("log/entries/000004.log"), vec![1; 200]).unwrap();
        disk.keep_survivors(&old, &new, stop).unwrap();
        fs::metadata(new.join("log/entries/000004.log")).unwrap().len()
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced() {
        assert_eq!(survivors(Stop::Kill), 200);
        assert_eq!(survivors(Stop::PowerCut), 100);
        assert!((100..=200).contains(&survivors(Stop::TornPowerCut)));
    }

    #[test]
    fn a_full_disk_takes_nothing_until_there_is_room() {
        let disk = Disk::new(Dice::new(3), 0);
        disk.set_fullness(Fullness::Full);
        assert_eq!(disk.sync().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.free_bytes(), 0);
        disk.set_fullness(Fullness::Nearly);
        assert!(disk.sync().is_ok());
        disk.heal(0);
        assert_eq!(disk.free_bytes(), u64::MAX);
    }

    #[test]
    fn a_disk_fails_once() {
        let disk = Disk::new(Dice::new(3), 0);
        disk.fail_once();
        assert!(disk.sync().is_err());
        assert!(disk.sync().is_ok());
    }
}
