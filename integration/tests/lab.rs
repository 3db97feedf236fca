//! Lessons of the election laboratory on real processes: the program itself carries them out, and what they predict comes true.
//!
//! ```text
//! cargo test --package trierarch-integration --test lab -- [--all] [--repetitions 3] [--reports DIR]
//! ```
//!
//! `--all`: all of them, instead of two. `--reports`: where their pages and texts are kept.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to people")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use trierarch_integration::cluster::{binary, succeed};

const NAME: &str = "lbt";
const NETWORK: &str = "10.131.81.0";
/// The lessons of a short run.
const SHORT: [&str; 2] = ["02-leader-crash.yaml", "03-planned-transfer.yaml"];

struct Options {
    all: bool,
    /// Instead of what the files say.
    repetitions: Option<String>,
    reports: Option<PathBuf>,
}

impl Options {
    /// From the words after the program's name; the standard runner's own options are ignored.
    fn read(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { all: false, repetitions: Some("2".to_owned()), reports: None };
        let mut words = words;
        while let Some(word) = words.next() {
            match word.as_str() {
                "--all" => (options.all, options.repetitions) = (true, None),
                "--repetitions" => options.repetitions = Some(words.next().context("--repetitions needs a number")?),
                "--reports" => options.reports = Some(words.next().context("--reports needs a directory")?.into()),
                _ => {}
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this test needs root: it makes network namespaces");
        return ExitCode::FAILURE;
    }
    let (mut passed, mut failed) = (0, 0);
    let outcome = Options::read(std::env::args().skip(1)).and_then(|options| {
        for lesson in lessons(&options)? {
            let name = lesson.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match carry_out(&lesson, &name, &options) {
                Ok(()) => {
                    passed += 1;
                    println!("test {name} ... ok");
                }
                Err(error) => {
                    failed += 1;
                    println!("test {name} ... FAILED\n     {error:#}");
                }
            }
        }
        Ok(())
    });
    if let Err(error) = &outcome {
        println!("test lessons ... FAILED\n     {error:#}");
        failed += 1;
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn lessons(options: &Options) -> Result<Vec<PathBuf>> {
    // asked when it runs: a target directory may be shared with another checkout
    let package = std::env::var_os("CARGO_MANIFEST_DIR").context("cargo runs this test")?;
    let directory = Path::new(&package).join("../docs/lab");
    if !options.all {
        return Ok(SHORT.iter().map(|name| directory.join(name)).collect());
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

fn carry_out(lesson: &Path, name: &str, options: &Options) -> Result<()> {
    let lab_dir = Path::new("/var/tmp/trierarch-test").join(NAME);
    let mut command = Command::new(binary()?);
    command.args(["raft", "lab", "run", "--name", NAME, "--network", NETWORK, "--lab-dir"]).arg(&lab_dir).arg(lesson);
    if let Some(repetitions) = &options.repetitions {
        command.args(["--repetitions", repetitions]);
    }
    if let Some(reports) = &options.reports {
        std::fs::create_dir_all(reports)?;
        command.arg("--html").arg(reports.join(format!("{name}.html")));
    }
    let printed = succeed(&mut command)?;
    if let Some(reports) = &options.reports {
        std::fs::write(reports.join(format!("{name}.txt")), &printed)?;
    }
    if lab_dir.exists() {
        bail!("{} was left behind", lab_dir.display());
    }
    let links = std::fs::read_dir("/sys/class/net")?.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("tri-lbt"));
    match links.count() {
        0 => Ok(()),
        left => bail!("{left} links were left behind"),
    }
}
