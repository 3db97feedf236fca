//! What is due now: the timeline, step by step, from the time and what members told. Whoever carries an experiment out asks again and again,
//! does what it is told, and need not know the file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trierarch_raft::NodeId;
use trierarch_raft::experiment::{Direction, FOR_MS_MAX, Fault, FaultKind, TimersChange};
use trierarch_raft::happenings::Event;

use crate::experiment::{Experiment, FaultWish, Step, Trigger, Verb};
use crate::recording::{Mark, Sight, Standing};
use crate::target::{self, Known, Target};

/// Something to do to a member.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Kill its process.
    Kill,
    /// Start it again.
    Start,
    /// Stop its process where it is.
    Stop,
    /// Let it go on.
    Continue,
    /// Hand leadership over, to this member or to any.
    Transfer(Option<NodeId>),
    /// Begin an election.
    Campaign,
    /// Begin a fault.
    Fault(Fault),
    /// End its faults.
    Clear,
    /// Use other timers for a while.
    Timers(TimersChange),
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// To whom.
    pub member: NodeId,
    /// What.
    pub action: Action,
    /// The position of its mark in [`Director::marks`], for reporting what went wrong.
    pub mark: usize,
}

/// Where a timeline stands.
pub struct Director<'a> {
    experiment: &'a Experiment,
    members: BTreeSet<NodeId>,
    standings: BTreeMap<NodeId, Standing>,
    running: BTreeSet<NodeId>,
    next: usize,
    /// When the step before was done.
    done_ms: u64,
    /// When the next step's trigger was seen.
    triggered_ms: Option<u64>,
    names: BTreeMap<String, BTreeSet<NodeId>>,
    marks: Vec<Mark>,
}

impl<'a> Director<'a> {
    /// At the beginning of a repetition, when members stand like this and all run.
    pub fn new(experiment: &'a Experiment, standings: BTreeMap<NodeId, Standing>) -> Self {
        let members: BTreeSet<NodeId> = (1..=experiment.members).collect();
        let running = members.clone();
        Self { experiment, members, standings, running, next: 0, done_ms: 0, triggered_ms: None, names: BTreeMap::new(), marks: Vec::new() }
    }

    /// Takes notice of what a member told.
    pub fn see(&mut self, sight: &Sight) {
        self.standings.entry(sight.member).or_insert_with(Standing::unknown).see(sight.term, &sight.event);
        let trigger = self.experiment.timeline.get(self.next).and_then(|step| step.on);
        let triggers = match trigger {
            Some(Trigger::LeaderElected) => matches!(&sight.event, Event::Role { role } if role == "leader"),
            Some(Trigger::Candidacy) => matches!(&sight.event, Event::VoteAsked { pre_vote: false, .. }),
            Some(Trigger::HeartbeatMissed) => matches!(sight.event, Event::HeartbeatMissed { .. }),
            Some(Trigger::CaughtUp) | None => false,
        };
        if triggers && sight.at_ms >= self.done_ms {
            self.triggered_ms.get_or_insert(sight.at_ms);
        }
    }

    /// What is to be done at this time. Several steps may be due at once.
    pub fn step(&mut self, now_ms: u64) -> Vec<Order> {
        let mut orders = Vec::new();
        while let Some(step) = self.experiment.timeline.get(self.next).filter(|step| self.is_due(step, now_ms)) {
            // open as long as nobody leads
            let Some(found) = self.orders(step, now_ms) else { break };
            orders.extend(found);
            self.next += 1;
            (self.done_ms, self.triggered_ms) = (now_ms, None);
        }
        orders
    }

    fn is_due(&mut self, step: &Step, now_ms: u64) -> bool {
        let after_ms = step.after.unwrap_or_default().ms;
        match (step.at, step.on) {
            (Some(at), _) => now_ms >= at.ms,
            (None, Some(Trigger::CaughtUp)) => {
                if self.triggered_ms.is_none() && self.all_caught_up() {
                    self.triggered_ms = Some(now_ms);
                }
                self.triggered_ms.is_some_and(|seen| now_ms >= seen + after_ms)
            }
            (None, Some(_)) => self.triggered_ms.is_some_and(|seen| now_ms >= seen + after_ms),
            (None, None) => now_ms >= self.done_ms + after_ms,
        }
    }

