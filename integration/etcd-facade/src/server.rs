//! The services of one member on the network.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity as ServerIdentity, Server, ServerTlsConfig};
use tonic::{Status, Streaming};
use trierarch_raft::Store;

use crate::facade::Facade;
use crate::leases::Leases;
use crate::messages::lease::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use crate::methods::Methods;
use crate::tls::Identity;
use crate::watch;

/// What a client may send before it hears that it was read.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Renewals of one stream that wait for the client.
const RENEWALS_MAX: usize = 16;

/// Serves etcd's API from `store` until the process ends.
///
/// # Errors
/// The certificates do not fit, or the listener fails.
pub async fn serve(listener: TcpListener, identity: &Identity, store: Store, data_dir: PathBuf) -> anyhow::Result<()> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let tls = ServerTlsConfig::new()
        .identity(ServerIdentity::from_pem(read(&identity.certificate)?, read(&identity.key)?))
        .client_ca_root(Certificate::from_pem(read(&identity.authority)?));
    let facade = Facade { store, leases: Arc::<Leases>::default(), data_dir };
    tokio::spawn(facade.clone().follow_leases());
    tokio::spawn(facade.clone().end_overdue_leases());
    let server = Server::builder()
        .tls_config(tls)?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true)
        .add_routes(Routes::from(methods(facade).into_router()));
    server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await?;
    Ok(())
}

fn methods(facade: Facade) -> Methods {
    Methods::new(facade)
        .unary("/etcdserverpb.KV/Range", |facade: Facade, request| async move { facade.range(request).await })
        .parts("/etcdserverpb.KV/RangeStream", |facade: Facade, request| async move { facade.range_stream(request).await })
        .unary("/etcdserverpb.KV/Put", |facade: Facade, request| async move { facade.put(request).await })
        .unary("/etcdserverpb.KV/DeleteRange", |facade: Facade, request| async move { facade.delete_range(request).await })
        .unary("/etcdserverpb.KV/Txn", |facade: Facade, request| async move { facade.txn(request).await })
        .unary("/etcdserverpb.KV/Compact", |facade: Facade, request| async move { facade.compact(request).await })
        .streaming("/etcdserverpb.Watch/Watch", watch::ANSWERS_MAX, watch::serve)
        .unary("/etcdserverpb.Lease/LeaseGrant", |facade: Facade, request| async move { facade.lease_grant(request).await })
        .unary("/etcdserverpb.Lease/LeaseRevoke", |facade: Facade, request| async move { facade.lease_revoke(request).await })
        .streaming("/etcdserverpb.Lease/LeaseKeepAlive", RENEWALS_MAX, keep_alive)
        .unary("/etcdserverpb.Lease/LeaseTimeToLive", |facade: Facade, request| async move { facade.lease_time_to_live(request).await })
        .unary("/etcdserverpb.Lease/LeaseLeases", |facade: Facade, request| async move { facade.lease_leases(request).await })
        .unary("/etcdserverpb.Cluster/MemberList", |facade: Facade, request| async move { facade.member_list(request).await })
        .unary("/etcdserverpb.Maintenance/Status", |facade: Facade, request| async move { facade.status(request).await })
        .unary("/etcdserverpb.Maintenance/Alarm", |facade: Facade, request| async move { facade.alarm(request).await })
}

async fn keep_alive(
    facade: Facade,
    mut asks: Streaming<LeaseKeepAliveRequest>,
    answers: mpsc::Sender<Result<LeaseKeepAliveResponse, Status>>,
) {
    while let Ok(Some(request)) = asks.message().await {
        let answer = facade.lease_keep_alive(request).await.map_err(Status::from);
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}
