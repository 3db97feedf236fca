//! Watches: the events of a collection, line by line.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use trierarch_api::ApiError;

use crate::client::{Client, Error, Request};

/// One event (`Spec:` Kubernetes API concepts, "Efficient detection of changes").
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// Created, or now selected.
    Added(Value),
    /// Changed.
    Modified(Value),
    /// Deleted, or no longer selected.
    Deleted(Value),
    /// Everything up to this `resourceVersion` was sent.
    Bookmark(Value),
}

impl WatchEvent {
    /// The object of the event.
    pub fn object(&self) -> &Value {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) | Self::Bookmark(object) => object,
        }
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

fn parse(line: &[u8]) -> Result<WatchEvent, Error> {
    let Line { kind, object } = serde_json::from_slice(line).map_err(|e| Error::Decode(e.to_string()))?;
    match kind.as_str() {
        "ADDED" => Ok(WatchEvent::Added(object)),
        "MODIFIED" => Ok(WatchEvent::Modified(object)),
        "DELETED" => Ok(WatchEvent::Deleted(object)),
        "BOOKMARK" => Ok(WatchEvent::Bookmark(object)),
        "ERROR" => {
            let code = object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
            Err(Error::Api(ApiError::from_status(&object, code)))
        }
        other => Err(Error::Decode(format!("unknown watch event type {other:?}"))),
    }
}

impl Client {
    /// Watches the collection at a path (its query may select and name a `resourceVersion`; `watch=true` is added). The stream ends
    /// when the server ends the watch; an error is its last item.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn watch(&self, path: &str) -> Result<impl Stream<Item = Result<WatchEvent, Error>> + Send + Unpin + use<>, Error> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let body = self.stream(Request::get(format!("{path}{separator}watch=true"))).await?;
        let server = self.server().to_owned();
        Ok(Box::pin(lines(body).map(move |line| match line {
            Ok(line) => parse(&line),
            Err(error) => Err(Error::Transport { server: server.clone(), reason: error.to_string(), unsent: false }),
        })))
    }
}

/// Cuts a body into its non-empty lines.
pub fn lines<S, E>(body: S) -> impl Stream<Item = Result<Bytes, E>>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    struct State<S> {
        body: S,
        buffer: BytesMut,
        // how much of the buffer is known to hold no line end
        scanned: usize,
        ended: bool,
    }
    stream::unfold(State { body, buffer: BytesMut::new(), scanned: 0, ended: false }, |mut state| async move {
        loop {
            if let Some(end) = state.buffer[state.scanned..].iter().position(|byte| *byte == b'\n') {
                let line = state.buffer.split_to(state.scanned + end + 1).freeze();
                state.scanned = 0;
                let line = line.slice(..line.len() - 1);
                if line.is_empty() {
                    continue;
                }
                return Some((Ok(line), state));
            }
            state.scanned = state.buffer.len();
            if state.ended {
                return None;
            }
            match state.body.next().await {
                Some(Ok(chunk)) => state.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => {
                    state.ended = true;
                    state.buffer.clear();
                    state.scanned = 0;
                    return Some((Err(error), state));
                }
                None => {
                    state.ended = true;
                    if !state.buffer.is_empty() {
                        state.scanned = 0;
                        let rest = std::mem::take(&mut state.buffer).freeze();
                        return Some((Ok(rest), state));
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_wherever_chunks_end() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\nrest";
        for size in 1..text.len() {
            let chunks: Vec<Result<Bytes, ()>> = text.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let found: Vec<Bytes> = lines(stream::iter(chunks)).map(|line| line.expect("no error was put in")).collect().await;
            assert_eq!(found, [&b"{\"a\":1}"[..], b"{\"b\":2}", b"rest"], "chunks of {size}");
        }
    }

    #[test]
    fn an_error_event_becomes_its_status() {
        let line = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        assert_eq!(parse(line).expect_err("it is an error").reason(), Some(trierarch_api::Reason::Expired));
    }
}
