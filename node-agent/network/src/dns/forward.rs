//! Asks other servers about names that are not the cluster's, and remembers what they said for a while.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, timeout},
};

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A server that has not answered by then may be dead: the next is asked, too.
const HESITATION: Duration = Duration::from_millis(300);
/// Upstream's CoreDNS configuration keeps answers no longer either.
const KEPT_SECONDS_MAX: u32 = 30;
const ENTRIES_MAX: usize = 10_000;

/// Other servers and their recent answers.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    cache: Mutex<HashMap<Key, Kept>>,
}

type Key = (String, RecordType, bool);

#[derive(Debug)]
struct Kept {
    at: Instant,
    until: Instant,
    answer: Message,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Vec<SocketAddr>) -> Forwarder {
        Forwarder { upstreams, cache: Mutex::new(HashMap::new()) }
    }

    /// The answer to `query` under its own number, or nothing if no server gave one.
    pub(crate) async fn ask(&self, query: &Message) -> Option<Message> {
        let key = key(query);
        if let Some(kept) = key.as_ref().and_then(|key| self.kept(key, query)) {
            return Some(kept);
        }
        let answer = self.ask_in_turn(query).await?;
        if let Some(key) = key {
            self.keep(key, &answer);
        }
        Some(answer)
    }

    /// Asks one server after the other, twice round, and the next one as soon as an earlier one fails or hesitates; the first answer counts.
    async fn ask_in_turn(&self, query: &Message) -> Option<Message> {
        let mut waiting = self.upstreams.iter().chain(&self.upstreams).copied();
        let mut asked = JoinSet::new();
        loop {
            if let Some(upstream) = waiting.next() {
                let query = query.clone();
                asked.spawn(async move { timeout(ANSWER_WITHIN, ask_one(upstream, &query)).await.ok()?.ok() });
            } else if asked.is_empty() {
                return None;
            }
            let hesitation = if waiting.size_hint().0 > 0 { HESITATION } else { ANSWER_WITHIN };
            if let Ok(Some(Ok(Some(answer)))) = timeout(hesitation, asked.join_next()).await {
                return Some(answer);
            }
        }
    }

    fn kept(&self, key: &Key, query: &Message) -> Option<Message> {
        let now = Instant::now();
        let cache = self.cache.lock();
        let kept = cache.get(key).filter(|kept| kept.until > now)?;
        let mut answer = kept.answer.clone();
        let age = u32::try_from(now.duration_since(kept.at).as_secs()).unwrap_or(u32::MAX);
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals) {
            record.decrement_ttl(age);
        }
        answer.metadata.id = query.metadata.id;
        answer.queries.clone_from(&query.queries);
        Some(answer)
    }

    fn keep(&self, key: Key, answer: &Message) {
        let Some(seconds) = lifetime(answer) else { return };
        let now = Instant::now();
        let mut cache = self.cache.lock();
        if cache.len() >= ENTRIES_MAX {
            cache.retain(|_, kept| kept.until > now);
        }
        if cache.len() < ENTRIES_MAX {
            cache.insert(key, Kept { at: now, until: now + Duration::from_secs(u64::from(seconds)), answer: answer.clone() });
        }
    }
}

fn key(query: &Message) -> Option<Key> {
    let [question] = query.queries.as_slice() else { return None };
    let secure = query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    Some((question.name().to_ascii().to_ascii_lowercase(), question.query_type(), secure))
}

/// How many seconds an answer may be kept, if at all.
fn lifetime(answer: &Message) -> Option<u32> {
    let code = answer.metadata.response_code;
    if answer.metadata.truncation || (code != ResponseCode::NoError && code != ResponseCode::NXDomain) {
        return None;
    }
    let positive = answer.answers.iter().map(|record| record.ttl).min();
    let negative = answer.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let seconds = if code == ResponseCode::NoError { positive.or(negative) } else { negative };
    seconds.map(|seconds| seconds.min(KEPT_SECONDS_MAX)).filter(|seconds| *seconds > 0)
}

async fn ask_one(upstream: SocketAddr, query: &Message) -> io::Result<Message> {
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answer.metadata.id == query.metadata.id && answer.queries == query.queries => {
                return if answer.metadata.truncation { ask_by_tcp(upstream, &bytes).await } else { Ok(answer) };
            }
            // Somebody else's answer, or nonsense: the right one may still come.
            _ => {}
        }
    }
}

async fn ask_by_tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    write_framed(&mut stream, query).await?;
    let bytes = read_framed(&mut stream).await?;
    Message::from_vec(&bytes).map_err(io::Error::other)
}

/// A message with its length before it, as TCP carries it.
pub(crate) async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[length.to_be_bytes().as_slice(), bytes].concat()).await
}

/// The next message of a TCP connection.
pub(crate) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
