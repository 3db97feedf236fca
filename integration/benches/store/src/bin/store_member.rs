//! One member of the measured group: the store behind its native protocol.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use trierarch_etcd_facade::member::{MemberArgs, numbered};
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
    let args = Args::parse();
    let id = args.member.id;
    let address = args.native.iter().find(|(known, _)| *known == id).context("--native does not name this member")?.1;
    let listener = TcpListener::bind(address).await?;
    let tls = TlsAcceptor::from(args.member.identity().server(&[])?);
    let store = args.member.open().await?;
    member::serve(listener, tls, store).await?;
    Ok(())
}
