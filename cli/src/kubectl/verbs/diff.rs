//! `diff`: what `apply` would change.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::Value;
use trierarch_api::Reason;
use trierarch_client::{PatchKind, Request};

use crate::kubectl::errors::{self, Exit, with_source};
use crate::kubectl::last_applied;
use crate::kubectl::manifest::FileArgs;
use crate::kubectl::mutate::{self, DryRun};
use crate::kubectl::print::{printer::without_managed_fields, yaml};
use crate::kubectl::select::Found;
use crate::kubectl::session::Session;
use crate::kubectl::three_way;

/// Arguments of `diff`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl diff -f app.yaml              exit code 1 says that there are differences
  KUBECTL_EXTERNAL_DIFF='diff -u --color' kubectl diff -f app/ -R")]
pub struct Args {
    #[command(flatten)]
    pub files: FileArgs,
    /// As apply --server-side would
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub server_side: bool,
    /// With --server-side: take fields over from other managers
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub force_conflicts: bool,
    /// Who manages the fields
    #[arg(long)]
    pub field_manager: Option<String>,
    /// With managedFields
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub show_managed_fields: bool,
}

/// Carries it out.
///
/// # Errors
/// [`Exit`] 1 when there are differences, other failures with more than 1.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match differ(session, &args).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(Exit(1).into()),
        Err(error) => {
            crate::kubectl::output::note(errors::explain(&error).0);
            Err(Exit(2).into())
        }
    }
}

async fn differ(session: &Session, args: &Args) -> anyhow::Result<bool> {
    if args.files.is_empty() {
        anyhow::bail!("must specify one of -f and -k");
    }
    let root = std::env::temp_dir().join(format!("kubectl-diff-{}", std::process::id()));
    let (live, merged) = (root.join("LIVE"), root.join("MERGED"));
    for folder in [&live, &merged] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let outcome = fill(session, args, &live, &merged).await.and_then(|()| compare(&root));
    std::fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    outcome
}

async fn fill(session: &Session, args: &Args, live: &Path, merged: &Path) -> anyhow::Result<()> {
    for (target, given) in super::apply::placed(session, &args.files).await? {
        let before = match session.get(&target.path()).await {
            Err(error) if errors::is(&error, Reason::NotFound) => None,
            outcome => Some(outcome?),
        };
        let after = future(session, args, &target, &given.object, before.as_ref())
            .await
            .map_err(|error| with_source(error, "applying", target.source.as_deref()))?;
        let version = target.resource.api_version().replace('/', ".");
        let name = format!("{version}.{}.{}.{}", target.resource.kind, target.namespace.as_deref().unwrap_or_default(), target.name);
        for (folder, object) in [(live, before), (merged, Some(after))] {
            if let Some(object) = object {
                let mut object = if args.show_managed_fields { object } else { without_managed_fields(&object) };
                mask(&mut object);
                std::fs::write(folder.join(&name), yaml::text(&object))?;
            }
        }
    }
    Ok(())
}

/// What the object would be.
async fn future(session: &Session, args: &Args, target: &Found, given: &Value, live: Option<&Value>) -> anyhow::Result<Value> {
    if args.server_side {
        let manager = args.field_manager.as_deref().unwrap_or("kubectl");
        let query = format!("{}&force={}", mutate::query(DryRun::Server, manager, "Strict"), args.force_conflicts);
        let request = Request {
            method: http::Method::PATCH,
            content_type: Some(PatchKind::Apply.content_type().to_owned()),
            body: Some(Bytes::from(given.to_string())),
            ..Request::get(format!("{}{query}", target.path()))
        };
        return session.json(request).await;
    }
    let manager = args.field_manager.as_deref().unwrap_or("kubectl-client-side-apply");
    let query = mutate::query(DryRun::Server, manager, "Strict");
    let modified = last_applied::with_annotation(given);
    let Some(live) = live else {
        let path = format!("{}{query}", target.resource.path(target.namespace.as_deref(), ""));
        return session.json(Request::json(http::Method::POST, path, given)).await;
    };
    let schema = three_way::schema_of(&target.resource.group, &target.resource.version, &target.resource.kind);
    // an object that was never applied shows no annotation as a difference
    let annotated = live["metadata"]["annotations"][last_applied::ANNOTATION].is_string();
    let patch = three_way::patch(schema.as_deref(), &last_applied::read(live), if annotated { &modified } else { given }, live);
    let bare = without_annotation(patch);
    let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
    mutate::patch(session, &target.path(), &query, kind, &bare).await
}

/// The patch without what apply remembers: that is no difference to a user.
fn without_annotation(mut patch: Value) -> Value {
    if let Some(annotations) = patch.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(last_applied::ANNOTATION);
    }
    patch
}

/// Values of secrets do not show, only whether they differ.
fn mask(object: &mut Value) {
    if object["kind"] != "Secret" {
        return;
    }
    for value in object.get_mut("data").and_then(Value::as_object_mut).into_iter().flat_map(|map| map.values_mut()) {
        *value = Value::String(format!("*** ({} characters)", value.as_str().map_or(0, str::len)));
    }
}

fn compare(root: &Path) -> anyhow::Result<bool> {
    let program = std::env::var("KUBECTL_EXTERNAL_DIFF").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "diff".to_owned());
    let mut words = program.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("diff"));
    command.args(words);
    if program == "diff" {
        command.args(["-u", "-N"]);
    }
    let status = command.arg(root.join("LIVE")).arg(root.join("MERGED")).status().with_context(|| format!("failed to run {program:?}"))?;
    match status.code() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => anyhow::bail!("{program:?} ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_that_changes_nothing_stays_empty() {
        assert_eq!(without_annotation(json!({})), json!({}));
        assert_eq!(
            without_annotation(json!({"metadata": {"annotations": {last_applied::ANNOTATION: "x", "a": "b"}}})),
            json!({"metadata": {"annotations": {"a": "b"}}})
        );
        let mut empty = json!({"kind": "Secret"});
        mask(&mut empty);
        assert_eq!(empty, json!({"kind": "Secret"}));
    }
}