    fn all_caught_up(&self) -> bool {
        let mut standings = self.running.iter().filter_map(|id| self.standings.get(id));
        let committed = self.standings.values().map(|standing| standing.committed).max().unwrap_or(0);
        standings.all(|standing| standing.committed + 50 >= committed && standing.role != "down")
    }

    /// Who leads: of those that run and think so, the one of the highest term.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |id: &&NodeId| self.standings.get(id).is_some_and(|standing| standing.role == "leader");
        self.running.iter().filter(leads).max_by_key(|id| self.standings.get(id).map(|standing| standing.term)).copied()
    }

    fn find(&self, target: &Target) -> Option<BTreeSet<NodeId>> {
        target.find(Known { leader: self.leader(), running: &self.running, members: &self.members, names: &self.names })
    }

    fn orders(&mut self, step: &Step, now_ms: u64) -> Option<Vec<Order>> {
        let members = match (&step.target, step.verb) {
            (Some(target), _) => self.find(target)?,
            (None, Verb::Transfer) => BTreeSet::from([self.leader()?]),
            (None, Verb::Heal) => self.members.clone(),
            (None, _) => BTreeSet::new(),
        };
        let to = match &step.to {
            Some(target) => self.find(target)?.first().copied(),
            None => None,
        };
        let lasting_ms = step.lasting.map_or_else(|| FOR_MS_MAX.min(self.experiment.duration.ms), |lasting| lasting.ms);
        let mut actions = Vec::new();
        for member in &members {
            match step.verb {
                Verb::Kill => actions.push((*member, Action::Kill)),
                Verb::Restart => actions.push((*member, Action::Start)),
                Verb::Stop => actions.push((*member, Action::Stop)),
                Verb::Continue => actions.push((*member, Action::Continue)),
                Verb::Transfer => actions.push((*member, Action::Transfer(to))),
                Verb::Campaign => actions.push((*member, Action::Campaign)),
                Verb::Clear | Verb::Heal => actions.push((*member, Action::Clear)),
                Verb::Timers => {
                    let change = TimersChange { for_ms: lasting_ms, ..step.timers.unwrap_or_default() };
                    actions.push((*member, Action::Timers(change)));
                }
                Verb::Fault => {
                    let wish = step.fault.as_ref()?;
                    for fault in self.faults(wish, lasting_ms)? {
                        actions.push((*member, Action::Fault(fault)));
                    }
                }
                Verb::Partition => {
                    for other in self.members.difference(&members) {
                        let fault = Fault { peer: Some(*other), ..Fault::new(FaultKind::Drop, Duration::from_millis(lasting_ms)) };
                        actions.push((*member, Action::Fault(fault)));
                    }
                }
                Verb::Mark => {}
            }
        }
        for (member, action) in &actions {
            self.note(*member, action);
        }
        if let Some(name) = &step.called {
            self.names.insert(name.clone(), members.clone());
        }
        let ends_by_itself = matches!(step.verb, Verb::Fault | Verb::Partition | Verb::Timers);
        self.marks.push(Mark {
            step: self.next,
            at_ms: now_ms,
            until_ms: ends_by_itself.then_some(now_ms + lasting_ms),
            verb: step.verb,
            text: describe(step, &members, to),
            members,
            problem: None,
        });
        let mark = self.marks.len() - 1;
        Some(actions.into_iter().map(|(member, action)| Order { member, action, mark }).collect())
    }

    /// Takes notice of what an action makes of a member.
    fn note(&mut self, member: NodeId, action: &Action) {
        match action {
            Action::Kill | Action::Stop => self.running.remove(&member),
            Action::Start | Action::Continue => self.running.insert(member),
            _ => return,
        };
        if let (Action::Kill, Some(standing)) = (action, self.standings.get_mut(&member)) {
            "down".clone_into(&mut standing.role);
        }
    }

    /// The fault, once for each peer that it names.
    fn faults(&self, wish: &FaultWish, for_ms: u64) -> Option<Vec<Fault>> {
        let fault = Fault {
            direction: wish.direction,
            probability: wish.probability,
            delay_ms: wish.delay_ms,
            jitter_ms: wish.jitter_ms,
            ..Fault::new(wish.kind, Duration::from_millis(for_ms))
        };
        let Some(peer) = &wish.peer else { return Some(vec![fault]) };
        Some(self.find(peer)?.into_iter().map(|peer| Fault { peer: Some(peer), ..fault.clone() }).collect())
    }

    /// Something that was ordered did not work.
    pub fn failed(&mut self, mark: usize, why: String) {
        if let Some(mark) = self.marks.get_mut(mark) {
            mark.problem = Some(why);
        }
    }

    /// Nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.next >= self.experiment.timeline.len()
    }

    /// How members stand.
    pub fn standings(&self) -> &BTreeMap<NodeId, Standing> {
        &self.standings
    }

    /// What was done, the names that were given, and the steps that were never due.
    pub fn finish(self) -> (Vec<Mark>, BTreeMap<String, BTreeSet<NodeId>>, Vec<usize>) {
        (self.marks, self.names, (self.next..self.experiment.timeline.len()).collect())
    }
}

