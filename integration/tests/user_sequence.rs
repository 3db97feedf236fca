//! What a new user does, from `up` to `down`, with the real kubectl: each step is a test.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to people")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use trierarch_integration::cluster::{Cluster, binary, fail, succeed};
use trierarch_integration::steps::Steps;
use trierarch_integration::wait::until;

const NAME: &str = "ut";
const NETWORK: &str = "10.131.77.0";
const PORT: &str = "16643";
const PATIENCE: Duration = Duration::from_secs(60);

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/demo/shop")
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this test needs root: it makes network namespaces, mounts and cgroups");
        return ExitCode::FAILURE;
    }
    let folder = match tempfile::tempdir_in("/var/tmp") {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("cannot make a temporary directory: {error}");
            return ExitCode::FAILURE;
        }
    };
    let before = Traces::of_this_machine();
    let data_dir = folder.path().join("cluster");
    let started = Cluster::up(NAME, &data_dir, &["--network", NETWORK, "--port", PORT, "--node-cpus", "2", "--node-memory", "2Gi"]);
    let cluster = match started {
        Ok(cluster) => cluster,
        Err(error) => {
            println!("test up ... FAILED\n     {error:#}\ntest result: FAILED. 0 passed; 1 failed");
            return ExitCode::FAILURE;
        }
    };
    let mut steps = Steps::new(cluster);
    steps
        .step("two_nodes_are_ready", two_nodes_are_ready)
        .step("a_second_up_is_refused", a_second_up_is_refused)
        .step("the_shop_is_built_and_pushed", the_shop_is_built_and_pushed)
        .step("the_shop_runs_on_both_nodes", the_shop_runs_on_both_nodes)
        .step("both_containers_share_volume_and_localhost", both_containers_share_volume_and_localhost)
        .step("the_service_reaches_every_replica_from_both_nodes", the_service_reaches_every_replica)
        .step("logs_exec_and_describe", logs_exec_and_describe)
        .step("port_forward", port_forward)
        .step("scale_label_and_rollout", scale_label_and_rollout)
        .step("bad_input_is_refused_in_kubernetes_words", bad_input_is_refused)
        .step("a_killed_agent_finds_its_containers_again", a_killed_agent_finds_its_containers_again);
    for round in 1..=5 {
        steps.step(&format!("the_leader_is_killed_{round}_of_5"), the_leader_is_killed);
    }
    steps.step("a_stopped_node_is_replaced", a_stopped_node_is_replaced).step("down_leaves_nothing", move |cluster| {
        cluster.down()?;
        before.compare(&Traces::of_this_machine())
    });
    if std::env::var_os("TRIERARCH_KEEP_LOGS").is_some() {
        let _kept = folder.keep();
    }
    steps.finish()
}

fn two_nodes_are_ready(cluster: &mut Cluster) -> Result<()> {
    let table = cluster.kubectl(&["get", "nodes", "-o", "wide"])?;
    ensure!(table.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count() == 2, "{table}");
    for part in ["INTERNAL-IP", "CONTAINER-RUNTIME", "10.131.77.21", "10.131.77.22", "trierarch://", "v1.37.2"] {
        ensure!(table.contains(part), "{part} is missing in\n{table}");
    }
    Ok(())
}

fn a_second_up_is_refused(cluster: &mut Cluster) -> Result<()> {
    let error = fail(&mut cluster.trierarch(&["up", "--name", NAME]))?;
    ensure!(error.contains("is up already"), "{error}");
    two_nodes_are_ready(cluster)
}

fn the_shop_is_built_and_pushed(cluster: &mut Cluster) -> Result<()> {
    let demo = demo();
    succeed(&mut std::process::Command::new(demo.join("prepare")))?;
    let folder = demo.to_str().context("the path is text")?;
    succeed(&mut cluster.trierarch(&["image", "build", "-t", "shop:1", folder]))?;
    succeed(&mut cluster.trierarch(&["image", "push", "shop:1"]))?;
    let images = succeed(&mut cluster.trierarch(&["image", "ls"]))?;
    ensure!(images.contains("shop"), "{images}");
    Ok(())
}

