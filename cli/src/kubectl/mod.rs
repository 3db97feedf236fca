//! `trierarch kubectl`, and `kubectl` when that is the program's name: the real one's syntax, words and exit codes over any Kubernetes API.
//!
//! A verb is a file in `verbs`: arguments, validation, `run`. What is decided without a server stands in functions that can be tested:
//! [`print`] and [`describe`] turn objects into text, [`select`] arguments into addresses, [`manifest`] files into objects, [`three_way`]
//! files and live objects into patches. What is missing is named with the way out.

pub mod clock;
pub mod config;
pub mod describe;
pub mod discovery;
pub mod duration;
pub mod errors;
pub mod globals;
pub mod last_applied;
pub mod manifest;
pub mod mutate;
pub mod output;
pub mod pods;
pub mod print;
pub mod remote;
pub mod select;
pub mod session;
pub mod terminal;
pub mod three_way;
pub mod verbs;
pub mod waiting;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use globals::Globals;
use session::Session;

/// Arguments of `kubectl`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// Talk to a Kubernetes cluster.
#[derive(Parser, Debug)]
#[command(
    name = "kubectl",
    arg_required_else_help = true,
    disable_version_flag = true,
    after_help = "\
Begin with:
  kubectl get nodes -o wide              what the cluster consists of
  kubectl apply -f app.yaml              make it hold what a file says
  kubectl get pods -w                    see what becomes of it
  kubectl describe pod NAME              and why
  kubectl logs NAME; kubectl exec -it NAME -- sh
  source <(kubectl completion bash)      names of objects by Tab"
)]
struct Program {
    #[command(flatten)]
    args: Args,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Print objects
    Get(verbs::get::Args),
    /// Print objects and what belongs to them, for people
    Describe(verbs::describe::Args),
    /// Make the cluster hold what files say
    Apply(verbs::apply::Args),
    /// Print what apply would change
    Diff(verbs::diff::Args),
    /// Create objects
    Create(verbs::create::Args),
    /// Delete objects
    Delete(verbs::delete::Args),
    /// Replace objects by those of files
    Replace(verbs::replace::ReplaceArgs),
    /// Change objects in an editor
    Edit(verbs::replace::EditArgs),
    /// Change fields of objects
    Patch(verbs::patch::Args),
    /// Set and remove labels
    Label(verbs::label::Args),
    /// Set and remove annotations
    Annotate(verbs::label::Args),
    /// Change images and variables
    Set(verbs::set::Args),
    /// Run an image as a pod
    Run(verbs::run::RunArgs),
    /// Make a Service for pods
    Expose(verbs::run::ExposeArgs),
    /// Change how many pods there are
    Scale(verbs::scale::Args),
    /// Follow, undo, restart, pause and resume changes of workloads
    Rollout(verbs::rollout::Args),
    /// Wait until objects are as they should be
    Wait(verbs::wait::Args),
    /// Print what containers have written
    Logs(verbs::logs::Args),
    /// Run a command in a container
    Exec(verbs::exec::Args),
    /// Attach to a container's process
    Attach(verbs::exec::AttachArgs),
    /// Lead local ports into a pod
    PortForward(verbs::port_forward::Args),
    /// Copy files to and from containers
    Cp(verbs::copy::Args),
    /// Let no more pods onto nodes
    Cordon(verbs::nodes::CordonArgs),
    /// Let pods onto nodes again
    Uncordon(verbs::nodes::CordonArgs),
    /// Move pods off nodes
    Drain(verbs::nodes::DrainArgs),
    /// Set and remove taints of nodes
    Taint(verbs::nodes::TaintArgs),
    /// Who one is and what one may do
    Auth(verbs::auth::Args),
    /// What the fields of a kind mean
    Explain(verbs::explain::Args),
    /// List the types that the server has
    ApiResources(verbs::info::ResourcesArgs),
    /// List the versions of groups that the server has
    ApiVersions,
    /// Say where the control plane is
    ClusterInfo(verbs::info::ClusterInfoArgs),
    /// Print versions
    Version(verbs::info::VersionArgs),
    /// Look at kubeconfig files and change them
    Config(verbs::config::Args),
    /// Print a completion script for a shell
    Completion(verbs::completion::Args),
    /// List the flags of every verb
    Options,
    #[command(name = "__complete", hide = true)]
    Complete(Rest),
    #[command(hide = true)]
    Alpha(Rest),
    #[command(hide = true)]
    Autoscale(Rest),
    #[command(hide = true)]
    Certificate(Rest),
    #[command(hide = true)]
    Debug(Rest),
    #[command(hide = true)]
    Events(Rest),
    #[command(hide = true)]
    Kustomize(Rest),
    #[command(hide = true)]
    Kuberc(Rest),
    #[command(hide = true)]
    Plugin(Rest),
    #[command(hide = true)]
    Proxy(Rest),
    #[command(hide = true)]
    Top(Rest),
}

