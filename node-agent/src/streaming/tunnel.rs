//! A WebSocket as a plain byte stream: `SPDY/3.1+portforward.k8s.io` carries SPDY frames in binary messages.

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use super::websocket::Socket;

const BUFFER: usize = 64 * 1024;

/// The bytes of all binary messages, in both directions.
pub fn byte_stream(socket: Socket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        let (mut sink, mut stream) = socket.split();
        let (mut read, mut write) = tokio::io::split(theirs);
        let incoming = async {
            while let Some(Ok(message)) = stream.next().await {
                match message {
                    Message::Binary(data) if write.write_all(&data).await.is_err() => break,
                    Message::Close(_) => break,
                    _ => {}
                }
            }
            let _ = write.shutdown().await;
        };
        let outgoing = async {
            let mut buffer = vec![0; BUFFER / 2];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                if sink.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
                    return;
                }
            }
            let _ = sink.send(Message::Close(None)).await;
        };
        tokio::join!(incoming, outgoing);
    });
    ours
}
