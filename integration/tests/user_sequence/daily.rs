//! What people do with kubectl every day.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use trierarch_integration::cluster::{Cluster, fail};
use trierarch_integration::wait::until;

use crate::shop::{self, one_of, pods, ready_pods, text};
use crate::{PATIENCE, World};

/// A kubectl that runs on while the test looks at what it prints.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {command:?}"))?;
        let output = BufReader::new(child.stdout.take().context("its output is piped")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The first line from now on that fulfils a condition.
    fn line(&self, what: &str, fulfils: impl Fn(&str) -> bool) -> Result<String> {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if fulfils(&line) => return Ok(line),
                Ok(line) => seen.push(line),
                Err(error) => bail!("{what} was not printed ({error}), but:\n{}", seen.join("\n")),
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

pub(crate) fn a_watcher_sees_pods_come(cluster: &Cluster) -> Result<()> {
    let watch =
        Following::start(cluster.kubectl_command(&["get", "pods", "-l", "app=watched", "-o", "wide", "-w", "--output-watch-events"]))?;
    let manifest = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "watched", "labels": {"app": "watched"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "shop:1", "command": ["sleep", "100000"]}]},
    });
    cluster.create(&manifest)?;
    let line = watch.line("the running pod", |line| line.contains("1/1") && line.contains("Running"))?;
    ensure!(line.contains("10.244."), "its address is not in {line:?}");
    cluster.kubectl(&["delete", "pod", "watched"])?;
    watch.line("that the pod ends", |line| line.contains("Terminating"))?;
    watch.line("that the pod is gone", |line| line.starts_with("DELETED"))?;
    ensure!(pods(cluster, "app=watched")?.is_empty(), "kubectl delete returned before the pod was gone");
    Ok(())
}

