//! A process whose streams are elsewhere: joins the runtime's descriptors with a client's channels, whatever carries those.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use trierarch_runtime::spec::TerminalSize;
use trierarch_runtime::{ExecSpec, Runtime};

use super::channels::{self, STDERR, STDOUT};

/// Messages that wait on either side.
const QUEUE: usize = 16;
/// A read of a stream.
const CHUNK: usize = 32 * 1024;

/// From the client.
#[derive(Debug)]
pub enum In {
    /// For standard input.
    Stdin(Bytes),
    /// No more of it.
    CloseStdin,
    /// The terminal's new size.
    Resize(u16, u16),
}

/// To the client.
#[derive(Debug)]
pub enum Out {
    /// Of this channel.
    Data(u8, Bytes),
    /// The end.
    Status(Value),
}

/// What a client asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Program and arguments; empty for attach.
    pub command: Vec<String>,
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
}

impl Wanted {
    /// Reads a query; both the kubelet's and the API's names are known.
    pub fn parse(query: &[(String, String)]) -> Self {
        let flag = |names: [&str; 2]| query.iter().any(|(n, v)| names.contains(&n.as_str()) && (v == "1" || v == "true"));
        Self {
            command: query.iter().filter(|(n, _)| n == "command").map(|(_, v)| v.clone()).collect(),
            stdin: flag(["input", "stdin"]),
            stdout: flag(["output", "stdout"]),
            stderr: flag(["error", "stderr"]),
            tty: flag(["tty", "tty"]),
        }
    }
}

/// The two ends that a carrier holds.
pub struct Ends {
    /// What the client sends goes here.
    pub input: mpsc::Sender<In>,
    /// What the client receives comes from here; ends after the status.
    pub output: mpsc::Receiver<Out>,
}

/// Starts the process (or attaches) and returns the carrier's ends.
pub fn start(runtime: Arc<Runtime>, container_id: String, wanted: Wanted) -> Ends {
    let (input, inputs) = mpsc::channel(QUEUE);
    let (outputs, output) = mpsc::channel(QUEUE);
    if wanted.command.is_empty() {
        tokio::spawn(attach(runtime, container_id, wanted, inputs, outputs));
    } else {
        tokio::spawn(exec(runtime, container_id, wanted, inputs, outputs));
    }
    Ends { input, output }
}

async fn exec(runtime: Arc<Runtime>, id: String, wanted: Wanted, inputs: mpsc::Receiver<In>, outputs: mpsc::Sender<Out>) {
    let spec = ExecSpec {
        args: wanted.command.clone(),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !wanted.tty,
        ..ExecSpec::default()
    };
    let started = tokio::task::spawn_blocking(move || runtime.exec(&id, spec)).await;
    let mut handle = match started {
        Ok(Ok(handle)) => handle,
        Ok(Err(error)) => {
            let text = error.start_error().map_or_else(|| error.to_string(), |s| s.message.clone());
            let status = match error.start_error() {
                // A command that can't be executed exits like in a shell, and says why where a shell would: of a status with an exit
                // code, kubectl prints the code alone.
                Some(start) if start.exit_code() != 128 => {
                    let channel = if wanted.stderr && !wanted.tty { channels::STDERR } else { channels::STDOUT };
                    let _ = outputs.send(Out::Data(channel, Bytes::from(format!("{text}\n")))).await;
                    let mut status = channels::exit_status(start.exit_code());
                    status["message"] = Value::String(format!("command terminated with exit code {}: {text}", start.exit_code()));
                    status
                }
                _ => channels::failure(&format!("error executing command in container: {text}")),
            };
            let _ = outputs.send(Out::Status(status)).await;
            return;
        }
        Err(error) => {
            let _ = outputs.send(Out::Status(channels::failure(&error.to_string()))).await;
            return;
        }
    };
    let control = handle.control();
    let terminal = handle.terminal.take();
    let (stdin, stdout) = match terminal {
        Some(master) => (master.try_clone().ok(), Some(master)),
        None => (handle.stdin.take(), handle.stdout.take()),
    };
    let resizer = Arc::clone(&control);
    let feeding = tokio::spawn(feed(inputs, stdin, wanted.tty, move |width, height| {
        if let Err(error) = resizer.resize(TerminalSize { width, height }) {
            tracing::debug!(%error, "Could not resize a terminal");
        }
    }));
    let readers = read_all(stdout, handle.stderr.take(), &outputs);
    let exit = tokio::task::spawn_blocking(move || control.wait(None)).await;
    // Output that was written before the end still comes; a background child that keeps the pipe open does not hold the client.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), futures::future::join_all(readers)).await;
    feeding.abort();
    let status = match exit {
        Ok(Ok(Some(exit))) => channels::exit_status(exit.code),
        Ok(Ok(None)) => channels::failure("the process did not end"),
        Ok(Err(error)) => channels::failure(&error.to_string()),
        Err(error) => channels::failure(&error.to_string()),
    };
    let _ = outputs.send(Out::Status(status)).await;
}