/// Words that are not looked at here.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// The arguments of kubectl, if the program was called as such.
pub fn called_as_kubectl(args: &[OsString]) -> Option<Vec<OsString>> {
    let name = Path::new(args.first()?).file_name()?;
    if name == "kubectl" {
        return Some(args[1..].to_vec());
    }
    (args.get(1)? == "kubectl").then(|| args[2..].to_vec())
}

/// The command line, as clap describes it.
pub fn command() -> clap::Command {
    Program::command()
}

/// Parses arguments, carries them out, reports.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let words: Vec<OsString> = std::iter::once(OsString::from("kubectl")).chain(args).collect();
    // what is being completed is no command line yet
    if words.get(1).is_some_and(|word| word == "__complete") {
        let words: Vec<String> = words[2..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
        return report(run(Args { globals: Globals::default(), verb: Verb::Complete(Rest { words }) }));
    }
    let parsed = command().try_get_matches_from(&words).and_then(|matches| Program::from_arg_matches(&matches));
    match parsed {
        Ok(program) => report(run(program.args)),
        Err(error) => misread(&error, &words),
    }
}

fn report(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let (text, code) = errors::explain(&error);
    if !text.is_empty() {
        output::note(text.trim_end());
    }
    ExitCode::from(code)
}

/// Carries out parsed arguments.
///
/// # Errors
/// What [`errors::explain`] explains.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(dispatch(args));
    // a thread that waits for standard input must not keep the program
    runtime.shutdown_background();
    outcome
}

async fn dispatch(mut args: Args) -> anyhow::Result<()> {
    if let Verb::Create(create) = &mut args.verb {
        verbs::create::take_subjects(create, &mut args.globals.user);
    }
    // what needs no server
    let verb = match args.verb {
        Verb::Config(config) => return verbs::config::run(&args.globals, config),
        Verb::Completion(completion) => return verbs::completion::script(&completion),
        Verb::Complete(rest) => {
            return verbs::completion::complete(&command(), &args.globals, &rest.words).await;
        }
        Verb::Version(version) if version.client => {
            return verbs::info::version(None, version).await;
        }
        Verb::Options => return options(),
        Verb::Alpha(_) => return missing("alpha"),
        Verb::Autoscale(_) => return missing("autoscale"),
        Verb::Certificate(_) => return missing("certificate"),
        Verb::Debug(_) => return missing("debug"),
        Verb::Events(_) => return missing("events"),
        Verb::Kustomize(_) => return missing("kustomize"),
        Verb::Kuberc(_) => return missing("kuberc"),
        Verb::Plugin(_) => return missing("plugin"),
        Verb::Proxy(_) => return missing("proxy"),
        verb => verb,
    };
    let session = Session::open(&args.globals)?;
    // the futures of all verbs together would be large
    Box::pin(carry_out(&session, verb)).await?;
    if session.globals.warnings_as_errors && session.warnings() > 0 {
        let count = session.warnings();
        anyhow::bail!("{count} warning{} received", if count == 1 { "" } else { "s" });
    }
    Ok(())
}

