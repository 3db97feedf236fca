//! `trierarch raft fault`: what goes wrong on a master by intent, and for how long.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use trierarch_client::{Error, Request};
use trierarch_raft::experiment::{Direction, Experiments, Fault, FaultKind};

use super::reach::{Master, Reach};
use crate::kubectl::duration;

const PATH: &str = "/raft/v1/experiments/faults";
/// Who is meant by `--master leader`.
const LEADER: &str = "leader";

/// What can be done with faults.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Let something go wrong on a master for a while
    Add(AddArgs),
    /// Show what goes wrong, and for how much longer
    #[command(visible_alias = "list")]
    Ls {
        /// Only on this master, such as m2
        #[arg(long)]
        master: Option<String>,
        /// Output format
        #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
        output: String,
    },
    /// End a fault before its time, or all of them
    Clear {
        /// Its number, as ls shows it; needs --master. All faults if left out
        #[arg(requires = "master")]
        id: Option<u64>,
        /// Only on this master, such as m2
        #[arg(long)]
        master: Option<String>,
    },
}

/// Arguments of `raft fault add`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Kinds:
  drop       messages never arrive; with --probability 0.3 three of ten do not
  delay      messages arrive --delay later, give or take --jitter, in their order
  duplicate  messages arrive twice
  reorder    messages are held back for up to --delay, and later ones overtake them
  pause      the master neither sends nor receives nor ticks, as after SIGSTOP;
             its admin endpoint answers
  slow-sync  each sync of the log takes --delay longer

Messages are requests and replies between masters. A fault is seen from its own master:
--direction out is what it sends. Clients still reach it, which is how a leader comes to lead
nobody. Every fault ends by itself after --for, at most 10m.

Examples:
  trierarch raft fault add pause --master leader --for 5s
        the leader stands still: another one is elected
  trierarch raft fault add drop --master m1 --for 30s
        m1 is cut off from all others
  trierarch raft fault add drop --master m1 --peer m2 --direction out --for 30s
        m2 does not hear m1, but m1 hears m2
  trierarch raft fault add delay --master m3 --delay 80ms --jitter 40ms --for 1m
  trierarch raft fault add slow-sync --master m2 --delay 200ms --for 1m

