//! What a member has from the machine it runs on: the time of day, threads for blocking work, syncs of the disk and the network.
//!
//! [`Environment::default`] is the machine itself. A [`Simulation`] takes its place in tests that must be repeatable to the last bit: such
//! a member runs on the runtime that opened it, never on a thread of its own, and tells what it does as [`Observation`]s.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::clock;
use crate::command::{NodeId, Revision, Term, Txn};
use crate::experiment::faults::Faults;
use crate::happenings::{self, Announcer, Happening};
pub use crate::network::messages::Purpose;
use crate::store::Committed;
use crate::view::View;
use crate::watch::Event;

/// Any byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A machine that exists only in a test.
pub trait Simulation: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch, as this machine's clock shows them; it may jump.
    fn now_unix_ms(&self) -> i64;
    /// A connection to the peer at `address`, when it is established.
    ///
    /// # Errors
    /// The peer refuses it. A peer that cannot be reached does not answer at all.
    fn connect(&self, address: &str, purpose: Purpose) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
    /// The connections that peers make to `address`.
    fn listen(&self, address: SocketAddr) -> mpsc::UnboundedReceiver<Box<dyn Stream>>;
    /// Called before what was written to the log in `path` is synced: takes as long as the disk does.
    ///
    /// # Errors
    /// The disk fails; nothing is synced.
    fn before_sync(&self, path: &Path) -> BoxFuture<'static, io::Result<()>>;
    /// Everything that the files of the log in `path` hold is on disk.
    fn after_sync(&self, path: &Path);
    /// How many bytes may still be written to the member's disk.
    fn free_bytes(&self) -> u64;
    /// Something happened.
    fn observe(&self, observation: &Observation<'_>);
}

/// What a simulated member did.
#[derive(Debug)]
pub enum Observation<'a> {
    /// A vote is on disk.
    Voted {
        /// In which term.
        term: Term,
        /// For whom.
        voted_for: NodeId,
        /// A quorum granted it: `voted_for` leads.
        committed: bool,
    },
    /// An entry was added to the log, not yet synced.
    Appended {
        /// Term of the entry before it, if there is one.
        previous_term: Option<Term>,
        /// Its term.
        term: Term,
        /// Its index.
        index: u64,
        /// Its encoded command; empty for entries that hold none.
        command: &'a [u8],
    },
    /// A committed entry was applied.
    Applied {
        /// Its term.
        term: Term,
        /// Its index.
        index: u64,
        /// Its encoded command; empty for entries that hold none.
        command: &'a [u8],
        /// The revision after it.
        revision: Revision,
        /// It was acknowledged before it was on disk.
        volatile: bool,
        /// The sets of voters that it brings, if it changes the members: a majority of each decides.
        voters: Option<&'a [BTreeSet<NodeId>]>,
        /// The transaction in it.
        txn: Option<&'a Txn>,
        /// What the transaction was answered, unless it was forgotten.
        outcome: Option<Committed>,
        /// What it changed.
        events: &'a [Arc<Event>],
    },
    /// Readers see the state after an entry.
    Shown {
        /// The index of the entry.
        index: u64,
        /// The state.
        view: &'a View,
        /// History holds the changes after this revision.
        compacted: Revision,
    },
}

/// The machine, or a simulation of one, as one member sees it: with the faults that experiments give it.
#[derive(Clone, Default)]
pub struct Environment {
    simulation: Option<Arc<dyn Simulation>>,
    faults: Arc<Faults>,
    announcer: Arc<Announcer>,
}

/// Where peers connect.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Simulated { address: SocketAddr, connections: mpsc::UnboundedReceiver<Box<dyn Stream>> },
}

impl Environment {
    /// A simulated machine.
    pub fn simulated(simulation: Arc<dyn Simulation>) -> Self {
        Self { simulation: Some(simulation), ..Self::default() }
    }

    /// The same machine for a member of its own: no other shares its faults, or is heard by those who watch it.
    pub(crate) fn of_member(&self, node_id: NodeId) -> Self {
        Self {
            simulation: self.simulation.clone(),
            faults: Arc::default(),
            announcer: Arc::new(Announcer::new(node_id, self.now_unix_ms())),
        }
    }

    /// The simulation, if it is one.
    pub(crate) fn simulation(&self) -> Option<&Arc<dyn Simulation>> {
        self.simulation.as_ref()
    }

    /// What goes wrong on this member by intent.
    pub(crate) fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// Who watches this member.
    pub(crate) fn announcer(&self) -> &Announcer {
        &self.announcer
    }

    /// Tells those who watch this member what happens now; costs nothing when nobody does.
    pub(crate) fn tell(&self, term: Term, event: impl FnOnce() -> happenings::Event) {
        if self.announcer.is_watched() {
            let event = event();
            self.announcer.tell(|| self.happening(term, event.clone()));
        }
    }

    /// Something that happens now.
    pub(crate) fn happening(&self, term: Term, event: happenings::Event) -> Happening {
        self.announcer.happening(self.now_unix_ms(), term, event)
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_unix_ms(&self) -> i64 {
        self.simulation.as_ref().map_or_else(clock::now_unix_ms, |simulation| simulation.now_unix_ms())
    }

    /// Runs `work`, which may block, where that harms nobody.
    ///
    /// # Errors
    /// The runtime has ended.
    pub(crate) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.blocking_on(&tokio::runtime::Handle::current(), work).await
    }

    /// As [`Environment::blocking`], on another runtime.
    ///
    /// # Errors
    /// That runtime has ended.
    pub(crate) async fn blocking_on<T: Send + 'static>(
        &self,
        runtime: &tokio::runtime::Handle,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        match &self.simulation {
            None => runtime.spawn_blocking(work).await.map_err(io::Error::other),
            Some(_) => Ok(work()),
        }
    }

    /// How many bytes may still be written to the disk of `path`.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        if let Some(simulation) = &self.simulation {
            return Ok(simulation.free_bytes());
        }
        let stat = nix::sys::statvfs::statvfs(path)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    /// A connection to a peer.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub(crate) async fn connect(&self, address: &str, purpose: Purpose) -> io::Result<Box<dyn Stream>> {
        if let Some(simulation) = &self.simulation {
            return simulation.connect(address, purpose).await;
        }
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(Box::new(tcp))
    }

    /// Listens for peers.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub(crate) async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        match &self.simulation {
            None => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
            Some(simulation) => Ok(Listener::Simulated { address, connections: simulation.listen(address) }),
        }
    }

    /// Tells a simulation what readers see after the entry at `index`.
    pub(crate) fn observe_shown(&self, index: u64, view: &View, compacted: Revision) {
        self.observe(|| Observation::Shown { index, view, compacted });
    }

    /// Tells a simulation what happened; costs nothing on a machine.
    pub(crate) fn observe<'a>(&self, observation: impl FnOnce() -> Observation<'a>) {
        if let Some(simulation) = &self.simulation {
            simulation.observe(&observation());
        }
    }
}

impl Listener {
    /// Where it listens.
    ///
    /// # Errors
    /// Of the system.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Simulated { address, .. } => Ok(*address),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// Of the system; the next one may succeed.
    pub(crate) async fn accept(&mut self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, _) = listener.accept().await?;
                tcp.set_nodelay(true)?;
                Ok(Box::new(tcp))
            }
            Self::Simulated { connections, .. } => match connections.recv().await {
                Some(connection) => Ok(connection),
                None => std::future::pending().await,
            },
        }
    }
}
