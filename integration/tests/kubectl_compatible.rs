//! Our kubectl beside the real one, command by command on one cluster: the same output, the same errors, the same exit code.
//!
//! Commands that change something run in a namespace for each program. Settings: `KUBECTL` (the real client), `TRIERARCH_BINARY` (ours),
//! `COMPATIBLE_KUBECONFIG` (a cluster that runs already, of whatever make; otherwise one is started, which needs root). The words of the real
//! client change with its versions: each group names the first minor version whose words ours has.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to people")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use trierarch_integration::cluster::{Cluster, binary, succeed, text};
use trierarch_integration::steps::Steps;

const NAME: &str = "kc";
const NETWORK: &str = "10.131.78.0";
const PORT: &str = "16644";

/// Namespaces for what the real client and ours change.
const NAMESPACES: [&str; 2] = ["compare-real", "compare-ours"];

/// Forms that every version prints alike.
const FORMS: &[&str] = &[
    "get ns -o name",
    "get ns default -o yaml",
    "get svc kubernetes -o json",
    "get svc,endpoints -o name",
    "get svc kubernetes -o jsonpath={.spec.ports[*].port}",
    "get svc kubernetes -o jsonpath='{range .spec.ports[*]}{.name}={.port}{\"\\n\"}{end}'",
    "get svc kubernetes -o jsonpath={.spec.nothing}",
    "get svc -A -o custom-columns=NAME:.metadata.name,IP:.spec.clusterIP,NO:.nothing",
    "get svc kubernetes -o go-template='{{range .spec.ports}}{{.name}} {{.port}}{{end}} {{len .spec.ports}} {{.nothing}}'",
    "get clusterrole view -o yaml",
    "get svc kubernetes --no-headers",
    "get svc -A --show-labels",
    "get svc -A -L component",
    "get svc -A --sort-by=.metadata.name",
    "get pods nothing",
    "get pods nothing nobody",
    "get nothing",
    "get pods -l nobody=here",
    "get pods nothing --ignore-not-found",
    "get --raw /healthz",
    "config current-context",
    "config get-contexts",
    "auth can-i get pods",
    "auth can-i get pods --as=system:serviceaccount:compare-real:default",
];

/// Words that changed over the years.
const WORDS: &[&str] = &[
    // before 1.37 it prints empty preferences
    "config view",
    "get",
    "get --nothing",
    "get pods -l !!",
    "get svc/kubernetes ns/default",
    "get --raw /nothing",
    "api-resources -o name",
    "api-resources --api-group=apps",
    "api-versions",
    "auth whoami",
    "auth can-i get nodes",
    "describe svc kubernetes",
    "describe ns default kube-system",
    "describe clusterrole view",
    "describe clusterrolebinding cluster-admin",
    "describe pod nothing",
    "describe",
    "explain pods.nothing",
    "explain nothing",
    "exec",
    "exec nothing",
    "attach",
    "nothing",
    "version --client -o nothing",
];