The masters must have been started with --experiments, and the verb experiment on
/raft/v1/experiments/* is a right of its own. What to watch meanwhile: trierarch raft events -f")]
pub struct AddArgs {
    /// What goes wrong
    #[arg(value_parser = ["drop", "delay", "duplicate", "reorder", "pause", "slow-sync"])]
    pub kind: String,
    /// On which master, such as m1; leader stands for whoever leads now (may be given several times)
    #[arg(long, required = true)]
    pub master: Vec<String>,
    /// With which other master, such as m2 or its number; all of them if left out
    #[arg(long)]
    pub peer: Option<String>,
    /// Which way, as the master sees it [default: both]
    #[arg(long, value_parser = ["in", "out", "both"])]
    pub direction: Option<String>,
    /// How likely it is for each message, from 0 to 1 [default: 1]
    #[arg(long)]
    pub probability: Option<f64>,
    /// How much later, such as 50ms
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub delay: Option<Duration>,
    /// By how much the delay varies up and down, such as 10ms
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub jitter: Option<Duration>,
    /// How long, such as 30s; at most 10m
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    pub lasts: Duration,
    /// Output format
    #[arg(short, long, value_parser = ["text", "json"], default_value = "text")]
    pub output: String,
}

/// Carries it out.
///
/// # Errors
/// A master does not answer, or refuses.
pub async fn run(reach: &Reach, action: &Action) -> anyhow::Result<()> {
    match action {
        Action::Add(args) => add(reach, args).await,
        Action::Ls { master, output } => list(reach, master.as_deref(), output).await,
        Action::Clear { id, master } => clear(reach, *id, master.as_deref()).await,
    }
}

async fn add(reach: &Reach, args: &AddArgs) -> anyhow::Result<()> {
    let peer = match &args.peer {
        Some(name) => Some(reach.member_id(name).await?),
        None => None,
    };
    let fault = fault(args, peer)?;
    let mut begun = Vec::new();
    for name in &args.master {
        let master = resolve(reach, name).await?;
        let request = Request::json(http::Method::POST, PATH, &serde_json::to_value(&fault)?);
        let answer = reach.ask(master, request).await.with_context(|| format!("master {}", master.name))?;
        let fault: Fault = serde_json::from_slice(&answer).with_context(|| format!("master {} answers nothing readable", master.name))?;
        if args.output == "text" {
            println!("{}", began(&master.name, &fault));
        }
        begun.push((master.name.clone(), serde_json::to_value(fault)?));
    }
    if args.output == "json" {
        println!("{}", serde_json::to_string_pretty(&Value::Object(begun.into_iter().collect()))?);
    }
    Ok(())
}

/// The fault that is wanted. Whether its fields go together, the master says.
fn fault(args: &AddArgs, peer: Option<u64>) -> anyhow::Result<Fault> {
    let kind =
        FaultKind::ALL.into_iter().find(|kind| spelt(*kind) == args.kind).with_context(|| format!("unknown kind {:?}", args.kind))?;
    let direction = args.direction.as_deref().map(|name| match name {
        "in" => Direction::In,
        "out" => Direction::Out,
        _ => Direction::Both,
    });
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Ok(Fault {
        peer,
        direction,
        probability: args.probability,
        delay_ms: args.delay.map(millis),
        jitter_ms: args.jitter.map(millis),
        ..Fault::new(kind, args.lasts)
    })
}

/// The kind as command lines spell it.
fn spelt(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::SlowSync => "slow-sync",
        other => other.name(),
    }
}

/// The master of this name, or that which leads.
async fn resolve<'a>(reach: &'a Reach, name: &str) -> anyhow::Result<&'a Master> {
    if name != LEADER {
        return reach.master(name);
    }
    let group = reach.group().await?;
    let leader = group["leader"].as_u64().context("nobody leads at the moment")?;
    let mut members = group["members"].as_array().into_iter().flatten();
    let address = members.find(|member| member["id"] == leader).and_then(|member| member["api_address"].as_str());
    reach.masters.iter().find(|master| Some(master.address.as_str()) == address).context("the leader is not known here")
}

fn began(master: &str, fault: &Fault) -> String {
    format!("{master}: fault {} began: {fault}; it ends by itself in {}", fault.id.unwrap_or_default(), left(fault.for_ms))
}

/// Milliseconds as people read them.
pub(super) fn left(milliseconds: u64) -> String {
    match milliseconds {
        ..1000 => format!("{milliseconds}ms"),
        1000..60_000 => format!("{:.1}s", Duration::from_millis(milliseconds).as_secs_f64()),
        _ => format!("{}m{}s", milliseconds / 60_000, milliseconds % 60_000 / 1000),
    }
}

async fn list(reach: &Reach, only: Option<&str>, output: &str) -> anyhow::Result<()> {
    let masters = reach.some(only)?;
    let answers = futures::future::join_all(masters.iter().map(|master| experiments(reach, master))).await;
    let rows: Vec<(&str, Result<Experiments, Error>)> = masters.iter().map(|master| master.name.as_str()).zip(answers).collect();
    if output == "json" {
        let shown = |answer: &Result<Experiments, Error>| match answer {
            Ok(experiments) => json!(experiments),
            Err(error) => Value::String(error.to_string()),
        };
        let all: serde_json::Map<String, Value> = rows.iter().map(|(name, answer)| ((*name).to_owned(), shown(answer))).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("{:<8}{:<6}{:<48}{:>10}", "MASTER", "ID", "FAULT", "ENDS IN");
    for (name, answer) in &rows {
        match answer {
            Ok(experiments) => {
                for fault in &experiments.faults {
                    let (id, ends) = (fault.id.unwrap_or_default(), left(fault.ends_in_ms.unwrap_or_default()));
                    println!("{name:<8}{id:<6}{:<48}{ends:>10}", fault.to_string());
                }
            }
            Err(error) => println!("{name:<8}{error}"),
        }
    }
    Ok(())
}

/// What a master says of its experiments.
pub(super) async fn experiments(reach: &Reach, master: &Master) -> Result<Experiments, Error> {
    reach.quick_client(master)?.get("/raft/v1/experiments").await
}

async fn clear(reach: &Reach, id: Option<u64>, only: Option<&str>) -> anyhow::Result<()> {
    let mut failed = 0;
    for master in reach.some(only)? {
        let path = id.map_or_else(|| PATH.to_owned(), |id| format!("{PATH}/{id}"));
        let request = Request { method: http::Method::DELETE, path, ..Request::default() };
        match reach.ask(master, request).await {
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
                let ended = answer["faults"].as_array().map_or(1, Vec::len);
                println!("{}: {ended} {} ended", master.name, if ended == 1 { "fault" } else { "faults" });
            }
            // the others are asked all the same
            Err(error) => {
                eprintln!("{}: {error}", master.name);
                failed += 1;
            }
        }
    }
    if failed > 0 {
        bail!(
            "{failed} {} not answer as asked; what was begun there ends by itself",
            if failed == 1 { "master did" } else { "masters did" }
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: AddArgs,
    }

    fn parsed(line: &str) -> Fault {
        let words = std::iter::once("add").chain(line.split_whitespace());
        let line = <Line as clap::Parser>::try_parse_from(words).unwrap();
        fault(&line.args, Some(2)).unwrap()
    }

    #[test]
    fn a_line_becomes_a_fault() {
        let fault = parsed("slow-sync --master m1 --delay 1.5s --for 2m");
        assert_eq!((fault.kind, fault.delay_ms, fault.for_ms), (FaultKind::SlowSync, Some(1500), 120_000));
        let fault = parsed("drop --master m1 --peer m2 --direction out --probability 0.3 --for 30s");
        assert_eq!(
            (fault.kind, fault.peer, fault.direction, fault.probability),
            (FaultKind::Drop, Some(2), Some(Direction::Out), Some(0.3))
        );
        assert_eq!(
            began("m1", &Fault { id: Some(7), ..fault }),
            "m1: fault 7 began: drop to member 2, probability 0.3; it ends by itself in 30.0s"
        );
    }

    #[test]
    fn every_kind_can_be_asked_for() {
        for kind in FaultKind::ALL {
            assert_eq!(parsed(&format!("{} --master m1 --for 1s", spelt(kind))).kind, kind);
        }
    }

    #[test]
    fn times_are_short() {
        assert_eq!([left(999), left(1500), left(59_999), left(90_000)], ["999ms", "1.5s", "60.0s", "1m30s"]);
    }
}
