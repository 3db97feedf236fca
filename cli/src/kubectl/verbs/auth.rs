//! `auth can-i` and `auth whoami`: who one is and what one may do.

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_client::Request;

use crate::kubectl::errors::Exit;
use crate::kubectl::output::{emit, line, note};
use crate::kubectl::print::{json as json_text, tabs, yaml};
use crate::kubectl::session::Session;

/// Arguments of `auth`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl auth can-i delete pods                         yes or no, also as exit code
  kubectl auth can-i get pods/log --as=system:serviceaccount:shop:web
  kubectl auth can-i --list -n shop
  kubectl auth whoami")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Whether something may be done
    CanI {
        /// VERB and TYPE, TYPE/NAME, or an address such as /metrics
        words: Vec<String>,
        /// Everything that may be done
        #[arg(long)]
        list: bool,
        /// Say nothing: the exit code tells
        #[arg(short, long)]
        quiet: bool,
        /// A subresource
        #[arg(long, default_value = "")]
        subresource: String,
        /// In all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Without the line of column names
        #[arg(long)]
        no_headers: bool,
    },
    /// Who the server thinks one is
    Whoami {
        /// json or yaml
        #[arg(short, long)]
        output: Option<String>,
    },
    /// (missing here: use apply or the real kubectl)
    #[command(hide = true)]
    Reconcile {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; [`Exit`] when the answer is no.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::CanI { list: true, no_headers, .. } => list(session, no_headers).await,
        Action::CanI { words, quiet, subresource, all_namespaces, .. } => {
            let allowed = can(session, &words, &subresource, all_namespaces, quiet).await?;
            if allowed { Ok(()) } else { Err(Exit(1).into()) }
        }
        Action::Whoami { output } => whoami(session, output.as_deref()).await,
        Action::Reconcile { .. } => {
            bail!("this kubectl does not reconcile: use kubectl apply, or the real kubectl")
        }
    }
}

async fn can(session: &Session, words: &[String], sub: &str, everywhere: bool, quiet: bool) -> anyhow::Result<bool> {
    let [verb, what, rest @ ..] = words else {
        bail!(
            "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples."
        )
    };
    let spec = if what.starts_with('/') {
        json!({"nonResourceAttributes": {"path": what, "verb": verb}})
    } else {
        let (word, mut name) = what.split_once('/').map_or((what.as_str(), String::new()), |(word, name)| (word, name.to_owned()));
        if name.is_empty()
            && let [given, ..] = rest
        {
            name = given.clone();
        }
        let discovery = session.discovery().await?;
        let (group, plural, namespaced) = if word == "*" {
            ("*".to_owned(), "*".to_owned(), true)
        } else {
            match discovery.resource(word) {
                Ok(found) => (found.group.clone(), found.plural.clone(), found.namespaced),
                Err(_none) => {
                    note(format!("Warning: the server doesn't have a resource type '{word}'\n"));
                    (String::new(), word.to_owned(), true)
                }
            }
        };
        if !namespaced && !quiet {
            let of_group = if group.is_empty() { String::new() } else { format!(" in group '{group}'") };
            note(format!("Warning: resource '{plural}' is not namespace scoped{of_group}\n"));
        }
        let namespace = if everywhere { String::new() } else { session.namespace.clone() };
        let mut attributes = json!({"verb": verb, "resource": plural, "namespace": namespace});
        for (field, value) in [("group", group.as_str()), ("name", name.as_str()), ("subresource", sub)] {
            if !value.is_empty() {
                attributes[field] = json!(value);
            }
        }
        json!({"resourceAttributes": attributes})
    };
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
    let answer = session.json(Request::json(http::Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review)).await?;
    let status = &answer["status"];
    let allowed = status["allowed"] == true;
    if !quiet {
        let mut text = if allowed { "yes" } else { "no" }.to_owned();
        if !allowed {
            if let Some(reason) = status["reason"].as_str().filter(|reason| !reason.is_empty()) {
                text.push_str(&format!(" - {reason}"));
            }
            if let Some(problem) = status["evaluationError"].as_str().filter(|problem| !problem.is_empty()) {
                text.push_str(&format!(" - {problem}"));
            }
        }
        line(text)?;
    }
    Ok(allowed)
}

async fn list(session: &Session, no_headers: bool) -> anyhow::Result<()> {
    let review =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": session.namespace}});
    let answer = session.json(Request::json(http::Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review)).await?;
    if answer["status"]["incomplete"] == true {
        note(format!("warning: the list may be incomplete: {}", answer["status"]["evaluationError"].as_str().unwrap_or_default()));
    }
    emit(&rules(&answer["status"], no_headers))
}

fn rules(status: &Value, no_headers: bool) -> String {
    let mut text = if no_headers { String::new() } else { "Resources\tNon-Resource URLs\tResource Names\tVerbs\n".to_owned() };
    let all = ["resourceRules", "nonResourceRules"].iter().flat_map(|part| status[part].as_array().into_iter().flatten());
    for line in crate::kubectl::describe::rules::lines(all) {
        text.push_str(&format!("{}\n", line.cells().join("\t")));
    }
    tabs::align(&text, 6, 3)
}

async fn whoami(session: &Session, output: Option<&str>) -> anyhow::Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = session.json(Request::json(http::Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &review)).await?;
    match output {
        Some("json") => return emit(&json_text::pretty(&answer)),
        Some("yaml") => return emit(&yaml::text(&answer)),
        Some(other) => bail!("unable to match a printer suitable for the output format {other:?}, allowed formats are: json,yaml"),
        None => {}
    }
    let user = &answer["status"]["userInfo"];
    let list = |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let mut text = format!("ATTRIBUTE\tVALUE\nUsername\t{}\n", user["username"].as_str().unwrap_or_default());
    if let Some(uid) = user["uid"].as_str().filter(|uid| !uid.is_empty()) {
        text.push_str(&format!("UID\t{uid}\n"));
    }
    if user["groups"].is_array() {
        text.push_str(&format!("Groups\t[{}]\n", list(&user["groups"])));
    }
    for (key, values) in user["extra"].as_object().into_iter().flatten() {
        text.push_str(&format!("Extra: {key}\t[{}]\n", list(values)));
    }
    emit(&tabs::align(&text, 6, 3))
}
