//! Sockets: TLS, the connection's identity, and the fork between upgrades and everything else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Protocol};
use actix_service::{ServiceFactoryExt as _, fn_service, map_config};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Server, ServerHandle as ActixHandle, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{App, HttpMessage as _, web};
use bytes::BytesMut;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use trierarch_api::Registry;
use trierarch_raft::Store;

use crate::apiserver::{ApiServer, SetupError};
use crate::authenticate::{Peer, x509};
use crate::clock;
use crate::config::Config;
use crate::proxy::io::{Rewound, read_head};
use crate::proxy::upgrade::{self, Head};
use crate::routes;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be open before it says anything.
const FIRST_HEAD: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(120);
const DRAIN_SECONDS: u64 = 5;

/// A running server.
pub struct ServerHandle {
    api: Arc<ApiServer>,
    addresses: Vec<SocketAddr>,
    actix: ActixHandle,
    task: tokio::task::JoinHandle<io::Result<()>>,
}

impl ServerHandle {
    /// The API behind it.
    pub fn api(&self) -> &Arc<ApiServer> {
        &self.api
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ends watches and streams, lets requests finish for a few seconds, closes.
    pub async fn stop(self) {
        self.api.stopping.cancel();
        self.actix.stop(true).await;
        if let Ok(Err(error)) = self.task.await {
            tracing::warn!(error = %error, "Stopped serving with an error");
        }
    }
}

/// A connection after its handshake; what was read to look at the first head comes again.
type Io = Rewound<TlsStream<TcpStream>>;

/// Begins to serve.
///
/// # Errors
/// [`SetupError`] for unusable keys, certificates and sockets.
pub fn serve(config: Config, store: Store, registry: Arc<Registry>) -> Result<ServerHandle, SetupError> {
    let workers = config.settings.workers.max(1);
    let api = ApiServer::new(config.settings, store, registry)?;
    let mut addresses = Vec::new();
    let mut builder = Server::build().workers(workers).disable_signals().shutdown_timeout(DRAIN_SECONDS);
    for listener in &config.listeners {
        let listener = listener.try_clone()?;
        addresses.push(listener.local_addr()?);
        let (api, tls, extra) = (Arc::clone(&api), Arc::clone(&config.tls), config.extra.clone());
        builder = builder.listen("api", listener, move || {
            let (accept_api, accept_tls) = (Arc::clone(&api), Arc::clone(&tls));
            let (app_api, peer_api, extra) = (Arc::clone(&api), Arc::clone(&api), extra.clone());
            let app = App::new()
                .app_data(web::Data::new(Arc::clone(&app_api)))
                .wrap(actix_web::middleware::from_fn(guard))
                .configure(|routes| {
                    if let Some(extra) = &extra {
                        extra(routes, &app_api);
                    }
                })
                .default_service(web::to(routes::serve));
            let http = HttpService::build()
                .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
                .client_request_timeout(FIRST_HEAD)
                .client_disconnect_timeout(Duration::from_secs(1))
                .on_connect_ext(move |io: &Io, extensions| {
                    extensions.insert(peer_of(&peer_api, io.get_ref()));
                })
                .finish(map_config(app, |()| AppConfig::default()));
            fn_service(move |tcp: TcpStream| {
                let (api, tls) = (Arc::clone(&accept_api), accept_tls.load_full());
                async move { accept(api, tls, tcp).await }
            })
            .and_then(http)
        })?;
    }
    let server = builder.run();
    let actix = server.handle();
    let task = tokio::spawn(server);
    Ok(ServerHandle { api, addresses, actix, task })
}

/// Who is at the other end, as far as the handshake proved it.
fn peer_of(api: &ApiServer, stream: &TlsStream<TcpStream>) -> Arc<Peer> {
    let (tcp, tls) = stream.get_ref();
    let mut peer = api.authorities.peer(tls.peer_certificates().unwrap_or_default(), clock::now());
    peer.address = tcp.peer_addr().ok();
    Arc::new(peer)
}

/// Shakes hands. Upgrades are served right here; everything else goes on to the HTTP library.
async fn accept(
    api: Arc<ApiServer>,
    tls: Arc<rustls::ServerConfig>,
    tcp: TcpStream,
) -> Result<(Io, Protocol, Option<SocketAddr>), DispatchError> {
    let address = tcp.peer_addr().ok();
    tcp.set_nodelay(true).map_err(DispatchError::Io)?;
    let handshake = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(tcp));
    let mut stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "Failed a TLS handshake");
            return Err(DispatchError::Io(error));
        }
        Err(_elapsed) => return Err(DispatchError::SlowRequestTimeout),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        return Ok((Rewound::new(BytesMut::new(), stream), Protocol::Http2, address));
    }
    let read = tokio::time::timeout(FIRST_HEAD, read_head(&mut stream)).await;
    let Some((length, mut buffer)) = read.map_err(|_elapsed| DispatchError::SlowRequestTimeout)?.map_err(DispatchError::Io)? else {
        return Err(DispatchError::DisconnectTimeout);
    };
    if let Some(head) = Head::parse(&buffer[..length]).filter(Head::upgrades) {
        let peer = peer_of(&api, &stream);
        let rest = buffer.split_off(length);
        upgrade::serve(api, peer, head, rest, stream).await;
        // served: there is nothing left for the HTTP library
        return Err(DispatchError::DisconnectTimeout);
    }
    Ok((Rewound::new(buffer, stream), Protocol::Http1, address))
}

/// Guards the extra routes that are the API's own.
async fn guard(request: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    if routes::guarded(request.path())
        && let Some(api) = request.app_data::<web::Data<Arc<ApiServer>>>().cloned()
    {
        match api.require_nonresource(request.request()) {
            // for handlers that log who asked
            Ok(user) => {
                request.extensions_mut().insert(user);
            }
            Err(error) => return Ok(request.into_response(routes::refuse(&error))),
        }
    }
    next.call(request).await.map(ServiceResponse::map_into_boxed_body)
}

/// A TLS configuration that asks for client certificates of these authorities, but does not insist.
///
/// # Errors
/// For certificates and keys that are unusable or do not belong together.
pub fn tls_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: &[CertificateDer<'static>],
) -> Result<rustls::ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = match x509::asking(authorities)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate or key.
    #[error("certificate and key do not serve")]
    Certificate(#[from] rustls::Error),
    /// Client authorities.
    #[error(transparent)]
    Authority(#[from] x509::AuthorityError),
}