pub(crate) fn exec(cluster: &Cluster) -> Result<()> {
    let pod = one_of(cluster, "app=redis")?;
    let answer = cluster.kubectl(&["exec", &pod, "--", "redis-cli", "ping"])?;
    ensure!(answer.trim() == "PONG", "{answer}");
    let output = cluster.kubectl_command(&["exec", &pod, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).output()?;
    ensure!(output.status.code() == Some(7), "the exit code of a command is kubectl's: {output:?}");
    ensure!(output.stdout == b"out\n" && output.stderr.starts_with(b"err\n"), "the streams are mixed: {output:?}");
    // a megabyte there and back
    let mut child = cluster
        .kubectl_command(&["exec", "-i", &pod, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run kubectl")?;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|index| b'a' + u8::try_from(index % 26).unwrap_or_default()).collect();
    let mut input = child.stdin.take().context("its input is piped")?;
    let copy = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy));
    let received = child.wait_with_output()?.stdout;
    writer.join().map_err(|_panic| anyhow::anyhow!("the writer panicked"))??;
    ensure!(received == sent, "{} bytes of {} came back", received.len(), sent.len());
    Ok(())
}

pub(crate) fn mistakes(cluster: &Cluster) -> Result<()> {
    let pod = one_of(cluster, "app=shop")?;
    let error = fail(&mut cluster.kubectl_command(&["exec", &pod, "-c", "nobody", "--", "true"]))?;
    ensure!(error.contains("container nobody is not valid for pod") || error.contains("container not found"), "{error}");
    let error = fail(&mut cluster.kubectl_command(&["exec", &pod, "-c", "web", "--", "no-such-program"]))?;
    ensure!(error.contains("no-such-program"), "{error}");
    let error =
        fail(&mut cluster.kubectl_command(&["patch", "deployment/shop", "-p", r#"{"spec":{"selector":{"matchLabels":{"a":"b"}}}}"#]))?;
    ensure!(error.contains("field is immutable") || error.contains("does not match template"), "{error}");
    Ok(())
}

pub(crate) fn logs(cluster: &Cluster) -> Result<()> {
    let pod = one_of(cluster, "app=redis")?;
    let all = cluster.kubectl(&["logs", &pod])?;
    ensure!(all.contains("Ready to accept connections"), "{all}");
    let last = cluster.kubectl(&["logs", &pod, "--tail=1"])?;
    ensure!(last.lines().count() == 1 && all.contains(last.trim_end()), "{last:?} is not the last line of\n{all}");
    let dated = cluster.kubectl(&["logs", &pod, "--tail=1", "--timestamps"])?;
    ensure!(dated.as_bytes().get(10) == Some(&b'T') && dated.contains(last.trim_end()), "{dated}");

    let follow = Following::start(cluster.kubectl_command(&["logs", "-f", "--tail=1", &pod]))?;
    follow.line("the present end", |_| true)?;
    // what the server writes when it is asked to save
    cluster.kubectl(&["exec", &pod, "--", "redis-cli", "bgsave"])?;
    follow.line("a line that was written later", |line| line.contains("Background saving started"))?;
    Ok(())
}

pub(crate) fn describe(cluster: &Cluster) -> Result<()> {
    let pod = one_of(cluster, "app=redis")?;
    let contains = |arguments: &[&str], parts: &[&str]| -> Result<()> {
        let described = cluster.kubectl(arguments)?;
        let squeezed = described.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            ensure!(squeezed.contains(part), "{part:?} is missing in\n{described}");
        }
        Ok(())
    };
    let events = ["Scheduled", "Successfully assigned default/redis-", "Created", "Started"];
    contains(&["describe", "pod", &pod], &["Node: n", "Controlled By: ReplicationController/redis", "Ready True", "QoS Class: Burstable"])?;
    until("the pod's events", PATIENCE, || contains(&["describe", "pod", &pod], &events))?;
    contains(&["describe", "node", "n1"], &["Ready True", "KubeletReady", "PodCIDR: 10.244.", "Non-terminated Pods:", "shop-"])?;
    contains(&["describe", "service", "shop"], &["Selector: app=shop", "TargetPort: http/TCP", "Endpoints: 10.244."])?;
    contains(&["describe", "deployment", "shop"], &["3 desired | 3 updated | 3 total | 3 available | 0 unavailable", "ScalingReplicaSet"])
}

/// Connects through `kubectl port-forward` and returns what the other side answers.
fn through_port_forward(cluster: &Cluster, target: &str, port: u16, request: &[u8], ends: impl Fn(&[u8]) -> bool) -> Result<String> {
    let forward = Following::start(cluster.kubectl_command(&["port-forward", target, &format!(":{port}")]))?;
    let line = forward.line("the local port", |line| line.contains("127.0.0.1:"))?;
    let local: u16 = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).context(line.clone())?.parse()?;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", local))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !ends(&answer) {
        let count = stream.read(&mut part)?;
        ensure!(count > 0, "{target} closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..count]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub(crate) fn port_forward(cluster: &Cluster) -> Result<()> {
    let answer = through_port_forward(cluster, "service/redis", 6379, b"PING\r\n", |answer| answer.ends_with(b"\r\n"))?;
    ensure!(answer == "+PONG\r\n", "{answer}");
    let pod = one_of(cluster, "app=shop")?;
    let request = b"GET /cgi-bin/shop HTTP/1.0\r\n\r\n";
    let line = format!("shop {pod}\n");
    let complete = |answer: &[u8]| String::from_utf8_lossy(answer).contains(&line);
    let answer = through_port_forward(cluster, &format!("pod/{pod}"), 8080, request, complete)?;
    ensure!(answer.contains(" 200 "), "{answer}");
    Ok(())
}

pub(crate) fn scale_and_label(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["scale", "deployment/shop", "--replicas=5"])?;
    until("5 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 5))?;
    cluster.kubectl(&["scale", "deployment/shop", "--replicas=3"])?;
    until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    cluster.kubectl(&["label", "deployment/shop", "tier=front"])?;
    ensure!(cluster.kubectl(&["get", "deployments", "-l", "tier=front", "-o", "name"])?.trim() == "deployment.apps/shop");
    cluster.kubectl(&["label", "deployment/shop", "tier-"])?;
    ensure!(cluster.kubectl(&["get", "deployments", "-l", "tier=front", "-o", "name"])?.trim().is_empty(), "the label is still there");
    cluster.kubectl(&["annotate", "service/shop", "team=bosporus"])?;
    let team = cluster.kubectl(&["get", "service/shop", "-o", "jsonpath={.metadata.annotations.team}"])?;
    ensure!(team == "bosporus", "{team}");
    Ok(())
}

fn variable_of(cluster: &Cluster, variable: &str) -> Result<Option<String>> {
    let deployment = cluster.get(&["deployment/shop"])?;
    let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
    Ok(env.iter().find(|entry| entry["name"] == variable).and_then(|entry| entry["value"].as_str()).map(str::to_owned))
}

pub(crate) fn rollout(cluster: &Cluster) -> Result<()> {
    let status = || cluster.kubectl(&["rollout", "status", "deployment/shop", &format!("--timeout={}s", PATIENCE.as_secs())]);
    let revisions = || -> Result<Vec<u32>> {
        let history = cluster.kubectl(&["rollout", "history", "deployment/shop"])?;
        Ok(history.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect())
    };
    let pods_of =
        || -> Result<Vec<String>> { Ok(pods(cluster, "app=shop")?.iter().map(|pod| text(pod, "/metadata/uid").to_owned()).collect()) };
    let before = revisions()?;
    let first = before.iter().max().copied().context("the deployment has no history")?;
    cluster.kubectl(&["set", "env", "deployment/shop", "--containers=web", "SEASON=winter"])?;
    let printed = status()?;
    ensure!(printed.contains("successfully rolled out"), "{printed}");
    ensure!(revisions()?.contains(&(first + 1)), "{:?} after {before:?}", revisions()?);
    let (pods_now, _) = until("only new pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    for pod in pods_now {
        let season = cluster.kubectl(&["exec", text(&pod, "/metadata/name"), "-c", "web", "--", "sh", "-c", "echo $SEASON"])?;
        ensure!(season.trim() == "winter", "{season}");
    }
    cluster.kubectl(&["rollout", "undo", "deployment/shop"])?;
    status()?;
    ensure!(variable_of(cluster, "SEASON")?.is_none(), "undo left the variable");
    ensure!(
        !revisions()?.contains(&first) && revisions()?.contains(&(first + 2)),
        "undo makes the old revision the newest: {:?}",
        revisions()?
    );
    until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    let old = pods_of()?;
    cluster.kubectl(&["rollout", "restart", "deployment/shop"])?;
    status()?;
    until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    ensure!(pods_of()?.iter().all(|uid| !old.contains(uid)), "a pod of before the restart is left");
    Ok(())
}

pub(crate) fn delete_pod(cluster: &Cluster) -> Result<()> {
    let pod = one_of(cluster, "app=shop")?;
    let uid = text(&cluster.get(&["pod", &pod])?, "/metadata/uid").to_owned();
    cluster.kubectl(&["delete", "pod", &pod])?;
    let (now, _) = until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    ensure!(now.iter().all(|pod| text(pod, "/metadata/uid") != uid), "the deleted pod is still there");
    Ok(())
}

pub(crate) fn delete_all(world: &mut World) -> Result<()> {
    if let Some(traffic) = world.traffic.take() {
        traffic.stop(&world.cluster)?;
    }
    let cluster = &world.cluster;
    cluster.kubectl(&["delete", "-f", shop::folder().to_str().context("the path is text")?])?;
    until("no pod", PATIENCE, || {
        let left = cluster.get(&["pods,replicasets,replicationcontrollers,endpointslices", "-l", "app in (shop,redis)"])?;
        let names: Vec<&str> = left["items"].as_array().into_iter().flatten().map(|item| text(item, "/metadata/name")).collect();
        ensure!(names.is_empty(), "{names:?} are left");
        Ok(())
    })?;
    let services = cluster.get(&["services"])?;
    let left: Vec<&Value> =
        services["items"].as_array().into_iter().flatten().filter(|item| item["metadata"]["name"] != "kubernetes").collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
