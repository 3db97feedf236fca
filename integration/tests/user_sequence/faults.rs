//! What dies, and what nobody may notice.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use trierarch_integration::cluster::{Cluster, succeed};
use trierarch_integration::traffic::Traffic;
use trierarch_integration::wait::{now, until};
use trierarch_integration::watching::Watching;

use crate::shop::{is_ready, pods, ready_pods, text};
use crate::{NODES, PATIENCE, World, two_nodes_are_ready};

/// A lost node's pods must run elsewhere after 10 s. Three times that is allowed here, because the machine does other things too.
const REPLACEMENT_MAX: Duration = Duration::from_secs(30);
/// How many requests say that clients are served.
const ENOUGH: u64 = 20;

fn traffic(world: &World) -> Result<&Traffic> {
    world.traffic.as_ref().context("the clients do not run")
}

pub(crate) fn no_request_was_dropped(world: &mut World) -> Result<()> {
    let traffic = traffic(world)?;
    for node in NODES {
        traffic.goes_on(&world.cluster, node, ENOUGH, PATIENCE)?;
        let counts = traffic.counts(&world.cluster, node)?;
        ensure!(counts.failed() == 0, "on {node}: {counts:?}\n{}", traffic.failures(&world.cluster, node));
    }
    Ok(())
}

/// Processes by a part of their command line, with their start times: a number that is used again is another process.
fn processes(part: &str) -> Result<BTreeSet<(i32, u64)>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if command.contains(part)
            && let Some(started) = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        {
            found.insert((pid, started));
        }
    }
    Ok(found)
}

/// Processes that are in the cgroup of one of this cluster's containers.
fn in_this_cluster(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&format!("/trierarch/{}/", crate::NAME)))
}

fn agents(cluster: &Cluster) -> Result<BTreeSet<(i32, u64)>> {
    let own = cluster.data_dir().join("nodes").to_string_lossy().into_owned();
    let is_agent =
        |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split('\0').nth(1) == Some("agent"));
    Ok(processes(&own)?.into_iter().filter(|(pid, _)| is_agent(*pid)).collect())
}

/// The servers of the pods. A web server's child serves one connection and ends; it is none of them.
fn servers() -> Result<BTreeSet<(i32, u64)>> {
    let web = processes("httpd\0-f")?;
    let is_child = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<i32>().ok());
        parent.is_none_or(|parent| web.iter().any(|(pid, _)| *pid == parent))
    };
    let mut all = processes("redis-server")?;
    all.extend(web.iter().filter(|(pid, _)| !is_child(*pid)));
    Ok(all.into_iter().filter(|(pid, _)| in_this_cluster(*pid)).collect())
}

pub(crate) fn killed_agents_find_their_containers(world: &mut World) -> Result<()> {
    let cluster = &world.cluster;
    until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    let traffic = traffic(world)?;
    let failures = |node| -> Result<u64> { Ok(traffic.counts(cluster, node)?.by_address_failed) };
    let failed_before = [failures(NODES[0])?, failures(NODES[1])?];
    let servers_before = servers()?;
    ensure!(servers_before.len() >= 4, "the servers are {servers_before:?}");
    let before = agents(cluster)?;
    ensure!(before.len() == 2, "the agents are {before:?}");
    for (pid, _) in &before {
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    until("both agents again", PATIENCE, || {
        let now = agents(cluster)?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
        Ok(())
    })?;
    let (_, took) = until("exec through the new agents", PATIENCE, || {
        for pod in pods(cluster, "app=shop")? {
            cluster.kubectl(&["exec", text(&pod, "/metadata/name"), "-c", "web", "--", "true"])?;
        }
        Ok(())
    })?;
    println!("     the new agents served what the old ones had started after {took:.1?}");
    ensure!(servers_before.is_subset(&servers()?), "the containers are other processes now");
    let (ready, _) = until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    for pod in ready {
        let restarts = pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_i64);
        ensure!(restarts == Some(0), "a container was started again: {restarts:?}");
    }
    // names are answered by the agent, so for a moment only addresses lead to the shop; after it, both
    for (node, before) in NODES.into_iter().zip(failed_before) {
        traffic.goes_on(cluster, node, ENOUGH, PATIENCE)?;
        let after = failures(node)?;
        ensure!(after == before, "{} requests by address failed on {node}", after - before);
    }
    Ok(())
}

/// How many connections the forwarder of `up` holds to a master.
fn connections_to(master: Ipv4Addr) -> Result<usize> {
    // `Spec:` Documentation/networking/proc_net_tcp: addresses as the machine's own hexadecimal, state 01 is ESTABLISHED
    let address = format!("{:08X}:{:04X}", u32::from_ne_bytes(master.octets()), 6443);
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    Ok(table
        .lines()
        .filter(|line| line.split_whitespace().nth(2) == Some(&address) && line.split_whitespace().nth(3) == Some("01"))
        .count())
}

