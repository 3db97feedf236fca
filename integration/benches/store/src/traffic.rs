//! The closed loop: a connection keeps a fixed number of calls on the way, and sends the next one when one is answered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock;
use crate::codec::{Call, Codec, Reply, grpc::Grpc, native::Native};

/// How a member is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// [`crate::protocol`].
    Native,
    /// etcd's v3 API.
    Grpc,
}

/// Where a member takes clients, and how.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddr,
    /// How to speak to it.
    pub speech: Speech,
    /// With the client's certificate.
    pub tls: Arc<ClientConfig>,
}

/// An open connection.
pub struct Link {
    stream: TlsStream<TcpStream>,
    codec: Box<dyn Codec>,
    input: BytesMut,
    out: Vec<u8>,
    /// What has arrived and was not looked at yet.
    pub replies: Vec<(u64, Reply)>,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// The member is not there, or does not like the certificate.
    pub async fn connect(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(endpoint.address).await.with_context(|| format!("cannot connect to {}", endpoint.address))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(endpoint.address.ip());
        let stream = TlsConnector::from(Arc::clone(&endpoint.tls)).connect(name, tcp).await?;
        let mut codec: Box<dyn Codec> = match endpoint.speech {
            Speech::Native => Box::new(Native::default()),
            Speech::Grpc => Box::new(Grpc::new(&endpoint.address.to_string())),
        };
        let mut out = Vec::new();
        codec.hello(&mut out);
        Ok(Self { stream, codec, input: BytesMut::with_capacity(64 << 10), out, replies: Vec::new() })
    }

    /// Queues a call; returns the number of its reply.
    pub fn call(&mut self, call: &Call) -> u64 {
        self.codec.call(call, &mut self.out)
    }

    /// Sends what is queued, and waits for at least some bytes.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn exchange(&mut self) -> anyhow::Result<()> {
        self.send().await?;
        if self.stream.read_buf(&mut self.input).await? == 0 {
            bail!("the member has closed the connection");
        }
        self.codec.take(&mut self.input, &mut self.out, &mut self.replies)?;
        Ok(())
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await?;
            self.out.clear();
        }
        Ok(())
    }

    /// One call and its reply.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn ask(&mut self, call: &Call) -> anyhow::Result<Reply> {
        let asked = self.call(call);
        loop {
            self.exchange().await?;
            if let Some((_, reply)) = self.replies.drain(..).find(|(id, _)| *id == asked) {
                return Ok(reply);
            }
        }
    }
}

/// What a connection asks again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// New keys, one after the other, as many as there are objects.
    Fill { value_bytes: usize },
    /// New keys, one after the other, for as long as it lasts.
    Add { value_bytes: usize },
    /// Replaces one of [`PUT_KEYS`] keys.
    Put { value_bytes: usize },
    /// One of the objects.
    Get { linearizable: bool },
    /// The first so many objects.
    Range { limit: u32 },
    /// Replaces one of so few keys if it has not changed meanwhile.
    Swap { keys: u64 },
    /// One of the objects, linearizable, in so many of a hundred cases; otherwise a put of 1 KiB.
    Mixed { read_percent: u64 },
}

impl Mix {
    /// Of every value it writes; 0 if it writes none.
    pub fn value_bytes(self) -> usize {
        match self {
            Self::Fill { value_bytes } | Self::Add { value_bytes } | Self::Put { value_bytes } => value_bytes,
            Self::Swap { .. } => SWAP_VALUE_BYTES,
            Self::Mixed { .. } => MIXED_VALUE_BYTES,
            Self::Get { .. } | Self::Range { .. } => 0,
        }
    }
}

/// Below this prefix are the objects that [`Mix::Fill`] makes.
pub const OBJECTS: &str = "bench/objects/";
/// Below this prefix are the objects that [`Mix::Add`] makes.
pub const ADDED: &str = "bench/added/";
/// How many different keys puts replace: few enough that large values fit into memory.
pub const PUT_KEYS: u64 = 4096;
const MIXED_VALUE_BYTES: usize = 1024;
const SWAP_VALUE_BYTES: usize = 256;
/// Longer ones count as this: a minute.
const LATENCY_MAX_US: u64 = 60_000_000;
/// So many different values of each size, which no compression shrinks.
const VALUES: u64 = 16;

