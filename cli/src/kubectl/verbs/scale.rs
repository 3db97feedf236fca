//! `scale`: how many pods a workload has.

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_client::PatchKind;

use crate::kubectl::manifest::FileArgs;
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report};
use crate::kubectl::print::OutputArgs;
use crate::kubectl::select::{self, CHUNK, Narrow};
use crate::kubectl::session::Session;
use crate::kubectl::{duration, errors, waiting};

/// Arguments of `scale`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl scale deploy/web --replicas=5
  kubectl scale rc/store deploy/web --replicas=0
  kubectl scale deploy/web --current-replicas=2 --replicas=3    only if it has two now
  kubectl scale deploy/web --replicas=5 --timeout=1m            and wait until there are five")]
pub struct Args {
    /// TYPE NAME... or TYPE/NAME...
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// How many pods there shall be
    #[arg(long, allow_negative_numbers = true)]
    pub replicas: Option<i64>,
    /// Only if there are so many now
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub current_replicas: i64,
    /// Only if the object is still at this version
    #[arg(long, default_value = "")]
    pub resource_version: String,
    /// Objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// All objects of the type
    #[arg(long)]
    pub all: bool,
    /// Wait so long for the pods
    #[arg(long, default_value = "0s")]
    pub timeout: String,
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let Some(replicas) = args.replicas else { bail!("required flag(s) \"replicas\" not set") };
    if replicas < 0 {
        bail!("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0");
    }
    let dry_run = args.dry_run.parse()?;
    let report = Report::new(&args.output, dry_run)?;
    let narrow = Narrow { labels: args.selector.clone(), all: args.all, chunk: CHUNK, ..Narrow::default() };
    let (found, mut failures) = select::find(session, &args.what, &args.files, &narrow).await?;
    if found.is_empty() && failures.is_empty() {
        bail!("no objects passed to scale");
    }
    let timeout = duration::parse(&args.timeout)?;
    for one in found {
        let outcome = async {
            if !one.resource.subresources.iter().any(|sub| sub == "scale") {
                return Err(
                    errors::Plain("Error from server (NotFound): the server could not find the requested resource".to_owned()).into()
                );
            }
            let current = &one.object["spec"]["replicas"];
            if args.current_replicas >= 0 && current.as_i64() != Some(args.current_replicas) {
                bail!("Expected replicas to be {}, was {current}", args.current_replicas);
            }
            let version = one.object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            if !args.resource_version.is_empty() && args.resource_version != version {
                bail!("Expected resource version to be {}, was {version}", args.resource_version);
            }
            if dry_run != DryRun::Client {
                let mut patch = json!({"spec": {"replicas": replicas}});
                if args.current_replicas >= 0 || !args.resource_version.is_empty() {
                    // what was looked at must be what is changed
                    patch["metadata"] = json!({"resourceVersion": version});
                }
                let path = format!("{}/scale", one.path());
                mutate::patch(session, &path, &mutate::query(dry_run, "", ""), PatchKind::Merge, &patch).await?;
            }
            if !timeout.is_zero() && dry_run == DryRun::No {
                waiting::until(session, &one, timeout, |seen| {
                    let ready = seen.is_some_and(|object: &Value| object["status"]["replicas"].as_i64().unwrap_or(0) == replicas);
                    Ok(if ready { waiting::Look::Done } else { waiting::Look::Wait })
                })
                .await?;
            }
            anyhow::Ok(())
        }
        .await;
        match outcome {
            Ok(()) if report.shows_objects() => {
                let object = if dry_run == DryRun::No { session.get(&one.path()).await? } else { one.object };
                report.show(&object, "scaled")?;
            }
            Ok(()) => report.show(&one.object, "scaled")?,
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)
}
