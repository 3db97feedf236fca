//! The machine that a simulated member runs on.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use trierarch_raft::NodeId;
use trierarch_raft::environment::{Observation, Purpose, Simulation, Stream};

use crate::disk::Disk;
use crate::event::{AppliedTxn, Change, Event, digest, digest_of_view};
use crate::network::Network;
use crate::trace::Recorder;

/// When every run begins: 1 January 2030.
const EPOCH_UNIX_MS: i64 = 1_893_456_000_000;

/// A machine.
pub struct Machine {
    member: NodeId,
    network: Network,
    disk: Arc<Disk>,
    recorder: Recorder,
    /// By how much its clock is wrong.
    clock_offset_ms: AtomicI64,
}

impl Machine {
    /// A machine whose clock is right.
    pub fn new(member: NodeId, network: Network, disk: Arc<Disk>, recorder: Recorder) -> Self {
        Self { member, network, disk, recorder, clock_offset_ms: AtomicI64::new(0) }
    }

    /// Makes the clock jump.
    pub fn jump_ms(&self, by_ms: i64) {
        self.clock_offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

impl Simulation for Machine {
    fn now_unix_ms(&self) -> i64 {
        let now_ms = i64::try_from(self.recorder.now_ms()).unwrap_or(i64::MAX);
        EPOCH_UNIX_MS + now_ms + self.clock_offset_ms.load(Ordering::Relaxed)
    }

    fn connect(&self, address: &str, purpose: Purpose) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        self.network.connect(self.member, address, purpose)
    }

    fn listen(&self, _address: SocketAddr) -> mpsc::UnboundedReceiver<Box<dyn Stream>> {
        self.network.listen(self.member)
    }

    fn before_sync(&self, _path: &Path) -> BoxFuture<'static, io::Result<()>> {
        let (member, disk, recorder) = (self.member, Arc::clone(&self.disk), self.recorder.clone());
        Box::pin(async move {
            let delay_ms = disk.roll_delay_ms();
            if delay_ms > 0 {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            disk.sync().inspect_err(|_| recorder.record(Event::SyncFailed { member }))
        })
    }

    fn after_sync(&self, path: &Path) {
        self.disk.note_synced(path);
        self.recorder.record(Event::Synced { member: self.member });
    }

    fn free_bytes(&self) -> u64 {
        self.disk.free_bytes()
    }

    fn observe(&self, observation: &Observation<'_>) {
        let member = self.member;
        self.recorder.record(match observation {
            Observation::Voted { term, voted_for, committed } => {
                Event::Voted { member, term: *term, voted_for: *voted_for, committed: *committed }
            }
            Observation::Appended { previous_term, term, index, command } => {
                Event::Appended { member, previous_term: *previous_term, term: *term, index: *index, digest: digest(command) }
            }
            Observation::Applied { term, index, command, revision, volatile, voters, txn, outcome, events } => Event::Applied {
                member,
                term: *term,
                index: *index,
                digest: digest(command),
                revision: *revision,
                volatile: *volatile,
                voters: voters.map(<[_]>::to_vec),
                txn: txn.map(|txn| AppliedTxn {
                    id: txn.id,
                    fence: txn
                        .guards
                        .iter()
                        .find_map(|guard| if let trierarch_raft::Guard::Term(term) = guard { Some(*term) } else { None }),
                    outcome: outcome.clone(),
                }),
                changes: events.iter().map(|event| Change::from(&**event)).collect(),
            },
            Observation::Shown { index, view, .. } => {
                Event::Shown { member, index: *index, revision: view.revision(), digest: digest_of_view(view) }
            }
        });
    }
}
