//! `cordon`, `uncordon`, `drain` and `taint`: which nodes take pods.

use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_api::Reason;
use trierarch_client::{PatchKind, Request};

use crate::kubectl::discovery::escape;
use crate::kubectl::errors;
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report};
use crate::kubectl::output::{line, note};
use crate::kubectl::print::OutputArgs;
use crate::kubectl::select::{self, CHUNK, Found, Narrow, Wanted};
use crate::kubectl::session::Session;
use crate::kubectl::{duration, waiting};

/// A budget that allows no eviction now may allow it later.
const EVICT_AGAIN: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Arguments of `cordon` and `uncordon`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl cordon n1          no new pods on a node
  kubectl uncordon n1        and again")]
pub struct CordonArgs {
    /// Names of nodes
    pub nodes: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
}

async fn find(
    session: &Session,
    verb: &'static str,
    names: &[String],
    selector: Option<&String>,
) -> anyhow::Result<(Vec<Found>, Vec<anyhow::Error>)> {
    if names.is_empty() && selector.is_none() {
        return Err(errors::Usage { verb, message: format!("error: USAGE: {verb} NODE [flags]") }.into());
    }
    if !names.is_empty() && selector.is_some() {
        bail!("error: cannot specify both a node name and a --selector option");
    }
    let node = session.discovery().await?.resource("nodes")?;
    let narrow = Narrow { labels: selector.cloned(), chunk: CHUNK, ..Narrow::default() };
    let wanted = if names.is_empty() {
        vec![Wanted::All { resource: node, namespace: None }]
    } else {
        let bare = |name: &String| name.strip_prefix("node/").or_else(|| name.strip_prefix("nodes/")).unwrap_or(name).to_owned();
        names.iter().map(|name| Wanted::One { resource: node.clone(), namespace: None, name: bare(name), given: None }).collect()
    };
    Ok(select::fetch(session, wanted, &narrow).await)
}

/// Opens or closes nodes.
///
/// # Errors
/// In kubectl's words; every node is tried.
pub async fn cordon(session: &Session, args: CordonArgs, close: bool) -> anyhow::Result<()> {
    let dry_run = args.dry_run.parse()?;
    let (found, mut failures) = find(session, if close { "cordon" } else { "uncordon" }, &args.nodes, args.selector.as_ref()).await?;
    for node in &found {
        if let Err(error) = set_schedulable(session, node, close, dry_run).await {
            failures.push(error);
        }
    }
    errors::aggregate(failures)
}

async fn set_schedulable(session: &Session, node: &Found, close: bool, dry_run: DryRun) -> anyhow::Result<()> {
    let word = if close { "cordoned" } else { "uncordoned" };
    let suffix = mutate::suffix(dry_run);
    if (node.object["spec"]["unschedulable"] == true) == close {
        return line(format!("{} already {word}{suffix}", node.title()));
    }
    if dry_run != DryRun::Client {
        let value = if close { Value::Bool(true) } else { Value::Null };
        let patch = json!({"spec": {"unschedulable": value}});
        mutate::patch(session, &node.path(), &mutate::query(dry_run, "", ""), PatchKind::Strategic, &patch).await?;
    }
    line(format!("{} {word}{suffix}", node.title()))
}

/// Arguments of `drain`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl drain n1 --ignore-daemonsets             move everything off a node before it is served
  kubectl drain n1 --ignore-daemonsets --delete-emptydir-data --force")]
pub struct DrainArgs {
    /// Names of nodes
    pub nodes: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Only pods with these labels
    #[arg(long)]
    pub pod_selector: Option<String>,
    /// Also pods that nobody replaces
    #[arg(long)]
    pub force: bool,
    /// Leave pods of daemon sets
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub ignore_daemonsets: bool,
    /// Also pods with emptyDir volumes: their data is lost
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub delete_emptydir_data: bool,
    /// Seconds that pods get to end; negative: what they say themselves
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub grace_period: i64,
    /// How long to wait at most
    #[arg(long, default_value = "0s")]
    pub timeout: String,
    /// Delete pods instead of evicting them: disruption budgets do not count
    #[arg(long)]
    pub disable_eviction: bool,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
}

