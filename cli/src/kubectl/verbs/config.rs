//! `config`: looks at kubeconfig files and changes them.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::kubectl::config;
use crate::kubectl::globals::Globals;
use crate::kubectl::output::{emit, line};
use crate::kubectl::print::{OutputArgs, tabs, yaml};

/// Arguments of `config`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl config get-contexts
  kubectl config use-context lab
  kubectl config set-context --current --namespace=shop
  kubectl config view --minify --raw")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Print the configuration, without what is secret
    View {
        /// With what is secret
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
        raw: bool,
        /// Only what the current context uses
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
        minify: bool,
        /// Put files into it
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
        flatten: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List contexts
    GetContexts {
        /// Only these
        names: Vec<String>,
        /// name: names only
        #[arg(short, long)]
        output: Option<String>,
        /// Without the line of column names
        #[arg(long)]
        no_headers: bool,
    },
    /// List clusters
    GetClusters,
    /// List users
    GetUsers,
    /// Print the current context
    CurrentContext,
    /// Make a context the current one
    #[command(visible_alias = "use")]
    UseContext {
        /// Its name
        name: String,
    },
    /// Make or change a context: --cluster, --user, --namespace
    SetContext {
        /// Its name
        name: Option<String>,
        /// The current one
        #[arg(long)]
        current: bool,
    },
    /// Make or change a cluster: --server, --certificate-authority, --insecure-skip-tls-verify
    SetCluster {
        /// Its name
        name: String,
        /// Put the authority's file into the configuration
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
        embed_certs: bool,
    },
    /// Make or change a user: --token, --client-certificate, --client-key
    SetCredentials {
        /// Its name
        name: String,
        /// Put the files into the configuration
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
        embed_certs: bool,
    },
    /// Remove a context
    DeleteContext {
        /// Its name
        name: String,
    },
    /// Remove a cluster
    DeleteCluster {
        /// Its name
        name: String,
    },
    /// Remove a user
    DeleteUser {
        /// Its name
        name: String,
    },
    /// Give a context another name
    RenameContext {
        /// The old one
        old: String,
        /// The new one
        new: String,
    },
    /// Set one value, as in current-context lab or contexts.lab.namespace shop
    Set {
        /// Where, with dots
        path: String,
        /// What
        value: String,
    },
    /// Remove one value
    Unset {
        /// Where, with dots
        path: String,
    },
}

