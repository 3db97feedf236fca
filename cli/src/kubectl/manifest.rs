//! Objects in files: YAML documents and JSON, directories, standard input; lists fall apart into their items.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize as _;
use serde_json::Value;

/// The flags of verbs that read files.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct FileArgs {
    /// A file, a directory of .yaml, .yml and .json files, or - for standard input (may be repeated)
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<String>,
    /// Also the directories below
    #[arg(short = 'R', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub recursive: bool,
    /// (missing here: build with kustomize and give the result to -f -)
    #[arg(short, long, value_name = "DIR", hide = true)]
    pub kustomize: Option<String>,
}

/// An object and where it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The object.
    pub object: Value,
    /// The file's name as it was given, `STDIN` for standard input.
    pub source: String,
}

impl FileArgs {
    /// Whether no file was named.
    pub fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_none()
    }

    /// Reads everything.
    ///
    /// # Errors
    /// In kubectl's words, with the file's name.
    pub fn load(&self) -> anyhow::Result<Vec<Loaded>> {
        if self.kustomize.is_some() {
            bail!("this kubectl has no kustomize: use kustomize build DIR | kubectl apply -f -, or the real kubectl");
        }
        let mut found = Vec::new();
        for name in self.filename.iter().flat_map(|names| names.split(',')) {
            if name == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
                decode(&text, "STDIN", &mut found)?;
                continue;
            }
            if name.starts_with("http://") || name.starts_with("https://") {
                bail!("this kubectl fetches no addresses: use curl -sSL {name} | kubectl apply -f -, or the real kubectl");
            }
            for path in files(Path::new(name), self.recursive)? {
                let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                decode(&text, &path.to_string_lossy(), &mut found)?;
            }
        }
        Ok(found)
    }
}

fn files(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    if !path.exists() {
        bail!("the path {:?} does not exist", path.to_string_lossy());
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    walk(path, recursive, &mut found)?;
    if found.is_empty() {
        bail!("error reading [{}]: recognized file extensions are [.json .yaml .yml]", path.display());
    }
    Ok(found)
}

fn walk(folder: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| format!("cannot read {}", folder.display()))?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if recursive {
                walk(&path, recursive, found)?;
            }
        } else if path.extension().is_some_and(|extension| ["json", "yaml", "yml"].iter().any(|known| extension == *known)) {
            found.push(path);
        }
    }
    Ok(())
}

/// The objects of a text.
///
/// # Errors
/// In kubectl's words.
pub fn decode(text: &str, source: &str, found: &mut Vec<Loaded>) -> anyhow::Result<()> {
    let before = found.len();
    for document in documents(text).with_context(|| format!("error parsing {source}"))? {
        flatten(document, source, found)?;
    }
    if found.len() == before && text.trim().is_empty() {
        bail!("no objects passed to apply");
    }
    Ok(())
}

/// The values of a text: JSON values one after another, or YAML documents.
///
/// # Errors
/// Where it is neither.
pub fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    if text.trim_start().starts_with('{') {
        return serde_json::Deserializer::from_str(text)
            .into_iter::<Value>()
            .collect::<Result<_, _>>()
            .or_else(|json_error| yaml_documents(text).map_err(|_yaml_error| anyhow!("json: {json_error}")));
    }
    yaml_documents(text)
}

fn yaml_documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut value =
            serde_yaml::Value::deserialize(document).map_err(|error| anyhow!("error converting YAML to JSON: yaml: {error}"))?;
        value.apply_merge().map_err(|error| anyhow!("error converting YAML to JSON: yaml: {error}"))?;
        let value = to_json(value)?;
        if !value.is_null() {
            found.push(value);
        }
    }
    Ok(found)
}

