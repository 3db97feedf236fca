//! The members, what connects them, and the time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use trierarch_raft::NodeId;

use crate::dice::Dice;
use crate::disk::{Disk, Stop};
use crate::event::{Answer, Event};
use crate::machine::Machine;
use crate::member::Member;
use crate::network::{Network, Weather};
use crate::plan::Plan;
use crate::trace::Recorder;

/// How far time goes at once, in milliseconds: members that run on their own meanwhile hear of each other afterwards.
pub const TICK_MS: u64 = 2;

/// The world of a run.
pub struct World {
    /// How it was planned.
    pub plan: Plan,
    /// What is random beside the parts that have dice of their own.
    pub dice: Dice,
    /// Where events go.
    pub recorder: Recorder,
    /// Between the members.
    pub network: Network,
    /// All members that there ever were, except removed ones.
    pub members: BTreeMap<NodeId, Member>,
    root: tempfile::TempDir,
}

impl World {
    /// A world without members, with their directories in memory where the system has such a place.
    ///
    /// # Errors
    /// No directory can be made.
    pub fn new(plan: Plan, mut dice: Dice) -> anyhow::Result<Self> {
        let in_memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("trierarch-sim-");
        let root = if in_memory.is_dir() { builder.tempdir_in(in_memory)? } else { builder.tempdir()? };
        let network = Network::new(dice.split(), Weather::usual(&plan));
        Ok(Self { plan, dice, recorder: Recorder::default(), network, members: BTreeMap::new(), root })
    }

    /// Adds a member that has nothing yet, and starts it.
    ///
    /// # Errors
    /// It does not open.
    pub fn add(&mut self, id: NodeId) -> anyhow::Result<()> {
        let disk = Arc::new(Disk::new(self.dice.split(), self.plan.sync_max_ms));
        let machine = Arc::new(Machine::new(id, self.network.clone(), disk, self.recorder.clone()));
        let mut member = Member::new(id, self.root.path(), machine, self.network.clone(), self.recorder.clone(), self.plan.clone());
        member.start()?;
        self.members.insert(id, member);
        Ok(())
    }

    /// Takes a member out of the world for good.
    ///
    /// # Errors
    /// Of the file system below.
    pub fn take_away(&mut self, id: NodeId) -> anyhow::Result<()> {
        match self.members.remove(&id) {
            Some(mut member) => member.stop(Stop::Kill, true),
            None => Ok(()),
        }
    }

    /// Where the run may put files.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// What a member says, without where the run has its files: that is not part of its story.
    pub fn placeless(&self, text: &str) -> String {
        text.replace(&*self.root().to_string_lossy(), "")
    }

    /// Records what was answered to a question.
    pub fn answered(&self, question: u64, answer: &Answer) {
        let answer = match answer {
            Answer::Unavailable(reason) => Answer::Unavailable(self.placeless(reason)),
            other => other.clone(),
        };
        self.recorder.record(Event::Answered { question, answer });
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.recorder.now_ms()
    }

    /// Lets a tick pass: frames arrive, then each member runs.
    pub fn tick(&mut self) {
        self.recorder.set_now_ms(self.now_ms() + TICK_MS);
        self.network.advance(self.now_ms());
        for member in self.members.values_mut() {
            member.run_for(Duration::from_millis(TICK_MS));
        }
    }

    /// The members that are up.
    pub fn up(&self) -> Vec<NodeId> {
        self.members.values().filter(|member| member.store().is_some()).map(Member::id).collect()
    }

    /// The members that are down.
    pub fn down(&self) -> Vec<NodeId> {
        self.members.values().filter(|member| member.store().is_none()).map(Member::id).collect()
    }

    /// The member that leads, as most recently elected.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |member: &Member| {
            let leadership = *member.store()?.leadership().borrow();
            leadership.established.then_some((leadership.term, member.id()))
        };
        self.members.values().filter_map(leads).max().map(|(_, id)| id)
    }

    /// Notes a change of the world.
    pub fn note(&self, what: impl Into<String>) {
        self.recorder.record(Event::World(what.into()));
    }
}
