//! The one shell around every controller: takes keys from the queue, asks for a plan, performs it, backs off.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context as ActorShell, Handler, Message, SpawnHandle, WrapFuture};
use actix::{ActorFutureExt, Addr};
use jiff::Timestamp;
use parking_lot::Mutex;
use trierarch_api::snapshot::Change;
use trierarch_api::{ObjectKey, Snapshot};

use crate::action::Plan;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::events::Recorder;
use crate::perform::{Failure, Outcome, perform};
use crate::work_queue::WorkQueue;

/// Kicks carry nothing: one that waits is as good as many.
const MAILBOX: usize = 4;
/// Plans of one controller that are performed at the same time.
const IN_FLIGHT_MAX: usize = 32;

/// What a decision may look at.
pub struct Context<'a> {
    /// All objects at one revision.
    pub view: &'a dyn Snapshot,
    /// The time.
    pub now: Timestamp,
    /// Why the last plan for this key could not be performed.
    pub failure: Option<&'a Failure>,
}

/// A controller: which keys there are, which of them a change concerns, and what to do about one.
pub trait Controller: Send + Sync + 'static {
    /// As upstream names it in Events.
    fn name(&self) -> &'static str;
    /// Every key.
    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey>;
    /// The keys that a change may concern; too many is slow, too few is wrong.
    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>);
    /// Reads and decides. Pure but for what the controller remembers of earlier observations.
    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan;
}

/// The queue that the dispatcher fills and the runner empties.
#[derive(Clone, Default)]
pub(crate) struct SharedQueue(pub(crate) Arc<Mutex<WorkQueue>>);

/// Sent by the dispatcher after it filled the queue; at most [`MAILBOX`] wait.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Kick;

/// Sent by the manager when leadership ends.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

/// The actor of one controller.
pub(crate) struct Runner {
    controller: Arc<dyn Controller>,
    cluster: Arc<dyn Cluster>,
    clock: Clock,
    recorder: Recorder,
    queue: SharedQueue,
    failures: HashMap<ObjectKey, Failure>,
    in_flight: usize,
    timer: Option<(Timestamp, SpawnHandle)>,
}

impl Runner {
    pub(crate) fn new(
        controller: Arc<dyn Controller>,
        cluster: Arc<dyn Cluster>,
        clock: Clock,
        recorder: Recorder,
        queue: SharedQueue,
    ) -> Self {
        Self { controller, cluster, clock, recorder, queue, failures: HashMap::new(), in_flight: 0, timer: None }
    }

    fn drive(&mut self, ctx: &mut ActorShell<Self>) {
        while self.in_flight < IN_FLIGHT_MAX {
            let now = (self.clock)();
            let Some(key) = self.queue.0.lock().take(now) else { break };
            let view = self.cluster.snapshot();
            let context = Context { view: &*view, now, failure: self.failures.get(&key) };
            match catch_unwind(AssertUnwindSafe(|| self.controller.decide(&key, &context))) {
                Ok(plan) => self.start(key, plan, ctx),
                Err(panic) => {
                    let text = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied())
                        .unwrap_or("unknown");
                    tracing::error!(
                        controller = self.controller.name(),
                        namespace = key.namespace,
                        name = key.name,
                        error = text,
                        "Decision panicked"
                    );
                    let mut queue = self.queue.0.lock();
                    queue.add_backed_off(key.clone(), now);
                    queue.done(&key);
                }
            }
        }
        self.set_timer(ctx);
    }

    fn start(&mut self, key: ObjectKey, plan: Plan, ctx: &mut ActorShell<Self>) {
        let requeue_after = plan.requeue_after;
        if plan.is_empty() {
            self.finish(&key, requeue_after, Outcome::Done);
            return;
        }
        tracing::debug!(
            controller = self.controller.name(),
            namespace = key.namespace,
            name = key.name,
            actions = plan.actions.len(),
            status = plan.status.is_some(),
            "Performing a plan"
        );
        self.in_flight += 1;
        let (cluster, recorder) = (Arc::clone(&self.cluster), self.recorder.clone());
        let work = async move { perform(&cluster, &recorder, plan).await };
        ctx.spawn(work.into_actor(self).map(move |outcome, runner, ctx| {
            runner.in_flight -= 1;
            runner.finish(&key, requeue_after, outcome);
            runner.drive(ctx);
        }));
    }

    fn finish(&mut self, key: &ObjectKey, requeue_after: Option<Duration>, outcome: Outcome) {
        let now = (self.clock)();
        let mut queue = self.queue.0.lock();
        match outcome {
            Outcome::Done | Outcome::Pointless => {
                queue.succeeded(key);
                self.failures.remove(key);
            }
            Outcome::Stale => queue.add_backed_off(key.clone(), now),
            Outcome::Failed(failure) => {
                tracing::warn!(
                    controller = self.controller.name(),
                    namespace = key.namespace,
                    name = key.name,
                    attempt = queue.failures(key),
                    error = failure.message,
                    "Plan failed and is retried"
                );
                self.failures.insert(key.clone(), failure);
                queue.add_backed_off(key.clone(), now);
            }
        }
        if let Some(delay) = requeue_after {
            queue.add_at(key.clone(), now.saturating_add(delay).unwrap_or(now));
        }
        queue.done(key);
    }

    fn set_timer(&mut self, ctx: &mut ActorShell<Self>) {
        let Some(due) = self.queue.0.lock().next_due() else { return };
        if let Some((before, handle)) = &self.timer {
            if *before <= due {
                return;
            }
            ctx.cancel_future(*handle);
        }
        let now = (self.clock)();
        let delay = Duration::try_from(due.duration_since(now)).unwrap_or_default().max(Duration::from_millis(1));
        let handle = ctx.run_later(delay, |runner, ctx| {
            runner.timer = None;
            runner.drive(ctx);
        });
        self.timer = Some((due, handle));
    }
}

impl Actor for Runner {
    type Context = ActorShell<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.drive(ctx);
    }
}

impl Handler<Kick> for Runner {
    type Result = ();

    fn handle(&mut self, _: Kick, ctx: &mut Self::Context) {
        self.drive(ctx);
    }
}

impl Handler<Stop> for Runner {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// What the dispatcher knows of a running controller.
pub(crate) struct Running {
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) queue: SharedQueue,
    pub(crate) runner: Addr<Runner>,
}

impl Running {
    /// Queues keys and wakes the runner. A full mailbox already holds a kick.
    pub(crate) fn wake(&self, keys: Vec<ObjectKey>) {
        if keys.is_empty() {
            return;
        }
        {
            let mut queue = self.queue.0.lock();
            for key in keys {
                queue.add(key);
            }
        }
        if let Err(error) = self.runner.try_send(Kick) {
            tracing::trace!(controller = self.controller.name(), error = %error, "Kick was not needed");
        }
    }
}
