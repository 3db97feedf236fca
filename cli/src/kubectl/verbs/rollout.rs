//! `rollout`: how far a workload's change has come, its history, back, again, stop and go.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_client::PatchKind;

use crate::kubectl::manifest::FileArgs;
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report};
use crate::kubectl::output::{emit, line};
use crate::kubectl::print::{OutputArgs, tabs};
use crate::kubectl::select::{self, CHUNK, Found, Narrow};
use crate::kubectl::session::Session;
use crate::kubectl::waiting::{self, Look};
use crate::kubectl::{clock, duration, errors, pods};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Arguments of `rollout`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl rollout status deploy/web            wait until the new pods have replaced the old ones
  kubectl rollout history deploy/web
  kubectl rollout undo deploy/web              back to the revision before
  kubectl rollout undo deploy/web --to-revision=3
  kubectl rollout restart deploy/web           new pods of the same kind, one after another")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

/// Which workloads.
#[derive(clap::Args, Debug)]
pub struct Which {
    /// TYPE NAME... or TYPE/NAME...
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// Objects with these labels
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Wait until a change has been carried out
    Status {
        #[command(flatten)]
        which: Which,
        /// Wait, rather than say once
        #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
        watch: bool,
        /// How long to wait at most
        #[arg(long, default_value = "0s")]
        timeout: String,
        /// End when another change begins
        #[arg(long, default_value_t = 0)]
        revision: i64,
    },
    /// List revisions
    History {
        #[command(flatten)]
        which: Which,
        /// Show this one
        #[arg(long, default_value_t = 0)]
        revision: i64,
    },
    /// Go back to an earlier revision
    Undo {
        #[command(flatten)]
        which: Which,
        /// To this one; 0 for the one before
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        dry_run: DryRunArgs,
    },
    /// Replace all pods by new ones
    Restart {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Let changes wait
    Pause {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Let changes go on
    Resume {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: OutputArgs,
    },
}

async fn find(session: &Session, which: &Which) -> anyhow::Result<(Vec<Found>, Vec<anyhow::Error>)> {
    if which.what.is_empty() && which.files.is_empty() {
        bail!("required resource not specified");
    }
    let narrow = Narrow { labels: which.selector.clone(), all: which.what.len() == 1, chunk: CHUNK, ..Narrow::default() };
    let slash = which.what.iter().any(|word| word.contains('/'));
    select::find(session, &which.what, &which.files, &Narrow { all: narrow.all && !slash, ..narrow }).await
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::Status { which, watch, timeout, revision } => {
            let timeout = match duration::parse(&timeout)? {
                Duration::ZERO => LONGEST,
                limit => limit,
            };
            let (found, failures) = find(session, &which).await?;
            errors::aggregate(failures)?;
            for one in found {
                status(session, &one, watch, timeout, revision).await?;
            }
            Ok(())
        }
        Action::History { which, revision } => {
            let (found, mut failures) = find(session, &which).await?;
            for one in found {
                if let Err(error) = history(session, &one, revision).await {
                    failures.push(error);
                }
            }
            errors::aggregate(failures)
        }
        Action::Undo { which, to_revision, output, dry_run } => {
            let dry_run = dry_run.parse()?;
            if to_revision < 0 {
                bail!("invalid revision: {to_revision}");
            }
            let report = Report::new(&output, dry_run)?;
            each(session, &which, &report, |one| async move { undo(session, &one, to_revision, dry_run).await }).await
        }
        Action::Restart { which, output } => {
            let report = Report::new(&output, DryRun::No)?;
            each(session, &which, &report, |one| async move {
                if !["deployments", "daemonsets", "statefulsets"].contains(&one.resource.plural.as_str()) {
                    bail!("restarting is not supported");
                }
                if one.object["spec"]["paused"] == true {
                    bail!("can't restart paused deployment (run rollout resume first)");
                }
                let now = clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let patch = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
                Ok((change(session, &one, &patch, DryRun::No).await?, "restarted".to_owned()))
            })
            .await
        }
        Action::Pause { which, output } => {
            let report = Report::new(&output, DryRun::No)?;
            each(session, &which, &report, |one| async move { pause(session, &one, true).await }).await
        }
        Action::Resume { which, output } => {
            let report = Report::new(&output, DryRun::No)?;
            each(session, &which, &report, |one| async move { pause(session, &one, false).await }).await
        }
    }
}

async fn each<F>(session: &Session, which: &Which, report: &Report, act: impl Fn(Found) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<(Value, String)>>,
{
    let (found, mut failures) = find(session, which).await?;
    for one in found {
        match act(one).await {
            Ok((object, word)) => report.show(&object, &word)?,
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)
}

async fn change(session: &Session, one: &Found, patch: &Value, dry_run: DryRun) -> anyhow::Result<Value> {
    mutate::patch(session, &one.path(), &mutate::query(dry_run, "kubectl-rollout", ""), PatchKind::Strategic, patch).await
}

async fn pause(session: &Session, one: &Found, stop: bool) -> anyhow::Result<(Value, String)> {
    let title = format!("{} {:?}", one.resource.group_resource(), one.name);
    if one.resource.plural != "deployments" {
        bail!("{title} {} is not supported", if stop { "pausing" } else { "resuming" });
    }
    if (one.object["spec"]["paused"] == true) == stop {
        bail!("{title} is {}", if stop { "already paused" } else { "not paused" });
    }
    let value = if stop { Value::Bool(true) } else { Value::Null };
    let object = change(session, one, &json!({"spec": {"paused": value}}), DryRun::No).await?;
    Ok((object, (if stop { "paused" } else { "resumed" }).to_owned()))
}

/// What `status` says, and whether that is all.
fn progress(kind: &str, object: &Value) -> anyhow::Result<(String, bool)> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let (spec, status) = (&object["spec"], &object["status"]);
    let observed = number(&object["metadata"]["generation"]) <= number(&status["observedGeneration"]);
    match kind {
        "Deployment" => {
            if !observed {
                return Ok(("Waiting for deployment spec update to be observed...".to_owned(), false));
            }
            let late = status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded");
            if late {
                bail!("deployment {name:?} exceeded its progress deadline");
            }
            let wanted = spec["replicas"].as_i64().unwrap_or(1);
            let (total, updated, available) =
                (number(&status["replicas"]), number(&status["updatedReplicas"]), number(&status["availableReplicas"]));
            let waiting = format!("Waiting for deployment {name:?} rollout to finish: ");
            Ok(if updated < wanted {
                (format!("{waiting}{updated} out of {wanted} new replicas have been updated..."), false)
            } else if total > updated {
                (format!("{waiting}{} old replicas are pending termination...", total - updated), false)
            } else if available < updated {
                (format!("{waiting}{available} of {updated} updated replicas are available..."), false)
            } else {
                (format!("deployment {name:?} successfully rolled out"), true)
            })
        }
        "DaemonSet" => {
            if spec["updateStrategy"]["type"] == "OnDelete" {
                bail!("rollout status is only available for RollingUpdate strategy type");
            }
            if !observed {
                return Ok(("Waiting for daemon set spec update to be observed...".to_owned(), false));
            }
            let (wanted, updated, available) =
                (number(&status["desiredNumberScheduled"]), number(&status["updatedNumberScheduled"]), number(&status["numberAvailable"]));
            let waiting = format!("Waiting for daemon set {name:?} rollout to finish: ");
            Ok(if updated < wanted {
                (format!("{waiting}{updated} out of {wanted} new pods have been updated..."), false)
            } else if available < wanted {
                (format!("{waiting}{available} of {wanted} updated pods are available..."), false)
            } else {
                (format!("daemon set {name:?} successfully rolled out"), true)
            })
        }
        "StatefulSet" => {
            if spec["updateStrategy"]["type"] == "OnDelete" {
                bail!("rollout status is only available for RollingUpdate strategy type");
            }
            if !observed {
                return Ok(("Waiting for statefulset spec update to be observed...".to_owned(), false));
            }
            let wanted = spec["replicas"].as_i64().unwrap_or(1);
            let (ready, updated) = (number(&status["readyReplicas"]), number(&status["updatedReplicas"]));
            if ready < wanted {
                return Ok((format!("Waiting for {} pods to be ready...", wanted - ready), false));
            }
            let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"]);
            if partition > 0 {
                return Ok(if updated < wanted - partition {
                    (
                        format!(
                            "Waiting for partitioned roll out to finish: {updated} out of {} new pods have been updated...",
                            wanted - partition
                        ),
                        false,
                    )
                } else {
                    (format!("partitioned roll out complete: {updated} new pods have been updated..."), true)
                });
            }
            let revision = status["updateRevision"].as_str().unwrap_or_default();
            Ok(if status["updateRevision"] == status["currentRevision"] {
                (format!("statefulset rolling update complete {} pods at revision {revision}...", number(&status["currentReplicas"])), true)
            } else {
                (format!("waiting for statefulset rolling update to complete {updated} pods at revision {revision}..."), false)
            })
        }
        other => bail!("no status viewer has been implemented for {other}"),
    }
}

async fn status(session: &Session, one: &Found, watch: bool, timeout: Duration, revision: i64) -> anyhow::Result<()> {
    let kind = one.resource.kind.clone();
    let check = |object: &Value| -> anyhow::Result<(String, bool)> {
        let current = object["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse::<i64>().ok());
        if revision > 0 && current.is_some_and(|current| current != revision) {
            bail!("desired revision ({revision}) is different from the running revision ({})", current.unwrap_or(0));
        }
        progress(&kind, object)
    };
    if !watch {
        return line(check(&one.object)?.0);
    }
    // a word that was said is not said again
    let said = RefCell::new(String::new());
    waiting::until(session, one, timeout, |seen| {
        let Some(object) = seen else {
            return Ok(Look::Never("object has been deleted".to_owned()));
        };
        let (text, done) = check(object)?;
        if *said.borrow() != text {
            line(&text)?;
            said.replace(text);
        }
        Ok(if done { Look::Done } else { Look::Wait })
    })
    .await
    .map(drop)
}

/// Revisions of a workload: number, change cause, pod template, newest last.
async fn revisions(session: &Session, one: &Found) -> anyhow::Result<Vec<(i64, Option<String>, Value)>> {
    let Some(labels) = pods::selector_of(&one.object) else { bail!("the object has no selector") };
    let narrow = Narrow { labels: Some(labels), ..Narrow::default() };
    let namespace = one.namespace.as_deref().unwrap_or_default();
    let of_deployment = one.resource.kind == "Deployment";
    let path = format!("/apis/apps/v1/namespaces/{namespace}/{}", if of_deployment { "replicasets" } else { "controllerrevisions" });
    let list = select::list(session, &path, &narrow, None, "").await?;
    let uid = &one.object["metadata"]["uid"];
    let mut found = Vec::new();
    for entry in list["items"].as_array().into_iter().flatten() {
        let owned = entry["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(|owner| owner["uid"] == *uid);
        if !owned {
            continue;
        }
        let cause = entry["metadata"]["annotations"][CAUSE].as_str().map(str::to_owned);
        let (number, template) = if of_deployment {
            let number = entry["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            (number, entry["spec"]["template"].clone())
        } else {
            (entry["revision"].as_i64().unwrap_or(0), entry["data"]["spec"]["template"].clone())
        };
        found.push((number, cause, template));
    }
    found.sort_by_key(|(number, ..)| *number);
    Ok(found)
}

async fn history(session: &Session, one: &Found, revision: i64) -> anyhow::Result<()> {
    if !["Deployment", "DaemonSet", "StatefulSet"].contains(&one.resource.kind.as_str()) {
        bail!("no history viewer has been implemented for {}", one.resource.kind);
    }
    let all = revisions(session, one).await?;
    if revision > 0 {
        let Some((_, cause, template)) = all.iter().find(|(number, ..)| *number == revision) else {
            bail!("unable to find the specified revision")
        };
        let mut text = format!("{} with revision #{revision}\n", one.title());
        text.push_str(&crate::kubectl::describe::pod::template(template, cause.as_deref()));
        return emit(&text);
    }
    let mut text = "REVISION\tCHANGE-CAUSE\n".to_owned();
    for (number, cause, _) in &all {
        text.push_str(&format!("{number}\t{}\n", cause.as_deref().unwrap_or("<none>")));
    }
    emit(&format!("{} \n{}\n", one.title(), tabs::describe(&text)))
}

async fn undo(session: &Session, one: &Found, to: i64, dry_run: DryRun) -> anyhow::Result<(Value, String)> {
    if !["Deployment", "DaemonSet", "StatefulSet"].contains(&one.resource.kind.as_str()) {
        let (group, kind) = (&one.resource.group, &one.resource.kind);
        bail!("error retrieving rollbacker for {kind:?}, no visitor method exists for {{{group} {kind}}}");
    }
    if one.object["spec"]["paused"] == true {
        bail!("you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again");
    }
    let all = revisions(session, one).await?;
    let chosen = if to > 0 { all.iter().find(|(number, ..)| *number == to) } else { all.len().checked_sub(2).and_then(|at| all.get(at)) };
    let Some((number, cause, template)) = chosen else {
        if to > 0 {
            bail!("unable to find specified revision {to} in history");
        }
        bail!("no rollout history found for {} {:?}", one.resource.kind.to_lowercase(), one.name);
    };
    let bare = without_hash(template);
    if bare == without_hash(&one.object["spec"]["template"]) {
        return Ok((one.object.clone(), format!("skipped rollback (current template already matches revision {number})")));
    }
    if dry_run == DryRun::Client {
        let mut object = one.object.clone();
        object["spec"]["template"] = bare;
        return Ok((object, "rolled back".to_owned()));
    }
    // the template as a whole: what the newer one added must go
    let mut operations = vec![json!({"op": "replace", "path": "/spec/template", "value": bare})];
    if one.object["metadata"]["annotations"].is_object() {
        let key = CAUSE.replace('/', "~1");
        let present = one.object["metadata"]["annotations"][CAUSE].is_string();
        match cause {
            Some(cause) => operations.push(json!({"op": "add", "path": format!("/metadata/annotations/{key}"), "value": cause})),
            None if present => operations.push(json!({"op": "remove", "path": format!("/metadata/annotations/{key}")})),
            None => {}
        }
    }
    let query = mutate::query(dry_run, "kubectl-rollout", "");
    let object = mutate::patch(session, &one.path(), &query, PatchKind::Json, &Value::Array(operations)).await?;
    Ok((object, "rolled back".to_owned()))
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove("pod-template-hash");
    }
    if let Some(map) = template.as_object_mut() {
        map.remove("$patch");
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_tell_how_far_they_are() {
        let deployment = |status: Value| json!({"metadata": {"name": "x", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        let check = |status: Value, expected: &str, done: bool| {
            assert_eq!(progress("Deployment", &deployment(status)).expect("told"), (expected.to_owned(), done));
        };
        check(json!({"observedGeneration": 1}), "Waiting for deployment spec update to be observed...", false);
        check(
            json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 3}),
            "Waiting for deployment \"x\" rollout to finish: 1 out of 3 new replicas have been updated...",
            false,
        );
        check(
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}),
            "Waiting for deployment \"x\" rollout to finish: 1 old replicas are pending termination...",
            false,
        );
        check(
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
            "Waiting for deployment \"x\" rollout to finish: 2 of 3 updated replicas are available...",
            false,
        );
        check(
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
            "deployment \"x\" successfully rolled out",
            true,
        );
        let late =
            deployment(json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}));
        assert_eq!(progress("Deployment", &late).expect_err("late").to_string(), "deployment \"x\" exceeded its progress deadline");
        assert!(progress("Pod", &json!({})).is_err());
    }

    #[test]
    fn a_template_is_compared_without_its_hash() {
        let template = json!({"metadata": {"labels": {"a": "b", "pod-template-hash": "1"}, "creationTimestamp": null}, "spec": {}});
        assert_eq!(without_hash(&template), json!({"metadata": {"labels": {"a": "b"}}, "spec": {}}));
    }
}