async fn attach(runtime: Arc<Runtime>, id: String, wanted: Wanted, inputs: mpsc::Receiver<In>, outputs: mpsc::Sender<Out>) {
    let (other, target) = (Arc::clone(&runtime), id.clone());
    let attached =
        tokio::task::spawn_blocking(move || other.attach(&target, wanted.stdin, wanted.stdout, wanted.stderr && !wanted.tty)).await;
    let mut handle = match attached {
        Ok(Ok(handle)) => handle,
        Ok(Err(error)) => {
            let _ = outputs.send(Out::Status(channels::failure(&error.to_string()))).await;
            return;
        }
        Err(error) => {
            let _ = outputs.send(Out::Status(channels::failure(&error.to_string()))).await;
            return;
        }
    };
    let feeding = tokio::spawn(feed(inputs, handle.stdin.take(), false, move |width, height| {
        if let Err(error) = runtime.resize_tty(&id, TerminalSize { width, height }) {
            tracing::debug!(%error, "Could not resize a terminal");
        }
    }));
    let readers = read_all(handle.stdout.take(), handle.stderr.take(), &outputs);
    futures::future::join_all(readers).await;
    feeding.abort();
    let _ = outputs.send(Out::Status(channels::exit_status(0))).await;
}

fn read_all(stdout: Option<OwnedFd>, stderr: Option<OwnedFd>, outputs: &mpsc::Sender<Out>) -> Vec<tokio::task::JoinHandle<()>> {
    [(STDOUT, stdout), (STDERR, stderr)]
        .into_iter()
        .filter_map(|(channel, fd)| {
            let (fd, outputs) = (fd?, outputs.clone());
            Some(tokio::task::spawn_blocking(move || {
                let mut file = File::from(fd);
                let mut buffer = vec![0; CHUNK];
                // A terminal whose processes are gone answers with an error: the end, too.
                while let Ok(count) = file.read(&mut buffer) {
                    if count == 0 || outputs.blocking_send(Out::Data(channel, Bytes::copy_from_slice(&buffer[..count]))).is_err() {
                        return;
                    }
                }
            }))
        })
        .collect()
}

async fn feed(mut inputs: mpsc::Receiver<In>, stdin: Option<OwnedFd>, tty: bool, resize: impl Fn(u16, u16) + Send + Sync + 'static) {
    let resize = Arc::new(resize);
    let mut writer = stdin.map(|fd| {
        let (sender, mut chunks) = mpsc::channel::<Bytes>(QUEUE);
        tokio::task::spawn_blocking(move || {
            let mut file = File::from(fd);
            while let Some(chunk) = chunks.blocking_recv() {
                if file.write_all(&chunk).is_err() {
                    return;
                }
            }
        });
        sender
    });
    while let Some(input) = inputs.recv().await {
        match input {
            In::Stdin(bytes) => {
                if let Some(sender) = &writer
                    && sender.send(bytes).await.is_err()
                {
                    writer = None;
                }
            }
            In::CloseStdin => {
                if let (Some(sender), true) = (&writer, tty) {
                    // A terminal has no end of file of its own: the control character stands for it.
                    let _ = sender.send(Bytes::from_static(&[4])).await;
                }
                writer = None;
            }
            In::Resize(width, height) => {
                let resize = Arc::clone(&resize);
                let _ = tokio::task::spawn_blocking(move || resize(width, height)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_query_are_read() {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        let expected = Wanted { command: vec!["ls".into(), "-l".into()], stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(Wanted::parse(&pairs(&[("command", "ls"), ("command", "-l"), ("input", "1"), ("output", "1"), ("tty", "1")])), expected);
        assert_eq!(
            Wanted::parse(&pairs(&[("command", "ls"), ("command", "-l"), ("stdin", "true"), ("stdout", "true"), ("tty", "true")])),
            expected
        );
    }
}
