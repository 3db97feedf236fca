//! What CI runs: so much garbage for each target, and what is known to be dangerous.

use std::time::Duration;

use trierarch_raft::untrusted::Reader;
use trierarch_raft_fuzz::corpus::{self, Corpus};
use trierarch_raft_fuzz::heap::{self, Counting};
use trierarch_raft_fuzz::mutate::{Dice, mutate};
use trierarch_raft_fuzz::target::Target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// For each target; a file costs more than bytes in memory.
const TIME_MAX: Duration = Duration::from_millis(700);
const TRIES_MAX: u64 = 100_000;

fn gathered() -> (tempfile::TempDir, Corpus) {
    let directory = tempfile::tempdir().expect("a directory");
    let corpus = corpus::gather(directory.path()).expect("good bytes");
    (directory, corpus)
}

#[test]
fn garbage_is_refused_or_understood_and_costs_little() {
    let (directory, corpus) = gathered();
    for target in Target::all() {
        let good = corpus.get(&target.name()).map_or(&[][..], Vec::as_slice);
        assert!(!good.is_empty(), "there are no good bytes for {}", target.name());
        for bytes in good {
            assert_eq!(target.try_with(bytes, directory.path()), Ok(true), "{} refuses good bytes {bytes:?}", target.name());
        }
        let (mut dice, began) = (Dice::new(1), trierarch_raft_fuzz::clock::now());
        let (mut tries, mut understood) = (0, 0);
        while tries < TRIES_MAX && began.elapsed() < TIME_MAX {
            let bytes = mutate(&mut dice, good);
            tries += 1;
            match target.try_with(&bytes, directory.path()) {
                Ok(true) => understood += 1,
                Ok(false) => {}
                Err(problem) => panic!("{}: {problem}\ninput: {bytes:?}", target.name()),
            }
        }
        eprintln!("{}: {tries} inputs, {understood} understood", target.name());
        assert!(tries >= 10 && understood < tries, "{}: {tries} inputs, {understood} understood", target.name());
    }
}

#[test]
fn a_claimed_length_takes_no_memory() {
    // the longest frame that is allowed, and nothing of it; then one that is too long
    for (length, refused) in [(16_u32 << 20, "ended inside a frame"), ((16 << 20) + 1, "the limit is"), (u32::MAX, "the limit is")] {
        let frame = [&length.to_be_bytes()[..], &[0; 8], &[1; 100]].concat();
        let (read, peak_bytes) = heap::peak_of(|| Reader::Request.read(&frame));
        let error = read.unwrap_err().to_string();
        assert!(error.contains(refused), "{error}");
        assert!(peak_bytes < 16 << 10, "{peak_bytes} bytes for a frame that claims {length}");
    }
    // a peer that nobody knows gets far less
    let frame = [&8192_u32.to_be_bytes()[..], &[0; 8], &[1; 8192]].concat();
    let (read, peak_bytes) = heap::peak_of(|| Reader::Hello.read(&frame));
    assert!(read.unwrap_err().to_string().contains("the limit is 4096"));
    assert!(peak_bytes < 4 << 10, "{peak_bytes} bytes for a stranger");
}

#[test]
fn a_backup_that_claims_files_without_end_is_refused() {
    let (directory, corpus) = gathered();
    let good = corpus["BackupFile"].first().unwrap();
    // the sizes of the files stand at the end of the header: let one after the other claim all there is
    let header_end = 20 + usize::try_from(u32::from_be_bytes(good[16..20].try_into().unwrap())).unwrap();
    for at in (20..header_end).rev() {
        let mut bytes = good.clone();
        bytes.splice(at..=at, [253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        let length = u32::try_from(header_end - 20 + 8).unwrap();
        bytes.splice(16..20, length.to_be_bytes());
        assert_eq!(Target::BackupFile.try_with(&bytes, directory.path()), Ok(false), "at byte {at}");
    }
}

#[test]
fn the_counter_counts() {
    let (kept, peak_bytes) = heap::peak_of(|| {
        drop(vec![1_u8; 1 << 20]);
        vec![2_u8; 1 << 10]
    });
    assert_eq!(kept.len(), 1 << 10);
    assert!(((1 << 20)..(1 << 20) + 4096).contains(&peak_bytes), "{peak_bytes}");
}
