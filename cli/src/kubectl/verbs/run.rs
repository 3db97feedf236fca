//! `run` and `expose`: a pod of an image, a Service for pods.

use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use trierarch_client::Request;

use super::create::Common;
use crate::kubectl::mutate::{self, DryRun, Report};
use crate::kubectl::output::{line, note};
use crate::kubectl::remote::{self, Ask};
use crate::kubectl::select::Found;
use crate::kubectl::session::Session;
use crate::kubectl::{duration, errors, last_applied, pods, terminal};

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl run web --image=shop:1 --port=8080
  kubectl run shell --image=busybox -it --rm --restart=Never -- sh     a shell that leaves nothing behind
  kubectl run web --image=shop:1 --env=MODE=fast --labels=app=web
  kubectl run web --image=shop:1 --dry-run=client -o yaml")]
pub struct RunArgs {
    /// Its name
    pub name: String,
    /// The container's image
    #[arg(long)]
    pub image: String,
    /// When the image is fetched: Always, IfNotPresent or Never
    #[arg(long)]
    pub image_pull_policy: Option<String>,
    /// What follows its end: Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    pub restart: String,
    /// A variable, as NAME=VALUE (may be repeated)
    #[arg(long)]
    pub env: Vec<String>,
    /// A port of the container
    #[arg(long)]
    pub port: Option<u16>,
    /// Labels, as in app=web,tier=front
    #[arg(short = 'l', long)]
    pub labels: Option<String>,
    /// Annotations, as in note=x (may be repeated)
    #[arg(long)]
    pub annotations: Vec<String>,
    /// The words after -- replace the image's entry point, rather than its arguments
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub command: bool,
    /// Keep standard input open, and attach to it
    #[arg(short = 'i', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub stdin: bool,
    /// With a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub tty: bool,
    /// Attach to the pod when it runs [default: with -i]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub attach: Option<bool>,
    /// Delete the pod afterwards
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub rm: bool,
    /// Print nothing but what the pod prints
    #[arg(short, long)]
    pub quiet: bool,
    /// Also a Service for --port
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub expose: bool,
    /// Run with more rights than containers usually have
    #[arg(long)]
    pub privileged: bool,
    /// JSON that is merged into the pod
    #[arg(long)]
    pub overrides: Option<String>,
    /// How --overrides is merged: merge, strategic or json
    #[arg(long, default_value = "merge")]
    pub override_type: String,
    /// How long to wait for the pod
    #[arg(long, default_value = "1m")]
    pub pod_running_timeout: String,
    #[command(flatten)]
    pub common: Common,
    /// Arguments, or with --command what to run
    pub words: Vec<String>,
}

impl RunArgs {
    fn pod(&self) -> anyhow::Result<Value> {
        let labels = match &self.labels {
            Some(labels) => super::label::pairs(labels)?,
            None => json!({"run": self.name}),
        };
        let mut container = json!({"name": self.name, "image": self.image, "resources": {}});
        if let Some(policy) = &self.image_pull_policy {
            container["imagePullPolicy"] = json!(policy);
        }
        if !self.words.is_empty() {
            container[if self.command { "command" } else { "args" }] = json!(self.words);
        }
        let mut variables = Vec::new();
        for variable in &self.env {
            let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                bail!("invalid env: {variable}")
            };
            variables.push(json!({"name": name, "value": value}));
        }
        if !variables.is_empty() {
            container["env"] = json!(variables);
        }
        if let Some(port) = self.port {
            container["ports"] = json!([{"containerPort": port}]);
        }
        if self.stdin {
            container["stdin"] = json!(true);
            container["stdinOnce"] = json!(true);
        }
        if self.tty {
            container["tty"] = json!(true);
        }
        if self.privileged {
            container["securityContext"] = json!({"privileged": true});
        }
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "labels": labels},
            "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": self.restart}, "status": {}});
        if !self.annotations.is_empty() {
            pod["metadata"]["annotations"] = super::label::pairs(&self.annotations.join(","))?;
        }
        match (&self.overrides, self.override_type.as_str()) {
            (None, _) => Ok(pod),
            (Some(text), kind) => {
                let patch: Value = serde_json::from_str(text).map_err(|error| anyhow::anyhow!("invalid --overrides: {error}"))?;
                match kind {
                    "merge" => {
                        trierarch_api::merge::json::merge(&mut pod, &patch);
                        Ok(pod)
                    }
                    "strategic" => {
                        let Some(schema) = crate::kubectl::three_way::schema_of("", "v1", "Pod") else {
                            bail!("the schema of pods is missing")
                        };
                        trierarch_api::merge::strategic::apply(&schema, &pod, &patch).map_err(|error| anyhow::anyhow!("{}", error.message))
                    }
                    "json" => {
                        trierarch_api::merge::json::patch(&pod, text.as_bytes()).map_err(|error| anyhow::anyhow!("{}", error.message))
                    }
                    other => bail!("invalid override type: {other}"),
                }
            }
        }
    }
}

