//! `trierarch agent`: a node.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use trierarch_agent::AgentConfig;
use trierarch_agent::bootstrap::{Identity, Join};
use trierarch_client::JoinToken;
use trierarch_images::{Auth, Mirror};

/// Arguments of `agent`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name of this node [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// The node's address
    #[arg(long)]
    pub address: Ipv4Addr,
    /// Where pods and keys are kept
    #[arg(long, default_value = "/var/lib/trierarch/agent")]
    pub data_dir: PathBuf,
    /// Where images are kept [default: images in the data directory]
    #[arg(long)]
    pub images_dir: Option<PathBuf>,
    /// A master (may be given several times)
    #[arg(long, required = true)]
    pub join: Vec<String>,
    /// The agent join token; not needed once the node has joined
    #[arg(long, env = "TRIERARCH_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds it
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// The cgroup below which pods run
    #[arg(long, default_value = "trierarch/node")]
    pub cgroup_parent: String,
    /// CPUs that the node offers, in thousandths [default: the machine's]
    #[arg(long)]
    pub cpu_millis: Option<u64>,
    /// Memory that the node offers, in bytes [default: the machine's]
    #[arg(long)]
    pub memory_bytes: Option<u64>,
}

/// The join token of an option or a file.
///
/// # Errors
/// When the file cannot be read or holds no token.
pub fn token(text: Option<&str>, file: Option<&Path>) -> anyhow::Result<Option<JoinToken>> {
    let text = match (text, file) {
        (Some(text), _) => Some(text.to_owned()),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        },
        (None, None) => None,
    };
    Ok(text.map(|text| text.parse()).transpose()?)
}

/// Runs the node until SIGTERM. Pods go on without it.
///
/// # Errors
/// What keeps it from starting.
pub fn run(args: Args) -> anyhow::Result<()> {
    let name = match args.name {
        Some(name) => name,
        None => nix::unistd::gethostname().context("cannot read the host name")?.to_string_lossy().into_owned(),
    };
    let join = Join {
        node_name: name.clone(),
        addresses: vec![IpAddr::V4(args.address)],
        servers: args.join.clone(),
        token: token(args.token.as_deref(), args.token_file.as_deref())?,
        pki_dir: args.data_dir.join("pki"),
        user_agent: concat!("trierarch-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    actix_rt::System::new().block_on(async move {
        let identity = Identity::obtain(join).await?;
        let mut config = AgentConfig::new(
            &name,
            args.address,
            identity.client.clone(),
            Arc::clone(&identity.serving) as _,
            identity.authority_pem.clone().into_bytes(),
        );
        // they hold what was pushed and imported, under whatever name; a name's own registry is asked after them
        let mirror =
            |url: &String| Mirror { url: url.clone(), auth: Auth::Anonymous, ca_pem: Some(identity.authority_pem.clone().into_bytes()) };
        config.registries.mirrors = args.join.iter().map(mirror).collect();
        config.images_dir = args.images_dir.unwrap_or_else(|| args.data_dir.join("images"));
        config.data_dir = args.data_dir;
        config.cgroup_parent = args.cgroup_parent;
        config.cpu_millis = args.cpu_millis.and_then(|millis| i64::try_from(millis).ok());
        config.memory_bytes = args.memory_bytes.and_then(|bytes| i64::try_from(bytes).ok());
        actix_rt::spawn(identity.clone().keep_client_certificate());
        actix_rt::spawn(identity.keep_serving_certificate());
        let shutdown = async {
            use tokio::signal::unix::{SignalKind, signal};
            match signal(SignalKind::terminate()) {
                Ok(mut terminate) => {
                    terminate.recv().await;
                }
                Err(error) => tracing::error!(%error, "Cannot receive signals"),
            }
        };
        trierarch_agent::run(config, shutdown).await?;
        Ok(())
    })
}
