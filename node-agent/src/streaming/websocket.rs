//! Channels of exec, attach and port-forward over a WebSocket.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::channels::{self, CLOSE, Dialect, ERROR, Encoded, RESIZE, STDIN};
use super::remote::{Ends, In, Out};

/// A server's end of an upgraded connection.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Takes over an upgraded connection.
pub async fn accept(upgraded: Upgraded) -> Socket {
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await
}

/// Clients take any other code, and none, for a failure.
fn normal_close() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn framed(channel: u8, data: &[u8]) -> Message {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    Message::binary(message)
}

fn message(dialect: Dialect, channel: u8, data: &[u8]) -> Message {
    match dialect.encode(channel, data) {
        Encoded::Binary(bytes) => Message::binary(bytes),
        Encoded::Text(text) => Message::text(text),
    }
}

/// Carries a process until it ends or the client goes.
pub async fn carry(socket: Socket, ends: Ends, dialect: Dialect) {
    let (mut sink, mut stream) = socket.split();
    let Ends { input, mut output } = ends;
    // an empty message says that the connection stands; every client has this channel, whatever streams it asked for
    if sink.send(message(dialect, ERROR, b"")).await.is_err() {
        return;
    }
    let reading = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let decoded = match &message {
                Message::Binary(data) => dialect.decode(data),
                Message::Text(text) => dialect.decode(text.as_bytes()),
                Message::Close(_) => break,
                _ => continue,
            };
            let event = match decoded {
                Some((STDIN, rest)) if !rest.is_empty() => In::Stdin(Bytes::from(rest)),
                Some((RESIZE, rest)) => match channels::parse_size(&rest) {
                    Some((width, height)) => In::Resize(width, height),
                    None => continue,
                },
                Some((CLOSE, rest)) if rest.first() == Some(&STDIN) => In::CloseStdin,
                _ => continue,
            };
            if input.send(event).await.is_err() {
                // The process takes no more input; its output goes on.
                continue;
            }
        }
    });
    while let Some(out) = output.recv().await {
        let (text, last) = match out {
            Out::Data(channel, data) => (Some(message(dialect, channel, &data)), false),
            Out::Status(status) => (dialect.last_word(&status).map(|word| message(dialect, ERROR, &word)), true),
        };
        if let Some(text) = text
            && sink.send(text).await.is_err()
        {
            break;
        }
        if last {
            break;
        }
    }
    let _ = sink.send(normal_close()).await;
    let _ = sink.close().await;
    reading.abort();
}

/// Port-forward with channels: two per port, data and error, each opened with the port's number.
pub async fn forward_channels(socket: Socket, ports: Vec<u16>, dial: impl AsyncFn(u16) -> std::io::Result<tokio::net::TcpStream>) {
    let (mut sink, mut stream) = socket.split();
    let (to_client, mut messages) = mpsc::channel::<Message>(16);
    let mut writers = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let Ok(data) = u8::try_from(index * 2) else { return };
        for channel in [data, data + 1] {
            if sink.send(framed(channel, &port.to_le_bytes())).await.is_err() {
                return;
            }
        }
        match dial(*port).await {
            Ok(tcp) => {
                let (mut read, write) = tcp.into_split();
                writers.push(Some(write));
                let to_client = to_client.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 32 * 1024];
                    while let Ok(count @ 1..) = read.read(&mut buffer).await {
                        if to_client.send(framed(data, &buffer[..count])).await.is_err() {
                            return;
                        }
                    }
                    let _ = to_client.send(normal_close()).await;
                });
            }
            Err(error) => {
                writers.push(None);
                let _ = sink.send(framed(data + 1, error.to_string().as_bytes())).await;
            }
        }
    }
    drop(to_client);
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => {
                    let last = matches!(message, Message::Close(_));
                    if sink.send(message).await.is_err() || last {
                        return;
                    }
                }
                None => return,
            },
            message = stream.next() => match message {
                Some(Ok(Message::Binary(data))) => {
                    let Some((channel, rest)) = data.split_first() else { continue };
                    if channel % 2 == 0
                        && let Some(Some(writer)) = writers.get_mut(usize::from(channel / 2))
                        && writer.write_all(rest).await.is_err()
                    {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}
