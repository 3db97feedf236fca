//! One member of the measured group: the store behind its native protocol, and behind etcd's API.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use trierarch_etcd_facade::member::{MemberArgs, numbered};
use trierarch_etcd_facade::server;
use trierarch_store_bench::member;

/// A member of the measured group.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    member: MemberArgs,
    /// All members and where they take native clients.
    #[arg(long, value_name = "N=HOST:PORT", value_delimiter = ',', required = true, value_parser = numbered)]
    native: Vec<(u64, SocketAddr)>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let Args { member: args, native } = Args::parse();
    let address = native.iter().find(|(known, _)| *known == args.id).context("--native does not name this member")?.1;
    let (native, grpc) = (TcpListener::bind(address).await?, TcpListener::bind(args.listen()?).await?);
    let identity = args.identity();
    let tls = TlsAcceptor::from(identity.server(&[])?);
    let store = args.open().await?;
    tokio::try_join!(
        async { Ok(member::serve(native, tls, store.clone()).await?) },
        server::serve(grpc, &identity, store.clone(), args.data_dir.clone())
    )?;
    Ok(())
}
