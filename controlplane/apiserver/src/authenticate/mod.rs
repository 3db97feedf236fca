//! Who asks? Client certificate, front proxy, bearer token, or nobody; then impersonation.

pub mod bootstrap;
pub mod token;
pub mod x509;

use std::sync::Arc;

use trierarch_api::{ApiError, Reason};

use crate::apiserver::ApiServer;
use crate::authorize;
use crate::identity::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use crate::request::{RequestInfo, percent};

/// What a connection's TLS handshake proved; computed once per connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The user of a client certificate.
    pub user: Option<User>,
    /// The common name of a front proxy's certificate.
    pub front_proxy: Option<String>,
    /// A certificate was shown that no authority vouches for, or not any more.
    pub refused: bool,
    /// The client's address.
    pub address: Option<std::net::SocketAddr>,
}

/// The headers of a request, by lower-case name, in order.
pub trait Headers {
    /// The first value.
    fn get(&self, name: &str) -> Option<&str>;
    /// All values.
    fn all(&self, name: &str) -> Vec<&str>;
    /// Name and value of every header whose name starts so.
    fn prefixed(&self, prefix: &str) -> Vec<(&str, &str)>;
}

/// A plain list is headers, too.
impl Headers for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<&str> {
        self.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    fn prefixed(&self, prefix: &str) -> Vec<(&str, &str)> {
        self.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

/// 401, as upstream says it.
pub fn unauthorized() -> ApiError {
    ApiError::new(Reason::Unauthorized, "Unauthorized")
}

/// The caller of a request, impersonation included.
///
/// # Errors
/// 401 for credentials that are not valid, 403 for an impersonation that is not allowed.
pub fn authenticate(server: &ApiServer, peer: &Peer, headers: &dyn Headers) -> Result<User, ApiError> {
    let user = real_user(server, peer, headers)?;
    impersonate(server, user, headers)
}

fn real_user(server: &ApiServer, peer: &Peer, headers: &dyn Headers) -> Result<User, ApiError> {
    if peer.front_proxy.is_some()
        && let Some(name) = headers.get("x-remote-user").filter(|name| !name.is_empty())
    {
        let mut user = User { name: name.to_owned(), ..User::default() };
        user.uid = headers.get("x-remote-uid").unwrap_or_default().to_owned();
        user.groups = headers.all("x-remote-group").into_iter().map(str::to_owned).collect();
        extra(&mut user, headers, "x-remote-extra-");
        return Ok(user.authenticated());
    }
    if let Some(user) = &peer.user {
        return Ok(user.clone().authenticated());
    }
    match bearer(headers) {
        Some(token) => server.authenticate_token(token).map(|found| found.user),
        // who shows a certificate does not want to be nobody
        None if peer.refused => Err(unauthorized()),
        None => Ok(User::anonymous()),
    }
}

/// The bearer token of a request: the header, or the WebSocket sub-protocol that browsers must use.
fn bearer(headers: &dyn Headers) -> Option<&str> {
    let header = headers.get("authorization")?;
    let (scheme, token) = header.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

fn extra(user: &mut User, headers: &dyn Headers, prefix: &str) {
    for (name, value) in headers.prefixed(prefix) {
        let key = percent::decode(&name[prefix.len()..]);
        user.extra.entry(key).or_default().push(value.to_owned());
    }
}

/// A valid token's user, and for whom it was made.
#[derive(Clone, Debug)]
pub struct TokenUser {
    /// Who.
    pub user: User,
    /// The audiences it is valid for, among those asked for.
    pub audiences: Vec<String>,
}

impl ApiServer {
    /// The user of a bearer token (service account or bootstrap), valid for this API server.
    ///
    /// # Errors
    /// 401.
    pub fn authenticate_token(&self, token: &str) -> Result<TokenUser, ApiError> {
        self.authenticate_token_for(token, &self.settings.service_account.audiences)
    }

    /// As above, for any of these audiences.
    ///
    /// # Errors
    /// 401.
    pub fn authenticate_token_for(&self, token: &str, audiences: &[String]) -> Result<TokenUser, ApiError> {
        let snapshot = self.snapshot();
        let now = crate::clock::now();
        if let Some(secret) = bootstrap::parts(token) {
            return bootstrap::user(&snapshot, &secret, now)
                .map(|user| TokenUser { user: user.authenticated(), audiences: audiences.to_vec() })
                .map_err(|why| refused(&why));
        }
        let (user, audiences) = self.tokens.verify(&snapshot, token, audiences, now).map_err(|why| refused(&why))?;
        Ok(TokenUser { user: user.authenticated(), audiences })
    }
}

fn refused(why: &str) -> ApiError {
    tracing::debug!(error = why, "Refused a bearer token");
    ApiError { detail: why.to_owned(), ..unauthorized() }
}

/// Applies the `Impersonate-*` headers, if the caller may.
fn impersonate(server: &ApiServer, user: User, headers: &dyn Headers) -> Result<User, ApiError> {
    let groups = headers.all("impersonate-group");
    let extras = headers.prefixed("impersonate-extra-");
    let uid = headers.get("impersonate-uid").unwrap_or_default();
    let Some(name) = headers.get("impersonate-user").filter(|name| !name.is_empty()) else {
        if !groups.is_empty() || !extras.is_empty() || !uid.is_empty() {
            let list = groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>().join(", ");
            let asked = format!("&user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:[]string{{{list}}}, Extra:map[string][]string(nil)}}");
            return Err(ApiError::bad_request(format!("requested {asked} without impersonating a user name")));
        }
        return Ok(user);
    };
    let mut target = User { name: name.to_owned(), uid: uid.to_owned(), ..User::default() };
    let mut asked = Vec::new();
    let question = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| RequestInfo {
        is_resource: true,
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    if let Some((namespace, account)) = target.service_account() {
        asked.push(question("", "serviceaccounts", "", namespace, account));
        if groups.is_empty() {
            target.groups = token::service_account_groups(namespace);
        }
    } else {
        asked.push(question("", "users", "", "", name));
    }
    for group in groups {
        asked.push(question("", "groups", "", "", group));
        target.groups.push(group.to_owned());
    }
    if !uid.is_empty() {
        asked.push(question("authentication.k8s.io", "uids", "", "", uid));
    }
    extra(&mut target, headers, "impersonate-extra-");
    for (key, values) in &target.extra {
        for value in values {
            asked.push(question("authentication.k8s.io", "userextras", key, "", value));
        }
    }
    let snapshot = server.snapshot();
    for info in &asked {
        let decision = authorize::decide(&snapshot, &user, info, crate::clock::now());
        if !decision.allowed() {
            return Err(authorize::forbidden(&user, info, decision.reason()));
        }
    }
    if target.name == ANONYMOUS {
        if !target.in_group(UNAUTHENTICATED) {
            target.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !target.in_group(AUTHENTICATED) {
        target = target.authenticated();
    }
    Ok(target)
}

/// Everything an extra route needs to ask who calls.
pub type SharedPeer = Arc<Peer>;
