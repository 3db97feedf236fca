//! The floor of one call in flight: what is left of a group when everything but its way is taken away. A client asks a leader, which asks
//! one follower, and the answers go back the same way; if it was a put, both sync their disks at the same time. Three threads that block, TLS
//! between them, no raft, no state.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use trierarch_etcd_facade::tls::Identity;

use crate::clock;
use crate::floor::{BLOCK_BYTES, BLOCKS, Latencies};

/// Bytes of a request, and of what the leader sends on.
const REQUEST_BYTES: usize = 320;
/// The same of a put of 16 KiB.
const LARGE_REQUEST_BYTES: usize = (16 << 10) + 64;
/// Bytes of an answer.
const ANSWER_BYTES: usize = 64;

/// How long a call takes at least.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    /// With a sync of both disks.
    pub put: Latencies,
    /// With 16 KiB.
    pub large_put: Latencies,
    /// Without a disk.
    pub get: Latencies,
}

/// Goes each way for that long.
///
/// # Errors
/// Of the disk, and of connections on loopback.
pub fn measure(directory: &Path, identity: &Identity, duration: Duration) -> anyhow::Result<Ways> {
    let paths = ["relay-1", "relay-2"].map(|name| directory.join(name));
    let [first, second] = [disk(&paths[0])?, disk(&paths[1])?];
    let disks = Some((&first, &second));
    let put = calls(identity, disks, REQUEST_BYTES, duration)?;
    let large_put = calls(identity, disks, LARGE_REQUEST_BYTES, duration)?;
    paths.iter().try_for_each(std::fs::remove_file)?;
    Ok(Ways { put, large_put, get: calls(identity, None, REQUEST_BYTES, duration)? })
}

/// A file that has its length.
fn disk(path: &Path) -> anyhow::Result<File> {
    let file = File::options().create_new(true).write(true).open(path).with_context(|| format!("cannot create {}", path.display()))?;
    (0..BLOCKS).try_for_each(|block| file.write_all_at(&[0; BLOCK_BYTES], block * BLOCK_BYTES as u64))?;
    file.sync_all()?;
    Ok(file)
}

fn calls(identity: &Identity, disks: Option<(&File, &File)>, bytes: usize, duration: Duration) -> anyhow::Result<Latencies> {
    let (client, server) = (identity.client(&[])?, identity.server(&[])?);
    let (leader, follower) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let (to_leader, to_follower) = (leader.local_addr()?, follower.local_addr()?);
    thread::scope(|threads| {
        let following = threads.spawn(|| follow(accept(&follower, &server)?, disks.map(|(_, disk)| disk), bytes));
        let leading = threads.spawn(|| lead(accept(&leader, &server)?, connect(to_follower, &client)?, disks.map(|(disk, _)| disk), bytes));
        let mut stream = connect(to_leader, &client)?;
        let (mut latencies, request) = (Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?, vec![0x5a; bytes]);
        let start = clock::now();
        while start.elapsed() < duration {
            let before = clock::now();
            ask(&mut stream, &request)?;
            hear(&mut stream)?;
            latencies.saturating_record(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        let took = start.elapsed();
        stream.sock.shutdown(std::net::Shutdown::Both)?;
        for thread in [following, leading] {
            thread.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(Latencies::of(&latencies, took))
    })
}

/// Answers until the other side goes away.
fn follow(mut stream: impl Read + Write, disk: Option<&File>, bytes: usize) -> anyhow::Result<()> {
    let (mut request, mut offset) = (vec![0; bytes], 0);
    while stream.read_exact(&mut request).is_ok() {
        keep(disk, &request, &mut offset)?;
        answer(&mut stream)?;
    }
    Ok(())
}

/// Hands requests on until the other side goes away.
fn lead(
    mut stream: impl Read + Write,
    mut follower: StreamOwned<ClientConnection, TcpStream>,
    disk: Option<&File>,
    bytes: usize,
) -> anyhow::Result<()> {
    let (mut request, mut offset) = (vec![0; bytes], 0);
    while stream.read_exact(&mut request).is_ok() {
        ask(&mut follower, &request)?;
        keep(disk, &request, &mut offset)?;
        hear(&mut follower)?;
        answer(&mut stream)?;
    }
    follower.sock.shutdown(std::net::Shutdown::Both)?;
    Ok(())
}

/// Writes a request behind the one before, and syncs.
fn keep(disk: Option<&File>, request: &[u8], offset: &mut u64) -> anyhow::Result<()> {
    let Some(disk) = disk else { return Ok(()) };
    disk.write_all_at(request, *offset)?;
    disk.sync_data()?;
    let (bytes, end) = (request.len() as u64, *offset + request.len() as u64);
    // never beyond the length that the file has
    *offset = if end + bytes > BLOCKS * BLOCK_BYTES as u64 { 0 } else { end };
    Ok(())
}

fn ask(stream: &mut impl Write, request: &[u8]) -> anyhow::Result<()> {
    stream.write_all(request)?;
    Ok(stream.flush()?)
}

fn hear(stream: &mut impl Read) -> anyhow::Result<()> {
    Ok(stream.read_exact(&mut [0; ANSWER_BYTES])?)
}

fn answer(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    stream.write_all(&[0xa5; ANSWER_BYTES])?;
    Ok(stream.flush()?)
}

fn connect(address: std::net::SocketAddr, tls: &Arc<ClientConfig>) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("127.0.0.1")?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::clone(tls), name)?, tcp))
}

fn accept(listener: &TcpListener, tls: &Arc<ServerConfig>) -> anyhow::Result<StreamOwned<ServerConnection, TcpStream>> {
    let (tcp, _) = listener.accept()?;
    tcp.set_nodelay(true)?;
    Ok(StreamOwned::new(ServerConnection::new(Arc::clone(tls))?, tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_a_floor() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::make(directory.path()).unwrap();
        let Ways { put, large_put, get } = measure(directory.path(), &identity, Duration::from_millis(50)).unwrap();
        for way in [put, large_put, get] {
            assert!(way.per_second > 0.0 && way.p50_us <= way.p99_us);
        }
        assert!(["relay-1", "relay-2"].iter().all(|name| !directory.path().join(name).exists()));
    }
}
