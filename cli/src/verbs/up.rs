//! `trierarch up`: a cluster on this machine.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use trierarch_client::{Client, Request, kubeconfig};
use trierarch_controlplane::identity::{Bundle, LeafRequest, pki};

use super::down::Take;
use crate::cluster::process::{Remembered, pid_file};
use crate::cluster::supervisor::{self, Order};
use crate::cluster::topology::{self, Machine, Topology, Wish};
use crate::quantity;

/// Less free space than this on the data directory's file system is refused.
const DISK_FREE_MIN_BYTES: u64 = 512 << 20;

/// Arguments of `up`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  trierarch up                          three masters and two nodes below /var/lib/trierarch
  trierarch up --masters 1 --nodes 1    the smallest cluster
  trierarch up --name test --data-dir /tmp/test --network 10.132.0.0 --port 7443
                                        a second cluster beside the first")]
pub struct Args {
    /// Name of the cluster: 1 to 6 lower case letters and digits
    #[arg(long, default_value = "main")]
    pub name: String,
    /// Where everything is kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// How many masters: 1, 3 or 5
    #[arg(long, default_value_t = 3)]
    pub masters: u8,
    /// How many nodes
    #[arg(long, default_value_t = 2)]
    pub nodes: u8,
    /// Network of masters and nodes, a /24
    #[arg(long, default_value_t = Ipv4Addr::new(10, 131, 0, 0))]
    pub network: Ipv4Addr,
    /// Port on 127.0.0.1 that leads to the masters
    #[arg(long, default_value_t = 6443, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// CPUs of each node, such as 2 or 500m [default: an equal share of the machine]
    #[arg(long, value_parser = quantity::cpu_millis)]
    pub node_cpus: Option<u64>,
    /// Memory of each node, such as 2Gi [default: an equal share of the machine]
    #[arg(long, value_parser = quantity::bytes)]
    pub node_memory: Option<u64>,
    /// Let the masters take experiments with elections: trierarch raft fault, trierarch raft timers
    #[arg(long)]
    pub experiments: bool,
    /// How many seconds to wait for masters and nodes
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
}

/// Builds and starts the cluster, waits until it is ready, and says how to use it.
///
/// # Errors
/// What is in the way, with what to do about it. Nothing is left running then.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("trierarch up needs root: it makes network namespaces, mounts and cgroups. Try: sudo trierarch up");
    }
    let started = now();
    let machine = machine()?;
    let data_dir = std::path::absolute(&args.data_dir)?;
    let wish = Wish {
        name: args.name.clone(),
        data_dir,
        masters: args.masters,
        nodes: args.nodes,
        network: args.network,
        port: args.port,
        node_cpu_millis: args.node_cpus,
        node_memory_bytes: args.node_memory,
    };
    let topology = Topology { experiments: args.experiments, ..topology::plan(&wish, machine)? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        check(&topology).await?;
        prepare(&topology)?;
        start(&topology)?;
        let ready = wait_until_ready(&topology, started, Duration::from_secs(args.timeout));
        let outcome = tokio::select! {
            outcome = ready => outcome,
            () = super::interrupted() => Err(super::Exit { code: 130, text: "interrupted".to_owned() }.into()),
        };
        if let Err(error) = outcome {
            eprintln!("Taking down what was started ...");
            super::down::take_down(&topology, Take { images: false, logs: false }).await?;
            return Err(error);
        }
        tell(&topology, started);
        Ok(())
    })
}

#[expect(clippy::disallowed_methods, reason = "the shell of a command: it tells its user how long things took")]
fn now() -> Instant {
    Instant::now()
}

/// What this machine has for nodes to share.
fn machine() -> anyhow::Result<Machine> {
    let cpus = std::thread::available_parallelism().context("cannot count CPUs")?.get();
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kibibytes: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .context("/proc/meminfo names no MemTotal")?;
    Ok(Machine { cpu_millis: cpus as u64 * 1000, memory_bytes: kibibytes << 10 })
}

