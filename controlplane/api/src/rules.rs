//! What a kind decides beyond its schema: pure functions on JSON, all optional.

use serde_json::Value;

use crate::problem::Problems;

/// What a rule may know of the request.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    /// Authenticated user.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// When the request came.
    pub now: jiff::Timestamp,
}

/// A column of the Table form (`Spec:` meta.k8s.io/v1 TableColumnDefinition).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the first column, else usually empty.
    pub format: &'static str,
    /// 0 is always shown; higher ones only with `-o wide`.
    pub priority: i32,
    /// What the column tells.
    pub description: &'static str,
}

impl Column {
    /// A column that is always shown.
    pub const fn new(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        Self { name, kind, format: "", priority: 0, description }
    }

    /// A column of `-o wide`.
    pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        Self { name, kind, format: "", priority: 1, description }
    }
}

/// The name column that every table begins with.
pub const NAME_COLUMN: Column =
    Column { name: "Name", kind: "string", format: "name", priority: 0, description: "Name must be unique within a namespace." };
/// The age column that most tables end with. Its cell is rendered by the caller from `metadata.creationTimestamp`.
pub const AGE_COLUMN: Column =
    Column::new("Age", "string", "CreationTimestamp is a timestamp representing the server time when this object was created.");

/// A kind's decisions. Every function is pure and total: bad input becomes problems, never a panic.
///
/// Order on create: `default`, `prepare_create`, schema validation, `validate`. On update: `default`, `prepare_update(new, old)`,
/// schema validation, `validate`, `validate_update(new, old)`. On a `status` update: `prepare_status(new, old)` replaces
/// `prepare_update` and `validate_status` replaces both validations.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Fills what a client may leave out. Idempotent.
    pub default: fn(&mut Value),
    /// Drops what a client may not set on create (status, generation) and sets what the server decides.
    pub prepare_create: fn(&mut Value, &RequestFacts),
    /// Keeps what this verb may not change (status) and bumps `metadata.generation`.
    pub prepare_update: fn(&mut Value, &Value, &RequestFacts),
    /// Keeps everything but the status.
    pub prepare_status: fn(&mut Value, &Value, &RequestFacts),
    /// Problems of an object by itself.
    pub validate: fn(&Value, &mut Problems),
    /// Problems of a new object beside those of any.
    pub validate_create: fn(&Value, &mut Problems),
    /// Problems of a change (immutable fields).
    pub validate_update: fn(&Value, &Value, &mut Problems),
    /// Problems of a new status.
    pub validate_status: fn(&Value, &Value, &mut Problems),
    /// What every request for the resource is warned of; empty: nothing.
    pub deprecated: &'static str,
    /// Texts for `Warning:` headers.
    pub warnings: fn(&Value) -> Vec<String>,
    /// The Table's columns, [`NAME_COLUMN`] first.
    pub columns: &'static [Column],
    /// The Table's cells, one for each column.
    pub cells: fn(&Value, jiff::Timestamp) -> Vec<Value>,
    /// The value of a selectable field beside `metadata.name` and `metadata.namespace`; `None` when the kind knows no such field.
    pub field: fn(&Value, &str) -> Option<String>,
    /// Whether the kind names its selectable fields itself, as [`Rules::field`] knows them.
    pub own_fields: bool,
    /// How the object's name is checked (`Spec:` Kubernetes "Object Names and IDs").
    pub name: NameRule,
    /// Spec fields in which a change bumps `metadata.generation`; `None`: the kind has no generation.
    pub has_generation: bool,
    /// Whether names are allowed to be created by update (`Lease`, `Endpoints`, ...).
    pub create_on_update: bool,
    /// Whether an update may leave out `metadata.resourceVersion`.
    pub unconditional_update: bool,
    /// Whether a change from one state of the object to another (`None`: it is not there) may be acknowledged before it is on disk: what is
    /// lost when a majority of masters lose their power at once must be of no use after that.
    pub volatile: fn(Option<&Value>, Option<&Value>) -> bool,
}

/// What a name must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 bytes.
    DnsSubdomain,
    /// RFC 1123 label, at most 63 bytes.
    DnsLabel,
    /// RFC 1035 label: as above, but does not begin with a digit.
    Dns1035Label,
    /// Any path segment (`Role`s and the like).
    PathSegment,
}

impl Rules {
    /// No behaviour of its own: name and age columns, spec and status kept apart, generation when there is a spec.
    pub const PLAIN: Self = Self {
        default: |_| {},
        prepare_create: drop_status,
        prepare_update: keep_status,
        prepare_status: keep_all_but_status,
        validate: |_, _| {},
        validate_create: |_, _| {},
        validate_update: |_, _, _| {},
        validate_status: |_, _, _| {},
        deprecated: "",
        warnings: |_| Vec::new(),
        columns: &[NAME_COLUMN, AGE_COLUMN],
        cells: crate::kinds::name_and_age,
        field: |_, _| None,
        own_fields: false,
        name: NameRule::DnsSubdomain,
        has_generation: false,
        create_on_update: false,
        unconditional_update: true,
        volatile: |_, _| false,
    };
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("columns", &self.columns.len()).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Removes `status`: clients do not set it on create.
pub fn drop_status(object: &mut Value, _: &RequestFacts) {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
}

/// [`drop_status`] for kinds that count generations: the first is 1.
pub fn first_generation(object: &mut Value, facts: &RequestFacts) {
    drop_status(object, facts);
    set_generation(object, 1);
}

/// [`keep_status`] for kinds that count generations: a changed `spec` is a new one.
pub fn count_generation(new: &mut Value, old: &Value, facts: &RequestFacts) {
    keep_status(new, old, facts);
    bump_generation(new, old, new.get("spec") != old.get("spec"));
}

/// The old generation, or the next one if something `changed`.
pub fn bump_generation(new: &mut Value, old: &Value, changed: bool) {
    let before = old["metadata"]["generation"].as_i64().unwrap_or(0);
    set_generation(new, if changed { before + 1 } else { before });
}

fn set_generation(object: &mut Value, generation: i64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("generation".to_owned(), generation.into());
    }
}

/// For kinds whose `status` is not a subresource: nothing is dropped.
pub fn as_given(_: &mut Value, _: &RequestFacts) {}

/// [`as_given`] on update.
pub fn as_given_update(_: &mut Value, _: &Value, _: &RequestFacts) {}

/// Puts the old `status` back: only the `status` subresource changes it.
pub fn keep_status(new: &mut Value, old: &Value, _: &RequestFacts) {
    copy_field(new, old, "status");
}

/// Takes everything but `status` and what a status writer may touch in `metadata` from the old object.
pub fn keep_all_but_status(new: &mut Value, old: &Value, _: &RequestFacts) {
    let status = new.get("status").cloned();
    let metadata = new.get("metadata").cloned();
    *new = old.clone();
    if let Some(map) = new.as_object_mut() {
        match status {
            Some(status) => map.insert("status".to_owned(), status),
            None => map.remove("status"),
        };
    }
    // labels, annotations, finalizers and managedFields travel with a status write, as upstream's strategies let them
    for field in ["labels", "annotations", "finalizers", "managedFields", "resourceVersion"] {
        let value = metadata.as_ref().and_then(|m| m.get(field)).cloned();
        if let Some(target) = new.get_mut("metadata").and_then(Value::as_object_mut) {
            match value {
                Some(value) => target.insert(field.to_owned(), value),
                None => target.remove(field),
            };
        }
    }
}

/// Makes `new[field]` what it is in `old`.
pub fn copy_field(new: &mut Value, old: &Value, field: &str) {
    if let Some(map) = new.as_object_mut() {
        match old.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}
