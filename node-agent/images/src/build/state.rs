//! What a stage has become so far: the image's configuration, and the names in force. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::parse::Command;
use crate::image::Layer;
use crate::platform::Platform;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Arguments that every RUN sees if they are given, without an ARG.
const PROXY_ARGS: &[&str] =
    &["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"];

/// One stage while it is built.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The whole image configuration; fields we don't know are kept as the base image has them.
    config: Value,
    pub(crate) layers: Vec<Layer>,
    /// ARG in force.
    args: BTreeMap<String, String>,
    /// CMD was given in this stage, so ENTRYPOINT keeps it.
    own_cmd: bool,
}

impl State {
    pub(crate) fn scratch() -> Self {
        let platform = Platform::of_this_machine();
        let config = json!({
            "architecture": platform.architecture, "os": platform.os, "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] }, "history": [],
        });
        Self { config, layers: Vec::new(), args: BTreeMap::new(), own_cmd: false }
    }

    /// On top of an image.
    pub(crate) fn over(config: Value, layers: Vec<Layer>) -> Self {
        let mut state = Self { config, layers, args: BTreeMap::new(), own_cmd: false };
        if !state.config["config"].is_object() {
            state.config["config"] = json!({});
        }
        if !state.config["history"].is_array() {
            state.config["history"] = json!([]);
        }
        // What an image once stood on is not what this one is.
        if let Some(config) = state.config.as_object_mut() {
            for key in ["container", "container_config", "id", "parent", "docker_version"] {
                config.remove(key);
            }
        }
        state
    }

    /// On top of an earlier stage: everything but its arguments.
    pub(crate) fn continued(&self) -> Self {
        Self { args: BTreeMap::new(), own_cmd: false, ..self.clone() }
    }

    /// A variable's value: ENV wins over ARG.
    pub(crate) fn lookup(&self, key: &str) -> Option<String> {
        self.env().into_iter().find(|(name, _)| name == key).map(|(_, value)| value).or_else(|| self.args.get(key).cloned())
    }

    pub(crate) fn set_arg(&mut self, key: &str, value: String) {
        self.args.insert(key.to_owned(), value);
    }

