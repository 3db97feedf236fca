//! The shell around the core: hears changes, performs effects, many at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, Arbiter, AsyncContext, Context, Handler, Message, SpawnHandle, StreamHandler, WrapFuture,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use trierarch_api::ApiError;
use trierarch_api::status::Reason;

use crate::cluster::{Notice, SchedulerCluster};
use crate::core::{Config, Core, Effect};
use crate::pod::PodInfo;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Only `Stop` comes by mailbox; changes come as a stream.
const MAILBOX: usize = 2;
/// Decisions in a row before changes and outcomes are heard again.
const BATCH: usize = 64;

/// The scheduler of a leading master.
pub struct Scheduler {
    core: Core,
    cluster: Arc<dyn SchedulerCluster>,
    clock: Clock,
    in_flight: usize,
    timer: Option<(Timestamp, SpawnHandle)>,
    again: bool,
    events: u64,
}

/// A running scheduler.
pub struct Handle {
    arbiter: Arbiter,
    actor: Addr<Scheduler>,
}

/// Sent by the owner when leadership ends.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Scheduler {
    /// Starts the scheduler on a thread of its own. Call it on the leader, inside an actix `System`.
    pub async fn start(cluster: Arc<dyn SchedulerCluster>, clock: Clock, config: Config) -> Handle {
        let arbiter = Arbiter::new();
        let (ready, started) = oneshot::channel();
        arbiter.spawn(async move {
            let core = Core::new(config);
            let actor = Self { core, cluster, clock, in_flight: 0, timer: None, again: false, events: 0 }.start();
            if ready.send(actor).is_err() {
                tracing::debug!("Nobody waited for the scheduler to start");
            }
        });
        let actor = started.await.expect("the arbiter was just started and its first task sends before it can end");
        Handle { arbiter, actor }
    }

    fn drive(&mut self, ctx: &mut Context<Self>) {
        for _ in 0..BATCH {
            if self.in_flight >= self.core.config().in_flight_max {
                return;
            }
            let now = (self.clock)();
            let decided = catch_unwind(AssertUnwindSafe(|| self.core.next(now)));
            let effect = match decided {
                Ok(Some(effect)) => effect,
                Ok(None) => {
                    self.set_timer(ctx);
                    return;
                }
                Err(_) => {
                    // the state may be half changed: read everything again
                    tracing::error!("Decision panicked");
                    self.core.resync(&*self.cluster.snapshot(), now);
                    self.look_again(ctx);
                    return;
                }
            };
            self.perform(effect, ctx);
        }
        self.look_again(ctx);
    }

    /// Lets changes and outcomes in before the next decisions.
    fn look_again(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.again, true) {
            ctx.run_later(Duration::ZERO, |actor, ctx| {
                actor.again = false;
                actor.drive(ctx);
            });
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        self.in_flight += 1;
        self.events = self.events.wrapping_add(1);
        let (cluster, now, serial) = (Arc::clone(&self.cluster), (self.clock)(), self.events);
        match effect {
            Effect::Bind { pod, node } => {
                let bound = Arc::clone(&pod);
                let work = async move { bind(&*cluster, &pod, &node, now, serial).await };
                ctx.spawn(work.into_actor(self).map(move |succeeded, actor, ctx| {
                    actor.in_flight -= 1;
                    let now = (actor.clock)();
                    actor.core.bound(&bound, succeeded, now);
                    actor.drive(ctx);
                }));
            }
            Effect::Refuse { pod, message, nominate, victims } => {
                let work = async move {
                    for victim in &victims {
                        evict(&*cluster, &pod, victim, now, serial).await;
                    }
                    refuse(&*cluster, &pod, "Unschedulable", &message, nominate.as_deref(), now).await;
                    tell(&*cluster, &pod, "Warning", "FailedScheduling", &message, now, serial).await;
                };
                self.spawn_quiet(work, ctx);
            }
            Effect::Gate { pod } => {
                let work = async move {
                    refuse(&*cluster, &pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates", None, now).await;
                };
                self.spawn_quiet(work, ctx);
            }
        }
    }

    fn spawn_quiet(&mut self, work: impl Future<Output = ()> + 'static, ctx: &mut Context<Self>) {
        ctx.spawn(work.into_actor(self).map(|(), actor, ctx| {
            actor.in_flight -= 1;
            actor.drive(ctx);
        }));
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(due) = self.core.next_due() else { return };
        if let Some((before, handle)) = &self.timer {
            if *before <= due {
                return;
            }
            ctx.cancel_future(*handle);
        }
        let delay = Duration::try_from(due.duration_since((self.clock)())).unwrap_or_default().max(Duration::from_millis(1));
        let handle = ctx.run_later(delay, |actor, ctx| {
            actor.timer = None;
            actor.drive(ctx);
        });
        self.timer = Some((due, handle));
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        // subscribe first, so that nothing falls between the first look and the first change
        let changes = self.cluster.subscribe();
        let stream = futures::stream::unfold(changes, |mut changes| async move { changes.recv().await.map(|notice| (notice, changes)) });
        ctx.add_stream(stream);
        self.core.resync(&*self.cluster.snapshot(), (self.clock)());
        self.drive(ctx);
    }
}

