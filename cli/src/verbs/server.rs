//! `trierarch server`: a master.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use trierarch_controlplane::master::{self, MasterConfig, Start};

/// Arguments of `server`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  trierarch server --init                                    the first master of a new cluster; prints how others join
  trierarch server --join https://10.0.0.1:6443 --token-file t
                                                             one more master")]
pub struct Args {
    /// Name of this master [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Where its store and keys are kept
    #[arg(long, default_value = "/var/lib/trierarch/server")]
    pub data_dir: PathBuf,
    /// Where images are kept [default: images in the data directory]
    #[arg(long)]
    pub images_dir: Option<PathBuf>,
    /// Where the API listens
    #[arg(long, default_value = "0.0.0.0:6443")]
    pub listen: SocketAddr,
    /// Where other masters are heard
    #[arg(long, default_value = "0.0.0.0:6444")]
    pub peer_listen: SocketAddr,
    /// The address that others are told, if it is not the one listened on
    #[arg(long)]
    pub advertise: Option<IpAddr>,
    /// Further addresses that the server's certificate names
    #[arg(long = "san")]
    pub sans: Vec<IpAddr>,
    /// Begin a new cluster
    #[arg(long, conflicts_with = "join")]
    pub init: bool,
    /// Join the cluster of this master (may be given several times)
    #[arg(long)]
    pub join: Vec<String>,
    /// The server join token
    #[arg(long, env = "TRIERARCH_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds it
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// Addresses of pods
    #[arg(long, default_value = "10.244.0.0/16")]
    pub pod_cidr: String,
    /// Addresses of Services
    #[arg(long, default_value = "10.96.0.0/16")]
    pub service_cidr: String,
    /// Name of the cluster in DNS
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Seconds that the certificates which this master issues to itself are valid; it renews them after two thirds of that
    #[arg(long, env = "TRIERARCH_CERTIFICATE_SECONDS", default_value_t = 365 * 24 * 3600, value_parser = clap::value_parser!(u32).range(10..))]
    pub certificate_seconds: u32,
    /// Milliseconds of silence after which a node counts as lost
    #[arg(long, default_value_t = 2500)]
    pub node_grace_ms: u64,
    /// Seconds that pods stay bound to a lost node, unless they tolerate it for another time
    #[arg(long, default_value_t = 5)]
    pub toleration_seconds: i64,
    /// How long old versions are kept, for watches that resume and reads of the past
    #[arg(long, default_value = "1h", value_parser = crate::kubectl::duration::parse)]
    pub history_retention: Duration,
    /// How much of them is kept
    #[arg(long, default_value = "256Mi", value_parser = crate::quantity::bytes)]
    pub history_size: u64,
    /// Take experiments with elections: trierarch raft fault, trierarch raft timers
    #[arg(long)]
    pub experiments: bool,
    /// Take a snapshot of the store, and purge its log, after so many entries [default: 10000]
    #[arg(long, hide = true, requires = "experiments", value_parser = clap::value_parser!(u64).range(10..))]
    pub snapshot_after_entries: Option<u64>,
}

/// Runs the master until SIGTERM.
///
/// # Errors
/// What is in the way.
pub fn run(args: Args) -> anyhow::Result<()> {
    let name = match args.name {
        Some(name) => name,
        None => nix::unistd::gethostname().context("cannot read the host name")?.to_string_lossy().into_owned(),
    };
    let advertise = match (args.advertise, args.listen.ip()) {
        (Some(address), _) => address,
        (None, address) if !address.is_unspecified() => address,
        (None, _) => bail!("give --advertise, or a --listen address that others can reach"),
    };
    let token = super::agent::token(args.token.as_deref(), args.token_file.as_deref())?;
    let start = match (args.init, args.join.is_empty(), token) {
        (true, ..) => Start::Init,
        (false, false, Some(token)) => Start::Join { servers: args.join, token },
        (false, false, None) => bail!("joining needs the cluster's server token: give --token-file"),
        (false, true, _) => Start::Resume,
    };
    master::run(MasterConfig {
        name,
        images_dir: args.images_dir.unwrap_or_else(|| args.data_dir.join("images")),
        data_dir: args.data_dir,
        listen: args.listen,
        peer_listen: args.peer_listen,
        advertise,
        sans: args.sans,
        start,
        pod_cidr: cidr(&args.pod_cidr)?,
        service_cidr: cidr(&args.service_cidr)?,
        cluster_domain: args.cluster_domain,
        certificate_lifetime: Duration::from_secs(args.certificate_seconds.into()),
        node_grace: Duration::from_millis(args.node_grace_ms),
        toleration_seconds: args.toleration_seconds,
        history_retention: args.history_retention,
        history_bytes_max: args.history_size,
        experiments: args.experiments,
        snapshot_after_entries: args.snapshot_after_entries,
    })
}

fn cidr(text: &str) -> anyhow::Result<(Ipv4Addr, u8)> {
    let parsed =
        text.split_once('/').and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok().filter(|n| *n <= 32)?)));
    parsed.with_context(|| format!("{text:?} is no network: write 10.244.0.0/16"))
}
