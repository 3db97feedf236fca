//! `apply`: makes the cluster hold what files say, and keeps what others have added.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use serde_json::Value;
use trierarch_api::Reason;
use trierarch_client::{PatchKind, Request};

use crate::kubectl::errors::{self, with_source};
use crate::kubectl::last_applied;
use crate::kubectl::manifest::{FileArgs, Loaded};
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report, ValidateArgs};
use crate::kubectl::output::note;
use crate::kubectl::print::OutputArgs;
use crate::kubectl::print::printer::list_of;
use crate::kubectl::select::{self, Found, Narrow, Wanted};
use crate::kubectl::session::Session;
use crate::kubectl::three_way;

/// A conflict is somebody else's change in between; so often the patch is made again.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `apply`.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  kubectl apply -f app.yaml                       create what is missing, change what differs
  kubectl apply -f deploy/ -R                     every file of a directory
  kubectl apply -f app.yaml --dry-run=server      let the server check it, store nothing
  kubectl apply --server-side -f app.yaml         let the server merge, with an owner for each field
  kubectl apply view-last-applied deploy/shop     the file that was applied last"
)]
pub struct Args {
    #[command(subcommand)]
    pub action: Option<Action>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    pub validate: ValidateArgs,
    /// Only objects of the files with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Let the server merge
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub server_side: bool,
    /// With --server-side: take fields over from other managers
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub force_conflicts: bool,
    /// Who manages the fields
    #[arg(long)]
    pub field_manager: Option<String>,
    /// Delete and create again what cannot be changed
    #[arg(long)]
    pub force: bool,
    /// (missing here: use the real kubectl)
    #[arg(long, hide = true)]
    pub prune: bool,
    /// Accepted: the file wins over the live object
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false", hide = true)]
    pub overwrite: bool,
    /// Accepted: the server's schema is not needed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false", hide = true)]
    pub openapi_patch: bool,
    /// With --force: how many seconds an object gets to end
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, hide_short_help = true)]
    pub grace_period: i64,
    /// Accepted, as in create
    #[arg(long, hide = true)]
    pub all: bool,
    /// Accepted, as in delete
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false", hide = true)]
    pub wait: bool,
}

/// What else apply does.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Print the file that was applied last
    ViewLastApplied {
        /// TYPE NAME or TYPE/NAME
        what: Vec<String>,
        #[command(flatten)]
        files: FileArgs,
        /// yaml or json
        #[arg(short, long, default_value = "yaml")]
        output: String,
        /// Objects with these labels
        #[arg(short = 'l', long)]
        selector: Option<String>,
        /// All objects of the type
        #[arg(long)]
        all: bool,
    },
}

