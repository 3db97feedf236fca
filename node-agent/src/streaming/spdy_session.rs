//! Exec, attach and port-forward over SPDY/3.1 streams.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::channels::{self, STDERR, STDOUT};
use super::remote::{Ends, In, Out, Wanted};
use super::spdy::{Decoder, Encoder, Frame, Headers};

/// What exec and attach speak over SPDY; v5 exists over WebSockets only, v1 to v3 died long ago.
pub const REMOTE_PROTOCOLS: &[&str] = &["v4.channel.k8s.io"];
/// Bytes per data frame.
const CHUNK: usize = 32 * 1024;

struct Writer<T> {
    io: WriteHalf<T>,
    encoder: Encoder,
}

impl<T: AsyncWrite> Writer<T> {
    async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = self.encoder.encode(frame)?;
        self.io.write_all(&bytes).await?;
        self.io.flush().await
    }
}

/// Reads frames until the connection ends.
fn frames<T: AsyncRead + Send + 'static>(mut io: tokio::io::ReadHalf<T>) -> mpsc::Receiver<Frame> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = io.read(&mut buffer).await {
            decoder.push(&buffer[..count]);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        if sender.send(frame).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return tracing::debug!(%error, "Closed a SPDY connection"),
                }
            }
        }
    });
    receiver
}

fn header<'a>(headers: &'a Headers, name: &str) -> &'a str {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).unwrap_or_default()
}

/// Carries a process: waits for the streams the client announced, then joins them with it.
pub async fn carry<T>(io: T, wanted: Wanted, start: impl FnOnce() -> Ends)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let mut frames = frames(read);
    let mut writer = Writer { io: write, encoder: Encoder::default() };
    let mut expected = vec!["error"];
    expected.extend(wanted.stdin.then_some("stdin"));
    expected.extend(wanted.stdout.then_some("stdout"));
    expected.extend((wanted.stderr && !wanted.tty).then_some("stderr"));
    expected.extend(wanted.tty.then_some("resize"));
    let mut streams: HashMap<String, u32> = HashMap::new();
    let mut early = Vec::new();
    while !expected.iter().all(|name| streams.contains_key(*name)) {
        let Ok(Some(frame)) = tokio::time::timeout(std::time::Duration::from_secs(30), frames.recv()).await else { return };
        match frame {
            Frame::SynStream { id, headers, .. } => {
                streams.insert(header(&headers, "streamtype").to_owned(), id);
                if writer.send(&Frame::SynReply { id, fin: false, headers: vec![] }).await.is_err() {
                    return;
                }
            }
            Frame::Ping { id } => drop(writer.send(&Frame::Ping { id }).await),
            frame @ Frame::Data { .. } => early.push(frame),
            _ => {}
        }
    }
    let names: HashMap<u32, String> = streams.iter().map(|(name, id)| (*id, name.clone())).collect();
    let Ends { input, mut output } = start();
    for frame in early {
        deliver(&names, frame, &input).await;
    }
    let mut input = Some(input);
    loop {
        tokio::select! {
            out = output.recv() => {
                let (name, data) = match out {
                    Some(Out::Data(STDOUT, data)) => ("stdout", data),
                    Some(Out::Data(STDERR, data)) => ("stderr", data),
                    Some(Out::Data(..)) => continue,
                    Some(Out::Status(status)) => {
                        finish(&mut writer, &streams, &status).await;
                        return;
                    }
                    None => {
                        finish(&mut writer, &streams, &channels::failure("the process was lost")).await;
                        return;
                    }
                };
                if let Some(id) = streams.get(name) {
                    for part in data.chunks(CHUNK) {
                        if writer.send(&Frame::Data { id: *id, fin: false, data: part.to_vec() }).await.is_err() {
                            return;
                        }
                    }
                }
            }
            frame = frames.recv(), if input.is_some() => match frame {
                Some(Frame::Ping { id }) => drop(writer.send(&Frame::Ping { id }).await),
                Some(Frame::GoAway { .. }) => {}
                Some(frame) => {
                    if let Some(input) = &input {
                        deliver(&names, frame, input).await;
                    }
                }
                // The client is gone: closing standard input usually ends the process; its output has no reader any more.
                None => input = None,
            },
        }
    }
}