/// Runs a pod.
///
/// # Errors
/// In kubectl's words; [`errors::Exit`] with the exit code of a pod that was attached to.
pub async fn run(session: &Session, args: RunArgs) -> anyhow::Result<()> {
    let dry_run = args.common.dry_run.parse()?;
    let attach = args.attach.unwrap_or(args.stdin);
    if args.rm && !attach {
        bail!("--rm should only be used for attached containers");
    }
    if attach && dry_run != DryRun::No {
        bail!("--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)");
    }
    if args.tty && !args.stdin {
        bail!("-i/--stdin is required for containers with -t/--tty=true");
    }
    if !["Always", "OnFailure", "Never"].contains(&args.restart.as_str()) {
        bail!("invalid restart policy: {}", args.restart);
    }
    if args.expose && args.port.is_none() {
        bail!("--port must be set when exposing a service");
    }
    let mut pod = args.pod()?;
    if session.namespace_given {
        pod["metadata"]["namespace"] = json!(session.namespace);
    }
    if args.common.save_config {
        pod = last_applied::with_annotation(&pod);
    }
    let report = Report::new(&args.common.output, dry_run)?;
    let query = mutate::query(dry_run, "kubectl-run", args.common.validate.parse()?);
    let mut objects = vec![(format!("/api/v1/namespaces/{}/pods", session.namespace), pod)];
    if args.expose {
        let port = args.port.unwrap_or(0);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": args.name},
            "spec": {"ports": [{"port": port, "protocol": "TCP", "targetPort": port}], "selector": objects[0].1["metadata"]["labels"]},
            "status": {"loadBalancer": {}}});
        objects.insert(0, (format!("/api/v1/namespaces/{}/services", session.namespace), service));
    }
    let mut stored = Value::Null;
    for (path, object) in objects {
        stored = if dry_run == DryRun::Client {
            object
        } else {
            session.json(Request::json(http::Method::POST, format!("{path}{query}"), &object)).await?
        };
        if !attach {
            report.show(&stored, "created")?;
        }
    }
    if !attach {
        return Ok(());
    }
    let outcome = attached(session, &args, &stored).await;
    if args.rm {
        let target = Found {
            resource: session.discovery().await?.resource("pods")?,
            namespace: Some(session.namespace.clone()),
            name: args.name.clone(),
            object: Value::Null,
            source: None,
        };
        super::delete::delete_and_wait(session, &target, None).await?;
        if !args.quiet {
            line(format!("pod {:?} deleted from {} namespace", args.name, session.namespace))?;
        }
    }
    outcome
}

async fn attached(session: &Session, args: &RunArgs, pod: &Value) -> anyhow::Result<()> {
    let timeout = duration::parse(&args.pod_running_timeout)?.max(Duration::from_secs(1));
    let pod = pods::until_running(session, pod, timeout, true).await?;
    let mut ended_already = pod["status"]["phase"] != "Running";
    if !ended_already {
        let mut tty = args.tty;
        if tty && !terminal::is_terminal() {
            note("Unable to use a TTY - input is not a terminal or the right kind of file");
            tty = false;
        }
        if !args.quiet && args.stdin && tty {
            note("If you don't see a command prompt, try pressing enter.");
        }
        let ask = Ask {
            verb: "attach",
            pod: args.name.clone(),
            namespace: session.namespace.clone(),
            container: args.name.clone(),
            command: Vec::new(),
            stdin: args.stdin,
            tty: args.tty,
        };
        if let Err(error) = remote::interactive(session, &ask).await {
            if error.downcast_ref::<errors::Exit>().is_some() {
                return Err(error);
            }
            note(format!("warning: couldn't attach to pod/{}, falling back to streaming logs: {error:#}", args.name));
            ended_already = true;
        }
    }
    if ended_already {
        // it ended before anybody could attach: its log is what it had to say
        let path = format!("/api/v1/namespaces/{}/pods/{}/log?container={}", session.namespace, args.name, args.name);
        crate::kubectl::output::emit_bytes(&session.send(Request::get(path)).await?.body)?;
    }
    if args.restart != "Never" {
        return Ok(());
    }
    let target = Found {
        resource: session.discovery().await?.resource("pods")?,
        namespace: Some(session.namespace.clone()),
        name: args.name.clone(),
        object: Value::Null,
        source: None,
    };
    let ended = crate::kubectl::waiting::until(session, &target, timeout, |seen| {
        Ok(match seen.map(|pod| pod["status"]["phase"].as_str().unwrap_or_default()) {
            Some("Succeeded" | "Failed") | None => crate::kubectl::waiting::Look::Done,
            Some(_) => crate::kubectl::waiting::Look::Wait,
        })
    })
    .await?;
    let code = ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_u64().unwrap_or(0);
    if code != 0 {
        note(format!(
            "pod {}/{} terminated ({})",
            session.namespace,
            args.name,
            ended["status"]["containerStatuses"][0]["state"]["terminated"]["reason"].as_str().unwrap_or("Error")
        ));
        return Err(errors::Exit(u8::try_from(code).unwrap_or(1)).into());
    }
    Ok(())
}

