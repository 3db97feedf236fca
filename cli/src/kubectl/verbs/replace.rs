//! `replace` and `edit`: whole objects, from files or from an editor.

use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;
use trierarch_api::Reason;
use trierarch_client::{PatchKind, Request};

use crate::kubectl::errors::{self, Exit, with_source};
use crate::kubectl::last_applied;
use crate::kubectl::manifest::{self, FileArgs};
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report, ValidateArgs};
use crate::kubectl::output::{line, note};
use crate::kubectl::print::printer::{list_of, without_managed_fields};
use crate::kubectl::print::{OutputArgs, yaml};
use crate::kubectl::select::{self, Narrow};
use crate::kubectl::session::Session;
use crate::kubectl::three_way;

/// Arguments of `replace`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl replace -f pod.yaml
  kubectl get pod a -o yaml | sed s/shop:1/shop:2/ | kubectl replace -f -
  kubectl replace --force -f pod.yaml       delete and create again")]
pub struct ReplaceArgs {
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    pub validate: ValidateArgs,
    /// Delete and create again
    #[arg(long)]
    pub force: bool,
    /// With --force: seconds that objects get to end
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub grace_period: i64,
    /// Remember the object in an annotation, as apply does
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub save_config: bool,
    /// A subresource, such as status
    #[arg(long)]
    pub subresource: Option<String>,
    /// Who manages the fields
    #[arg(long, default_value = "kubectl-replace")]
    pub field_manager: String,
    /// Send a file to this address as it is
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// Accepted, as in delete
    #[arg(long, hide = true)]
    pub cascade: Option<String>,
}

/// Replaces objects.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn replace(session: &Session, args: ReplaceArgs) -> anyhow::Result<()> {
    let dry_run = args.dry_run.parse()?;
    let report = Report::new(&args.output, dry_run)?;
    if args.files.is_empty() {
        bail!("must specify --filename to replace");
    }
    if let Some(path) = &args.raw {
        let Some(file) = args.files.filename.first() else { bail!("--raw needs a file") };
        let text = if file == "-" { std::io::read_to_string(std::io::stdin())? } else { std::fs::read_to_string(file)? };
        let request = Request {
            method: http::Method::PUT,
            content_type: Some("application/json".to_owned()),
            body: Some(text.into()),
            ..Request::get(path.clone())
        };
        return crate::kubectl::output::emit_bytes(&session.send(request).await?.body);
    }
    let query = mutate::query(dry_run, &args.field_manager, args.validate.parse()?);
    let mut failures = Vec::new();
    for (target, given) in super::apply::placed(session, &args.files).await? {
        let annotated = args.save_config || given.object["metadata"]["annotations"][last_applied::ANNOTATION].is_string();
        let object = if annotated { last_applied::with_annotation(&given.object) } else { given.object };
        let source = target.source.as_deref();
        let outcome = async {
            if dry_run == DryRun::Client {
                return Ok(object.clone());
            }
            if args.force {
                match super::delete::delete_and_wait(session, &target, (args.grace_period >= 0).then_some(args.grace_period)).await {
                    Err(error) if errors::is(&error, Reason::NotFound) => {}
                    outcome => {
                        outcome?;
                        line(format!("{} {:?} deleted", target.resource.kind_name(), target.name))?;
                    }
                }
                let path = format!("{}{query}", target.resource.path(target.namespace.as_deref(), ""));
                return session.json(Request::json(http::Method::POST, path, &object)).await;
            }
            let sub = args.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
            let path = format!("{}{sub}{query}", target.path());
            session.json(Request::json(http::Method::PUT, path, &object)).await
        }
        .await;
        match outcome {
            Ok(stored) => report.show(&stored, "replaced")?,
            Err(error) => failures.push(with_source(error, "replacing", source)),
        }
    }
    errors::aggregate(failures)
}

/// Arguments of `edit`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl edit deploy/web                    in the editor of KUBE_EDITOR or EDITOR, else vi
  KUBE_EDITOR=nano kubectl edit cm conf
  kubectl edit svc/web -o json")]
