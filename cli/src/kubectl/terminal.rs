//! The user's terminal: raw while a remote process has it, as it was afterwards.

use std::io::IsTerminal as _;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Width and height in characters.
pub type Size = (u16, u16);

/// A terminal in raw mode. Dropping it makes the terminal what it was.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Puts the terminal of standard input into raw mode; `None` if there is none.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // a terminal that has gone needs no settings
        let _gone = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Whether standard input is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// How large the terminal is, if there is one.
pub fn size() -> Option<Size> {
    terminal_size::terminal_size().map(|(width, height)| (width.0, height.0))
}
