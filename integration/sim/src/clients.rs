//! Clients: each asks one thing after the other, at any member, and sometimes repeats itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use trierarch_raft::{Cause, Committed, Durability, Guard, NodeId, Op, Revision, Store, StoreError, Term, Txn, TxnId};

use crate::dice::Dice;
use crate::event::{Answer, Condition, Event, Question, Write, digest_of_state, digest_of_view};
use crate::plan::Plan;
use crate::world::World;

/// How long a client waits for an answer.
const PATIENCE_MS: (u64, u64) = (200, 4_000);

/// What clients share: the numbers of their questions, and what they know.
pub struct Clients {
    dice: Dice,
    clients: Vec<Client>,
    next_question: u64,
    next_value: u64,
    /// The revisions of keys that some client has seen last.
    seen: BTreeMap<Bytes, Revision>,
    /// Leader-only components that may be late: in which term they started.
    terms: Vec<Term>,
    /// A write whose outcome is unknown, to be repeated.
    unclear: Vec<Write>,
}

struct Client {
    waiting: Option<Waiting>,
    /// It asks again at this time.
    next_ms: u64,
}

/// A question on its way.
pub struct Waiting {
    /// Its number.
    pub question: u64,
    what: Question,
    answer: Arc<Mutex<Option<Answer>>>,
    token: Arc<()>,
}

impl Waiting {
    /// The answer, once it is there or never will be.
    pub fn poll(&self) -> Option<Answer> {
        if let Some(answer) = self.answer.lock().take() {
            return Some(answer);
        }
        // the task went away with its member
        (Arc::strong_count(&self.token) == 1).then_some(Answer::Unknown)
    }
}

/// Asks a member something.
pub fn ask(world: &World, member: NodeId, question: u64, what: Question, patience: Duration) -> Option<Waiting> {
    let running = world.members.get(&member)?;
    let store = running.store()?.clone();
    world.recorder.record(Event::Asked { question, member, what: what.clone() });
    let (answer, token) = (Arc::new(Mutex::new(None)), Arc::new(()));
    let (slot, task_token, asked) = (Arc::clone(&answer), Arc::clone(&token), what.clone());
    running.spawn(async move {
        let _token = task_token;
        let answered = answer_of(&store, asked, patience).await;
        *slot.lock() = Some(answered);
    });
    Some(Waiting { question, what, answer, token })
}

async fn answer_of(store: &Store, what: Question, patience: Duration) -> Answer {
    match what {
        Question::Write(write) => match store.txn_with(txn(&write), durability(&write), patience).await {
            Ok(Committed::At(revision)) => Answer::Written(revision),
            Ok(Committed::Refused(refusal)) => Answer::Refused(refusal.actual),
            // clients are told 503: it has no effect and never will
            Err(StoreError::Unavailable(reason) | StoreError::ReadOnly(reason)) => Answer::Unavailable(reason),
            Err(_) => Answer::Unknown,
        },
        Question::LinearizableRead => match store.linearizable_view(patience).await {
            Ok(view) => Answer::Read { revision: view.revision(), digest: digest_of_view(&view) },
            Err(_) => Answer::Unknown,
        },
        Question::LocalRead => {
            let view = store.view();
            Answer::Read { revision: view.revision(), digest: digest_of_view(&view) }
        }
        Question::PastRead { back } => {
            let revision = store.view().revision().saturating_sub(back);
            match store.range_at(b"", revision).await {
                Ok(records) => {
                    let digest = digest_of_state(records.iter().map(|record| (&record.key[..], record.revision, &record.value[..])));
                    Answer::Read { revision, digest }
                }
                Err(_) => Answer::Unknown,
            }
        }
        Question::Backup | Question::Administer(_) => Answer::Unknown,
    }
}

fn durability(write: &Write) -> Durability {
    if write.volatile { Durability::Memory } else { Durability::Disk }
}

/// The transaction of a write.
pub fn txn(write: &Write) -> Txn {
    let first = write.changes.first().map(|(key, _)| key.clone()).unwrap_or_default();
    let guards = match write.condition {
        Condition::None => Vec::new(),
        Condition::Revision(revision) => vec![Guard::Revision { key: first, revision }],
        Condition::Absent => vec![Guard::Absent { key: first }],
        Condition::Term(term) => vec![Guard::Term(term)],
    };
    let op = |(key, value): &(Bytes, Option<Bytes>)| match value {
        Some(value) => Op::Put { key: key.clone(), value: value.clone(), split: 0, terms: Vec::new() },
        None => Op::Delete { key: key.clone() },
    };
    Txn { id: write.id, guards, ops: write.changes.iter().map(op).collect(), cause: Cause::default() }
}

impl Clients {
    /// The clients of a run.
    pub fn new(mut dice: Dice, count: u64) -> Self {
        let clients = (0..count).map(|_| Client { waiting: None, next_ms: dice.between(0, 100) }).collect();
        Self { dice, clients, next_question: 0, next_value: 0, seen: BTreeMap::new(), terms: Vec::new(), unclear: Vec::new() }
    }

