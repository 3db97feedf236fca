//! Standard output and standard error. A reader that went away ends the program without a word.

use std::fmt::Display;
use std::io::Write as _;

use super::errors::Exit;

/// What a shell reports for a program that was ended by SIGPIPE.
const PIPE_CLOSED: u8 = 141;

/// Writes text as it is.
///
/// # Errors
/// [`Exit`] when nobody reads any more, the system's error otherwise.
pub fn emit(text: &str) -> anyhow::Result<()> {
    emit_bytes(text.as_bytes())
}

/// Writes bytes as they are.
///
/// # Errors
/// As [`emit`].
pub fn emit_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Exit(PIPE_CLOSED).into()),
        Err(error) => Err(error.into()),
    }
}

/// Writes one line.
///
/// # Errors
/// As [`emit`].
pub fn line(text: impl Display) -> anyhow::Result<()> {
    emit(&format!("{text}\n"))
}

/// Writes one line to standard error. Nobody listening there is no reason to stop.
pub fn note(text: impl Display) {
    let _unheard = writeln!(std::io::stderr(), "{text}");
}
