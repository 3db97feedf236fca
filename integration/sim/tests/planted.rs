//! The simulation can fail: every bug that is planted on purpose is found within a few seeds.
#![cfg(feature = "planted")]

use std::process::Command;

use trierarch_raft::planted::Bug;

/// A bug that is not found by so many seeds is not found.
const SEEDS_MAX: u64 = 60;

/// Which rule the seed shows to be broken, if it does. That the group no longer gets on, or a member does not come to an end, is no finding.
fn finds(bug: Bug, seed: u64) -> Option<String> {
    let arguments = ["--seed".to_owned(), seed.to_string(), "--bug".to_owned(), format!("{bug:?}")];
    let output = Command::new(env!("CARGO_BIN_EXE_trierarch-sim")).args(arguments).output().expect("the program is built beside its tests");
    let report = String::from_utf8(output.stdout).expect("it prints text");
    let found = report.lines().find(|line| line.contains("FAILED")).map(str::to_owned);
    assert_eq!(found.is_some(), !output.status.success(), "{report}");
    found.filter(|found| !found.contains("no progress") && !found.contains("busy without end"))
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let found = (0..SEEDS_MAX).find_map(|seed| finds(bug, seed));
        let found = found.unwrap_or_else(|| panic!("{bug:?} was not found by {SEEDS_MAX} seeds"));
        assert!(!found.contains("panicked"), "{bug:?} was found by accident: {found}");
        eprintln!("{bug:?}: {found}");
    }
}
