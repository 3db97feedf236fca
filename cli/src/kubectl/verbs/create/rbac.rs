//! `create role|clusterrole|rolebinding|clusterrolebinding|token`.

use anyhow::bail;
use serde_json::{Value, json};

use super::Common;
use crate::kubectl::duration;
use crate::kubectl::output::{emit, note};
use crate::kubectl::session::Session;

/// What a rule allows.
#[derive(clap::Args, Clone, Debug)]
pub struct RuleArgs {
    /// What may be done, as in get,list,watch
    #[arg(long, value_delimiter = ',')]
    pub verb: Vec<String>,
    /// With what, as in pods, deployments.apps or pods/log
    #[arg(long, value_delimiter = ',')]
    pub resource: Vec<String>,
    /// With which objects only
    #[arg(long)]
    pub resource_name: Vec<String>,
}

/// Arguments of `create role`.
#[derive(clap::Args, Debug)]
pub struct RoleArgs {
    /// Its name
    pub name: String,
    #[command(flatten)]
    pub rule: RuleArgs,
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `create clusterrole`.
#[derive(clap::Args, Debug)]
pub struct ClusterRoleArgs {
    /// Its name
    pub name: String,
    #[command(flatten)]
    pub rule: RuleArgs,
    /// Addresses that are no resources, as in /healthz
    #[arg(long = "non-resource-url", value_delimiter = ',')]
    pub non_resource_urls: Vec<String>,
    /// Take the rules of all roles with these labels
    #[arg(long)]
    pub aggregation_rule: Option<String>,
    #[command(flatten)]
    pub common: Common,
}

async fn rules(session: &Session, args: &RuleArgs) -> anyhow::Result<Vec<Value>> {
    if args.verb.is_empty() {
        bail!("at least one verb must be specified");
    }
    if args.resource.is_empty() {
        bail!("at least one resource must be specified");
    }
    let discovery = session.discovery().await?;
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for word in &args.resource {
        let (name, sub) = word.split_once('/').map_or((word.as_str(), None), |(name, sub)| (name, Some(sub)));
        let (group, mut resource) = if name == "*" {
            ("*".to_owned(), "*".to_owned())
        } else {
            let found = discovery.resource(name)?;
            (found.group.clone(), found.plural.clone())
        };
        if let Some(sub) = sub {
            resource = format!("{resource}/{sub}");
        }
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, list)) => list.push(resource),
            None => groups.push((group, vec![resource])),
        }
    }
    let verbs: Vec<&String> = if args.verb.iter().any(|verb| verb == "*") {
        args.verb.iter().filter(|verb| *verb == "*").collect()
    } else {
        args.verb.iter().collect()
    };
    groups.sort();
    Ok(groups
        .into_iter()
        .map(|(group, resources)| {
            let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
            if !args.resource_name.is_empty() {
                rule["resourceNames"] = json!(args.resource_name);
            }
            rule
        })
        .collect())
}

/// The object.
///
/// # Errors
/// When flags are missing or a resource does not exist.
pub async fn role(session: &Session, args: &RoleArgs) -> anyhow::Result<Value> {
    Ok(
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": args.name}, "rules": rules(session, &args.rule).await?}),
    )
}

/// The object.
///
/// # Errors
/// When flags are missing or a resource does not exist.
pub async fn cluster_role(session: &Session, args: &ClusterRoleArgs) -> anyhow::Result<Value> {
    let mut object =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": args.name}, "rules": null});
    if let Some(labels) = &args.aggregation_rule {
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": crate::kubectl::verbs::label::pairs(labels)?}]});
        return Ok(object);
    }
    let mut all =
        if args.rule.resource.is_empty() && !args.non_resource_urls.is_empty() { Vec::new() } else { rules(session, &args.rule).await? };
    if !args.non_resource_urls.is_empty() {
        if args.rule.verb.is_empty() {
            bail!("at least one verb must be specified");
        }
        all.push(json!({"nonResourceURLs": args.non_resource_urls, "verbs": args.rule.verb}));
    }
    object["rules"] = json!(all);
    Ok(object)
}