async fn carry_out(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Get(args) => Box::pin(verbs::get::run(session, args)).await,
        Verb::Describe(args) => Box::pin(verbs::describe::run(session, args)).await,
        Verb::Apply(args) => Box::pin(verbs::apply::run(session, args)).await,
        Verb::Diff(args) => Box::pin(verbs::diff::run(session, args)).await,
        Verb::Create(args) => Box::pin(verbs::create::run(session, args)).await,
        Verb::Delete(args) => Box::pin(verbs::delete::run(session, args)).await,
        Verb::Replace(args) => Box::pin(verbs::replace::replace(session, args)).await,
        Verb::Edit(args) => Box::pin(verbs::replace::edit(session, args)).await,
        Verb::Patch(args) => Box::pin(verbs::patch::run(session, args)).await,
        Verb::Label(args) => Box::pin(verbs::label::run(session, args, verbs::label::Map::Labels)).await,
        Verb::Annotate(args) => Box::pin(verbs::label::run(session, args, verbs::label::Map::Annotations)).await,
        Verb::Set(args) => Box::pin(verbs::set::run(session, args)).await,
        Verb::Run(args) => Box::pin(verbs::run::run(session, args)).await,
        Verb::Expose(args) => Box::pin(verbs::run::expose(session, args)).await,
        Verb::Scale(args) => Box::pin(verbs::scale::run(session, args)).await,
        Verb::Rollout(args) => Box::pin(verbs::rollout::run(session, args)).await,
        Verb::Wait(args) => Box::pin(verbs::wait::run(session, args)).await,
        Verb::Logs(args) => Box::pin(verbs::logs::run(session, args)).await,
        Verb::Exec(args) => Box::pin(verbs::exec::run(session, args)).await,
        Verb::Attach(args) => Box::pin(verbs::exec::attach(session, args)).await,
        Verb::PortForward(args) => Box::pin(verbs::port_forward::run(session, args)).await,
        Verb::Cp(args) => Box::pin(verbs::copy::run(session, args)).await,
        Verb::Cordon(args) => Box::pin(verbs::nodes::cordon(session, args, true)).await,
        Verb::Uncordon(args) => Box::pin(verbs::nodes::cordon(session, args, false)).await,
        Verb::Drain(args) => Box::pin(verbs::nodes::drain(session, args)).await,
        Verb::Taint(args) => Box::pin(verbs::nodes::taint(session, args)).await,
        Verb::Auth(args) => Box::pin(verbs::auth::run(session, args)).await,
        Verb::Explain(args) => Box::pin(verbs::explain::run(session, args)).await,
        Verb::ApiResources(args) => Box::pin(verbs::info::resources(session, args)).await,
        Verb::ApiVersions => Box::pin(verbs::info::versions(session)).await,
        Verb::ClusterInfo(args) => Box::pin(verbs::info::cluster_info(session, args)).await,
        Verb::Version(args) => Box::pin(verbs::info::version(Some(session), args)).await,
        Verb::Top(_) => {
            let discovery = session.discovery().await?;
            if !discovery.resources.iter().any(|resource| resource.group == "metrics.k8s.io") {
                anyhow::bail!("Metrics API not available");
            }
            missing("top")
        }
        // `dispatch` has taken the others
        _ => Ok(()),
    }
}

fn missing(verb: &str) -> anyhow::Result<()> {
    anyhow::bail!(
        "this kubectl has no {verb:?}: use the real kubectl (https://kubernetes.io/docs/tasks/tools/), it works with this cluster"
    )
}

