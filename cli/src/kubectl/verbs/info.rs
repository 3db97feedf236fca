//! `api-resources`, `api-versions`, `version` and `cluster-info`: what a server is and has.

use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::bail;
use serde_json::{Value, json};

use crate::kubectl::discovery::Resource;
use crate::kubectl::output::{emit, line};
use crate::kubectl::print::{json as json_text, tabs, yaml};
use crate::kubectl::session::Session;

/// Arguments of `api-resources`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl api-resources                            everything, with short names
  kubectl api-resources --namespaced=false -o name
  kubectl api-resources --api-group=apps -o wide
  kubectl api-resources --verbs=list,watch --sort-by=name")]
pub struct ResourcesArgs {
    /// Only this group; empty for the core
    #[arg(long)]
    pub api_group: Option<String>,
    /// Only what lives in namespaces, or only what does not
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub namespaced: Option<bool>,
    /// Only what allows all of these
    #[arg(long, value_delimiter = ',')]
    pub verbs: Vec<String>,
    /// Only what is in all of these
    #[arg(long, value_delimiter = ',')]
    pub categories: Vec<String>,
    /// name, wide, json or yaml
    #[arg(short, long)]
    pub output: Option<String>,
    /// Without the line of column names
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub no_headers: bool,
    /// name or kind
    #[arg(long)]
    pub sort_by: Option<String>,
    /// Accepted, and unused: discovery is asked for afresh
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false", hide = true)]
    pub cached: bool,
}

fn shown(all: &[Arc<Resource>], args: &ResourcesArgs) -> Vec<Arc<Resource>> {
    let mut found: Vec<Arc<Resource>> = Vec::new();
    for resource in all {
        // the preferred version of a resource comes first
        let known = found.iter().any(|have| have.group == resource.group && have.plural == resource.plural);
        let wanted = args.api_group.as_ref().is_none_or(|group| *group == resource.group)
            && args.namespaced.is_none_or(|flag| flag == resource.namespaced)
            && args.verbs.iter().all(|verb| resource.allows(verb))
            && args.categories.iter().all(|category| resource.categories.contains(category))
            && !resource.verbs.is_empty();
        if wanted && !known {
            found.push(Arc::clone(resource));
        }
    }
    match args.sort_by.as_deref() {
        Some("name") => found.sort_by(|a, b| a.plural.cmp(&b.plural)),
        Some("kind") => found.sort_by(|a, b| a.kind.cmp(&b.kind)),
        _ => found.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural))),
    }
    found
}

/// Lists resources.
///
/// # Errors
/// When the server does not answer.
pub async fn resources(session: &Session, args: ResourcesArgs) -> anyhow::Result<()> {
    if let Some(other) = args.sort_by.as_deref().filter(|by| !["name", "kind"].contains(by)) {
        bail!("--sort-by accepts only name or kind, not {other:?}");
    }
    let discovery = session.discovery().await?;
    let found = shown(&discovery.resources, &args);
    let wide = match args.output.as_deref() {
        None | Some("") => false,
        Some("wide") => true,
        Some("name") => {
            return emit(&found.iter().map(|resource| resource.group_resource() + "\n").collect::<String>());
        }
        Some(form @ ("json" | "yaml")) => {
            let entries: Vec<Value> = found
                .iter()
                .map(|r| {
                    let mut entry = json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "version": r.version, "kind": r.kind, "verbs": r.verbs});
                    for (field, list) in [("shortNames", &r.short_names), ("categories", &r.categories)] {
                        if !list.is_empty() {
                            entry[field] = json!(list);
                        }
                    }
                    if !r.group.is_empty() {
                        entry["group"] = json!(r.group);
                    }
                    entry
                })
                .collect();
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "", "resources": entries});
            return emit(&if form == "json" { json_text::pretty(&list) } else { yaml::text(&list) });
        }
        Some(other) => bail!("--output {other} is not available"),
    };
    let mut text = String::new();
    if !args.no_headers {
        text.push_str("NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND");
        text.push_str(if wide { "\tVERBS\tCATEGORIES\n" } else { "\n" });
    }
    for r in &found {
        text.push_str(&format!("{}\t{}\t{}\t{}\t{}", r.plural, r.short_names.join(","), r.api_version(), r.namespaced, r.kind));
        if wide {
            let mut verbs = r.verbs.clone();
            verbs.sort();
            text.push_str(&format!("\t{}\t{}", verbs.join(","), r.categories.join(",")));
        }
        text.push('\n');
    }
    emit(&tabs::align(&text, 6, 3))
}

