//! What a request's path means, and under which name the store knows its repository. Pure.

use http::Method;

use super::{Access, RegistryConfig};
use crate::digest::Digest;
use crate::reference::{DEFAULT_HOST, Reference, is_host, is_path};

/// A path of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Probe,
    Catalog,
    Tags(Repository),
    Manifest(Repository, String),
    Blob(Repository, String),
    Uploads(Repository),
    Upload(Repository, String),
    Referrers(Repository, String),
    /// The path has the protocol's form, the repository's name has not.
    BadName(String),
}

/// A repository as the client spells it and as the store does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    /// The part of the path, for `Location`.
    pub(super) spelled: String,
    /// `?ns=`, for `Location`.
    pub(super) namespace: Option<String>,
    pub(super) host: String,
    pub(super) path: String,
}

/// The parameters of a query.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Self {
        Self { pairs: serde_urlencoded::from_str(text.unwrap_or("")).unwrap_or_default() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

impl Repository {
    /// `HOST/PATH`.
    pub(super) fn full(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The image with this tag or digest.
    pub(super) fn image(&self, selector: &str) -> Option<Reference> {
        let separator = if selector.contains(':') { '@' } else { ':' };
        Reference::parse(&format!("{}{separator}{selector}", self.full())).ok()
    }

    /// `/v2/NAME/TAIL`, with the parameter the client must repeat.
    pub(super) fn location(&self, tail: &str) -> String {
        match &self.namespace {
            Some(namespace) => format!("/v2/{}/{tail}?ns={namespace}", self.spelled),
            None => format!("/v2/{}/{tail}", self.spelled),
        }
    }
}

/// Makes a route of a repository and the last part of its path.
type Make = fn(Repository, String) -> Route;

impl Route {
    /// `None` if it is no path of this protocol.
    pub(super) fn parse(path: &str, query: &Query, config: &RegistryConfig) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Probe);
        }
        let parts: Vec<&str> = rest.strip_prefix('/')?.split('/').collect();
        if parts == ["_catalog"] {
            return Some(Self::Catalog);
        }
        let (name, make): (&[&str], Make) = match parts.as_slice() {
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => (name, |repository, _| Self::Uploads(repository)),
            [name @ .., "blobs", "uploads", _] => (name, Self::Upload),
            [name @ .., "tags", "list"] => (name, |repository, _| Self::Tags(repository)),
            [name @ .., "manifests", _] => (name, Self::Manifest),
            [name @ .., "blobs", _] => (name, Self::Blob),
            [name @ .., "referrers", _] => (name, Self::Referrers),
            _ => return None,
        };
        let spelled = name.join("/");
        let last = parts.last().map(|last| (*last).to_owned()).unwrap_or_default();
        Some(match repository(&spelled, query.get("ns"), config) {
            Some(repository) => make(repository, last),
            None => Self::BadName(spelled),
        })
    }

    /// What the request wants to do.
    pub(super) fn access(&self, method: &Method) -> Access {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match self {
            Self::Probe | Self::BadName(_) => Access::Probe,
            Self::Catalog => Access::List,
            Self::Uploads(repository) | Self::Upload(repository, _) => Access::Push(repository.full()),
            Self::Tags(repository) | Self::Manifest(repository, _) | Self::Blob(repository, _) | Self::Referrers(repository, _) => {
                match *method {
                    _ if reads => Access::Pull(repository.full()),
                    Method::DELETE => Access::Delete(repository.full()),
                    _ => Access::Push(repository.full()),
                }
            }
        }
    }
}

/// The repository of a path and `?ns=`; see the module's documentation for the rule.
fn repository(spelled: &str, namespace: Option<&str>, config: &RegistryConfig) -> Option<Repository> {
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let (host, path) = match namespace {
        Some(host) if host == config.own_host || config.aliases.iter().any(|alias| alias == host) => (config.own_host.as_str(), spelled),
        Some("index.docker.io" | "registry-1.docker.io") => (DEFAULT_HOST, spelled),
        Some(host) => (host, spelled),
        None => match spelled.split_once('/') {
            Some((host, path)) if host.contains('.') => (host, path),
            _ => (config.own_host.as_str(), spelled),
        },
    };
    let path = if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    (is_host(host) && is_path(&path) && path.len() <= 255).then(|| Repository {
        spelled: spelled.to_owned(),
        namespace: namespace.map(str::to_owned),
        host: host.to_owned(),
        path,
    })
}