fn entry<'a>(config: &'a Value, part: &str, name: &str) -> Option<&'a Value> {
    config[part].as_array()?.iter().find(|entry| entry["name"] == name)
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words.
pub fn run(globals: &Globals, args: Args) -> anyhow::Result<()> {
    let paths = config::paths(globals);
    let all = config::raw(&paths)?;
    let current = globals.context.clone().unwrap_or_else(|| all["current-context"].as_str().unwrap_or_default().to_owned());
    match args.action {
        Action::View { raw, minify, flatten, output } => view(all, &current, raw, minify, flatten, &output),
        Action::GetContexts { names, output, no_headers } => get_contexts(&all, &current, &names, output.as_deref(), no_headers),
        Action::GetClusters => names(&all, "clusters"),
        Action::GetUsers => names(&all, "users"),
        Action::CurrentContext => {
            let current = all["current-context"].as_str().unwrap_or_default();
            if current.is_empty() {
                bail!("current-context is not set");
            }
            line(current)
        }
        Action::UseContext { name } => {
            if entry(&all, "contexts", &name).is_none() {
                bail!("no context exists with the name: {name:?}");
            }
            change(&paths, |file| file["current-context"].is_string(), |file| file["current-context"] = json!(name))?;
            line(format!("Switched to context {name:?}."))
        }
        Action::SetContext { name, current: of_current } => {
            let name = match (name, of_current) {
                (Some(name), false) => name,
                (None, true) if current.is_empty() => bail!("no current context is set"),
                (None, true) => current,
                _ => bail!("you must specify a non-empty context name or --current"),
            };
            let existed = entry(&all, "contexts", &name).is_some();
            let mut fields = Map::new();
            for (field, value) in
                [("cluster", &globals.cluster), ("user", &globals.user.last().cloned()), ("namespace", &globals.namespace)]
            {
                if let Some(value) = value {
                    fields.insert(field.to_owned(), json!(value));
                }
            }
            put(&paths, "contexts", "context", &name, fields)?;
            line(format!("Context {name:?} {}.", if existed { "modified" } else { "created" }))
        }
        Action::SetCluster { name, embed_certs } => {
            let mut fields = Map::new();
            if let Some(server) = &globals.server {
                fields.insert("server".to_owned(), json!(server));
            }
            file_field(&mut fields, "certificate-authority", globals.certificate_authority.as_ref(), embed_certs)?;
            if globals.insecure_skip_tls_verify {
                fields.insert("insecure-skip-tls-verify".to_owned(), json!(true));
            }
            put(&paths, "clusters", "cluster", &name, fields)?;
            line(format!("Cluster {name:?} set."))
        }
        Action::SetCredentials { name, embed_certs } => {
            let mut fields = Map::new();
            if let Some(token) = &globals.token {
                fields.insert("token".to_owned(), json!(token));
            }
            file_field(&mut fields, "client-certificate", globals.client_certificate.as_ref(), embed_certs)?;
            file_field(&mut fields, "client-key", globals.client_key.as_ref(), embed_certs)?;
            put(&paths, "users", "user", &name, fields)?;
            line(format!("User {name:?} set."))
        }
        Action::DeleteContext { name } => {
            remove(&paths, &all, "contexts", "context", &name)?;
            if all["current-context"] == name.as_str() {
                crate::kubectl::output::note(
                    "warning: this removed your active context, use \"kubectl config use-context\" to select a different one",
                );
            }
            line(format!("deleted context {name} from {}", where_is(&paths, "contexts", &name)))
        }
        Action::DeleteCluster { name } => {
            let path = where_is(&paths, "clusters", &name);
            remove(&paths, &all, "clusters", "cluster", &name)?;
            line(format!("deleted cluster {name} from {path}"))
        }
        Action::DeleteUser { name } => {
            let path = where_is(&paths, "users", &name);
            remove(&paths, &all, "users", "user", &name)?;
            line(format!("deleted user {name} from {path}"))
        }
        Action::RenameContext { old, new } => {
            if entry(&all, "contexts", &old).is_none() {
                bail!("cannot rename the context {old:?}, it's not in {}", where_is(&paths, "contexts", &old));
            }
            if entry(&all, "contexts", &new).is_some() {
                bail!("cannot rename the context {old:?}, the context {new:?} already exists in {}", where_is(&paths, "contexts", &new));
            }
            change(
                &paths,
                |file| entry(file, "contexts", &old).is_some(),
                |file| {
                    for entry in file["contexts"].as_array_mut().into_iter().flatten() {
                        if entry["name"] == old.as_str() {
                            entry["name"] = json!(new);
                        }
                    }
                    if file["current-context"] == old.as_str() {
                        file["current-context"] = json!(new);
                    }
                },
            )?;
            line(format!("Context {old:?} renamed to {new:?}."))
        }
        Action::Set { path, value } => {
            set(&paths, &path, Some(&value))?;
            line(format!("Property {path:?} set."))
        }
        Action::Unset { path } => {
            set(&paths, &path, None)?;
            line(format!("Property {path:?} unset."))
        }
    }
}

fn names(all: &Value, part: &str) -> anyhow::Result<()> {
    let mut names: Vec<&str> = all[part].as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str()).collect();
    names.sort_unstable();
    emit(&format!("NAME\n{}", names.iter().map(|name| format!("{name}\n")).collect::<String>()))
}

fn get_contexts(all: &Value, current: &str, wanted: &[String], output: Option<&str>, no_headers: bool) -> anyhow::Result<()> {
    let mut contexts: Vec<&Value> = all["contexts"].as_array().into_iter().flatten().collect();
    contexts.sort_by_key(|entry| entry["name"].as_str().unwrap_or_default().to_owned());
    for name in wanted {
        if entry(all, "contexts", name).is_none() {
            bail!("context {name} not found");
        }
    }
    contexts.retain(|entry| wanted.is_empty() || wanted.iter().any(|name| entry["name"] == name.as_str()));
    if output == Some("name") {
        return emit(&contexts.iter().map(|entry| format!("{}\n", entry["name"].as_str().unwrap_or_default())).collect::<String>());
    }
    let mut text = if no_headers { String::new() } else { "CURRENT\tNAME\tCLUSTER\tAUTHINFO\tNAMESPACE\n".to_owned() };
    for entry in contexts {
        let name = entry["name"].as_str().unwrap_or_default();
        let field = |name: &str| entry["context"][name].as_str().unwrap_or_default().to_owned();
        text.push_str(&format!(
            "{}\t{name}\t{}\t{}\t{}\n",
            if name == current { "*" } else { "" },
            field("cluster"),
            field("user"),
            field("namespace")
        ));
    }
    emit(&tabs::align(&text, 6, 3))
}

