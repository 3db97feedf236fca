//! The channels of exec and attach over a WebSocket: the first byte of each message names the channel.
//!
//! `Spec:` KEP-4006 `v5.channel.k8s.io`; `v4.channel.k8s.io` has no close signal; before version 4 the error channel carries plain text;
//! `base64.*` are forms for clients that can only send text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// One `Status` at the end.
pub const ERROR: u8 = 3;
/// `{"Width": .., "Height": ..}`.
pub const RESIZE: u8 = 4;
/// v5: the second byte names a channel that the sender closes.
pub const CLOSE: u8 = 255;

/// How the messages of a sub-protocol look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The sub-protocol's name; empty for a client that named none.
    pub protocol: &'static str,
    /// Messages are text: a digit for the channel, then base64.
    pub base64: bool,
    /// The error channel carries a `Status` at the end; otherwise plain text, and only after a failure.
    pub status: bool,
}

/// The dialects of exec and attach in order of preference.
pub const DIALECTS: &[Dialect] = &[
    Dialect { protocol: "v5.channel.k8s.io", base64: false, status: true },
    Dialect { protocol: "v4.channel.k8s.io", base64: false, status: true },
    Dialect { protocol: "v4.base64.channel.k8s.io", base64: true, status: true },
    Dialect { protocol: "channel.k8s.io", base64: false, status: false },
    Dialect { protocol: "base64.channel.k8s.io", base64: true, status: false },
    Dialect { protocol: "", base64: false, status: false },
];

impl Dialect {
    /// The best of the offered sub-protocols (a list as in the header); no offer at all stands for the oldest one.
    pub fn choose(offered: &str) -> Option<Self> {
        DIALECTS.iter().copied().find(|dialect| offered.split(',').any(|o| o.trim() == dialect.protocol))
    }

    /// A message of a channel: bytes, or text where the dialect wants it.
    pub fn encode(&self, channel: u8, data: &[u8]) -> Encoded {
        if self.base64 {
            return Encoded::Text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(data)));
        }
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend_from_slice(data);
        Encoded::Binary(message)
    }

    /// The channel and the content of a client's message; `None` for one that means nothing.
    pub fn decode(&self, message: &[u8]) -> Option<(u8, Vec<u8>)> {
        let (first, rest) = message.split_first()?;
        if self.base64 {
            return Some((first.checked_sub(b'0')?, STANDARD.decode(rest).ok()?));
        }
        Some((*first, rest.to_vec()))
    }

    /// What the error channel says at the end, if anything.
    pub fn last_word(&self, status: &Value) -> Option<Vec<u8>> {
        if self.status {
            return Some(status.to_string().into_bytes());
        }
        (status["status"] != "Success").then(|| status["message"].as_str().unwrap_or_default().as_bytes().to_vec())
    }
}

/// A message as a WebSocket carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// For a binary message.
    Binary(Vec<u8>),
    /// For a text message.
    Text(String),
}

/// The offered sub-protocol to use.
pub fn choose<'a>(offered: impl Iterator<Item = &'a str> + Clone, ours: &[&'static str]) -> Option<&'static str> {
    ours.iter().copied().find(|own| offered.clone().any(|o| o.trim() == *own))
}

/// What the error channel says about an exit.
pub fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

/// What the error channel says when the process could not be run.
pub fn failure(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "details": {"causes": [{"message": message}]}, "code": 500})
}

/// A terminal size as the resize channel carries it.
pub fn parse_size(message: &[u8]) -> Option<(u16, u16)> {
    let value: Value = serde_json::from_slice(message).ok()?;
    let get = |name: &str| value[name].as_u64().and_then(|n| u16::try_from(n).ok());
    Some((get("Width")?, get("Height")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_prefers_the_newest() {
        let choose = |offered: &str| Dialect::choose(offered).map(|d| d.protocol);
        assert_eq!(choose("channel.k8s.io, v4.channel.k8s.io, v5.channel.k8s.io"), Some("v5.channel.k8s.io"));
        assert_eq!((choose("channel.k8s.io"), choose(""), choose("v9.channel.k8s.io")), (Some("channel.k8s.io"), Some(""), None));
    }

    #[test]
    fn dialects_frame_their_messages() {
        let dialect = |offered: &str| Dialect::choose(offered).unwrap();
        assert_eq!(dialect("channel.k8s.io").encode(STDOUT, b"hi"), Encoded::Binary(b"\x01hi".to_vec()));
        assert_eq!(dialect("base64.channel.k8s.io").encode(STDOUT, b"hi"), Encoded::Text("1aGk=".to_owned()));
        assert_eq!(dialect("v4.base64.channel.k8s.io").decode(b"0aGk="), Some((STDIN, b"hi".to_vec())));
        assert_eq!(dialect("v4.base64.channel.k8s.io").decode(b"0?"), None);
        assert_eq!(dialect("v4.channel.k8s.io").decode(b"\x04{}"), Some((RESIZE, b"{}".to_vec())));
    }

    #[test]
    fn old_dialects_speak_of_failures_only() {
        let old = Dialect::choose("channel.k8s.io").unwrap();
        assert_eq!(old.last_word(&exit_status(0)), None);
        assert_eq!(old.last_word(&exit_status(2)), Some(b"command terminated with non-zero exit code: exit status 2".to_vec()));
        assert!(Dialect::choose("v4.channel.k8s.io").unwrap().last_word(&exit_status(0)).is_some());
    }

    #[test]
    fn exits_become_statuses() {
        assert_eq!(exit_status(0)["status"], "Success");
        assert_eq!(exit_status(42)["details"]["causes"][0], json!({"reason": "ExitCode", "message": "42"}));
        assert_eq!(parse_size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
    }
}