/// What happens to a pod of a node that is drained.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Goes,
    Stays,
    GoesWithWarning(&'static str),
    Refuses(&'static str),
}

fn fate(pod: &Value, args: &DrainArgs) -> Fate {
    let controller = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten().find(|owner| owner["controller"] == true);
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return Fate::Stays;
    }
    if controller.is_some_and(|owner| owner["kind"] == "DaemonSet") && !ended {
        return if args.ignore_daemonsets {
            Fate::GoesWithWarning("ignoring DaemonSet-managed Pods")
        } else {
            Fate::Refuses("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)")
        };
    }
    let scratch = pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| volume.get("emptyDir").is_some());
    if scratch && !ended && !args.delete_emptydir_data {
        return Fate::Refuses("cannot delete Pods with local storage (use --delete-emptydir-data to override)");
    }
    if controller.is_none() && !ended {
        return if args.force {
            Fate::GoesWithWarning("deleting Pods that declare no controller")
        } else {
            Fate::Refuses("cannot delete Pods that declare no controller (use --force to override)")
        };
    }
    Fate::Goes
}

/// Moves pods off nodes.
///
/// # Errors
/// In kubectl's words; a node with pods that may not go keeps all of them.
pub async fn drain(session: &Session, args: DrainArgs) -> anyhow::Result<()> {
    let dry_run = args.dry_run.parse()?;
    let timeout = match duration::parse(&args.timeout)? {
        Duration::ZERO => LONGEST,
        limit => limit,
    };
    let (found, mut failures) = find(session, "drain", &args.nodes, args.selector.as_ref()).await?;
    for node in &found {
        set_schedulable(session, node, true, dry_run).await?;
    }
    for node in &found {
        match tokio::time::timeout(timeout, empty(session, node, &args, dry_run)).await {
            Ok(Ok(())) => line(format!("{} drained{}", node.title(), mutate::suffix(dry_run)))?,
            Ok(Err(error)) => {
                note(format!("error: unable to drain node {:?} due to error: {error:#}, continuing command...", node.name));
                failures.push(error);
            }
            Err(_elapsed) => {
                failures.push(anyhow::anyhow!("error when draining node {:?}: global timeout reached: {}", node.name, args.timeout))
            }
        }
    }
    if !failures.is_empty() && !found.is_empty() {
        note("There are pending nodes to be drained:");
        for node in &found {
            note(format!(" {}", node.name));
        }
    }
    errors::aggregate(failures)
}

async fn empty(session: &Session, node: &Found, args: &DrainArgs, dry_run: DryRun) -> anyhow::Result<()> {
    let narrow = Narrow {
        labels: args.pod_selector.clone(),
        fields: Some(format!("spec.nodeName={}", node.name)),
        chunk: CHUNK,
        ..Narrow::default()
    };
    let mut list = select::list(session, "/api/v1/pods", &narrow, None, "").await?;
    let pods = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let title = |pod: &Value| {
        format!("{}/{}", pod["metadata"]["namespace"].as_str().unwrap_or_default(), pod["metadata"]["name"].as_str().unwrap_or_default())
    };
    let mut groups: Vec<(bool, &'static str, Vec<String>)> = Vec::new();
    let mut going = Vec::new();
    for pod in pods {
        let (refuses, text) = match fate(&pod, args) {
            Fate::Stays => continue,
            Fate::Goes => {
                going.push(pod);
                continue;
            }
            Fate::GoesWithWarning(text) => (false, text),
            Fate::Refuses(text) => (true, text),
        };
        match groups.iter_mut().find(|(_, known, _)| *known == text) {
            Some((_, _, names)) => names.push(title(&pod)),
            None => groups.push((refuses, text, vec![title(&pod)])),
        }
        if !refuses && !text.starts_with("ignoring") {
            going.push(pod);
        }
    }
    let told = |refuses: bool| -> Vec<String> {
        groups.iter().filter(|(kind, ..)| *kind == refuses).map(|(_, text, names)| format!("{text}: {}", names.join(", "))).collect()
    };
    let problems = told(true);
    if !problems.is_empty() {
        bail!("[{}]", problems.join(", "));
    }
    let warnings = told(false);
    if !warnings.is_empty() {
        note(format!("Warning: {}", warnings.join("; ")));
    }
    let pod_resource = session.discovery().await?.resource("pods")?;
    let mut waiting_for = Vec::new();
    for pod in going {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let word = if args.disable_eviction { "deleting" } else { "evicting" };
        line(format!("{word} pod {namespace}/{name}{}", mutate::suffix(dry_run)))?;
        if dry_run == DryRun::Client {
            continue;
        }
        remove(session, args, &namespace, &name, dry_run).await?;
        waiting_for.push((
            Found { resource: pod_resource.clone(), namespace: Some(namespace), name, object: Value::Null, source: None },
            text("uid"),
        ));
    }
    if dry_run != DryRun::No {
        return Ok(());
    }
    for (target, uid) in waiting_for {
        waiting::until_gone(session, &target, Some(&uid), LONGEST).await?;
        line(format!("pod/{} {}", target.name, if args.disable_eviction { "deleted" } else { "evicted" }))?;
    }
    Ok(())
}

async fn remove(session: &Session, args: &DrainArgs, namespace: &str, name: &str, dry_run: DryRun) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", escape(namespace), escape(name));
    let mut options = json!({});
    if args.grace_period >= 0 {
        options["gracePeriodSeconds"] = json!(args.grace_period);
    }
    if args.disable_eviction {
        session.json(Request::json(http::Method::DELETE, format!("{path}{}", mutate::query(dry_run, "", "")), &options)).await?;
        return Ok(());
    }
    if dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
    loop {
        match session.json(Request::json(http::Method::POST, format!("{path}/eviction"), &eviction)).await {
            Ok(_) => return Ok(()),
            Err(error) if errors::is(&error, Reason::NotFound) => return Ok(()),
            Err(error) if errors::is(&error, Reason::TooManyRequests) => {
                note(format!("error when evicting pods/{name:?} -n {namespace:?} (will retry after 5s): {error:#}"));
                tokio::time::sleep(EVICT_AGAIN).await;
            }
            Err(error) => bail!("error when evicting pods/{name:?} -n {namespace:?}: {error:#}"),
        }
    }
}

