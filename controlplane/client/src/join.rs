//! First contact: the authority of a cluster, fetched from a server that nothing vouches for yet, and checked against the token's pin.

use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, Config, Error, Request};
use crate::tls;
use crate::token::JoinToken;

/// Where masters publish their authority, as PEM, to anyone.
pub const AUTHORITY_PATH: &str = "/trierarch/v1/authority";

/// The PEM of the cluster's authority, which is the one that the token pins.
///
/// # Errors
/// [`Error::Transport`] when no server answers (worth retrying), [`Error::Config`] when the authority is not the pinned one: then the
/// server is of another cluster, or someone sits in between.
pub async fn fetch_authority(servers: &[String], token: &JoinToken) -> Result<String, Error> {
    let client = Client::new(Config {
        servers: servers.to_vec(),
        tls: Arc::new(tls::insecure(None).map_err(|e| Error::Config(e.to_string()))?),
        token: None,
        user_agent: "trierarch-join".to_owned(),
        timeout: Duration::from_secs(5),
    })?;
    let answer = client.request(Request::get(AUTHORITY_PATH)).await?;
    let pem = String::from_utf8(answer.body.to_vec()).map_err(|e| Error::Decode(e.to_string()))?;
    let certificates = tls::certificates(&pem).map_err(|e| Error::Decode(e.to_string()))?;
    match certificates.as_slice() {
        [authority] if token.pins(authority) => Ok(pem),
        _ => Err(Error::Config(format!("the authority of {} is not the one that the join token pins", client.server()))),
    }
}
