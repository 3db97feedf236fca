//! An experiment on real processes: masters in network namespaces, clients that write through the API, faults through the endpoint of
//! experiments, signals for everything that happens to a process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::mpsc;
use trierarch_client::Client;
use trierarch_lab::director::{Action, Director, Order};
use trierarch_lab::experiment::Experiment;
use trierarch_lab::recording::{Outcome, Recording, Run, Sight, Stage as Where, Standing};
use trierarch_raft::NodeId;
use trierarch_raft::experiment::{FOR_MS_MAX, TimersChange};

use super::Clock;
use super::ears::Ears;
pub use super::stage::Place;
use super::stage::{self, Keep, Stage};
use super::writers::{OBJECTS, Writers, Written};

/// How often is looked whether something is due.
const TICK: Duration = Duration::from_millis(2);
/// How often is looked whether the group has settled.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long it may take to settle.
const SETTLING_PATIENCE: Duration = Duration::from_secs(60);
/// How long a master that has just been started may take to answer.
const GREETING_PATIENCE: Duration = Duration::from_secs(30);
/// How often a master that has just been started is asked.
const GREETING_PAUSE: Duration = Duration::from_millis(10);

/// Carries an experiment out; `tell` hears what goes on. Everything that was made is removed again, also when it fails or is interrupted.
///
/// # Errors
/// What is in the way, or that it was interrupted.
pub async fn carry_out(experiment: &Experiment, place: &Place, mut tell: impl FnMut(String)) -> anyhow::Result<Recording> {
    tell(format!("starting {} masters", experiment.members));
    let mut lab = tokio::select! {
        lab = Lab::build(experiment, place) => lab?,
        () = crate::verbs::interrupted() => {
            remove_what_is_there(place).await?;
            return Err(interrupted());
        }
    };
    let outcome = tokio::select! {
        outcome = lab.repeat(&mut tell) => outcome,
        () = crate::verbs::interrupted() => Err(interrupted()),
    };
    // logs stay where they may say why
    let keep = if outcome.is_ok() { Keep::Nothing } else { Keep::Logs };
    lab.stage.remove(keep).await?;
    Ok(Recording { stage: Where::Processes, runs: outcome? })
}

fn interrupted() -> anyhow::Error {
    crate::verbs::Exit { code: 130, text: "interrupted".to_owned() }.into()
}

async fn remove_what_is_there(place: &Place) -> anyhow::Result<()> {
    match crate::cluster::load(&place.data_dir)? {
        Some(topology) => crate::verbs::down::take_down(&topology, crate::verbs::down::Take { images: true, logs: true }).await,
        None => Ok(()),
    }
}

struct Lab<'a> {
    experiment: &'a Experiment,
    stage: Stage,
    ears: Ears,
    standings: BTreeMap<NodeId, Standing>,
    /// Since the first repetition's beginning.
    clock: Clock,
    /// Orders whose outcome is not known yet tell it here.
    failures: (mpsc::UnboundedSender<Failure>, mpsc::UnboundedReceiver<Failure>),
}

/// An order that did not work.
struct Failure {
    mark: usize,
    why: String,
}

impl<'a> Lab<'a> {
    async fn build(experiment: &'a Experiment, place: &Place) -> anyhow::Result<Self> {
        let stage = Stage::build(place, experiment.members, experiment.snapshot_after_entries).await?;
        let clients = stage.members().map(|id| Ok((id, stage.new_client(id, GREETING_PATIENCE)?))).collect::<anyhow::Result<Vec<_>>>()?;
        let ears = Ears::open(clients);
        Ok(Self { experiment, stage, ears, standings: BTreeMap::new(), clock: Clock::start(), failures: mpsc::unbounded_channel() })
    }

    async fn repeat(&mut self, tell: &mut impl FnMut(String)) -> anyhow::Result<Vec<Run>> {
        let mut runs = Vec::new();
        for id in self.stage.members() {
            self.greet(id).await?;
        }
        for index in 0..self.experiment.repetitions {
            let settled = self.settle(&mut |lab: &mut Self| drop(lab.listen())).await.context("before the repetition")?;
            if !settled {
                bail!("repetition {}: the masters did not settle in {} s", index + 1, SETTLING_PATIENCE.as_secs());
            }
            let run = self.run(index).await?;
            tell(format!("repetition {} of {}: {}", index + 1, self.experiment.repetitions, summary(&run)));
            runs.push(run);
        }
        Ok(runs)
    }