/// Changes, in order. What follows `<<<` is standard input.
const CHANGES: &[&str] = &[
    "create deployment web --image=shop:1 --replicas=0 --port=80",
    "create deployment web --image=shop:1",
    "create deployment two --image=a:1 --image=b/c:2 --dry-run=client -o yaml",
    "create configmap conf --from-literal=a=b --from-literal=c=d",
    "create configmap conf --from-literal=a=b",
    "create configmap conf2 --from-literal=a --dry-run=client",
    "create secret generic key --from-literal=a=b",
    "create secret generic key2 --from-literal=a=b --type=x --dry-run=client -o yaml",
    "create service clusterip front --tcp=80:8080",
    "create service clusterip front2 --dry-run=client",
    "create service nodeport front3 --tcp=80 --dry-run=client -o yaml",
    "create serviceaccount me",
    "create role reader --verb=get,list --resource=pods,deployments.apps,pods/log",
    "create role reader2 --verb=get",
    "create rolebinding readers --role=reader --user=u --serviceaccount=a:b --group=g",
    "create rolebinding readers2",
    "create namespace other --dry-run=client -o yaml",
    "expose deploy web --port=80 --target-port=8080",
    "expose cm conf --port=80",
    "scale deploy web --replicas=0",
    "scale deploy/web --replicas=3 --current-replicas=9",
    "scale deploy/web",
    "label cm conf a=b",
    "label cm conf a=b",
    "label cm conf a=c",
    "label cm conf a=c --overwrite",
    "label cm conf a-",
    "label cm conf z-",
    "label cm conf",
    "label cm conf 'a b=c'",
    "annotate cm conf a=b",
    "annotate cm conf a=c",
    "annotate cm conf a=c --overwrite",
    "annotate cm conf a-",
    "patch cm conf -p '{\"data\":{\"x\":\"y\"}}'",
    "patch cm conf -p '{\"data\":{\"x\":\"y\"}}'",
    "patch cm conf --type=json -p '[{\"op\":\"remove\",\"path\":\"/data/x\"}]'",
    "patch cm conf",
    "set image deploy/web shop=shop:2",
    "set image deploy/web nothing=shop:2",
    "rollout pause deploy/web",
    "rollout pause deploy/web",
    "rollout resume deploy/web",
    "rollout restart deploy/web",
    "rollout undo cm/conf",
    "wait --for=jsonpath='{.data.a}'=b cm/conf",
    "wait --for=create cm/conf",
    "wait --for=condition=Ready pod/nothing",
    "apply -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"file\"},\"data\":{\"a\":\"b\"}}",
    "apply -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"file\"},\"data\":{\"a\":\"b\"}}",
    "diff -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"file\"},\"data\":{\"a\":\"b\"}}",
    "apply -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"file\"},\"data\":{\"c\":\"d\"}}",
    "get cm file -o jsonpath={.data}",
    "apply view-last-applied cm/file",
    "apply -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"conf\"},\"data\":{\"a\":\"b\"}}",
    "apply -f - <<< a: b",
    "apply -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\"},\"unknown\":1}",
    "apply -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"A_B\"}}",
    "apply -f - --dry-run=server <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"dry\"}}",
    "apply -f - --dry-run=client <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"dry\"}}",
    "apply -f /nothing.yaml",
    "apply",
    "create -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"file\"}}",
    "create -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"bad\"},\"spec\":{\"containers\":[]}}",
    "replace -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"file\"},\"data\":{\"e\":\"f\"}}",
    "replace -f - <<< {\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"nothing\"}}",
    "describe cm conf",
    "describe secret key",
    "describe role reader",
    "logs nothing",
    "delete cm conf",
    "delete cm conf",
    "delete cm conf --ignore-not-found",
    "delete cm",
    "delete",
    "delete cm,secret -l nobody=here",
    "delete deploy/web svc/front --wait=false",
];

struct World {
    // taken down when the steps are over
    _cluster: Option<Cluster>,
    kubeconfig: PathBuf,
    real: PathBuf,
    ours: PathBuf,
    minor: u32,
}

/// What a program printed and how it ended.
#[derive(Debug, PartialEq)]
struct Outcome {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

impl World {
    fn run(&self, program: &PathBuf, leading: &[&str], line: &str) -> Result<Outcome> {
        let (words, input) = line.split_once(" <<< ").unwrap_or((line, ""));
        let words = shell_words(words);
        let mut command = Command::new(program);
        if *program == self.ours {
            command.arg("kubectl");
        }
        let mut child = command
            .args(leading)
            .args(&words)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", "/nonexistent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // a program that reads nothing has closed it
            let _unread = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output()?;
        Ok(Outcome { stdout: normal(&text(&output.stdout)), stderr: normal(&text(&output.stderr)), code: output.status.code() })
    }

