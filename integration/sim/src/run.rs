//! The story of one seed: a group is founded, things go wrong while clients write, read and watch; then everything heals, and the group must
//! go on and agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::bail;
use parking_lot::Mutex;
use trierarch_raft::{MemberRole, NodeId};

use crate::clients::{self, Clients};
use crate::dice::Dice;
use crate::entropy;
use crate::event::{Answer, Question};
use crate::faults::Faults;
use crate::founding::Founding;
use crate::invariants::Invariants;
use crate::plan::Plan;
use crate::trace::{Recorder, Trace};
use crate::watchers::Watchers;
use crate::world::World;

/// Founding takes so long at most, in simulated milliseconds.
const FOUNDING_MAX_MS: u64 = 60_000;
/// Real time after which a run counts as stuck if its own time has stood still: it does while a member computes.
const STUCK_AFTER: Duration = Duration::from_secs(20);
const STUCK: &str = "a member is busy without end";
/// So long after everything has healed, the group must have gone on and agreed.
const RECOVERY_MAX_MS: u64 = 30_000;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The same only if all events are.
    pub digest: u64,
    /// How many events there were.
    pub events: u64,
    /// How long it took in the simulated world.
    pub simulated_ms: u64,
    /// Committed entries.
    pub entries: u64,
    /// Committed entries that a power cut has taken.
    pub lost: u64,
    /// What went wrong that must not, with the last events before it.
    pub failure: Option<String>,
}

impl Outcome {
    /// Of a run that cannot tell.
    fn failed(failure: String) -> Self {
        Self { digest: 0, events: 0, simulated_ms: 0, entries: 0, lost: 0, failure: Some(failure) }
    }
}

/// Runs a seed; some frames are kept in `record`. The first run of a process is the one that repeats (see [`entropy`]).
///
/// # Panics
/// The simulation itself does.
pub fn run(seed: u64, show: Option<fn(&str)>, record: Option<PathBuf>) -> Outcome {
    let (opened, opening) = mpsc::channel();
    let running = move || {
        entropy::seed_this_thread(seed);
        let mut story = match Story::new(seed, show) {
            Ok(story) => story,
            Err(error) => return Outcome::failed(format!("{error:#}")),
        };
        // who does not wait for it does not need it
        drop(opened.send(story.window()));
        if let Some(directory) = &record {
            story.world.network.record_into(directory);
        }
        let told = story.tell();
        let failure = told.err().map(|error| format!("{error:#}\nthe last events:\n{}", story.trace.last().join("\n")));
        let invariants = story.invariants.lock();
        Outcome {
            digest: story.trace.digest(),
            events: story.trace.count(),
            simulated_ms: story.world.now_ms(),
            entries: invariants.history().last_index().unwrap_or(0),
            lost: invariants.history().lost_entries(),
            failure,
        }
    };
    // a thread of its own: its hash maps begin with its own seed
    let (told, telling) = mpsc::channel();
    let thread = std::thread::spawn(move || drop(told.send(running())));
    let (mut window, mut seen_ms): (Option<Window>, _) = (None, None);
    loop {
        match telling.recv_timeout(STUCK_AFTER) {
            Ok(outcome) => return outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                window = window.or_else(|| opening.try_recv().ok());
                let now_ms = window.as_ref().map(|window| window.recorder.now_ms());
                if now_ms == seen_ms {
                    return Outcome::failed(window.map_or_else(|| STUCK.to_owned(), Window::close));
                }
                seen_ms = now_ms;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let panicked = thread.join().err().map_or_else(String::new, |panic| format!("{:?}", panic.downcast_ref::<String>()));
                return Outcome::failed(format!("panicked: {panicked}"));
            }
        }
    }
}

/// What others see of a run: what has happened, and what must hold.
struct Window {
    recorder: Recorder,
    invariants: Arc<Mutex<Invariants>>,
    directory: PathBuf,
}

impl Window {
    /// Why a run failed that is stuck for good: what happened since its own last look may say more than that. Removes its directory.
    fn close(self) -> String {
        let broken = self.recorder.take().into_iter().find_map(|(now_ms, event)| self.invariants.lock().see(now_ms, &event).err());
        let removed = fs::remove_dir_all(&self.directory).err().map_or_else(String::new, |error| format!("; its directory stays: {error}"));
        format!("{}{removed}", broken.unwrap_or_else(|| STUCK.into()))
    }
}

struct Story {
    // what uses the members' stores goes before they do: they would still be open when their directories are removed
    clients: Clients,
    watchers: Watchers,
    world: World,
    trace: Trace,
    invariants: Arc<Mutex<Invariants>>,
}

impl Story {
    fn new(seed: u64, show: Option<fn(&str)>) -> anyhow::Result<Self> {
        let mut dice = Dice::new(seed);
        let plan = Plan::new(&mut dice);
        let clients = Clients::new(dice.split(), plan.clients);
        let watchers = Watchers::new(dice.split(), plan.watches);
        let world = World::new(plan, dice)?;
        Ok(Self { world, clients, watchers, trace: Trace::new(show), invariants: Arc::default() })
    }

    fn window(&self) -> Window {
        let (recorder, invariants) = (self.world.recorder.clone(), Arc::clone(&self.invariants));
        Window { recorder, invariants, directory: self.world.root().to_owned() }
    }

