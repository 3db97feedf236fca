//! Connections into a pod's own loopback.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;

/// Connects to a port on the loopback of a network namespace; without a namespace, on the node's.
///
/// # Errors
/// Nobody listens, or the namespace is gone.
pub async fn loopback(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let Some(path) = netns else { return TcpStream::connect(("127.0.0.1", port)).await };
    let (done, outcome) = tokio::sync::oneshot::channel();
    // A namespace belongs to a thread: this one enters, connects and ends, so that no pooled thread stays inside.
    std::thread::Builder::new().name("dial".to_owned()).spawn(move || {
        let connect = || -> io::Result<std::net::TcpStream> {
            let namespace = std::fs::File::open(&path)?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            std::net::TcpStream::connect(("127.0.0.1", port))
                .or_else(|error| std::net::TcpStream::connect(("::1", port)).map_err(|_second| error))
        };
        // Refused when the client has gone meanwhile.
        let _ = done.send(connect());
    })?;
    let stream = outcome.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}