    /// Gives a master that has just been started the experiment's timers, as soon as it answers.
    async fn greet(&self, id: NodeId) -> anyhow::Result<()> {
        greet(self.stage.client(id)?.clone(), self.experiment.timers).await.with_context(|| format!("m{id}"))
    }

    async fn run(&mut self, index: u32) -> anyhow::Result<Run> {
        drop(self.listen());
        let (stage, label) = (&self.stage, format!("lab-{index}"));
        self.clock = Clock::start();
        let patience = self.patience();
        let clients = || -> anyhow::Result<BTreeMap<NodeId, Client>> {
            stage.members().map(|id| Ok((id, stage.new_client(id, patience)?))).collect()
        };
        let mut writers = Writers::start(self.experiment.load, &label, self.clock, clients)?;
        let mut director = Director::new(self.experiment, self.standings.clone());
        let mut run = Run { start: self.standings.clone(), ..Run::default() };
        let mut written: Vec<Written> = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.clock.now_ms() < self.experiment.duration.ms {
            ticks.tick().await;
            self.hear(&mut director, &mut run);
            for order in director.step(self.clock.now_ms()) {
                if let Err(error) = self.obey(&order) {
                    director.failed(order.mark, format!("{error:#}"));
                }
            }
            written.extend(writers.answered());
        }
        run.ended_ms = self.clock.now_ms();
        let settled = self.settle(&mut |lab: &mut Self| lab.hear(&mut director, &mut run)).await?;
        written.extend(writers.finish().await);
        run.settled_ms = settled.then(|| self.clock.now_ms());
        let there = self.objects(&label).await?;
        for Written { write, name } in written {
            match (write.outcome, there.contains(&name)) {
                (Outcome::Acknowledged, false) => run.lost.push(name),
                (Outcome::Refused, true) => run.resurrected.push(name),
                _ => {}
            }
            run.writes.push(write);
        }
        run.writes.sort_by_key(|write| write.answered_ms);
        run.sights.sort_by_key(|sight| sight.at_ms);
        (run.marks, run.names, run.skipped) = director.finish();
        Ok(run)
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.experiment.load.patience.ms)
    }

    /// Takes what members told, as sights of this repetition.
    fn listen(&mut self) -> Vec<Sight> {
        let mut sights = Vec::new();
        for (member, happening) in self.ears.heard() {
            self.standings.entry(member).or_insert_with(Standing::unknown).see(happening.term, &happening.event);
            let at_ms = self.clock.at_ms(happening.at_ms);
            sights.push(Sight { at_ms, member, term: happening.term, event: happening.event });
        }
        sights
    }

    fn hear(&mut self, director: &mut Director<'_>, run: &mut Run) {
        for sight in self.listen() {
            director.see(&sight);
            run.sights.push(sight);
        }
        while let Ok(failure) = self.failures.1.try_recv() {
            director.failed(failure.mark, failure.why);
        }
    }

    /// Begins what is ordered; what takes time goes on beside.
    fn obey(&mut self, order: &Order) -> anyhow::Result<()> {
        let id = order.member;
        match order.action.clone() {
            Action::Kill => {
                self.ears.forget(id);
                self.stage.signal(id, Signal::SIGKILL)?;
                if let Some(standing) = self.standings.get_mut(&id) {
                    "down".clone_into(&mut standing.role);
                }
            }
            Action::Start => {
                self.stage.start(id)?;
                let (client, timers) = (self.stage.client(id)?.clone(), self.experiment.timers);
                self.aside(order.mark, async move { greet(client, timers).await });
            }
            Action::Stop => self.stage.signal(id, Signal::SIGSTOP)?,
            Action::Continue => self.stage.signal(id, Signal::SIGCONT)?,
            Action::Transfer(to) => self.ask(order, move |client| async move { stage::transfer(&client, to).await })?,
            Action::Campaign => self.ask(order, |client| async move { stage::campaign(&client).await })?,
            Action::Fault(fault) => self.ask(order, move |client| async move { stage::begin_fault(&client, &fault).await })?,
            Action::Clear => self.ask(order, |client| async move { stage::clear_faults(&client).await })?,
            Action::Timers(change) => self.ask(order, move |client| async move { stage::set_timers(&client, &change).await })?,
        }
        Ok(())
    }

    fn ask<A>(&self, order: &Order, what: impl FnOnce(Client) -> A) -> anyhow::Result<()>
    where
        A: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.aside(order.mark, what(self.stage.client(order.member)?.clone()));
        Ok(())
    }

    fn aside(&self, mark: usize, what: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let failures = self.failures.0.clone();
        tokio::spawn(async move {
            if let Err(error) = what.await {
                // the repetition may be over
                let _told = failures.send(Failure { mark, why: format!("{error:#}") });
            }
        });
    }

    /// Everything heals; whether all members then came to hold the same. `meanwhile` is called again and again.
    async fn settle(&mut self, meanwhile: &mut impl FnMut(&mut Self)) -> anyhow::Result<bool> {
        for id in self.stage.down() {
            self.stage.start(id)?;
            self.greet(id).await?;
        }
        for id in self.stage.members() {
            self.stage.signal(id, Signal::SIGCONT)?;
        }
        for id in self.stage.members() {
            stage::clear_faults(self.stage.client(id)?).await.with_context(|| format!("m{id} keeps its faults"))?;
        }
        let mut ticks = tokio::time::interval(LOOK_PAUSE);
        let agreeing = async {
            let mut goal = None;
            loop {
                ticks.tick().await;
                meanwhile(self);
                let statuses = futures::future::join_all(self.stage.members().map(|id| self.stage.status(id))).await;
                let statuses: Vec<Value> = statuses.into_iter().flatten().collect();
                if statuses.len() as u64 == self.experiment.members && agree(&statuses, &mut goal) {
                    // what they told of it is on its way
                    if self.tell_of_one_leader() {
                        return;
                    }
                }
            }
        };
        Ok(tokio::time::timeout(SETTLING_PATIENCE, agreeing).await.is_ok())
    }

    /// What members have told says that one of them leads and all others follow.
    fn tell_of_one_leader(&mut self) -> bool {
        let leaders = self.standings.values().filter(|standing| standing.role == "leader").count();
        let followers = self.standings.values().filter(|standing| standing.role == "follower").count();
        leaders == 1 && (leaders + followers) as u64 == self.experiment.members
    }

    /// The names of the objects of a repetition, from whichever master answers first: one may still wait for an answer that was lost on the
    /// way to it.
    async fn objects(&self, label: &str) -> anyhow::Result<BTreeSet<String>> {
        let path = format!("{OBJECTS}?labelSelector=lab%3D{label}");
        let clients = self.stage.members().map(|id| self.stage.new_client(id, GREETING_PATIENCE));
        let clients: Vec<Client> = clients.collect::<anyhow::Result<_>>()?;
        let asking = clients.iter().map(|client| Box::pin(client.get::<Value>(&path)));
        let (list, _) = futures::future::select_ok(asking).await.context("cannot list what was written")?;
        let items = list["items"].as_array().into_iter().flatten();
        Ok(items.filter_map(|item| item.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned)).collect())
    }
}

