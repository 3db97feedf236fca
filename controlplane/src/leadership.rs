//! What runs on the leader only: scheduler, controllers, the signer, the endpoints of the masters. One election fails everything over.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use trierarch_apiserver::{ApiServer, Local, User};
use trierarch_controllers::{Cluster, Controller, Manager};
use trierarch_raft::{Leadership, Store, Term};
use trierarch_scheduler::{Scheduler, SchedulerCluster};

use crate::bootstrap::{self, Facts};
use crate::endpoints;
use crate::identity::Authority;
use crate::local::InProcess;
use crate::signer::Signer;

/// How long a new leader waits for its first linearizable read before it looks whether it still leads.
const PATIENCE: Duration = Duration::from_secs(5);

/// What leader-only parts need.
#[derive(Clone)]
pub struct Parts {
    /// The API in this process.
    pub server: Arc<ApiServer>,
    /// The store below it.
    pub store: Store,
    /// For the controllers.
    pub controllers: trierarch_controllers::Config,
    /// Signs agents' certificates.
    pub authority: Authority,
    /// Objects that every cluster has.
    pub facts: Facts,
}

/// The leader's running parts. Dropping it ends them.
struct Running {
    term: Term,
    controllers: Option<trierarch_controllers::Handle>,
    scheduler: Option<trierarch_scheduler::Handle>,
    endpoints: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn stop(mut self) {
        self.endpoints.abort();
        if let Some(scheduler) = self.scheduler.take() {
            scheduler.stop().await;
        }
        if let Some(controllers) = self.controllers.take() {
            controllers.stop().await;
        }
    }
}

/// Follows leadership for ever: starts the parts when this master leads, stops them when it does not.
pub async fn follow(parts: Parts) {
    let mut leadership = parts.store.leadership();
    let mut running: Option<Running> = None;
    loop {
        let now = *leadership.borrow_and_update();
        let term = running.as_ref().map(|parts| parts.term);
        if term.is_some()
            && !keeps(now, term)
            && let Some(old) = running.take()
        {
            tracing::info!(raft_term = old.term, "Stopped what only the leader runs");
            old.stop().await;
        }
        if running.is_none() && now.established {
            match start(&parts, now.term).await {
                Ok(started) => {
                    tracing::info!(raft_term = now.term, "Started what only the leader runs");
                    running = Some(started);
                }
                Err(error) => {
                    tracing::warn!(
                        raft_term = now.term,
                        error = format!("{error:#}"),
                        "Could not start what the leader runs, trying again"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            }
        }
        if leadership.changed().await.is_err() {
            break;
        }
    }
    if let Some(last) = running {
        last.stop().await;
    }
}

/// Whether parts that were started in `term` may go on.
fn keeps(now: Leadership, term: Option<Term>) -> bool {
    now.established && term == Some(now.term)
}

async fn start(parts: &Parts, term: Term) -> anyhow::Result<Running> {
    // everything that was acknowledged before this term is visible from here on
    parts.store.linearizable_view(PATIENCE).await?;
    let elected_at: Timestamp = crate::clock::now();
    let local = |user: &str| Local::new(Arc::clone(&parts.server), User::system(user)).fenced(term);
    let cluster = Arc::new(InProcess::new(local("system:kube-controller-manager")));
    let binder: Arc<dyn SchedulerCluster> = Arc::new(InProcess::new(local("system:kube-scheduler")));
    for object in bootstrap::objects(&parts.facts) {
        cluster.ensure(object).await?;
    }
    // roles live in the namespaces that were just made sure of
    trierarch_apiserver::authorize::bootstrap_policy::reconcile(&local("system:apiserver")).await?;
    let as_cluster: Arc<dyn Cluster> = cluster;
    let clock: trierarch_controllers::Clock = Arc::new(crate::clock::now);
    let mut controllers: Vec<Arc<dyn Controller>> = trierarch_controllers::all(&as_cluster, &parts.controllers, elected_at);
    controllers.push(Arc::new(Signer::new(parts.authority.clone())));
    let controllers = Manager::start_these(Arc::clone(&as_cluster), Arc::clone(&clock), controllers).await;
    let scheduler = Scheduler::start(binder, clock, trierarch_scheduler::Config::default()).await;
    let endpoints = tokio::spawn(endpoints::keep(as_cluster, parts.store.clone()));
    Ok(Running { term, controllers: Some(controllers), scheduler: Some(scheduler), endpoints })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_another_term_must_end() {
        let leader = Leadership { term: 5, leader: Some(1), established: true };
        assert!(keeps(leader, Some(5)));
        assert!(!keeps(leader, Some(4)), "deposed and elected again: the fence of term 4 refuses every write");
        assert!(!keeps(Leadership { established: false, ..leader }, Some(5)));
    }
}
