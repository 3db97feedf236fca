//! Images on more than one master. A push is acknowledged when two masters hold the image, what is missing here is fetched from the others
//! when somebody asks for it, and a loop makes second copies of what lost them.
//!
//! Masters never push to each other: one tells the other to fetch, and the other pulls as any client does, with the token of an account that
//! is known here as a replica's, so that its questions are not passed on again. Masters that share a content store have nothing to fetch.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trierarch_apiserver::{ApiServer, User};
use trierarch_client::{Client, Config, Request};
use trierarch_images::{Auth, Digest, Image, Mirror, Progress, Reference, RegistryOptions};
use trierarch_raft::{Member, MemberRole};

/// Where a master is told to fetch an image.
const FETCH_PATH: &str = "/trierarch/v1/images/fetch";
/// The account by whose tokens masters pull from each other.
pub const ACCOUNT: &str = "image-replicator";
/// How long a master may take to fetch an image.
const FETCH_PATIENCE: Duration = Duration::from_secs(600);
/// How often names are looked at whose second copy may be lost.
const REPAIR_INTERVAL: Duration = Duration::from_secs(600);

/// An order to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fetch {
    /// The image's full name.
    name: Reference,
    /// What it points at.
    digest: Digest,
    /// The API address of the master that has it.
    from: String,
}

/// The images of this master and of the others.
pub struct Replication {
    images: trierarch_images::Store,
    raft: trierarch_raft::Store,
    tls: Arc<arc_swap::ArcSwap<rustls::ClientConfig>>,
    authority_pem: String,
}

/// API addresses of the other masters.
fn others(members: &[Member], me: u64) -> Vec<String> {
    let all = members.iter().filter(|member| member.id != me && member.role == MemberRole::Voter);
    all.map(|member| member.api_address.clone()).filter(|address| !address.is_empty()).collect()
}

/// Whether a caller is a master that looks for an image: what is missing here is not looked for elsewhere then.
pub fn is_replica(user: &User) -> bool {
    user.name == format!("system:serviceaccount:kube-system:{ACCOUNT}")
}

impl Replication {
    /// Replication of what is in `images` among the members of `raft`.
    pub fn new(
        images: trierarch_images::Store,
        raft: trierarch_raft::Store,
        tls: Arc<arc_swap::ArcSwap<rustls::ClientConfig>>,
        authority_pem: String,
    ) -> Self {
        Self { images, raft, tls, authority_pem }
    }

    /// Adds the route by which masters are told to fetch.
    pub fn mount(self: &Arc<Self>, config: &mut web::ServiceConfig, api: &Arc<ApiServer>) {
        let resource = web::resource(FETCH_PATH).app_data(web::Data::from(Arc::clone(api))).app_data(web::Data::from(Arc::clone(self)));
        config.service(resource.route(web::post().to(fetch)));
    }

    fn others(&self) -> Vec<String> {
        others(&self.raft.status().members, self.raft.node_id())
    }

    fn me(&self) -> Option<String> {
        let me = self.raft.node_id();
        self.raft.status().members.into_iter().find(|member| member.id == me).map(|member| member.api_address)
    }

    fn client(&self, addresses: &[String], patience: Duration) -> anyhow::Result<Client> {
        let config = Config {
            servers: addresses.iter().map(|address| format!("https://{address}")).collect(),
            tls: self.tls.load_full(),
            token: None,
            user_agent: "trierarch-replication".to_owned(),
            timeout: patience,
        };
        Ok(Client::new(config)?)
    }

    /// Returns when another master holds the image too; at once when there is no other. The rest of the masters fetch it in the background.
    ///
    /// # Errors
    /// No other master could fetch it: it may be tried again.
    pub async fn spread(self: &Arc<Self>, name: &Reference, digest: &Digest) -> anyhow::Result<()> {
        let others = self.others();
        if others.is_empty() {
            return Ok(());
        }
        let from = self.me().context("this master is no member yet")?;
        let order = Fetch { name: name.clone(), digest: digest.clone(), from };
        let body = serde_json::to_value(&order)?;
        let mut told: FuturesUnordered<_> = others
            .into_iter()
            .map(|address| {
                let (own, body) = (Arc::clone(self), body.clone());
                // a push that is acknowledged does not end the other copies
                tokio::spawn(async move {
                    let client = own.client(std::slice::from_ref(&address), FETCH_PATIENCE)?;
                    client
                        .request(Request::json(http::Method::POST, FETCH_PATH, &body))
                        .await
                        .with_context(|| format!("master {address}"))?;
                    anyhow::Ok(())
                })
            })
            .collect();
        let mut problems = Vec::new();
        while let Some(outcome) = told.next().await {
            match outcome {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => problems.push(format!("{error:#}")),
                Err(error) => problems.push(error.to_string()),
            }
        }
        bail!("no second master holds {name}: {}", problems.join("; "))
    }

