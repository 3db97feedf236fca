//! A write load through the API, of which every answer is taken down and judged.
//!
//! Two kinds of requests go round in each client. It creates an object under a name that is sent exactly once: all acknowledged ones must
//! be there in the end, on every master and in every watch. And it reads, writes and swaps one object that it shares with two others: what
//! the three saw must be linearizable. Begin with [`Load`]; [`History`] and [`Record`] are the judges, and know no network.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::history::{Answer, History};
use crate::linearizability::{Call, Operation, Record, Seen};
use crate::wait::now;

/// A client that has waited so long for an answer takes another connection: what became of the request is unknown to it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// A pause after an error, as a client that means well makes it.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// How many clients share an object.
const SHARERS: usize = 3;
/// After how many requests a client leaves a shared object for the next one.
const REQUESTS_EACH: u64 = 12;
/// How long the judge may need for one object.
const JUDGE_PATIENCE: Duration = Duration::from_secs(60);

/// Clients that write until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    notes: Arc<Mutex<Notes>>,
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
    entrance: Kubeconfig,
    label: String,
}

/// What the clients of a run were told.
struct Notes {
    history: History,
    record: Record,
}

/// The end of a run.
pub struct Findings {
    /// What was told about writes.
    pub history: History,
    /// What was seen of shared objects.
    pub record: Record,
}

impl Findings {
    /// What happened, in a few words, if all of it was right.
    ///
    /// # Errors
    /// Everything that was wrong.
    pub fn judge(&self) -> Result<String> {
        let violations = self.history.violations();
        ensure!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
        let judged = self.record.check(JUDGE_PATIENCE);
        let judged = judged.map_err(|found| anyhow::anyhow!("{} objects are not linearizable:\n{}", found.len(), found.join("\n")))?;
        Ok(format!(
            "{}; linearizable: {} objects with {} answered requests and {} of unknown outcome",
            self.history.summary(),
            judged.objects,
            judged.answered,
            judged.unknown
        ))
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn api(entrance: &Kubeconfig) -> Result<Api<ConfigMap>> {
    let mut config = Config::from_custom_kubeconfig(entrance.clone(), &KubeConfigOptions::default()).await?;
    (config.connect_timeout, config.read_timeout) = (Some(ANSWER_PATIENCE), None);
    // each refusal is to be seen, and what was sent once must not be sent again
    config.default_retry = false;
    Ok(Api::default_namespaced(Client::try_from(config)?))
}

fn object(name: &str, label: &str, value: Option<u64>) -> Result<ConfigMap> {
    let data = value.map_or_else(|| json!({}), |value| json!({"value": value.to_string()}));
    Ok(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"run": label}}, "data": data}))?)
}

fn value(object: &ConfigMap) -> Option<u64> {
    object.data.as_ref()?.get("value")?.parse().ok()
}

/// What an answer says about whether a request took effect.
fn classify<T>(outcome: Result<kube::Result<T>, tokio::time::error::Elapsed>) -> Answer<T> {
    match outcome {
        Err(_elapsed) => Answer::Unknown("no answer in time".to_owned()),
        Ok(Ok(value)) => Answer::Done(value),
        Ok(Err(kube::Error::Api(status))) => match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => Answer::Exists(status.message.clone()),
            (409, _) => Answer::Conflict(status.message.clone()),
            (404, _) => Answer::Missing(status.message.clone()),
            // outcome unknown, says the server
            (504, _) => Answer::Unknown(status.message.clone()),
            (code, _) => Answer::Refused(format!("{code} {}", status.message)),
        },
        Ok(Err(error)) => Answer::Unknown(format!("{error:?}")),
    }
}

/// A ConfigMap of this name with nothing in it.
pub fn named(name: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object
}

/// Asks through an entrance, once and over a connection of its own.
///
/// # Errors
/// When the entrance is unusable.
pub fn ask_once<T>(entrance: &Kubeconfig, ask: impl AsyncFnOnce(&Api<ConfigMap>) -> kube::Result<T>) -> Result<Answer<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let api = api(entrance).await?;
        Ok(classify(tokio::time::timeout(ANSWER_PATIENCE, ask(&api)).await))
    })
}

