//! `logs`: what containers have written.

use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use trierarch_api::Reason;
use trierarch_client::{Request, watch};

use crate::kubectl::discovery::escape;
use crate::kubectl::duration;
use crate::kubectl::errors;
use crate::kubectl::output::{emit_bytes, note};
use crate::kubectl::pods;
use crate::kubectl::session::Session;

/// Arguments of `logs`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl logs web-1                       everything that the pod's container wrote
  kubectl logs -f web-1 -c proxy           one of several containers, and what it writes from now on
  kubectl logs deploy/web --tail=20        one pod of a deployment
  kubectl logs -l app=web --prefix         all pods with a label, each line with its origin
  kubectl logs web-1 --previous            of the container before its last restart")]
pub struct Args {
    /// POD or TYPE/NAME, and perhaps a container
    #[arg(value_name = "POD")]
    pub what: Vec<String>,
    /// And what is written from now on
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub follow: bool,
    /// Which container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Every container of the pod
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub all_containers: bool,
    /// Every pod of the workload
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub all_pods: bool,
    /// Of the container before its last restart
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub previous: bool,
    /// So many lines from the end; -1 for all [default: all, 10 with a selector]
    #[arg(long, allow_negative_numbers = true)]
    pub tail: Option<i64>,
    /// Not older than this, as in 5s or 2h
    #[arg(long)]
    pub since: Option<String>,
    /// Not older than this time, as in 2026-01-02T15:04:05Z
    #[arg(long)]
    pub since_time: Option<String>,
    /// With the time of each line
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub timestamps: bool,
    /// Not more than so many bytes
    #[arg(long, default_value_t = 0)]
    pub limit_bytes: u64,
    /// Pods with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// With pod and container before each line
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub prefix: bool,
    /// How many logs may be followed at once
    #[arg(long, default_value_t = 5)]
    pub max_log_requests: usize,
    /// Go on with the next log when one cannot be read
    #[arg(long)]
    pub ignore_errors: bool,
    /// How long to wait for a pod of a workload
    #[arg(long, default_value = "20s")]
    pub pod_running_timeout: String,
    /// Believe the node without looking at its certificate
    #[arg(long)]
    pub insecure_skip_tls_verify_backend: bool,
}

/// One log.
struct Source {
    path: String,
    prefix: String,
}

impl Args {
    fn validate(&self) -> anyhow::Result<()> {
        let usage =
            "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command";
        match (self.what.len(), &self.selector) {
            (0, None) => {
                return Err(errors::Usage { verb: "logs", message: usage.to_owned() }.into());
            }
            (1.., Some(_)) => bail!("only a selector (-l) or a POD name is allowed"),
            (3.., None) => {
                return Err(errors::Usage { verb: "logs", message: usage.to_owned() }.into());
            }
            _ => {}
        }
        if self.since.is_some() && self.since_time.is_some() {
            bail!("at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
        if self.tail.is_some_and(|tail| tail < -1) {
            bail!("--tail must be greater than or equal to -1");
        }
        if self.all_containers && (self.container.is_some() || self.what.len() == 2) {
            bail!("--all-containers=true should not be specified with container name {}", self.container.as_deref().unwrap_or_default());
        }
        if self.container.is_some() && self.what.len() == 2 {
            bail!("only one of -c or an inline [CONTAINER] arg is allowed");
        }
        Ok(())
    }

    fn query(&self, container: &str) -> anyhow::Result<String> {
        let mut parts = vec![format!("container={}", escape(container))];
        for (name, flag) in [("follow", self.follow), ("previous", self.previous), ("timestamps", self.timestamps)] {
            if flag {
                parts.push(format!("{name}=true"));
            }
        }
        let tail = self.tail.or_else(|| self.selector.is_some().then_some(10)).filter(|tail| *tail >= 0);
        if let Some(tail) = tail {
            parts.push(format!("tailLines={tail}"));
        }
        if let Some(since) = &self.since {
            let seconds = duration::parse(since)?.as_secs_f64().ceil();
            parts.push(format!("sinceSeconds={seconds}"));
        }
        if let Some(time) = &self.since_time {
            parts.push(format!("sinceTime={}", escape(time)));
        }
        if self.limit_bytes > 0 {
            parts.push(format!("limitBytes={}", self.limit_bytes));
        }
        if self.insecure_skip_tls_verify_backend {
            parts.push("insecureSkipTLSVerifyBackend=true".to_owned());
        }
        Ok(parts.join("&"))
    }
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    args.validate()?;
    let pods = find(session, &args).await.map_err(|error| match errors::api(&error) {
        // the place is worth saying: the commonest mistake is the wrong namespace
        Some(refused) if refused.reason == Reason::NotFound => {
            anyhow::anyhow!("error from server (NotFound): {} in namespace {:?}", refused.message, session.namespace)
        }
        _ => error,
    })?;
    if pods.is_empty() {
        note(format!("No resources found in {} namespace.", session.namespace));
        return Ok(());
    }
    let mut sources = Vec::new();
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let containers = if args.all_containers {
            pods::container_names(pod)
        } else {
            let named = args.container.as_deref().or_else(|| args.what.get(1).map(String::as_str));
            vec![pods::container(pod, named, false)?]
        };
        for container in containers {
            let path = format!("/api/v1/namespaces/{}/pods/{}/log?{}", escape(&session.namespace), escape(name), args.query(&container)?);
            sources.push(Source { path, prefix: if args.prefix { format!("[pod/{name}/{container}] ") } else { String::new() } });
        }
    }
    if !args.follow || sources.len() == 1 {
        for source in &sources {
            match copy(session, source).await {
                Err(error) if args.ignore_errors => note(format!("error: {error:#}")),
                outcome => outcome?,
            }
        }
        return Ok(());
    }
    if sources.len() > args.max_log_requests {
        bail!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            sources.len(),
            args.max_log_requests
        );
    }
    let mut streams: FuturesUnordered<_> = sources.iter().map(|source| copy(session, source)).collect();
    while let Some(outcome) = streams.next().await {
        match outcome {
            Err(error) if args.ignore_errors => note(format!("error: {error:#}")),
            outcome => outcome?,
        }
    }
    Ok(())
}