    /// An image that another master has, fetched; `None` when none has it.
    pub async fn find(&self, name: &Reference) -> Option<Image> {
        let others = self.others();
        if others.is_empty() {
            return None;
        }
        match self.pull(name, &others).await {
            Ok(image) => Some(image),
            Err(error) => {
                tracing::debug!(image = %name, error = format!("{error:#}"), "No other master has an image");
                None
            }
        }
    }

    async fn pull(&self, name: &Reference, from: &[String]) -> anyhow::Result<Image> {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
        let path = format!("/api/v1/namespaces/kube-system/serviceaccounts/{ACCOUNT}/token");
        let answer: Value = self.client(from, Duration::from_secs(5))?.create(&path, &request).await?;
        let token = answer["status"]["token"].as_str().context("a master gave no token")?.to_owned();
        let mirror = |address: &String| Mirror {
            url: format!("https://{address}"),
            auth: Auth::Bearer(token.clone()),
            ca_pem: Some(self.authority_pem.clone().into_bytes()),
        };
        let options = RegistryOptions { mirrors: from.iter().map(mirror).collect(), mirrors_only: true, ..RegistryOptions::default() };
        Ok(trierarch_images::pull(&self.images, name, &options, Progress::none()).await?)
    }

    /// Makes this master hold an image.
    async fn obey(&self, order: &Fetch) -> anyhow::Result<()> {
        let (images, name) = (self.images.clone(), order.name.clone());
        let here = tokio::task::spawn_blocking(move || images.get(&name)).await?;
        // an image with a damaged part is fetched again
        if here.ok().flatten().is_some_and(|image| image.target == order.digest) {
            return Ok(());
        }
        let image = self.pull(&order.name, std::slice::from_ref(&order.from)).await?;
        if image.target == order.digest {
            return Ok(());
        }
        bail!("{} is {} by now, not {}", order.name, image.target, order.digest)
    }

    /// Gives what is here a second copy where it has lost it, for ever.
    pub async fn repair(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(REPAIR_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // the first tick is at once, when nobody serves yet
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let images = self.images.clone();
            let Ok(Ok(names)) = tokio::task::spawn_blocking(move || images.names()).await else { continue };
            for record in names.into_iter().filter(|record| record.name.digest().is_none()) {
                if let Err(error) = self.spread(&record.name, &record.digest).await {
                    tracing::warn!(image = %record.name, error = format!("{error:#}"), "An image has one copy only");
                }
            }
        }
    }
}

async fn fetch(request: HttpRequest, order: web::Json<Fetch>, api: web::Data<ApiServer>, own: web::Data<Replication>) -> HttpResponse {
    let refuse = |status: actix_web::http::StatusCode, why: &str| HttpResponse::build(status).json(json!({ "message": why }));
    match api.authenticate_http(&request) {
        Ok(user) if user.in_group("system:masters") => {}
        Ok(_) => return refuse(actix_web::http::StatusCode::FORBIDDEN, "only masters tell masters to fetch images"),
        Err(_invalid) => return refuse(actix_web::http::StatusCode::UNAUTHORIZED, "Unauthorized"),
    }
    match own.obey(&order).await {
        Ok(()) => HttpResponse::Ok().json(json!({})),
        Err(error) => {
            tracing::warn!(image = %order.name, error = format!("{error:#}"), "Could not fetch an image from another master");
            refuse(actix_web::http::StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_voters_hold_second_copies() {
        let member = |id: u64, role, address: &str| Member { id, role, api_address: address.to_owned(), peer_address: String::new() };
        let members = [
            member(1, MemberRole::Voter, "10.0.0.1:6443"),
            member(2, MemberRole::Voter, "10.0.0.2:6443"),
            member(3, MemberRole::Learner, "10.0.0.3:6443"),
            member(4, MemberRole::Voter, ""),
        ];
        assert_eq!(others(&members, 1), ["10.0.0.2:6443"]);
        assert_eq!(others(&members[..1], 1), Vec::<String>::new());
    }

    #[test]
    fn a_replica_is_known_by_its_account() {
        let groups = ["system:serviceaccounts", "system:authenticated"];
        assert!(is_replica(&User::new("system:serviceaccount:kube-system:image-replicator", &groups)));
        assert!(!is_replica(&User::new("system:serviceaccount:default:image-replicator", &groups)));
    }
}
