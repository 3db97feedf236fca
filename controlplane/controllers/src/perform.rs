//! Performs a plan: writes in order, creates in growing batches, and says what came of it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use trierarch_api::ApiError;
use trierarch_api::status::Reason;

use crate::action::{Action, Plan, Reports};
use crate::cluster::Cluster;
use crate::events::Recorder;

const DELETES_IN_FLIGHT: usize = 64;
const UNKNOWN_RETRIES: u32 = 20;
const UNKNOWN_PAUSE: Duration = Duration::from_millis(100);

/// Which kind of write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A create.
    Create,
    /// A delete.
    Delete,
    /// Anything else.
    Write,
}

/// Why the last plan for a key could not be performed: the next decision may want to tell users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried.
    pub step: Step,
    /// Kubernetes' wording.
    pub message: String,
}

/// What came of a plan.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// Something changed meanwhile: look again soon.
    Stale,
    /// The namespace is going away: there is no point in another try.
    Pointless,
    /// A write was refused or failed.
    Failed(Failure),
}

/// Performs a plan.
pub async fn perform(cluster: &Arc<dyn Cluster>, recorder: &Recorder, plan: Plan) -> Outcome {
    let mut outcome = act(cluster, recorder, plan.actions).await;
    if let Some(status) = plan.status {
        let written = cluster.update_status(&status.key, status.object).await.map(|_| ());
        let written = judge(Step::Write, gone_is_fine(written));
        if outcome == Outcome::Done {
            outcome = written;
        }
    }
    outcome
}

async fn act(cluster: &Arc<dyn Cluster>, recorder: &Recorder, actions: Vec<Action>) -> Outcome {
    let mut actions = actions.into_iter().peekable();
    while let Some(action) = actions.next() {
        let outcome = match action {
            Action::Create { .. } => {
                let mut creates = vec![action];
                while let Some(next) = actions.next_if(|next| matches!(next, Action::Create { .. })) {
                    creates.push(next);
                }
                create_all(cluster, recorder, creates).await
            }
            Action::Delete { key, options, reports } => {
                let mut deletes = vec![(key, options, reports)];
                while let Some(next) = actions.next_if(|next| matches!(next, Action::Delete { .. })) {
                    if let Action::Delete { key, options, reports } = next {
                        deletes.push((key, options, reports));
                    }
                }
                let outcomes: Vec<Outcome> = stream::iter(deletes)
                    .map(|(key, options, reports)| async move {
                        let result = cluster.delete(&key, options).await;
                        // deleted by someone else: nothing to tell
                        if !matches!(&result, Err(error) if error.reason == Reason::NotFound) {
                            report(recorder, reports, result.as_ref().err());
                        }
                        judge(Step::Delete, gone_is_fine(result.map(|_| ())))
                    })
                    .buffer_unordered(DELETES_IN_FLIGHT)
                    .collect()
                    .await;
                worst(outcomes)
            }
            Action::Update { key, object } => judge(Step::Write, gone_is_fine(cluster.update(&key, object).await.map(|_| ()))),
            Action::Patch { key, kind, patch, subresource } => {
                judge(Step::Write, gone_is_fine(cluster.patch(&key, kind, patch, subresource).await.map(|_| ())))
            }
            Action::Finalize { name, object } => judge(Step::Write, gone_is_fine(cluster.finalize_namespace(&name, object).await)),
            Action::Record(report) => {
                recorder.record(report);
                Outcome::Done
            }
        };
        if outcome != Outcome::Done {
            return outcome;
        }
    }
    Outcome::Done
}

/// 1, then 2, then 4, ... at a time: when everything is refused (quota), only one useless request is made.
async fn create_all(cluster: &Arc<dyn Cluster>, recorder: &Recorder, creates: Vec<Action>) -> Outcome {
    let mut left = creates.into_iter();
    let mut batch_size = 1;
    loop {
        let batch: Vec<Action> = left.by_ref().take(batch_size).collect();
        if batch.is_empty() {
            return Outcome::Done;
        }
        let outcome = worst(join_all(batch.into_iter().map(|action| create(cluster, recorder, action))).await);
        if outcome != Outcome::Done {
            return outcome;
        }
        batch_size *= 2;
    }
}

async fn create(cluster: &Arc<dyn Cluster>, recorder: &Recorder, action: Action) -> Outcome {
    let Action::Create { resource, namespace, object, reports } = action else {
        return Outcome::Done;
    };
    let mut tries = 0;
    let result = loop {
        let result = cluster.create(&resource, &namespace, object.clone()).await;
        match result {
            // The outcome is unknown. The name is fixed, so trying again cannot create twice.
            Err(error) if matches!(error.reason, Reason::Timeout | Reason::ServiceUnavailable) && tries < UNKNOWN_RETRIES => {
                tries += 1;
                tokio::time::sleep(UNKNOWN_PAUSE).await;
            }
            Err(error) if error.reason == Reason::AlreadyExists && tries > 0 => break Ok(()),
            other => break other.map(|_| ()),
        }
    };
    match &result {
        Err(error) if error.reason == Reason::AlreadyExists => Outcome::Stale,
        Err(error) if namespace_is_terminating(error) => Outcome::Pointless,
        _ => {
            report(recorder, reports, result.as_ref().err());
            judge(Step::Create, result)
        }
    }
}

fn namespace_is_terminating(error: &ApiError) -> bool {
    error.reason == Reason::Forbidden
        && (error.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
            || error.message.contains("because it is being terminated"))
}

fn report(recorder: &Recorder, reports: Reports, error: Option<&ApiError>) {
    match error {
        None => {
            if let Some(report) = reports.success {
                recorder.record(report);
            }
        }
        Some(error) => {
            if let Some(mut report) = reports.failure {
                report.message.push_str(&error.message);
                recorder.record(report);
            }
        }
    }
}

fn gone_is_fine(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if error.reason == Reason::NotFound => Ok(()),
        other => other,
    }
}

fn judge(step: Step, result: Result<(), ApiError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) if error.reason == Reason::Conflict => Outcome::Stale,
        Err(error) => Outcome::Failed(Failure { step, message: error.message }),
    }
}

fn worst(outcomes: Vec<Outcome>) -> Outcome {
    let rank = |outcome: &Outcome| match outcome {
        Outcome::Done => 0,
        Outcome::Stale => 1,
        Outcome::Pointless => 2,
        Outcome::Failed(_) => 3,
    };
    outcomes.into_iter().max_by_key(rank).unwrap_or(Outcome::Done)
}
