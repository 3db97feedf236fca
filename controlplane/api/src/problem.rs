//! What is wrong with an object: every problem with its path, in Kubernetes' wording (`Spec:` apimachinery, field errors).

use std::fmt::Write as _;

use serde_json::Value;

/// A field's path, such as `spec.containers[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// The path of a top-level field.
    pub fn new(field: &str) -> Self {
        Self(field.to_owned())
    }

    /// The object itself.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// The field `name` below this one.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The element at `index`.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The value under `key` of a map.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The sort of a problem; its spelling is the `reason` of a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are apimachinery's")]
pub enum ProblemKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    InternalError,
    TypeInvalid,
}

impl ProblemKind {
    /// The machine-readable cause, as in `status.details.causes[*].reason`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::InternalError => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::InternalError => "Internal error",
        }
    }
}

/// One problem of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Where.
    pub path: Path,
    /// What sort.
    pub kind: ProblemKind,
    /// The offending value, where the wording shows it.
    pub value: Value,
    /// What is expected.
    pub detail: String,
}

impl Problem {
    /// The cause's message: the wording without the path.
    pub fn message(&self) -> String {
        let mut text = self.kind.words().to_owned();
        let shows_value = !matches!(
            self.kind,
            ProblemKind::Required | ProblemKind::Forbidden | ProblemKind::TooLong | ProblemKind::TooMany | ProblemKind::InternalError
        );
        if shows_value {
            // Go prints strings quoted, objects as JSON, null as null
            let _ = write!(text, ": {}", self.value);
        }
        if !self.detail.is_empty() {
            let _ = write!(text, ": {}", self.detail);
        }
        text
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}

/// Collects problems; nothing stops at the first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    fn push(&mut self, path: &Path, kind: ProblemKind, value: Value, detail: impl Into<String>) {
        self.0.push(Problem { path: path.clone(), kind, value, detail: detail.into() });
    }

    /// A field that must be there.
    pub fn required(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(path, ProblemKind::Required, Value::Null, detail);
    }

    /// A value that is not allowed.
    pub fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, ProblemKind::Invalid, value.into(), detail);
    }

    /// One value and everything that is said against it.
    pub fn all_invalid(&mut self, path: &Path, value: impl Into<Value>, details: Vec<String>) {
        if details.is_empty() {
            return;
        }
        let value = value.into();
        for detail in details {
            self.push(path, ProblemKind::Invalid, value.clone(), detail);
        }
    }

    /// A value of the wrong type.
    pub fn type_invalid(&mut self, path: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, ProblemKind::TypeInvalid, value.into(), detail);
    }

    /// A value that occurs twice.
    pub fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.push(path, ProblemKind::Duplicate, value.into(), "");
    }

    /// A value that occurs twice, and what must be different.
    pub fn duplicate_because(&mut self, path: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, ProblemKind::Duplicate, value.into(), detail);
    }

    /// A field that may not be set (or changed) here.
    pub fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(path, ProblemKind::Forbidden, Value::Null, detail);
    }

    /// A value outside an enumeration; `supported` is listed in its given order.
    pub fn not_supported(&mut self, path: &Path, value: impl Into<Value>, supported: &[&str]) {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", "))
        };
        self.push(path, ProblemKind::NotSupported, value.into(), detail);
    }

    /// A reference to something that is not there.
    pub fn not_found(&mut self, path: &Path, value: impl Into<Value>) {
        self.push(path, ProblemKind::NotFound, value.into(), "");
    }

    /// More than `max` bytes.
    pub fn too_long(&mut self, path: &Path, max_bytes: usize) {
        self.push(path, ProblemKind::TooLong, Value::Null, format!("may not be more than {max_bytes} bytes"));
    }

    /// More than `max` items.
    pub fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        self.push(path, ProblemKind::TooMany, actual.into(), format!("must have at most {max} items"));
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
