//! The registry's functions under hyper.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use trierarch_images::registry::{Body, Registry};

/// What becomes of a request before the registry sees it.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The registry answers.
    Pass,
    /// This is the answer: status and headers.
    #[allow(dead_code, reason = "for tests that share this file")]
    Answer(u16, Vec<(&'static str, String)>),
    /// The registry answers, and its body breaks off after so many bytes.
    #[allow(dead_code, reason = "for tests that share this file")]
    Cut(usize),
}

/// For a registry without authentication.
pub(crate) fn pass_everything(_request: &Request<Incoming>) -> Verdict {
    Verdict::Pass
}

/// Serves until the task ends.
pub(crate) async fn serve(
    listener: TcpListener,
    registry: Registry,
    verdict: impl Fn(&Request<Incoming>) -> Verdict + Send + Sync + 'static,
) {
    let verdict = Arc::new(verdict);
    while let Ok((stream, _)) = listener.accept().await {
        let (registry, verdict) = (registry.clone(), Arc::clone(&verdict));
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (registry, verdict) = (registry.clone(), Arc::clone(&verdict));
                async move {
                    let answer = match verdict(&request) {
                        Verdict::Answer(status, headers) => fixed(status, &headers),
                        Verdict::Pass => answer(&registry, request, None).await,
                        Verdict::Cut(bytes) => answer(&registry, request, Some(bytes)).await,
                    };
                    Ok::<_, Infallible>(answer)
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away is no event.
            let _closed = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(registry: &Registry, request: Request<Incoming>, cut: Option<usize>) -> Response<BoxBody<Bytes, std::io::Error>> {
    let (parts, body) = request.into_parts();
    let body = BodyStream::new(body).filter_map(async |frame| match frame {
        Ok(frame) => frame.into_data().ok().map(Ok),
        Err(error) => Some(Err(error)),
    });
    let (parts, body) = registry.handle(Request::from_parts(parts, Box::pin(body))).await.into_parts();
    let body = match body {
        Body::Full(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed(),
        Body::Stream(stream) => {
            let mut left = cut.unwrap_or(usize::MAX);
            let stream = stream.map(move |piece| {
                let piece = piece?;
                left = left.checked_sub(piece.len()).ok_or_else(|| std::io::Error::other("cut off for a test"))?;
                Ok(Frame::data(piece))
            });
            BodyExt::boxed(StreamBody::new(SyncStream(std::sync::Mutex::new(Box::pin(stream)))))
        }
    };
    Response::from_parts(parts, body)
}

fn fixed(status: u16, headers: &[(&'static str, String)]) -> Response<BoxBody<Bytes, std::io::Error>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(Bytes::new()).map_err(|never| match never {}).boxed()).expect("status and headers are literals")
}

/// hyper's boxed body wants `Sync`, which a stream that is only polled never needs.
struct SyncStream<S>(std::sync::Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<S::Item>> {
        let mut inner = self.0.lock().expect("polling does not panic");
        inner.as_mut().poll_next(context)
    }
}
