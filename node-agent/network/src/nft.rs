//! The program `nft`: rule sets that are loaded whole. What changes element by element goes through netlink instead.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

/// `nft` could not load a rule set.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("start nft (Debian package nftables)")]
    Start(#[source] io::Error),
    #[error("write to nft")]
    Write(#[source] io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Where `nft` is: shells of people who became root do not always look in the folders of administration.
fn program() -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&folders).chain(["/usr/sbin".into(), "/sbin".into()]);
    all.map(|folder| folder.join("nft")).find(|path| path.is_file()).unwrap_or_else(|| "nft".into())
}

/// Loads `text` in one transaction, in the network namespace of the calling thread.
///
/// # Errors
/// `nft` is missing, or a line is wrong; then nothing has changed.
pub(crate) fn load(text: &str) -> Result<(), NftError> {
    let mut child = Command::new(program())
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Start)?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    let written = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(NftError::Write)?;
    if output.status.success() {
        return written.map_err(NftError::Write);
    }
    Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Removes a table; it is fine if there is none.
pub(crate) fn remove_table(name: &str) -> Result<(), NftError> {
    // Adding first makes the removal of a missing table no error.
    load(&format!("add table ip {name}\ndelete table ip {name}\n"))
}
