//! What goes wrong, when, and for how long.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use trierarch_raft::{Member as Membership, MemberRole, NodeId, StoreError};

use crate::backups::Taking;
use crate::clients::Clients;
use crate::dice::Dice;
use crate::disk::{Fullness, Stop};
use crate::event::{Answer, Event, Question};
use crate::network::{Weather, address_of};
use crate::world::World;

/// Changes of members that are being asked for wait so long.
const ADMINISTRATION_PATIENCE: Duration = Duration::from_secs(5);
/// With volatile writes, a member has so long to catch up after a power cut before the next one.
const POWER_PAUSE_MS: u64 = 1_000_000;
/// The disks of members are asked for their condition so often.
const CONDITION_PAUSE_MS: u64 = 500;
/// A group is not made larger or smaller than this.
const MEMBERS: std::ops::RangeInclusive<usize> = 2..=5;

/// The faults of a run.
pub struct Faults {
    dice: Dice,
    next_ms: u64,
    /// What ends when.
    ends: Vec<(u64, End)>,
    administration: Option<Administration>,
    next_member: NodeId,
    next_question: u64,
    /// When a power cut may happen to a run with volatile writes again.
    power_again_ms: u64,
    backup: Option<Taking>,
    /// Members that wait for a new start of their process.
    restarting: BTreeSet<NodeId>,
    /// Members whose disk is or was full, and when they are asked for their condition next.
    full: BTreeSet<NodeId>,
    condition_ms: u64,
}

enum End {
    Unblock(Vec<(NodeId, NodeId)>),
    Start(NodeId),
    Restart(NodeId),
    FastDisk(NodeId),
    RoomOnDisk(NodeId),
    UsualWeather,
}

struct Administration {
    question: u64,
    removes: Option<NodeId>,
    answer: Arc<Mutex<Option<Answer>>>,
    token: Arc<()>,
}

impl Faults {
    /// The faults of a run with members up to `last_member`.
    pub fn new(dice: Dice, last_member: NodeId, now_ms: u64) -> Self {
        Self {
            dice,
            next_ms: now_ms,
            ends: Vec::new(),
            administration: None,
            next_member: last_member + 1,
            next_question: 1 << 32,
            power_again_ms: 0,
            backup: None,
            restarting: BTreeSet::new(),
            full: BTreeSet::new(),
            condition_ms: 0,
        }
    }

    /// Begins and ends faults.
    ///
    /// # Errors
    /// A member does not start any more, or a backup is of no use.
    pub fn step(&mut self, world: &mut World, clients: &mut Clients) -> anyhow::Result<()> {
        let now_ms = world.now_ms();
        self.take_administration(world)?;
        self.take_backup(world, clients)?;
        self.ask_for_conditions(world);
        self.notice_stopped(world);
        let (over, ends) = std::mem::take(&mut self.ends).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        self.ends = ends;
        for (_, end) in over {
            self.end(world, end)?;
        }
        if now_ms >= self.next_ms {
            self.next_ms = now_ms + self.dice.between(20, world.plan.fault_pause_max_ms);
            self.begin(world)?;
        }
        Ok(())
    }

    /// Ends everything at once.
    ///
    /// # Errors
    /// A member does not start any more.
    pub fn heal(&mut self, world: &mut World) -> anyhow::Result<()> {
        world.note("healed");
        self.ends.clear();
        self.restarting.clear();
        for id in std::mem::take(&mut self.full) {
            world.recorder.record(Event::DiskHasRoom { member: id });
        }
        world.network.unblock_all();
        world.network.set_weather(Weather { lost: 0, duplicated: 0, overtaken: 0, ..Weather::usual(&world.plan) });
        for member in world.members.values() {
            member.machine().disk().heal(world.plan.sync_max_ms);
        }
        for id in world.down() {
            start(world, id)?;
        }
        Ok(())
    }

    /// Takes the answer to the last change of members.
    ///
    /// # Errors
    /// Of the file system below.
    pub fn take_administration(&mut self, world: &mut World) -> anyhow::Result<()> {
        let Some(administration) = &self.administration else { return Ok(()) };
        let answer = administration.answer.lock().take();
        let answer = match answer {
            Some(answer) => answer,
            None if Arc::strong_count(&administration.token) == 1 => Answer::Unknown,
            None => return Ok(()),
        };
        world.answered(administration.question, &answer);
        let removes = administration.removes;
        self.administration = None;
        match removes {
            Some(id) if answer == Answer::Done => world.take_away(id),
            _ => Ok(()),
        }
    }

