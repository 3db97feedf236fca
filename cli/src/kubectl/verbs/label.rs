//! `label` and `annotate`: sets, changes and removes labels and annotations.

use std::collections::BTreeMap;

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_client::PatchKind;

use crate::kubectl::errors;
use crate::kubectl::manifest::FileArgs;
use crate::kubectl::mutate::{self, DryRun, DryRunArgs, Report};
use crate::kubectl::output::emit;
use crate::kubectl::print::OutputArgs;
use crate::kubectl::select::{self, CHUNK, Narrow};
use crate::kubectl::session::Session;

/// Arguments of `label` and `annotate`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl label pod a tier=web            set a label
  kubectl label pod a tier=db --overwrite change it
  kubectl label pod a tier-               remove it
  kubectl label nodes --all disk=ssd      on every object of a type
  kubectl annotate deploy/shop note='kept for the audit'")]
pub struct Args {
    /// TYPE NAME... or TYPE/NAME..., then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "WHAT", allow_hyphen_values = false)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Values may change
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub overwrite: bool,
    /// Print what there is
    #[arg(long)]
    pub list: bool,
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
    /// Only if the object is still at this version
    #[arg(long)]
    pub resource_version: Option<String>,
    /// Change nothing on a server: print what the files would become
    #[arg(long)]
    pub local: bool,
    /// Who manages the field
    #[arg(long)]
    pub field_manager: Option<String>,
}

/// Which of the two maps a verb is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// `metadata.labels`.
    Labels,
    /// `metadata.annotations`.
    Annotations,
}

impl Map {
    const fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Labels => "label",
            Self::Annotations => "annotation",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Labels => "labeled",
            Self::Annotations => "annotated",
        }
    }
}

/// What the words ask for.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    set: BTreeMap<String, String>,
    remove: Vec<String>,
}