    fn tell(&mut self) -> anyhow::Result<()> {
        self.found()?;
        let mut faults = Faults::new(self.world.dice.split(), self.world.plan.members, self.world.now_ms());
        let end_ms = self.world.now_ms() + u64::try_from(self.world.plan.turmoil.as_millis())?;
        while self.world.now_ms() < end_ms {
            faults.step(&mut self.world, &mut self.clients)?;
            self.step(self.world.plan.asks(self.world.now_ms()))?;
        }
        faults.heal(&mut self.world)?;
        self.recover(&mut faults)
    }

    /// One tick, and what it brings.
    fn step(&mut self, asking: bool) -> anyhow::Result<()> {
        self.clients.step(&self.world, asking);
        self.watchers.step(&self.world);
        self.world.tick();
        self.look()
    }

    fn look(&mut self) -> anyhow::Result<()> {
        for (now_ms, event) in self.world.recorder.take() {
            self.trace.add(now_ms, &event);
            self.invariants.lock().see(now_ms, &event).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// Waits until `reached` says so.
    fn wait(&mut self, what: &str, max_ms: u64, mut reached: impl FnMut(&mut Self) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let end_ms = self.world.now_ms() + max_ms;
        while !reached(self)? {
            if self.world.now_ms() >= end_ms {
                bail!("no progress: {what} took more than {max_ms} ms");
            }
            self.step(false)?;
        }
        Ok(())
    }

    fn found(&mut self) -> anyhow::Result<()> {
        self.world.note(format!("{:?}", self.world.plan));
        let mut founding = Founding::begin(&mut self.world)?;
        self.wait("founding", FOUNDING_MAX_MS, |story| founding.advance(&story.world))
    }

    /// The leader and all members of the group as it sees them, if all of them vote.
    fn voters(&self) -> Option<(NodeId, Vec<NodeId>)> {
        let leader = self.world.leader()?;
        let status = self.world.members.get(&leader)?.store()?.status();
        let all_vote = status.members.iter().all(|member| member.role == MemberRole::Voter);
        all_vote.then(|| (leader, status.members.iter().map(|member| member.id).collect()))
    }

    /// Demands that every member of the group takes a write, and that all end with the same state and all watches come to its end.
    fn recover(&mut self, faults: &mut Faults) -> anyhow::Result<()> {
        let end_ms = self.world.now_ms() + RECOVERY_MAX_MS;
        self.wait("the last questions", RECOVERY_MAX_MS, |story| {
            faults.take_administration(&mut story.world)?;
            faults.take_backup(&story.world, &mut story.clients)?;
            restart_stopped(&mut story.world)?;
            Ok(!story.clients.any_waiting() && !faults.is_busy())
        })?;
        // a removal whose outcome nobody was told may still be on its way: the group is looked at again and again
        let mut written = BTreeSet::new();
        loop {
            let group = self.await_group()?;
            let Some(id) = group.into_iter().find(|id| !written.contains(id)) else { break };
            let answer = self.write_last(id)?;
            if matches!(answer, Answer::Written(_)) {
                written.insert(id);
            } else if self.world.now_ms() >= end_ms {
                bail!("no progress: member {id} answered {answer:?} long after everything had healed");
            }
        }
        self.wait("agreement", RECOVERY_MAX_MS, |story| {
            restart_stopped(&mut story.world)?;
            let invariants = story.invariants.lock();
            let history = invariants.history();
            let last = history.last_index();
            let Some((_, group)) = story.voters() else { return Ok(false) };
            let agreed = group.iter().all(|id| history.shown(*id) == last);
            story.watchers.stay_with(group);
            Ok(agreed && story.watchers.slowest() == history.revision())
        })?;
        let group = self.await_group()?;
        self.invariants.lock().end(&group).map_err(anyhow::Error::msg)
    }

    /// Waits for a leader of a group of voters; returns them all.
    fn await_group(&mut self) -> anyhow::Result<Vec<NodeId>> {
        let mut group = Vec::new();
        self.wait("a leader with a group of voters", RECOVERY_MAX_MS, |story| {
            restart_stopped(&mut story.world)?;
            group = story.voters().map(|(_, voters)| voters).unwrap_or_default();
            Ok(!group.is_empty())
        })?;
        Ok(group)
    }
}

impl Story {
    /// Writes something through a member, and waits for the answer.
    fn write_last(&mut self, id: NodeId) -> anyhow::Result<Answer> {
        let (question, write) = (self.clients.number(), self.clients.plain_write("group/kind/ns1/last"));
        let patience = Duration::from_secs(5);
        // it may have been removed, or its process is being started again
        let Some(waiting) = clients::ask(&self.world, id, question, Question::Write(write), patience) else {
            self.step(false)?;
            return Ok(Answer::Unknown);
        };
        let mut answer = None;
        self.wait("an answer after everything has healed", RECOVERY_MAX_MS, |story| {
            restart_stopped(&mut story.world)?;
            answer = waiting.poll();
            Ok(answer.is_some())
        })?;
        let answer = answer.unwrap_or(Answer::Unknown);
        self.world.answered(question, &answer);
        self.step(false)?;
        Ok(answer)
    }
}

/// As whoever started a process does when it has ended.
fn restart_stopped(world: &mut World) -> anyhow::Result<()> {
    for member in world.members.values_mut().filter(|member| member.wants_restart()) {
        member.stop(crate::disk::Stop::Kill, true)?;
        member.start()?;
    }
    Ok(())
}