/// YAML may have other keys than texts; JSON may not.
fn to_json(value: serde_yaml::Value) -> anyhow::Result<Value> {
    Ok(match value {
        serde_yaml::Value::Mapping(map) => {
            let mut out = serde_json::Map::new();
            for (key, value) in map {
                let key = match key {
                    serde_yaml::Value::String(text) => text,
                    serde_yaml::Value::Bool(flag) => flag.to_string(),
                    serde_yaml::Value::Number(number) => number.to_string(),
                    other => bail!("error converting YAML to JSON: unsupported key {other:?}"),
                };
                out.insert(key, to_json(value)?);
            }
            Value::Object(out)
        }
        serde_yaml::Value::Sequence(list) => Value::Array(list.into_iter().map(to_json).collect::<anyhow::Result<_>>()?),
        serde_yaml::Value::Tagged(tagged) => to_json(tagged.value)?,
        other => serde_json::to_value(other)?,
    })
}

fn flatten(document: Value, source: &str, found: &mut Vec<Loaded>) -> anyhow::Result<()> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let missing: Vec<&str> = [("apiVersion", "apiVersion not set"), ("kind", "kind not set")]
        .into_iter()
        .filter(|(field, _)| document[field].as_str().is_none_or(str::is_empty))
        .map(|(_, problem)| problem)
        .collect();
    if !missing.is_empty() {
        let problems = if missing.len() == 1 { missing[0].to_owned() } else { format!("[{}]", missing.join(", ")) };
        bail!(
            "error validating {source:?}: error validating data: {problems}; if you choose to ignore these errors, turn validation off with --validate=false"
        );
    }
    if kind.ends_with("List")
        && let Some(items) = document["items"].as_array()
    {
        for item in items {
            flatten(item.clone(), source, found)?;
        }
        return Ok(());
    }
    found.push(Loaded { object: document, source: source.to_owned() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kinds(text: &str) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        decode(text, "f.yaml", &mut found)?;
        Ok(found.iter().map(|loaded| loaded.object["kind"].as_str().unwrap_or_default().to_owned()).collect())
    }

    #[test]
    fn documents_and_lists_fall_apart() {
        assert_eq!(
            kinds("apiVersion: v1\nkind: Pod\n---\n# nothing\n---\napiVersion: v1\nkind: Service\n").expect("YAML"),
            ["Pod", "Service"]
        );
        assert_eq!(
            kinds("{\"apiVersion\":\"v1\",\"kind\":\"Pod\"}\n{\"apiVersion\":\"v1\",\"kind\":\"Secret\"}").expect("JSON"),
            ["Pod", "Secret"]
        );
        assert_eq!(
            kinds("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod}, {apiVersion: v1, kind: Node}]").expect("YAML"),
            ["Pod", "Node"]
        );
        assert_eq!(kinds("{apiVersion: v1, kind: Pod}").expect("YAML in one line"), ["Pod"]);
    }

    #[test]
    fn what_is_no_object_is_named() {
        let error = kinds("a: 1").expect_err("no object").to_string();
        assert!(
            error.starts_with("error validating \"f.yaml\": error validating data: [apiVersion not set, kind not set]; if you choose"),
            "{error}"
        );
        assert!(kinds("a: [").is_err() && kinds("").is_err());
    }

    #[test]
    fn merge_keys_and_other_keys_become_json() {
        let text = "base: &b {x: 1}\nuse:\n  <<: *b\n  y: 2\n1: one\ntrue: two\n";
        let value = documents(text).expect("YAML").remove(0);
        assert_eq!((&value["use"], &value["1"], &value["true"]), (&json!({"x": 1, "y": 2}), &json!("one"), &json!("two")));
    }

    #[test]
    fn directories_are_read_in_order() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for name in ["b.yaml", "a.json", "c.txt"] {
            std::fs::write(folder.path().join(name), "{}").expect("written");
        }
        std::fs::create_dir(folder.path().join("below")).expect("created");
        std::fs::write(folder.path().join("below/d.yml"), "{}").expect("written");
        let names = |recursive| -> Vec<String> {
            let found = files(folder.path(), recursive).expect("it is readable");
            found.iter().map(|path| path.file_name().expect("a file").to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(false), ["a.json", "b.yaml"]);
        assert_eq!(names(true), ["a.json", "b.yaml", "d.yml"]);
        assert!(files(&folder.path().join("nope"), false).expect_err("missing").to_string().ends_with("does not exist"));
    }
}