fn address_of(master: &str) -> Result<Ipv4Addr> {
    let number: u8 = master.strip_prefix('m').and_then(|digits| digits.parse().ok()).context("masters are m1, m2, ...")?;
    let [a, b, c, _] = crate::NETWORK.parse::<Ipv4Addr>()?.octets();
    Ok(Ipv4Addr::new(a, b, c, 10 + number))
}

/// Watches until one of them is connected to this master: the forwarder takes the masters in turn.
fn watch_through(cluster: &Cluster, master: &str, label: &str) -> Result<Vec<Watching>> {
    let address = address_of(master)?;
    let mut watches = Vec::new();
    let (watches, _) = until("a watch through the leader", PATIENCE, || {
        let before = connections_to(address)?;
        let watch = Watching::config_maps(&cluster.kubeconfig(), label)?;
        until("the watch's first list", PATIENCE, || {
            ensure!(watch.lists() == 1, "{} lists", watch.lists());
            Ok(())
        })?;
        watches.push(watch);
        let after = connections_to(address)?;
        ensure!(after > before, "{} watches, none through {master}", watches.len());
        Ok(std::mem::take(&mut watches))
    })?;
    Ok(watches)
}

/// A client that writes without pause, with the real kubectl, and notes what was acknowledged when.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(String, Instant)>>,
    acknowledged: Arc<std::sync::Mutex<usize>>,
}

impl Writer {
    fn start(cluster: &Cluster, label: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(std::sync::Mutex::new(0));
        let (stopped, counter, label) = (Arc::clone(&stop), Arc::clone(&acknowledged), label.to_owned());
        let manifest = move |name: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"run": label}}}).to_string()
        };
        let client = cluster.client();
        let thread = std::thread::spawn(move || {
            let mut written = Vec::new();
            let mut attempts = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                let name = format!("write-{attempts}-{}", written.len());
                match client.create_text(&manifest(&name)) {
                    Ok(_) => {
                        written.push((name, now()));
                        *counter.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = written.len();
                    }
                    // unknown outcome or refused: the next attempt has a name of its own
                    Err(_) => attempts += 1,
                }
            }
            written
        });
        Self { stop, thread, acknowledged }
    }

    fn count(&self) -> usize {
        *self.acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn finish(self) -> Result<Vec<(String, Instant)>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_panic| anyhow::anyhow!("the writer panicked"))
    }
}

pub(crate) fn leader_is_killed(world: &mut World, round: u32) -> Result<()> {
    let cluster = &world.cluster;
    let (leader, _) = until("a leader", PATIENCE, || cluster.leader())?;
    let pid = cluster.pid(&leader)?;
    let label = format!("kill-{round}");
    let mut before = Vec::new();
    for node in NODES {
        before.push(traffic(world)?.counts(cluster, node)?);
    }
    let watches = watch_through(cluster, &leader, &label)?;
    let writer = Writer::start(cluster, &label);
    let more_writes = |count: usize| {
        let from = writer.count();
        until("further writes", PATIENCE, || {
            ensure!(writer.count() >= from + count, "{} writes were acknowledged, {from} of them before", writer.count());
            Ok(())
        })
    };
    more_writes(3)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    more_writes(5)?;
    let written = writer.finish()?;
    let gap = written.windows(2).map(|pair| pair[1].1 - pair[0].1).max().unwrap_or_default();
    println!("     {leader} was killed; {} writes, {} watches, longest gap between two writes {gap:.2?}", written.len(), watches.len());

    let stored = cluster.get(&["configmaps", "-l", &format!("run={label}")])?;
    let stored: BTreeSet<&str> = stored["items"].as_array().into_iter().flatten().map(|item| text(item, "/metadata/name")).collect();
    let acknowledged: BTreeSet<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    let lost: Vec<&&str> = acknowledged.difference(&stored).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    for watch in &watches {
        until("every write in the watch", PATIENCE, || {
            let seen = watch.seen();
            let missing: Vec<&&str> = stored.iter().filter(|name| !seen.contains(**name)).collect();
            ensure!(missing.is_empty(), "not seen: {missing:?}; errors: {:?}", watch.errors());
            Ok(())
        })?;
        ensure!(watch.lists() == 1, "a watch had to list again instead of resuming: {} lists, {:?}", watch.lists(), watch.errors());
    }
    // masters are not on the way of a request, and names are answered on the nodes
    for (node, before) in NODES.into_iter().zip(before) {
        let traffic = traffic(world)?;
        traffic.goes_on(cluster, node, ENOUGH, PATIENCE)?;
        let after = traffic.counts(cluster, node)?;
        ensure!(after.failed() == before.failed(), "{before:?} became {after:?} on {node}:\n{}", traffic.failures(cluster, node));
    }
    until("the killed master again", PATIENCE, || {
        let again = cluster.pid(&leader)?;
        ensure!(again != pid, "not yet");
        let status: Value = serde_json::from_str(&succeed(&mut cluster.trierarch(&["raft", "status", "-o", "json"]))?)?;
        ensure!(matches!(status[&leader]["role"].as_str(), Some("follower" | "leader")), "{}", status[&leader]);
        Ok(())
    })?;
    cluster.kubectl(&["delete", "configmaps", "-l", &format!("run={label}")])?;
    Ok(())
}