/// When replies count.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Replies before this are warm-up.
    pub start: Instant,
    /// Nothing is asked after this.
    pub end: Instant,
}

/// What one connection, or all of them, saw within the window.
pub struct Measured {
    /// Microseconds from sending to reply.
    pub latencies: Histogram<u64>,
    /// Swaps that met another revision.
    pub refused: u64,
    /// Keys and values of writes.
    pub payload_bytes: u64,
}

impl Measured {
    /// Nothing yet.
    ///
    /// # Panics
    /// Never: the histogram's bounds are valid ones.
    pub fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are in order");
        Self { latencies, refused: 0, payload_bytes: 0 }
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("both have the same bounds");
        self.refused += other.refused;
        self.payload_bytes += other.payload_bytes;
    }
}

impl Default for Measured {
    fn default() -> Self {
        Self::new()
    }
}

/// What a connection asks next.
pub struct Workload {
    mix: Mix,
    objects: u64,
    random: Random,
    values: Vec<Bytes>,
    /// How many objects were made, by all connections.
    filled: Arc<AtomicU64>,
    /// Set when it shall end.
    halted: Arc<AtomicBool>,
    /// Which revision each swapped key had when it was last seen.
    known: HashMap<u64, u64>,
}

/// A call on its way.
struct Asked {
    at: Instant,
    /// Which key is swapped.
    swapped: Option<u64>,
    payload_bytes: usize,
}

impl Workload {
    /// The same `seed` asks for the same.
    pub fn new(mix: Mix, objects: u64, seed: u64, filled: Arc<AtomicU64>) -> Self {
        let mut random = Random(seed);
        let values = (0..VALUES).map(|_| random.bytes(mix.value_bytes())).collect();
        Self { mix, objects, random, values, filled, halted: Arc::default(), known: HashMap::new() }
    }

    /// Asks nothing more as soon as `halted` is set.
    #[must_use]
    pub fn until(self, halted: Arc<AtomicBool>) -> Self {
        Self { halted, ..self }
    }

    /// `None` when everything was asked.
    fn next(&mut self, now: Instant) -> Option<(Call, Asked)> {
        if self.halted.load(Ordering::Relaxed) {
            return None;
        }
        let object = |number: u64| Bytes::from(format!("{OBJECTS}{number:08}"));
        let mut swapped = None;
        let call = match self.mix {
            Mix::Fill { .. } => {
                let number = self.filled.fetch_add(1, Ordering::Relaxed);
                (number < self.objects).then(|| Call::Put { key: object(number), value: self.value() })?
            }
            Mix::Add { .. } => {
                let number = self.filled.fetch_add(1, Ordering::Relaxed);
                Call::Put { key: Bytes::from(format!("{ADDED}{number:08}")), value: self.value() }
            }
            Mix::Put { .. } => self.put(),
            Mix::Get { linearizable } => Call::Get { key: object(self.random.below(self.objects)), linearizable },
            Mix::Range { limit } => Call::Range { prefix: Bytes::from_static(OBJECTS.as_bytes()), limit },
            Mix::Swap { keys } => {
                let number = self.random.below(keys);
                swapped = Some(number);
                let revision = self.known.get(&number).copied().unwrap_or(0);
                Call::Swap { key: Bytes::from(format!("bench/swap/{number:08}")), revision, value: self.value() }
            }
            Mix::Mixed { read_percent } if self.random.below(100) < read_percent => {
                Call::Get { key: object(self.random.below(self.objects)), linearizable: true }
            }
            Mix::Mixed { .. } => self.put(),
        };
        let payload_bytes = match &call {
            Call::Put { key, value } | Call::Swap { key, value, .. } => key.len() + value.len(),
            _ => 0,
        };
        Some((call, Asked { at: now, swapped, payload_bytes }))
    }

    fn put(&mut self) -> Call {
        Call::Put { key: Bytes::from(format!("bench/puts/{:08}", self.random.below(PUT_KEYS))), value: self.value() }
    }

    fn value(&mut self) -> Bytes {
        let number = usize::try_from(self.random.below(VALUES)).unwrap_or(0);
        self.values.get(number).cloned().unwrap_or_default()
    }

