//! A watch by a client of the field, kept over broken connections: what it sees, and whether it had to begin again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config, ResourceExt as _};

#[derive(Default)]
struct State {
    names: BTreeSet<String>,
    lists: usize,
    errors: Vec<String>,
}

/// A watch in a thread of its own. Dropping it ends it.
pub struct Watching {
    state: Arc<Mutex<State>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Watching {
    /// Watches the ConfigMaps of the default namespace that carry the label `run=LABEL`.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read, or no thread can be had.
    pub fn config_maps(kubeconfig: &Path, label: &str) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&state);
        let selector = watcher::Config::default().labels(&format!("run={label}"));
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    Err(error) = watch(kubeconfig, selector, &shared) => lock(&shared).errors.push(format!("{error:#}")),
                }
            });
        });
        Ok(Self { state, stop: Some(stop) })
    }

    /// The names seen so far.
    pub fn seen(&self) -> BTreeSet<String> {
        lock(&self.state).names.clone()
    }

    /// How often it had to list: once, if every interruption was resumed.
    pub fn lists(&self) -> usize {
        lock(&self.state).lists
    }

    /// What went wrong on the way.
    pub fn errors(&self) -> Vec<String> {
        lock(&self.state).errors.clone()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // the thread may have ended
            let _nobody_listens = stop.send(());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(kubeconfig: Kubeconfig, selector: watcher::Config, state: &Mutex<State>) -> Result<()> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let api: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config)?);
    let mut events = std::pin::pin!(watcher(api, selector).default_backoff());
    while let Some(event) = events.next().await {
        let mut state = lock(state);
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                state.names.insert(object.name_any());
            }
            Ok(watcher::Event::InitDone) => state.lists += 1,
            Ok(watcher::Event::Init | watcher::Event::Delete(_)) => {}
            Err(error) => state.errors.push(format!("{error:?}")),
        }
    }
    Ok(())
}