/// One client and what it knows.
struct Writer {
    id: usize,
    api: Api<ConfigMap>,
    entrance: Kubeconfig,
    notes: Arc<Mutex<Notes>>,
    label: String,
    /// Objects that it has created.
    names: u64,
    /// Requests to shared objects, and numbers that it has written there.
    requests: u64,
    numbers: u64,
    /// The shared object as it was last seen.
    seen: Option<ConfigMap>,
}

impl Writer {
    async fn reconnect(&mut self) -> Result<()> {
        tokio::time::sleep(ERROR_PAUSE).await;
        self.api = api(&self.entrance).await?;
        Ok(())
    }

    async fn create(&mut self) -> Result<()> {
        let name = format!("{}-c{}-{}", self.label, self.id, self.names);
        self.names += 1;
        let manifest = object(&name, &self.label, None)?;
        let answer = classify(tokio::time::timeout(ANSWER_PATIENCE, self.api.create(&PostParams::default(), &manifest)).await);
        lock(&self.notes).history.note_creation(self.id, name, &answer, now());
        if answer.undecided() { self.reconnect().await } else { Ok(()) }
    }

    /// A number that nobody else writes.
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        ((self.id as u64) << 32) | self.numbers
    }

    /// The next request to the shared object; what follows what is the same for all, when is not.
    async fn share(&mut self) -> Result<()> {
        let (round, turn) = (self.requests / REQUESTS_EACH, self.requests % REQUESTS_EACH);
        self.requests += 1;
        let name = format!("{}-r{}-{round}", self.label, self.id / SHARERS);
        if turn == 0 {
            self.seen = None;
        }
        let last = self.seen.as_ref().and_then(value);
        let operation = match (turn, turn % 3, last) {
            (0, ..) => Operation::Create(self.number()),
            (_, 1, Some(expected)) => Operation::Swap { expected, new: self.number() },
            (_, 2, _) => Operation::Write(self.number()),
            _ => Operation::Read,
        };
        let call = lock(&self.notes).record.begin(&name, self.id, operation);
        let answer = self.ask(&name, operation).await?;
        self.note(call, operation, &answer);
        let undecided = answer.undecided();
        if let Answer::Done(object) = answer {
            self.seen = Some(object);
        }
        if undecided { self.reconnect().await } else { Ok(()) }
    }

    async fn ask(&self, name: &str, operation: Operation) -> Result<Answer<ConfigMap>> {
        let post = PostParams::default();
        let version = self.seen.as_ref().and_then(|seen| seen.metadata.resource_version.clone());
        let outcome = match operation {
            Operation::Read => tokio::time::timeout(ANSWER_PATIENCE, self.api.get(name)).await,
            Operation::Create(new) => {
                let manifest = object(name, &self.label, Some(new))?;
                tokio::time::timeout(ANSWER_PATIENCE, self.api.create(&post, &manifest)).await
            }
            Operation::Write(new) => {
                let manifest = object(name, &self.label, Some(new))?;
                tokio::time::timeout(ANSWER_PATIENCE, self.api.replace(name, &post, &manifest)).await
            }
            Operation::Swap { new, .. } => {
                let mut manifest = object(name, &self.label, Some(new))?;
                manifest.metadata.resource_version = version;
                tokio::time::timeout(ANSWER_PATIENCE, self.api.replace(name, &post, &manifest)).await
            }
        };
        Ok(classify(outcome))
    }

    fn note(&self, call: Call, operation: Operation, answer: &Answer<ConfigMap>) {
        let mut notes = lock(&self.notes);
        let is_read = operation == Operation::Read;
        if !is_read {
            notes.history.note(self.id, answer, now());
        }
        match answer {
            Answer::Done(object) => {
                // an object without a number was never written by anybody here
                let seen = if is_read { Seen::Value(value(object).unwrap_or(u64::MAX)) } else { Seen::Done };
                notes.record.end(call, seen);
            }
            Answer::Exists(_) => notes.record.end(call, Seen::Exists),
            Answer::Conflict(_) => notes.record.end(call, Seen::Conflict),
            Answer::Missing(_) => notes.record.end(call, Seen::Missing),
            Answer::Unknown(_) if !is_read => {}
            Answer::Refused(_) | Answer::Unknown(_) => notes.record.withdraw(call),
        }
    }
}

