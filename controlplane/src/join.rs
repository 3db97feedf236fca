//! How a master joins a cluster that exists: it proves the join token, receives the sealed bundle and an id of its own, opens its store, and
//! asks to be made a member. Both sides are here, so that they cannot drift apart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use trierarch_api::ApiError;
use trierarch_client::{Client, Config, Error, JoinToken, Request, fetch_authority, join::AUTHORITY_PATH};
use trierarch_raft::{Cause, Committed, Guard, Member, MemberRole, NodeId, Op, Store, StoreError, Txn, TxnId};

use crate::identity::{Bundle, BundleError};

const JOIN_PATH: &str = "/trierarch/v1/join";
const MEMBERS_PATH: &str = "/trierarch/v1/members";
/// The last member id that was given out. Ids are never used twice.
const LAST_ID_KEY: &[u8] = b"trierarch.internal/counters//member-id";
/// How long a master waits for the store while it serves a join.
const PATIENCE: Duration = Duration::from_secs(20);

/// A master's request to join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Application {
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach its API.
    pub api_address: String,
    /// The id it was given before, to be made a member; `None` asks for one.
    pub id: Option<NodeId>,
    /// Random, bound into the proof.
    pub nonce: String,
    /// [`JoinToken::proof`] over the rest.
    pub proof: String,
}

/// What it is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// Its id.
    pub id: NodeId,
    /// The bundle, sealed under the token.
    pub bundle: String,
}

impl Application {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n{:?}", self.name, self.peer_address, self.api_address, self.id)
    }

    fn signed(mut self, token: &JoinToken) -> Self {
        self.nonce = uuid::Uuid::new_v4().to_string();
        self.proof = token.proof(&self.nonce, &self.text());
        self
    }

    fn is_proven(&self, token: &JoinToken) -> bool {
        token.proves(&self.nonce, &self.text(), &self.proof)
    }
}

/// What a member remembers about itself, in `member.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its id.
    pub id: NodeId,
    /// Whether the cluster has taken it in.
    pub joined: bool,
}

/// Why a master could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The masters refused or did not answer.
    #[error("cannot join through {0:?}")]
    Client(Vec<String>, #[source] Error),
    /// The bundle did not open.
    #[error("cannot open the cluster's secrets")]
    Bundle(#[from] BundleError),
    /// A file could not be used.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where a member remembers itself.
pub fn membership_path(data_dir: &Path) -> PathBuf {
    data_dir.join("member.json")
}

/// Reads `member.json`; `None` if this directory holds no member yet.
///
/// # Errors
/// [`JoinError::File`].
pub fn load_membership(data_dir: &Path) -> Result<Option<Membership>, JoinError> {
    let path = membership_path(data_dir);
    match std::fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|e| JoinError::File { path, source: std::io::Error::other(e.to_string()) })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JoinError::File { path, source }),
    }
}

/// Writes `member.json`.
///
/// # Errors
/// [`JoinError::File`].
pub fn save_membership(data_dir: &Path, membership: &Membership) -> Result<(), JoinError> {
    let path = membership_path(data_dir);
    let text = serde_json::to_vec(membership).expect("plain numbers always serialize");
    crate::identity::pki::write_private(&path, &text).map_err(|source| JoinError::File { path, source })
}

/// The client's half.
pub struct Joiner {
    client: Client,
    token: JoinToken,
    servers: Vec<String>,
}

impl Joiner {
    /// Reaches a master and checks its authority against the token; waits until one answers.
    ///
    /// # Errors
    /// [`JoinError::Client`] when the authority is not the pinned one.
    pub async fn reach(servers: Vec<String>, token: JoinToken) -> Result<Self, JoinError> {
        let failed = |error| JoinError::Client(servers.clone(), error);
        let authority = until_answered(|| fetch_authority(&servers, &token)).await.map_err(failed)?;
        let tls = trierarch_client::tls::config(&authority, None).map_err(|e| failed(Error::Config(e.to_string())))?;
        let client = Client::new(Config {
            servers: servers.clone(),
            tls: Arc::new(tls),
            token: None,
            user_agent: "trierarch-join".to_owned(),
            timeout: PATIENCE,
        })
        .map_err(failed)?;
        Ok(Self { client, token, servers })
    }