/// A step in a few words, with the members that were meant.
fn describe(step: &Step, members: &BTreeSet<NodeId>, to: Option<NodeId>) -> String {
    let names: Vec<String> = members.iter().map(|member| target::name(*member)).collect();
    let who = names.join(", ");
    // one does, several do
    let (does, goes) = if names.len() == 1 { ("s", "es") } else { ("", "") };
    let lasting = step.lasting.map_or_else(String::new, |lasting| format!(" for {lasting}"));
    match step.verb {
        Verb::Kill => format!("{who} killed"),
        Verb::Restart => format!("{who} started again"),
        Verb::Stop => format!("{who} stopped"),
        Verb::Continue => format!("{who} go{goes} on"),
        Verb::Transfer => match to {
            Some(to) => format!("{who} hand{does} over to {}", target::name(to)),
            None => format!("{who} hand{does} over"),
        },
        Verb::Campaign => format!("{who} campaign{does}"),
        Verb::Clear => format!("faults of {who} end"),
        Verb::Partition => format!("{who} cut off{lasting}"),
        Verb::Heal => "everything heals".to_owned(),
        Verb::Timers => format!("other timers on {who}{lasting}"),
        Verb::Mark => step.name.clone().unwrap_or_default(),
        Verb::Fault => step.fault.as_ref().map_or_else(String::new, |fault| format!("{}{lasting}", describe_fault(fault, &who))),
    }
}