/// Lists versions of groups.
///
/// # Errors
/// When the server does not answer.
pub async fn versions(session: &Session) -> anyhow::Result<()> {
    let discovery = session.discovery().await?;
    let mut all = discovery.versions.clone();
    all.sort();
    all.dedup();
    emit(&all.iter().map(|version| format!("{version}\n")).collect::<String>())
}

/// Arguments of `version`.
#[derive(clap::Args, Debug)]
pub struct VersionArgs {
    /// Do not ask a server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub client: bool,
    /// json or yaml
    #[arg(short, long)]
    pub output: Option<String>,
}

fn client_version() -> Value {
    let (major, minor) = trierarch_api::VERSION.trim_start_matches('v').split_once('.').unwrap_or(("1", "37"));
    json!({"major": major, "minor": minor.split('.').next().unwrap_or_default(), "gitVersion": trierarch_api::VERSION, "gitTreeState": "clean",
        "compiler": "rustc", "platform": format!("linux/{}", if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH })})
}

/// Prints versions. `session` is absent when no server is to be asked.
///
/// # Errors
/// When the server does not answer.
pub async fn version(session: Option<&Session>, args: VersionArgs) -> anyhow::Result<()> {
    let mut all = json!({"clientVersion": client_version()});
    let mut failure = None;
    if let Some(session) = session {
        match session.get("/version").await {
            Ok(server) => all["serverVersion"] = server,
            Err(error) => failure = Some(error),
        }
    }
    match args.output.as_deref() {
        Some("json") => emit(&(serde_json::to_string_pretty(&all)? + "\n"))?,
        Some("yaml") => emit(&yaml::text(&all))?,
        Some(_) => bail!("--output must be 'yaml' or 'json'"),
        None => {
            line(format!("Client Version: {}", trierarch_api::VERSION))?;
            if let Some(version) = all["serverVersion"]["gitVersion"].as_str() {
                line(format!("Server Version: {version}"))?;
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Arguments of `cluster-info`.
#[derive(clap::Args, Debug)]
pub struct ClusterInfoArgs {
    /// dump (missing here: use the real kubectl)
    pub what: Option<String>,
}

/// Says where the control plane is.
///
/// # Errors
/// When the server does not answer.
pub async fn cluster_info(session: &Session, args: ClusterInfoArgs) -> anyhow::Result<()> {
    if args.what.is_some() {
        bail!("this kubectl does not dump clusters: use the real kubectl");
    }
    let colour = |code: &'static str| if std::io::stdout().is_terminal() { code } else { "" };
    let (green, yellow, reset) = (colour("\u{1b}[0;32m"), colour("\u{1b}[0;33m"), colour("\u{1b}[0m"));
    let server = session.client.server().trim_end_matches('/').to_owned();
    let narrow = crate::kubectl::select::Narrow { labels: Some("kubernetes.io/cluster-service=true".to_owned()), ..Default::default() };
    let list = crate::kubectl::select::list(session, "/api/v1/namespaces/kube-system/services", &narrow, None, "").await?;
    line(format!("{green}Kubernetes control plane{reset} is running at {yellow}{server}{reset}"))?;
    for service in list["items"].as_array().into_iter().flatten() {
        let metadata = &service["metadata"];
        let name = metadata["labels"]["kubernetes.io/name"].as_str().or_else(|| metadata["name"].as_str()).unwrap_or_default();
        let port = service["spec"]["ports"][0]["name"].as_str().map(|port| format!(":{port}")).unwrap_or_default();
        let path = format!("{server}/api/v1/namespaces/kube-system/services/{}{port}/proxy", metadata["name"].as_str().unwrap_or_default());
        line(format!("{green}{name}{reset} is running at {yellow}{path}{reset}"))?;
    }
    line("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ResourcesArgs,
    }

    #[test]
    fn each_resource_shows_once_and_in_order() {
        let discovery = crate::kubectl::discovery::tests::small();
        let names = |words: &str| -> Vec<String> {
            let args = Line::try_parse_from(words.split(' ')).expect("flags").args;
            shown(&discovery.resources, &args).iter().map(|resource| resource.group_resource()).collect()
        };
        assert_eq!(
            names("x"),
            ["events", "namespaces", "pods", "services", "deployments.apps", "events.events.k8s.io", "ingresses.networking.k8s.io"]
        );
        assert_eq!(names("x --namespaced=false"), ["namespaces"]);
        assert_eq!(names("x --api-group=apps"), ["deployments.apps"]);
        assert_eq!(names("x --verbs=delete"), Vec::<String>::new());
    }
}