    async fn post(&self, path: &str, application: Application) -> Result<Bytes, JoinError> {
        let answer = until_answered(|| async {
            let body = serde_json::to_value(application.clone().signed(&self.token)).map_err(|e| Error::Decode(e.to_string()))?;
            self.client.request(Request::json(http::Method::POST, path, &body)).await
        });
        answer.await.map(|response| response.body).map_err(|error| JoinError::Client(self.servers.clone(), error))
    }

    /// Asks for an id and the bundle.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn apply(&self, application: Application) -> Result<(NodeId, Bundle), JoinError> {
        let body = self.post(JOIN_PATH, application).await?;
        let admission: Admission =
            serde_json::from_slice(&body).map_err(|e| JoinError::Client(self.servers.clone(), Error::Decode(e.to_string())))?;
        Ok((admission.id, Bundle::open(&admission.bundle, &self.token)?))
    }

    /// Asks to be made a member; the store must be open, so that the leader can bring it up to date.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn become_member(&self, application: Application) -> Result<(), JoinError> {
        self.post(MEMBERS_PATH, application).await.map(drop)
    }
}

/// Repeats while nobody answers or the answer is that nobody leads.
async fn until_answered<T, F: Future<Output = Result<T, Error>>>(mut attempt: impl FnMut() -> F) -> Result<T, Error> {
    let mut pause = Duration::from_millis(50);
    loop {
        match attempt().await {
            Err(Error::Transport { .. }) => {}
            Err(Error::Api(refused)) if refused.reason.code() >= 500 || refused.reason.code() == 404 => {}
            answered => return answered,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// The server's half.
pub struct Door {
    store: Store,
    bundle: Bundle,
    token: JoinToken,
}

impl Door {
    /// Admits whoever proves `token`, the bundle's.
    pub fn new(store: Store, bundle: Bundle, token: JoinToken) -> Arc<Self> {
        Arc::new(Self { store, bundle, token })
    }

    /// Adds its routes.
    pub fn mount(self: &Arc<Self>, config: &mut web::ServiceConfig) {
        let door = web::Data::from(Arc::clone(self));
        config
            .app_data(door)
            .route(AUTHORITY_PATH, web::get().to(authority))
            .route(JOIN_PATH, web::post().to(join))
            .route(MEMBERS_PATH, web::post().to(members));
    }

    fn check(&self, application: &Application) -> Result<(), ApiError> {
        if application.is_proven(&self.token) {
            return Ok(());
        }
        tracing::warn!(name = application.name, "Refused a join with a wrong token");
        Err(ApiError::new(trierarch_api::Reason::Unauthorized, "the join token is not this cluster's"))
    }

    async fn admit(&self, application: &Application) -> Result<Admission, ApiError> {
        self.check(application)?;
        let id = match application.id {
            Some(id) => id,
            None => next_id(&self.store, &application.name).await?,
        };
        let bundle = self.bundle.seal(&self.token).map_err(ApiError::internal)?;
        tracing::info!(name = application.name, id, "Admitted a master");
        Ok(Admission { id, bundle })
    }

    async fn add(&self, application: &Application) -> Result<(), ApiError> {
        self.check(application)?;
        let id = application.id.ok_or_else(|| ApiError::bad_request("a member has an id"))?;
        let member = Member {
            id,
            peer_address: application.peer_address.clone(),
            api_address: application.api_address.clone(),
            role: MemberRole::Voter,
        };
        let failed = |error: StoreError| trierarch_apiserver::apiserver::store_error(&error);
        for lost in replaced(&self.store.status().members, &member) {
            tracing::warn!(name = application.name, lost, by = id, "A master came with an empty directory, it takes its former place");
            self.store.remove_member(lost, PATIENCE).await.map_err(failed)?;
        }
        self.store.add_member(member, PATIENCE).await.map_err(failed)
    }
}

/// The members in whose place a new one comes: two cannot be heard at one address, so those are gone, with what they had on disk.
fn replaced(members: &[Member], new: &Member) -> Vec<NodeId> {
    members.iter().filter(|known| known.peer_address == new.peer_address && known.id != new.id).map(|known| known.id).collect()
}

/// Gives out the next id; the first master has 1.
async fn next_id(store: &Store, name: &str) -> Result<NodeId, ApiError> {
    let failed = |error: StoreError| trierarch_apiserver::apiserver::store_error(&error);
    loop {
        let view = store.linearizable_view(PATIENCE).await.map_err(failed)?;
        let current = view.get(LAST_ID_KEY);
        let last: NodeId = current.as_ref().and_then(|record| serde_json::from_slice(&record.value).ok()).unwrap_or(1);
        let key = Bytes::from_static(LAST_ID_KEY);
        let guard = match current {
            Some(record) => Guard::Revision { key: key.clone(), revision: record.revision },
            None => Guard::Absent { key: key.clone() },
        };
        let txn = Txn {
            id: TxnId::random(),
            guards: vec![guard],
            ops: vec![Op::Put { key, value: Bytes::from((last + 1).to_string()), split: 0, terms: Vec::new() }],
            cause: Cause {
                user: "system:master".to_owned(),
                agent: format!("trierarch-join/{name}"),
                verb: "join".to_owned(),
                time_unix_ms: crate::clock::now().as_millisecond(),
            },
        };
        if let Committed::At(_) = store.txn(txn, PATIENCE).await.map_err(failed)? {
            return Ok(last + 1);
        }
    }
}

fn respond<T: Serialize>(outcome: Result<T, ApiError>) -> HttpResponse {
    match outcome {
        Ok(answer) => HttpResponse::Ok().json(answer),
        Err(error) => {
            let code =
                actix_web::http::StatusCode::from_u16(error.reason.code()).unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR);
            HttpResponse::build(code).json(error.to_status())
        }
    }
}

async fn authority(door: web::Data<Door>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/x-pem-file").body(door.bundle.cluster.certificate_pem.clone())
}

async fn join(door: web::Data<Door>, application: web::Json<Application>) -> HttpResponse {
    respond(door.admit(&application).await)
}

async fn members(door: web::Data<Door>, application: web::Json<Application>) -> HttpResponse {
    respond(door.add(&application).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application() -> Application {
        Application {
            name: "m2".to_owned(),
            peer_address: "127.0.0.1:1".to_owned(),
            api_address: "127.0.0.1:2".to_owned(),
            id: None,
            nonce: String::new(),
            proof: String::new(),
        }
    }

    #[test]
    fn a_proof_covers_the_whole_application() {
        let token = JoinToken::generate(b"authority");
        let signed = application().signed(&token);
        assert!(signed.is_proven(&token));
        assert!(!Application { api_address: "6.6.6.6:1".to_owned(), ..signed.clone() }.is_proven(&token));
        assert!(!Application { id: Some(1), ..signed.clone() }.is_proven(&token));
        assert!(!signed.is_proven(&JoinToken::generate(b"authority")));
    }

    #[test]
    fn a_member_that_lost_its_disk_is_replaced() {
        let member = |id: NodeId, port: u16| Member {
            id,
            peer_address: format!("127.0.0.1:{port}"),
            api_address: String::new(),
            role: MemberRole::Voter,
        };
        let members = [member(1, 1), member(2, 2), member(3, 3)];
        assert_eq!(replaced(&members, &member(4, 2)), [2]);
        assert_eq!(replaced(&members, &member(2, 2)), Vec::<NodeId>::new());
        assert_eq!(replaced(&members, &member(4, 4)), Vec::<NodeId>::new());
    }

    #[test]
    fn a_member_remembers_itself() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(load_membership(dir.path()).expect("nothing there"), None);
        let membership = Membership { id: 3, joined: true };
        save_membership(dir.path(), &membership).expect("written");
        assert_eq!(load_membership(dir.path()).expect("readable"), Some(membership));
    }
}
