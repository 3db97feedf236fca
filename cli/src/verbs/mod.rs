//! The verbs, one file each.

pub mod agent;
pub mod containers;
pub mod down;
pub mod image;
pub mod kubeconfig;
pub mod node;
pub mod node_init;
pub mod raft;
pub mod run;
pub mod server;
pub mod supervise;
pub mod up;

/// The end of a command that is neither success nor an ordinary failure.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// What to say; empty: nothing.
    pub text: String,
}

impl Exit {
    /// Passes on the exit code of a program that has said what it had to say.
    ///
    /// # Errors
    /// Itself, unless the code is 0.
    pub fn with(code: i32) -> anyhow::Result<()> {
        match code {
            0 => Ok(()),
            code => Err(Self { code: u8::try_from(code).unwrap_or(255), text: String::new() }.into()),
        }
    }

    /// An error that ends the process with this code.
    pub fn saying(code: u8, error: &anyhow::Error) -> anyhow::Error {
        Self { code, text: format!("{error:#}") }.into()
    }
}

/// Returns when the user, or whoever ends the session, wants this process to end.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let [mut interrupt, mut terminate, mut hangup] =
        match [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal) {
            [Ok(interrupt), Ok(terminate), Ok(hangup)] => [interrupt, terminate, hangup],
            _ => return std::future::pending().await,
        };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
