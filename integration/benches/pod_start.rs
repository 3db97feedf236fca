//! How long a pod takes from sending its create until a watcher receives phase Running, on any cluster.
//!
//! ```text
//! pod_start --kubeconfig FILE --image NAME [--serial 20] [--burst 100] [--namespace NAME]
//! ```
//!
//! One at a time first (each pod is gone before the next is made), then all at once. The image must be on the nodes. The last line is JSON.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use trierarch_integration::wait::now;

/// A pod that has not started by then will not.
const PATIENCE: Duration = Duration::from_secs(300);

struct Options {
    kubeconfig: String,
    image: String,
    namespace: String,
    serial: usize,
    burst: usize,
}

impl Options {
    fn read() -> Result<Self> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else { bail!("what is {word:?}?") };
            values.insert(name.to_owned(), words.next().with_context(|| format!("{word} needs a value"))?);
        }
        let mut take = |name: &str, default: Option<&str>| {
            values.remove(name).or_else(|| default.map(str::to_owned)).with_context(|| format!("--{name} is missing"))
        };
        let options = Self {
            kubeconfig: take("kubeconfig", std::env::var("KUBECONFIG").ok().as_deref())?,
            image: take("image", None)?,
            namespace: take("namespace", Some("pod-start"))?,
            serial: take("serial", Some("20"))?.parse()?,
            burst: take("burst", Some("100"))?.parse()?,
        };
        ensure!(values.is_empty(), "unknown options: {values:?}");
        Ok(options)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::read()?;
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig).with_context(|| format!("cannot read {}", options.kubeconfig))?;
    let client = Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?;
    prepare_namespace(&client, &options.namespace).await?;
    let bench = Bench { pods: Api::namespaced(client, &options.namespace), image: options.image };
    // the first pod of a cluster pays for what is made once
    bench.start(&["warm-up".to_owned()]).await?;
    bench.remove_all().await?;
    let mut serial = Vec::new();
    for index in 0..options.serial {
        serial.extend(bench.start(&[format!("serial-{index}")]).await?);
        bench.remove_all().await?;
    }
    let serial = Figures::of(serial);
    println!("one at a time: {serial}");
    let names: Vec<String> = (0..options.burst).map(|index| format!("burst-{index}")).collect();
    let burst = Figures::of(if names.is_empty() { Vec::new() } else { bench.start(&names).await? });
    println!("all at once:   {burst}");
    let start = now();
    bench.remove_all().await?;
    let removed = start.elapsed().as_secs_f64();
    println!("all were gone after {removed:.2} s");
    println!("{}", json!({"serial": serial.json(), "burst": burst.json(), "burst_removed_seconds": removed}));
    Ok(())
}

/// Makes the namespace and waits until pods may be made in it.
async fn prepare_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    match Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other?),
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    let mut events = std::pin::pin!(accounts.watch(&WatchParams::default().fields("metadata.name=default"), "0").await?);
    let account = tokio::time::timeout(PATIENCE, events.try_next()).await.context("the namespace has no service account")??;
    account.map(drop).context("the watch for the service account ended")
}

/// What a watch yields.
type Events = kube::Result<WatchEvent<Pod>>;

struct Bench {
    pods: Api<Pod>,
    image: String,
}

impl Bench {
    fn pod(&self, name: &str) -> Pod {
        let container = Container { name: "main".to_owned(), image: Some(self.image.clone()), ..Container::default() };
        let spec = PodSpec { containers: vec![container], termination_grace_period_seconds: Some(0), ..PodSpec::default() };
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    /// When a watcher received phase Running of each pod, until it has them all. A server may end a watch at any time (Kubernetes does so when
    /// a watcher falls behind), so it is taken up again where it stopped.
    async fn see_running(&self, count: usize, mut version: String, first: BoxStream<'_, Events>) -> Result<BTreeMap<String, Instant>> {
        let mut events = first;
        let mut running = BTreeMap::new();
        while running.len() < count {
            match events.try_next().await {
                Ok(Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => {
                    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
                    ensure!(phase != "Failed", "{} failed: {:?}", pod.name_any(), pod.status);
                    if phase == "Running" {
                        running.entry(pod.name_any()).or_insert_with(now);
                    }
                    version = pod.resource_version().unwrap_or(version);
                }
                Ok(Some(WatchEvent::Error(status))) => bail!("the watch failed: {status:?}"),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => events = self.pods.watch(&WatchParams::default().timeout(290), &version).await?.boxed(),
            }
        }
        Ok(running)
    }

    /// Creates these pods at once. Returns the seconds until a watcher received phase Running for each.
    async fn start(&self, names: &[String]) -> Result<Vec<f64>> {
        let version = self.pods.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
        // running before the first pod is sent
        let first = self.pods.watch(&WatchParams::default().timeout(290), &version).await?.boxed();
        let watch = self.see_running(names.len(), version, first);
        let create = async {
            let mut sent = BTreeMap::new();
            let mut requests = futures::stream::FuturesUnordered::new();
            for name in names {
                let pod = self.pod(name);
                requests.push(async move {
                    let start = now();
                    self.pods.create(&PostParams::default(), &pod).await.map(|_| (name.clone(), start))
                });
            }
            while let Some(created) = requests.next().await {
                let (name, start) = created?;
                sent.insert(name, start);
            }
            anyhow::Ok(sent)
        };
        let (running, sent) =
            tokio::time::timeout(PATIENCE, futures::future::try_join(watch, create)).await.context("not all pods ran")??;
        Ok(sent.iter().filter_map(|(name, start)| Some(running.get(name)?.duration_since(*start).as_secs_f64())).collect())
    }

    async fn remove_all(&self) -> Result<()> {
        let list = self.pods.list(&ListParams::default()).await?;
        let mut left: std::collections::BTreeSet<String> = list.items.iter().map(ResourceExt::name_any).collect();
        let version = list.metadata.resource_version.unwrap_or_default();
        let mut events = std::pin::pin!(self.pods.watch(&WatchParams::default().timeout(290), &version).await?);
        self.pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await?;
        let gone = async {
            while !left.is_empty() {
                if let WatchEvent::Deleted(pod) = events.try_next().await?.context("the watch ended")? {
                    left.remove(&pod.name_any());
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, gone).await.context("pods do not go")?
    }
}

/// A distribution of seconds.
struct Figures(Vec<f64>);

impl Figures {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self(seconds)
    }

    /// The smallest value that this share of all does not exceed, in milliseconds.
    fn quantile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map_or(0.0, |seconds| seconds * 1000.0)
    }

    fn json(&self) -> serde_json::Value {
        let [p50, p99, max] = [50, 99, 100].map(|percent| self.quantile(percent).round());
        json!({"count": self.0.len(), "p50_ms": p50, "p99_ms": p99, "max_ms": max})
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, max] = [50, 99, 100].map(|percent| self.quantile(percent));
        write!(f, "{} pods, p50 {p50:.0} ms, p99 {p99:.0} ms, slowest {max:.0} ms", self.0.len())
    }
}
