//! `create deployment|job|cronjob|quota|priorityclass|poddisruptionbudget`.

use anyhow::bail;
use serde_json::{Value, json};

use super::Common;
use crate::kubectl::session::Session;

/// Arguments of `create deployment`.
#[derive(clap::Args, Debug)]
pub struct DeploymentArgs {
    /// Its name
    pub name: String,
    /// The container's image (may be repeated: a container each)
    #[arg(long, required = true, value_delimiter = ',')]
    pub image: Vec<String>,
    /// How many pods
    #[arg(short, long, default_value_t = 1)]
    pub replicas: u32,
    /// A port of the container
    #[arg(long)]
    pub port: Option<u16>,
    #[command(flatten)]
    pub common: Common,
    /// What to run in the container
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// The name of a container: the last part of its image's name.
fn container_name(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or_default();
    let name = name.split(['@', ':']).next().unwrap_or_default();
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter.to_ascii_lowercase() } else { '-' }).collect()
}

/// The object.
///
/// # Errors
/// When flags contradict each other.
pub fn deployment(args: &DeploymentArgs) -> anyhow::Result<Value> {
    if args.image.len() > 1 && !args.command.is_empty() {
        bail!("cannot specify multiple --image options and command");
    }
    let labels = json!({"app": args.name});
    let mut containers: Vec<Value> = Vec::new();
    for image in &args.image {
        let mut container = json!({"name": container_name(image), "image": image, "resources": {}});
        if !args.command.is_empty() {
            container["command"] = json!(args.command);
        }
        containers.push(container);
    }
    if let (Some(port), Some(first)) = (args.port, containers.first_mut()) {
        first["ports"] = json!([{"containerPort": port}]);
    }
    Ok(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": args.name, "labels": labels},
        "spec": {"replicas": args.replicas, "selector": {"matchLabels": labels}, "strategy": {},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}},
        "status": {}}))
}

/// Arguments of `create job`.
#[derive(clap::Args, Debug)]
pub struct JobArgs {
    /// Its name
    pub name: String,
    /// The container's image
    #[arg(long)]
    pub image: Option<String>,
    /// Take everything from here, as in cronjob/NAME
    #[arg(long)]
    pub from: Option<String>,
    #[command(flatten)]
    pub common: Common,
    /// What to run in the container
    #[arg(last = true)]
    pub command: Vec<String>,
}

fn task(name: &str, image: &str, command: &[String], restart: &str) -> Value {
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({"metadata": {}, "spec": {"containers": [container], "restartPolicy": restart}})
}

/// The object.
///
/// # Errors
/// When neither or both of --image and --from are given, or the cron job cannot be read.
pub async fn job(session: &Session, args: &JobArgs) -> anyhow::Result<Value> {
    match (&args.image, &args.from) {
        (Some(image), None) => Ok(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": args.name},
            "spec": {"template": task(&args.name, image, &args.command, "Never")}, "status": {}})),
        (None, Some(from)) => {
            let Some(cron) = from.strip_prefix("cronjob/").or_else(|| from.strip_prefix("cj/")) else {
                bail!("from must be an existing cronjob");
            };
            if !args.command.is_empty() {
                bail!("cannot specify --from and command");
            }
            let owner = session.get(&format!("/apis/batch/v1/namespaces/{}/cronjobs/{cron}", session.namespace)).await?;
            let template = &owner["spec"]["jobTemplate"];
            let mut annotations = template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
            annotations.insert("cronjob.kubernetes.io/instantiate".to_owned(), json!("manual"));
            let mut object = json!({"apiVersion": "batch/v1", "kind": "Job",
                "metadata": {"name": args.name, "annotations": annotations, "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob",
                    "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": true}]},
                "spec": template["spec"], "status": {}});
            if template["metadata"]["labels"].is_object() {
                object["metadata"]["labels"] = template["metadata"]["labels"].clone();
            }
            Ok(object)
        }
        _ => bail!("either --image or --from must be specified"),
    }
}

/// Arguments of `create cronjob`.
#[derive(clap::Args, Debug)]
pub struct CronJobArgs {
    /// Its name
    pub name: String,
    /// The container's image
    #[arg(long)]
    pub image: String,
    /// When, as in */5 * * * *
    #[arg(long)]
    pub schedule: String,
    /// What follows a failure: OnFailure or Never
    #[arg(long, default_value = "OnFailure")]
    pub restart: String,
    #[command(flatten)]
    pub common: Common,
    /// What to run in the container
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// The object.
pub fn cron_job(args: &CronJobArgs) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": args.name},
        "spec": {"schedule": args.schedule,
            "jobTemplate": {"metadata": {"name": args.name}, "spec": {"template": task(&args.name, &args.image, &args.command, &args.restart)}}},
        "status": {}})
}

