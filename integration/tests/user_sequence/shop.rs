//! The application: built, pushed, applied, and answering through its Service on both nodes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use trierarch_integration::cluster::{Cluster, succeed};
use trierarch_integration::wait::until;

use crate::{NODES, PATIENCE};

pub(crate) fn folder() -> PathBuf {
    // asked when it runs: a target directory may be shared with another checkout
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test");
    Path::new(&package).join("../docs/demo/shop")
}

pub(crate) fn is_built_and_pushed(cluster: &Cluster) -> Result<()> {
    succeed(&mut std::process::Command::new(folder().join("prepare")))?;
    let folder = folder();
    let folder = folder.to_str().context("the path is text")?;
    succeed(&mut cluster.trierarch(&["image", "build", "-t", "shop:1", folder]))?;
    let again = succeed(&mut cluster.trierarch(&["image", "build", "-t", "shop:again", folder]))?;
    let first = succeed(&mut cluster.trierarch(&["image", "build", "-t", "shop:1", folder]))?;
    let digest = |printed: &str| printed.split_whitespace().find(|word| word.starts_with("sha256:")).map(str::to_owned);
    ensure!(digest(&again).is_some() && digest(&again) == digest(&first), "a cached build is another image:\n{again}\n{first}");
    succeed(&mut cluster.trierarch(&["image", "push", "shop:1"]))?;
    let images = succeed(&mut cluster.trierarch(&["image", "ls"]))?;
    ensure!(images.contains("shop"), "{images}");
    Ok(())
}

pub(crate) fn pods(cluster: &Cluster, selector: &str) -> Result<Vec<Value>> {
    let list = cluster.get(&["pods", "-l", selector])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Exactly `count` pods, all ready; none that is still ending.
pub(crate) fn ready_pods(cluster: &Cluster, selector: &str, count: usize) -> Result<Vec<Value>> {
    let found = pods(cluster, selector)?;
    let ready: Vec<Value> = found.iter().filter(|pod| is_ready(pod)).cloned().collect();
    if ready.len() != count || found.len() != count {
        bail!("{} of {} pods are ready:\n{}", ready.len(), found.len(), cluster.kubectl(&["get", "pods", "-o", "wide"])?);
    }
    Ok(ready)
}

pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The name of a pod of these that is ready.
pub(crate) fn one_of(cluster: &Cluster, selector: &str) -> Result<String> {
    let (name, _) = until("a ready pod", PATIENCE, || {
        let pods = pods(cluster, selector)?;
        let ready = pods.iter().find(|pod| is_ready(pod)).with_context(|| format!("no pod {selector} is ready"))?;
        Ok(text(ready, "/metadata/name").to_owned())
    })?;
    Ok(name)
}

pub(crate) fn runs_on_both_nodes(cluster: &Cluster) -> Result<()> {
    cluster.apply(&folder())?;
    // a second time changes nothing
    let again = cluster.apply(&folder())?;
    ensure!(again.lines().count() >= 5 && again.lines().all(|line| line.ends_with("unchanged")), "{again}");
    let (ready, took) = until("3 shop pods", PATIENCE, || ready_pods(cluster, "app=shop", 3))?;
    println!("     3 replicas were ready {took:.1?} after apply");
    until("the redis pod", PATIENCE, || ready_pods(cluster, "app=redis", 1))?;
    let nodes: BTreeSet<&str> = ready.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
    let addresses: BTreeSet<&str> = ready.iter().map(|pod| text(pod, "/status/podIP")).collect();
    ensure!(nodes.iter().eq(&NODES), "the pods run on {nodes:?}");
    ensure!(addresses.len() == 3 && addresses.iter().all(|address| address.starts_with("10.244.")), "{addresses:?}");
    Ok(())
}

pub(crate) fn containers_share_volume_and_localhost(cluster: &Cluster) -> Result<()> {
    let pod = one_of(cluster, "app=shop")?;
    // written by one container, which asked the other by localhost, and read in the other
    let (stats, _) = until("the side container's report", PATIENCE, || {
        let stats = cluster.kubectl(&["exec", &pod, "-c", "web", "--", "cat", "/var/shop/stats"])?;
        ensure!(stats.contains("web ok"), "{stats}");
        Ok(stats)
    })?;
    ensure!(stats.contains("sold"), "{stats}");
    Ok(())
}

/// What the shop's Service answers in a pod, asked by a DNS name.
pub(crate) fn ask(cluster: &Cluster, pod: &str, path: &str) -> Result<String> {
    let url = format!("http://shop.default.svc.cluster.local{path}");
    cluster.kubectl(&["exec", pod, "-c", "stats", "--", "timeout", "10", "wget", "-q", "-O", "-", &url])
}

pub(crate) fn service_reaches_every_replica(cluster: &Cluster) -> Result<()> {
    let pods = pods(cluster, "app=shop")?;
    let names: BTreeSet<String> = pods.iter().map(|pod| text(pod, "/metadata/name").to_owned()).collect();
    for node in NODES {
        let from =
            pods.iter().find(|pod| text(pod, "/spec/nodeName") == node).map(|pod| text(pod, "/metadata/name")).context("no pod there")?;
        let mut seen = BTreeSet::new();
        until("an answer from every replica", PATIENCE, || {
            let answer = ask(cluster, from, "/cgi-bin/shop")?;
            let first = answer.lines().next().unwrap_or_default();
            seen.insert(first.strip_prefix("shop ").unwrap_or_default().to_owned());
            ensure!(seen == names, "from {node}: {seen:?} of {names:?}");
            Ok(())
        })?;
    }
    // the second tier keeps the state, so every replica counts on
    let from = names.first().context("no pod")?;
    let sell = || -> Result<u32> {
        let answer = ask(cluster, from, "/cgi-bin/buy?wine")?;
        answer.split_once(" wine sold by ").and_then(|(count, _)| count.parse().ok()).context(answer)
    };
    let (first, second) = (sell()?, sell()?);
    ensure!(second == first + 1, "{first}, then {second}");
    Ok(())
}