    /// The number of the next question.
    pub fn number(&mut self) -> u64 {
        self.next_question += 1;
        self.next_question
    }

    /// A write of one new value without conditions.
    pub fn plain_write(&mut self, key: &str) -> Write {
        let value = self.value();
        Write { id: self.id(), changes: vec![(Bytes::from(key.to_owned()), Some(value))], condition: Condition::None, volatile: false }
    }

    /// Whether a question is on its way.
    pub fn any_waiting(&self) -> bool {
        self.clients.iter().any(|client| client.waiting.is_some())
    }

    /// Takes answers, and asks anew if `asking`.
    pub fn step(&mut self, world: &World, asking: bool) {
        let now_ms = world.now_ms();
        for index in 0..self.clients.len() {
            let answer = self.clients.get(index).and_then(|client| client.waiting.as_ref()).and_then(Waiting::poll);
            if let Some(answer) = answer
                && let Some(waiting) = self.clients.get_mut(index).and_then(|client| client.waiting.take())
            {
                world.answered(waiting.question, &answer);
                self.learn(&waiting.what, &answer);
                let next_ms = now_ms + self.dice.between(0, world.plan.think_max_ms);
                if let Some(client) = self.clients.get_mut(index) {
                    client.next_ms = next_ms;
                }
            }
            let ready = self.clients.get(index).is_some_and(|client| client.waiting.is_none() && client.next_ms <= now_ms);
            if asking && ready {
                let waiting = self.ask(world);
                let next_ms = now_ms + 20;
                if let Some(client) = self.clients.get_mut(index) {
                    client.waiting = waiting;
                    client.next_ms = next_ms;
                }
            }
        }
        self.note_terms(world);
    }

    fn ask(&mut self, world: &World) -> Option<Waiting> {
        let member = self.dice.pick(&world.up())?;
        let what = self.question(&world.plan);
        let patience = self.dice.millis(PATIENCE_MS.0, PATIENCE_MS.1);
        let question = self.number();
        ask(world, member, question, what, patience)
    }

    fn question(&mut self, plan: &Plan) -> Question {
        match self.dice.between(0, 99) {
            0..25 => Question::LinearizableRead,
            25..28 => Question::LocalRead,
            28..30 => Question::PastRead { back: self.dice.between(0, 30) },
            30..40 => match self.dice.pick(&self.unclear) {
                // as somebody does who got no answer
                Some(write) => Question::Write(write),
                None => Question::LinearizableRead,
            },
            40..50 => {
                let term = self.dice.pick(&self.terms);
                let mut write = self.write(plan);
                write.condition = term.map_or(Condition::None, Condition::Term);
                Question::Write(write)
            }
            50..70 => {
                let mut write = self.write(plan);
                let known = write.changes.first().and_then(|(key, _)| self.seen.get(key)).copied();
                write.condition = known.map_or(Condition::Absent, Condition::Revision);
                Question::Write(write)
            }
            _ => Question::Write(self.write(plan)),
        }
    }

    fn write(&mut self, plan: &Plan) -> Write {
        let count = if self.dice.chance(150) { 2 } else { 1 };
        let mut changes = BTreeMap::new();
        for _ in 0..count {
            let key = Bytes::from(format!("group/kind/ns{}/name", self.dice.between(1, plan.keys)));
            let value = (!self.dice.chance(150)).then(|| self.value());
            changes.insert(key, value);
        }
        let volatile = plan.volatile && self.dice.chance(plan.volatile_share);
        Write { id: self.id(), changes: changes.into_iter().collect(), condition: Condition::None, volatile }
    }

    fn id(&mut self) -> TxnId {
        TxnId((u128::from(self.dice.next()) << 64) | u128::from(self.dice.next()))
    }

    /// A value that no other write has.
    fn value(&mut self) -> Bytes {
        self.next_value += 1;
        Bytes::from(format!("v{}", self.next_value))
    }

    fn learn(&mut self, what: &Question, answer: &Answer) {
        let Question::Write(write) = what else { return };
        match answer {
            Answer::Written(revision) => {
                for (key, value) in &write.changes {
                    match value {
                        Some(_) => self.seen.insert(key.clone(), *revision),
                        None => self.seen.remove(key),
                    };
                }
            }
            Answer::Refused(actual) => {
                if let Some((key, _)) = write.changes.first() {
                    match actual {
                        Some(actual) => self.seen.insert(key.clone(), *actual),
                        None => self.seen.remove(key),
                    };
                }
            }
            Answer::Unknown => self.unclear.push(write.clone()),
            _ => {}
        }
        if self.unclear.len() > 5 {
            self.unclear.remove(0);
        }
    }

    fn note_terms(&mut self, world: &World) {
        let term = world
            .leader()
            .and_then(|id| world.members.get(&id))
            .and_then(|member| member.store())
            .map(|store| store.leadership().borrow().term);
        if let Some(term) = term
            && self.terms.last() != Some(&term)
        {
            self.terms.push(term);
            if self.terms.len() > 3 {
                self.terms.remove(0);
            }
        }
    }
}