fn view(mut all: Value, current: &str, raw: bool, minify: bool, flatten: bool, output: &OutputArgs) -> anyhow::Result<()> {
    if minify {
        let Some(context) = entry(&all, "contexts", current).cloned() else { bail!("cannot locate context {current}") };
        for (part, name) in [("clusters", &context["context"]["cluster"]), ("users", &context["context"]["user"])] {
            if let Some(list) = all[part].as_array_mut() {
                list.retain(|entry| entry["name"] == *name);
            }
        }
        all["contexts"] = json!([context]);
        all["current-context"] = json!(current);
    }
    if flatten {
        for (part, inner, fields) in
            [("clusters", "cluster", &["certificate-authority"][..]), ("users", "user", &["client-certificate", "client-key"])]
        {
            for entry in all[part].as_array_mut().into_iter().flatten() {
                for field in fields {
                    if let Some(path) = entry[inner][field].as_str().map(str::to_owned) {
                        entry[inner][format!("{field}-data")] = json!(encoded(&path)?);
                        if let Some(map) = entry[inner].as_object_mut() {
                            map.remove(*field);
                        }
                    }
                }
            }
        }
    }
    if !raw {
        redact(&mut all);
    }
    if all["preferences"].as_object().is_some_and(Map::is_empty)
        && let Some(map) = all.as_object_mut()
    {
        map.remove("preferences");
    }
    for part in ["clusters", "contexts", "users"] {
        if all[part].as_array().is_some_and(Vec::is_empty) {
            all[part] = Value::Null;
        }
    }
    match output.printer()? {
        None => emit(&yaml::text(&all)),
        Some(printer) => emit(&printer.text(&all, true, true)?),
    }
}

fn redact(config: &mut Value) {
    for cluster in config["clusters"].as_array_mut().into_iter().flatten() {
        if cluster["cluster"]["certificate-authority-data"].is_string() {
            cluster["cluster"]["certificate-authority-data"] = json!("DATA+OMITTED");
        }
    }
    for user in config["users"].as_array_mut().into_iter().flatten() {
        for field in ["client-certificate-data", "client-key-data"] {
            if user["user"][field].is_string() {
                user["user"][field] = json!("DATA+OMITTED");
            }
        }
        for field in ["token", "password"] {
            if user["user"][field].is_string() {
                user["user"][field] = json!("REDACTED");
            }
        }
    }
}

fn encoded(path: &str) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("could not read {path}"))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn file_field(fields: &mut Map<String, Value>, name: &str, path: Option<&String>, embed: bool) -> anyhow::Result<()> {
    if let Some(path) = path {
        if embed {
            fields.insert(format!("{name}-data"), json!(encoded(path)?));
        } else {
            fields.insert(name.to_owned(), json!(std::path::absolute(path)?.to_string_lossy()));
        }
    }
    Ok(())
}

/// The file to change: the first for which `holds`, else the first that exists, else the last named.
fn file_for(paths: &[PathBuf], holds: impl Fn(&Value) -> bool) -> anyhow::Result<PathBuf> {
    for path in paths {
        if holds(&config::read(path)?) {
            return Ok(path.clone());
        }
    }
    let Some(path) = paths.iter().find(|path| path.exists()).or_else(|| paths.last()) else {
        bail!("no kubeconfig file is named: set KUBECONFIG or HOME")
    };
    Ok(path.clone())
}

fn where_is(paths: &[PathBuf], part: &str, name: &str) -> String {
    file_for(paths, |file| entry(file, part, name).is_some()).map_or_else(|_none| String::new(), |path| path.display().to_string())
}

