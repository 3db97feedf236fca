//! One question to one member of ours, on a connection of its own: what a run asks beside its load.

use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use trierarch_etcd_facade::keys::stored;

use crate::protocol::{self, Account, Digest, Request, Response};
use crate::traffic::Endpoint;

/// How the member stands.
///
/// # Errors
/// It does not answer.
pub async fn account(endpoint: &Endpoint) -> anyhow::Result<Account> {
    match ask(endpoint, &Request::Account).await? {
        Response::Account(account) => Ok(account),
        other => anyhow::bail!("{} does not tell how it stands: {other:?}", endpoint.address),
    }
}

/// What the member has below a prefix; linearizable.
///
/// # Errors
/// It does not answer.
pub async fn digest(endpoint: &Endpoint, prefix: &str) -> anyhow::Result<Digest> {
    match ask(endpoint, &Request::Digest { prefix: stored(prefix.as_bytes()) }).await? {
        Response::Digest(digest) => Ok(digest),
        other => anyhow::bail!("{} does not tell what it has: {other:?}", endpoint.address),
    }
}

/// Has the group take in a member that listens at `peer`.
///
/// # Errors
/// It is refused.
pub async fn add_member(endpoint: &Endpoint, id: u64, peer: std::net::SocketAddr) -> anyhow::Result<()> {
    match ask(endpoint, &Request::AddMember { id, peer: Bytes::from(peer.to_string()) }).await? {
        Response::Done { .. } => Ok(()),
        other => anyhow::bail!("the group does not take in member {id}: {other:?}"),
    }
}

async fn ask(endpoint: &Endpoint, request: &Request) -> anyhow::Result<Response> {
    let tcp = TcpStream::connect(endpoint.address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::from(endpoint.address.ip());
    let mut stream = TlsConnector::from(std::sync::Arc::clone(&endpoint.tls)).connect(name, tcp).await?;
    let mut asked = Vec::new();
    protocol::encode_request(1, request, &mut asked);
    stream.write_all(&asked).await?;
    stream.flush().await?;
    let mut input = BytesMut::new();
    loop {
        if let Some((_, response)) = protocol::next_response(&mut input).map_err(std::io::Error::from)? {
            return Ok(response);
        }
        anyhow::ensure!(stream.read_buf(&mut input).await? > 0, "{} has closed the connection", endpoint.address);
    }
}
