//! A write load through the API that knows what it may see: every answer is checked against what the same and other clients were told before.
//!
//! Three kinds of writes go round in each client: a create under a name that is sent exactly once, so that `AlreadyExists` means that
//! somebody else than the client sent it again; a compare-and-swap on the client's own object, so that a conflict means that a write was
//! applied twice or lost; and a compare-and-swap on one object shared by all, whose total must never go back, so that a stale read shows.
//! Begin with [`Load`]; [`History`] is the checker, and knows no network.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::history::{Answer, History, Write};
use crate::wait::now;

/// A client that has waited so long for an answer takes another connection: what became of the request is unknown to it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// A pause after an error, as a client that means well makes it.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// The object that all clients write.
const SHARED: &str = "shared";

/// Clients that write until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
    kubeconfig: Kubeconfig,
    label: String,
}

fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn api(kubeconfig: &Kubeconfig) -> Result<Api<ConfigMap>> {
    let mut config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
    (config.connect_timeout, config.read_timeout) = (Some(ANSWER_PATIENCE), None);
    Ok(Api::default_namespaced(Client::try_from(config)?))
}

fn object(name: &str, label: &str, data: &serde_json::Value) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"run": label}}, "data": data}))?)
}

/// What an answer says about whether a write took effect.
fn classify<T>(outcome: Result<kube::Result<T>, tokio::time::error::Elapsed>) -> Answer<T> {
    match outcome {
        Err(_elapsed) => Answer::Unknown("no answer in time".to_owned()),
        Ok(Ok(value)) => Answer::Done(value),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 && status.reason == "AlreadyExists" => {
            Answer::Exists(status.message.clone())
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Answer::Conflict(status.message.clone()),
        // outcome unknown, says the server
        Ok(Err(kube::Error::Api(status))) if status.code == 504 => Answer::Unknown(status.message.clone()),
        Ok(Err(kube::Error::Api(status))) => Answer::Refused(format!("{} {}", status.code, status.message)),
        Ok(Err(error)) => Answer::Unknown(format!("{error:?}")),
    }
}

/// One client and what it knows.
struct Writer {
    id: usize,
    api: Api<ConfigMap>,
    kubeconfig: Kubeconfig,
    history: Arc<Mutex<History>>,
    label: String,
    names: u64,
    /// The client's own object as it was last seen.
    own: ConfigMap,
}

impl Writer {
    async fn reconnect(&mut self) -> Result<()> {
        tokio::time::sleep(ERROR_PAUSE).await;
        self.api = api(&self.kubeconfig).await?;
        Ok(())
    }

    /// Reads an object, again and again until somebody answers.
    async fn read(&mut self, name: &str) -> Result<ConfigMap> {
        loop {
            match classify(tokio::time::timeout(ANSWER_PATIENCE, self.api.get(name)).await) {
                Answer::Done(object) => return Ok(object),
                Answer::Refused(why) if why.starts_with("404") => anyhow::bail!("{name} is gone: {why}"),
                _ => self.reconnect().await?,
            }
        }
    }

    async fn create(&mut self) -> Result<()> {
        let name = format!("{}-c{}-{}", self.label, self.id, self.names);
        self.names += 1;
        let manifest = object(&name, &self.label, &json!({}))?;
        let answer = classify(tokio::time::timeout(ANSWER_PATIENCE, self.api.create(&PostParams::default(), &manifest)).await);
        let failed = answer.failed();
        lock(&self.history).record(self.id, Write::Create { name }, &answer, now());
        if failed { self.reconnect().await } else { Ok(()) }
    }

    async fn increment_own(&mut self) -> Result<()> {
        let value = number(&self.own, "value") + 1;
        let mut next = self.own.clone();
        next.data = Some([("value".to_owned(), value.to_string())].into());
        let name = next.metadata.name.clone().unwrap_or_default();
        let answer = classify(tokio::time::timeout(ANSWER_PATIENCE, self.api.replace(&name, &PostParams::default(), &next)).await);
        lock(&self.history).record(self.id, Write::Own { value }, &answer, now());
        match answer {
            Answer::Done(stored) => self.own = stored,
            _ => {
                self.reconnect().await?;
                self.own = self.read(&name).await?;
                let found = number(&self.own, "value");
                lock(&self.history).found_own(self.id, found);
            }
        }
        Ok(())
    }

    async fn increment_shared(&mut self) -> Result<()> {
        let name = format!("{}-{SHARED}", self.label);
        let floor = lock(&self.history).total();
        let mut next = self.read(&name).await?;
        let (total, mine) = (number(&next, "total"), format!("c{}", self.id));
        lock(&self.history).found_total(floor, total);
        lock(&self.history).found_shared(self.id, number(&next, &mine));
        let value = number(&next, &mine) + 1;
        let data = next.data.get_or_insert_default();
        data.insert("total".to_owned(), (total + 1).to_string());
        data.insert(mine.clone(), value.to_string());
        let answer = classify(tokio::time::timeout(ANSWER_PATIENCE, self.api.replace(&name, &PostParams::default(), &next)).await);
        let failed = answer.failed();
        lock(&self.history).record(self.id, Write::Shared { total: total + 1, value }, &answer, now());
        if failed { self.reconnect().await } else { Ok(()) }
    }
}

fn number(object: &ConfigMap, key: &str) -> u64 {
    object.data.as_ref().and_then(|data| data.get(key)?.parse().ok()).unwrap_or(0)
}

impl Load {
    /// Starts `clients` that write ConfigMaps with the label `run=LABEL` in the default namespace, each over a connection of its own.
    ///
    /// # Errors
    /// When the kubeconfig is unusable or the first objects cannot be made.
    pub fn start(kubeconfig: &Path, label: &str, clients: usize) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
        let history = Arc::new(Mutex::new(History::new(clients)));
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let own = |id: usize| format!("{label}-own-{id}");
        let objects = runtime()?.block_on(async {
            let api = api(&kubeconfig).await?;
            let mut made = Vec::new();
            for name in (0..clients).map(own).chain([format!("{label}-{SHARED}")]) {
                made.push(api.create(&PostParams::default(), &object(&name, label, &json!({}))?).await?);
            }
            anyhow::Ok(made)
        })?;
        let mut threads = Vec::new();
        for (id, own) in (0..clients).zip(objects) {
            let (runtime, stop, kubeconfig) = (runtime()?, Arc::clone(&stop), kubeconfig.clone());
            let (history, label) = (Arc::clone(&history), label.to_owned());
            threads.push(std::thread::spawn(move || {
                runtime.block_on(async {
                    let api = api(&kubeconfig).await?;
                    let mut writer = Writer { id, api, kubeconfig, history, label, names: 0, own };
                    while !stop.load(Ordering::Relaxed) {
                        writer.create().await?;
                        writer.increment_own().await?;
                        writer.increment_shared().await?;
                    }
                    Ok(())
                })
            }));
        }
        Ok(Self { stop, history, threads, kubeconfig, label: label.to_owned() })
    }

    /// How many writes were acknowledged to the client that got the fewest since `since`.
    pub fn acknowledged_since(&self, since: Instant) -> usize {
        lock(&self.history).acknowledged_since(since)
    }

    /// The longest time between two acknowledged writes of one client that overlaps `[from, to]`.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        lock(&self.history).longest_gap(from, to)
    }

    /// Stops the clients and compares what is stored with what they were told.
    ///
    /// # Errors
    /// When a client has ended early or the objects cannot be read.
    pub fn finish(self) -> Result<History> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_panic| anyhow::anyhow!("a client panicked"))??;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stored = runtime.block_on(async {
            let selector = kube::api::ListParams::default().labels(&format!("run={}", self.label));
            anyhow::Ok(api(&self.kubeconfig).await?.list(&selector).await?.items)
        })?;
        let mut history = std::mem::replace(&mut *lock(&self.history), History::new(0));
        let names = stored.iter().filter_map(|object| object.metadata.name.clone()).collect();
        history.found_names(&names);
        let value = |name: &str, key: &str| {
            stored.iter().find(|object| object.metadata.name.as_deref() == Some(name)).map(|object| number(object, key))
        };
        for id in 0..history.clients() {
            history.ended_with(
                id,
                value(&format!("{}-own-{id}", self.label), "value"),
                value(&format!("{}-{SHARED}", self.label), &format!("c{id}")),
            );
        }
        history.ended_with_total(value(&format!("{}-{SHARED}", self.label), "total"));
        Ok(history)
    }
}
