//! Upgraded connections (exec, attach, port-forward): a WebSocket over a TLS connection of its own.

use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use trierarch_api::ApiError;

use crate::client::{Client, Error};

/// A WebSocket to a master.
pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// One frame of it.
pub type Frame = Message;

impl Client {
    /// Opens a WebSocket at a path with one of these sub-protocols, preferred first; returns it with the chosen one.
    ///
    /// # Errors
    /// [`Error::Api`] when the server refuses the upgrade, [`Error::Transport`] when it does not answer.
    pub async fn websocket(&self, path: &str, protocols: &[&str]) -> Result<(Socket, String), Error> {
        let mut last = None;
        for _ in 0..self.config().servers.len() {
            let server = self.server().to_owned();
            match self.websocket_at(&server, path, protocols).await {
                Err(Error::Transport { server, reason, unsent: true }) => {
                    self.next_server();
                    last = Some(Error::Transport { server, reason, unsent: true });
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::Config("no server address".to_owned())))
    }

    async fn websocket_at(&self, server: &str, path: &str, protocols: &[&str]) -> Result<(Socket, String), Error> {
        let lost = |unsent: bool, reason: String| Error::Transport { server: server.to_owned(), reason, unsent };
        let url: http::Uri = server.parse().map_err(|e: http::uri::InvalidUri| Error::Config(e.to_string()))?;
        let host = url.host().ok_or_else(|| Error::Config(format!("no host in {server}")))?.trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().unwrap_or(443);
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| lost(true, e.to_string()))?;
        // exec is made of small frames that must not wait for each other
        stream.set_nodelay(true).map_err(|e| lost(true, e.to_string()))?;
        let mut tls = (*self.config().tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(host.clone()).map_err(|e| Error::Config(e.to_string()))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(|e| lost(true, e.to_string()))?;
        let mut request = format!("wss://{}{path}", url.authority().map_or("", |a| a.as_str()))
            .into_client_request()
            .map_err(|e| Error::Config(e.to_string()))?;
        let headers = request.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|e| Error::Config(e.to_string()));
        headers.insert("Sec-WebSocket-Protocol", value(&protocols.join(", "))?);
        headers.insert("User-Agent", value(&self.config().user_agent)?);
        if let Some(token) = self.config().token.as_ref().and_then(|source| source()) {
            headers.insert("Authorization", value(&format!("Bearer {token}"))?);
        }
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, response)) => {
                let chosen = response.headers().get("Sec-WebSocket-Protocol").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
                Ok((socket, chosen))
            }
            Err(SocketError::Http(response)) => {
                let code = response.status().as_u16();
                let body = response.into_body().unwrap_or_default();
                let status = serde_json::from_slice(&body).unwrap_or_default();
                let mut error = ApiError::from_status(&status, code);
                if error.message.is_empty() {
                    error.message = String::from_utf8_lossy(&body).trim().to_owned();
                }
                Err(Error::Api(error))
            }
            Err(error) => Err(lost(false, error.to_string())),
        }
    }
}