fn options() -> anyhow::Result<()> {
    let mut text = "The following options can be passed to any command:\n\n".to_owned();
    for arg in command().get_arguments().filter(|arg| arg.is_global_set() && !arg.is_hide_set()) {
        let short = arg.get_short().map(|letter| format!("-{letter}, ")).unwrap_or_else(|| "    ".to_owned());
        text.push_str(&format!(
            "    {short}--{}:\n\t{}\n\n",
            arg.get_long().unwrap_or_default(),
            arg.get_help().map(ToString::to_string).unwrap_or_default()
        ));
    }
    output::emit(&text)
}

/// Programs named `kubectl-VERB` add verbs, as with the real kubectl.
fn plugin(words: &[OsString]) -> Option<std::io::Error> {
    use std::os::unix::process::CommandExt as _;
    let verb = words.get(1)?.to_str()?.replace('-', "_");
    let name = format!("kubectl-{verb}");
    let path = std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(&name)).find(|path| path.is_file())?;
    Some(std::process::Command::new(path).args(&words[2..]).exec())
}

/// What a command line that cannot be read gets, in the words of the real kubectl where it has some.
fn misread(error: &clap::Error, words: &[OsString]) -> ExitCode {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let known = command();
    let mut level = &known;
    let mut verb = Vec::new();
    for word in words[1..].iter().map(|word| word.to_string_lossy()) {
        if let Some(next) = level.find_subcommand(word.as_ref()) {
            verb.push(next.get_name().to_owned());
            level = next;
        }
    }
    let usage = format!("See 'kubectl {} --help' for usage.", verb.join(" ")).replace("  ", " ");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _unheard = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::UnknownArgument => {
            let argument = context(ContextKind::InvalidArg);
            let flag = argument.split('=').next().unwrap_or_default();
            if flag.starts_with("--") {
                output::note(format!("error: unknown flag: {flag}\n{usage}"));
            } else if let Some(letter) = flag.strip_prefix('-').and_then(|letters| letters.chars().next()) {
                output::note(format!("error: unknown shorthand flag: {letter:?} in {flag}\n{usage}"));
            } else {
                output::note(format!("error: unexpected argument {flag:?}\n{usage}"));
            }
            ExitCode::FAILURE
        }
        ErrorKind::InvalidSubcommand => {
            if verb.is_empty()
                && let Some(failed) = plugin(words)
            {
                output::note(format!("error: cannot run the plugin: {failed}"));
                return ExitCode::FAILURE;
            }
            let parent = if verb.is_empty() { "kubectl".to_owned() } else { format!("kubectl {}", verb.join(" ")) };
            let given = context(ContextKind::InvalidSubcommand);
            let near = nearest(&given, known.get_subcommands().map(clap::Command::get_name));
            let hint = if verb.is_empty() && !near.is_empty() {
                format!("\n\nDid you mean this?\n\t{}", near.join("\n\t"))
            } else {
                String::new()
            };
            output::note(format!("error: unknown command {given:?} for {parent:?}{hint}"));
            ExitCode::FAILURE
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(all)) => all.clone(),
                _ => Vec::new(),
            };
            output::note(required(&missing, &verb.join(" ")));
            ExitCode::FAILURE
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let (argument, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
            let flag = argument.split([' ', '=', '[']).next().unwrap_or_default();
            let of_flag = matches!(error.get(ContextKind::ValidValue), Some(ContextValue::Strings(values)) if values.iter().any(|value| value == "true"));
            let function = if of_flag { "ParseBool" } else { "ParseInt" };
            output::note(format!(
                "error: invalid argument {value:?} for {flag:?} flag: strconv.{function}: parsing {value:?}: invalid syntax\n{usage}"
            ));
            ExitCode::FAILURE
        }
        _ => {
            output::note(error.to_string().trim_end());
            ExitCode::FAILURE
        }
    }
}