    /// Checks the backup that was taken last.
    ///
    /// # Errors
    /// It is of no use.
    pub fn take_backup(&mut self, world: &World, clients: &mut Clients) -> anyhow::Result<()> {
        match self.backup.take_if(|taking| taking.is_over()) {
            Some(taking) => taking.check(world, clients.plain_write("group/kind/ns1/restored")),
            None => Ok(()),
        }
    }

    /// Whether something is under way that was begun here.
    pub fn is_busy(&self) -> bool {
        self.backup.is_some() || self.administration.is_some()
    }

    fn ask_for_conditions(&mut self, world: &World) {
        if self.condition_ms > world.now_ms() {
            return;
        }
        self.condition_ms = world.now_ms() + CONDITION_PAUSE_MS;
        for member in self.full.iter().filter_map(|id| world.members.get(id)) {
            if let Some(store) = member.store() {
                let read_only = store.status().read_only.map(|reason| world.placeless(&reason));
                world.recorder.record(Event::Condition { member: member.id(), read_only });
            }
        }
    }

    /// Whoever started the process of a member that has stopped for good starts it again, after a while.
    fn notice_stopped(&mut self, world: &World) {
        for id in world.members.values().filter(|member| member.wants_restart()).map(|member| member.id()) {
            if self.restarting.insert(id) {
                self.later(world, 200, 1_500, End::Restart(id));
            }
        }
    }

    fn later(&mut self, world: &World, low_ms: u64, high_ms: u64, end: End) {
        self.ends.push((world.now_ms() + self.dice.between(low_ms, high_ms), end));
    }

    fn end(&mut self, world: &mut World, end: End) -> anyhow::Result<()> {
        match end {
            End::Unblock(ways) => {
                world.note(format!("unblocked {ways:?}"));
                ways.into_iter().for_each(|(from, to)| world.network.unblock(from, to));
            }
            End::Start(id) => start(world, id)?,
            End::Restart(id) => {
                self.restarting.remove(&id);
                self.stop(world, id, Stop::Kill, true)?;
                start(world, id)?;
            }
            End::FastDisk(id) => {
                if let Some(member) = world.members.get(&id) {
                    world.note(format!("the disk of {id} is fast again"));
                    member.machine().disk().set_sync_max_ms(world.plan.sync_max_ms);
                }
            }
            End::RoomOnDisk(id) => {
                if let Some(member) = world.members.get(&id) {
                    member.machine().disk().set_fullness(Fullness::Room);
                    world.recorder.record(Event::DiskHasRoom { member: id });
                }
            }
            End::UsualWeather => {
                world.note("usual weather");
                world.network.set_weather(Weather::usual(&world.plan));
            }
        }
        Ok(())
    }

    fn begin(&mut self, world: &mut World) -> anyhow::Result<()> {
        let everybody: Vec<NodeId> = world.members.keys().copied().collect();
        let up = world.up();
        let someone = self.dice.pick(&up);
        let leader = world.leader().or(someone);
        if world.plan.volatile && !world.plan.careful && self.dice.chance(150) {
            return self.crash_many(world, &up);
        }
        match self.dice.between(0, 119) {
            0..12 => self.split(world, &everybody),
            12..20 => {
                if let (Some(from), Some(to)) = (self.dice.pick(&everybody), self.dice.pick(&everybody)) {
                    self.block(world, vec![(from, to)]);
                }
            }
            20..30 => self.isolate(world, leader, &everybody),
            30..40 => self.crash(world, someone)?,
            40..48 => self.crash(world, leader)?,
            48..54 => self.crash_many(world, &up)?,
            54..62 => {
                if let Some(id) = someone {
                    let sync_max_ms = self.dice.between(50, 900);
                    world.note(format!("the disk of {id} takes up to {sync_max_ms} ms"));
                    if let Some(member) = world.members.get(&id) {
                        member.machine().disk().set_sync_max_ms(sync_max_ms);
                    }
                    self.later(world, 300, 3_000, End::FastDisk(id));
                }
            }
            62..67 => {
                if let Some(id) = someone {
                    world.note(format!("the disk of {id} fails"));
                    if let Some(member) = world.members.get(&id) {
                        member.machine().disk().fail_once();
                    }
                }
            }
            67..73 => {
                if let Some(member) = someone.and_then(|id| world.members.get(&id)) {
                    let by_ms = i64::try_from(self.dice.between(1, 7_200_000)).unwrap_or(0) - 3_600_000;
                    member.machine().jump_ms(by_ms);
                    world.note(format!("the clock of {} jumped by {by_ms} ms", member.id()));
                }
            }
            73..83 => self.storm(world),
            83..95 => self.change_members(world)?,
            95..100 => self.transfer(world),
            100..108 => self.restart_orderly(world, someone)?,
            108..114 => self.fill_disk(world, someone),
            _ => self.back_up(world, someone),
        }
        Ok(())
    }