fn pods(cluster: &Cluster, selector: &str) -> Result<Vec<Value>> {
    let list = cluster.get(&["pods", "-l", selector])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn ready_pods(cluster: &Cluster, selector: &str, count: usize) -> Result<Vec<Value>> {
    let found = pods(cluster, selector)?;
    let ready: Vec<Value> = found.iter().filter(|pod| is_ready(pod)).cloned().collect();
    if ready.len() != count || found.len() != count {
        bail!("{} of {} pods are ready:\n{}", ready.len(), found.len(), cluster.kubectl(&["get", "pods", "-o", "wide"])?);
    }
    Ok(ready)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn the_shop_runs_on_both_nodes(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl(&["apply", "-f", demo().to_str().context("the path is text")?])?;
    let (ready, _) = until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    until("the redis pod", PATIENCE, || ready_pods(cluster, "app=redis", 1))?;
    let mut nodes: Vec<&str> = ready.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
    let mut addresses: Vec<&str> = ready.iter().map(|pod| text(pod, "/status/podIP")).collect();
    nodes.sort_unstable();
    nodes.dedup();
    addresses.sort_unstable();
    addresses.dedup();
    ensure!(nodes == ["n1", "n2"], "the pods run on {nodes:?}");
    ensure!(addresses.len() == 3 && addresses.iter().all(|address| address.starts_with("10.244.")), "{addresses:?}");
    Ok(())
}

fn both_containers_share_volume_and_localhost(cluster: &mut Cluster) -> Result<()> {
    let pod = pods(cluster, "app=shop")?.first().map(|pod| text(pod, "/metadata/name").to_owned()).context("no pod")?;
    // written by one container, which asked the other by localhost, and read in the other
    let (stats, _) = until("the side container's report", PATIENCE, || {
        let stats = cluster.kubectl(&["exec", &pod, "-c", "web", "--", "cat", "/var/shop/stats"])?;
        ensure!(stats.contains("web ok"), "{stats}");
        Ok(stats)
    })?;
    ensure!(stats.contains("sold"), "{stats}");
    Ok(())
}

fn ask(cluster: &Cluster, pod: &str, path: &str) -> Result<String> {
    cluster.kubectl(&[
        "exec",
        pod,
        "-c",
        "stats",
        "--",
        "wget",
        "-q",
        "-T",
        "5",
        "-O",
        "-",
        &format!("http://shop.default.svc.cluster.local{path}"),
    ])
}

fn the_service_reaches_every_replica(cluster: &mut Cluster) -> Result<()> {
    let pods = pods(cluster, "app=shop")?;
    let names: Vec<&str> = pods.iter().map(|pod| text(pod, "/metadata/name")).collect();
    for node in ["n1", "n2"] {
        let from =
            pods.iter().find(|pod| text(pod, "/spec/nodeName") == node).map(|pod| text(pod, "/metadata/name")).context("no pod there")?;
        let mut seen = std::collections::BTreeSet::new();
        until("an answer from every replica", PATIENCE, || {
            let answer = ask(cluster, from, "/cgi-bin/shop")?;
            let first = answer.lines().next().unwrap_or_default();
            seen.insert(first.strip_prefix("shop ").unwrap_or_default().to_owned());
            ensure!(names.iter().all(|name| seen.contains(*name)), "from {node}: {seen:?} of {names:?}");
            Ok(())
        })?;
    }
    let from = names.first().context("no pod")?;
    let first = ask(cluster, from, "/cgi-bin/buy?wine")?;
    let second = ask(cluster, from, "/cgi-bin/buy?wine")?;
    ensure!(first.starts_with("1 wine") && second.starts_with("2 wine"), "{first}{second}");
    Ok(())
}

fn logs_exec_and_describe(cluster: &mut Cluster) -> Result<()> {
    let pod = pods(cluster, "app=redis")?.first().map(|pod| text(pod, "/metadata/name").to_owned()).context("no pod")?;
    let logs = cluster.kubectl(&["logs", &pod])?;
    ensure!(logs.contains("Ready to accept connections"), "{logs}");
    let sold = cluster.kubectl(&["exec", &pod, "--", "redis-cli", "--raw", "get", "sold"])?;
    ensure!(sold.trim() == "2", "{sold}");
    let output = cluster.kubectl_command(&["exec", &pod, "--", "sh", "-c", "exit 7"]).output()?;
    ensure!(output.status.code() == Some(7), "the exit code of a command is kubectl's: {output:?}");
    let described = cluster.kubectl(&["describe", "pod", &pod])?;
    for part in ["Node:", "Controlled By:  ReplicationController/redis", "Scheduled", "Started", "Ready          True"] {
        ensure!(described.contains(part), "{part:?} is missing in\n{described}");
    }
    Ok(())
}

fn port_forward(cluster: &mut Cluster) -> Result<()> {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let mut child = cluster.kubectl_command(&["port-forward", "service/redis", ":6379"]).stdout(std::process::Stdio::piped()).spawn()?;
    let outcome = (|| {
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output is piped")?).read_line(&mut line)?;
        let port: u16 = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).context(line.clone())?.parse()?;
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        ensure!(&answer == b"+PONG\r\n", "{answer:?}");
        Ok(())
    })();
    child.kill()?;
    child.wait()?;
    outcome
}

fn scale_label_and_rollout(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl(&["scale", "deployment/shop", "--replicas=4"])?;
    until("4 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 4))?;
    cluster.kubectl(&["label", "deployment/shop", "tier=front"])?;
    ensure!(cluster.kubectl(&["get", "deployments", "-l", "tier=front", "-o", "name"])?.trim() == "deployment.apps/shop");
    cluster.kubectl(&["set", "env", "deployment/shop", "--containers=web", "SEASON=winter"])?;
    cluster.kubectl(&["rollout", "status", "deployment/shop", "--timeout=60s"])?;
    let history = cluster.kubectl(&["rollout", "history", "deployment/shop"])?;
    ensure!(history.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count() == 2, "{history}");
    cluster.kubectl(&["rollout", "undo", "deployment/shop"])?;
    cluster.kubectl(&["rollout", "status", "deployment/shop", "--timeout=60s"])?;
    let env = cluster.get(&["deployment/shop"])?["spec"]["template"]["spec"]["containers"][0]["env"].clone();
    ensure!(env.is_null(), "undo left {env}");
    cluster.kubectl(&["scale", "deployment/shop", "--replicas=3"])?;
    until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    Ok(())
}

fn bad_input_is_refused(cluster: &mut Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let refused = |manifest: &str, verb: &str| {
        let path = folder.path().join("bad.yaml");
        std::fs::write(&path, manifest)?;
        fail(&mut cluster.kubectl_command(&[verb, "-f", path.to_str().context("the path is text")?]))
    };
    for (manifest, expected) in [
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nnonsense: 1\n", "unknown field \"nonsense\""),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n", "spec.containers: Required value"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: X}\nspec: {containers: [{name: a, image: b}]}\n",
            "metadata.name: Invalid value: \"X\"",
        ),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: many}\n", "cannot"),
        ("apiVersion: v9\nkind: Pod\nmetadata: {name: x}\n", "no matches for kind"),
        ("a: [\n", "error converting YAML to JSON"),
    ] {
        let error = refused(manifest, "create")?;
        ensure!(error.contains(expected), "expected {expected:?} in\n{error}");
    }
    cluster.kubectl(&["create", "configmap", "once"])?;
    let error = fail(&mut cluster.kubectl_command(&["create", "configmap", "once"]))?;
    ensure!(error.contains("configmaps \"once\" already exists"), "{error}");
    let mut stale = cluster.get(&["configmap/once"])?;
    cluster.kubectl(&["annotate", "configmap/once", "touched=yes"])?;
    stale["data"] = serde_json::json!({"a": "b"});
    let error = refused(&stale.to_string(), "replace")?;
    ensure!(error.contains("the object has been modified"), "{error}");
    let error = fail(&mut cluster.kubectl_command(&["get", "pod", "nobody"]))?;
    ensure!(error.contains("pods \"nobody\" not found"), "{error}");
    Ok(())
}