/// A digest of the path.
pub(super) fn digest(text: &str) -> Option<Digest> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RegistryConfig {
        RegistryConfig { own_host: "registry.cluster.local".into(), aliases: vec!["10.0.0.1:6443".into()] }
    }

    fn full(path: &str, query: &str) -> Option<String> {
        match Route::parse(path, &Query::parse(Some(query)), &config())? {
            Route::Manifest(repository, _) | Route::Tags(repository) | Route::Uploads(repository) => Some(repository.full()),
            Route::Blob(repository, last) | Route::Upload(repository, last) => Some(format!("{} {last}", repository.full())),
            other => Some(format!("{other:?}")),
        }
    }

    #[test]
    fn names_are_found_in_every_form() {
        for (path, query, expected) in [
            ("/v2/app/manifests/v1", "", "registry.cluster.local/app"),
            ("/v2/team/app/tags/list", "", "registry.cluster.local/team/app"),
            ("/v2/pause/manifests/3.10", "ns=registry.k8s.io", "registry.k8s.io/pause"),
            ("/v2/library/busybox/manifests/1", "ns=docker.io", "docker.io/library/busybox"),
            ("/v2/busybox/manifests/1", "ns=index.docker.io", "docker.io/library/busybox"),
            ("/v2/app/manifests/v1", "ns=10.0.0.1%3A6443", "registry.cluster.local/app"),
            ("/v2/app/manifests/v1", "ns=localhost:5000", "localhost:5000/app"),
            ("/v2/registry.k8s.io/pause/manifests/3.10", "", "registry.k8s.io/pause"),
            ("/v2/docker.io/busybox/manifests/1", "", "docker.io/library/busybox"),
            ("/v2/a/blobs/sha256:x", "", "registry.cluster.local/a sha256:x"),
            ("/v2/a/blobs/uploads/", "", "registry.cluster.local/a"),
            ("/v2/a/blobs/uploads", "", "registry.cluster.local/a"),
            ("/v2/a/blobs/uploads/u1", "", "registry.cluster.local/a u1"),
            ("/v2/manifests/manifests/latest", "", "registry.cluster.local/manifests"),
            ("/v2/", "", "Probe"),
            ("/v2", "", "Probe"),
            ("/v2/_catalog", "", "Catalog"),
            ("/v2/Bad/manifests/x", "", "BadName(\"Bad\")"),
            ("/v2/../../etc/manifests/x", "", "BadName(\"../../etc\")"),
            ("/v2/manifests/x", "", "BadName(\"\")"),
        ] {
            assert_eq!(full(path, query).as_deref(), Some(expected), "{path}?{query}");
        }
        assert!(full("/v2/a/unknown/b", "").is_none() && full("/v1/a", "").is_none() && full("/v2x/a", "").is_none());
    }

    #[test]
    fn access_follows_method_and_path() {
        let access = |method: Method, path: &str| Route::parse(path, &Query::default(), &config()).unwrap().access(&method);
        let name = || "registry.cluster.local/a".to_owned();
        assert_eq!(access(Method::GET, "/v2/a/manifests/x"), Access::Pull(name()));
        assert_eq!(access(Method::PUT, "/v2/a/manifests/x"), Access::Push(name()));
        assert_eq!(access(Method::DELETE, "/v2/a/manifests/x"), Access::Delete(name()));
        assert_eq!(access(Method::GET, "/v2/a/blobs/uploads/u"), Access::Push(name()), "the state of an upload is the pusher's");
        assert_eq!(access(Method::GET, "/v2/_catalog"), Access::List);
    }

    #[test]
    fn locations_repeat_the_namespace() {
        let Some(Route::Uploads(repository)) = Route::parse("/v2/a/blobs/uploads/", &Query::parse(Some("ns=k.io")), &config()) else {
            panic!()
        };
        assert_eq!(repository.location("blobs/uploads/u"), "/v2/a/blobs/uploads/u?ns=k.io");
    }
}
