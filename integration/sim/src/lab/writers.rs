//! Clients of an experiment: each writes one new key after the other at its rate, and goes to another member after an error, unless it shall
//! stay.

use std::time::Duration;

use bytes::Bytes;
use trierarch_lab::experiment::Load;
use trierarch_lab::recording::{Outcome, Write};
use trierarch_raft::{NodeId, TxnId};

use crate::clients::{self, Waiting};
use crate::dice::Dice;
use crate::event::{Answer, Condition, Question};
use crate::world::World;

/// After an error, as a client that means well pauses.
const ERROR_PAUSE_MS: u64 = 10;

/// All clients of a repetition.
pub(super) struct Writers {
    dice: Dice,
    load: Load,
    members: u64,
    writers: Vec<Writer>,
    questions: u64,
    keys: Vec<(String, Outcome)>,
}

struct Writer {
    id: u32,
    member: NodeId,
    next_ms: u64,
    written: u64,
    asked: Option<Asked>,
}

struct Asked {
    at_ms: u64,
    key: String,
    /// `None`: nobody was there to take it.
    waiting: Option<Waiting>,
}

impl Writers {
    /// The clients of a load, spread over the members.
    pub(super) fn new(mut dice: Dice, load: Load, members: u64) -> Self {
        let pause_ms = 1000 / u64::from(load.rate.max(1));
        let mut writer =
            |id: u32| Writer { id, member: u64::from(id) % members + 1, next_ms: dice.between(0, pause_ms), written: 0, asked: None };
        let writers = (0..load.clients).map(&mut writer).collect();
        Self { dice, load, members, writers, questions: 0, keys: Vec::new() }
    }

    /// Takes answers, and asks anew if `asking`.
    pub(super) fn step(&mut self, world: &World, now_ms: u64, asking: bool) -> Vec<Write> {
        let mut answered = Vec::new();
        for index in 0..self.writers.len() {
            answered.extend(self.take(index, now_ms));
            if asking {
                self.ask(index, world, now_ms);
            }
        }
        answered
    }

    fn take(&mut self, index: usize, now_ms: u64) -> Option<Write> {
        let writer = self.writers.get_mut(index)?;
        let asked = writer.asked.as_ref()?;
        let outcome = match asked.waiting.as_ref().map(Waiting::poll) {
            None => Outcome::Refused,
            Some(None) => return None,
            Some(Some(Answer::Written(_))) => Outcome::Acknowledged,
            Some(Some(Answer::Unavailable(_))) => Outcome::Refused,
            Some(Some(_)) => Outcome::Unknown,
        };
        let asked = writer.asked.take()?;
        let write = Write { client: writer.id, member: writer.member, asked_ms: asked.at_ms, answered_ms: now_ms, outcome };
        self.keys.push((asked.key, outcome));
        if outcome != Outcome::Acknowledged {
            writer.next_ms = writer.next_ms.max(now_ms + ERROR_PAUSE_MS);
            if !self.load.stay {
                writer.member = writer.member % self.members + 1;
            }
        }
        Some(write)
    }

    fn ask(&mut self, index: usize, world: &World, now_ms: u64) {
        let id = TxnId((u128::from(self.dice.next()) << 64) | u128::from(self.dice.next()));
        let Some(writer) = self.writers.get_mut(index).filter(|writer| writer.asked.is_none() && writer.next_ms <= now_ms) else { return };
        let key = format!("lab/writes/c{}/{}", writer.id, writer.written);
        let value = vec![b'x'; usize::try_from(self.load.size).unwrap_or(0)];
        let changes = vec![(Bytes::from(key.clone()), Some(Bytes::from(value)))];
        let question = Question::Write(crate::event::Write { id, changes, condition: Condition::None, volatile: false });
        self.questions += 1;
        let patience = Duration::from_millis(self.load.patience.ms);
        let waiting = clients::ask(world, writer.member, self.questions, question, patience);
        writer.written += 1;
        writer.next_ms = (writer.next_ms + 1000 / u64::from(self.load.rate.max(1))).max(now_ms);
        writer.asked = Some(Asked { at_ms: now_ms, key, waiting });
    }

    /// Whether somebody waits for an answer.
    pub(super) fn any_waiting(&self) -> bool {
        self.writers.iter().any(|writer| writer.asked.is_some())
    }

    /// What was written, and what became of it.
    pub(super) fn keys(&self) -> &[(String, Outcome)] {
        &self.keys
    }
}
