//! An experiment in the simulator, which is a program of its own: all randomness of its process comes from the seed, and this program's must
//! never do that.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use trierarch_lab::recording::Recording;

/// The simulator's name.
const PROGRAM: &str = "trierarch-lab-sim";
/// Where it is, if not beside this program.
pub const PROGRAM_VARIABLE: &str = "TRIERARCH_LAB_SIM";

/// Has the simulator carry out the experiment in `file`.
///
/// # Errors
/// There is no simulator, with how to get it; or what it complains about.
pub fn carry_out(file: &Path, seed: u64, repetitions: u32) -> anyhow::Result<Recording> {
    let program = find()?;
    let output = Command::new(&program)
        .args(["--seed", &seed.to_string(), "--repetitions", &repetitions.to_string()])
        .arg(file)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("the simulator ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the simulator is of another version than this program")
}

fn find() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        return Ok(named.into());
    }
    let beside = std::env::current_exe().context("cannot find this program")?.with_file_name(PROGRAM);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::iter::once(beside.clone()).chain(std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)));
    candidates.into_iter().find(|candidate| candidate.is_file()).with_context(|| {
        format!(
            "the simulator is a program of its own and is not at {}: build it with\n  cargo build -p trierarch-sim --bin {PROGRAM}\nor name it \
             with {PROGRAM_VARIABLE}",
            beside.display()
        )
    })
}
