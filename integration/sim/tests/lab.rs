//! The lessons of the election laboratory, simulated: what each predicts comes true, and the same seed gives the same report.

use std::path::{Path, PathBuf};
use std::process::Command;

use trierarch_lab::experiment::Experiment;
use trierarch_lab::recording::Recording;
use trierarch_lab::render;
use trierarch_lab::report::Report;

fn lessons() -> Vec<PathBuf> {
    // asked when it runs: a target directory may be shared with another checkout
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test");
    let directory = Path::new(&package).join("../../docs/lab");
    let entries = std::fs::read_dir(&directory).expect("the lessons are there").flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    files.sort();
    files
}

/// How often each lesson is simulated here, instead of what it says.
const REPETITIONS: u32 = 3;

fn simulate(file: &Path, seed: u64) -> Report {
    let text = std::fs::read_to_string(file).expect("readable");
    let mut experiment = Experiment::read(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    experiment.repetitions = REPETITIONS;
    let output = Command::new(env!("CARGO_BIN_EXE_trierarch-lab-sim"))
        .args(["--seed", &seed.to_string(), "--repetitions", &REPETITIONS.to_string()])
        .arg(file)
        .output()
        .expect("the program is built beside its tests");
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    let recording: Recording = serde_json::from_slice(&output.stdout).expect("it prints a recording");
    Report::new(experiment, recording)
}

#[test]
fn what_every_lesson_predicts_comes_true() {
    let lessons = lessons();
    let mut numbers: Vec<String> = lessons.iter().filter_map(|path| path.file_name()?.to_str()?.get(..2).map(str::to_owned)).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 10, "{lessons:?}");
    for file in lessons {
        let report = simulate(&file, 1);
        assert!(report.held, "{}:\n{}", file.display(), render::text::render(&report));
    }
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let file = lessons().into_iter().find(|path| path.ends_with("02-leader-crash.yaml")).expect("the second lesson");
    let rendered = |seed| {
        let report = simulate(&file, seed);
        (render::text::render(&report), render::page::render(&report, ""), render::json(&report).expect("a report has a form in JSON"))
    };
    let first = rendered(7);
    assert!(first == rendered(7), "seed 7 does not repeat");
    assert!(first.2 != rendered(8).2, "another seed gives another run");
}

#[test]
fn a_prediction_that_is_wrong_does_not_hold() {
    let lesson =
        std::fs::read_to_string(lessons().into_iter().find(|path| path.ends_with("03-planned-transfer.yaml")).expect("it is there"));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("wrong.yaml");
    let wrong = lesson.expect("readable").replace("noneOf: [old]", "oneOf: [old]");
    std::fs::write(&file, wrong).expect("written");
    let report = simulate(&file, 3);
    let held: Vec<bool> = report.predictions.iter().map(|verdict| verdict.held).collect();
    assert_eq!(held.iter().filter(|held| !**held).count(), 1, "{}", render::text::render(&report));
}