/// Arguments of `expose`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl expose deploy/web --port=80 --target-port=8080
  kubectl expose pod web-1 --name=front --port=80
  kubectl expose rc/store --port=6379 --type=NodePort")]
pub struct ExposeArgs {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: crate::kubectl::manifest::FileArgs,
    /// The Service's name [default: the object's]
    #[arg(long)]
    pub name: Option<String>,
    /// The Service's port [default: the containers' ports]
    #[arg(long)]
    pub port: Option<String>,
    /// The pods' port, a number or a name
    #[arg(long)]
    pub target_port: Option<String>,
    /// TCP, UDP or SCTP
    #[arg(long)]
    pub protocol: Option<String>,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName
    #[arg(long = "type")]
    pub kind: Option<String>,
    /// The address; None for none at all
    #[arg(long)]
    pub cluster_ip: Option<String>,
    /// A further address
    #[arg(long)]
    pub external_ip: Option<String>,
    /// The address to ask a load balancer for
    #[arg(long)]
    pub load_balancer_ip: Option<String>,
    /// None or ClientIP
    #[arg(long)]
    pub session_affinity: Option<String>,
    /// Which pods [default: the object's]
    #[arg(long)]
    pub selector: Option<String>,
    /// Labels of the Service
    #[arg(short = 'l', long)]
    pub labels: Option<String>,
    /// JSON that is merged into the Service
    #[arg(long)]
    pub overrides: Option<String>,
    #[command(flatten)]
    pub common: Common,
}

