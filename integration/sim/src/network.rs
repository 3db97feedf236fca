//! The network between the members: it delays, loses, duplicates and reorders frames, and it can be cut in one direction or both.
//!
//! A lost frame is one whose answer never comes; that is harsher than TCP, which breaks the connection instead. Frames of a snapshot keep
//! their order and are sent again until they arrive, as TCP does it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use trierarch_raft::NodeId;
use trierarch_raft::environment::{Purpose, Stream};

use crate::dice::Dice;
use crate::frames::Frames;
use crate::pipe::{End, Inbox};
use crate::plan::Plan;

/// When a frame that must arrive is tried again.
const RETRANSMISSION_MS: u64 = 200;

/// Where a member listens.
pub fn address_of(member: NodeId) -> String {
    format!("10.0.0.{member}:7000")
}

fn member_at(address: &str) -> Option<NodeId> {
    address.strip_prefix("10.0.0.")?.strip_suffix(":7000")?.parse().ok()
}

/// The network; cheap to clone.
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

/// How well the network works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// A frame takes so long, at most.
    pub delay_max_ms: u64,
    /// Frames lost, in a thousand.
    pub lost: u64,
    /// Frames that arrive twice, in a thousand.
    pub duplicated: u64,
    /// Frames that may overtake others, in a thousand.
    pub overtaken: u64,
}

struct State {
    now_ms: u64,
    dice: Dice,
    weather: Weather,
    /// From, to.
    blocked: BTreeSet<(NodeId, NodeId)>,
    /// Members that are up, and where their connections go.
    listening: BTreeMap<NodeId, mpsc::UnboundedSender<Box<dyn Stream>>>,
    /// Members whose machine is off: it does not even refuse a connection.
    off: BTreeSet<NodeId>,
    /// By when and in which order it was sent.
    on_the_way: BTreeMap<(u64, u64), Parcel>,
    sent: u64,
    connections: Vec<Connection>,
    recording: Option<Frames>,
}

/// One way of a connection.
pub struct Direction {
    /// Where frames come from.
    pub from: NodeId,
    /// Where they go.
    to: NodeId,
    purpose: Purpose,
    inbox: Arc<Inbox>,
    /// When the last frame that keeps its order arrives.
    last_due_ms: u64,
    frames: u64,
    finished: bool,
    /// It belongs to the member that has made the connection.
    asks: bool,
}

struct Connection {
    ends: [(NodeId, Weak<Inbox>); 2],
}

enum Parcel {
    /// `again`: sent again until it arrives.
    Frame {
        from: NodeId,
        to: NodeId,
        inbox: Arc<Inbox>,
        bytes: Vec<u8>,
        again: bool,
    },
    Finish {
        from: NodeId,
        to: NodeId,
        inbox: Arc<Inbox>,
    },
    Connect {
        from: NodeId,
        to: NodeId,
        ends: Box<(End, End)>,
        answer: Answer,
    },
    Connected {
        from: NodeId,
        to: NodeId,
        end: Box<End>,
        answer: Answer,
    },
    Refused {
        from: NodeId,
        to: NodeId,
        answer: Answer,
    },
}

type Answer = oneshot::Sender<io::Result<Box<dyn Stream>>>;

impl Parcel {
    fn way(&self) -> (NodeId, NodeId) {
        match self {
            Self::Frame { from, to, .. }
            | Self::Finish { from, to, .. }
            | Self::Connect { from, to, .. }
            | Self::Connected { from, to, .. }
            | Self::Refused { from, to, .. } => (*from, *to),
        }
    }
}

impl Weather {
    /// The weather of a run while nothing special happens.
    pub fn usual(plan: &Plan) -> Self {
        Self { delay_max_ms: plan.delay_max_ms, lost: plan.lost, duplicated: plan.duplicated, overtaken: plan.overtaken }
    }
}

