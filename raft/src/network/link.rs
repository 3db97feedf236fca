//! One connection to a peer with many requests on the way at once.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::acquaintances::Introduction;
use super::frame::{self, FRAME_BYTES_MAX};
use super::messages::{Hello, HelloReply, Purpose, Request, Response};
use super::outgoing::{Outgoing, write_frames};
use crate::environment::{Environment, Stream};
use crate::experiment::Direction;
use crate::experiment::line::Line;
use crate::store::PeerTls;

/// An open connection. Closed when the last reference goes.
pub(crate) struct Link {
    /// What the peer says of itself.
    pub(crate) introduction: Introduction,
    next_id: AtomicU64,
    requests: Line<Outgoing>,
    /// Ends the patience of requests that are queued.
    hurry: Arc<Notify>,
    /// Told when somebody hurries, too: whoever pauses before the next request must not take that from those that are queued.
    pub(crate) hurried: Arc<Notify>,
    pending: Arc<Pending>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Pending {
    /// `None` once the connection has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Response>>>>,
}

impl Pending {
    /// Hands an answer to whoever waits for it.
    fn answer(&self, id: u64, response: Response) {
        let waiting = self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(waiting) = waiting {
            // whoever asked may have given up
            drop(waiting.send(response));
        }
    }
}

/// Whether an experiment may have requests of such a connection arrive twice: the chunks of a snapshot have no numbers of their own.
pub(crate) fn may_double(purpose: Purpose) -> bool {
    purpose != Purpose::Snapshot
}

impl Link {
    /// Connects and introduces this member.
    ///
    /// # Errors
    /// The peer is not reachable within `patience`, or refuses (it belongs to another cluster, say).
    pub(crate) async fn connect(
        environment: &Environment,
        address: &str,
        hello: &Hello,
        tls: Option<&PeerTls>,
        patience: Duration,
    ) -> io::Result<Arc<Self>> {
        let faults = environment.faults();
        let connecting = async {
            faults.cross(hello.to, Direction::Out).await;
            let connection = environment.connect(address, hello.purpose).await?;
            let mut stream: Box<dyn Stream> = match tls {
                None => connection,
                Some(tls) => {
                    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
                    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                    Box::new(tokio_rustls::TlsConnector::from(Arc::clone(&tls.client)).connect(name, connection).await?)
                }
            };
            stream.write_all(&frame::encode(0, hello)).await?;
            stream.flush().await?;
            let reply = frame::read_greeting::<HelloReply>(&mut stream).await?;
            faults.cross(hello.to, Direction::In).await;
            match reply {
                Some(HelloReply::Welcome(introduction)) => Ok((stream, introduction)),
                Some(HelloReply::Refused(reason)) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
                None => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            }
        };
        let (stream, introduction) =
            tokio::time::timeout(patience, connecting).await.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Self::over(stream, introduction, environment, hello))
    }

    fn over(stream: Box<dyn Stream>, introduction: Introduction, environment: &Environment, hello: &Hello) -> Arc<Self> {
        let (reader, writer) = tokio::io::split(stream);
        let (frames, queued) = mpsc::unbounded_channel();
        let pending = Arc::new(Pending { waiting: Mutex::new(Some(HashMap::new())) });
        let stop = CancellationToken::new();
        let hurry = Arc::<Notify>::default();
        tokio::spawn(write_frames(writer, queued, Arc::clone(&hurry), stop.clone()));
        // if the writer has ended, so has the reader, and whoever waits for an answer learns it
        let requests =
            Line::new(environment.faults(), hello.to, Direction::Out, may_double(hello.purpose), move |frame| drop(frames.send(frame)));
        let responses = {
            let pending = Arc::clone(&pending);
            Line::new(environment.faults(), hello.to, Direction::In, true, move |(id, response)| pending.answer(id, response))
        };
        tokio::spawn(read_responses(reader, responses, Arc::clone(&pending), stop.clone()));
        Arc::new(Self { introduction, next_id: AtomicU64::new(1), requests, hurry, hurried: Arc::default(), pending, stop })
    }

    /// Sends a request; the receiver yields the answer, or an error when the connection ends first.
    pub(crate) fn start(&self, request: &Request) -> oneshot::Receiver<Response> {
        self.send(|id| Outgoing::new(id, request))
    }

    /// As [`Link::start`], for a request that may wait so long for the next one, or for [`Link::hurry`].
    pub(crate) fn start_patiently(&self, request: &Request, patience: Duration) -> oneshot::Receiver<Response> {
        self.send(|id| Outgoing::patient(id, request, patience))
    }

    /// Lets no request wait any longer; if none does, the next one does not.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
        self.hurried.notify_one();
    }

    fn send(&self, frame: impl FnOnce(u64) -> Outgoing) -> oneshot::Receiver<Response> {
        let (answer, receiver) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Some(waiting) = self.pending.waiting.lock().as_mut() {
            waiting.insert(id, answer);
        }
        self.requests.send(frame(id));
        receiver
    }

    /// How many requests wait for their answers.
    pub(crate) fn unanswered(&self) -> usize {
        self.pending.waiting.lock().as_ref().map_or(0, HashMap::len)
    }

    /// Whether requests still have a chance.
    pub(crate) fn is_open(&self) -> bool {
        !self.stop.is_cancelled()
    }

    /// Ends the connection; all requests on the way fail.
    pub(crate) fn close(&self) {
        self.stop.cancel();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn read_responses(reader: impl AsyncRead + Unpin, responses: Line<(u64, Response)>, pending: Arc<Pending>, stop: CancellationToken) {
    let mut reader = BufReader::with_capacity(32 << 10, reader);
    let reading = async {
        while let Some(response) = frame::read::<Response>(&mut reader, FRAME_BYTES_MAX).await? {
            responses.send(response);
        }
        io::Result::Ok(())
    };
    tokio::select! {
        result = reading => if let Err(error) = result {
            tracing::debug!(%error, "Lost a peer connection");
        },
        () = stop.cancelled() => {}
    }
    stop.cancel();
    *pending.waiting.lock() = None;
}