async fn find(session: &Session, args: &Args) -> anyhow::Result<Vec<Value>> {
    if let Some(selector) = &args.selector {
        return pods::by_labels(session, selector).await;
    }
    let Some(word) = args.what.first() else {
        return Ok(Vec::new());
    };
    if args.all_pods {
        return pods::all(session, word).await;
    }
    let patience = duration::parse(&args.pod_running_timeout)?.max(Duration::from_secs(1));
    if word.contains('/') && !word.starts_with("pod") && !word.starts_with("po/") {
        let all = pods::all(session, word).await?;
        let pod = pods::one(session, word, patience).await?;
        if all.len() > 1 {
            note(format!("Found {} pods, using pod/{}", all.len(), pod["metadata"]["name"].as_str().unwrap_or_default()));
        }
        return Ok(vec![pod]);
    }
    Ok(vec![pods::one(session, word, patience).await?])
}

/// Copies a log as it comes; with a prefix, line by line.
async fn copy(session: &Session, source: &Source) -> anyhow::Result<()> {
    let mut body = pin!(session.stream(Request { accept: Some("*/*".to_owned()), ..Request::get(source.path.clone()) }).await?);
    if source.prefix.is_empty() {
        while let Some(chunk) = body.next().await {
            emit_bytes(&chunk?)?;
        }
        return Ok(());
    }
    let mut lines = pin!(watch::lines(body));
    while let Some(line) = lines.next().await {
        let line = line?;
        emit_bytes(&[source.prefix.as_bytes(), &line, b"\n"].concat())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn query(words: &str) -> String {
        let line = Line::try_parse_from(format!("logs {words}").split(' ')).expect("it is a command line");
        line.args.validate().expect("it makes sense");
        line.args.query("c").expect("it is a query")
    }

    #[test]
    fn flags_become_a_query() {
        assert_eq!(query("p"), "container=c");
        assert_eq!(query("p -f --tail=5 --since 90s --timestamps"), "container=c&follow=true&timestamps=true&tailLines=5&sinceSeconds=90");
        assert_eq!(query("-l a=b"), "container=c&tailLines=10");
        assert_eq!(query("p --tail -1 -p"), "container=c&previous=true");
    }

    #[test]
    fn contradictions_are_told() {
        for words in ["logs", "logs p -l a=b", "logs p --since 1s --since-time 2026-01-01T00:00:00Z", "logs p --tail=-2", "logs p c -c d"] {
            let line = Line::try_parse_from(words.split(' ')).expect("it can be parsed");
            assert!(line.args.validate().is_err(), "{words}");
        }
    }
}