impl Load {
    /// Starts `clients` that write ConfigMaps with the label `run=LABEL` in the default namespace, each over a connection of its own.
    ///
    /// # Errors
    /// When the kubeconfig is unusable.
    pub fn start(kubeconfig: &Path, label: &str, clients: usize) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
        Self::start_through(&[kubeconfig], label, clients)
    }

    /// The same through several entrances, which the clients take in turn.
    ///
    /// # Errors
    /// When there is none, or one is unusable.
    pub fn start_through(entrances: &[Kubeconfig], label: &str, clients: usize) -> Result<Self> {
        let entrance = entrances.first().context("there is no entrance")?.clone();
        let notes = Arc::new(Mutex::new(Notes { history: History::new(clients), record: Record::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (id, entrance) in (0..clients).zip(entrances.iter().cycle()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (stop, notes, label, entrance) = (Arc::clone(&stop), Arc::clone(&notes), label.to_owned(), entrance.clone());
            threads.push(std::thread::spawn(move || {
                runtime.block_on(async {
                    let api = api(&entrance).await?;
                    let mut writer = Writer { id, api, entrance, notes, label, names: 0, requests: 0, numbers: 0, seen: None };
                    while !stop.load(Ordering::Relaxed) {
                        writer.create().await?;
                        for _ in 0..3 {
                            writer.share().await?;
                        }
                    }
                    Ok(())
                })
            }));
        }
        Ok(Self { stop, notes, threads, entrance, label: label.to_owned() })
    }

    /// Checks that every client got so many acknowledgements since then.
    ///
    /// # Errors
    /// With how many the one got that got the fewest.
    pub fn everybody_wrote(&self, count: usize, since: Instant) -> Result<()> {
        let fewest = lock(&self.notes).history.fewest_since(since);
        ensure!(fewest >= count, "one client got {fewest} acknowledgements");
        Ok(())
    }

    /// Checks that some client got so many acknowledgements since then.
    ///
    /// # Errors
    /// With how many the one got that got the most.
    pub fn somebody_wrote(&self, count: usize, since: Instant) -> Result<()> {
        let most = lock(&self.notes).history.most_since(since);
        ensure!(most >= count, "no client got more than {most} acknowledgements");
        Ok(())
    }

    /// The longest time between two acknowledged writes of one client that overlaps `[from, to]`.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        lock(&self.notes).history.longest_gap(from, to)
    }

    /// The same for each client.
    pub fn gaps(&self, from: Instant, to: Instant) -> Vec<Duration> {
        lock(&self.notes).history.gaps(from, to)
    }

    /// Stops the clients and compares what is stored with what they were told.
    ///
    /// # Errors
    /// When a client has ended early or the objects cannot be read.
    pub fn finish(mut self) -> Result<Findings> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().map_err(|_panic| anyhow::anyhow!("a client panicked"))??;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let names = runtime.block_on(async {
            let selector = kube::api::ListParams::default().labels(&format!("run={}", self.label));
            let stored = api(&self.entrance).await?.list(&selector).await?.items;
            anyhow::Ok(stored.into_iter().filter_map(|object| object.metadata.name).collect())
        })?;
        let notes = std::mem::replace(&mut *lock(&self.notes), Notes { history: History::new(0), record: Record::default() });
        let mut history = notes.history;
        history.found_names(&names);
        Ok(Findings { history, record: notes.record })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // a step that failed leaves its clients behind: they end by themselves
        self.stop.store(true, Ordering::Relaxed);
    }
}
