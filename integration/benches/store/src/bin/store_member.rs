//! One member of the measured group: the store behind its native protocol, and behind etcd's API. It ends orderly on SIGTERM.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use trierarch_etcd_facade::member::{MemberArgs, numbered};
use trierarch_etcd_facade::server;
use trierarch_store_bench::member;

/// As the program itself has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A member of the measured group.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    member: MemberArgs,
    /// All members and where they take native clients.
    #[arg(long, value_name = "N=HOST:PORT", value_delimiter = ',', required = true, value_parser = numbered)]
    native: Vec<(u64, SocketAddr)>,
    /// For how long history is kept; an hour by default.
    #[arg(long)]
    history_seconds: Option<u64>,
    /// How many bytes of it are kept; 256 MiB by default.
    #[arg(long)]
    history_bytes: Option<u64>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let Args { member: args, native, history_seconds, history_bytes } = Args::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    let address = native.iter().find(|(known, _)| *known == args.id).context("--native does not name this member")?.1;
    let (native, grpc) = (TcpListener::bind(address).await?, TcpListener::bind(args.listen()?).await?);
    let identity = args.identity();
    let tls = TlsAcceptor::from(identity.server(&[])?);
    let mut config = args.config()?;
    config.history_retention = history_seconds.map_or(config.history_retention, Duration::from_secs);
    config.history_bytes_max = history_bytes.unwrap_or(config.history_bytes_max);
    let store = args.open_as(config).await?;
    let serving = async {
        tokio::try_join!(
            async { Ok(member::serve(native, tls, store.clone()).await?) },
            server::serve(grpc, &identity, store.clone(), args.data_dir.clone())
        )
    };
    let ended = tokio::select! {
        served = serving => served.map(drop),
        _ = terminated.recv() => Ok(()),
    };
    store.close().await;
    ended
}
