//! `delete`: removes objects, and waits until they are gone.

use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_api::Reason;
use trierarch_client::Request;

use crate::kubectl::errors::{self, with_source};
use crate::kubectl::manifest::FileArgs;
use crate::kubectl::mutate::{self, DryRun, DryRunArgs};
use crate::kubectl::output::{emit, note};
use crate::kubectl::select::{self, CHUNK, Found, Narrow, Wanted};
use crate::kubectl::session::Session;
use crate::kubectl::{duration, waiting};

/// Waiting without `--timeout` ends after a week.
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Arguments of `delete`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl delete -f app.yaml                  what a file names
  kubectl delete pod a b                      by name
  kubectl delete deploy,svc -l app=shop       by label
  kubectl delete pods --all                   every object of a type in the namespace
  kubectl delete pod a --now                  with one second to end
  kubectl delete pod a --grace-period=0 --force   without waiting for its node")]
pub struct Args {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Objects with these fields
    #[arg(long)]
    pub field_selector: Option<String>,
    /// All objects of the type in the namespace
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Seconds that objects get to end; negative: what they say themselves
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub grace_period: i64,
    /// Do not wait for the node's word
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub force: bool,
    /// One second to end
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub now: bool,
    /// What happens to dependents: background, foreground or orphan
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "background", default_value = "background")]
    pub cascade: String,
    /// Wait until the objects are gone
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub wait: bool,
    /// How long to wait at most
    #[arg(long, default_value = "0s")]
    pub timeout: String,
    /// A missing object is no failure
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub ignore_not_found: Option<bool>,
    /// name: print names only
    #[arg(short, long)]
    pub output: Option<String>,
    /// Delete what an address names
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// Ask before
    #[arg(short, long)]
    pub interactive: bool,
}

impl Args {
    fn validate(&mut self) -> anyhow::Result<&'static str> {
        if let Some(form) = self.output.as_deref().filter(|form| !form.is_empty() && *form != "name") {
            bail!("unexpected -o output mode: {form}. We only support '-o name'");
        }
        if self.all && self.selector.is_some() {
            bail!("cannot set --all and --selector at the same time");
        }
        if self.all && self.field_selector.is_some() {
            bail!("cannot set --all and --field-selector at the same time");
        }
        if self.now && self.grace_period != -1 {
            bail!("--now and --grace-period cannot be specified together");
        }
        if self.now {
            self.grace_period = 1;
        }
        if self.grace_period > 0 && self.force {
            bail!("--force and --grace-period greater than 0 cannot be specified together");
        }
        if self.grace_period == 0 && !self.force {
            // without --force the API server still lets the node say when it is over
            self.grace_period = 1;
            self.wait = true;
        } else if self.force && self.grace_period < 0 {
            self.grace_period = 0;
        }
        if self.grace_period == 0 && self.force {
            note(
                "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.",
            );
        }
        Ok(match self.cascade.as_str() {
            "background" | "true" => "Background",
            "foreground" => "Foreground",
            "orphan" | "false" => "Orphan",
            other => bail!("invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""),
        })
    }
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, mut args: Args) -> anyhow::Result<()> {
    if let Some(path) = &args.raw {
        let answer = session.send(Request { method: http::Method::DELETE, ..Request::get(path.clone()) }).await?;
        return crate::kubectl::output::emit_bytes(&answer.body);
    }
    let policy = args.validate()?;
    let dry_run = args.dry_run.parse()?;
    let timeout = match duration::parse(&args.timeout)? {
        Duration::ZERO => LONGEST_WAIT,
        limit => limit,
    };
    let selected = args.selector.is_some() || args.field_selector.is_some() || args.all;
    let narrow = Narrow {
        labels: args.selector.clone(),
        fields: args.field_selector.clone(),
        all_namespaces: args.all_namespaces,
        all: args.all,
        chunk: CHUNK,
    };
    let ignore_missing = args.ignore_not_found.unwrap_or(selected);
    let (targets, mut failures) = targets(session, &args, &narrow, selected).await?;
    if args.interactive && !confirmed(&targets)? {
        return emit("deletion is cancelled\n");
    }
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    if args.grace_period >= 0 {
        options["gracePeriodSeconds"] = json!(args.grace_period);
    }
    let mut warned = false;
    let mut deleted = Vec::new();
    let nothing = targets.is_empty();
    for target in targets {
        if session.namespace_given && !target.resource.namespaced && !warned {
            note("Warning: deleting cluster-scoped resources, not scoped to the provided namespace");
            warned = true;
        }
        if dry_run == DryRun::Client {
            emit(&said(&args, dry_run, &target))?;
            deleted.push((target, Value::Null));
            continue;
        }
        match delete(session, &target, &options, dry_run).await {
            Ok(answer) => {
                emit(&said(&args, dry_run, &target))?;
                deleted.push((target, answer));
            }
            Err(error) if ignore_missing && errors::is(&error, Reason::NotFound) => {}
            Err(error) => failures.push(with_source(error, "deleting", target.source.as_deref())),
        }
    }
    if !failures.is_empty() {
        return errors::aggregate(failures);
    }
    if nothing {
        return emit("No resources found\n");
    }
    if args.wait && dry_run == DryRun::No {
        for (target, answer) in &deleted {
            let uid = uid_of(answer);
            let ended = waiting::until_gone(session, target, uid.as_deref(), timeout).await;
            match ended {
                Err(error) if errors::is(&error, Reason::Forbidden) || errors::is(&error, Reason::MethodNotAllowed) => {}
                outcome => outcome?,
            }
        }
    }
    Ok(())
}

