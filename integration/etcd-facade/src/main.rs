//! One member of a store that speaks etcd's API, or the certificates of a group.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use trierarch_etcd_facade::member::MemberArgs;
use trierarch_etcd_facade::server;
use trierarch_etcd_facade::tls::Identity;

/// A store that speaks etcd's v3 API, for tests.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs one member.
    Serve(MemberArgs),
    /// Makes the certificates of a group: ca.pem, member.pem and member.key.
    Identity {
        /// Where they go.
        directory: PathBuf,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    match Args::parse().verb {
        Verb::Serve(member) => {
            let listener = TcpListener::bind(member.listen()?).await?;
            let store = member.open().await?;
            let served = server::serve(listener, &member.identity(), store.clone(), member.data_dir).await;
            store.close().await;
            served
        }
        Verb::Identity { directory } => {
            std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
            Identity::make(&directory).map(drop)
        }
    }
}