    fn block(&mut self, world: &World, ways: Vec<(NodeId, NodeId)>) {
        let ways: Vec<_> = ways.into_iter().filter(|(from, to)| from != to).collect();
        world.note(format!("blocked {ways:?}"));
        ways.iter().for_each(|(from, to)| world.network.block(*from, *to));
        self.later(world, 100, 4_000, End::Unblock(ways));
    }

    fn split(&mut self, world: &World, everybody: &[NodeId]) {
        let sides: Vec<bool> = everybody.iter().map(|_| self.dice.chance(500)).collect();
        let sided: Vec<(NodeId, bool)> = everybody.iter().copied().zip(sides).collect();
        let ways = sided.iter().flat_map(|(from, side)| sided.iter().filter(move |(_, other)| side != other).map(|(to, _)| (*from, *to)));
        self.block(world, ways.collect());
    }

    fn isolate(&mut self, world: &World, member: Option<NodeId>, everybody: &[NodeId]) {
        let Some(member) = member else { return };
        let direction = self.dice.between(0, 2);
        let ways = everybody.iter().flat_map(|other| {
            let (out, back) = ((member, *other), (*other, member));
            match direction {
                0 => vec![out, back],
                1 => vec![out],
                _ => vec![back],
            }
        });
        self.block(world, ways.collect());
    }

    fn roll_stop(&mut self, world: &World) -> Stop {
        // whoever lost its power is in doubt until it has caught up, and counts among the minority that volatile writes survive
        if world.plan.careful_with_power() && world.now_ms() < self.power_again_ms {
            return Stop::Kill;
        }
        self.power_again_ms = world.now_ms() + POWER_PAUSE_MS;
        match self.dice.between(0, 2) {
            0 => Stop::Kill,
            1 => Stop::PowerCut,
            _ => Stop::TornPowerCut,
        }
    }

    fn crash(&mut self, world: &mut World, member: Option<NodeId>) -> anyhow::Result<()> {
        let Some(id) = member else { return Ok(()) };
        let stop = self.roll_stop(world);
        // a process that dies leaves a kernel behind, which usually gets through
        let noticed = self.dice.chance(if stop == Stop::Kill { 800 } else { 300 });
        self.stop(world, id, stop, noticed)?;
        self.later(world, 20, 3_000, End::Start(id));
        Ok(())
    }

    /// The power fails for several at once.
    fn crash_many(&mut self, world: &mut World, up: &[NodeId]) -> anyhow::Result<()> {
        let (all, torn) = (self.dice.chance(500), self.dice.chance(500));
        let stop = if torn { Stop::TornPowerCut } else { Stop::PowerCut };
        let stop = if world.plan.careful_with_power() { Stop::Kill } else { stop };
        for id in up {
            if all || self.dice.chance(500) {
                self.stop(world, *id, stop, false)?;
                self.later(world, 20, 2_000, End::Start(*id));
            }
        }
        Ok(())
    }

    /// A member is restarted as operators do it, or all of them one after the other; with their machines, perhaps.
    fn restart_orderly(&mut self, world: &mut World, member: Option<NodeId>) -> anyhow::Result<()> {
        let (all, reboot) = (self.dice.chance(200), self.dice.chance(500));
        let ids: Vec<NodeId> = if all { world.up() } else { member.into_iter().collect() };
        for id in ids {
            if let Some(member) = world.members.get_mut(&id) {
                member.close(reboot)?;
            }
            self.later(world, 20, 2_000, End::Start(id));
        }
        Ok(())
    }

