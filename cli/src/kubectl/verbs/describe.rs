//! `describe`: objects and what belongs to them, for people.

use anyhow::bail;

use crate::kubectl::describe;
use crate::kubectl::errors;
use crate::kubectl::manifest::FileArgs;
use crate::kubectl::output::{emit, note};
use crate::kubectl::select::{self, CHUNK, Found, Narrow, Wanted};
use crate::kubectl::session::Session;

/// Arguments of `describe`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl describe pod web-1          with its containers, conditions and events
  kubectl describe pods -l app=web
  kubectl describe node/n1            with what runs there and how much is asked of it")]
pub struct Args {
    /// TYPE, TYPE NAME (or the beginning of one), TYPE/NAME
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    /// Objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub all_namespaces: bool,
    /// With events [default: for a single object]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub show_events: Option<bool>,
    /// How many objects the server is asked for at once
    #[arg(long, default_value_t = CHUNK)]
    pub chunk_size: u32,
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    if args.what.is_empty() && args.files.is_empty() {
        bail!(
            "You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources."
        );
    }
    let narrow = Narrow { labels: args.selector.clone(), all_namespaces: args.all_namespaces, chunk: args.chunk_size, ..Narrow::default() };
    let discovery = session.discovery().await?;
    let wanted = if args.files.is_empty() {
        select::arguments(&discovery, &args.what, &session.namespace, &narrow)?
    } else {
        select::files(&discovery, args.files.load()?, session)?
    };
    let prefix = match wanted.as_slice() {
        [Wanted::One { resource, namespace, name, .. }] => Some((resource.clone(), namespace.clone(), name.clone())),
        _ => None,
    };
    let named = wanted.iter().any(|one| matches!(one, Wanted::One { .. }));
    let (mut found, mut failures) = select::fetch(session, wanted, &narrow).await;
    let mut by_prefix = false;
    if let ([], Some((resource, namespace, name))) = (found.as_slice(), prefix) {
        by_prefix = true;
        found = beginning_with(session, resource, namespace, &name, &narrow).await?;
        if !found.is_empty() {
            failures.clear();
        }
    }
    let show_events = args.show_events.unwrap_or(found.len() == 1 && !by_prefix);
    let mut texts = Vec::new();
    for one in &found {
        match describe::describe(session, one, show_events).await {
            Ok(text) => texts.push(text),
            Err(error) => failures.push(error),
        }
    }
    emit(&texts.join("\n\n"))?;
    if found.is_empty() && failures.is_empty() && !named {
        if args.all_namespaces {
            note("No resources found");
        } else {
            note(format!("No resources found in {} namespace.", session.namespace));
        }
    }
    errors::aggregate(failures)
}

async fn beginning_with(
    session: &Session,
    resource: std::sync::Arc<crate::kubectl::discovery::Resource>,
    namespace: Option<String>,
    prefix: &str,
    narrow: &Narrow,
) -> anyhow::Result<Vec<Found>> {
    let (found, failures) = select::fetch(session, vec![Wanted::All { resource, namespace }], narrow).await;
    errors::aggregate(failures)?;
    Ok(found.into_iter().filter(|one| one.name.starts_with(prefix)).collect())
}
