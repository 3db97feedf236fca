//! `patch`: changes fields of objects.

use anyhow::{Context as _, bail};
use serde_json::Value;
use trierarch_client::PatchKind;

use crate::kubectl::errors;
use crate::kubectl::manifest::{self, FileArgs};
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report};
use crate::kubectl::print::OutputArgs;
use crate::kubectl::select::{self, Narrow};
use crate::kubectl::session::Session;
use crate::kubectl::three_way;

/// Arguments of `patch`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl patch deploy/web -p '{\"spec\":{\"replicas\":2}}'
  kubectl patch pod a --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/containers/0/image\",\"value\":\"shop:2\"}]'
  kubectl patch node n1 --type=merge -p 'spec: {unschedulable: true}'
  kubectl patch deploy/web --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":2}}'")]
pub struct Args {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// The patch, JSON or YAML
    #[arg(short, long, allow_hyphen_values = true)]
    pub patch: Option<String>,
    /// A file with the patch
    #[arg(long)]
    pub patch_file: Option<String>,
    /// strategic, merge or json
    #[arg(long = "type", default_value = "strategic")]
    pub kind: String,
    /// A subresource, such as status or scale
    #[arg(long)]
    pub subresource: Option<String>,
    /// Who manages the fields
    #[arg(long, default_value = "kubectl-patch")]
    pub field_manager: String,
    /// Change nothing on a server
    #[arg(long)]
    pub local: bool,
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let dry_run = args.dry_run.parse()?;
    let report = Report::new(&args.output, dry_run)?;
    let kind = match args.kind.to_lowercase().as_str() {
        "strategic" => PatchKind::Strategic,
        "merge" => PatchKind::Merge,
        "json" => PatchKind::Json,
        other => bail!("--type must be one of [json merge strategic], not {other:?}"),
    };
    if args.local {
        bail!("this kubectl changes no files: use the real kubectl for --local");
    }
    let text = match (&args.patch, &args.patch_file) {
        (Some(_), Some(_)) => bail!("cannot specify --patch and --patch-file together"),
        (Some(text), None) => text.clone(),
        (None, Some(path)) => std::fs::read_to_string(path).with_context(|| format!("unable to read patch file: {path}"))?,
        (None, None) => {
            bail!("must specify --patch or --patch-file containing the contents of the patch")
        }
    };
    let mut documents = manifest::documents(&text).with_context(|| format!("unable to parse {text:?}"))?;
    let Some(patch) = documents.pop() else { bail!("unable to parse {text:?}: it is empty") };
    let (found, mut failures) = select::find(session, &args.what, &args.files, &Narrow::default()).await?;
    for one in found {
        let outcome = async {
            if dry_run == DryRun::Client {
                return locally(&one, kind, &patch);
            }
            let path = args.subresource.as_ref().map_or_else(|| one.path(), |sub| format!("{}/{sub}", one.path()));
            mutate::patch(session, &path, &mutate::query(dry_run, &args.field_manager, ""), kind, &patch).await
        }
        .await;
        match outcome {
            Ok(object) => {
                // a dry run may count a version on
                let same = without_version(&object) == without_version(&one.object);
                report.show(&object, if same { "patched (no change)" } else { "patched" })?;
            }
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)
}

fn without_version(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    object
}

fn locally(one: &select::Found, kind: PatchKind, patch: &Value) -> anyhow::Result<Value> {
    let problem = |error: trierarch_api::ApiError| anyhow::anyhow!("{}", error.message);
    match kind {
        PatchKind::Json => trierarch_api::merge::json::patch(&one.object, patch.to_string().as_bytes()).map_err(problem),
        PatchKind::Strategic => {
            let schema = three_way::schema_of(&one.resource.group, &one.resource.version, &one.resource.kind);
            let Some(schema) = schema else { bail!("strategic merge patch is not supported for {}", one.resource.group_resource()) };
            trierarch_api::merge::strategic::apply(&schema, &one.object, patch).map_err(problem)
        }
        _ => {
            let mut object = one.object.clone();
            trierarch_api::merge::json::merge(&mut object, patch);
            Ok(object)
        }
    }
}
