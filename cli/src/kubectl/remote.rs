//! A process in a container: its streams over a WebSocket.
//!
//! `Spec:` KEP-4006: the first byte of a message names its channel; `v5.channel.k8s.io` can close standard input.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::signal::unix::{SignalKind, signal};
use trierarch_client::upgrade::Frame;

use super::discovery::escape;
use super::errors::{Exit, Plain};
use super::output::note;
use super::session::Session;
use super::terminal::{self, Raw};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
const READ_MAX: usize = 32 * 1024;

/// What is asked of a container.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// `exec` or `attach`.
    pub verb: &'static str,
    /// The pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The container; empty for the only one.
    pub container: String,
    /// The command, for `exec`.
    pub command: Vec<String>,
    /// Whether standard input is sent.
    pub stdin: bool,
    /// Whether the process has a terminal.
    pub tty: bool,
}

impl Ask {
    /// The address of the upgrade.
    fn path(&self) -> String {
        let mut parts: Vec<String> = self.command.iter().map(|word| format!("command={}", escape(word))).collect();
        if !self.container.is_empty() {
            parts.push(format!("container={}", escape(&self.container)));
        }
        if self.stdin {
            parts.push("stdin=true".to_owned());
        }
        parts.push("stdout=true".to_owned());
        // a terminal has one output
        if self.tty {
            parts.push("tty=true".to_owned());
        } else {
            parts.push("stderr=true".to_owned());
        }
        format!("/api/v1/namespaces/{}/pods/{}/{}?{}", escape(&self.namespace), escape(&self.pod), self.verb, parts.join("&"))
    }
}

/// Where the output of a process goes.
pub trait Sink {
    /// Takes output.
    ///
    /// # Errors
    /// When it can take no more.
    fn stdout(&mut self, bytes: &[u8]) -> anyhow::Result<()>;
    /// Takes error output.
    ///
    /// # Errors
    /// When it can take no more.
    fn stderr(&mut self, bytes: &[u8]) -> anyhow::Result<()>;
}

/// The user's own streams.
pub struct Own;

impl Sink for Own {
    fn stdout(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        super::output::emit_bytes(bytes)
    }

    fn stderr(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut out = std::io::stderr().lock();
        out.write_all(bytes).and_then(|()| out.flush())?;
        Ok(())
    }
}

/// Runs a process with the user's streams; its exit code becomes ours.
///
/// # Errors
/// [`Exit`] with the code, or what kept the process from running.
pub async fn interactive(session: &Session, ask: &Ask) -> anyhow::Result<()> {
    let raw = if ask.tty { Raw::enter()? } else { None };
    let outcome = stream(session, ask, tokio::io::stdin(), &mut Own).await;
    drop(raw);
    outcome
}

/// Runs a process with these streams until it ends.
///
/// # Errors
/// [`Exit`] with the code, or what kept the process from running.
pub async fn stream(session: &Session, ask: &Ask, mut input: impl AsyncRead + Unpin, output: &mut impl Sink) -> anyhow::Result<()> {
    session.refuse_impersonation(ask.verb)?;
    let (socket, protocol) = session.client.websocket(&ask.path(), PROTOCOLS).await?;
    let (mut send, mut receive) = socket.split();
    let mut resized = signal(SignalKind::window_change())?;
    if ask.tty
        && let Some(size) = terminal::size()
    {
        send.send(frame(RESIZE, size_text(size).as_bytes())).await?;
    }
    let mut buffer = vec![0; READ_MAX];
    let mut reading = ask.stdin;
    loop {
        tokio::select! {
            message = receive.next() => {
                let Some(message) = message else { return Ok(()) };
                let data = match message? {
                    Frame::Binary(data) => data,
                    Frame::Text(text) => text.into(),
                    Frame::Close(_) => return Ok(()),
                    _ => continue,
                };
                match data.split_first() {
                    Some((&STDOUT, bytes)) => output.stdout(bytes)?,
                    Some((&STDERR, bytes)) => output.stderr(bytes)?,
                    // servers open each channel with an empty message
                    Some((&ERROR, bytes)) if !bytes.is_empty() => return finish(bytes),
                    _ => {}
                }
            }
            count = input.read(&mut buffer), if reading => {
                let count = count?;
                if count > 0 {
                    send.send(frame(STDIN, &buffer[..count])).await?;
                } else {
                    reading = false;
                    if protocol == PROTOCOLS[0] {
                        send.send(Frame::Binary(vec![CLOSE, STDIN].into())).await?;
                    }
                }
            }
            _ = resized.recv(), if ask.tty => {
                if let Some(size) = terminal::size() {
                    send.send(frame(RESIZE, size_text(size).as_bytes())).await?;
                }
            }
        }
    }
}

fn frame(channel: u8, bytes: &[u8]) -> Frame {
    let mut data = Vec::with_capacity(bytes.len() + 1);
    data.push(channel);
    data.extend_from_slice(bytes);
    Frame::Binary(data.into())
}

fn size_text((width, height): terminal::Size) -> String {
    json!({"Width": width, "Height": height}).to_string()
}

/// How the process ended, from the status that the server sent.
fn finish(status: &[u8]) -> anyhow::Result<()> {
    let status: Value = serde_json::from_slice(status).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(());
    }
    let message = status["message"].as_str().unwrap_or("the connection was lost").to_owned();
    if status["reason"] == "NonZeroExitCode" {
        let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let code =
            causes.iter().find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str()?.parse::<i32>().ok());
        if let Some(code) = code {
            note(format!("command terminated with exit code {code}"));
            return Err(Exit(u8::try_from(code & 0xff).unwrap_or(1)).into());
        }
    }
    if status["reason"] == "InternalError" && !message.starts_with("Internal error") {
        return Err(Plain(format!("error: Internal error occurred: {message}")).into());
    }
    Err(anyhow::anyhow!("{message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_says_which_streams() {
        let ask = Ask {
            verb: "exec",
            pod: "p".to_owned(),
            namespace: "n".to_owned(),
            container: "c".to_owned(),
            command: vec!["sh".to_owned(), "-c".to_owned(), "a b".to_owned()],
            stdin: true,
            tty: false,
        };
        assert_eq!(
            ask.path(),
            "/api/v1/namespaces/n/pods/p/exec?command=sh&command=-c&command=a%20b&container=c&stdin=true&stdout=true&stderr=true"
        );
        let attach = Ask { verb: "attach", command: Vec::new(), tty: true, stdin: false, ..ask };
        assert_eq!(attach.path(), "/api/v1/namespaces/n/pods/p/attach?container=c&stdout=true&tty=true");
    }

    #[test]
    fn the_exit_code_becomes_ours() {
        assert!(finish(br#"{"status":"Success"}"#).is_ok());
        let code =
            br#"{"status":"Failure","reason":"NonZeroExitCode","message":"m","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
        let error = finish(code).expect_err("it failed");
        assert_eq!(error.downcast_ref::<Exit>().map(|exit| exit.0), Some(42));
        let text = finish(br#"{"status":"Failure","reason":"InternalError","message":"no such file"}"#).expect_err("it failed").to_string();
        assert_eq!(text, "error: Internal error occurred: no such file");
    }
}