impl Network {
    /// A network without members.
    pub fn new(dice: Dice, weather: Weather) -> Self {
        let state = State {
            now_ms: 0,
            dice,
            weather,
            blocked: BTreeSet::new(),
            listening: BTreeMap::new(),
            off: BTreeSet::new(),
            on_the_way: BTreeMap::new(),
            sent: 0,
            connections: Vec::new(),
            recording: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Keeps some frames of each kind as files in `directory`.
    pub fn record_into(&self, directory: &Path) {
        self.state.lock().recording = Some(Frames::new(directory));
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// From now on nothing gets from one member to the other.
    pub fn block(&self, from: NodeId, to: NodeId) {
        self.state.lock().blocked.insert((from, to));
    }

    /// Undoes [`Network::block`].
    pub fn unblock(&self, from: NodeId, to: NodeId) {
        self.state.lock().blocked.remove(&(from, to));
    }

    /// Undoes all blocks.
    pub fn unblock_all(&self) {
        self.state.lock().blocked.clear();
    }

    /// A member listens, and gets the connections that others make to it.
    pub fn listen(&self, member: NodeId) -> mpsc::UnboundedReceiver<Box<dyn Stream>> {
        let (connections, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        state.listening.insert(member, connections);
        state.off.remove(&member);
        receiver
    }

    /// A member stops: it sends nothing any more. `noticed`: its machine goes on, which ends its connections and refuses new ones; otherwise
    /// nobody hears anything of it.
    pub fn stop(&self, member: NodeId, noticed: bool) {
        let mut state = self.state.lock();
        state.listening.remove(&member);
        if noticed {
            state.end_connections(member);
        } else {
            state.off.insert(member);
        }
    }

    /// A member's machine is up again: connections from before are unknown to it.
    pub fn forget_connections(&self, member: NodeId) {
        self.state.lock().end_connections(member);
    }

    /// A connection from one member to the one at `address`.
    pub fn connect(&self, from: NodeId, address: &str, purpose: Purpose) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let Some(to) = member_at(address) else {
            return Box::pin(std::future::ready(Err(io::Error::from(io::ErrorKind::AddrNotAvailable))));
        };
        let (answer, answered) = oneshot::channel();
        let (here, there) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
        let direction = |from, to, inbox: &Arc<Inbox>, asks| Direction {
            from,
            to,
            purpose,
            inbox: Arc::clone(inbox),
            last_due_ms: 0,
            frames: 0,
            finished: false,
            asks,
        };
        let near = End::new(self.clone(), direction(from, to, &there, true), Arc::clone(&here));
        let far = End::new(self.clone(), direction(to, from, &here, false), Arc::clone(&there));
        let mut state = self.state.lock();
        state.connections.push(Connection { ends: [(from, Arc::downgrade(&here)), (to, Arc::downgrade(&there))] });
        let due_ms = state.due_ms();
        state.put(due_ms, Parcel::Connect { from, to, ends: Box::new((near, far)), answer });
        drop(state);
        Box::pin(async move {
            match answered.await {
                Ok(answer) => answer,
                // lost: whoever waits has patience only for so long
                Err(_lost) => std::future::pending().await,
            }
        })
    }

    /// Sends a frame.
    pub fn send(&self, direction: &mut Direction, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        if direction.finished || !state.listening.contains_key(&direction.from) {
            return;
        }
        direction.frames += 1;
        if let Some(frames) = &mut state.recording {
            frames.record(direction.asks, direction.frames == 1, &bytes);
        }
        let weather = state.weather;
        let (from, to) = (direction.from, direction.to);
        let whole = direction.purpose == Purpose::Snapshot;
        if !whole && state.dice.chance(weather.lost) {
            return;
        }
        let mut due_ms = state.due_ms();
        let ordered = whole || direction.frames == 1 || !state.dice.chance(weather.overtaken);
        if ordered {
            due_ms = due_ms.max(direction.last_due_ms);
            direction.last_due_ms = due_ms;
        }
        if !whole && direction.frames > 1 && state.dice.chance(weather.duplicated) {
            let again_ms = state.due_ms() + weather.delay_max_ms;
            state.put(again_ms, Parcel::Frame { from, to, inbox: Arc::clone(&direction.inbox), bytes: bytes.clone(), again: false });
        }
        state.put(due_ms, Parcel::Frame { from, to, inbox: Arc::clone(&direction.inbox), bytes, again: whole });
    }

    /// One end sends nothing any more.
    pub fn finish(&self, direction: &mut Direction) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut direction.finished, true) || !state.listening.contains_key(&direction.from) {
            return;
        }
        let due_ms = state.due_ms().max(direction.last_due_ms);
        let parcel = Parcel::Finish { from: direction.from, to: direction.to, inbox: Arc::clone(&direction.inbox) };
        state.put(due_ms, parcel);
    }

    /// Delivers what is due.
    pub fn advance(&self, now_ms: u64) {
        self.state.lock().now_ms = now_ms;
        loop {
            // ends that nobody takes send their own farewell when they are dropped: not under the lock
            let (parcel, blocked) = {
                let mut state = self.state.lock();
                let Some(first) = state.on_the_way.first_entry().filter(|first| first.key().0 <= now_ms) else { break };
                let parcel = first.remove();
                let blocked = state.blocked.contains(&parcel.way());
                (parcel, blocked)
            };
            if !blocked {
                self.deliver(parcel);
            } else if matches!(&parcel, Parcel::Frame { again: true, .. }) {
                self.state.lock().put(now_ms + RETRANSMISSION_MS, parcel);
            }
        }
        self.state.lock().connections.retain(|connection| connection.ends.iter().any(|(_, inbox)| inbox.strong_count() > 0));
    }

    fn deliver(&self, parcel: Parcel) {
        match parcel {
            Parcel::Frame { inbox, bytes, .. } => inbox.deliver(&bytes),
            Parcel::Finish { inbox, .. } => inbox.end(),
            Parcel::Connect { from, to, ends, answer } => {
                let (near, far) = *ends;
                let (listening, is_off) = {
                    let state = self.state.lock();
                    (state.listening.get(&to).cloned(), state.off.contains(&to))
                };
                if is_off {
                    return;
                }
                let parcel = match listening {
                    Some(listening) if listening.send(Box::new(far)).is_ok() => {
                        Parcel::Connected { from: to, to: from, end: Box::new(near), answer }
                    }
                    _ => Parcel::Refused { from: to, to: from, answer },
                };
                let mut state = self.state.lock();
                let due_ms = state.due_ms();
                state.put(due_ms, parcel);
            }
            // whoever asked may have given up
            Parcel::Connected { end, answer, .. } => drop(answer.send(Ok(end))),
            Parcel::Refused { answer, .. } => drop(answer.send(Err(io::Error::from(io::ErrorKind::ConnectionRefused)))),
        }
    }
}

impl State {
    fn due_ms(&mut self) -> u64 {
        let delay_max_ms = self.weather.delay_max_ms.max(1);
        self.now_ms + self.dice.between(1, delay_max_ms)
    }

    fn put(&mut self, due_ms: u64, parcel: Parcel) {
        self.sent += 1;
        self.on_the_way.insert((due_ms, self.sent), parcel);
    }

    fn end_connections(&mut self, member: NodeId) {
        for connection in &self.connections {
            let [(one, one_inbox), (other, other_inbox)] = &connection.ends;
            if *one == member || *other == member {
                for inbox in [one_inbox, other_inbox] {
                    if let Some(inbox) = inbox.upgrade() {
                        inbox.end();
                    }
                }
            }
        }
    }
}
