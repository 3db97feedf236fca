//! Clients of an experiment: each creates one object after the other through the API at its rate, and goes to another master after an error,
//! unless it shall stay.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trierarch_api::Reason;
use trierarch_client::{Client, Error, Request};
use trierarch_lab::experiment::Load;
use trierarch_lab::recording::{Outcome, Write};
use trierarch_raft::NodeId;

use super::Clock;

/// After an error, as a client that means well pauses.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Where they write.
pub const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";

/// A write, and the name of the object that it was about.
pub struct Written {
    /// The write.
    pub write: Write,
    /// The object.
    pub name: String,
}

/// Clients that write until they are told to stop.
pub struct Writers {
    stop: CancellationToken,
    writing: JoinSet<()>,
    answers: mpsc::UnboundedReceiver<Written>,
}

impl Writers {
    /// Starts them, spread over the members. `clients`: makes the connections of one client to all members. `label`: of all objects.
    ///
    /// # Errors
    /// Of `clients`.
    pub fn start(
        load: Load,
        label: &str,
        clock: Clock,
        clients: impl Fn() -> anyhow::Result<BTreeMap<NodeId, Client>>,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let (told, answers) = mpsc::unbounded_channel();
        let mut writing = JoinSet::new();
        for id in 0..load.clients {
            let clients = clients()?;
            let member = u64::from(id) % (clients.len() as u64).max(1) + 1;
            let writer = Writer { id, load, label: label.to_owned(), clock, clients, member, told: told.clone() };
            writing.spawn(writer.write(stop.clone()));
        }
        Ok(Self { stop, writing, answers })
    }

    /// What was answered since the last call.
    pub fn answered(&mut self) -> Vec<Written> {
        let mut answered = Vec::new();
        while let Ok(written) = self.answers.try_recv() {
            answered.push(written);
        }
        answered
    }

    /// Asks nothing any more, and waits for the last answers.
    pub async fn finish(mut self) -> Vec<Written> {
        self.stop.cancel();
        while self.writing.join_next().await.is_some() {}
        self.answered()
    }
}

struct Writer {
    id: u32,
    load: Load,
    label: String,
    clock: Clock,
    clients: BTreeMap<NodeId, Client>,
    member: NodeId,
    told: mpsc::UnboundedSender<Written>,
}

impl Writer {
    async fn write(mut self, stop: CancellationToken) {
        let mut due = tokio::time::interval(Duration::from_secs(1) / self.load.rate.max(1));
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 0_u64.. {
            if stop.run_until_cancelled(due.tick()).await.is_none() {
                return;
            }
            let name = format!("{}-c{}-{number}", self.label, self.id);
            let asked_ms = self.clock.now_ms();
            let outcome = self.create(&name).await;
            let write = Write { client: self.id, member: self.member, asked_ms, answered_ms: self.clock.now_ms(), outcome };
            if self.told.send(Written { write, name }).is_err() {
                return;
            }
            if outcome != Outcome::Acknowledged {
                tokio::time::sleep(ERROR_PAUSE).await;
                if !self.load.stay {
                    self.member = self.member % self.clients.len() as u64 + 1;
                }
            }
        }
    }

    async fn create(&self, name: &str) -> Outcome {
        let Some(client) = self.clients.get(&self.member) else { return Outcome::Refused };
        let value = "x".repeat(usize::try_from(self.load.size).unwrap_or(0));
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"lab": self.label}}, "data": {"value": value}
        });
        match client.request(Request::json(http::Method::POST, OBJECTS, &object)).await {
            Ok(_) => Outcome::Acknowledged,
            Err(Error::Transport { unsent: true, .. }) => Outcome::Refused,
            Err(Error::Api(error)) if matches!(error.reason, Reason::ServiceUnavailable | Reason::TooManyRequests) => Outcome::Refused,
            // a time-out, or a connection that broke: nobody knows
            Err(_) => Outcome::Unknown,
        }
    }
}
