//! `set image` and `set env`: the commonest changes of a workload's containers.

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_client::PatchKind;

use crate::kubectl::errors;
use crate::kubectl::manifest::FileArgs;
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report};
use crate::kubectl::print::OutputArgs;
use crate::kubectl::select::{self, CHUNK, Found, Narrow};
use crate::kubectl::session::Session;
use crate::kubectl::three_way;

/// Arguments of `set`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl set image deploy/web web=shop:2        the image of one container
  kubectl set image deploy --all '*=shop:2'      of all containers of all deployments
  kubectl set env deploy/web MODE=fast DEBUG-    set one variable, remove another")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Change images
    Image(Change),
    /// Change variables
    Env(Change),
    /// (missing here: use patch or the real kubectl)
    #[command(hide = true)]
    Resources(Missing),
    /// (missing here: use patch or the real kubectl)
    #[command(hide = true)]
    Selector(Missing),
    /// (missing here: use patch or the real kubectl)
    #[command(hide = true)]
    Serviceaccount(Missing),
    /// (missing here: use patch or the real kubectl)
    #[command(hide = true)]
    Subject(Missing),
}

#[derive(clap::Args, Debug)]
struct Missing {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

#[derive(clap::Args, Debug)]
struct Change {
    /// TYPE NAME or TYPE/NAME, then NAME=VALUE
    #[arg(value_name = "WHAT")]
    words: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Objects with these labels
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// All objects of the type
    #[arg(long)]
    all: bool,
    /// For env: which containers
    #[arg(short, long, default_value = "*")]
    containers: String,
    /// For env: print what there is
    #[arg(long)]
    list: bool,
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let (args, of_images) = match args.what {
        What::Image(change) => (change, true),
        What::Env(change) => (change, false),
        _ => bail!("this kubectl sets images and variables only: use kubectl patch, or the real kubectl"),
    };
    let dry_run = args.dry_run.parse()?;
    let report = Report::new(&args.output, dry_run)?;
    let is_change = |word: &&String| word.contains('=') || !of_images && word.ends_with('-');
    let changes: Vec<String> = args.words.iter().filter(is_change).cloned().collect();
    let what: Vec<String> = args.words.iter().filter(|word| !is_change(word)).cloned().collect();
    if what.is_empty() && args.files.is_empty() {
        bail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if changes.is_empty() && !args.list {
        bail!("{}", if of_images { "at least one image update is required" } else { "at least one environment variable must be provided" });
    }
    let narrow = Narrow { labels: args.selector.clone(), all: args.all, chunk: CHUNK, ..Narrow::default() };
    let (found, mut failures) = select::find(session, &what, &args.files, &narrow).await?;
    for one in found {
        let outcome = async {
            let mut object = one.object.clone();
            if of_images {
                set_images(&mut object, &changes)?;
            } else {
                if args.list {
                    return list(&object, &one).map(|()| None);
                }
                set_variables(&mut object, &changes, &args.containers)?;
            }
            let schema = three_way::schema_of(&one.resource.group, &one.resource.version, &one.resource.kind);
            let patch = three_way::patch(schema.as_deref(), &one.object, &object, &one.object);
            if patch.as_object().is_some_and(serde_json::Map::is_empty) {
                return Ok(None);
            }
            if dry_run == DryRun::Client {
                return Ok(Some(object));
            }
            let kind = if schema.is_some() { PatchKind::Strategic } else { PatchKind::Merge };
            mutate::patch(session, &one.path(), &mutate::query(dry_run, "kubectl-set", ""), kind, &patch).await.map(Some)
        }
        .await;
        match outcome {
            Ok(Some(object)) => report.show(&object, if of_images { "image updated" } else { "env updated" })?,
            Ok(None) => {}
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)
}

/// The pod spec in an object.
fn pod_spec(object: &mut Value) -> &mut Value {
    if object["kind"] == "Pod" {
        return &mut object["spec"];
    }
    if object["kind"] == "CronJob" {
        return &mut object["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    }
    &mut object["spec"]["template"]["spec"]
}

fn set_images(object: &mut Value, changes: &[String]) -> anyhow::Result<()> {
    let spec = pod_spec(object);
    let mut missing = Vec::new();
    for change in changes {
        let Some((names, image)) = change.split_once('=') else { bail!("unknown image spec: {change}") };
        for name in names.split(',') {
            let mut set = false;
            for part in ["initContainers", "containers"] {
                for container in spec.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten() {
                    if name == "*" || container["name"] == name {
                        container["image"] = json!(image);
                        set = true;
                    }
                }
            }
            if !set {
                missing.push(format!("unable to find container named {name:?}"));
            }
        }
    }
    if !missing.is_empty() {
        bail!("{}", missing.join("; "));
    }
    Ok(())
}

fn set_variables(object: &mut Value, changes: &[String], containers: &str) -> anyhow::Result<()> {
    let spec = pod_spec(object);
    for part in ["initContainers", "containers"] {
        for container in spec.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten() {
            if containers != "*" && !containers.split(',').any(|name| container["name"] == name) {
                continue;
            }
            let mut variables = container["env"].as_array().cloned().unwrap_or_default();
            for change in changes {
                match change.split_once('=') {
                    Some((name, value)) => {
                        let variable = json!({"name": name, "value": value});
                        match variables.iter_mut().find(|have| have["name"] == name) {
                            Some(have) => *have = variable,
                            None => variables.push(variable),
                        }
                    }
                    None => variables.retain(|have| have["name"] != change.trim_end_matches('-')),
                }
            }
            if !variables.is_empty() || container["env"].is_array() {
                container["env"] = json!(variables);
            }
        }
    }
    Ok(())
}

fn list(object: &Value, one: &Found) -> anyhow::Result<()> {
    let mut object = object.clone();
    for container in pod_spec(&mut object)["containers"].as_array().into_iter().flatten() {
        let name = container["name"].as_str().unwrap_or_default();
        crate::kubectl::output::line(format!("# {} {}, container {name}", one.resource.plural, one.name))?;
        for variable in container["env"].as_array().into_iter().flatten() {
            let text = |field: &str| variable[field].as_str().unwrap_or_default().to_owned();
            crate::kubectl::output::line(format!("{}={}", text("name"), text("value")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_set_and_removed() {
        let mut deployment = json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}}}});
        set_variables(&mut deployment, &["Y=2".to_owned(), "X-".to_owned()], "a").expect("set");
        let containers = &deployment["spec"]["template"]["spec"]["containers"];
        assert_eq!((&containers[0]["env"], containers[1].get("env")), (&json!([{"name": "Y", "value": "2"}]), None));
    }
}
