//! `trierarch raft events`: what happens on the masters, one line each.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;
use trierarch_client::Request;
use trierarch_raft::happenings::{Event, Happening};

use super::reach::{Master, Reach};

/// Without -f: how long to listen for how things are.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How long to wait before a master that has ended is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What is to be shown.
enum Line {
    Text(String),
    /// What happened on the master of this name.
    Happening(String, Happening),
}

/// Arguments of `raft events`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Go on with what happens from now on, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only of this master, such as m2
    #[arg(long)]
    pub master: Option<String>,
    /// Output format
    #[arg(short, long, value_parser = ["text", "json"], default_value = "text")]
    pub output: String,
}

/// Shows it.
///
/// # Errors
/// There is no such master.
pub async fn run(reach: &Reach, args: &Args) -> anyhow::Result<()> {
    let masters = reach.some(args.master.as_deref())?;
    let (told, mut lines) = mpsc::unbounded_channel();
    let listening = futures::future::join_all(masters.into_iter().map(|master| listen(reach, master, args, told.clone())));
    let showing = async {
        let mut began = None;
        while let Some(line) = lines.recv().await {
            match line {
                Line::Text(text) => println!("{text}"),
                Line::Happening(name, happening) => {
                    let began_ms = *began.get_or_insert(happening.at_ms);
                    println!("{}", describe(&name, began_ms, &happening));
                }
            }
        }
    };
    let ending = async {
        match args.follow {
            true => super::super::interrupted().await,
            false => tokio::time::sleep(FIRST_LOOK).await,
        }
    };
    tokio::select! {
        _ = listening => {}
        () = showing => {}
        () = ending => {}
    }
    Ok(())
}

async fn listen(reach: &Reach, master: &Master, args: &Args, told: mpsc::UnboundedSender<Line>) {
    loop {
        if let Err(error) = listen_once(reach, master, args, &told).await {
            // whoever shows them ends last
            let _shown = told.send(Line::Text(format!("{:<4}{error:#}", master.name)));
        }
        if !args.follow {
            return std::future::pending().await;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn listen_once(reach: &Reach, master: &Master, args: &Args, told: &mpsc::UnboundedSender<Line>) -> anyhow::Result<()> {
    let mut stream = reach.client(master, RETRY_PAUSE)?.stream(Request::get("/raft/v1/events")).await?;
    let mut text = Vec::new();
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk?);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let message: Vec<u8> = text.drain(..end + 2).collect();
            let Some(data) = message.strip_prefix(b"data: ") else { continue };
            let line = match args.output.as_str() {
                "json" => Line::Text(String::from_utf8_lossy(data).trim_end().to_owned()),
                _ => Line::Happening(master.name.clone(), serde_json::from_slice(data)?),
            };
            let _shown = told.send(line);
        }
    }
    anyhow::bail!("the connection ended")
}

/// A line for people; times count from `began_ms`, the first of all masters.
fn describe(name: &str, began_ms: f64, happening: &Happening) -> String {
    let elapsed_ms = (happening.at_ms - began_ms).max(0.0);
    format!("{name:<4}{elapsed_ms:>12.3} ms  term {:<5} {}", happening.term, what(&happening.event))
}

fn what(event: &Event) -> String {
    let vote = |pre_vote: &bool| if *pre_vote { "pre-vote" } else { "vote" };
    let answer = |granted: &bool, why: &Option<String>| match (granted, why) {
        (true, _) => "yes".to_owned(),
        (false, Some(why)) => format!("no: {why}"),
        (false, None) => "no".to_owned(),
    };
    match event {
        Event::Role { role } => format!("is {role}"),
        Event::VoteAsked { peer, pre_vote } => format!("asks member {peer} for its {}", vote(pre_vote)),
        Event::VoteAnswered { peer, pre_vote, granted, why } => {
            format!("gets the {} of member {peer}: {}", vote(pre_vote), answer(granted, why))
        }
        Event::VoteCast { candidate, pre_vote, granted, why } => {
            format!("is asked by member {candidate} for its {}: {}", vote(pre_vote), answer(granted, why))
        }
        Event::Vote { candidate, granted: true } => format!("knows that member {candidate} was elected"),
        Event::Vote { candidate, granted: false } => format!("votes for member {candidate}"),
        Event::Leader { leader: Some(leader) } => format!("follows member {leader}"),
        Event::Leader { leader: None } => "knows no leader".to_owned(),
        Event::Members { voters, learners } => format!("voters {voters:?}, learners {learners:?}"),
        Event::Append { last, last_term } => format!("log ends at {last}, of term {last_term}"),
        Event::Truncate { kept, last } => format!("log is cut back from {last} to {kept}: another leader has written on from there"),
        Event::Commit { committed } => format!("committed {committed}"),
        Event::Snapshot { index } => format!("has a snapshot up to {index}"),
        Event::SnapshotReceived { index } => format!("received the leader's snapshot up to {index}"),
        Event::HeartbeatMissed { peer } => format!("hears nothing of member {peer}"),
        Event::LeaderGone { leader } => format!("sees that member {leader} has gone: its address refuses connections"),
        Event::HeartbeatHeard { peer } => format!("hears member {peer} again"),
        Event::FaultBegan { fault, by } => format!("experiment {} of {by} began: {fault}", fault.id.unwrap_or_default()),
        Event::FaultEnded { fault, why } => format!("experiment {} ended: {fault}; {why}", fault.id.unwrap_or_default()),
        Event::TimersChanged { timers, why } => format!(
            "timers: heartbeat {} ms, election {} to {} ms, pre-vote {}; {why}",
            timers.heartbeat_ms,
            timers.election_min_ms,
            timers.election_max_ms,
            if timers.pre_vote { "on" } else { "off" }
        ),
        Event::Lost { count } => format!("{count} happenings were lost: they came faster than they were read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_when_and_what() {
        let happening = |event| Happening { at_ms: 5001.234567, time_unix_ms: 0, node_id: 2, term: 7, event };
        let line = describe("m2", 3766.667, &happening(Event::Vote { candidate: 3, granted: false }));
        assert_eq!(line, "m2      1234.568 ms  term 7     votes for member 3");
        // another master's clock may be a little behind
        let why = Some("has a longer log: 4-12 against 4-9".to_owned());
        let line = describe("m1", 5002.0, &happening(Event::VoteCast { candidate: 3, pre_vote: true, granted: false, why }));
        assert_eq!(line, "m1         0.000 ms  term 7     is asked by member 3 for its pre-vote: no: has a longer log: 4-12 against 4-9");
    }
}
