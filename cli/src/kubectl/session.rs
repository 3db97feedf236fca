//! One command's conversation with a server: requests, warnings, discovery, what flags of every verb ask for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use serde_json::Value;
use tokio::sync::OnceCell;
use trierarch_client::{Client, Error as ClientError, Request, Response};

use super::clock;
use super::config::{self, Connection};
use super::discovery::Discovery;
use super::globals::Globals;
use super::output::note;

/// How much of a body `-v=8` shows.
const SHOWN_BODY_MAX: usize = 10_240;

/// A conversation.
pub struct Session {
    /// The client below it.
    pub client: Client,
    /// The namespace to work in.
    pub namespace: String,
    /// Whether a flag named it.
    pub namespace_given: bool,
    /// The flags of every verb.
    pub globals: Globals,
    discovery: OnceCell<Arc<Discovery>>,
    warned: RefCell<BTreeSet<String>>,
}

impl Session {
    /// Reads the configuration. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`config::connect`].
    pub fn open(globals: &Globals) -> anyhow::Result<Self> {
        let Connection { client, namespace } = config::connect(globals)?;
        Ok(Self {
            client,
            namespace,
            namespace_given: globals.namespace.is_some(),
            globals: globals.clone(),
            discovery: OnceCell::new(),
            warned: RefCell::default(),
        })
    }

    /// What the server has; asked for once.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn discovery(&self) -> anyhow::Result<Arc<Discovery>> {
        let found = self.discovery.get_or_try_init(|| async { Discovery::fetch(self).await.map(Arc::new) }).await?;
        Ok(Arc::clone(found))
    }

    /// Refuses a verb whose connections carry no headers of ours, when the user wants to be somebody else.
    ///
    /// # Errors
    /// With what to use instead.
    pub fn refuse_impersonation(&self, verb: &str) -> anyhow::Result<()> {
        if self.globals.as_user.is_some() {
            anyhow::bail!("this kubectl cannot act as another user in {verb}: use the real kubectl");
        }
        Ok(())
    }

    fn prepare(&self, mut request: Request) -> Request {
        if let Some(user) = &self.globals.as_user {
            request.headers.push(("Impersonate-User".to_owned(), user.clone()));
        }
        for group in &self.globals.as_group {
            request.headers.push(("Impersonate-Group".to_owned(), group.clone()));
        }
        if let Some(uid) = &self.globals.as_uid {
            request.headers.push(("Impersonate-Uid".to_owned(), uid.clone()));
        }
        if self.globals.verbosity >= 8
            && let Some(body) = &request.body
        {
            note(format!("Request Body: {}", shortened(body)));
        }
        request
    }

    /// Sends a request; a refusal is an error.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn send(&self, request: Request) -> anyhow::Result<Response> {
        let request = self.prepare(request);
        let (method, path) = (request.method.clone(), request.path.clone());
        let start = clock::instant();
        let outcome = self.client.request(request).await;
        if self.globals.verbosity >= 6 {
            let status = match &outcome {
                Ok(response) => response.status.to_string(),
                Err(ClientError::Api(error)) => error.reason.code().to_string(),
                Err(error) => error.to_string(),
            };
            note(format!("{method} {}{path} {status} in {} milliseconds", self.client.server(), start.elapsed().as_millis()));
        }
        let response = outcome?;
        for warning in response.headers.get_all("warning") {
            self.warn(warning.to_str().unwrap_or_default());
        }
        if self.globals.verbosity >= 8 {
            note(format!("Response Body: {}", shortened(&response.body)));
        }
        Ok(response)
    }

    fn warn(&self, header: &str) {
        if let Some(text) = warning_text(header)
            && self.warned.borrow_mut().insert(text.clone())
        {
            note(format!("Warning: {text}"));
        }
    }

    /// How many warnings the server gave.
    pub fn warnings(&self) -> usize {
        self.warned.borrow().len()
    }

    /// Sends a request and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`Session::send`], or when the answer is no JSON.
    pub async fn json(&self, request: Request) -> anyhow::Result<Value> {
        let response = self.send(request).await?;
        serde_json::from_slice(&response.body).map_err(|error| ClientError::Decode(error.to_string()).into())
    }

    /// Reads the object at a path.
    ///
    /// # Errors
    /// As [`Session::json`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Request::get(path)).await
    }

    /// Sends a request and returns the body as it comes.
    ///
    /// # Errors
    /// As [`Client::stream`].
    pub async fn stream(
        &self,
        request: Request,
    ) -> anyhow::Result<impl Stream<Item = Result<bytes::Bytes, std::io::Error>> + Send + Unpin + use<>> {
        Ok(self.client.stream(self.prepare(request)).await?)
    }

    /// How long one request may take, if there is a limit.
    pub fn request_timeout(&self) -> Option<Duration> {
        self.globals.request_limit().ok().filter(|limit| !limit.is_zero())
    }
}

fn shortened(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match text.char_indices().nth(SHOWN_BODY_MAX) {
        Some((end, _)) => format!("{} [truncated {} chars]", &text[..end], text.len() - end),
        None => text.into_owned(),
    }
}

/// The text of a `Warning` header: `299 - "text"` (`Spec:` RFC 7234, 5.5).
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.splitn(3, ' ').nth(2)?.strip_prefix('"')?;
    let mut text = String::new();
    let mut letters = quoted.chars();
    loop {
        match letters.next()? {
            '"' => return Some(text),
            '\\' => text.push(letters.next()?),
            letter => text.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(warning_text("299 - \"a \\\"b\\\" c\"").as_deref(), Some("a \"b\" c"));
        assert_eq!(warning_text("299 -"), None);
    }
}
