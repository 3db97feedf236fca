//! Experiments of the election laboratory in the simulated world: the same file, the same recording, and a seed that repeats it to the last
//! bit. Each repetition has a world of its own.

use anyhow::{Context as _, bail};
use trierarch_lab::director::{Action, Director, Order};
use trierarch_lab::experiment::Experiment;
use trierarch_lab::recording::{Outcome, Recording, Run, Stage};
use trierarch_raft::experiment::{FOR_MS_MAX, TimersChange};
use trierarch_raft::{NodeId, Store};

use crate::dice::Dice;
use crate::disk::Stop;
use crate::entropy;
use crate::founding::Founding;
use crate::member::Member;
use crate::plan::Plan;
use crate::world::World;

mod listeners;
mod writers;

use listeners::Listeners;
use writers::Writers;

/// Founding takes so long at most, in simulated milliseconds.
const FOUNDING_MAX_MS: u64 = 60_000;
/// Who experiments, as members are told.
const BY: &str = "the laboratory";
/// So long after everything has healed, all members must hold the same.
const SETTLING_MAX_MS: u64 = 60_000;

/// Carries an experiment out; `tell` hears of each repetition. The first one of a process is the one that repeats (see [`entropy`]).
///
/// # Errors
/// A member does not open, or the group cannot be founded: with these timers it may never elect anybody.
pub fn carry_out(experiment: &Experiment, seed: u64, mut tell: impl FnMut(usize, &Run)) -> anyhow::Result<Recording> {
    entropy::seed_this_thread(seed);
    let mut dice = Dice::new(seed);
    let mut runs = Vec::new();
    for index in 0..experiment.repetitions {
        let mut stage = Lab::found(experiment, &mut dice).with_context(|| format!("repetition {}", index + 1))?;
        let run = stage.run()?;
        tell(runs.len(), &run);
        runs.push(run);
    }
    Ok(Recording { stage: Stage::Simulation { seed }, runs })
}

/// A world for one repetition.
struct Lab<'a> {
    experiment: &'a Experiment,
    // what uses the members' stores goes before they do
    writers: Writers,
    listeners: Listeners,
    world: World,
    /// When the repetition began.
    began_ms: u64,
}

/// An ordinary network and disk: what goes wrong, the file says.
fn plan(experiment: &Experiment, dice: &mut Dice) -> Plan {
    let usual = Plan::new(dice);
    Plan {
        members: experiment.members,
        snapshot_after_entries: experiment.snapshot_after_entries.unwrap_or(10_000),
        history_retention: std::time::Duration::from_secs(3600),
        delay_max_ms: 2,
        lost: 0,
        duplicated: 0,
        overtaken: 0,
        sync_max_ms: 3,
        ..usual
    }
}

impl<'a> Lab<'a> {
    fn found(experiment: &'a Experiment, dice: &mut Dice) -> anyhow::Result<Self> {
        let plan = plan(experiment, dice);
        let mut world = World::new(plan, dice.split())?;
        let mut founding = Founding::begin(&mut world)?;
        let writers = Writers::new(dice.split(), experiment.load, experiment.members);
        let mut lab = Self { experiment, world, writers, listeners: Listeners::default(), began_ms: 0 };
        lab.wait("founding", FOUNDING_MAX_MS, |lab| founding.advance(&lab.world))?;
        for id in lab.world.up() {
            lab.greet(id);
        }
        // members tell how they stand, and the group comes to rest with the timers that it shall have
        lab.wait("agreement", FOUNDING_MAX_MS, |lab| Ok(lab.agree() && lab.listeners.all_know()))?;
        Ok(lab)
    }

    fn now_ms(&self) -> u64 {
        self.world.now_ms() - self.began_ms
    }

    fn tick(&mut self) {
        self.world.tick();
        drop(self.world.recorder.take());
        let now_ms = self.now_ms();
        self.listeners.take(now_ms);
    }

    fn wait(&mut self, what: &str, max_ms: u64, mut reached: impl FnMut(&mut Self) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let end_ms = self.world.now_ms() + max_ms;
        while !reached(self)? {
            if self.world.now_ms() >= end_ms {
                bail!("{what} took more than {max_ms} ms");
            }
            self.tick();
        }
        Ok(())
    }

    /// Listens to a member that has just started, and gives it the experiment's timers.
    fn greet(&mut self, id: NodeId) {
        let Some(member) = self.world.members.get(&id) else { return };
        self.listeners.listen(member);
        if self.experiment.timers != TimersChange::default() {
            let change = TimersChange { for_ms: FOR_MS_MAX, ..self.experiment.timers };
            self.ask(id, move |store| async move { Ok(store.change_timers(change, BY).await.map(drop)?) });
        }
    }

    fn member(&mut self, id: NodeId) -> anyhow::Result<&mut Member> {
        self.world.members.get_mut(&id).context("there is no such member")
    }