/// Whether all members know the same leader, and have applied what it had committed when they first did.
fn agree(statuses: &[Value], goal: &mut Option<u64>) -> bool {
    let Some(leader) = statuses.first().and_then(|status| status["leader"].as_u64()) else { return false };
    if statuses.iter().any(|status| status["leader"].as_u64() != Some(leader)) {
        *goal = None;
        return false;
    }
    let committed = statuses.iter().filter_map(|status| status["committed"].as_u64()).max();
    let goal = *goal.get_or_insert(committed.unwrap_or(0));
    statuses.iter().all(|status| status["applied"].as_u64().is_some_and(|applied| applied >= goal))
}

/// Gives a master the experiment's timers as soon as it answers.
async fn greet(client: Client, timers: TimersChange) -> anyhow::Result<()> {
    let change = TimersChange { for_ms: FOR_MS_MAX, ..timers };
    let greeting = async {
        loop {
            let answer = match timers == TimersChange::default() {
                true => client.get::<Value>("/raft/v1/status").await.map(drop).map_err(anyhow::Error::from),
                false => stage::set_timers(&client, &change).await,
            };
            match answer {
                Ok(()) => return,
                Err(_not_yet) => tokio::time::sleep(GREETING_PAUSE).await,
            }
        }
    };
    tokio::time::timeout(GREETING_PATIENCE, greeting).await.context("does not answer")
}

fn summary(run: &Run) -> String {
    let acknowledged = run.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged).count();
    let settled =
        run.settled_ms.map_or_else(|| "did not settle".to_owned(), |ms| format!("settled {} ms after the end", ms - run.ended_ms));
    format!("{acknowledged} of {} writes acknowledged, {settled}", run.writes.len())
}