    fn fill_disk(&mut self, world: &World, member: Option<NodeId>) {
        let Some(member) = member.and_then(|id| world.members.get(&id)) else { return };
        let fullness = if self.dice.chance(400) { Fullness::Full } else { Fullness::Nearly };
        member.machine().disk().set_fullness(fullness);
        world.recorder.record(Event::DiskFull { member: member.id() });
        self.full.insert(member.id());
        self.later(world, 500, 5_000, End::RoomOnDisk(member.id()));
    }

    fn back_up(&mut self, world: &World, member: Option<NodeId>) {
        if let (None, Some(member)) = (&self.backup, member) {
            self.next_question += 1;
            let path = world.root().join(format!("backup-{}", self.next_question));
            self.backup = Taking::begin(world, member, self.next_question, path);
        }
    }

    #[expect(clippy::unused_self, reason = "beside its siblings")]
    fn stop(&mut self, world: &mut World, id: NodeId, stop: Stop, noticed: bool) -> anyhow::Result<()> {
        match world.members.get_mut(&id) {
            Some(member) => member.stop(stop, noticed),
            None => Ok(()),
        }
    }

    fn storm(&mut self, world: &World) {
        let mut rate = |high| if self.dice.chance(600) { self.dice.between(0, high) } else { 0 };
        let weather = Weather { lost: rate(300), duplicated: rate(300), overtaken: rate(500), delay_max_ms: 1 + rate(150) };
        world.note(format!("{weather:?}"));
        world.network.set_weather(weather);
        self.later(world, 200, 3_000, End::UsualWeather);
    }

    fn change_members(&mut self, world: &mut World) -> anyhow::Result<()> {
        if self.administration.is_some() {
            return Ok(());
        }
        let known =
            world.leader().and_then(|id| world.members.get(&id)).and_then(|member| member.store()).map(|store| store.status().members);
        let Some(known) = known else { return Ok(()) };
        let adds = known.len() < *MEMBERS.end() && (self.dice.chance(500) || known.len() <= *MEMBERS.start());
        if adds {
            let id = self.next_member;
            self.next_member += 1;
            world.add(id)?;
            let member = Membership { id, peer_address: address_of(id), api_address: String::new(), role: MemberRole::Voter };
            self.administer(world, format!("add member {id}"), None, move |store: trierarch_raft::Store| async move {
                store.add_member(member, ADMINISTRATION_PATIENCE).await
            });
        } else if known.len() > *MEMBERS.start()
            && let Some(id) = self.dice.pick(&known).map(|member| member.id)
        {
            let remove = move |store: trierarch_raft::Store| async move { store.remove_member(id, ADMINISTRATION_PATIENCE).await };
            self.administer(world, format!("remove member {id}"), Some(id), remove);
        }
        Ok(())
    }

    fn transfer(&mut self, world: &World) {
        if self.administration.is_none() {
            let to = self.dice.pick(&world.up()).filter(|_| self.dice.chance(500));
            let transfer = move |store: trierarch_raft::Store| async move { store.transfer_leadership(to).await };
            self.administer(world, format!("transfer leadership to {to:?}"), None, transfer);
        }
    }

    fn administer<F, A>(&mut self, world: &World, what: String, removes: Option<NodeId>, ask: F)
    where
        F: FnOnce(trierarch_raft::Store) -> A,
        A: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let Some(member) = self.dice.pick(&world.up()).and_then(|id| world.members.get(&id)) else { return };
        let Some(store) = member.store().cloned() else { return };
        self.next_question += 1;
        let question = self.next_question;
        world.recorder.record(Event::Asked { question, member: member.id(), what: Question::Administer(what) });
        let (answer, token) = (Arc::new(Mutex::new(None)), Arc::new(()));
        let (slot, task_token) = (Arc::clone(&answer), Arc::clone(&token));
        let asking = ask(store);
        member.spawn(async move {
            let _token = task_token;
            let answered = match asking.await {
                Ok(()) => Answer::Done,
                Err(StoreError::Unavailable(reason)) => Answer::Unavailable(reason),
                Err(_) => Answer::Unknown,
            };
            *slot.lock() = Some(answered);
        });
        self.administration = Some(Administration { question, removes, answer, token });
    }
}

fn start(world: &mut World, id: NodeId) -> anyhow::Result<()> {
    match world.members.get_mut(&id) {
        Some(member) if member.store().is_none() => member.start(),
        _ => Ok(()),
    }
}
