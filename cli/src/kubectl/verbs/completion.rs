//! `completion`: what a shell offers when Tab is pressed, down to the names of objects.
//!
//! The script of each shell asks `kubectl __complete WORDS...`, which prints one candidate a line.

use std::time::Duration;

use clap::{Arg, Command};
use serde_json::Value;

use crate::kubectl::config;
use crate::kubectl::globals::Globals;
use crate::kubectl::output::emit;
use crate::kubectl::session::Session;

/// Nobody waits longer for a completion.
const PATIENCE: Duration = Duration::from_secs(2);

/// Arguments of `completion`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  source <(kubectl completion bash)                    in this shell
  kubectl completion zsh > \"${fpath[1]}/_kubectl\"      for good
  kubectl completion fish | source")]
pub struct Args {
    /// bash, zsh or fish
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    pub shell: String,
}

/// How the program is called, for the scripts.
fn program() -> (String, String) {
    let first = std::env::args().next().unwrap_or_else(|| "kubectl".to_owned());
    let base = first.rsplit('/').next().unwrap_or("kubectl").to_owned();
    if base == "kubectl" { (base, "kubectl".to_owned()) } else { (base.clone(), format!("{base} kubectl")) }
}

/// Prints the script.
///
/// # Errors
/// When nobody reads.
pub fn script(args: &Args) -> anyhow::Result<()> {
    let (base, command) = program();
    // called as `trierarch kubectl`, the words after the second are ours
    let skip = command.split(' ').count();
    let text = match args.shell.as_str() {
        "bash" => format!(
            "_kubectl_words() {{\n  local IFS=$'\\n' cur=\"${{COMP_WORDS[COMP_CWORD]}}\"\n  \
             COMPREPLY=($({command} __complete \"${{COMP_WORDS[@]:{skip}:COMP_CWORD-{skip}+1}}\" 2>/dev/null))\n  \
             [[ ${{COMPREPLY[0]}} == */ || ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace\n}}\n\
             complete -o default -F _kubectl_words kubectl\n"
        ),
        "zsh" => format!(
            "#compdef kubectl\n_kubectl() {{\n  local -a found\n  found=(\"${{(@f)$({command} __complete \"${{(@)words[{from},CURRENT]}}\" 2>/dev/null)}}\")\n  \
             [[ -n ${{found[1]}} ]] && compadd -Q -- $found || _files\n}}\ncompdef _kubectl kubectl\n",
            from = skip + 1
        ),
        _ => format!(
            "function __kubectl_complete\n  set -l words (commandline -opc) (commandline -ct)\n  {command} __complete $words[{from}..-1] 2>/dev/null\nend\n\
             complete -c kubectl -f -a '(__kubectl_complete)'\n",
            from = skip + 1
        ),
    };
    let text = if base == "kubectl" {
        text
    } else {
        text.replace(
            "complete -o default -F _kubectl_words kubectl",
            "complete -o default -F _kubectl_words kubectl\nalias kubectl='trierarch kubectl'",
        )
    };
    emit(&text)
}

/// What the last word may be.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// One of these.
    Words(Vec<String>),
    /// A type of resource.
    Types,
    /// The name of an object of this type; with the type before it if the flag is set.
    Names { kind: String, with_type: bool },
    /// A namespace.
    Namespaces,
    /// A context of the kubeconfig.
    Contexts,
    /// A container of this pod.
    Containers { pod: String },
    /// Nothing that we know: the shell offers files.
    Files,
}

