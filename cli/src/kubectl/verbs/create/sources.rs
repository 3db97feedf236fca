//! `--from-literal`, `--from-file`, `--from-env-file`: where the data of ConfigMaps and Secrets comes from.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use serde_json::{Value, json};

/// Flags that name data.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SourceArgs {
    /// A key and its text, as KEY=VALUE (may be repeated)
    #[arg(long)]
    pub from_literal: Vec<String>,
    /// A file under its own name or as KEY=FILE, or the files of a directory (may be repeated)
    #[arg(long)]
    pub from_file: Vec<String>,
    /// A file of lines KEY=VALUE
    #[arg(long)]
    pub from_env_file: Vec<String>,
    /// Add a hash of the content to the name
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub append_hash: bool,
}

impl SourceArgs {
    /// Keys with their bytes.
    ///
    /// # Errors
    /// When a file cannot be read, a key is wrong, or one is given twice.
    pub fn read(&self, what: &str) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        if self.append_hash {
            bail!("this kubectl does not hash names: use the real kubectl for --append-hash");
        }
        if !self.from_env_file.is_empty() && (!self.from_file.is_empty() || !self.from_literal.is_empty()) {
            bail!("from-env-file cannot be combined with from-file or from-literal");
        }
        let mut data = BTreeMap::new();
        let mut add = |key: String, value: Vec<u8>| {
            if let Some(problem) = key_problem(&key) {
                bail!("{key:?} is not a valid key name for a {what}: {problem}");
            }
            if data.contains_key(&key) {
                bail!("cannot add key {key}, another key by that name already exists in Data for {what}");
            }
            data.insert(key, value);
            Ok(())
        };
        for literal in &self.from_literal {
            let Some((key, value)) = literal.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                bail!("invalid literal source {literal}, expected key=value");
            };
            let value = value.strip_prefix(['\'', '"']).and_then(|inner| inner.strip_suffix(['\'', '"'])).unwrap_or(value);
            add(key.to_owned(), value.as_bytes().to_vec())?;
        }
        for source in &self.from_file {
            let (key, path) = match source.split_once('=') {
                Some((key, path)) => (Some(key.to_owned()), Path::new(path)),
                None => (None, Path::new(source.as_str())),
            };
            if path.is_dir() {
                if key.is_some() {
                    bail!("cannot give a key name for a directory path");
                }
                let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<Result<_, _>>()?;
                entries.sort_by_key(std::fs::DirEntry::file_name);
                for entry in entries.into_iter().filter(|entry| entry.path().is_file()) {
                    add(entry.file_name().to_string_lossy().into_owned(), read(&entry.path())?)?;
                }
                continue;
            }
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            add(key.unwrap_or(name), read(path)?)?;
        }
        for source in &self.from_env_file {
            for (number, line) in String::from_utf8_lossy(&read(Path::new(source))?).lines().enumerate() {
                let line = line.trim_start();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let (key, value) = match line.split_once('=') {
                    Some((key, value)) => (key.to_owned(), value.to_owned()),
                    None => (line.to_owned(), std::env::var(line).unwrap_or_default()),
                };
                if key.is_empty() || key.contains(char::is_whitespace) {
                    bail!("{key:?} is not a valid key name (line {})", number + 1);
                }
                add(key, value.into_bytes())?;
            }
        }
        Ok(data)
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("error reading {}: no such file or directory", path.display()),
        outcome => outcome.with_context(|| format!("error reading {}", path.display())),
    }
}

fn key_problem(key: &str) -> Option<String> {
    if key.is_empty() || !key.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._".contains(letter)) {
        return Some(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    if key == "." || key == ".." || key.starts_with("..") {
        return Some(format!("must not be or start with '{}'", if key == "." { "." } else { ".." }));
    }
    None
}

/// `data` and `binaryData` of a ConfigMap.
pub fn config_map_data(data: BTreeMap<String, Vec<u8>>) -> (Value, Value) {
    let (mut texts, mut binaries) = (serde_json::Map::new(), serde_json::Map::new());
    for (key, bytes) in data {
        match String::from_utf8(bytes) {
            Ok(text) => texts.insert(key, Value::String(text)),
            Err(error) => binaries.insert(key, Value::String(encode(error.as_bytes()))),
        };
    }
    (Value::Object(texts), Value::Object(binaries))
}

/// `data` of a Secret.
pub fn secret_data(data: &BTreeMap<String, Vec<u8>>) -> Value {
    let map: serde_json::Map<String, Value> = data.iter().map(|(key, bytes)| (key.clone(), json!(encode(bytes)))).collect();
    Value::Object(map)
}

fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_become_data() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("a.txt"), "text").expect("written");
        std::fs::write(folder.path().join("b.bin"), [0xff]).expect("written");
        let args = SourceArgs {
            from_literal: vec!["k=v=w".to_owned()],
            from_file: vec![folder.path().to_string_lossy().into_owned(), format!("c={}/a.txt", folder.path().display())],
            ..SourceArgs::default()
        };
        let (texts, binaries) = config_map_data(args.read("ConfigMap").expect("they are readable"));
        assert_eq!((texts, binaries), (json!({"a.txt": "text", "c": "text", "k": "v=w"}), json!({"b.bin": "/w=="})));
        std::fs::write(folder.path().join("env"), "# comment\nA=1\n\nB=x=y\n").expect("written");
        let env = SourceArgs { from_env_file: vec![format!("{}/env", folder.path().display())], ..SourceArgs::default() };
        assert_eq!(secret_data(&env.read("Secret").expect("readable")), json!({"A": "MQ==", "B": "eD15"}));
    }

    #[test]
    fn mistakes_are_told() {
        let literal =
            |texts: &[&str]| SourceArgs { from_literal: texts.iter().map(|text| (*text).to_owned()).collect(), ..SourceArgs::default() };
        assert!(literal(&["x"]).read("Secret").expect_err("no value").to_string().ends_with("expected key=value"));
        assert!(literal(&["a=1", "a=2"]).read("Secret").expect_err("twice").to_string().contains("another key by that name"));
        assert!(literal(&["a b=1"]).read("Secret").is_err());
        let file = SourceArgs { from_file: vec!["/nope".to_owned()], ..SourceArgs::default() };
        assert_eq!(file.read("Secret").expect_err("missing").to_string(), "error reading /nope: no such file or directory");
    }
}
