//! A sequence of requests as people write it down, and how it is played against a server.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::{Client, Who, lines, whole};
use super::normal::Normal;

/// A file of requests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Sequence {
    /// What the sequence is about.
    pub about: String,
    /// Texts that `${name}` stands for.
    #[serde(default, rename = "let")]
    pub variables: BTreeMap<String, String>,
    /// Whether `metadata.managedFields` are compared.
    #[serde(default)]
    pub managed_fields: bool,
    /// One after the other.
    pub steps: Vec<Step>,
}

/// One request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Step {
    /// Method and path.
    #[serde(rename = "do")]
    pub request: String,
    /// The body, sent as JSON.
    pub body: Option<Value>,
    /// The body as text.
    pub text: Option<String>,
    /// A body of that many bytes, all `x`, within quotes.
    pub big: Option<usize>,
    /// `Content-Type`; JSON for a body unless stated, none if empty.
    #[serde(rename = "type")]
    pub content_type: Option<String>,
    /// `Accept`
    pub accept: Option<String>,
    /// Acts as this user.
    #[serde(rename = "as")]
    pub user: Option<String>,
    /// And in these groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// A bearer token instead of the administrator's credentials; empty for no credentials at all.
    pub bearer: Option<String>,
    /// What later steps refer to: a name, and a JSON pointer into the answer.
    #[serde(default)]
    pub save: BTreeMap<String, String>,
    /// For a watch: how many events to wait for.
    pub events: Option<usize>,
    /// Where we differ on purpose: JSON pointers (`*` for every item), each with the reason.
    #[serde(default)]
    pub leave: BTreeMap<String, String>,
}

/// What a server answered, without what differs from run to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    /// What was asked, for the reader of the file.
    pub request: String,
    /// HTTP status code.
    pub code: u16,
    /// `Content-Type`
    #[serde(rename = "type")]
    pub content_type: String,
    /// `Warning` headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The document, or text, or the events of a watch.
    pub body: Value,
}

impl Sequence {
    /// Sends every request and returns every answer.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn play(&self, client: &Client) -> anyhow::Result<Vec<Answer>> {
        let mut variables = self.variables.clone();
        let mut normal = Normal::new(self.managed_fields);
        let mut answers = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let answer = step.send(client, &mut variables, &mut normal).await;
            answers.push(answer.map_err(|error| error.context(format!("step {index}: {}", step.request)))?);
        }
        Ok(answers)
    }
}

impl Step {
    async fn send(&self, client: &Client, variables: &mut BTreeMap<String, String>, normal: &mut Normal) -> anyhow::Result<Answer> {
        let fill = |text: &str| variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
        let request = fill(&self.request);
        let (method, path) = request.split_once(' ').ok_or_else(|| anyhow::anyhow!("no method and path"))?;
        let body = match (&self.body, &self.text, self.big) {
            (Some(body), _, _) => fill(&body.to_string()),
            (None, Some(text), _) => fill(text),
            (None, None, Some(size)) => format!("\"{}\"", "x".repeat(size)),
            (None, None, None) => String::new(),
        };
        normal.sent(&body);
        let mut headers = vec![("user-agent".to_owned(), "recorder/1".to_owned())];
        let kind = self.content_type.clone().or_else(|| (!body.is_empty()).then(|| "application/json".to_owned()));
        headers.extend(kind.filter(|kind| !kind.is_empty()).map(|kind| ("content-type".to_owned(), kind)));
        headers.extend(self.accept.iter().map(|accept| ("accept".to_owned(), accept.clone())));
        headers.extend(self.user.iter().map(|user| ("impersonate-user".to_owned(), fill(user))));
        headers.extend(self.groups.iter().map(|group| ("impersonate-group".to_owned(), group.clone())));
        let mut who = Who::Admin;
        if let Some(token) = &self.bearer {
            who = Who::Nobody;
            if !token.is_empty() {
                headers.push(("authorization".to_owned(), format!("Bearer {}", fill(token))));
            }
        }
        let response = client.send(who, method, path, &headers, bytes::Bytes::from(body)).await?;
        let text = |name: &str| response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
        let mut answer = Answer {
            request: self.request.clone(),
            code: response.status().as_u16(),
            content_type: text("content-type").next().unwrap_or_default(),
            warnings: text("warning").collect(),
            body: Value::Null,
        };
        answer.body = match self.events.filter(|_| answer.code == 200) {
            Some(wanted) => {
                lines(response, wanted).await?.iter().map(|line| serde_json::from_str::<Value>(line)).collect::<Result<_, _>>()?
            }
            None => {
                let bytes = whole(response).await?;
                serde_json::from_slice(&bytes).unwrap_or_else(|_text| Value::from(String::from_utf8_lossy(&bytes).into_owned()))
            }
        };
        for (name, pointer) in &self.save {
            // a step that did not go as recorded is reported when the answers are compared
            let found = answer.body.pointer(pointer).cloned().unwrap_or_else(|| Value::from("missing"));
            normal.known(name, &found);
            let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            variables.insert(name.clone(), text);
        }
        normal.apply(&mut answer);
        Ok(answer)
    }
}
