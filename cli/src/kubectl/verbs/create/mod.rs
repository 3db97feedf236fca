//! `create`: objects from files, or from a few words for the commonest kinds.

mod config_map;
mod rbac;
mod secret;
mod service;
mod sources;
mod workload;

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_client::Request;

use crate::kubectl::errors::{self, with_source};
use crate::kubectl::last_applied;
use crate::kubectl::manifest::{FileArgs, Loaded};
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report, ValidateArgs};
use crate::kubectl::output::emit;
use crate::kubectl::print::OutputArgs;
use crate::kubectl::select;
use crate::kubectl::session::Session;

/// Arguments of `create`.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  kubectl create -f app.yaml
  kubectl create deployment web --image=shop:1 --replicas=3 --port=8080
  kubectl create configmap conf --from-literal=mode=fast --from-file=app.ini
  kubectl create secret generic keys --from-file=id=./id.pem
  kubectl create service clusterip web --tcp=80:8080
  kubectl create role reader --verb=get,list --resource=pods
  kubectl create rolebinding readers --role=reader --serviceaccount=shop:web
  kubectl create deployment web --image=shop:1 --dry-run=client -o yaml    a file to begin with"
)]
pub struct Args {
    #[command(subcommand)]
    pub what: Option<What>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub common: Common,
    /// Only objects of the files with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Send a file to this address as it is
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
}

/// Flags of every way to create.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    pub validate: ValidateArgs,
    /// Remember the object in an annotation, as apply does
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub save_config: bool,
    /// Who manages the fields
    #[arg(long, default_value = "kubectl-create")]
    pub field_manager: String,
}

/// The kinds that need no file.
#[derive(clap::Subcommand, Debug)]
pub enum What {
    /// Pods that are kept running
    #[command(visible_alias = "deploy")]
    Deployment(workload::DeploymentArgs),
    /// A task that runs to its end
    Job(workload::JobArgs),
    /// A task at given times
    #[command(visible_alias = "cj")]
    Cronjob(workload::CronJobArgs),
    /// Texts and files for pods
    #[command(visible_alias = "cm")]
    Configmap(config_map::Args),
    /// Confidential texts and files for pods
    Secret(secret::Args),
    /// A part of the cluster with names of its own
    #[command(visible_alias = "ns")]
    Namespace(NameArgs),
    /// An address for pods
    #[command(visible_alias = "svc")]
    Service(service::Args),
    /// An identity for pods
    #[command(visible_alias = "sa")]
    Serviceaccount(NameArgs),
    /// A token for a service account
    Token(rbac::TokenArgs),
    /// What may be done in a namespace
    Role(rbac::RoleArgs),
    /// What may be done in the cluster
    Clusterrole(rbac::ClusterRoleArgs),
    /// Who may do what a role says
    Rolebinding(rbac::RoleBindingArgs),
    /// Who may do what a role says, in the whole cluster
    Clusterrolebinding(rbac::ClusterRoleBindingArgs),
    /// A limit for a namespace
    Quota(workload::QuotaArgs),
    /// How urgent pods are
    #[command(visible_alias = "pc")]
    Priorityclass(workload::PriorityClassArgs),
    /// How many pods may be away
    #[command(visible_alias = "pdb")]
    Poddisruptionbudget(workload::BudgetArgs),
    /// (missing here: use a file or the real kubectl)
    #[command(visible_alias = "ing", hide = true)]
    Ingress {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<String>,
    },
}

