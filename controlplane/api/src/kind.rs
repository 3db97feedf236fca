//! A kind is a row: everything that routes, discovery, storage keys, tables and the CLI need to know of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::rules::Rules;

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Beside namespaces.
    Cluster,
}

/// What a client may do with a resource (`Spec:` Kubernetes API concepts, "API verbs").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the API's")]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// All of them, in discovery's order.
    pub const ALL: &'static [Self] =
        &[Self::Create, Self::Delete, Self::DeleteCollection, Self::Get, Self::List, Self::Patch, Self::Update, Self::Watch];
    /// For kinds that are questions, such as SubjectAccessReview.
    pub const CREATE_ONLY: &'static [Self] = &[Self::Create];

    /// The verb as discovery and RBAC spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// What hangs below an object's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the API's")]
pub enum Subresource {
    Status,
    Scale,
    Binding,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
    Eviction,
    EphemeralContainers,
    Resize,
    Token,
    Approval,
    Finalize,
}

impl Subresource {
    /// The path segment.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::Eviction => "eviction",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::Finalize => "finalize",
        }
    }
}

/// A resource without its version: the identity of stored objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// Plural name.
    pub resource: Cow<'static, str>,
}

impl GroupResource {
    /// A built-in resource.
    pub const fn new(group: &'static str, resource: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), resource: Cow::Borrowed(resource) }
    }
}

impl std::fmt::Display for GroupResource {
    /// `pods` or `deployments.apps`, as error messages name it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

/// One kind of object in one version.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// API version.
    pub version: Cow<'static, str>,
    /// Kind, as in `kind:`.
    pub kind: Cow<'static, str>,
    /// Plural name, as in paths.
    pub plural: Cow<'static, str>,
    /// Singular name.
    pub singular: Cow<'static, str>,
    /// What kubectl accepts beside these.
    pub short_names: &'static [&'static str],
    /// Such as `all`.
    pub categories: &'static [&'static str],
    /// Namespaced or not.
    pub scope: Scope,
    /// What clients may do.
    pub verbs: &'static [Verb],
    /// What hangs below.
    pub subresources: &'static [Subresource],
    /// Under which resource objects are stored, when another row owns them (the second Event group).
    pub stored_as: Option<GroupResource>,
    /// The kind's own decisions.
    pub rules: Rules,
}

impl Kind {
    /// A namespaced built-in with all verbs and plain rules; rows override the rest.
    pub fn namespaced(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            kind: Cow::Borrowed(kind),
            plural: Cow::Borrowed(plural),
            singular: Cow::Borrowed(singular),
            short_names: &[],
            categories: &[],
            scope: Scope::Namespaced,
            verbs: Verb::ALL,
            subresources: &[],
            stored_as: None,
            rules: Rules::PLAIN,
        }
    }

    /// A cluster-scoped built-in with all verbs and plain rules.
    pub fn cluster(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Self {
        let mut row = Self::namespaced(group, version, kind, plural, singular);
        row.scope = Scope::Cluster;
        row
    }

    /// The resource this row serves.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.group.clone(), resource: self.plural.clone() }
    }

    /// The resource under which its objects are stored.
    pub fn storage(&self) -> GroupResource {
        self.stored_as.clone().unwrap_or_else(|| self.group_resource())
    }

    /// `v1` or `apps/v1`, as in `apiVersion:`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether objects live in namespaces.
    pub fn namespaced_scope(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether clients may do this.
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether this hangs below its objects.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }
}

/// All rows of a running server. Built-ins are there from the start; others are added and removed at run time.
#[derive(Default)]
pub struct Registry {
    rows: RwLock<BTreeMap<(String, String, String), Arc<Kind>>>,
}

impl Registry {
    /// A registry of the built-in rows.
    pub fn with_builtins() -> Self {
        let registry = Self::default();
        for row in crate::kinds::builtins() {
            registry.insert(row);
        }
        registry
    }

    /// Adds or replaces a row.
    pub fn insert(&self, row: Kind) {
        self.rows.write().insert((row.group.to_string(), row.version.to_string(), row.plural.to_string()), Arc::new(row));
    }

    /// Removes a row.
    pub fn remove(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.rows.write().remove(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The row of a path's group, version and plural.
    pub fn by_resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.rows.read().get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// The row of an object's `apiVersion` and `kind`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        self.rows.read().values().find(|row| row.group == group && row.version == version && row.kind == kind).cloned()
    }

    /// The row that stores this resource (its preferred version).
    pub fn by_storage(&self, resource: &GroupResource) -> Option<Arc<Kind>> {
        self.rows
            .read()
            .values()
            .find(|row| row.stored_as.is_none() && row.group == resource.group && row.plural == resource.resource)
            .cloned()
    }

    /// Every row, ordered by group, version and plural.
    pub fn all(&self) -> Vec<Arc<Kind>> {
        self.rows.read().values().cloned().collect()
    }
}