/// Refuses what would fail later, with what to do about it.
pub async fn check(topology: &Topology) -> anyhow::Result<()> {
    if let Some(earlier) = crate::cluster::load(&topology.data_dir)? {
        let pid_file = pid_file(&earlier.run_dir(), "supervisor");
        if let Some(process) = Remembered::load(&pid_file).filter(Remembered::is_alive) {
            bail!(
                "cluster {:?} is up already in {} (supervisor {}). Use it with\n  export KUBECONFIG={}\nor end it with\n  trierarch down{}",
                earlier.name,
                topology.data_dir.display(),
                process.pid,
                earlier.kubeconfig().display(),
                data_dir_option(&topology.data_dir)
            );
        }
        eprintln!("Removing what an earlier cluster {:?} left behind ...", earlier.name);
        super::down::take_down(&earlier, Take { images: false, logs: true }).await?;
    }
    if std::net::TcpListener::bind(("127.0.0.1", topology.port)).is_err() {
        bail!("port {} on 127.0.0.1 is taken: choose another with --port", topology.port);
    }
    if Path::new("/sys/class/net").join(&topology.bridge).exists() {
        bail!("a link {} exists already: another cluster of this name runs from another directory; choose another --name", topology.bridge);
    }
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    if let Some(link) = link_into(&routes, topology.gateway) {
        let [a, b, c, _] = topology.gateway.octets();
        bail!("network {a}.{b}.{c}.0/24 is in use on this machine (link {link}): choose another with --network");
    }
    // the directory is not made yet: nothing stays of what is refused
    let existing = topology.data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let file_system = nix::sys::statvfs::statvfs(existing).with_context(|| format!("cannot look at {}", existing.display()))?;
    let free = file_system.blocks_available() * file_system.fragment_size();
    if free < DISK_FREE_MIN_BYTES {
        bail!(
            "{} has {} MiB free, {} MiB are needed: free some space or choose another --data-dir",
            topology.data_dir.display(),
            free >> 20,
            DISK_FREE_MIN_BYTES >> 20
        );
    }
    if which("nft").is_none() {
        bail!("the program nft is missing: install it (Debian: apt-get install nftables)");
    }
    Ok(())
}

/// The link that leads into the /24 of an address, by the text of `/proc/net/route` (`proc(5)`: numbers in hexadecimal, bytes swapped);
/// default routes lead anywhere and do not count.
fn link_into(routes: &str, address: Ipv4Addr) -> Option<&str> {
    let ours = u32::from(address) & 0xffff_ff00;
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|text| u32::from_str_radix(text, 16).ok()).map(u32::swap_bytes);
        let (destination, mask) = (number(1)?, number(7)?);
        let common = mask & 0xffff_ff00;
        (mask != 0 && destination & common == ours & common).then(|| fields[0])
    })
}

