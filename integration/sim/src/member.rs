//! A member: the real store on a runtime of its own, whose clock goes only when the world says so. Dropping the runtime is what a crash
//! does to a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

    fn directory(&self) -> PathBuf {
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
        self.recorder.record(Event::Started { member: self.id });
        self.running = Some(Running { store, runtime });
        Ok(())
    }

    fn config(&self) -> anyhow::Result<StoreConfig> {
        let mut config = StoreConfig::new(self.id, self.directory());
        config.cluster_id = "simulated".into();
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
        self.recorder.record(Event::Stopped { member: self.id, how });
        drop(running.store);
        drop(running.runtime);
        fs::remove_dir_all(&old)?;
        Ok(())
    }

    /// Runs a task beside the store, for as long as the member runs.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = &self.running {
            running.runtime.spawn(task);
        }
    }

    /// Lets time pass.
    pub fn run_for(&self, time: Duration) {
        if let Some(running) = &self.running {
            running.runtime.block_on(async { tokio::time::sleep(time).await });
        }
    }
}
