//! The channels of exec and attach over a WebSocket: the first byte of each message names the channel.
//!
//! `Spec:` KEP-4006 `v5.channel.k8s.io`; `v4.channel.k8s.io` has no close signal; `base64.*` are text forms that are refused.

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

/// The sub-protocols in order of preference.
pub const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];

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
        assert_eq!(choose("v4.channel.k8s.io, v5.channel.k8s.io".split(','), PROTOCOLS), Some("v5.channel.k8s.io"));
        assert_eq!(choose(["channel.k8s.io"].into_iter(), PROTOCOLS), None);
    }

    #[test]
    fn exits_become_statuses() {
        assert_eq!(exit_status(0)["status"], "Success");
        assert_eq!(exit_status(42)["details"]["causes"][0], json!({"reason": "ExitCode", "message": "42"}));
        assert_eq!(parse_size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
    }
}