/// Arguments of `create quota`.
#[derive(clap::Args, Debug)]
pub struct QuotaArgs {
    /// Its name
    pub name: String,
    /// Limits, as in cpu=1,memory=1Gi,pods=2
    #[arg(long, value_delimiter = ',')]
    pub hard: Vec<String>,
    /// What it counts, as in BestEffort
    #[arg(long, value_delimiter = ',')]
    pub scopes: Vec<String>,
    #[command(flatten)]
    pub common: Common,
}

/// The object.
///
/// # Errors
/// When a limit is no quantity.
pub fn quota(args: &QuotaArgs) -> anyhow::Result<Value> {
    let mut hard = serde_json::Map::new();
    for limit in &args.hard {
        let Some((name, value)) = limit.split_once('=') else { bail!("Invalid argument syntax {limit}, expected <resource>=<value>") };
        let quantity = trierarch_api::Quantity::canonical(value).map_err(|error| anyhow::anyhow!("{error}"))?;
        hard.insert(name.to_owned(), json!(quantity));
    }
    let mut object = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": args.name}, "spec": {}, "status": {}});
    if !hard.is_empty() {
        object["spec"]["hard"] = Value::Object(hard);
    }
    if !args.scopes.is_empty() {
        object["spec"]["scopes"] = json!(args.scopes);
    }
    Ok(object)
}

/// Arguments of `create priorityclass`.
#[derive(clap::Args, Debug)]
pub struct PriorityClassArgs {
    /// Its name
    pub name: String,
    /// The higher, the more urgent
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub value: i32,
    /// For pods that name no class
    #[arg(long)]
    pub global_default: bool,
    /// What it is for
    #[arg(long, default_value = "")]
    pub description: String,
    /// Whether others make room: PreemptLowerPriority or Never
    #[arg(long, default_value = "PreemptLowerPriority")]
    pub preemption_policy: String,
    #[command(flatten)]
    pub common: Common,
}

/// The object.
///
/// # Errors
/// When the policy does not exist.
pub fn priority_class(args: &PriorityClassArgs) -> anyhow::Result<Value> {
    if !["PreemptLowerPriority", "Never"].contains(&args.preemption_policy.as_str()) {
        bail!("invalid preemption policy {:?}: write PreemptLowerPriority or Never", args.preemption_policy);
    }
    let mut object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": args.name},
        "value": args.value, "preemptionPolicy": args.preemption_policy});
    if args.global_default {
        object["globalDefault"] = json!(true);
    }
    if !args.description.is_empty() {
        object["description"] = json!(args.description);
    }
    Ok(object)
}

/// Arguments of `create poddisruptionbudget`.
#[derive(clap::Args, Debug)]
pub struct BudgetArgs {
    /// Its name
    pub name: String,
    /// Which pods
    #[arg(long)]
    pub selector: Option<String>,
    /// So many must be there, as a number or a percentage
    #[arg(long)]
    pub min_available: Option<String>,
    /// So many may be away, as a number or a percentage
    #[arg(long)]
    pub max_unavailable: Option<String>,
    #[command(flatten)]
    pub common: Common,
}

/// The object.
///
/// # Errors
/// When flags are missing or contradict each other.
pub fn budget(args: &BudgetArgs) -> anyhow::Result<Value> {
    let Some(selector) = &args.selector else { bail!("a selector must be specified") };
    let amount = |text: &str| text.parse::<i64>().map_or_else(|_percentage| json!(text), |number| json!(number));
    let (field, value) = match (&args.min_available, &args.max_unavailable) {
        (Some(value), None) => ("minAvailable", value),
        (None, Some(value)) => ("maxUnavailable", value),
        (None, None) => bail!("one of min-available or max-unavailable must be specified"),
        _ => bail!("min-available and max-unavailable cannot be both specified"),
    };
    let labels = crate::kubectl::verbs::label::pairs(selector)?;
    Ok(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": args.name},
        "spec": {field: amount(value), "selector": {"matchLabels": labels}}, "status": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}}))
}

#[cfg(test)]
mod tests {
    use super::container_name;

    #[test]
    fn containers_are_named_after_images() {
        for (image, expected) in
            [("shop:1", "shop"), ("registry.k8s.io:5000/e2e/agnhost:2.47", "agnhost"), ("x@sha256:aa", "x"), ("a/My_App", "my-app")]
        {
            assert_eq!(container_name(image), expected, "{image}");
        }
    }
}