pub struct EditArgs {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    /// yaml or json
    #[arg(short, long, default_value = "yaml")]
    pub output: String,
    /// Objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Show the patch that is sent
    #[arg(long)]
    pub output_patch: bool,
    /// A subresource, such as status
    #[arg(long)]
    pub subresource: Option<String>,
    /// Who manages the fields
    #[arg(long, default_value = "kubectl-edit")]
    pub field_manager: String,
    #[command(flatten)]
    pub validate: ValidateArgs,
}

const HEADER: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,\n\
# and an empty file will abort the edit. If an error occurs while saving this file will be\n\
# reopened with the relevant failures.\n#\n";

/// Edits objects.
///
/// # Errors
/// When the editor or the server refuses.
pub async fn edit(session: &Session, args: EditArgs) -> anyhow::Result<()> {
    let narrow = Narrow { labels: args.selector.clone(), ..Narrow::default() };
    let (found, failures) = select::find(session, &args.what, &args.files, &narrow).await?;
    errors::aggregate(failures)?;
    if found.is_empty() {
        bail!("edit cancelled, no objects found");
    }
    let as_json = match args.output.as_str() {
        "yaml" => false,
        "json" => true,
        other => bail!("the edit mode doesn't support output format {other:?}: write yaml or json"),
    };
    let shown: Vec<Value> = found.iter().map(|one| without_managed_fields(&one.object)).collect();
    let before = if let [only] = shown.as_slice() { only.clone() } else { list_of(shown.clone()) };
    let body = if as_json { crate::kubectl::print::json::pretty(&before) } else { yaml::text(&before) };
    let path = std::env::temp_dir().join(format!("kubectl-edit-{}.{}", std::process::id(), args.output));
    let mut problem = String::new();
    let mut text = body.clone();
    loop {
        let comments: String = problem.lines().map(|line| format!("# {line}\n")).collect();
        std::fs::write(&path, format!("{HEADER}{comments}{text}")).with_context(|| format!("cannot write {}", path.display()))?;
        open_editor(&path)?;
        let edited: String =
            std::fs::read_to_string(&path)?.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        if edited.trim().is_empty() || edited == body || edited == text && !problem.is_empty() {
            std::fs::remove_file(&path)?;
            note("Edit cancelled, no changes made.");
            return if problem.is_empty() { Ok(()) } else { Err(Exit(1).into()) };
        }
        match save(session, &args, &found, &shown, &edited).await {
            Ok(()) => {
                std::fs::remove_file(&path)?;
                return Ok(());
            }
            Err(error) => {
                problem = errors::explain(&error).0;
                note(&problem);
                text = edited;
            }
        }
    }
}

fn open_editor(path: &std::path::Path) -> anyhow::Result<()> {
    let editor = ["KUBE_EDITOR", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| "vi".to_owned());
    // the variable may hold flags, as in "code --wait"
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$0\""))
        .arg(path)
        .status()
        .with_context(|| format!("there was a problem with the editor {editor:?}"))?;
    if !status.success() {
        bail!("there was a problem with the editor {editor:?}");
    }
    Ok(())
}

async fn save(session: &Session, args: &EditArgs, found: &[select::Found], shown: &[Value], edited: &str) -> anyhow::Result<()> {
    let mut loaded = Vec::new();
    manifest::decode(edited, "the edited file", &mut loaded)?;
    let query = mutate::query(DryRun::No, &args.field_manager, args.validate.parse()?);
    for one in &loaded {
        let same = |object: &Value| {
            ["apiVersion", "kind"].iter().all(|field| object[field] == one.object[field])
                && object["metadata"]["name"] == one.object["metadata"]["name"]
        };
        let Some((target, before)) = found.iter().zip(shown).find(|(_, before)| same(before)) else {
            bail!("At least one of apiVersion, kind and name was changed");
        };
        let schema = three_way::schema_of(&target.resource.group, &target.resource.version, &target.resource.kind);
        let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
        let patch = three_way::patch(schema.as_deref(), before, &one.object, before);
        if patch.as_object().is_some_and(serde_json::Map::is_empty) {
            line(format!("{} skipped", target.title()))?;
            continue;
        }
        if args.output_patch {
            line(format!("Patch: {patch}"))?;
        }
        let sub = args.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
        mutate::patch(session, &format!("{}{sub}", target.path()), &query, kind, &patch).await?;
        line(format!("{} edited", target.title()))?;
    }
    Ok(())
}
