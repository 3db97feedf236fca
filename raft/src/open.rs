//! Opening a member: databases, listener, raft, and the tasks around it.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Notify, oneshot, watch};

use crate::clock;
use crate::command::NodeId;
use crate::core::Core;
use crate::departed;
use crate::disk;
use crate::doubt::{Doubt, Suffrage};
use crate::drop_signal::DropSignal;
use crate::forgetting;
use crate::log_store::{LogStore, damage, is_damage};
use crate::lull::Activity;
use crate::maintenance;
use crate::network::acquaintances::{Acquaintances, Introduction};
use crate::network::client::{ClientFactory, Peers};
use crate::network::server;
use crate::quorum;
use crate::raft_types::Raft;
use crate::recollect;
use crate::records::LogOwner;
use crate::seat::{Seat, raft_config};
use crate::state_db::StateDb;
use crate::state_machine::StateMachine;
use crate::store::{Leadership, OpenError, StoreConfig};
use crate::ticking;

/// What an opened member consists of.
pub(crate) struct Opened {
    pub(crate) core: Arc<Core>,
    pub(crate) peer_address: SocketAddr,
    /// Ready when the databases are closed.
    pub(crate) databases_closed: Vec<oneshot::Receiver<()>>,
}

/// Opens a member on the current runtime.
///
/// # Errors
/// See [`crate::Store::open`].
pub(crate) async fn open(mut config: StoreConfig) -> Result<Opened, OpenError> {
    let data_dir = config.data_dir.clone();
    let failed = |reason: String| OpenError { path: data_dir.clone(), reason };
    let (core_applied, follow_core_applied) = watch::channel(None);
    let (log_open, log_closed) = DropSignal::new();
    let (state_open, state_closed) = DropSignal::new();
    let environment = config.environment.of_member(config.node_id);
    config.environment = environment.clone();
    let opening = {
        let (data_dir, environment) = (data_dir.clone(), environment.clone());
        let owner = LogOwner { cluster_id: config.cluster_id.clone(), node_id: config.node_id };
        let joined = config.joined;
        let boot_id = config.boot_id.clone();
        move || -> Result<(LogStore, Option<Doubt>, StateMachine), OpenError> {
            let snapshots_dir = data_dir.join("snapshots");
            let at = |error: std::io::Error| OpenError { path: data_dir.clone(), reason: error.to_string() };
            fs::create_dir_all(&data_dir).map_err(at)?;
            // the lock of the log comes first: nothing of a running member is touched
            let log = LogStore::open(&data_dir.join("log"), &environment, Some(log_open))?;
            if joined && log.is_new().map_err(at)? {
                return Err(OpenError { path: data_dir.clone(), reason: wiped(owner.node_id) });
            }
            log.claim(&owner)?;
            let state_dir = data_dir.join("state");
            if log.must_start_over()? && state_dir.exists() {
                let aside = data_dir.join(format!("state.diverged.{}", environment.now_unix_ms()));
                tracing::warn!(path = %aside.display(), "The group has gone on without this member's state, starting over");
                fs::rename(&state_dir, &aside).map_err(at)?;
            }
            let doubt = log.begin_run(&boot_id)?;
            if snapshots_dir.exists() {
                fs::remove_dir_all(&snapshots_dir).map_err(at)?;
            }
            let (state_open, log_is_complete) = (parking_lot::Mutex::new(Some(state_open)), log.is_complete());
            let open_state = || -> Result<_, OpenError> {
                let state = StateDb::open_current_on(&environment, &state_dir, None)?;
                let damaged = |error: std::io::Error| OpenError { path: state_dir.clone(), reason: damage(&error.to_string()) };
                let loaded = state.load().map_err(damaged)?;
                state.tell_when_closed(state_open.lock().take());
                Ok((state, loaded))
            };
            let opened = match open_state() {
                Err(error) if is_damage(&error) && log_is_complete => {
                    let aside = data_dir.join(format!("state.damaged.{}", environment.now_unix_ms()));
                    tracing::warn!(path = %aside.display(), %error, "The state is damaged, building it again from the whole log");
                    fs::rename(&state_dir, &aside).map_err(at)?;
                    open_state()
                }
                opened => opened,
            };
            let (state, loaded) = opened?;
            Ok((log, doubt, StateMachine::with_loaded(state, loaded, snapshots_dir, environment, follow_core_applied)))
        }
    };
    let (log, doubt, state_machine) = environment.blocking(opening).await.map_err(|error| failed(error.to_string()))??;
    let listener = environment
        .listen(config.peer_listen)
        .await
        .map_err(|error| failed(format!("cannot listen on {} for peers: {error}", config.peer_listen)))?;
    let peer_address = listener.local_addr().map_err(|error| failed(error.to_string()))?;
    if config.peer_advertise.is_empty() {
        config.peer_advertise = peer_address.to_string();
    }
    let own = Introduction { log: log.identity().map_err(|error| failed(error.to_string()))?, formats: config.formats };
    let acquaintances = Acquaintances::new(own, log.handle(), state_machine.shared());
    let peers = Arc::new(Peers::new(config.node_id, config.cluster_id.clone(), config.tls.clone(), acquaintances, environment));
    let log_handle = log.handle();
    let raft_config =
        raft_config(&config, config.timers(), doubt.is_none()).map_err(|error| failed(format!("impossible timers: {error}")))?;
    let (appended_bytes, syncs, shared) = (log.appended_bytes(), log.syncs(), state_machine.shared());
    let (state_machine, returned) = state_machine.lend();
    let factory = ClientFactory { peers: Arc::clone(&peers) };
    let raft = Raft::new(config.node_id, Arc::new(raft_config), factory, log, state_machine)
        .await
        .map_err(|error| failed(damage(&error.to_string())))?;
    let (leadership, follow_leadership) = watch::channel(Leadership::default());
    let (no_quorum, follow_no_quorum) = watch::channel(None);
    let seat = Arc::new(Seat::new(raft, config.timers(), returned, core_applied));
    let core = Arc::new(Core {
        config,
        seat: Arc::clone(&seat),
        log: log_handle,
        closing: shared.closing.clone(),
        shared,
        peers,
        callers: Arc::default(),
        leadership: follow_leadership,
        appended_bytes,
        syncs,
        disk_full: parking_lot::Mutex::default(),
        read_only: parking_lot::Mutex::default(),
        no_quorum: follow_no_quorum,
        doubt: parking_lot::Mutex::new(doubt),
        suffrage: parking_lot::Mutex::new(if doubt.is_some() { Suffrage::Abstains } else { Suffrage::Full }),
        heard: parking_lot::Mutex::new(clock::now()),
        beat: Notify::new(),
        activity: parking_lot::Mutex::new(Activity::Quiet),
    });
    let on_failure = {
        let core = Arc::downgrade(&core);
        move |reason: String| {
            if let Some(core) = core.upgrade().filter(|core| !core.closing.is_cancelled()) {
                tracing::error!(error = reason, "Raft has stopped on this member");
                core.read_only.lock().get_or_insert(reason);
            }
        }
    };
    tokio::spawn(maintenance::follow_raft(seat, Arc::clone(&core.peers), leadership, no_quorum.clone(), on_failure));
    tokio::spawn(server::serve(listener, Arc::clone(&core), data_dir.join("snapshots")));
    tokio::spawn(departed::watch_leader(Arc::clone(&core)));
    tokio::spawn(ticking::keep_time(Arc::clone(&core)));
    tokio::spawn(recollect::recollect(Arc::clone(&core)));
    tokio::spawn(Arc::clone(&core).promote_learners());
    tokio::spawn(Arc::clone(&core).keep_own_addresses());
    tokio::spawn(maintenance::bound_log(Arc::clone(&core)));
    tokio::spawn(forgetting::bound_history(Arc::clone(&core)));
    tokio::spawn(disk::watch_disk(Arc::clone(&core)));
    tokio::spawn(quorum::watch_quorum(Arc::clone(&core), no_quorum));
    Ok(Opened { core, peer_address, databases_closed: vec![log_closed, state_closed] })
}

/// What a member is told whose log is gone.
fn wiped(id: NodeId) -> String {
    format!(
        "member {id} has taken part in its cluster before, but its log is gone: it must not vote again under that id; \
         remove member {id} from the cluster, and let it join with an empty directory under a new id"
    )
}