impl Args {
    fn validate(&self, dry_run: DryRun) -> anyhow::Result<()> {
        if self.prune {
            bail!("this kubectl does not prune: use the real kubectl");
        }
        if self.files.is_empty() {
            bail!("must specify one of -f and -k");
        }
        if self.force_conflicts && !self.server_side {
            bail!("--force-conflicts only works with --server-side");
        }
        if self.server_side && dry_run == DryRun::Client {
            bail!("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)");
        }
        if self.server_side && self.force {
            bail!("--force cannot be used with --server-side");
        }
        if dry_run == DryRun::Server && self.force {
            bail!("--dry-run=server cannot be used with --force");
        }
        Ok(())
    }
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    if let Some(Action::ViewLastApplied { what, files, output, selector, all }) = &args.action {
        let narrow = Narrow { labels: selector.clone(), all: *all, ..Narrow::default() };
        return view(session, what, files, output, &narrow).await;
    }
    let dry_run = args.dry_run.parse()?;
    args.validate(dry_run)?;
    let report = Report::new(&args.output, dry_run)?;
    let mut loaded = args.files.load()?;
    if let Some(selector) = &args.selector {
        let selector = trierarch_api::LabelSelector::parse(selector).map_err(|error| anyhow::anyhow!("{error}"))?;
        loaded.retain(|one| selector.matches_json(&one.object["metadata"]["labels"]));
    }
    if loaded.is_empty() {
        bail!("no objects passed to apply");
    }
    let discovery = session.discovery().await?;
    let mut failures = Vec::new();
    let mut done = Vec::new();
    for mut one in loaded {
        let source = one.source.clone();
        let outcome = match select::place_object(&discovery, &mut one, &session.namespace, session.namespace_given) {
            Ok((resource, namespace)) => {
                let name = one.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let target = Found { resource, namespace, name, object: one.object.clone(), source: Some(source) };
                apply_one(session, &args, dry_run, &target, one).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok((object, operation)) if report.shows_objects() => done.push((object, operation)),
            Ok((object, operation)) => report.show(&object, operation)?,
            Err(error) => failures.push(error),
        }
    }
    match done.len() {
        0 => {}
        1 => report.show(&done[0].0, done[0].1)?,
        _ => report.show(&list_of(done.into_iter().map(|(object, _)| object).collect()), "")?,
    }
    errors::aggregate(failures)
}

async fn apply_one(
    session: &Session,
    args: &Args,
    dry_run: DryRun,
    target: &Found,
    given: Loaded,
) -> anyhow::Result<(Value, &'static str)> {
    if args.server_side {
        return server_side(session, args, dry_run, target, &given).await;
    }
    if target.name.is_empty() {
        let prefix = given.object["metadata"]["generateName"].as_str().unwrap_or_default();
        bail!(
            "error when retrieving current configuration of:\nfrom server for: {:?}: from {prefix}: cannot use generate name with apply",
            given.source
        );
    }
    let manager = args.field_manager.as_deref().unwrap_or("kubectl-client-side-apply");
    let validation = args.validate.parse()?;
    let modified = last_applied::with_annotation(&given.object);
    let source = target.source.as_deref();
    let mut live = match session.get(&target.path()).await {
        Ok(live) => live,
        Err(error) if errors::is(&error, Reason::NotFound) => {
            let mut object = modified;
            last_applied::without_nulls(&mut object);
            if dry_run == DryRun::Client {
                return Ok((object, "created"));
            }
            let path = target.resource.path(target.namespace.as_deref(), "");
            let request = Request::json(http::Method::POST, format!("{path}{}", mutate::query(dry_run, manager, validation)), &object);
            let stored = session.json(request).await.map_err(|error| with_source(error, "creating", source))?;
            return Ok((stored, "created"));
        }
        Err(error) => {
            let about = about(target, &given);
            return Err(with_source(error, &format!("retrieving current configuration of:\n{about}\nfrom server for:"), source));
        }
    };
    if live["metadata"]["annotations"][last_applied::ANNOTATION].is_null() {
        note(format!(
            "Warning: resource {}/{} is missing the {} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
            target.resource.plural,
            target.name,
            last_applied::ANNOTATION
        ));
    }
    let schema = three_way::schema_of(&target.resource.group, &target.resource.version, &target.resource.kind);
    let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
    let mut attempt = 1;
    loop {
        let patch = three_way::patch(schema.as_deref(), &last_applied::read(&live), &modified, &live);
        if patch.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok((live, "unchanged"));
        }
        if dry_run == DryRun::Client {
            let merged = match &schema {
                Some(schema) => {
                    trierarch_api::merge::strategic::apply(schema, &live, &patch).map_err(|error| anyhow::anyhow!("{error}"))?
                }
                None => {
                    trierarch_api::merge::json::merge(&mut live, &patch);
                    live
                }
            };
            return Ok((merged, "configured"));
        }
        let error = match mutate::patch(session, &target.path(), &mutate::query(dry_run, manager, validation), kind, &patch).await {
            Ok(stored) => {
                if !stored["metadata"]["deletionTimestamp"].is_null() {
                    note(format!("Warning: Detected changes to resource {} which is currently being deleted.", target.name));
                }
                return Ok((stored, "configured"));
            }
            Err(error) => error,
        };
        if errors::is(&error, Reason::Conflict) && attempt < ATTEMPTS {
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
            live = session.get(&target.path()).await?;
            continue;
        }
        if args.force && (errors::is(&error, Reason::Conflict) || errors::is(&error, Reason::Invalid)) {
            return replace(session, args, dry_run, target, &modified).await;
        }
        let error = with_source(error, "patching", source);
        let doing = format!("applying patch:\n{patch}\nto:\n{}\nfor:", about(target, &given));
        return Err(with_source(error, &doing, source));
    }
}

/// What an error says about the object.
fn about(target: &Found, given: &Loaded) -> String {
    let version = if target.resource.group.is_empty() { format!("/{}", target.resource.version) } else { target.resource.api_version() };
    let namespace = given.object["metadata"]["namespace"].as_str().unwrap_or_default();
    format!(
        "Resource: \"{version}, Resource={}\", GroupVersionKind: \"{version}, Kind={}\"\nName: {:?}, Namespace: {namespace:?}",
        target.resource.plural, target.resource.kind, target.name
    )
}