/// What is said when arguments are missing: flags first, as the real kubectl looks at them first.
fn required(missing: &[String], verb: &str) -> String {
    let flags: Vec<String> = missing
        .iter()
        .filter_map(|argument| argument.strip_prefix("--"))
        .map(|flag| format!("{:?}", flag.split([' ', '=', '[']).next().unwrap_or_default()))
        .collect();
    if flags.is_empty() {
        format!("error: exactly one NAME is required, got 0\nSee 'kubectl {verb} -h' for help and examples")
    } else {
        format!("error: required flag(s) {} not set", flags.join(", "))
    }
}

/// Names that differ by two letters at most, or begin with what was given.
fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const LETTERS_MAX: usize = 2;
    let mut found: Vec<&str> =
        names.filter(|name| !name.starts_with('_') && (distance(given, name) <= LETTERS_MAX || name.starts_with(given))).collect();
    found.sort_unstable();
    found
}

/// How many letters must be put in, left out or replaced.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, letter) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_name_of_the_program_decides() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(called_as_kubectl(&words("/usr/bin/kubectl get pods")), Some(words("get pods")));
        assert_eq!(called_as_kubectl(&words("trierarch kubectl get")), Some(words("get")));
        assert_eq!(called_as_kubectl(&words("trierarch up kubectl")), None);
    }

    #[test]
    fn a_verb_that_is_nearly_right_is_offered() {
        assert_eq!((distance("get", "get"), distance("gte", "get"), distance("bogus", "logs")), (0, 2, 2));
        assert_eq!(nearest("desc", ["describe", "delete"].into_iter()), ["describe"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(required(&["--image <IMAGE>".to_owned(), "<NAME>".to_owned()], "run"), "error: required flag(s) \"image\" not set");
        assert!(
            required(&["<NAME>".to_owned()], "create cm")
                .starts_with("error: exactly one NAME is required, got 0\nSee 'kubectl create cm -h'")
        );
    }

    #[test]
    fn lines_of_the_real_kubectl_can_be_read() {
        for line in [
            "-n shop get pods -o=wide --show-labels",
            "get pods,svc -A -l app=x --sort-by=.metadata.name --no-headers",
            "get --raw /healthz",
            "apply -f - --server-side --force-conflicts --dry-run=server",
            "apply -R -f dir --validate=false",
            "delete pod a --grace-period=0 --force --wait=false --ignore-not-found",
            "delete pods --all --cascade=orphan",
            "logs -f a -c b --tail=5 --since=1m --timestamps",
            "exec -it a -c b -- sh -c ls",
            "exec a -i -t -n shop -- cat /x",
            "run x --image=i --restart=Never --rm -it --command -- sh -c ls",
            "run x --image=i --env=A=b -- arg1 --arg2",
            "create deployment x --image=a --replicas=2 -- cmd",
            "create rolebinding x --role=r --user=u --serviceaccount=a:b",
            "create secret generic x --from-literal=a=b --dry-run=client -o yaml",
            "label pods a x=y z- --overwrite",
            "rollout undo deploy/x --to-revision=2",
            "rollout status deploy x --watch=false",
            "scale --replicas=3 rc/x",
            "wait --for=condition=Ready pod/x --timeout=-1s",
            "patch node n --type=json -p [{}]",
            "port-forward svc/x 8080:80 --address 0.0.0.0",
            "config set-context --current --namespace=x",
            "config set-cluster c --server=https://x",
            "auth can-i get pods --as=system:serviceaccount:a:b",
            "taint nodes n k=v:NoSchedule k2-",
            "top pods --containers",
            "expose deploy x --port=80 --target-port=http",
            "explain pod.spec --recursive",
            "api-resources --verbs=list --namespaced=false -o name",
            "set image deploy/x a=b",
            "cp a b:/c",
        ] {
            let words = std::iter::once("kubectl").chain(line.split(' '));
            assert!(
                Program::try_parse_from(words.clone()).is_ok(),
                "{line}: {}",
                Program::try_parse_from(words).expect_err("it cannot be read")
            );
        }
    }
}