fn service(args: &ExposeArgs, object: &Value) -> anyhow::Result<Value> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let template = if kind == "Pod" { object } else { &object["spec"]["template"] };
    let selector = match (&args.selector, kind) {
        (Some(text), _) => super::label::pairs(text)?,
        (None, "Pod") => match &object["metadata"]["labels"] {
            Value::Object(labels) if !labels.is_empty() => Value::Object(labels.clone()),
            _ => bail!("couldn't retrieve selectors via --selector flag or introspection: the pod has no labels and cannot be exposed"),
        },
        (None, "Service" | "ReplicationController") => match &object["spec"]["selector"] {
            Value::Object(selector) if !selector.is_empty() => Value::Object(selector.clone()),
            _ => bail!("couldn't retrieve selectors via --selector flag or introspection: the {kind} has no pod selector set"),
        },
        (None, "Deployment" | "ReplicaSet") => {
            if object["spec"]["selector"]["matchExpressions"].as_array().is_some_and(|terms| !terms.is_empty()) {
                bail!(
                    "couldn't retrieve selectors via --selector flag or introspection: couldn't convert expressions - \"{}\" to map-based selector format",
                    object["spec"]["selector"]["matchExpressions"]
                );
            }
            object["spec"]["selector"]["matchLabels"].clone()
        }
        (None, other) => bail!("cannot expose a {other}"),
    };
    let declared: Vec<(u64, String)> = if kind == "Service" {
        object["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| (port["port"].as_u64().unwrap_or(0), port["protocol"].as_str().unwrap_or("TCP").to_owned()))
            .collect()
    } else {
        template["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|container| container["ports"].as_array().into_iter().flatten())
            .map(|port| (port["containerPort"].as_u64().unwrap_or(0), port["protocol"].as_str().unwrap_or("TCP").to_owned()))
            .collect()
    };
    let numbers: Vec<u64> = match &args.port {
        Some(text) => text
            .split(',')
            .map(|port| port.parse().map_err(|error| anyhow::anyhow!("invalid port {port:?}: {error}")))
            .collect::<anyhow::Result<_>>()?,
        None => declared.iter().map(|(port, _)| *port).collect(),
    };
    if numbers.is_empty() {
        bail!("couldn't find port via --port flag or introspection");
    }
    let mut ports = Vec::new();
    for (at, number) in numbers.iter().enumerate() {
        let protocol = args
            .protocol
            .clone()
            .or_else(|| declared.iter().find(|(port, _)| port == number).map(|(_, protocol)| protocol.clone()))
            .unwrap_or_else(|| "TCP".to_owned());
        let target = match &args.target_port {
            Some(text) => text.parse::<u64>().map_or_else(|_name| json!(text), |port| json!(port)),
            None => json!(number),
        };
        let mut port = json!({"port": number, "protocol": protocol, "targetPort": target});
        if numbers.len() > 1 {
            port["name"] = json!(format!("port-{}", at + 1));
        }
        ports.push(port);
    }
    let name = args.name.clone().unwrap_or_else(|| object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    let mut spec = json!({"ports": ports, "selector": selector});
    for (field, value) in [
        ("type", &args.kind),
        ("clusterIP", &args.cluster_ip),
        ("loadBalancerIP", &args.load_balancer_ip),
        ("sessionAffinity", &args.session_affinity),
    ] {
        if let Some(value) = value {
            spec[field] = json!(value);
        }
    }
    if let Some(address) = &args.external_ip {
        spec["externalIPs"] = json!([address]);
    }
    let labels = match &args.labels {
        Some(labels) => super::label::pairs(labels)?,
        None => object["metadata"]["labels"].clone(),
    };
    let mut service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec, "status": {"loadBalancer": {}}});
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        service["metadata"]["labels"] = labels;
    }
    if let Some(text) = &args.overrides {
        let patch: Value = serde_json::from_str(text).map_err(|error| anyhow::anyhow!("invalid --overrides: {error}"))?;
        trierarch_api::merge::json::merge(&mut service, &patch);
    }
    Ok(service)
}

/// Makes a Service for the pods of an object.
///
/// # Errors
/// In kubectl's words.
pub async fn expose(session: &Session, args: ExposeArgs) -> anyhow::Result<()> {
    let (found, mut failures) = crate::kubectl::select::find(session, &args.what, &args.files, &Default::default()).await?;
    let dry_run = args.common.dry_run.parse()?;
    let report = Report::new(&args.common.output, dry_run)?;
    let query = mutate::query(dry_run, "kubectl-expose", args.common.validate.parse()?);
    for one in found {
        let outcome = async {
            let mut object = service(&args, &one.object)?;
            if session.namespace_given {
                object["metadata"]["namespace"] = json!(session.namespace);
            }
            if dry_run == DryRun::Client {
                return Ok(object);
            }
            let path = format!("/api/v1/namespaces/{}/services{query}", one.namespace.as_deref().unwrap_or(&session.namespace));
            session.json(Request::json(http::Method::POST, path, &object)).await
        }
        .await;
        match outcome {
            Ok(object) => report.show(&object, "exposed")?,
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ExposeArgs,
    }

    #[test]
    fn a_service_takes_what_the_workload_says() {
        let deployment = json!({"kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": [{"ports": [{"containerPort": 53, "protocol": "UDP"}]}]}}}});
        let make = |words: &str| service(&Line::try_parse_from(words.split(' ')).expect("flags").args, &deployment);
        let plain = make("expose deploy/web").expect("a service");
        assert_eq!(plain["spec"], json!({"ports": [{"port": 53, "protocol": "UDP", "targetPort": 53}], "selector": {"app": "web"}}));
        let own = make("expose deploy/web --port=80 --target-port=http --type=NodePort --name=front").expect("a service");
        assert_eq!(
            (&own["metadata"]["name"], &own["spec"]["ports"][0]["targetPort"], &own["spec"]["type"]),
            (&json!("front"), &json!("http"), &json!("NodePort"))
        );
        let two = make("expose deploy/web --port=80,81").expect("a service");
        assert_eq!(two["spec"]["ports"][1]["name"], "port-2");
    }
}