async fn deliver(names: &HashMap<u32, String>, frame: Frame, input: &mpsc::Sender<In>) {
    let (id, fin, data) = match frame {
        Frame::Data { id, fin, data } => (id, fin, data),
        Frame::RstStream { id, .. } => (id, true, Vec::new()),
        _ => return,
    };
    // A process that has ended takes nothing more.
    match names.get(&id).map(String::as_str) {
        Some("stdin") => {
            if !data.is_empty() {
                let _ = input.send(In::Stdin(Bytes::from(data))).await;
            }
            if fin {
                let _ = input.send(In::CloseStdin).await;
            }
        }
        Some("resize") => {
            if let Some((width, height)) = channels::parse_size(&data) {
                let _ = input.send(In::Resize(width, height)).await;
            }
        }
        _ => {}
    }
}

async fn finish<T: AsyncWrite>(writer: &mut Writer<T>, streams: &HashMap<String, u32>, status: &serde_json::Value) {
    let end = async {
        if let Some(id) = streams.get("error") {
            writer.send(&Frame::Data { id: *id, fin: false, data: status.to_string().into_bytes() }).await?;
        }
        for name in ["stdout", "stderr", "error"] {
            if let Some(id) = streams.get(name) {
                writer.send(&Frame::Data { id: *id, fin: true, data: vec![] }).await?;
            }
        }
        writer.send(&Frame::GoAway { last: streams.values().copied().max().unwrap_or(0) }).await?;
        writer.io.shutdown().await
    };
    if let Err(error) = end.await {
        tracing::debug!(%error, "The client left before the end of a process was told");
    }
}

enum Forward {
    Data(u32, Vec<u8>),
    End(u32),
    Failed { data: u32, error: u32, message: String },
}

/// Port-forward: each connection is a data and an error stream with the same `requestid`.
pub async fn forward<T, D, F>(io: T, dial: D)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
    D: Fn(u16) -> F,
    F: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let mut frames = frames(read);
    let mut writer = Writer { io: write, encoder: Encoder::default() };
    let (events, mut outgoing) = mpsc::channel::<Forward>(64);
    let mut errors: HashMap<String, u32> = HashMap::new();
    let mut inputs: HashMap<u32, mpsc::Sender<Vec<u8>>> = HashMap::new();
    loop {
        tokio::select! {
            event = outgoing.recv() => {
                let sent = match event {
                    Some(Forward::Data(id, data)) => writer.send(&Frame::Data { id, fin: false, data }).await,
                    Some(Forward::End(id)) => writer.send(&Frame::Data { id, fin: true, data: vec![] }).await,
                    Some(Forward::Failed { data, error, message }) => {
                        let first = writer.send(&Frame::Data { id: error, fin: false, data: message.into_bytes() }).await;
                        let second = writer.send(&Frame::Data { id: error, fin: true, data: vec![] }).await;
                        let third = writer.send(&Frame::Data { id: data, fin: true, data: vec![] }).await;
                        first.and(second).and(third)
                    }
                    None => return,
                };
                if sent.is_err() {
                    return;
                }
            }
            frame = frames.recv() => match frame {
                None => return,
                Some(Frame::Ping { id }) => drop(writer.send(&Frame::Ping { id }).await),
                Some(Frame::SynStream { id, headers, .. }) => {
                    if writer.send(&Frame::SynReply { id, fin: false, headers: vec![] }).await.is_err() {
                        return;
                    }
                    let request = header(&headers, "requestid").to_owned();
                    if header(&headers, "streamtype") == "error" {
                        errors.insert(request, id);
                        continue;
                    }
                    let error = errors.remove(&request).unwrap_or(id);
                    let Ok(port) = header(&headers, "port").parse::<u16>() else {
                        drop(writer.send(&Frame::RstStream { id, status: 1 }).await);
                        continue;
                    };
                    let (sender, receiver) = mpsc::channel(64);
                    inputs.insert(id, sender);
                    tokio::spawn(connection(dial(port), id, error, port, receiver, events.clone()));
                }
                Some(Frame::Data { id, fin, data }) => {
                    if let Some(input) = inputs.get(&id)
                        && !data.is_empty()
                        && input.send(data).await.is_err()
                    {
                        inputs.remove(&id);
                    }
                    if fin {
                        inputs.remove(&id);
                    }
                }
                Some(Frame::RstStream { id, .. }) => drop(inputs.remove(&id)),
                Some(_) => {}
            },
        }
    }
}

