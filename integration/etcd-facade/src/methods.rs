//! gRPC methods without generated code: a path, a request type, and a function of the facade.

use std::convert::Infallible;
use std::future::Ready;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, ServerStreamingService, StreamingService, UnaryService};
use tonic::service::{AxumBody, AxumRouter};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::facade::Facade;
use crate::problem::Problem;

/// The largest request.
const REQUEST_BYTES_MAX: usize = 64 << 20;

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Routes to the methods of one member.
pub struct Methods {
    router: AxumRouter,
    facade: Facade,
}

impl Methods {
    /// No methods yet.
    pub fn new(facade: Facade) -> Self {
        Self { router: AxumRouter::new(), facade }
    }

    /// All of them.
    pub fn into_router(self) -> AxumRouter {
        self.router
    }

    /// A method with one request and one answer.
    #[must_use]
    pub fn unary<Q, A, F, W>(self, path: &str, work: F) -> Self
    where
        Q: prost::Message + Default + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
        F: Fn(Facade, Q) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Result<A, Problem>> + Send + 'static,
    {
        let work = Work { facade: self.facade.clone(), work, kind: PhantomData::<(Q, A)> };
        self.route(path, move |request| {
            let work = work.clone();
            Box::pin(async move { grpc::<Q, A>().unary(work, request).await })
        })
    }

    /// A method with one request and an answer that may come in parts.
    #[must_use]
    pub fn parts<Q, A, F, W>(self, path: &str, work: F) -> Self
    where
        Q: prost::Message + Default + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
        F: Fn(Facade, Q) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Result<A, Problem>> + Send + 'static,
    {
        let work = Work { facade: self.facade.clone(), work, kind: PhantomData::<(Q, A)> };
        self.route(path, move |request| {
            let work = work.clone();
            Box::pin(async move { grpc::<Q, A>().server_streaming(work, request).await })
        })
    }

    /// A method with many requests and many answers; `work` writes at most `answers_max` ahead of the client.
    #[must_use]
    pub fn streaming<Q, A, F, W>(self, path: &str, answers_max: usize, work: F) -> Self
    where
        Q: prost::Message + Default + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
        F: Fn(Facade, Streaming<Q>, mpsc::Sender<Result<A, Status>>) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let facade = self.facade.clone();
        self.route(path, move |request| {
            let conversation = Conversation { facade: facade.clone(), work: work.clone(), answers_max, kind: PhantomData::<(Q, A)> };
            Box::pin(async move { grpc::<Q, A>().streaming(conversation, request).await })
        })
    }

    fn route<F>(mut self, path: &str, handle: F) -> Self
    where
        F: Fn(http::Request<AxumBody>) -> Answer<http::Response<Body>> + Clone + Send + Sync + 'static,
    {
        self.router = self.router.route_service(path, Method { handle });
        self
    }
}

fn grpc<Q, A>() -> Grpc<ProstCodec<A, Q>>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(REQUEST_BYTES_MAX)
}

#[derive(Clone)]
struct Method<F> {
    handle: F,
}

impl<F> Service<http::Request<AxumBody>> for Method<F>
where
    F: Fn(http::Request<AxumBody>) -> Answer<http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<AxumBody>) -> Self::Future {
        let answer = (self.handle)(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// A function of one request.
struct Work<F, K> {
    facade: Facade,
    work: F,
    kind: PhantomData<K>,
}

impl<F: Clone, K> Clone for Work<F, K> {
    fn clone(&self) -> Self {
        Self { facade: self.facade.clone(), work: self.work.clone(), kind: PhantomData }
    }
}

impl<Q, A, F, W> UnaryService<Q> for Work<F, (Q, A)>
where
    F: Fn(Facade, Q) -> W,
    W: Future<Output = Result<A, Problem>> + Send + 'static,
{
    type Response = A;
    type Future = Answer<Result<Response<A>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let work = (self.work)(self.facade.clone(), request.into_inner());
        Box::pin(async move { Ok(Response::new(work.await?)) })
    }
}

impl<Q, A, F, W> ServerStreamingService<Q> for Work<F, (Q, A)>
where
    A: Send + 'static,
    F: Fn(Facade, Q) -> W,
    W: Future<Output = Result<A, Problem>> + Send + 'static,
{
    type Response = A;
    type ResponseStream = tokio_stream::Once<Result<A, Status>>;
    type Future = Answer<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let work = (self.work)(self.facade.clone(), request.into_inner());
        Box::pin(async move { Ok(Response::new(tokio_stream::once(Ok(work.await?)))) })
    }
}

/// A function of a stream of requests.
struct Conversation<F, K> {
    facade: Facade,
    work: F,
    answers_max: usize,
    kind: PhantomData<K>,
}

impl<Q, A, F, W> StreamingService<Q> for Conversation<F, (Q, A)>
where
    A: Send + 'static,
    F: Fn(Facade, Streaming<Q>, mpsc::Sender<Result<A, Status>>) -> W,
    W: Future<Output = ()> + Send + 'static,
    ReceiverStream<Result<A, Status>>: Stream<Item = Result<A, Status>>,
{
    type Response = A;
    type ResponseStream = ReceiverStream<Result<A, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Q>>) -> Self::Future {
        let (answers, stream) = mpsc::channel(self.answers_max);
        tokio::spawn((self.work)(self.facade.clone(), request.into_inner(), answers));
        std::future::ready(Ok(Response::new(ReceiverStream::new(stream))))
    }
}