async fn replace(
    session: &Session,
    args: &Args,
    dry_run: DryRun,
    target: &Found,
    modified: &Value,
) -> anyhow::Result<(Value, &'static str)> {
    let grace = (args.grace_period >= 0).then_some(args.grace_period);
    super::delete::delete_and_wait(session, target, grace).await?;
    let path = target.resource.path(target.namespace.as_deref(), "");
    let query = mutate::query(dry_run, "kubectl-client-side-apply", args.validate.parse()?);
    Ok((session.json(Request::json(http::Method::POST, format!("{path}{query}"), modified)).await?, "configured"))
}

async fn server_side(
    session: &Session,
    args: &Args,
    dry_run: DryRun,
    target: &Found,
    given: &Loaded,
) -> anyhow::Result<(Value, &'static str)> {
    let manager = args.field_manager.as_deref().unwrap_or("kubectl");
    let mut query = mutate::query(dry_run, manager, args.validate.parse()?);
    if args.force_conflicts {
        query.push_str("&force=true");
    } else {
        query.push_str("&force=false");
    }
    if target.name.is_empty() {
        bail!("metadata.name is required for server-side apply: generateName cannot be used");
    }
    let request = Request {
        method: http::Method::PATCH,
        path: format!("{}{query}", target.path()),
        content_type: Some(PatchKind::Apply.content_type().to_owned()),
        body: Some(Bytes::from(given.object.to_string())),
        ..Request::default()
    };
    let mut stored = match session.json(request).await {
        Err(error) if errors::is(&error, Reason::Conflict) => bail!("{}", conflict(&error)),
        outcome => outcome.map_err(|error| with_source(error, "applying", None))?,
    };
    // an object that was applied by clients keeps telling what was applied last
    if stored["metadata"]["annotations"][last_applied::ANNOTATION].is_string() && dry_run == DryRun::No {
        let annotated = last_applied::with_annotation(&given.object);
        let text = &annotated["metadata"]["annotations"][last_applied::ANNOTATION];
        if stored["metadata"]["annotations"][last_applied::ANNOTATION] != *text {
            let change = serde_json::json!({"metadata": {"annotations": {last_applied::ANNOTATION: text}}});
            let query = mutate::query(dry_run, manager, "");
            stored = mutate::patch(session, &target.path(), &query, PatchKind::Merge, &change).await?;
        }
    }
    Ok((stored, "serverside-applied"))
}

/// What a user can do about fields that belong to others.
fn conflict(error: &anyhow::Error) -> String {
    let message = errors::api(error).map(|refused| refused.message.clone()).unwrap_or_default();
    format!(
        "{message}\nPlease review the fields above--they currently have other managers. Here\n\
         are the ways you can resolve this warning:\n\
         * If you intend to manage all of these fields, please re-run the apply\n\
         \x20 command with the `--force-conflicts` flag.\n\
         * If you do not intend to manage all of the fields, please edit your\n\
         \x20 manifest to remove references to the fields that should keep their\n\
         \x20 current managers.\n\
         * You may co-own fields by updating your manifest to match the existing\n\
         \x20 value; in this case, you'll become the manager if the other manager(s)\n\
         \x20 stop managing the field (remove it from their configuration).\n\
         See https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts"
    )
}

async fn view(session: &Session, what: &[String], files: &FileArgs, output: &str, narrow: &Narrow) -> anyhow::Result<()> {
    let (found, mut failures) = select::find(session, what, files, narrow).await?;
    for one in found {
        let applied = last_applied::read(&one.object);
        if applied.as_object().is_some_and(serde_json::Map::is_empty) {
            failures.push(anyhow::anyhow!("no last-applied-configuration annotation found on resource: {}", one.name));
            continue;
        }
        match output {
            "json" => crate::kubectl::output::emit(&serde_json::to_string_pretty(&applied).map(|text| text + "\n")?)?,
            "yaml" => crate::kubectl::output::emit(&crate::kubectl::print::yaml::text(&applied))?,
            other => bail!("Unexpected -o output mode: {other}, the flag 'output' must be one of yaml|json"),
        }
    }
    errors::aggregate(failures)
}

/// The objects of files, as [`Wanted`]; shared with verbs that take them as they are.
pub async fn placed(session: &Session, files: &FileArgs) -> anyhow::Result<Vec<(Found, Loaded)>> {
    let discovery = session.discovery().await?;
    Ok(select::files(&discovery, files.load()?, session)?
        .into_iter()
        .filter_map(|wanted| match wanted {
            Wanted::One { resource, namespace, name, given: Some(given) } => {
                let source = Some(given.source.clone());
                Some((Found { resource, namespace, name, object: given.object.clone(), source }, given))
            }
            _ => None,
        })
        .collect())
}
