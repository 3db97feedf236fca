//! Watching one object until something is true of it.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use trierarch_api::Reason;
use trierarch_client::{Request, watch};

use super::discovery::escape;
use super::errors::{self, Plain};
use super::select::Found;
use super::session::Session;

/// A watch that ended, or was refused because its position is too old, is begun again after this.
const AGAIN: Duration = Duration::from_millis(200);

/// What a look at an object says.
#[derive(Debug, PartialEq)]
pub enum Look {
    /// Go on.
    Wait,
    /// It is as it should be.
    Done,
    /// It can never be.
    Never(String),
}

/// Looks at an object (`None` when it is gone) now and after each change, until `look` is satisfied.
///
/// # Errors
/// When the time is over, the object can never be as wanted, or the server refuses.
pub async fn until(
    session: &Session,
    target: &Found,
    timeout: Duration,
    mut look: impl FnMut(Option<&Value>) -> anyhow::Result<Look>,
) -> anyhow::Result<Value> {
    let follow = async {
        loop {
            let selector = escape(&format!("metadata.name={}", target.name));
            let collection = target.resource.path(target.namespace.as_deref(), "");
            let mut list = session.get(&format!("{collection}?fieldSelector={selector}")).await?;
            let current = super::select::items_of(&target.resource, &mut list).into_iter().next();
            if let Some(outcome) = judge(look(current.as_ref())?, current)? {
                return Ok(outcome);
            }
            let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let path = format!("{collection}?fieldSelector={selector}&resourceVersion={version}&watch=true");
            let body = match session.stream(Request::get(path)).await {
                Err(error) if errors::is(&error, Reason::Expired) => continue,
                outcome => outcome?,
            };
            let mut lines = pin!(watch::lines(body));
            while let Some(Ok(line)) = lines.next().await {
                let mut event: Value = serde_json::from_slice(&line)?;
                let object = event["object"].take();
                let seen = match event["type"].as_str() {
                    Some("ADDED" | "MODIFIED") => Some(object),
                    Some("DELETED") => None,
                    Some("BOOKMARK") => continue,
                    _ => break,
                };
                if let Some(outcome) = judge(look(seen.as_ref())?, seen)? {
                    return Ok(outcome);
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    match tokio::time::timeout(timeout, follow).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            let text = format!("error: timed out waiting for the condition on {}/{}", target.resource.plural, target.name);
            Err(Plain(text).into())
        }
    }
}

fn judge(look: Look, seen: Option<Value>) -> anyhow::Result<Option<Value>> {
    match look {
        Look::Wait => Ok(None),
        Look::Done => Ok(Some(seen.unwrap_or_default())),
        Look::Never(why) => anyhow::bail!("{why}"),
    }
}

/// Waits until an object is gone, or another one has its name.
///
/// # Errors
/// As [`until`].
pub async fn until_gone(session: &Session, target: &Found, uid: Option<&str>, timeout: Duration) -> anyhow::Result<()> {
    until(session, target, timeout, |seen| {
        Ok(match seen {
            None => Look::Done,
            Some(object) if uid.is_some_and(|uid| object["metadata"]["uid"] != uid) => Look::Done,
            Some(_) => Look::Wait,
        })
    })
    .await
    .map(drop)
}
