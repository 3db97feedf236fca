//! The only error of the API and the only place where it becomes a `Status` (`Spec:` API conventions, "Response Status Kind").

use serde_json::{Map, Value, json};

use crate::kind::{GroupResource, Kind, Verb};
use crate::problem::{Problem, Problems};

/// Why a request was refused, as machines read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the API's")]
pub enum Reason {
    AlreadyExists,
    BadRequest,
    Conflict,
    Expired,
    Forbidden,
    InternalError,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    Timeout,
    TooManyRequests,
    Unauthorized,
    /// An error that upstream does not classify: a message and 500.
    Unknown,
    UnsupportedMediaType,
}

impl Reason {
    /// The HTTP status code.
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::Unknown => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The spelling in `status.reason`.
    pub fn as_str(self) -> String {
        if self == Self::Unknown { String::new() } else { format!("{self:?}") }
    }
}

/// One entry of `status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Path of the field, if it is about one.
    pub field: String,
}

/// A refused or failed request. `message` is for users and keeps Kubernetes' wording; `detail` is for the operator's log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Why.
    pub reason: Reason,
    /// What the user reads.
    pub message: String,
    /// Name of the object, if it is about one.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its plural (or, for `Invalid`, its kind), as upstream fills `details.kind`.
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// Every cause.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: Option<u32>,
    /// For the log only.
    pub detail: String,
}

impl ApiError {
    /// An error with no object.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: None,
            detail: String::new(),
        }
    }

    fn about(reason: Reason, resource: &GroupResource, name: &str, message: String) -> Self {
        Self { name: name.to_owned(), group: resource.group.to_string(), kind: resource.resource.to_string(), ..Self::new(reason, message) }
    }

    /// 404: no such object.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::about(Reason::NotFound, resource, name, format!("{resource} {name:?} not found"))
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        Self::new(Reason::NotFound, "the server could not find the requested resource")
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, resource, name, format!("{resource} {name:?} already exists"))
    }

    /// 409: the object changed under the writer.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        Self::about(Reason::Conflict, resource, name, format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"))
    }

    /// 409 with upstream's text for a stale `resourceVersion`.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        Self::conflict(resource, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    /// 403: not allowed.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = if resource.resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {name:?} is forbidden: {why}")
        };
        Self::about(Reason::Forbidden, resource, name, message)
    }

    /// 400: unreadable.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 405: the row does not offer the verb.
    pub fn method_not_allowed(resource: &GroupResource, verb: Verb) -> Self {
        Self::about(
            Reason::MethodNotAllowed,
            resource,
            "",
            format!("{} is not supported on resources of kind {:?}", verb.as_str(), resource.to_string()),
        )
    }

    /// 422: every problem, with its path.
    pub fn invalid(kind: &Kind, name: &str, problems: &Problems) -> Self {
        let qualified = if kind.group.is_empty() { kind.kind.to_string() } else { format!("{}.{}", kind.kind, kind.group) };
        let texts: Vec<String> = problems.0.iter().map(Problem::to_string).collect();
        let summary = match texts.as_slice() {
            [] => String::new(),
            [only] => only.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Self {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.kind.to_string(),
            causes: problems
                .0
                .iter()
                .map(|problem| Cause {
                    reason: problem.kind.reason().to_owned(),
                    message: problem.message(),
                    field: problem.path.to_string(),
                })
                .collect(),
            ..Self::new(Reason::Invalid, format!("{qualified} {name:?} is invalid: {summary}"))
        }
    }

    /// 410: the watch or list position is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 500: our bug. The detail goes to the log.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let text = message.to_string();
        Self {
            causes: vec![Cause { reason: String::new(), message: text.clone(), field: String::new() }],
            detail: text.clone(),
            ..Self::new(Reason::InternalError, format!("Internal error occurred: {text}"))
        }
    }

    /// 500 without a reason, for what upstream reports as a plain error.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Reason::Unknown, message)
    }

    /// 503: no quorum, or shutting down.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after_seconds: Some(1), ..Self::new(Reason::ServiceUnavailable, message) }
    }

    /// The wire form.
    pub fn to_status(&self) -> Value {
        let mut details = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                details.insert(key.to_owned(), Value::String(text.clone()));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let mut entry = Map::new();
                for (key, text) in [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)] {
                    if !text.is_empty() {
                        entry.insert(key.to_owned(), Value::String(text.clone()));
                    }
                }
                Value::Object(entry)
            });
            details.insert("causes".to_owned(), causes.collect());
        }
        if let Some(seconds) = self.retry_after_seconds {
            details.insert("retryAfterSeconds".to_owned(), seconds.into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.as_str(), "code": self.reason.code(),
        });
        if self.reason == Reason::Unknown
            && let Some(status) = status.as_object_mut()
        {
            status.remove("reason");
        }
        // upstream writes an empty object for errors that are built with details, and nothing for the others
        let always = match self.reason {
            Reason::AlreadyExists
            | Reason::Conflict
            | Reason::Forbidden
            | Reason::Invalid
            | Reason::MethodNotAllowed
            | Reason::NotFound => true,
            // those that a path met before its handler
            Reason::NotAcceptable | Reason::UnsupportedMediaType => self.message.starts_with(&self.reason.code().to_string()),
            _ => false,
        };
        if always || !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }

    /// Reads a `Status` that a server sent.
    pub fn from_status(status: &Value, code: u16) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let details = &status["details"];
        let named = text(&status["reason"]);
        let reason = ALL_REASONS
            .iter()
            .copied()
            .find(|reason| !named.is_empty() && reason.as_str() == named)
            .or_else(|| ALL_REASONS.iter().copied().find(|reason| reason.code() == code))
            .unwrap_or(if code < 500 { Reason::BadRequest } else { Reason::InternalError });
        Self {
            name: text(&details["name"]),
            group: text(&details["group"]),
            kind: text(&details["kind"]),
            uid: text(&details["uid"]),
            causes: details["causes"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|cause| Cause { reason: text(&cause["reason"]), message: text(&cause["message"]), field: text(&cause["field"]) })
                .collect(),
            retry_after_seconds: details["retryAfterSeconds"].as_u64().and_then(|seconds| u32::try_from(seconds).ok()),
            ..Self::new(reason, text(&status["message"]))
        }
    }
}

const ALL_REASONS: &[Reason] = &[
    Reason::BadRequest,
    Reason::Unauthorized,
    Reason::Forbidden,
    Reason::NotFound,
    Reason::MethodNotAllowed,
    Reason::NotAcceptable,
    Reason::Conflict,
    Reason::AlreadyExists,
    Reason::Expired,
    Reason::RequestEntityTooLarge,
    Reason::UnsupportedMediaType,
    Reason::Invalid,
    Reason::TooManyRequests,
    Reason::InternalError,
    Reason::ServiceUnavailable,
    Reason::Timeout,
];