/// Separates objects from changes: the first word that sets or removes begins the latter.
fn separate(words: &[String], map: Map) -> anyhow::Result<(Vec<String>, Changes)> {
    let is_change = |word: &str| !word.is_empty() && (word.contains('=') && !word.starts_with('=') || word.ends_with('-'));
    let first = words.iter().position(|word| is_change(word)).unwrap_or(words.len());
    let mut changes = Changes::default();
    for word in &words[first..] {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                changes.set.insert(key.to_owned(), value.to_owned());
            }
            None if word.ends_with('-') && word.len() > 1 => changes.remove.push(word[..word.len() - 1].to_owned()),
            _ if map == Map::Labels => bail!("unknown label spec: {word}"),
            _ => bail!("unknown annotation spec: {word}"),
        }
    }
    if let Some(both) = changes.remove.iter().find(|key| changes.set.contains_key(*key)) {
        bail!(
            "can not both modify and remove a{} {} in the same command",
            if map == Map::Labels { "" } else { "n" },
            if map == Map::Labels { "label".to_owned() } else { format!("annotation: {both}") }
        );
    }
    Ok((words[..first].to_vec(), changes))
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words; every object is tried.
pub async fn run(session: &Session, args: Args, map: Map) -> anyhow::Result<()> {
    let dry_run = args.dry_run.parse()?;
    let report = Report::new(&args.output, dry_run)?;
    let (what, changes) = separate(&args.words, map)?;
    if what.is_empty() && args.files.is_empty() {
        bail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if changes == Changes::default() && !args.list {
        bail!("at least one {} update is required", map.word());
    }
    if args.local {
        bail!("this kubectl changes no files: use the real kubectl for --local");
    }
    let narrow = Narrow {
        labels: args.selector.clone(),
        fields: args.field_selector.clone(),
        all_namespaces: args.all_namespaces,
        all: args.all,
        chunk: CHUNK,
    };
    let (found, mut failures) = select::find(session, &what, &args.files, &narrow).await?;
    let manager = args
        .field_manager
        .clone()
        .unwrap_or_else(|| if map == Map::Labels { "kubectl-label".to_owned() } else { "kubectl-annotate".to_owned() });
    for one in found {
        let outcome = async {
            let present = one.object["metadata"][map.field()].as_object().cloned().unwrap_or_default();
            if !args.overwrite {
                refuse_changes(&present, &changes, map)?;
            }
            for key in changes.remove.iter().filter(|key| !present.contains_key(*key)) {
                if map == Map::Labels {
                    emit(&format!("label {key:?} not found.\n"))?;
                }
            }
            let (patch, operation) = decide(&present, &changes, map);
            let mut object = one.object.clone();
            if let Some(mut patch) = patch {
                if let Some(version) = &args.resource_version {
                    patch["metadata"]["resourceVersion"] = json!(version);
                }
                if dry_run == DryRun::Client {
                    trierarch_api::merge::json::merge(&mut object, &patch);
                } else {
                    let query = mutate::query(dry_run, &manager, "");
                    object = mutate::patch(session, &one.path(), &query, PatchKind::Merge, &patch).await?;
                }
            }
            anyhow::Ok((object, operation))
        }
        .await;
        match outcome {
            Ok((object, _)) if args.list => {
                for (key, value) in object["metadata"][map.field()].as_object().into_iter().flatten() {
                    emit(&format!("{key}={}\n", value.as_str().unwrap_or_default()))?;
                }
            }
            Ok((object, operation)) => report.show(&object, &operation)?,
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)
}

fn refuse_changes(present: &serde_json::Map<String, Value>, changes: &Changes, map: Map) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for (key, value) in &changes.set {
        if let Some(old) = present.get(key).filter(|old| *old != value) {
            problems.push(match map {
                Map::Labels => format!("'{key}' already has a value ({}), and --overwrite is false", old.as_str().unwrap_or_default()),
                Map::Annotations => format!("'{key}' already has a value ({})", old.as_str().unwrap_or_default()),
            });
        }
    }
    match (problems.len(), map) {
        (0, _) => Ok(()),
        (_, Map::Annotations) => bail!("--overwrite is false but found the following declared annotation(s): {}", problems.join("; ")),
        (1, Map::Labels) => bail!("{}", problems[0]),
        (_, Map::Labels) => bail!("[{}]", problems.join(", ")),
    }
}

/// The patch, if one is needed, and the word for what happens.
fn decide(present: &serde_json::Map<String, Value>, changes: &Changes, map: Map) -> (Option<Value>, String) {
    let mut members = serde_json::Map::new();
    for (key, value) in &changes.set {
        if present.get(key).and_then(Value::as_str) != Some(value) {
            members.insert(key.clone(), json!(value));
        }
    }
    let sets = !members.is_empty();
    for key in changes.remove.iter().filter(|key| present.contains_key(*key)) {
        members.insert(key.clone(), Value::Null);
    }
    let removes = members.values().any(Value::is_null);
    let operation = match (map, sets, removes) {
        (Map::Annotations, ..) => map.done(),
        (Map::Labels, true, _) => "labeled",
        (Map::Labels, false, true) => "unlabeled",
        (Map::Labels, false, false) => "not labeled",
    };
    ((!members.is_empty()).then(|| json!({"metadata": {map.field(): members}})), operation.to_owned())
}

/// `a=b,c=d` as a map.
///
/// # Errors
/// When a pair has no `=`.
pub fn pairs(text: &str) -> anyhow::Result<Value> {
    let mut map = serde_json::Map::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else { bail!("unexpected label spec: {pair}") };
        map.insert(key.trim().to_owned(), json!(value.trim_start_matches('=').trim()));
    }
    Ok(Value::Object(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn objects_and_changes_are_told_apart() {
        let (what, changes) = separate(&words("pod a b x=1 y- z="), Map::Labels).expect("it is clear");
        assert_eq!(what, ["pod", "a", "b"]);
        assert_eq!(
            (changes.set.get("x").map(String::as_str), changes.set.get("z").map(String::as_str), changes.remove),
            (Some("1"), Some(""), vec!["y".to_owned()])
        );
        assert!(separate(&words("pod a x=1 b"), Map::Labels).is_err() && separate(&words("pod a x=1 x-"), Map::Labels).is_err());
    }

    #[test]
    fn only_what_differs_is_sent() {
        let present = json!({"x": "1", "y": "2"});
        let present = present.as_object().expect("a map");
        let ask = |text: &str| separate(&words(text), Map::Labels).expect("clear").1;
        assert_eq!(decide(present, &ask("x=1"), Map::Labels), (None, "not labeled".to_owned()));
        assert_eq!(decide(present, &ask("x=3"), Map::Labels), (Some(json!({"metadata": {"labels": {"x": "3"}}})), "labeled".to_owned()));
        assert_eq!(decide(present, &ask("y-"), Map::Labels), (Some(json!({"metadata": {"labels": {"y": null}}})), "unlabeled".to_owned()));
        let error = refuse_changes(present, &ask("x=3"), Map::Labels).expect_err("it would change").to_string();
        assert_eq!(error, "'x' already has a value (1), and --overwrite is false");
        assert_eq!(pairs("a=b,c==d").expect("pairs"), json!({"a": "b", "c": "d"}));
    }
}
