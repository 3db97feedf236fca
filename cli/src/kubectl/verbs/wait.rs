//! `wait`: until objects are as they should be.

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use trierarch_api::Reason;

use crate::kubectl::manifest::FileArgs;
use crate::kubectl::mutate::{DryRun, Report};
use crate::kubectl::print::OutputArgs;
use crate::kubectl::print::jsonpath::{self, JsonPath};
use crate::kubectl::select::{self, CHUNK, Found, Narrow, Wanted};
use crate::kubectl::session::Session;
use crate::kubectl::waiting::{self, Look};
use crate::kubectl::{clock, duration, errors};

/// A negative time means a week.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Arguments of `wait`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl wait --for=condition=Ready pod/a
  kubectl wait --for=condition=Available deploy --all --timeout=2m
  kubectl wait --for=delete pod/a
  kubectl wait --for=create cm/conf
  kubectl wait --for=jsonpath='{.status.phase}'=Running pod -l app=web")]
pub struct Args {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// delete, create, condition=NAME[=VALUE], or jsonpath='{PATH}'[=VALUE]
    #[arg(long = "for", value_name = "WHAT")]
    pub condition: Option<String>,
    /// How long to wait; negative for a week, 0 to look once
    #[arg(long, default_value = "30s", allow_hyphen_values = true)]
    pub timeout: String,
    /// Objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Objects with these fields
    #[arg(long)]
    pub field_selector: Option<String>,
    /// All objects of the type
    #[arg(long)]
    pub all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// What is waited for.
#[derive(Debug)]
enum Condition {
    Deleted,
    Created,
    Status { name: String, value: String },
    Path { path: JsonPath, value: Option<String> },
}

impl Condition {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let lower = text.to_lowercase();
        if lower == "delete" {
            return Ok(Self::Deleted);
        }
        if lower == "create" {
            return Ok(Self::Created);
        }
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Self::Status { name: name.to_owned(), value: value.to_owned() });
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            // the value follows the closing brace; a filter may hold `==`
            let end = rest.rfind('}').map_or(rest.find('=').unwrap_or(rest.len()), |at| at + 1);
            let (path, after) = rest.split_at(end);
            // quotes that a shell left
            let value = match after.trim_start_matches(['\'', '"']).strip_prefix('=') {
                Some("") => bail!("jsonpath wait value cannot be empty"),
                Some(value) => Some(value.trim_matches(['\'', '"']).to_owned()),
                None if after.trim_matches(['\'', '"']).is_empty() => None,
                None => bail!(
                    "jsonpath wait format must be --for=jsonpath='{{.status.readyReplicas}}'=3 or --for=jsonpath='{{.status.readyReplicas}}'"
                ),
            };
            return Ok(Self::Path { path: JsonPath::parse(&jsonpath::relaxed(path.trim_matches('\''))?)?, value });
        }
        bail!("unrecognized condition: {text:?}")
    }

    fn look(&self, seen: Option<&Value>, uid: Option<&Value>) -> anyhow::Result<Look> {
        let met = match (self, seen) {
            (Self::Deleted, None) => true,
            (Self::Deleted, Some(object)) => uid.is_some_and(|uid| object["metadata"]["uid"] != *uid),
            (_, None) => false,
            (Self::Created, Some(_)) => true,
            (Self::Status { name, value }, Some(object)) => holds(object, name, value),
            (Self::Path { path, value }, Some(object)) => {
                let found = path.values(object).unwrap_or_default();
                match (found.as_slice(), value) {
                    ([], _) => false,
                    ([_, _, ..], _) => {
                        bail!("given jsonpath expression matches more than one value")
                    }
                    ([Value::Object(_) | Value::Array(_)], Some(_)) => {
                        bail!("jsonpath leads to a nested object or list which is not supported")
                    }
                    ([one], Some(value)) => jsonpath::json_text(one).trim() == value.trim(),
                    ([_], None) => true,
                }
            }
        };
        Ok(if met { Look::Done } else { Look::Wait })
    }
}