/// Stops node n2 and sees its pods replaced on n1.
fn node_is_lost(cluster: &Cluster, traffic: &Traffic) -> Result<()> {
    let before = traffic.counts(cluster, "n1")?;
    succeed(&mut cluster.trierarch(&["node", "stop", "n2"]))?;
    let (_, took) = until("3 shop pods on n1", PATIENCE, || {
        let ready = pods(cluster, "app=shop")?.into_iter().filter(|pod| is_ready(pod) && text(pod, "/spec/nodeName") == "n1").count();
        ensure!(ready == 3, "{ready} are ready on n1:\n{}", cluster.kubectl(&["get", "pods", "-o", "wide"])?);
        Ok(())
    })?;
    until("the second tier", PATIENCE, || {
        let found = pods(cluster, "app=redis")?.into_iter().any(|pod| is_ready(&pod) && text(&pod, "/spec/nodeName") == "n1");
        ensure!(found, "redis is not ready on n1");
        Ok(())
    })?;
    ensure!(took < REPLACEMENT_MAX, "the replacements took {took:.1?}");
    // the dead node's addresses are out of the Service now; a request that was sent there before has to end first
    traffic.goes_on(cluster, "n1", 2, PATIENCE)?;
    let settled = traffic.counts(cluster, "n1")?;
    let failed = settled.failed() - before.failed();
    println!("     all replicas ran on the other node after {took:.1?} (10 s is the aim); {failed} requests failed meanwhile");
    traffic.goes_on(cluster, "n1", ENOUGH, PATIENCE)?;
    let after = traffic.counts(cluster, "n1")?;
    ensure!(after.failed() == settled.failed(), "requests still fail: {settled:?}, then {after:?}:\n{}", traffic.failures(cluster, "n1"));
    let node = cluster.kubectl(&["get", "node", "n2", "--no-headers"])?;
    ensure!(node.contains("NotReady"), "{node}");
    Ok(())
}

pub(crate) fn stopped_node_is_replaced(world: &mut World) -> Result<()> {
    let cluster = &world.cluster;
    let traffic = traffic(world)?;
    // a pod that says how long it wants to wait for its node is left where it is
    let tolerations = ["not-ready", "unreachable"].map(
        |name| json!({"key": format!("node.kubernetes.io/{name}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3600}),
    );
    cluster.create(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stays", "labels": {"app": "stays"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "n2"},
            "tolerations": tolerations,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "shop:1", "command": ["sh", "-c", "grep -q olives /etc/shop/catalogue && exec sleep 100000"],
                "volumeMounts": [{"name": "catalogue", "mountPath": "/etc/shop"}, {"name": "memory", "mountPath": "/memory"}],
            }],
            "volumes": [{"name": "catalogue", "configMap": {"name": "catalogue"}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
        },
    }))?;
    let (stays, _) = until("the pod that stays", PATIENCE, || ready_pods(cluster, "app=stays", 1))?;
    let replaced = node_is_lost(cluster, traffic);
    // whatever happened, the later steps need both nodes
    succeed(&mut cluster.trierarch(&["node", "start", "n2"]))?;
    replaced?;
    until("n2 Ready", PATIENCE, || two_nodes_are_ready(cluster))?;
    until("3 shop pods and no other", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    until("the pod that stayed, started again", PATIENCE, || {
        let again = ready_pods(cluster, "app=stays", 1)?;
        ensure!(text(&again[0], "/metadata/uid") == text(&stays[0], "/metadata/uid"), "it is another pod");
        let restarts = again[0].pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_i64);
        ensure!(restarts.is_some_and(|count| count >= 1), "{}", again[0]["status"]);
        Ok(())
    })?;
    cluster.kubectl(&["delete", "pod", "stays"])?;
    Ok(())
}