fn describe_fault(fault: &FaultWish, who: &str) -> String {
    let peer = fault.peer.as_ref().map_or_else(String::new, |peer| format!(" {}", peer.words().join(", ")));
    let often = fault.probability.filter(|probability| *probability < 1.0).map_or_else(String::new, |p| format!(" {:.0} % of", p * 100.0));
    let delay = fault.delay_ms.map_or_else(String::new, |ms| format!(" by {ms} ms"));
    let way = match fault.direction.unwrap_or(Direction::Both) {
        Direction::In => format!("what it gets from{}", if peer.is_empty() { " its peers" } else { &peer }),
        Direction::Out => format!("what it sends to{}", if peer.is_empty() { " its peers" } else { &peer }),
        Direction::Both => format!("all traffic with{}", if peer.is_empty() { " its peers" } else { &peer }),
    };
    match fault.kind {
        FaultKind::Drop => format!("{who}:{often} {way} is lost"),
        FaultKind::Delay => format!("{who}: {way} is late{delay}"),
        FaultKind::Duplicate => format!("{who}:{often} {way} arrives twice"),
        FaultKind::Reorder => format!("{who}:{often} {way} is overtaken"),
        FaultKind::Pause => format!("{who} pauses"),
        FaultKind::SlowSync => format!("{who}: every sync takes {} ms longer", fault.delay_ms.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(leader: NodeId) -> BTreeMap<NodeId, Standing> {
        let standing = |id| Standing { role: if id == leader { "leader" } else { "follower" }.to_owned(), term: 3, last: 9, committed: 9 };
        (1..=3).map(|id| (id, standing(id))).collect()
    }

    fn elected(member: NodeId, at_ms: u64) -> Sight {
        Sight { at_ms, member, term: 4, event: Event::Role { role: "leader".to_owned() } }
    }

    #[test]
    fn steps_are_due_at_times_and_after_events() {
        let text = "
title: t
members: 3
duration: 9s
timeline:
  - {at: 1s, do: kill, target: leader, as: victim}
  - {on: leader-elected, after: 500ms, do: restart, target: victim}
  - {after: 1s, do: transfer, to: victim}
";
        let experiment = Experiment::read(text).unwrap();
        let mut director = Director::new(&experiment, standings(2));
        assert_eq!(director.step(999), []);
        assert_eq!(director.step(1000), [Order { member: 2, action: Action::Kill, mark: 0 }]);
        assert_eq!(director.leader(), None);
        assert_eq!(director.step(1600), []);
        director.see(&elected(3, 1610));
        assert_eq!((director.leader(), director.step(2109)), (Some(3), vec![]));
        assert_eq!(director.step(2110), [Order { member: 2, action: Action::Start, mark: 1 }]);
        assert!(!director.is_done());
        assert_eq!(director.step(3110), [Order { member: 3, action: Action::Transfer(Some(2)), mark: 2 }]);
        assert!(director.is_done());
        let (marks, names, skipped) = director.finish();
        assert_eq!(
            marks.iter().map(|mark| mark.text.as_str()).collect::<Vec<_>>(),
            ["m2 killed", "m2 started again", "m3 hands over to m2"]
        );
        assert_eq!((names["victim"].clone(), skipped), (BTreeSet::from([2]), vec![]));
    }

    #[test]
    fn an_event_from_before_the_step_above_does_not_count() {
        let text = "
title: t
members: 3
duration: 9s
timeline:
  - {at: 1s, do: mark, name: one}
  - {on: leader-elected, do: mark, name: two}
";
        let experiment = Experiment::read(text).unwrap();
        let mut director = Director::new(&experiment, standings(1));
        director.see(&elected(1, 500));
        assert_eq!(director.step(1000), []);
        assert!(!director.is_done());
        assert_eq!(director.finish().2, [1]);
    }

    #[test]
    fn a_partition_cuts_every_way_out() {
        let text = "
title: t
members: 3
duration: 9s
timeline:
  - {at: 0ms, do: partition, target: leader, for: 2s}
  - {at: 0ms, do: fault, target: m3, fault: {kind: delay, delayMs: 80, direction: out, peer: followers}, for: 1s}
";
        let experiment = Experiment::read(text).unwrap();
        let mut director = Director::new(&experiment, standings(1));
        let orders = director.step(0);
        let faults: Vec<(NodeId, Option<NodeId>, FaultKind, u64)> = orders
            .iter()
            .filter_map(|order| match &order.action {
                Action::Fault(fault) => Some((order.member, fault.peer, fault.kind, fault.for_ms)),
                _ => None,
            })
            .collect();
        assert_eq!(
            faults,
            [
                (1, Some(2), FaultKind::Drop, 2000),
                (1, Some(3), FaultKind::Drop, 2000),
                (3, Some(2), FaultKind::Delay, 1000),
                (3, Some(3), FaultKind::Delay, 1000),
            ]
        );
    }
}
