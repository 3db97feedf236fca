//! No needless election: while other things keep all cores busy, three masters with the default timers keep their leader and its term, clients
//! write, and what they see is linearizable.
//!
//! ```text
//! cargo test --package trierarch-integration --test steady -- [--minutes 0.33] [--clients 3]
//! ```
//!
//! CI runs the short form; `integration/long steady` an hour. The target says that nothing happens during a period, so the period is awaited.
//! Where the machine itself stood still for as long as a lease lasts (a thread as important as raft's could not run), an election says nothing:
//! the period is repeated then, a few times.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to people")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use trierarch_integration::busy::{Busy, load_average};
use trierarch_integration::cluster::Cluster;
use trierarch_integration::elections::{Listener, Reign};
use trierarch_integration::load::Load;
use trierarch_integration::stalls::Stalls;
use trierarch_integration::wait::{now, until};

const NAME: &str = "std";
const NETWORK: &str = "10.131.83.0";
const PORT: &str = "16744";
/// How long a condition may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clients write when each got so many acknowledgements.
const SETTLED: usize = 5;
/// How often it is told how things stand.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// A machine that stood still for longer does not tell a silent leader from a living one: the length of a leader's lease.
const STALL_MAX: Duration = Duration::from_millis(300);
/// How often the period is begun at most.
const ATTEMPTS: usize = 3;
/// A machine that idles for more than the rest was not busy, and shows nothing.
const BUSY_PERCENT_MIN: f64 = 90.0;

struct Options {
    minutes: f64,
    clients: usize,
}

impl Options {
    /// From the words after the program's name; the standard runner's own options are ignored.
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { minutes: 0.33, clients: 3 };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--minutes" => options.minutes = number(&word, words.next())?,
                "--clients" => options.clients = number(&word, words.next())?,
                _ => {}
            }
        }
        ensure!(options.minutes.is_finite() && options.minutes > 0.0, "--minutes needs a number above 0");
        Ok(options)
    }
}

fn number<T: FromStr>(option: &str, word: Option<String>) -> Result<T> {
    word.and_then(|word| word.parse().ok()).with_context(|| format!("{option} needs a number"))
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this test needs root: it makes network namespaces, mounts and cgroups");
        return ExitCode::FAILURE;
    }
    let outcome = Options::read(std::env::args().skip(1)).and_then(|options| run(&options));
    let (word, passed, failed) = if outcome.is_ok() { ("ok", 1, 0) } else { ("FAILED", 0, 1) };
    match outcome {
        Ok(()) => println!("test busy_cores_cost_no_leader_its_term ... ok"),
        Err(error) => println!("test busy_cores_cost_no_leader_its_term ... FAILED\n     {error:#}"),
    }
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As [`attempt`], again if the machine did not allow it.
fn run(options: &Options) -> Result<()> {
    let mut left = ATTEMPTS;
    loop {
        let stalls = Stalls::watch()?;
        let outcome = attempt(options);
        let stalled = stalls.longest();
        let priority = if stalls.is_important() { "raft's priority" } else { "the usual priority" };
        println!("     a thread of {priority} that does nothing woke up {} ms too late at most", stalled.as_millis());
        left -= 1;
        match outcome {
            Err(error) if stalled >= STALL_MAX && left > 0 => {
                println!("     that is longer than a lease, so what happened says nothing: {error:#}");
            }
            outcome => return outcome,
        }
    }
}

fn attempt(options: &Options) -> Result<()> {
    let data_dir = PathBuf::from("/var/tmp/trierarch-test").join(NAME);
    Cluster::remove_leftovers(&data_dir)?;
    let mut cluster = Cluster::up(NAME, &data_dir, &["--network", NETWORK, "--port", PORT, "--nodes", "1"])?;
    cluster.settled(PATIENCE)?;
    let load = Load::start(&cluster.kubeconfig(), NAME, options.clients)?;
    let loaded = now();
    until("every client writes", PATIENCE, || load.everybody_wrote(SETTLED, loaded))?;

    let reign = Reign::read(&cluster.raft_status()?)?;
    let mut listener = Listener::start(&mut cluster.trierarch(&["raft", "events", "-f", "-o", "json"]), reign.clone())?;
    let (busy, began) = (Busy::every_core()?, now());
    println!("     master {} leads in term {}; load average {:.1}", reign.leader, reign.term, load_average()?);
    let period = Duration::from_secs_f64(options.minutes * 60.0);
    let mut reported = began;
    while began.elapsed() < period {
        let report = REPORT_INTERVAL.min(period.saturating_sub(reported - began));
        let (account, _) = until("the end of the period", PATIENCE + REPORT_INTERVAL, || {
            ensure!(reported.elapsed() >= report, "it is not over");
            listener.account()
        })?;
        let gap = load.longest_gap(reported, now());
        println!(
            "     {:.1} of {} minutes: load average {:.1}; longest gap of a writing client {} ms; {}; {} upheavals",
            began.elapsed().as_secs_f64() / 60.0,
            options.minutes,
            load_average()?,
            gap.as_millis(),
            account.summary(),
            account.upheavals.len()
        );
        reported = now();
    }
    let (percent, account) = (busy.percent()?, listener.account()?);
    let gap = load.longest_gap(began, now());
    until("every client still writes", PATIENCE, || load.everybody_wrote(SETTLED, reported))?;
    // the masters may be asked at different moments, and the load goes on: only who leads, in which term, is compared
    let status = cluster.raft_status()?;
    drop(busy);
    let findings = load.finish()?;
    println!(
        "     {} minutes, cores busy for {percent:.1} % of them; longest gap of a writing client {} ms; {}",
        options.minutes,
        gap.as_millis(),
        account.summary()
    );
    println!("     {}", findings.judge()?);
    ensure!(account.upheavals.is_empty(), "the reign of {reign:?} did not last:\n{}", account.upheavals.join("\n"));
    let after = Reign::read(&status)?;
    ensure!(after == reign, "{reign:?} has become {after:?}");
    ensure!(percent >= BUSY_PERCENT_MIN, "the cores were busy for {percent:.1} % of the time only");
    cluster.down()?;
    Ok(())
}