impl StreamHandler<Notice> for Scheduler {
    fn handle(&mut self, notice: Notice, ctx: &mut Self::Context) {
        let now = (self.clock)();
        match notice {
            Notice::Changed(change) => self.core.changed(&change, now),
            Notice::Resync => self.core.resync(&*self.cluster.snapshot(), now),
        }
        if self.core.is_ready() {
            self.look_again(ctx);
        } else {
            self.set_timer(ctx);
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Stop> for Scheduler {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handle {
    /// Ends the scheduler. Binds under way finish or are refused by the fence; none begins afterwards.
    pub async fn stop(self) {
        if let Err(error) = self.actor.send(Stop).await {
            tracing::debug!(error = %error, "Scheduler had already stopped");
        }
        self.arbiter.stop();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}

async fn bind(cluster: &dyn SchedulerCluster, pod: &PodInfo, node: &str, now: Timestamp, serial: u64) -> bool {
    match cluster.bind(&pod.id, node).await {
        Ok(()) => {
            let message = format!("Successfully assigned {}/{} to {node}", pod.id.namespace, pod.id.name);
            tell(cluster, pod, "Normal", "Scheduled", &message, now, serial).await;
            true
        }
        Err(error) => {
            if !matches!(error.reason, Reason::Conflict | Reason::NotFound) {
                tracing::warn!(namespace = pod.id.namespace, pod = pod.id.name, node, error = %error, "Bind failed and is retried");
                let message = format!("binding rejected: {error}");
                tell(cluster, pod, "Warning", "FailedScheduling", &message, now, serial).await;
            }
            false
        }
    }
}

async fn evict(cluster: &dyn SchedulerCluster, pod: &PodInfo, victim: &PodInfo, now: Timestamp, serial: u64) {
    if victim.deleting {
        return;
    }
    let message = format!("Preempted by pod {} on node {}", pod.id.uid, victim.node.as_deref().unwrap_or_default());
    let condition = json!({"status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "lastTransitionTime": seconds(now),
        "message": format!("{}: preempting to accommodate a higher priority pod", pod.scheduler),
    }]}});
    log_failure(victim, cluster.patch_pod_status(&victim.id, condition).await);
    log_failure(victim, cluster.delete_pod(&victim.id).await);
    tell(cluster, victim, "Normal", "Preempted", &message, now, serial).await;
}

async fn refuse(cluster: &dyn SchedulerCluster, pod: &PodInfo, reason: &str, message: &str, nominate: Option<&str>, now: Timestamp) {
    let mut status = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastTransitionTime": seconds(now),
    }]});
    if let Some(node) = nominate {
        status["nominatedNodeName"] = json!(node);
    }
    log_failure(pod, cluster.patch_pod_status(&pod.id, json!({"status": status})).await);
}

async fn tell(cluster: &dyn SchedulerCluster, pod: &PodInfo, kind: &str, reason: &str, message: &str, now: Timestamp, serial: u64) {
    let event = event(pod, kind, reason, message, now, serial);
    log_failure(pod, cluster.create_event(&pod.id.namespace, event).await);
}

fn event(pod: &PodInfo, kind: &str, reason: &str, message: &str, now: Timestamp, serial: u64) -> Value {
    let unique = now.as_nanosecond().wrapping_add(i128::from(serial));
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{}.{unique:x}", pod.id.name), "namespace": pod.id.namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": pod.id.namespace, "name": pod.id.name, "uid": pod.id.uid},
        "reason": reason, "message": message, "type": kind, "source": {"component": pod.scheduler}, "count": 1,
        "reportingComponent": pod.scheduler, "reportingInstance": "", "firstTimestamp": seconds(now), "lastTimestamp": seconds(now),
    })
}

/// A `metav1.Time`: whole seconds.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Conditions and events are best effort: the next try writes them again.
fn log_failure(pod: &PodInfo, result: Result<(), ApiError>) {
    if let Err(error) = result {
        tracing::debug!(namespace = pod.id.namespace, pod = pod.id.name, error = %error, "Failed to tell about a pod");
    }
}