/// Arguments of `create rolebinding`.
#[derive(clap::Args, Debug)]
pub struct RoleBindingArgs {
    /// Its name
    pub name: String,
    /// A role of the namespace
    #[arg(long)]
    pub role: Option<String>,
    /// A role of the cluster
    #[arg(long)]
    pub clusterrole: Option<String>,
    #[command(flatten)]
    pub subjects: BindingSubjects,
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `create clusterrolebinding`.
#[derive(clap::Args, Debug)]
pub struct ClusterRoleBindingArgs {
    /// Its name
    pub name: String,
    /// The role
    #[arg(long)]
    pub clusterrole: Option<String>,
    #[command(flatten)]
    pub subjects: BindingSubjects,
    #[command(flatten)]
    pub common: Common,
}

/// Who is bound. `--user` is also a flag of every verb, and means the subject here.
#[derive(clap::Args, Clone, Debug)]
pub struct BindingSubjects {
    /// Users: `--user` is a flag of every verb, and moves here before the cluster is chosen
    #[arg(skip)]
    pub user: Vec<String>,
    /// Groups
    #[arg(long, value_delimiter = ',')]
    pub group: Vec<String>,
    /// Service accounts, as NAMESPACE:NAME
    #[arg(long, value_delimiter = ',')]
    pub serviceaccount: Vec<String>,
}

fn subjects(args: &BindingSubjects) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for (kind, names) in [("User", &args.user), ("Group", &args.group)] {
        found.extend(names.iter().map(|name| json!({"kind": kind, "apiGroup": "rbac.authorization.k8s.io", "name": name})));
    }
    for account in &args.serviceaccount {
        let Some((namespace, name)) = account.split_once(':').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty()) else {
            bail!("serviceaccount must be <namespace>:<name>");
        };
        found.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
    }
    Ok(found)
}

/// The object.
///
/// # Errors
/// When flags are missing or contradict each other.
pub fn role_binding(args: &RoleBindingArgs) -> anyhow::Result<Value> {
    let (kind, name) = match (&args.role, &args.clusterrole) {
        (Some(name), None) => ("Role", name),
        (None, Some(name)) => ("ClusterRole", name),
        _ => bail!("exactly one of clusterrole or role must be specified"),
    };
    binding("RoleBinding", &args.name, kind, name, &args.subjects)
}

/// The object.
///
/// # Errors
/// When flags are missing.
pub fn cluster_role_binding(args: &ClusterRoleBindingArgs) -> anyhow::Result<Value> {
    let Some(role) = &args.clusterrole else { bail!("exactly one clusterrole must be specified") };
    binding("ClusterRoleBinding", &args.name, "ClusterRole", role, &args.subjects)
}

fn binding(kind: &str, name: &str, role_kind: &str, role: &str, args: &BindingSubjects) -> anyhow::Result<Value> {
    let mut object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role}});
    let subjects = subjects(args)?;
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    Ok(object)
}

/// Arguments of `create token`.
#[derive(clap::Args, Debug)]
pub struct TokenArgs {
    /// The service account
    pub name: String,
    /// How long the token is good for
    #[arg(long, default_value = "0s")]
    pub duration: String,
    /// For whom it is meant (may be repeated)
    #[arg(long)]
    pub audience: Vec<String>,
    /// Bind it to a Pod, Secret or Node
    #[arg(long)]
    pub bound_object_kind: Option<String>,
    /// That object's name
    #[arg(long)]
    pub bound_object_name: Option<String>,
    /// That object's uid
    #[arg(long)]
    pub bound_object_uid: Option<String>,
    /// json or yaml: the whole answer
    #[arg(short, long)]
    pub output: Option<String>,
}

/// Asks for a token and prints it.
///
/// # Errors
/// When flags contradict each other or the server refuses.
pub async fn token(session: &Session, args: &TokenArgs) -> anyhow::Result<()> {
    let seconds = duration::parse(&args.duration)?.as_secs();
    let mut spec = json!({});
    if seconds > 0 {
        spec["expirationSeconds"] = json!(seconds);
    }
    if !args.audience.is_empty() {
        spec["audiences"] = json!(args.audience);
    }
    if let Some(kind) = &args.bound_object_kind {
        let Some(name) = &args.bound_object_name else { bail!("--bound-object-name is required if --bound-object-kind is provided") };
        let version = match kind.as_str() {
            "Pod" | "Secret" | "Node" => "v1",
            _ => bail!("supported --bound-object-kind values are Node, Pod, Secret"),
        };
        spec["boundObjectRef"] = json!({"kind": kind, "apiVersion": version, "name": name, "uid": args.bound_object_uid});
    } else if args.bound_object_name.is_some() || args.bound_object_uid.is_some() {
        bail!("--bound-object-name can only be set if --bound-object-kind is provided");
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", session.namespace, args.name);
    let answer = session.json(trierarch_client::Request::json(http::Method::POST, path, &request)).await.map_err(|error| {
        match crate::kubectl::errors::api(&error) {
            Some(refused) => anyhow::anyhow!("failed to create token: {}", refused.message),
            None => error,
        }
    })?;
    match args.output.as_deref() {
        Some("json") => emit(&crate::kubectl::print::json::pretty(&answer)),
        Some("yaml") => emit(&crate::kubectl::print::yaml::text(&answer)),
        Some(other) => bail!("unable to match a printer suitable for the output format {other:?}, allowed formats are: json,yaml"),
        None => {
            let Some(token) = answer["status"]["token"].as_str() else { bail!("failed to create token: no token in server response") };
            if answer["status"]["expirationTimestamp"].is_null() {
                note("Warning: the token never expires");
            }
            emit(&format!("{token}\n"))
        }
    }
}