async fn targets(session: &Session, args: &Args, narrow: &Narrow, selected: bool) -> anyhow::Result<(Vec<Found>, Vec<anyhow::Error>)> {
    let discovery = session.discovery().await?;
    let wanted = if args.files.is_empty() {
        if args.what.is_empty() {
            bail!("{}", select::NOTHING_NAMED);
        }
        let wanted = select::arguments(&discovery, &args.what, &session.namespace, narrow)?;
        if !selected && wanted.iter().any(|one| matches!(one, Wanted::All { .. })) {
            bail!("resource(s) were provided, but no name was specified");
        }
        wanted
    } else {
        select::files(&discovery, args.files.load()?, session)?
    };
    // an object that is named need not be read before it goes
    let (mut found, mut lists) = (Vec::new(), Vec::new());
    for one in wanted {
        match one {
            Wanted::One { resource, namespace, name, given } => {
                let source = given.map(|given| given.source);
                found.push(Found { resource, namespace, name, object: Value::Null, source });
            }
            list @ Wanted::All { .. } => lists.push(list),
        }
    }
    let (listed, failures) = select::fetch(session, lists, narrow).await;
    found.extend(listed);
    Ok((found, failures))
}

fn confirmed(targets: &[Found]) -> anyhow::Result<bool> {
    let names: String = targets.iter().map(|target| target.title() + "\n").collect();
    emit(&format!("You are about to delete the following {} resource(s):\n{names}Do you want to continue? (y/N): ", targets.len()))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

fn said(args: &Args, dry_run: DryRun, target: &Found) -> String {
    if args.output.as_deref() == Some("name") {
        return format!("{}\n", target.title());
    }
    let forced = if args.grace_period == 0 { "force " } else { "" };
    let place = target.namespace.as_ref().map(|namespace| format!(" from {namespace} namespace")).unwrap_or_default();
    format!("{} {:?} {forced}deleted{place}{}\n", target.resource.kind_name(), target.name, mutate::suffix(dry_run))
}

async fn delete(session: &Session, target: &Found, options: &Value, dry_run: DryRun) -> anyhow::Result<Value> {
    let path = format!("{}{}", target.path(), mutate::query(dry_run, "", ""));
    session.json(Request::json(http::Method::DELETE, path, options)).await
}

/// Of which object the deletion was: a new one of the same name is not waited for.
fn uid_of(answer: &Value) -> Option<String> {
    answer["details"]["uid"].as_str().or_else(|| answer["metadata"]["uid"].as_str()).map(str::to_owned)
}

/// Deletes an object and waits until it is gone.
///
/// # Errors
/// When the server refuses.
pub async fn delete_and_wait(session: &Session, target: &Found, grace_period: Option<i64>) -> anyhow::Result<()> {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if let Some(seconds) = grace_period {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    let answer = delete(session, target, &options, DryRun::No).await?;
    waiting::until_gone(session, target, uid_of(&answer).as_deref(), LONGEST_WAIT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_is_in_either_answer() {
        assert_eq!(uid_of(&json!({"kind": "Status", "details": {"uid": "u"}})).as_deref(), Some("u"));
        assert_eq!(uid_of(&json!({"kind": "Pod", "metadata": {"uid": "v"}})).as_deref(), Some("v"));
        assert_eq!(uid_of(&json!({})), None);
    }
}
