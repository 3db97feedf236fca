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
    let masters: Vec<&Master> = match &args.master {
        Some(name) => vec![reach.master(name)?],
        None => reach.masters.iter().collect(),
    };
    let (told, mut lines) = mpsc::unbounded_channel();
    let listening = futures::future::join_all(masters.into_iter().map(|master| listen(reach, master, args, told.clone())));
    let showing = async {
        while let Some(line) = lines.recv().await {
            println!("{line}");
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

async fn listen(reach: &Reach, master: &Master, args: &Args, told: mpsc::UnboundedSender<String>) {
    loop {
        if let Err(error) = listen_once(reach, master, args, &told).await {
            // whoever shows them ends last
            let _shown = told.send(format!("{:<4}{error:#}", master.name));
        }
        if !args.follow {
            return std::future::pending().await;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn listen_once(reach: &Reach, master: &Master, args: &Args, told: &mpsc::UnboundedSender<String>) -> anyhow::Result<()> {
    let mut stream = reach.client(master, RETRY_PAUSE)?.stream(Request::get("/raft/v1/events")).await?;
    let mut text = Vec::new();
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk?);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let message: Vec<u8> = text.drain(..end + 2).collect();
            let Some(data) = message.strip_prefix(b"data: ") else { continue };
            let line = match args.output.as_str() {
                "json" => String::from_utf8_lossy(data).trim_end().to_owned(),
                _ => describe(&master.name, &serde_json::from_slice(data)?),
            };
            let _shown = told.send(line);
        }
    }
    anyhow::bail!("the connection ended")
}

/// A line for people.
fn describe(name: &str, happening: &Happening) -> String {
    let what = match &happening.event {
        Event::Role { role } => format!("is {role}"),
        Event::Vote { candidate, granted: true } => format!("knows that member {candidate} was elected"),
        Event::Vote { candidate, granted: false } => format!("votes for member {candidate}"),
        Event::Leader { leader: Some(leader) } => format!("follows member {leader}"),
        Event::Leader { leader: None } => "knows no leader".to_owned(),
        Event::Members { voters, learners } => format!("voters {voters:?}, learners {learners:?}"),
        Event::Append { last } => format!("log ends at {last}"),
        Event::Commit { committed } => format!("committed {committed}"),
        Event::HeartbeatMissed { peer } => format!("hears nothing of member {peer}"),
        Event::HeartbeatHeard { peer } => format!("hears member {peer} again"),
    };
    let (milliseconds, rest) = (happening.elapsed_us / 1000, happening.elapsed_us % 1000);
    format!("{name:<4}{milliseconds:>8}.{rest:03} ms  term {:<5} {what}", happening.term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_when_and_what() {
        let happening =
            Happening { elapsed_us: 1_234_567, time_unix_ms: 0, node_id: 2, term: 7, event: Event::Vote { candidate: 3, granted: false } };
        assert_eq!(describe("m2", &happening), "m2      1234.567 ms  term 7     votes for member 3");
    }
}