    /// Arguments as RUN sees them, with those of proxies that were given.
    pub(crate) fn run_args(&self, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let proxies = PROXY_ARGS.iter().filter_map(|key| Some(((*key).to_owned(), given.get(*key)?.clone())));
        let mut args: BTreeMap<String, String> = proxies.collect();
        args.extend(self.args.clone());
        args
    }

    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let list = self.config["config"]["Env"].as_array().cloned().unwrap_or_default();
        list.iter()
            .filter_map(Value::as_str)
            .filter_map(|text| text.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    pub(crate) fn set_env(&mut self, key: &str, value: &str) {
        let mut env = self.env();
        match env.iter_mut().find(|(name, _)| name == key) {
            Some(entry) => entry.1 = value.to_owned(),
            None => env.push((key.to_owned(), value.to_owned())),
        }
        self.set("Env", env.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().into());
    }

    /// The environment of a RUN: arguments, overridden by ENV, and a PATH in any case.
    pub(crate) fn run_env(&self, given: &BTreeMap<String, String>) -> Vec<String> {
        let env = self.env();
        let mut all: BTreeMap<String, String> = self.run_args(given);
        all.extend(env);
        all.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
        all.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    pub(crate) fn workdir(&self) -> &str {
        self.text("WorkingDir").filter(|path| !path.is_empty()).unwrap_or("/")
    }

    /// A path that may be relative to WORKDIR; a slash at the end stays.
    pub(crate) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.workdir().trim_end_matches('/')) }
    }

    pub(crate) fn set_workdir(&mut self, path: &str) {
        let absolute = crate::tree::TreePath::clamp(self.absolute(path).as_bytes());
        let text = if absolute.is_root() { "/".to_owned() } else { format!("/{}", absolute.to_path().display()) };
        self.set("WorkingDir", text.into());
    }

    pub(crate) fn user(&self) -> &str {
        self.text("User").unwrap_or("")
    }

    pub(crate) fn set_user(&mut self, user: String) {
        self.set("User", user.into());
    }

    pub(crate) fn set_stop_signal(&mut self, signal: String) {
        self.set("StopSignal", signal.into());
    }

    pub(crate) fn set_shell(&mut self, words: Vec<String>) {
        self.set("Shell", words.into());
    }

    pub(crate) fn set_cmd(&mut self, command: &Command) {
        let words = self.words(command);
        self.own_cmd = true;
        self.set("Cmd", words.into());
    }

    /// Also forgets the base image's CMD, which belongs to its own entry point.
    pub(crate) fn set_entrypoint(&mut self, command: &Command) {
        let words = self.words(command);
        self.set("Entrypoint", words.into());
        if !self.own_cmd
            && let Some(config) = self.config["config"].as_object_mut()
        {
            config.remove("Cmd");
        }
    }

    pub(crate) fn add_label(&mut self, key: &str, value: &str) {
        self.map("Labels").insert(key.to_owned(), value.into());
    }

    /// `80` means `80/tcp`.
    pub(crate) fn expose(&mut self, port: &str) -> Result<(), String> {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let valid = number.split('-').all(|number| number.parse::<u16>().is_ok())
            && ["tcp", "udp", "sctp"].contains(&protocol.to_ascii_lowercase().as_str());
        if !valid {
            return Err(format!("invalid containerPort: {port}"));
        }
        self.map("ExposedPorts").insert(format!("{number}/{}", protocol.to_ascii_lowercase()), json!({}));
        Ok(())
    }

    pub(crate) fn add_volume(&mut self, path: &str) {
        self.map("Volumes").insert(path.to_owned(), json!({}));
    }

    /// The words to execute: shell form goes through SHELL.
    pub(crate) fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let shell = self.config["config"]["Shell"].as_array().cloned().unwrap_or_default();
                let mut words: Vec<String> = shell.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                if words.is_empty() {
                    words = vec!["/bin/sh".to_owned(), "-c".to_owned()];
                }
                words.push(text.clone());
                words
            }
        }
    }

    /// One instruction is done; with a layer, or with a change of the configuration alone.
    pub(crate) fn record(&mut self, created_by: &str, layer: Option<Layer>) {
        let empty = layer.is_none();
        if let Some(layer) = layer {
            if let Some(diff_ids) = self.config["rootfs"]["diff_ids"].as_array_mut() {
                diff_ids.push(json!(layer.diff_id));
            }
            self.layers.push(layer);
        }
        let mut entry = json!({ "created_by": created_by, "comment": "trierarch build" });
        if empty {
            entry["empty_layer"] = true.into();
        }
        if let Some(history) = self.config["history"].as_array_mut() {
            history.push(entry);
        }
    }

    /// The finished configuration, with one time for the image and all that this build added.
    pub(crate) fn finish(&self, created: &str) -> Value {
        let mut config = self.config.clone();
        config["created"] = created.into();
        for entry in config["history"].as_array_mut().into_iter().flatten() {
            if entry.get("created").is_none() {
                entry["created"] = created.into();
            }
        }
        config
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.config["config"][key].as_str()
    }

    fn set(&mut self, key: &str, value: Value) {
        self.config["config"][key] = value;
    }

    fn map(&mut self, key: &str) -> &mut Map<String, Value> {
        let slot = &mut self.config["config"][key];
        if !slot.is_object() {
            *slot = json!({});
        }
        slot.as_object_mut().expect("it was just made an object")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_follows_the_instructions() {
        let base = json!({
            "architecture": "amd64", "os": "linux", "config": { "Env": ["A=1"], "Cmd": ["base"], "Healthcheck": { "Test": ["NONE"] }, "Volumes": null },
            "rootfs": { "type": "layers", "diff_ids": [] }, "created": "old", "container": "x", "history": [{ "created": "old", "created_by": "base" }],
        });
        let mut state = State::over(base, Vec::new());
        state.set_env("B", "x=y");
        state.set_env("A", "2");
        state.set_workdir("app");
        state.set_workdir("../srv/");
        state.add_label("l", "v");
        state.expose("80").unwrap();
        state.expose("53/UDP").unwrap();
        state.add_volume("/data");
        state.set_entrypoint(&Command::Exec(vec!["/app".into()]));
        state.record("ENTRYPOINT", None);
        let config = state.finish("now");
        assert_eq!(
            config["config"],
            json!({
                "Env": ["A=2", "B=x=y"], "WorkingDir": "/srv", "Labels": { "l": "v" }, "ExposedPorts": { "80/tcp": {}, "53/udp": {} },
                "Volumes": { "/data": {} }, "Entrypoint": ["/app"], "Healthcheck": { "Test": ["NONE"] },
            })
        );
        assert_eq!(config["history"][0]["created"], "old");
        assert_eq!(
            config["history"][1],
            json!({ "created": "now", "created_by": "ENTRYPOINT", "comment": "trierarch build", "empty_layer": true })
        );
        assert!(config.get("container").is_none() && config["created"] == "now");
        assert!(state.expose("http").is_err() && state.expose("80/x").is_err() && state.expose("8000-8010").is_ok());
    }

    #[test]
    fn commands_keep_their_meaning() {
        let mut state = State::scratch();
        state.set_cmd(&Command::Shell("run it".into()));
        state.set_shell(vec!["/bin/bash".into(), "-lc".into()]);
        state.set_entrypoint(&Command::Shell("serve".into()));
        let config = state.finish("t");
        assert_eq!(config["config"]["Cmd"], json!(["/bin/sh", "-c", "run it"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/bash", "-lc", "serve"]));
    }

    #[test]
    fn env_wins_over_args_and_run_sees_both() {
        let mut state = State::scratch();
        state.set_arg("A", "arg".into());
        state.set_arg("B", "arg".into());
        state.set_env("A", "env");
        assert_eq!((state.lookup("A").as_deref(), state.lookup("B").as_deref(), state.lookup("C")), (Some("env"), Some("arg"), None));
        let given = BTreeMap::from([("HTTP_PROXY".to_owned(), "p".to_owned()), ("OTHER".to_owned(), "o".to_owned())]);
        assert_eq!(state.run_env(&given), ["A=env", "B=arg", "HTTP_PROXY=p", &format!("PATH={DEFAULT_PATH}")]);
        assert_eq!(state.continued().lookup("B"), None, "arguments end with their stage");
    }
}
