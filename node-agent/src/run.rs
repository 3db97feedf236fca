//! How the agent's parts start and stop.

use std::future::Future;

use crate::config::AgentConfig;

/// Why the agent could not run. Errors of single pods never end it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory of the agent could not be made.
    #[error("cannot prepare {path}")]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The container runtime could not start.
    #[error("cannot start the container runtime")]
    Runtime(#[source] trierarch_runtime::Error),
    /// The content store can't be used.
    #[error("cannot open the image store")]
    Images(#[source] trierarch_images::StoreError),
    /// The streaming port could not be opened.
    #[error("cannot serve {address}")]
    Streaming {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// TLS of the streaming port.
    #[error("cannot use the certificates of the streaming port")]
    Tls(#[source] rustls::Error),
}

/// Runs the node until `shutdown` completes. Pods stay; a later agent takes them over.
///
/// # Errors
/// What keeps the agent from starting at all.
pub async fn run(config: AgentConfig, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    let _ = config;
    shutdown.await;
    Ok(())
}