fn change(paths: &[PathBuf], holds: impl Fn(&Value) -> bool, edit: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
    let path = file_for(paths, holds)?;
    let mut file = config::read(&path)?;
    if !file.is_object() {
        file = json!({});
    }
    for (field, value) in [("apiVersion", "v1"), ("kind", "Config")] {
        if file[field].is_null() {
            file[field] = json!(value);
        }
    }
    edit(&mut file);
    config::write(&path, &file)
}

fn put(paths: &[PathBuf], part: &str, inner: &str, name: &str, fields: Map<String, Value>) -> anyhow::Result<()> {
    change(
        paths,
        |file| entry(file, part, name).is_some(),
        |file| {
            if !file[part].is_array() {
                file[part] = json!([]);
            }
            let Some(list) = file[part].as_array_mut() else {
                return;
            };
            if !list.iter().any(|entry| entry["name"] == name) {
                list.push(json!({"name": name, inner: {}}));
            }
            for entry in list.iter_mut().filter(|entry| entry["name"] == name) {
                if !entry[inner].is_object() {
                    entry[inner] = json!({});
                }
                for (field, value) in &fields {
                    entry[inner][field] = value.clone();
                }
            }
        },
    )
}

fn remove(paths: &[PathBuf], all: &Value, part: &str, word: &str, name: &str) -> anyhow::Result<()> {
    if entry(all, part, name).is_none() {
        bail!("cannot delete {word} {name}, not in {}", where_is(paths, part, name));
    }
    change(
        paths,
        |file| entry(file, part, name).is_some(),
        |file| {
            if let Some(list) = file[part].as_array_mut() {
                list.retain(|entry| entry["name"] != name);
            }
        },
    )
}

/// Sets a value by its path: `current-context`, or `contexts.NAME.FIELD` (also of clusters and users).
fn set(paths: &[PathBuf], path: &str, value: Option<&str>) -> anyhow::Result<()> {
    if path == "current-context" {
        return change(
            paths,
            |file| file["current-context"].is_string(),
            |file| file["current-context"] = json!(value.unwrap_or_default()),
        );
    }
    let mut parts = path.splitn(2, '.');
    let (part, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let inner = match part {
        "contexts" => "context",
        "clusters" => "cluster",
        "users" => "user",
        _ => bail!("unable to parse {path} at {path}: write current-context, or contexts, clusters or users with a name and a field"),
    };
    // names may hold dots: the field is what follows the last
    let Some((name, field)) = rest.rsplit_once('.') else { bail!("{path} needs a name and a field") };
    match value {
        Some(value) => put(paths, part, inner, name, [(field.to_owned(), json!(value))].into_iter().collect()),
        None => change(
            paths,
            |file| entry(file, part, name).is_some(),
            |file| {
                for entry in file[part].as_array_mut().into_iter().flatten().filter(|entry| entry["name"] == name) {
                    if let Some(map) = entry[inner].as_object_mut() {
                        map.remove(field);
                    }
                }
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_goes_to_the_file_that_holds_the_entry() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::write(&one, "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\n").expect("written");
        std::fs::write(&two, "contexts: [{name: b.x, context: {cluster: d}}]\n").expect("written");
        let paths = [one.clone(), two.clone()];
        set(&paths, "contexts.b.x.namespace", Some("shop")).expect("set");
        put(&paths, "contexts", "context", "new", Map::new()).expect("put");
        let (first, second) = (config::read(&one).expect("readable"), config::read(&two).expect("readable"));
        assert_eq!(second["contexts"][0]["context"], json!({"cluster": "d", "namespace": "shop"}));
        assert_eq!(first["contexts"][1]["name"], "new");
        remove(&paths, &config::raw(&paths).expect("readable"), "contexts", "context", "a").expect("removed");
        assert!(entry(&config::raw(&paths).expect("readable"), "contexts", "a").is_none());
        assert!(set(&paths, "nope", Some("x")).is_err());
    }

    #[test]
    fn secrets_do_not_show() {
        let mut config = json!({"clusters": [{"cluster": {"certificate-authority-data": "x"}}], "users": [{"user": {"client-key-data": "y", "token": "z"}}]});
        redact(&mut config);
        assert_eq!(
            config.to_string(),
            "{\"clusters\":[{\"cluster\":{\"certificate-authority-data\":\"DATA+OMITTED\"}}],\"users\":[{\"user\":{\"client-key-data\":\"DATA+OMITTED\",\"token\":\"REDACTED\"}}]}"
        );
    }
}