/// Decides what the last of the words may be.
pub fn wish(program: &Command, words: &[String]) -> Wish {
    let Some((current, before)) = words.split_last() else {
        return Wish::Files;
    };
    let mut command = program;
    let mut positionals: Vec<&str> = Vec::new();
    let mut verbs: Vec<&str> = Vec::new();
    let mut pending: Option<&Arg> = None;
    for word in before {
        if pending.take().is_some() {
            continue;
        }
        if word == "--" {
            return Wish::Files;
        }
        if word.starts_with('-') && word.len() > 1 {
            pending = if word.contains('=') { None } else { flag(program, command, word).filter(|arg| takes_value(arg)) };
            continue;
        }
        match command.find_subcommand(word) {
            Some(next) if positionals.is_empty() => {
                command = next;
                verbs.push(next.get_name());
            }
            _ => positionals.push(word),
        }
    }
    if let Some(arg) = pending {
        return value_of(arg, positionals.first().copied());
    }
    if current.starts_with('-') {
        if let Some((name, _)) = current.split_once('=') {
            return flag(program, command, name).map_or(Wish::Files, |arg| value_of(arg, positionals.first().copied()));
        }
        let mut flags: Vec<String> = command
            .get_arguments()
            .chain(program.get_arguments().filter(|arg| arg.is_global_set()))
            .filter(|arg| !arg.is_hide_set())
            .filter_map(|arg| arg.get_long().map(|long| format!("--{long}")))
            .collect();
        flags.sort();
        flags.dedup();
        return Wish::Words(flags);
    }
    if command.has_subcommands() && positionals.is_empty() {
        return Wish::Words(command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| sub.get_name().to_owned()).collect());
    }
    let verb = verbs.first().copied().unwrap_or_default();
    let names = |kind: &str, with_type: bool| Wish::Names { kind: kind.to_owned(), with_type };
    match (verb, verbs.get(1).copied()) {
        ("logs" | "exec" | "attach" | "port-forward", _) => match (current.split_once('/'), positionals.len()) {
            (Some((kind, _)), 0) => names(kind, true),
            (None, 0) => names("pods", false),
            (_, 1) if verb == "logs" => Wish::Containers { pod: positionals[0].to_owned() },
            _ => Wish::Files,
        },
        ("cordon" | "uncordon" | "drain", _) => names("nodes", false),
        ("config", Some("use-context" | "delete-context" | "set-context" | "rename-context")) => Wish::Contexts,
        (
            "get" | "describe" | "delete" | "label" | "annotate" | "scale" | "patch" | "edit" | "expose" | "wait" | "rollout" | "set"
            | "taint" | "explain" | "auth" | "apply",
            _,
        ) => match (current.split_once('/'), positionals.first()) {
            (Some((kind, _)), _) => names(kind, true),
            (None, None) => Wish::Types,
            (None, Some(first)) if first.contains('/') => Wish::Types,
            (None, Some(first)) => names(first, false),
        },
        _ => Wish::Files,
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

fn flag<'a>(program: &'a Command, command: &'a Command, word: &str) -> Option<&'a Arg> {
    let all = || command.get_arguments().chain(program.get_arguments());
    match word.strip_prefix("--") {
        Some(long) => all().find(|arg| arg.get_long() == Some(long)),
        None => {
            let letter = word.chars().last()?;
            all().find(|arg| arg.get_short() == Some(letter))
        }
    }
}

fn value_of(arg: &Arg, pod: Option<&str>) -> Wish {
    match arg.get_id().as_str() {
        "namespace" => Wish::Namespaces,
        "context" => Wish::Contexts,
        "container" => pod.map_or(Wish::Files, |pod| Wish::Containers { pod: pod.to_owned() }),
        "output" => Wish::Words(["json", "yaml", "name", "wide", "jsonpath=", "custom-columns="].map(str::to_owned).to_vec()),
        "dry_run" => Wish::Words(["none", "client", "server"].map(str::to_owned).to_vec()),
        _ => {
            let values: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            if values.is_empty() { Wish::Files } else { Wish::Words(values) }
        }
    }
}

/// Prints what the last of the words may be. A server that is away offers nothing.
///
/// # Errors
/// When nobody reads.
pub async fn complete(program: &Command, globals: &Globals, words: &[String]) -> anyhow::Result<()> {
    let mut globals = globals.clone();
    // flags that were typed already say which cluster and namespace
    let mut typed = words.iter();
    while let Some(word) = typed.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let slot = match name {
            "-n" | "--namespace" => &mut globals.namespace,
            "--context" => &mut globals.context,
            _ => continue,
        };
        *slot = value.or_else(|| typed.next().cloned());
    }
    let current = words.last().cloned().unwrap_or_default();
    let found = tokio::time::timeout(PATIENCE, candidates(&globals, wish(program, words)))
        .await
        .unwrap_or_else(|_elapsed| Ok(Vec::new()))
        .unwrap_or_default();
    let prefix = current.split_once('=').filter(|_| current.starts_with('-')).map_or(current.as_str(), |(_, value)| value);
    let mut matching: Vec<&String> = found.iter().filter(|candidate| candidate.starts_with(prefix)).collect();
    matching.sort();
    matching.dedup();
    emit(&matching.into_iter().map(|candidate| format!("{candidate}\n")).collect::<String>())
}