    /// Looks at a reply, within the window or not.
    fn learn(&mut self, asked: &Asked, reply: &Reply) {
        if let (Some(number), Reply::Done { revision } | Reply::Refused { revision }) = (asked.swapped, reply) {
            self.known.insert(number, *revision);
        }
    }
}

/// Keeps `depth` calls on the way until the window ends; returns what was answered within it.
///
/// # Errors
/// The connection ends, or a call fails: figures of a system that fails are worth nothing.
pub async fn closed_loop(mut link: Link, mut workload: Workload, depth: usize, window: Window) -> anyhow::Result<Measured> {
    let mut measured = Measured::new();
    let mut asked: HashMap<u64, Asked> = HashMap::with_capacity(depth);
    loop {
        let mut now = clock::now();
        while asked.len() < depth && now < window.end {
            let Some((call, ask)) = workload.next(now) else { break };
            asked.insert(link.call(&call), ask);
            now = clock::now();
        }
        if asked.is_empty() {
            return Ok(measured);
        }
        link.exchange().await?;
        let now = clock::now();
        for (id, reply) in link.replies.drain(..) {
            let ask = asked.remove(&id).context("an answer to no question")?;
            match &reply {
                Reply::Failed(reason) => bail!("a call failed: {reason}"),
                Reply::Found { keys: 0, .. } => bail!("an object is not there"),
                _ => {}
            }
            workload.learn(&ask, &reply);
            if now < window.start || now >= window.end {
                continue;
            }
            measured.latencies.saturating_record(u64::try_from((now - ask.at).as_micros()).unwrap_or(u64::MAX));
            if matches!(reply, Reply::Refused { .. }) {
                measured.refused += 1;
            } else {
                measured.payload_bytes += u64::try_from(ask.payload_bytes).unwrap_or(u64::MAX);
            }
        }
    }
}

/// A small generator (SplitMix64): repeatable, and cheap beside a call.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn bytes(&mut self, count: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_be_bytes());
        }
        bytes.truncate(count);
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(mix: Mix) -> Workload {
        Workload::new(mix, 3, 7, Arc::default())
    }

    #[test]
    fn filling_ends_when_every_object_is_there() {
        let mut filling = workload(Mix::Fill { value_bytes: 5 });
        let now = clock::now();
        let keys: Vec<Bytes> = std::iter::from_fn(|| match filling.next(now)?.0 {
            Call::Put { key, value } if value.len() == 5 => Some(key),
            other => panic!("{other:?}"),
        })
        .collect();
        assert_eq!(keys, ["bench/objects/00000000", "bench/objects/00000001", "bench/objects/00000002"]);
    }

    #[test]
    fn what_is_told_to_end_asks_nothing_more() {
        let halted = Arc::new(AtomicBool::new(false));
        let mut adding = workload(Mix::Add { value_bytes: 5 }).until(Arc::clone(&halted));
        let now = clock::now();
        let mut key = || match adding.next(now)?.0 {
            Call::Put { key, .. } => Some(key),
            other => panic!("{other:?}"),
        };
        assert_eq!([key(), key()], [Some("bench/added/00000000".into()), Some("bench/added/00000001".into())]);
        halted.store(true, Ordering::Relaxed);
        assert_eq!(key(), None);
    }

    #[test]
    fn a_swap_uses_the_revision_it_saw_last() {
        let mut swapping = workload(Mix::Swap { keys: 1 });
        let now = clock::now();
        let mut next = |reply: Reply| {
            let (call, asked) = swapping.next(now).unwrap();
            swapping.learn(&asked, &reply);
            let Call::Swap { revision, .. } = call else { panic!("{call:?}") };
            revision
        };
        assert_eq!([next(Reply::Refused { revision: 5 }), next(Reply::Done { revision: 9 }), next(Reply::Watching)], [0, 5, 9]);
    }

    #[test]
    fn a_mix_is_what_it_says() {
        let mut mixed = workload(Mix::Mixed { read_percent: 90 });
        let now = clock::now();
        let reads = (0..10_000).filter(|_| matches!(mixed.next(now), Some((Call::Get { linearizable: true, .. }, _)))).count();
        assert!((8_700..9_300).contains(&reads), "{reads}");
    }
}