/// Process ids of the containers of pods, by what they run.
fn container_pids(program: &str) -> Result<Vec<(i32, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if command.contains(program)
            && let Some(started) = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        {
            found.push((pid, started));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn agents(cluster: &Cluster) -> Result<Vec<(i32, u64)>> {
    let own = cluster.data_dir().join("nodes").to_string_lossy().into_owned();
    let all = container_pids(&own)?;
    Ok(all
        .into_iter()
        .filter(|(pid, _)| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split('\0').nth(1) == Some("agent"))
        })
        .collect())
}

fn a_killed_agent_finds_its_containers_again(cluster: &mut Cluster) -> Result<()> {
    let servers = container_pids("httpd\0-f")?;
    ensure!(servers.len() >= 3, "the web servers are {servers:?}");
    let before = agents(cluster)?;
    ensure!(before.len() == 2, "the agents are {before:?}");
    for (pid, _) in &before {
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    until("both agents again", PATIENCE, || {
        let now = agents(cluster)?;
        ensure!(now.len() == 2 && now.iter().all(|agent| !before.contains(agent)), "{now:?}");
        Ok(())
    })?;
    ensure!(container_pids("httpd\0-f")? == servers, "the containers are other processes now");
    // the new agents serve what the old ones started
    until("exec through the new agent", PATIENCE, || {
        for pod in pods(cluster, "app=shop")? {
            cluster.kubectl(&["exec", text(&pod, "/metadata/name"), "-c", "web", "--", "true"])?;
        }
        Ok(())
    })?;
    let (ready, _) = until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    for pod in ready {
        let restarts = pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_i64);
        ensure!(restarts == Some(0), "a container was started again: {restarts:?}");
    }
    Ok(())
}