    fn store(&self, id: NodeId) -> Option<Store> {
        self.world.members.get(&id)?.store().cloned()
    }

    /// Has a member do something, without waiting for it.
    fn ask<A>(&self, id: NodeId, what: impl FnOnce(Store) -> A)
    where
        A: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        if let (Some(member), Some(store)) = (self.world.members.get(&id), self.store(id)) {
            let asked = what(store);
            // what comes of it, the members tell
            member.spawn(async move { drop(asked.await) });
        }
    }

    fn run(&mut self) -> anyhow::Result<Run> {
        self.began_ms = self.world.now_ms();
        let mut director = Director::new(self.experiment, self.listeners.standings());
        let mut run = Run { start: self.listeners.standings(), ..Run::default() };
        drop(self.listeners.heard());
        while self.now_ms() < self.experiment.duration.ms {
            self.step(&mut director, &mut run, true)?;
        }
        run.ended_ms = self.now_ms();
        self.settle(&mut director, &mut run)?;
        (run.marks, run.names, run.skipped) = director.finish();
        Ok(run)
    }

    /// One tick, and what it brings.
    fn step(&mut self, director: &mut Director<'_>, run: &mut Run, acting: bool) -> anyhow::Result<()> {
        let now_ms = self.now_ms();
        for sight in self.listeners.heard() {
            director.see(&sight);
            run.sights.push(sight);
        }
        if acting {
            for order in director.step(now_ms) {
                if let Err(error) = self.obey(&order) {
                    director.failed(order.mark, format!("{error:#}"));
                }
            }
        }
        run.writes.extend(self.writers.step(&self.world, now_ms, acting));
        self.tick();
        Ok(())
    }

    fn obey(&mut self, order: &Order) -> anyhow::Result<()> {
        let id = order.member;
        match order.action.clone() {
            Action::Kill => {
                self.listeners.forget(id);
                self.member(id)?.stop(Stop::Kill, true)?;
            }
            Action::Start => {
                self.member(id)?.start()?;
                self.greet(id);
            }
            Action::Stop => self.member(id)?.freeze(),
            Action::Continue => self.member(id)?.thaw(),
            Action::Transfer(to) => self.ask(id, move |store| async move { Ok(store.transfer_leadership(to).await?) }),
            Action::Campaign => self.ask(id, |store| async move { Ok(store.campaign().await?) }),
            Action::Fault(fault) => self.ask(id, move |store| async move { Ok(store.begin_fault(fault, BY).await.map(drop)?) }),
            Action::Clear => drop(self.store(id).map(|store| store.end_faults(BY))),
            Action::Timers(change) => {
                self.ask(id, move |store| async move { Ok(store.change_timers(change, BY).await.map(drop)?) });
            }
        }
        Ok(())
    }

    /// Everything heals; then all members must come to hold the same, and what was acknowledged must be in it.
    fn settle(&mut self, director: &mut Director<'_>, run: &mut Run) -> anyhow::Result<()> {
        for id in 1..=self.experiment.members {
            let member = self.member(id)?;
            member.thaw();
            match member.store() {
                Some(store) => drop(store.end_faults(BY)),
                None => {
                    member.start()?;
                    self.greet(id);
                }
            }
        }
        let end_ms = self.world.now_ms() + SETTLING_MAX_MS;
        while self.writers.any_waiting() || !self.agree() {
            if self.world.now_ms() >= end_ms {
                return Ok(());
            }
            self.step(director, run, false)?;
        }
        run.settled_ms = Some(self.now_ms());
        let leader = self.world.leader().context("they agree on a leader")?;
        let view = self.store(leader).context("it runs")?.view();
        let is_there = |key: &str| view.get(key.as_bytes()).is_some();
        let keys = |outcome: Outcome| self.writers.keys().iter().filter(move |(_, of)| *of == outcome).map(|(key, _)| key);
        run.lost = keys(Outcome::Acknowledged).filter(|key| !is_there(key)).cloned().collect();
        run.resurrected = keys(Outcome::Refused).filter(|key| is_there(key)).cloned().collect();
        Ok(())
    }

    /// All members run with the experiment's timers, know the same leader, and have applied the same.
    fn agree(&self) -> bool {
        let timers = self.experiment.timers();
        let stores: Vec<&Store> = self.world.members.values().filter_map(Member::store).collect();
        if stores.len() < self.world.members.len() || stores.iter().any(|store| store.experiments().timers.timers != timers) {
            return false;
        }
        let mut known = stores.iter().map(|store| store.status()).map(|status| (status.leader, status.last_log, status.applied));
        let Some((leader, last, applied)) = known.next() else { return false };
        leader.is_some() && last == applied && self.world.leader() == leader && known.all(|other| other == (leader, last, applied))
    }
}
