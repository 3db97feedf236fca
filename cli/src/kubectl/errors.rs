//! How failures read, and the exit code they end with, in the words of the real kubectl (scripts match on them).

use trierarch_api::{ApiError, Reason};
use trierarch_client::Error as ClientError;

/// Ends the program with this code; everything has been said.
#[derive(Debug, thiserror::Error)]
#[error("exit status {0}")]
pub struct Exit(pub u8);

/// A mistake in how the command was written.
#[derive(Debug, thiserror::Error)]
#[error("{message}\nSee 'kubectl {verb} -h' for help and examples")]
pub struct Usage {
    /// Which verb.
    pub verb: &'static str,
    /// What is wrong.
    pub message: String,
}

/// Several failures, each a line.
#[derive(Debug, thiserror::Error)]
#[error("{} failures", .0.len())]
pub struct Many(pub Vec<anyhow::Error>);

/// A text that is printed as it is, without `error: ` before it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Plain(pub String);

/// No resource answers to a name.
#[derive(Debug, thiserror::Error)]
#[error("the server doesn't have a resource type {0:?}")]
pub struct NoResource(pub String);

/// Nothing when there is no failure, the failure itself when there is one, else all of them.
///
/// # Errors
/// What was put in.
pub fn aggregate(mut failures: Vec<anyhow::Error>) -> anyhow::Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => failures.pop().map_or(Ok(()), Err),
        _ => Err(Many(failures).into()),
    }
}

/// Says in which file the object of a failed request stands.
pub fn with_source(error: anyhow::Error, doing: &str, source: Option<&str>) -> anyhow::Error {
    let Some(source) = source else { return error };
    match error.downcast::<ClientError>() {
        Ok(ClientError::Api(mut refused)) => {
            refused.message = format!("error when {doing} {source:?}: {}", refused.message);
            ClientError::Api(refused).into()
        }
        Ok(other) => anyhow::anyhow!("error when {doing} {source:?}: {other}"),
        Err(other) => anyhow::anyhow!("error when {doing} {source:?}: {other:#}"),
    }
}

/// The refusal of a server, if the failure is one.
pub fn api(error: &anyhow::Error) -> Option<&ApiError> {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Api(refused)) => Some(refused),
        _ => error.downcast_ref::<ApiError>(),
    }
}

/// A refusal for this reason.
pub fn is(error: &anyhow::Error, reason: Reason) -> bool {
    api(error).is_some_and(|refused| refused.reason == reason)
}

/// What a user reads about a failure, and the exit code.
pub fn explain(error: &anyhow::Error) -> (String, u8) {
    if let Some(Exit(code)) = error.downcast_ref() {
        return (String::new(), *code);
    }
    if let Some(Plain(text)) = error.downcast_ref() {
        return (text.clone(), 1);
    }
    if let Some(Many(failures)) = error.downcast_ref() {
        return (failures.iter().map(message).collect::<Vec<_>>().join("\n"), 1);
    }
    if let Some(refused) = api(error)
        && refused.reason == Reason::Invalid
    {
        return (invalid(refused), 1);
    }
    let text = standard(error).unwrap_or_else(|| {
        let text = format!("{error:#}");
        if text.starts_with("error: ") { text } else { format!("error: {text}") }
    });
    (text, 1)
}

/// One failure among several: no `error: ` before it.
pub fn message(error: &anyhow::Error) -> String {
    standard(error).unwrap_or_else(|| format!("{error:#}"))
}

fn standard(error: &anyhow::Error) -> Option<String> {
    if let Some(refused) = api(error) {
        // what an HTTP server says by itself about an address that it does not know
        if refused.reason == Reason::NotFound && refused.message.trim() == "404 page not found" {
            return Some("Error from server (NotFound): the server could not find the requested resource".to_owned());
        }
        return Some(match refused.reason {
            Reason::Unauthorized => format!("error: You must be logged in to the server ({})", refused.message),
            reason => format!("Error from server ({}): {}", reason.as_str(), refused.message),
        });
    }
    match error.downcast_ref::<ClientError>()? {
        ClientError::Transport { server, reason, .. } if reason.to_lowercase().contains("connection refused") => {
            let host = server.split_once("://").map_or(server.as_str(), |(_, host)| host).trim_end_matches('/');
            Some(format!("The connection to the server {host} was refused - did you specify the right host or port?"))
        }
        ClientError::Transport { reason, .. } => Some(format!("Unable to connect to the server: {reason}")),
        _ => None,
    }
}

fn invalid(refused: &ApiError) -> String {
    let mut text = "The request is invalid".to_owned();
    if !refused.kind.is_empty() || !refused.name.is_empty() {
        text = format!("The {} {:?} is invalid", refused.kind, refused.name);
    } else if refused.causes.is_empty() && !refused.message.is_empty() {
        text = format!("{text}: {}", refused.message);
    }
    let mut causes: Vec<String> = Vec::new();
    for cause in &refused.causes {
        let line = format!("{}: {}", cause.field, cause.message);
        if !causes.contains(&line) {
            causes.push(line);
        }
    }
    match causes.as_slice() {
        [] => text,
        [one] => format!("{text}: {one}"),
        many => format!("{text}: \n{}", many.iter().map(|line| format!("* {line}")).collect::<Vec<_>>().join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(status: &serde_json::Value, code: u16) -> anyhow::Error {
        ClientError::Api(ApiError::from_status(status, code)).into()
    }

    #[test]
    fn refusals_read_as_kubectl_writes_them() {
        let missing = refused(&json!({"reason": "NotFound", "message": "pods \"x\" not found"}), 404);
        assert_eq!(explain(&missing), ("Error from server (NotFound): pods \"x\" not found".to_owned(), 1));
        let one = json!({"reason": "Invalid", "message": "long", "details": {"kind": "Pod", "name": "x", "causes": [{"field": "spec.a", "message": "Required value"}]}});
        assert_eq!(explain(&refused(&one, 422)).0, "The Pod \"x\" is invalid: spec.a: Required value");
        let two = json!({"reason": "Invalid", "message": "long", "details": {"kind": "Pod", "name": "x",
            "causes": [{"field": "a", "message": "m"}, {"field": "b", "message": "n"}, {"field": "b", "message": "n"}]}});
        assert_eq!(explain(&refused(&two, 422)).0, "The Pod \"x\" is invalid: \n* a: m\n* b: n");
        let who = refused(&json!({"reason": "Unauthorized", "message": "Unauthorized"}), 401);
        assert_eq!(explain(&who).0, "error: You must be logged in to the server (Unauthorized)");
        let source = with_source(refused(&json!({"reason": "BadRequest", "message": "no"}), 400), "creating", Some("f.yaml"));
        assert_eq!(explain(&source).0, "Error from server (BadRequest): error when creating \"f.yaml\": no");
    }

    #[test]
    fn several_failures_are_lines_and_one_is_itself() {
        assert!(aggregate(Vec::new()).is_ok());
        let one = aggregate(vec![anyhow::anyhow!("first")]).expect_err("it failed");
        assert_eq!(explain(&one).0, "error: first");
        let two = aggregate(vec![anyhow::anyhow!("first"), anyhow::anyhow!("second")]).expect_err("both failed");
        assert_eq!(explain(&two).0, "first\nsecond");
        assert_eq!(explain(&Exit(7).into()), (String::new(), 7));
    }
}