    /// Runs each command with both programs.
    fn compare(&self, lines: &[&str], since: u32, changing: bool) -> Result<()> {
        if self.minor < since {
            println!("     kubectl 1.{} is older than 1.{since}, whose words ours has: {} commands not compared", self.minor, lines.len());
            return Ok(());
        }
        let mut problems = Vec::new();
        for line in lines {
            let leading = |namespace: &'static str| if changing { vec!["-n", namespace] } else { Vec::new() };
            let expected = self.run(&self.real, &leading(NAMESPACES[0]), line)?;
            let found = self.run(&self.ours, &leading(NAMESPACES[1]), line)?;
            if expected != found {
                problems.push(format!("kubectl {line}\n  real: {expected:?}\n  ours: {found:?}"));
            }
        }
        if !problems.is_empty() {
            bail!("{} of {} commands differ:\n{}", problems.len(), lines.len(), problems.join("\n"));
        }
        Ok(())
    }
}

/// Words as a shell would give them: single quotes hold blanks together, `\n` in them stays.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => {
                if let Some(word) = words.last_mut() {
                    word.push(letter);
                }
            }
        }
    }
    words
}

/// The text without what differs between two objects made one after another: namespace, age, uid, version, blanks of alignment.
fn normal(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().map(|word| if is_age(word) { "AGE" } else { word }).collect();
        let first = words.first().copied().unwrap_or_default();
        if ["uid:", "resourceVersion:", "creationTimestamp:"].contains(&first.trim_matches('"')) {
            continue;
        }
        out.push_str(&words.join(" "));
        out.push('\n');
    }
    NAMESPACES.iter().fold(out, |text, namespace| text.replace(namespace, "NAMESPACE"))
}

/// `5s`, `3m2s`, `2d`.
fn is_age(word: &str) -> bool {
    word.ends_with(['s', 'm', 'h', 'd', 'y'])
        && word.starts_with(|letter: char| letter.is_ascii_digit())
        && word.chars().all(|letter| letter.is_ascii_digit() || "smhdy".contains(letter))
}

fn real_client() -> PathBuf {
    std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from)
}

fn minor_version(client: &PathBuf) -> Result<u32> {
    let version: Value = serde_json::from_str(&succeed(Command::new(client).args(["version", "--client", "-o", "json"]))?)?;
    version["clientVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+').parse().context("the version of kubectl")
}

fn world() -> Result<World> {
    let ours = binary()?;
    let real = real_client();
    let minor = minor_version(&real)?;
    let (cluster, kubeconfig) = match std::env::var_os("COMPATIBLE_KUBECONFIG") {
        Some(path) => (None, PathBuf::from(path)),
        None => {
            let data_dir = PathBuf::from("/var/tmp/trierarch-test").join(NAME);
            let cluster = Cluster::up(NAME, &data_dir, &["--network", NETWORK, "--port", PORT])?;
            let kubeconfig = cluster.kubeconfig();
            (Some(cluster), kubeconfig)
        }
    };
    let world = World { _cluster: cluster, kubeconfig, real, ours, minor };
    for namespace in NAMESPACES {
        succeed(Command::new(&world.real).args(["create", "namespace", namespace]).env("KUBECONFIG", &world.kubeconfig))?;
    }
    Ok(world)
}

/// Older clients have other words for almost everything.
const OLDEST: u32 = 32;

fn main() -> ExitCode {
    match minor_version(&real_client()) {
        Ok(minor) if minor < OLDEST => {
            println!(
                "kubectl 1.{minor} is older than 1.{OLDEST}: nothing is compared; KUBECTL names a newer one\ntest result: ok. 0 passed; 0 failed"
            );
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let world = match world() {
        Ok(world) => world,
        Err(error) => {
            println!("test up ... FAILED\n     {error:#}\ntest result: FAILED. 0 passed; 1 failed");
            return ExitCode::FAILURE;
        }
    };
    let mut steps = Steps::new(world);
    steps
        .step("forms_of_objects", |world| world.compare(FORMS, OLDEST, false))
        .step("words_and_errors", |world| world.compare(WORDS, 37, false))
        .step("changes", |world| world.compare(CHANGES, 37, true))
        .step("namespaces_go", |world| {
            for namespace in NAMESPACES {
                succeed(
                    Command::new(&world.ours).args(["kubectl", "delete", "namespace", namespace]).env("KUBECONFIG", &world.kubeconfig),
                )?;
            }
            Ok(())
        });
    steps.finish()
}