async fn connection(
    dial: impl Future<Output = io::Result<TcpStream>>,
    data: u32,
    error: u32,
    port: u16,
    mut input: mpsc::Receiver<Vec<u8>>,
    events: mpsc::Sender<Forward>,
) {
    let tcp = match dial.await {
        Ok(tcp) => tcp,
        Err(reason) => {
            let message = format!("error forwarding port {port} to pod: failed to connect to localhost:{port} inside namespace: {reason}");
            let _ = events.send(Forward::Failed { data, error, message }).await;
            return;
        }
    };
    let (mut read, mut write) = tcp.into_split();
    let to_pod = async {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let from_pod = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            if events.send(Forward::Data(data, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
        let _ = events.send(Forward::End(data)).await;
        if error != data {
            let _ = events.send(Forward::End(error)).await;
        }
    };
    tokio::join!(to_pod, from_pod);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    async fn next(decoder: &mut Decoder, io: &mut (impl AsyncRead + Unpin)) -> Frame {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = decoder.next_frame().unwrap() {
                return frame;
            }
            let count = io.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the server closed early");
            decoder.push(&buffer[..count]);
        }
    }

    fn stream(id: u32, pairs: &[(&str, &str)]) -> Frame {
        Frame::SynStream { id, fin: false, headers: pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect() }
    }

    #[tokio::test]
    async fn a_forwarded_port_echoes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = tcp.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let (mut client, server) = duplex(65_536);
        tokio::spawn(forward(server, |port| TcpStream::connect(("127.0.0.1", port))));
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let port_text = port.to_string();
        for frame in [
            stream(1, &[("streamtype", "error"), ("port", &port_text), ("requestid", "0")]),
            stream(3, &[("streamtype", "data"), ("port", &port_text), ("requestid", "0")]),
            Frame::Data { id: 3, fin: true, data: b"echo".to_vec() },
        ] {
            client.write_all(&encoder.encode(&frame).unwrap()).await.unwrap();
        }
        let mut seen = Vec::new();
        while seen.last() != Some(&Frame::Data { id: 1, fin: true, data: vec![] }) {
            seen.push(next(&mut decoder, &mut client).await);
        }
        assert!(
            seen.contains(&Frame::Data { id: 3, fin: false, data: b"echo".to_vec() })
                && seen.contains(&Frame::Data { id: 3, fin: true, data: vec![] }),
            "{seen:?}"
        );
    }

    #[tokio::test]
    async fn a_process_speaks_over_its_streams() {
        let (mut client, server) = duplex(65_536);
        let wanted = Wanted { command: vec!["x".into()], stdin: true, stdout: true, ..Wanted::default() };
        tokio::spawn(carry(server, wanted, || {
            let (input, mut inputs) = mpsc::channel(4);
            let (outputs, output) = mpsc::channel(4);
            tokio::spawn(async move {
                while let Some(event) = inputs.recv().await {
                    match event {
                        In::Stdin(bytes) => outputs.send(Out::Data(STDOUT, bytes)).await.unwrap(),
                        In::CloseStdin => return outputs.send(Out::Status(channels::exit_status(3))).await.unwrap(),
                        In::Resize(..) => {}
                    }
                }
            });
            Ends { input, output }
        }));
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for (id, name) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            client.write_all(&encoder.encode(&stream(id, &[("streamtype", name)])).unwrap()).await.unwrap();
        }
        client.write_all(&encoder.encode(&Frame::Data { id: 3, fin: true, data: b"hi".to_vec() }).unwrap()).await.unwrap();
        let mut seen = Vec::new();
        while !matches!(seen.last(), Some(Frame::GoAway { .. })) {
            seen.push(next(&mut decoder, &mut client).await);
        }
        let status =
            seen.iter().find_map(|f| if let Frame::Data { id: 1, data, fin: false } = f { Some(data.clone()) } else { None }).unwrap();
        assert!(String::from_utf8(status).unwrap().contains("NonZeroExitCode"));
        assert!(seen.contains(&Frame::Data { id: 5, fin: false, data: b"hi".to_vec() }));
    }
}