/// Arguments of `taint`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl taint node n1 gpu=yes:NoSchedule        keep pods away that do not tolerate it
  kubectl taint node n1 gpu=no:NoSchedule --overwrite
  kubectl taint node n1 gpu:NoSchedule-           remove it
  kubectl taint node n1 gpu-                      with whatever effect")]
pub struct TaintArgs {
    /// node NAME..., then KEY[=VALUE]:EFFECT to set, KEY- or KEY:EFFECT- to remove
    #[arg(value_name = "WHAT")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Values may change
    #[arg(long)]
    pub overwrite: bool,
    /// Nodes with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// All nodes
    #[arg(long)]
    pub all: bool,
}

/// A change of a node's taints.
#[derive(Debug, PartialEq)]
enum Change {
    Set { key: String, value: String, effect: String },
    Remove { key: String, effect: String },
}

fn change(word: &str) -> anyhow::Result<Change> {
    let effect_problem = |effect: &str| !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
    if let Some(rest) = word.strip_suffix('-') {
        let (key, effect) = rest.split_once(':').unwrap_or((rest, ""));
        let key = key.split('=').next().unwrap_or_default();
        if !effect.is_empty() && effect_problem(effect) {
            bail!("invalid taint effect: {effect}, unsupported taint effect\nSee 'kubectl taint -h' for help and examples");
        }
        return Ok(Change::Remove { key: key.to_owned(), effect: effect.to_owned() });
    }
    let Some((pair, effect)) = word.rsplit_once(':') else {
        bail!("invalid taint spec: {word}, format must be <key>=<value>:<effect> or <key>:<effect>")
    };
    if effect_problem(effect) {
        bail!("invalid taint effect: {effect}, unsupported taint effect\nSee 'kubectl taint -h' for help and examples");
    }
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok(Change::Set { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
}

/// The taints after the changes, and the word for what happened.
fn apply_changes(present: &[Value], changes: &[Change], overwrite: bool, node: &str) -> anyhow::Result<(Vec<Value>, &'static str)> {
    let mut taints = present.to_vec();
    let (mut set, mut removed) = (false, false);
    let mut existing = Vec::new();
    for change in changes {
        match change {
            Change::Set { key, value, effect } => {
                set = true;
                let mut taint = json!({"key": key, "effect": effect});
                if !value.is_empty() {
                    taint["value"] = json!(value);
                }
                match taints.iter_mut().find(|taint| taint["key"] == key.as_str() && taint["effect"] == effect.as_str()) {
                    Some(_) if !overwrite => existing.push(format!("{key}:{effect}")),
                    Some(old) => *old = taint,
                    None => taints.push(taint),
                }
            }
            Change::Remove { key, effect } => {
                let before = taints.len();
                taints.retain(|taint| taint["key"] != key.as_str() || !effect.is_empty() && taint["effect"] != effect.as_str());
                if taints.len() == before {
                    let full = if effect.is_empty() { key.clone() } else { format!("{key}:{effect}") };
                    bail!("taint {full:?} not found");
                }
                removed = true;
            }
        }
    }
    if !existing.is_empty() {
        bail!("node {node} already has {} taint(s) with same effect(s) and --overwrite is false", existing.join(", "));
    }
    Ok((
        taints,
        if set && removed {
            "modified"
        } else if removed {
            "untainted"
        } else {
            "tainted"
        },
    ))
}

/// Sets and removes taints.
///
/// # Errors
/// In kubectl's words; every node is tried.
pub async fn taint(session: &Session, args: TaintArgs) -> anyhow::Result<()> {
    let dry_run = args.dry_run.parse()?;
    let report = Report::new(&args.output, dry_run)?;
    let Some((kind, rest)) = args.words.split_first() else { bail!("at least one taint update is required") };
    if !["node", "nodes", "no"].contains(&kind.as_str()) {
        bail!("invalid resource type {kind}, only node types are supported");
    }
    let first = rest.iter().position(|word| word.contains([':', '=']) || word.ends_with('-')).unwrap_or(rest.len());
    let (names, words) = rest.split_at(first);
    if words.is_empty() {
        bail!("at least one taint update is required");
    }
    if names.is_empty() && args.selector.is_none() && !args.all {
        bail!("at least one resource name must be specified since 'all' parameter is not set");
    }
    let changes: Vec<Change> = words.iter().map(|word| change(word)).collect::<anyhow::Result<_>>()?;
    let everything = String::new();
    let selector = args.selector.as_ref().or_else(|| args.all.then_some(&everything));
    let (found, mut failures) = find(session, "taint", names, selector).await?;
    for node in found {
        let present = node.object["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let outcome = async {
            let (taints, word) = apply_changes(&present, &changes, args.overwrite, &node.name)?;
            let mut object = node.object.clone();
            if dry_run == DryRun::Client {
                object["spec"]["taints"] = json!(taints);
            } else {
                let patch =
                    json!({"metadata": {"resourceVersion": node.object["metadata"]["resourceVersion"]}, "spec": {"taints": taints}});
                object =
                    mutate::patch(session, &node.path(), &mutate::query(dry_run, "kubectl-taint", ""), PatchKind::Merge, &patch).await?;
            }
            anyhow::Ok((object, word))
        }
        .await;
        match outcome {
            Ok((object, word)) => report.show(&object, word)?,
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_set_and_removed() {
        let changes = |words: &[&str]| words.iter().map(|word| change(word).expect("a change")).collect::<Vec<_>>();
        let present = [json!({"key": "a", "value": "1", "effect": "NoSchedule"})];
        let (taints, word) = apply_changes(&present, &changes(&["b=2:NoExecute"]), false, "n").expect("allowed");
        assert_eq!((taints.len(), &taints[1], word), (2, &json!({"key": "b", "value": "2", "effect": "NoExecute"}), "tainted"));
        assert_eq!(apply_changes(&present, &changes(&["a-"]), false, "n").expect("allowed"), (Vec::new(), "untainted"));
        let error = apply_changes(&present, &changes(&["a=2:NoSchedule"]), false, "n").expect_err("refused").to_string();
        assert_eq!(error, "node n already has a:NoSchedule taint(s) with same effect(s) and --overwrite is false");
        assert!(apply_changes(&present, &changes(&["z-"]), false, "n").is_err() && change("a=b").is_err() && change("a:Nope").is_err());
    }

    #[test]
    fn pods_that_nobody_replaces_need_force() {
        let args = |words: &str| {
            use clap::Parser as _;
            #[derive(clap::Parser)]
            struct Line {
                #[command(flatten)]
                args: DrainArgs,
            }
            Line::try_parse_from(words.split(' ')).expect("flags").args
        };
        let owned = |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}, "spec": {}});
        assert_eq!(fate(&owned("ReplicaSet"), &args("drain")), Fate::Goes);
        assert!(matches!(fate(&owned("DaemonSet"), &args("drain")), Fate::Refuses(_)));
        assert!(matches!(fate(&owned("DaemonSet"), &args("drain --ignore-daemonsets")), Fate::GoesWithWarning(_)));
        assert!(matches!(fate(&json!({}), &args("drain")), Fate::Refuses(_)));
        assert!(matches!(fate(&json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}), &args("drain")), Fate::Stays));
        let mut scratch = owned("ReplicaSet");
        scratch["spec"]["volumes"] = json!([{"emptyDir": {}}]);
        assert!(matches!(fate(&scratch, &args("drain")), Fate::Refuses(_)));
        assert_eq!(fate(&scratch, &args("drain --delete-emptydir-data")), Fate::Goes);
    }
}