fn the_leader_is_killed(cluster: &mut Cluster) -> Result<()> {
    let (leader, _) = until("a leader", PATIENCE, || cluster.leader())?;
    let pid = cluster.pid(&leader)?;
    cluster.kubectl(&["create", "configmap", "before-the-kill", "--from-literal=a=b"])?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let ((), gap) = until("a write under a new leader", PATIENCE, || {
        cluster.kubectl(&["create", "configmap", "after-the-kill"]).map(drop).or_else(|error| {
            // an attempt whose answer was lost may have been carried out
            if format!("{error:#}").contains("already exists") { Ok(()) } else { Err(error) }
        })
    })?;
    println!("     {leader} was killed; kubectl wrote again after {gap:.2?}");
    cluster.kubectl(&["get", "configmap", "before-the-kill"])?;
    cluster.kubectl(&["delete", "configmap", "before-the-kill", "after-the-kill"])?;
    let (from, _) = until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    let answer = ask(cluster, text(&from[0], "/metadata/name"), "/cgi-bin/health")?;
    ensure!(answer.trim() == "ok", "{answer}");
    until("the killed master again", PATIENCE, || {
        let again = cluster.pid(&leader)?;
        ensure!(again != pid, "not yet");
        let status: Value = serde_json::from_str(&succeed(&mut cluster.trierarch(&["raft", "status", "-o", "json"]))?)?;
        ensure!(matches!(status[&leader]["role"].as_str(), Some("follower" | "leader")), "{}", status[&leader]);
        Ok(())
    })?;
    Ok(())
}

fn a_stopped_node_is_replaced(cluster: &mut Cluster) -> Result<()> {
    succeed(&mut cluster.trierarch(&["node", "stop", "n2"]))?;
    let (_, took) = until("3 shop pods on n1", PATIENCE, || {
        let ready: Vec<Value> =
            pods(cluster, "app=shop")?.into_iter().filter(|pod| is_ready(pod) && text(pod, "/spec/nodeName") == "n1").collect();
        ensure!(ready.len() == 3, "{} are ready on n1:\n{}", ready.len(), cluster.kubectl(&["get", "pods", "-o", "wide"])?);
        Ok(())
    })?;
    println!("     all replicas ran on the other node after {took:.2?}");
    succeed(&mut cluster.trierarch(&["node", "start", "n2"]))?;
    until("n2 Ready", PATIENCE, || two_nodes_are_ready(cluster))?;
    Ok(())
}

/// What a cluster could leave behind on a machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    links: Vec<String>,
    mounts: Vec<String>,
    cgroups: Vec<String>,
    tables: String,
    processes: Vec<String>,
}

impl Traces {
    fn of_this_machine() -> Self {
        let names = |path: &str| -> Vec<String> {
            let mut found: Vec<String> =
                std::fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
            found.sort();
            found
        };
        let links = names("/sys/class/net").into_iter().filter(|name| name.starts_with("tri")).collect();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|target| target.contains("/cluster/"))
            .map(str::to_owned)
            .collect();
        let hierarchies = names("/sys/fs/cgroup").into_iter();
        let cgroups =
            hierarchies.map(|name| format!("/sys/fs/cgroup/{name}/trierarch/{NAME}")).filter(|path| Path::new(path).exists()).collect();
        let tables = std::process::Command::new("nft")
            .args(["list", "tables"])
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let own = binary().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let processes = names("/proc")
            .into_iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
            .filter(|line| line.contains(&own) && line.contains("/cluster"))
            .collect();
        Self { links, mounts, cgroups, tables: tables.unwrap_or_default(), processes }
    }

    fn compare(&self, after: &Self) -> Result<()> {
        ensure!(self == after, "before: {self:?}\nafter: {after:?}");
        Ok(())
    }
}
