//! A member: the real store on a runtime of its own, whose clock goes only when the world says so. Dropping the runtime is what a crash
//! does to a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use trierarch_raft::environment::Environment;
use trierarch_raft::{NodeId, Store, StoreConfig};

use crate::disk::Stop;
use crate::event::Event;
use crate::machine::Machine;
use crate::network::{Network, address_of};
use crate::plan::Plan;
use crate::trace::Recorder;

/// The name of every simulated cluster.
pub const CLUSTER: &str = "simulated";

/// A member, up or down.
pub struct Member {
    id: NodeId,
    root: PathBuf,
    /// How often it has stopped: names its directory.
    stops: u32,
    /// How often its machine has lost its power.
    power_cuts: u32,
    machine: Arc<Machine>,
    network: Network,
    recorder: Recorder,
    plan: Plan,
    running: Option<Running>,
}

struct Running {
    store: Store,
    runtime: Runtime,
    /// Raft has stopped on it, and a new start of its process would help.
    wants_restart: Arc<AtomicBool>,
    /// It stands still, as after SIGSTOP, and has missed so much time.
    frozen: Option<Duration>,
}

impl Member {
    /// A member that has never run, with its directory below `root`.
    pub fn new(id: NodeId, root: &Path, machine: Arc<Machine>, network: Network, recorder: Recorder, plan: Plan) -> Self {
        Self { id, root: root.join(format!("m{id}")), stops: 0, power_cuts: 0, machine, network, recorder, plan, running: None }
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The store, while it runs.
    pub fn store(&self) -> Option<&Store> {
        self.running.as_ref().map(|running| &running.store)
    }

    /// Where its store is.
    pub fn directory(&self) -> PathBuf {
        self.root.join(self.stops.to_string())
    }

    /// Starts it with what its disk holds.
    ///
    /// # Errors
    /// It does not open: nothing that happens to it may damage its data.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.network.forget_connections(self.id);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let store = runtime.block_on(Store::open(self.config()?)).with_context(|| format!("member {} does not open", self.id))?;
        self.machine.disk().note_synced(&self.directory().join("log"));
        let wants_restart = Arc::new(AtomicBool::new(false));
        let (stopping, told) = (store.clone(), Arc::clone(&wants_restart));
        runtime.spawn(async move {
            stopping.stopped().await;
            told.store(true, Ordering::Relaxed);
        });
        self.recorder.record(Event::Started { member: self.id, doubtful: is_doubtful(&store) });
        self.running = Some(Running { store, runtime, wants_restart, frozen: None });
        Ok(())
    }

    fn config(&self) -> anyhow::Result<StoreConfig> {
        let mut config = StoreConfig::new(self.id, self.directory());
        config.cluster_id = CLUSTER.into();
        config.peer_listen = address_of(self.id).parse()?;
        config.history_retention = self.plan.history_retention;
        config.snapshot_after_entries = self.plan.snapshot_after_entries;
        config.boot_id = format!("m{} {}", self.id, self.power_cuts);
        config.environment = Environment::simulated(Arc::clone(&self.machine) as Arc<_>);
        Ok(config)
    }

    /// Stops it without warning.
    ///
    /// # Errors
    /// Of the file system below.
    pub fn stop(&mut self, stop: Stop, noticed: bool) -> anyhow::Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        self.network.stop(self.id, noticed);
        let old = self.directory();
        self.stops += 1;
        self.power_cuts += u32::from(stop != Stop::Kill);
        self.machine.disk().keep_survivors(&old, &self.directory(), stop)?;
        let how = match stop {
            Stop::Kill => "killed",
            Stop::PowerCut => "power cut",
            Stop::TornPowerCut => "power cut while writing",
        };
        self.recorder.record(Event::Stopped { member: self.id, how, doubtful: is_doubtful(&running.store) });
        drop(running.store);
        drop(running.runtime);
        fs::remove_dir_all(&old)?;
        Ok(())
    }

    /// Stops it as its operator does; `reboot`: its machine is off afterwards.
    ///
    /// # Errors
    /// Of the file system below.
    pub fn close(&mut self, reboot: bool) -> anyhow::Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let doubtful = is_doubtful(&running.store);
        running.runtime.block_on(running.store.close());
        self.network.stop(self.id, true);
        self.recorder.record(Event::Stopped { member: self.id, how: "closed", doubtful });
        drop(running);
        let old = self.directory();
        self.stops += 1;
        self.power_cuts += u32::from(reboot);
        fs::rename(&old, self.directory())?;
        Ok(())
    }

    /// Whether its process has to be started again.
    pub fn wants_restart(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.wants_restart.load(Ordering::Relaxed))
    }

    /// Runs a task beside the store, for as long as the member runs.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = &self.running {
            running.runtime.spawn(task);
        }
    }

    /// Its process stands still from now on, as after SIGSTOP: it does nothing, and what is sent to it waits.
    pub fn freeze(&mut self) {
        if let Some(running) = &mut self.running {
            running.frozen.get_or_insert_default();
        }
    }

    /// Its process goes on; all the time that it has missed passes at once.
    pub fn thaw(&mut self) {
        if let Some(running) = &mut self.running
            && let Some(missed) = running.frozen.take()
        {
            running.runtime.block_on(tokio::time::advance(missed));
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        match &mut self.running {
            Some(Running { frozen: Some(missed), .. }) => *missed += time,
            Some(running) => running.runtime.block_on(async { tokio::time::sleep(time).await }),
            None => {}
        }
    }
}

/// Whether the member does not know if its log is whole.
fn is_doubtful(store: &Store) -> bool {
    store.status().abstains.is_some()
}