/// The option by which other verbs find this cluster; nothing when they find it by themselves.
fn data_dir_option(data_dir: &Path) -> String {
    match data_dir == Path::new(crate::DEFAULT_DATA_DIR) {
        true => String::new(),
        false => format!(" --data-dir {}", data_dir.display()),
    }
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Makes the cluster's secrets and files: the first master finds its bundle, the administrator his kubeconfig.
pub fn prepare(topology: &Topology) -> anyhow::Result<()> {
    std::fs::create_dir_all(&topology.data_dir).with_context(|| format!("cannot make {}", topology.data_dir.display()))?;
    let now = jiff::Timestamp::now();
    let first = topology.masters.first().context("a cluster has a master")?;
    let first_dir = topology.master_dir(first);
    // a master that lost its directory joins the others again
    let known = topology.masters.iter().find_map(|host| pki::load_bundle(&topology.master_dir(host)).transpose()).transpose()?;
    let bundle = match known {
        Some(bundle) => bundle,
        None => {
            let bundle = Bundle::create(now)?;
            pki::save_bundle(&first_dir, &bundle)?;
            bundle
        }
    };
    let token = bundle.token().context("the bundle's join token is damaged")?;
    for folder in ["log", "run", "images"] {
        std::fs::create_dir_all(topology.data_dir.join(folder))?;
    }
    let private = |name: &str, text: &str| {
        let path = topology.data_dir.join(name);
        pki::write_private(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    };
    private("token", &format!("{token}\n"))?;
    private("agent-token", &format!("{}\n", token.for_agents()))?;
    private("authority.pem", &bundle.cluster.certificate_pem)?;
    let admin = bundle.cluster.issue(&LeafRequest::client("kubernetes-admin", Some("system:masters")), now)?;
    private("kubeconfig", &kubeconfig_text(topology, &bundle, &admin.certificate_pem, &admin.key_pem)?)?;
    private("cluster.json", &serde_json::to_string_pretty(topology)?)
}

fn kubeconfig_text(topology: &Topology, bundle: &Bundle, certificate: &str, key: &str) -> anyhow::Result<String> {
    let name = format!("trierarch-{}", topology.name);
    let config = kubeconfig::KubeConfig {
        api_version: "v1".to_owned(),
        kind: "Config".to_owned(),
        clusters: vec![kubeconfig::NamedCluster {
            name: name.clone(),
            cluster: kubeconfig::Cluster {
                server: format!("https://127.0.0.1:{}", topology.port),
                certificate_authority_data: Some(STANDARD.encode(&bundle.cluster.certificate_pem)),
                ..kubeconfig::Cluster::default()
            },
        }],
        contexts: vec![kubeconfig::NamedContext {
            name: name.clone(),
            context: kubeconfig::Context { cluster: name.clone(), user: format!("{name}-admin"), namespace: None },
        }],
        current_context: name.clone(),
        users: vec![kubeconfig::NamedUser {
            name: format!("{name}-admin"),
            user: kubeconfig::User {
                client_certificate_data: Some(STANDARD.encode(certificate)),
                client_key_data: Some(STANDARD.encode(key)),
                ..kubeconfig::User::default()
            },
        }],
    };
    Ok(serde_yaml::to_string(&config)?)
}

/// Starts the supervisor; it outlives this command.
fn start(topology: &Topology) -> anyhow::Result<()> {
    let path = topology.log("supervisor");
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let child = Command::new(std::env::current_exe()?)
        .arg("supervise")
        .arg("--data-dir")
        .arg(&topology.data_dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the supervisor")?;
    let remembered = Remembered::of(child.id()).context("the supervisor ended at once")?;
    remembered.save(&pid_file(&topology.run_dir(), "supervisor"))?;
    Ok(())
}

/// Tells each step as it is reached; on a terminal the line is rewritten.
struct Progress {
    line: String,
    terminal: bool,
    started: Instant,
}

impl Progress {
    fn show(&mut self, text: String) {
        if text == self.line {
            return;
        }
        let seconds = now().duration_since(self.started).as_secs_f64();
        if self.terminal {
            eprint!("\r\x1b[K{seconds:6.1} s  {text}");
            let _shown = std::io::stderr().flush();
        } else {
            eprintln!("{seconds:6.1} s  {text}");
        }
        self.line = text;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && !self.line.is_empty() {
            eprintln!();
        }
    }
}

async fn wait_until_ready(topology: &Topology, started: Instant, patience: Duration) -> anyhow::Result<()> {
    use std::io::IsTerminal as _;
    let mut progress = Progress { line: String::new(), terminal: std::io::stderr().is_terminal(), started };
    let paths = [topology.kubeconfig()];
    let (client, _) = kubeconfig::client(&paths, None, "trierarch-up")?;
    let supervisor = Remembered::load(&pid_file(&topology.run_dir(), "supervisor")).context("the supervisor ended at once")?;
    let mut seen = "no master answers".to_owned();
    let ready = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            if !supervisor.is_alive() {
                bail!("the supervisor ended; see {}", topology.log("supervisor").display());
            }
            let (text, done) = look(&client, topology).await;
            progress.show(text.clone());
            seen = text;
            if done {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(patience, ready).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            bail!("not ready after {} s: {seen}; the logs are in {}", patience.as_secs(), topology.data_dir.join("log").display())
        }
    }
}

/// What is ready by now, and whether that is everything.
async fn look(client: &Client, topology: &Topology) -> (String, bool) {
    let brief = Request { timeout: Some(Duration::from_secs(2)), ..Request::get("/readyz") };
    if !client.raw(brief).await.is_ok_and(|answer| answer.status.is_success()) {
        return ("waiting for a master".to_owned(), false);
    }
    let members = members(client).await;
    let nodes: Value = client.get("/api/v1/nodes").await.unwrap_or_default();
    let ready = nodes["items"].as_array().into_iter().flatten().filter(|node| is_ready(node)).count();
    let text = format!("masters: {members} of {} in quorum, nodes: {ready} of {} ready", topology.masters.len(), topology.nodes.len());
    (text, members >= topology.masters.len() && ready >= topology.nodes.len())
}

async fn members(client: &Client) -> usize {
    let status: Value = client.get("/raft/v1/status").await.unwrap_or_default();
    status["members"].as_array().into_iter().flatten().filter(|member| member["role"] == "Voter").count()
}

fn is_ready(node: &Value) -> bool {
    node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn tell(topology: &Topology, started: Instant) {
    let masters: Vec<String> = topology.masters.iter().map(|host| format!("{} {}", host.name, host.address)).collect();
    let nodes: Vec<String> = topology.nodes.iter().map(|host| format!("{} {}", host.name, host.address)).collect();
    println!(
        "Cluster {:?} is up after {:.1} s.

  masters     {}
  nodes       {}   ({} CPU, {} MiB each)
  API         https://127.0.0.1:{} leads to the masters that live
  kubeconfig  {}
  logs        {}

Next:
{remember}  export KUBECONFIG=$({program} kubeconfig)
  kubectl get nodes -o wide
  {program} build -t shop:1 docs/demo/shop && {program} push shop:1
  kubectl apply -f docs/demo/shop/      see docs/demo/shop/README.md
  {program} raft status
  {program} down",
        topology.name,
        now().duration_since(started).as_secs_f64(),
        masters.join(", "),
        nodes.join(", "),
        quantity::show_cpu(topology.node_cpu_millis),
        topology.node_memory_bytes >> 20,
        topology.port,
        topology.kubeconfig().display(),
        topology.data_dir.join("log").display(),
        // the script that builds the program says how it was called itself
        program = std::env::var("TRIERARCH_CALLED_AS").as_deref().unwrap_or("trierarch"),
        remember = match topology.data_dir == Path::new(crate::DEFAULT_DATA_DIR) {
            true => String::new(),
            false => format!("  export TRIERARCH_DATA_DIR={}\n", topology.data_dir.display()),
        },
    );
}

/// The supervisor's answer to an order, for verbs that need it running.
///
/// # Errors
/// When no cluster is up in `data_dir`, or the order failed.
pub async fn order(data_dir: &Path, order: &Order) -> anyhow::Result<supervisor::Report> {
    let topology = crate::cluster::load(data_dir)?
        .with_context(|| format!("no cluster is up in {}: start one with trierarch up", data_dir.display()))?;
    supervisor::ask(&topology, order).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_is_in_use_is_found() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                      tri-a\t00008E0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                      vpn\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                      host\t0500630A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        for (address, link) in [
            ([10, 142, 0, 1], Some("tri-a")),
            ([10, 142, 1, 1], None),
            ([192, 168, 7, 1], Some("vpn")),
            ([10, 99, 0, 1], Some("host")),
            ([10, 131, 0, 1], None),
        ] {
            assert_eq!(link_into(routes, Ipv4Addr::from(address)), link, "{address:?}");
        }
    }
}
