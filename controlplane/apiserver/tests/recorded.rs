//! Answers of a real Kubernetes API server, replayed against ours: same codes, same words, same objects.
//!
//! The sequences are in `integration/recorded/*.yaml`, what Kubernetes answered beside them in `*.answers`, a line for each step. To
//! record again: `TRIERARCH_RECORD=KUBECONFIG cargo test -p trierarch-apiserver --test recorded` against an API server without
//! controllers. `TRIERARCH_SEQUENCE=NAME` limits a run to one file.

mod support;

#[path = "recorded/compare.rs"]
mod compare;
#[path = "recorded/normal.rs"]
mod normal;
#[path = "recorded/sequence.rs"]
mod sequence;

use std::path::{Path, PathBuf};

use sequence::{Answer, Sequence};
use support::{Standalone, client};

fn folder() -> PathBuf {
    // asked when it runs: a target directory may be shared with another checkout
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test");
    Path::new(&package).join("../../integration/recorded")
}

fn sequences() -> Vec<PathBuf> {
    let only = std::env::var("TRIERARCH_SEQUENCE").ok();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the folder of sequences")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .filter(|path| only.as_deref().is_none_or(|only| path.file_stem().is_some_and(|stem| stem == only)))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no sequence to play");
    files
}

fn read(path: &Path) -> Sequence {
    let text = std::fs::read_to_string(path).expect("a readable sequence");
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_answers_are_those_of_kubernetes() {
    match std::env::var("TRIERARCH_RECORD") {
        Ok(kubeconfig) => record(&client::Client::of_kubeconfig(&kubeconfig)).await,
        Err(_unset) => replay().await,
    }
}

async fn record(client: &client::Client) {
    for path in sequences() {
        let answers = read(&path).play(client).await.unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
        let lines: Vec<String> = answers.iter().map(|answer| serde_json::to_string(answer).expect("JSON")).collect();
        std::fs::write(path.with_extension("answers"), lines.join("\n") + "\n").expect("a writable folder");
    }
}

async fn replay() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Standalone::start(dir.path(), 0).await;
    let client = client::Client::of(&server);
    let played = futures::future::join_all(sequences().into_iter().map(|path| {
        let client = client.clone();
        async move {
            let sequence = read(&path);
            let ours = sequence.play(&client).await;
            (path, sequence, ours)
        }
    }))
    .await;
    let mut report = String::new();
    let (mut steps, mut different) = (0, 0);
    for (path, sequence, ours) in played {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let ours = match ours {
            Ok(ours) => ours,
            Err(error) => {
                report.push_str(&format!("{name} ({}): {error:#}\n", sequence.about));
                different += 1;
                continue;
            }
        };
        let text =
            std::fs::read_to_string(path.with_extension("answers")).unwrap_or_else(|error| panic!("{name} was not recorded: {error}"));
        let recorded: Vec<Answer> = text.lines().map(|line| serde_json::from_str(line).expect("an answer")).collect();
        assert_eq!(recorded.len(), sequence.steps.len(), "{name} must be recorded again");
        for (index, ((step, recorded), ours)) in sequence.steps.iter().zip(&recorded).zip(&ours).enumerate() {
            assert_eq!(recorded.request, step.request, "{name} must be recorded again");
            steps += 1;
            let found = compare::differences(step, recorded, ours);
            if !found.is_empty() {
                different += 1;
                report.push_str(&format!("{name} step {index}: {}\n", step.request));
                for difference in found {
                    report.push_str(&format!("    {difference}\n"));
                }
            }
        }
    }
    server.stop().await;
    assert!(report.is_empty(), "{different} of {steps} answers differ\n{report}");
}
