//! A process' streams joined to this terminal: raw mode, copying, sizes, signals.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use trierarch_runtime::spec::TerminalSize;

/// This terminal in raw mode for as long as it lives.
pub struct RawTerminal(Option<Termios>);

impl RawTerminal {
    /// Keys reach the process one by one and unchanged. Without a terminal nothing happens.
    pub fn enter() -> Self {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        Self(tcsetattr(&stdin, SetArg::TCSANOW, &raw).is_ok().then_some(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // the terminal may be gone: then there is nothing to restore
            let _gone = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// Refuses to give a process a terminal that the user has not.
///
/// # Errors
/// A text for the user.
pub fn check_terminal(tty: bool, interactive: bool) -> anyhow::Result<()> {
    if tty && interactive && !std::io::stdin().is_terminal() {
        anyhow::bail!("standard input is not a terminal: leave out -t");
    }
    Ok(())
}

/// How large this terminal is.
pub fn terminal_size() -> Option<TerminalSize> {
    terminal_size::terminal_size().map(|(width, height)| TerminalSize { width: width.0, height: height.0 })
}

/// Copies until either end closes. The thread is not waited for when it reads what may never end.
pub fn copy(from: impl Read + Send + 'static, to: impl Write + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let (mut from, mut to) = (from, to);
    let work = move || {
        let mut buffer = vec![0; 16 * 1024];
        // the master of a terminal whose last process is gone fails instead of ending
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 || to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stream".to_owned()).spawn(work)
}

/// A descriptor as a file.
pub fn file(descriptor: OwnedFd) -> File {
    File::from(descriptor)
}

/// What happens to this process that concerns the one it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A signal that asks to end, by number.
    Signal(i32),
    /// The terminal has another size.
    Resized,
}

/// Hands over what happens, from now until the runtime ends. A process that does not go by itself is killed with the third signal.
///
/// # Errors
/// When the kernel lends no signals.
pub fn watch(runtime: &tokio::runtime::Runtime, on: impl Fn(Happening) + Send + 'static) -> std::io::Result<()> {
    let _context = runtime.enter();
    let heard = |kind: SignalKind| -> std::io::Result<Signal> { signal(kind) };
    let (mut interrupt, mut terminate) = (heard(SignalKind::interrupt())?, heard(SignalKind::terminate())?);
    let (mut hangup, mut quit, mut resized) =
        (heard(SignalKind::hangup())?, heard(SignalKind::quit())?, heard(SignalKind::window_change())?);
    runtime.spawn(async move {
        let mut times = 0;
        loop {
            let number = tokio::select! {
                _ = interrupt.recv() => nix::libc::SIGINT,
                _ = terminate.recv() => nix::libc::SIGTERM,
                _ = hangup.recv() => nix::libc::SIGHUP,
                _ = quit.recv() => nix::libc::SIGQUIT,
                _ = resized.recv() => {
                    on(Happening::Resized);
                    continue;
                }
            };
            times += 1;
            on(Happening::Signal(if times < 3 { number } else { nix::libc::SIGKILL }));
        }
    });
    Ok(())
}
