//! `trierarch raft timers`: how often a leader speaks, and when the others lose patience.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use trierarch_client::{Error, Request};
use trierarch_raft::experiment::{TimersChange, TimersInForce};

use super::fault::{experiments, left};
use super::reach::{Master, Reach};
use crate::kubectl::duration;

/// Arguments of `raft timers`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Without options the timers in force are shown. With some, the masters go on with them for as long
as --for says; then the configured ones come back. What is left out stays as configured.

A leader speaks every --heartbeat. Whoever has not heard it for its lease, --election-max, and
then for a random time between --election-min and --election-max, asks for votes; with --pre-vote
it first asks whether it would get them, which raises nobody's term. Raft demands
heartbeat < election-min < election-max.

Only --pre-vote changes while raft runs. For the others raft is started again on each master,
followers first; the leader hands leadership over before, so expect one change of leader.

Examples:
  trierarch raft timers
  trierarch raft timers --election-min 1s --election-max 2s --for 5m
        patient masters
  trierarch raft timers --pre-vote false --for 2m
        whoever comes back after a cut raises the term
  trierarch raft timers --election-min 200ms --election-max 201ms --for 1m
        split votes, as time-outs are hardly random")]
pub struct Args {
    /// Only on this master, such as m2
    #[arg(long)]
    pub master: Option<String>,
    /// How often a leader speaks, such as 50ms
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "lasts")]
    pub heartbeat: Option<Duration>,
    /// Shortest election time-out, such as 150ms
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "lasts")]
    pub election_min: Option<Duration>,
    /// Longest election time-out, and a leader's lease, such as 300ms
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "lasts")]
    pub election_max: Option<Duration>,
    /// Ask whether one would be elected before asking for votes
    #[arg(long, requires = "lasts")]
    pub pre_vote: Option<bool>,
    /// How long, such as 30s; at most 10m
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    pub lasts: Option<Duration>,
    /// Output format
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    pub output: String,
}

/// Shows or changes them.
///
/// # Errors
/// A master does not answer, or refuses.
pub async fn run(reach: &Reach, args: &Args) -> anyhow::Result<()> {
    let masters = reach.some(args.master.as_deref())?;
    let Some(lasts) = args.lasts else {
        let shown = |master| async move { experiments(reach, master).await.map(|experiments| experiments.timers) };
        let answers = futures::future::join_all(masters.iter().map(|master| shown(*master))).await;
        let names = masters.iter().map(|master| master.name.as_str());
        return show(&names.zip(answers).collect::<Vec<_>>(), &args.output);
    };
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let change = TimersChange {
        heartbeat_ms: args.heartbeat.map(millis),
        election_min_ms: args.election_min.map(millis),
        election_max_ms: args.election_max.map(millis),
        pre_vote: args.pre_vote,
        for_ms: millis(lasts),
    };
    let mut rows = Vec::new();
    for master in leader_last(reach, masters).await {
        let request = Request::json(http::Method::PUT, "/raft/v1/experiments/timers", &serde_json::to_value(change)?);
        let changed = match reach.ask(master, request).await {
            Ok(answer) => serde_json::from_slice(&answer).with_context(|| format!("master {} answers nothing readable", master.name))?,
            // the others would refuse it, too
            Err(error @ Error::Api(_)) => return Err(error).with_context(|| format!("master {}", master.name)),
            Err(error) => {
                rows.push((master.name.as_str(), Err(error)));
                continue;
            }
        };
        rows.push((master.name.as_str(), Ok(changed)));
    }
    show(&rows, &args.output)?;
    match rows.iter().filter(|(_, changed)| changed.is_err()).count() {
        0 => Ok(()),
        count => bail!("{count} of {} masters did not answer", rows.len()),
    }
}

/// The masters with that which leads at the end: it hands leadership to one that has changed already.
async fn leader_last<'a>(reach: &Reach, mut masters: Vec<&'a Master>) -> Vec<&'a Master> {
    let group = reach.group().await.unwrap_or_default();
    let mut members = group["members"].as_array().into_iter().flatten();
    let leader = members.find(|member| member["id"] == group["leader"]).and_then(|member| member["api_address"].as_str());
    masters.sort_by_key(|master| Some(master.address.as_str()) == leader);
    masters
}

fn show(rows: &[(&str, Result<TimersInForce, Error>)], output: &str) -> anyhow::Result<()> {
    if output == "json" {
        let shown = |answer: &Result<TimersInForce, Error>| match answer {
            Ok(timers) => json!(timers),
            Err(error) => Value::String(error.to_string()),
        };
        let all: serde_json::Map<String, Value> = rows.iter().map(|(name, answer)| ((*name).to_owned(), shown(answer))).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("{:<8}{:>12}{:>15}{:>15}{:>10}{:>10}", "MASTER", "HEARTBEAT", "ELECTION MIN", "ELECTION MAX", "PRE-VOTE", "ENDS IN");
    for (name, answer) in rows {
        match answer {
            Ok(TimersInForce { timers, ends_in_ms }) => println!(
                "{name:<8}{:>12}{:>15}{:>15}{:>10}{:>10}",
                left(timers.heartbeat_ms),
                left(timers.election_min_ms),
                left(timers.election_max_ms),
                timers.pre_vote,
                ends_in_ms.map_or_else(|| "-".to_owned(), left)
            ),
            Err(error) => println!("{name:<8}{error}"),
        }
    }
    Ok(())
}