/// A name and nothing else.
#[derive(clap::Args, Debug)]
pub struct NameArgs {
    /// Its name
    pub name: String,
    #[command(flatten)]
    pub common: Common,
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let Some(what) = args.what else {
        return from_files(session, &args).await;
    };
    let (object, common) = match &what {
        What::Deployment(args) => (workload::deployment(args)?, &args.common),
        What::Job(args) => (workload::job(session, args).await?, &args.common),
        What::Cronjob(args) => (workload::cron_job(args), &args.common),
        What::Configmap(args) => (config_map::object(args)?, &args.common),
        What::Secret(args) => (secret::object(args)?, secret::common(args)),
        What::Namespace(args) => {
            (json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": args.name}, "spec": {}, "status": {}}), &args.common)
        }
        What::Service(args) => (service::object(args)?, service::common(args)),
        What::Serviceaccount(args) => {
            (json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": args.name}}), &args.common)
        }
        What::Token(args) => return rbac::token(session, args).await,
        What::Role(args) => (rbac::role(session, args).await?, &args.common),
        What::Clusterrole(args) => (rbac::cluster_role(session, args).await?, &args.common),
        What::Rolebinding(args) => (rbac::role_binding(args)?, &args.common),
        What::Clusterrolebinding(args) => (rbac::cluster_role_binding(args)?, &args.common),
        What::Quota(args) => (workload::quota(args)?, &args.common),
        What::Priorityclass(args) => (workload::priority_class(args)?, &args.common),
        What::Poddisruptionbudget(args) => (workload::budget(args)?, &args.common),
        What::Ingress { .. } => {
            bail!("this kubectl creates no ingresses from words: use a file, or the real kubectl")
        }
    };
    made(session, object, common).await
}

/// Creates an object that words described.
///
/// # Errors
/// When the server refuses.
pub async fn made(session: &Session, mut object: Value, common: &Common) -> anyhow::Result<()> {
    let dry_run = common.dry_run.parse()?;
    let report = Report::new(&common.output, dry_run)?;
    // what is never sent needs no server
    let known = dry_run == DryRun::Client && !session.namespace_given;
    let mut given = Loaded { object: object.clone(), source: String::new() };
    let mut path = String::new();
    if !known {
        let discovery = session.discovery().await?;
        let (resource, namespace) = select::place_object(&discovery, &mut given, &session.namespace, session.namespace_given)?;
        path = resource.path(namespace.as_deref(), "");
        if session.namespace_given || dry_run != DryRun::Client {
            object = given.object;
        }
    }
    if common.save_config {
        object = last_applied::with_annotation(&object);
    }
    if dry_run == DryRun::Client {
        return report.show(&object, "created");
    }
    let query = mutate::query(dry_run, &common.field_manager, common.validate.parse()?);
    let stored = session
        .json(Request::json(http::Method::POST, format!("{path}{query}"), &object))
        .await
        .map_err(|error| failed_to_create(error, &object))?;
    report.show(&stored, "created")
}

/// The real kubectl lets the server speak for some kinds, and says itself what failed for others.
fn failed_to_create(error: anyhow::Error, object: &Value) -> anyhow::Error {
    let kind = object["kind"].as_str().unwrap_or_default();
    let what = match kind {
        "Secret" => return named_failure(error, "secret", ""),
        "Service" => format!("{} service", object["spec"]["type"].as_str().unwrap_or_default()),
        "ResourceQuota" => "quota".to_owned(),
        "PodDisruptionBudget" => "poddisruptionbudgets".to_owned(),
        "ConfigMap" | "CronJob" | "Deployment" | "Job" | "PriorityClass" | "RoleBinding" | "ClusterRoleBinding" | "ServiceAccount" => {
            kind.to_lowercase()
        }
        _ => return error,
    };
    named_failure(error, &what, ":")
}

fn named_failure(error: anyhow::Error, what: &str, colon: &str) -> anyhow::Error {
    match errors::api(&error) {
        Some(refused) => anyhow::anyhow!("failed to create {what}{colon} {}", refused.message),
        None => error,
    }
}

async fn from_files(session: &Session, args: &Args) -> anyhow::Result<()> {
    if args.files.is_empty() {
        bail!("must specify one of -f and -k");
    }
    let common = &args.common;
    let dry_run = common.dry_run.parse()?;
    if let Some(path) = &args.raw {
        let Some(file) = args.files.filename.first() else { bail!("--raw needs a file") };
        let text = if file == "-" { std::io::read_to_string(std::io::stdin())? } else { std::fs::read_to_string(file)? };
        let request = Request {
            method: http::Method::POST,
            content_type: Some("application/json".to_owned()),
            body: Some(text.into()),
            ..Request::get(path.clone())
        };
        return emit(&String::from_utf8_lossy(&session.send(request).await?.body));
    }
    let report = Report::new(&common.output, dry_run)?;
    let query = mutate::query(dry_run, &common.field_manager, common.validate.parse()?);
    let mut loaded = args.files.load()?;
    if let Some(selector) = &args.selector {
        let selector = trierarch_api::LabelSelector::parse(selector).map_err(|error| anyhow::anyhow!("{error}"))?;
        loaded.retain(|one| selector.matches_json(&one.object["metadata"]["labels"]));
    }
    if loaded.is_empty() {
        bail!("no objects passed to create");
    }
    let discovery = session.discovery().await?;
    let mut failures = Vec::new();
    for mut one in loaded {
        let placed = select::place_object(&discovery, &mut one, &session.namespace, session.namespace_given);
        let (resource, namespace) = match placed {
            Ok(placed) => placed,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        let object = if common.save_config { last_applied::with_annotation(&one.object) } else { one.object };
        if dry_run == DryRun::Client {
            report.show(&object, "created")?;
            continue;
        }
        let path = format!("{}{query}", resource.path(namespace.as_deref(), ""));
        match session.json(Request::json(http::Method::POST, path, &object)).await {
            Ok(stored) => report.show(&stored, "created")?,
            Err(error) => failures.push(with_source(error, "creating", Some(&one.source))),
        }
    }
    errors::aggregate(failures)
}

/// Takes over `--user` from the flags of every verb where it names whom a binding is for.
pub fn take_subjects(args: &mut Args, users: &mut Vec<String>) {
    let subjects = match &mut args.what {
        Some(What::Rolebinding(args)) => &mut args.subjects,
        Some(What::Clusterrolebinding(args)) => &mut args.subjects,
        _ => return,
    };
    subjects.user = std::mem::take(users).iter().flat_map(|user| user.split(',').map(str::to_owned)).collect();
}