/// Whether a condition has a value. One that was observed before the last change does not count.
fn holds(object: &Value, name: &str, value: &str) -> bool {
    let Some(condition) = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case(name)))
    else {
        return false;
    };
    let generation = object["metadata"]["generation"].as_i64();
    let observed = condition["observedGeneration"].as_i64().or_else(|| object["status"]["observedGeneration"].as_i64());
    if let (Some(generation), Some(observed)) = (generation, observed)
        && observed < generation
    {
        return false;
    }
    condition["status"].as_str().is_some_and(|status| status.eq_ignore_ascii_case(value))
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let Some(text) = &args.condition else { bail!("required flag(s) \"for\" not set") };
    let condition = Condition::parse(text)?;
    let report = Report::new(&args.output, DryRun::No)?;
    let timeout = match args.timeout.strip_prefix('-') {
        Some(_) => LONGEST,
        None => duration::parse(&args.timeout)?,
    };
    let start = clock::instant();
    let narrow = Narrow {
        labels: args.selector.clone(),
        fields: args.field_selector.clone(),
        all_namespaces: args.all_namespaces,
        all: args.all,
        chunk: CHUNK,
    };
    let found = loop {
        let (found, failures) = targets(session, &args, &narrow, &condition).await?;
        let missing = failures.iter().all(|error| errors::is(error, Reason::NotFound));
        if matches!(condition, Condition::Created) && missing && (found.is_empty() || !failures.is_empty()) {
            if start.elapsed() >= timeout {
                bail!("timed out waiting for the condition on {}", args.what.join(" "));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        if matches!(condition, Condition::Deleted) && missing {
            break found;
        }
        errors::aggregate(failures)?;
        break found;
    };
    if found.is_empty() && !matches!(condition, Condition::Deleted) {
        bail!("no matching resources found");
    }
    let mut failures = Vec::new();
    for target in &found {
        let left = timeout.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        let left = if timeout.is_zero() { Duration::from_secs(1) } else { left };
        let uid = target.object["metadata"].get("uid");
        match waiting::until(session, target, left, |seen| condition.look(seen, uid)).await {
            Ok(object) => {
                let shown = if object.is_null() { target.object.clone() } else { object };
                report.show(&shown, "condition met")?;
            }
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)
}

async fn targets(
    session: &Session,
    args: &Args,
    narrow: &Narrow,
    condition: &Condition,
) -> anyhow::Result<(Vec<Found>, Vec<anyhow::Error>)> {
    let discovery = session.discovery().await?;
    let wanted = if args.files.is_empty() {
        if args.what.is_empty() {
            bail!("{}", select::NOTHING_NAMED);
        }
        let wanted = select::arguments(&discovery, &args.what, &session.namespace, narrow)?;
        let selected = args.all || args.selector.is_some() || args.field_selector.is_some();
        if !selected && wanted.iter().any(|one| matches!(one, Wanted::All { .. })) {
            bail!("resource(s) were provided, but no name was specified");
        }
        wanted
    } else {
        select::files(&discovery, args.files.load()?, session)?
    };
    let (found, failures) = select::fetch(session, wanted, narrow).await;
    if found.is_empty() && failures.is_empty() && matches!(condition, Condition::Deleted) {
        return Ok((found, failures));
    }
    Ok((found, failures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn met(condition: &str, object: &Value) -> bool {
        Condition::parse(condition).expect("a condition").look(Some(object), None).expect("it can be told") == Look::Done
    }

    #[test]
    fn conditions() {
        let pod = json!({"metadata": {"uid": "u", "generation": 2}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(
            met("condition=Ready", &pod)
                && met("condition=ready=True", &pod)
                && !met("condition=Ready=False", &pod)
                && !met("condition=X", &pod)
        );
        assert!(
            met("jsonpath={.status.phase}=Running", &pod)
                && met("jsonpath={.status.phase}", &pod)
                && !met("jsonpath='{.status.phase}'=Failed", &pod)
        );
        assert!(met("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", &pod));
        assert!(met("create", &pod) && !met("delete", &pod));
        let gone = Condition::parse("delete").expect("a condition");
        assert_eq!(gone.look(None, None).expect("told"), Look::Done);
        assert_eq!(gone.look(Some(&pod), Some(&json!("other"))).expect("told"), Look::Done);
        assert!(Condition::parse("nope").is_err() && Condition::parse("jsonpath={.a}=").is_err());
    }

    #[test]
    fn what_was_observed_before_the_change_does_not_count() {
        let mut object = json!({"metadata": {"generation": 3}, "status": {"observedGeneration": 2, "conditions": [{"type": "Available", "status": "True"}]}});
        assert!(!holds(&object, "Available", "true"));
        object["status"]["observedGeneration"] = json!(3);
        assert!(holds(&object, "Available", "true"));
    }
}