async fn candidates(globals: &Globals, wish: Wish) -> anyhow::Result<Vec<String>> {
    let names = |list: &Value| -> Vec<String> {
        list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    match wish {
        Wish::Words(words) => Ok(words),
        Wish::Files => Ok(Vec::new()),
        Wish::Contexts => {
            let all = config::raw(&config::paths(globals))?;
            Ok(all["contexts"].as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect())
        }
        Wish::Types => {
            let session = Session::open(globals)?;
            Ok(session.discovery().await?.resources.iter().map(|resource| resource.plural.clone()).collect())
        }
        Wish::Namespaces => Ok(names(&Session::open(globals)?.get("/api/v1/namespaces").await?)),
        Wish::Names { kind, with_type } => {
            let session = Session::open(globals)?;
            let resource = session.discovery().await?.resource(&kind)?;
            let list = session.get(&resource.path(Some(&session.namespace), "")).await?;
            Ok(names(&list).into_iter().map(|name| if with_type { format!("{kind}/{name}") } else { name }).collect())
        }
        Wish::Containers { pod } => {
            let session = Session::open(globals)?;
            let pod = session.get(&format!("/api/v1/namespaces/{}/pods/{pod}", session.namespace)).await?;
            Ok(crate::kubectl::pods::container_names(&pod))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::command;

    fn ask(line: &str) -> Wish {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        wish(&command(), &words)
    }

    #[test]
    fn the_last_word_may_be() {
        let names = |kind: &str, with_type| Wish::Names { kind: kind.to_owned(), with_type };
        assert!(matches!(ask("ge"), Wish::Words(words) if words.contains(&"get".to_owned()) && words.contains(&"rollout".to_owned())));
        assert_eq!(ask("get po"), Wish::Types);
        assert_eq!(ask("get pods we"), names("pods", false));
        assert_eq!(ask("get -o wide pods we"), names("pods", false));
        assert_eq!(ask("describe deploy/we"), names("deploy", true));
        assert_eq!(ask("logs we"), names("pods", false));
        assert_eq!(ask("logs web -c "), Wish::Containers { pod: "web".to_owned() });
        assert_eq!(ask("get pods -n "), Wish::Namespaces);
        assert_eq!(ask("-n shop get pods "), names("pods", false));
        assert_eq!(ask("config use-context "), Wish::Contexts);
        assert!(matches!(ask("rollout "), Wish::Words(words) if words.contains(&"status".to_owned())));
        assert_eq!(ask("rollout status deploy/"), names("deploy", true));
        assert!(
            matches!(ask("get pods --al"), Wish::Words(words) if words.contains(&"--all-namespaces".to_owned()) && words.contains(&"--kubeconfig".to_owned()))
        );
        assert!(matches!(ask("get pods -o "), Wish::Words(words) if words.contains(&"yaml".to_owned())));
        assert_eq!(ask("exec web -- l"), Wish::Files);
        assert_eq!(ask("apply -f "), Wish::Files);
    }
}
