//! Listens for questions over UDP and TCP.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::op::{Message, Query, ResponseCode};
use netlink_packet_route::address::AddressScope;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    answer::{self, Decision},
    forward::{self, Forwarder},
    zone::Zone,
};
use crate::{Cidr, ServiceSnapshot, link::Links, netlink::NetlinkError};

/// A TCP client that says nothing for so long is cut off.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Questions worked on at once; more wait in the socket's queue.
const QUESTIONS_MAX: usize = 1000;

/// What the DNS server depends on besides Services.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The cluster's domain: `cluster.local`.
    pub domain: String,
    /// Where to listen, such as `10.96.0.10:53`. The address is put on the loopback link of the caller's network namespace.
    pub listen: SocketAddr,
    /// Other addresses on the node to listen on, already present.
    pub also_listen: Vec<SocketAddr>,
    /// Where questions about other names go; empty answers them with SERVFAIL.
    pub upstreams: Vec<SocketAddr>,
    /// Time to live of the cluster's own records.
    pub ttl_seconds: u32,
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        DnsConfig {
            domain: "cluster.local".to_owned(),
            listen: SocketAddr::from((Ipv4Addr::new(10, 96, 0, 10), 53)),
            also_listen: Vec::new(),
            upstreams: Vec::new(),
            ttl_seconds: 5,
        }
    }
}

/// What went wrong with the DNS server.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("put the DNS address {address} on the node")]
    Address { address: Ipv4Addr, source: NetlinkError },
    #[error("listen for DNS questions on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("network task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// A running DNS server; dropping it stops it.
#[derive(Debug)]
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
    /// Dropping the set ends its tasks.
    _tasks: JoinSet<()>,
}

/// What every question needs.
#[derive(Debug)]
struct Shared {
    domain: String,
    ttl_seconds: u32,
    services: watch::Receiver<Arc<ServiceSnapshot>>,
    /// The zone of the newest snapshot seen, with that snapshot to compare.
    zone: Mutex<(Arc<ServiceSnapshot>, Arc<Zone>)>,
    forwarder: Forwarder,
    room: Arc<Semaphore>,
}

impl DnsServer {
    /// Starts answering from the newest snapshot in `services`.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start(config: DnsConfig, services: watch::Receiver<Arc<ServiceSnapshot>>) -> Result<DnsServer, DnsError> {
        if let IpAddr::V4(address) = config.listen.ip() {
            tokio::task::spawn_blocking(move || own_address(address)).await?.map_err(|source| DnsError::Address { address, source })?;
        }
        let first = services.borrow().clone();
        let zone = Arc::new(Zone::new(&config.domain, Arc::clone(&first)));
        let shared = Arc::new(Shared {
            domain: config.domain.clone(),
            ttl_seconds: config.ttl_seconds,
            services,
            zone: Mutex::new((first, zone)),
            forwarder: Forwarder::new(config.upstreams.clone()),
            room: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        });
        let mut server = DnsServer { addresses: Vec::new(), _tasks: JoinSet::new() };
        for address in std::iter::once(config.listen).chain(config.also_listen) {
            server.listen(address, &shared).await.map_err(|source| DnsError::Listen { address, source })?;
        }
        Ok(server)
    }

    /// Where it listens, with the ports really bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    async fn listen(&mut self, address: SocketAddr, shared: &Arc<Shared>) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        let socket = Arc::new(UdpSocket::bind(bound).await?);
        self._tasks.spawn(serve_udp(socket, Arc::clone(shared)));
        self._tasks.spawn(serve_tcp(listener, Arc::clone(shared)));
        self.addresses.push(bound);
        Ok(())
    }
}

/// Puts the address on the loopback link, unless the node has it. Its scope keeps masquerading from choosing it as a source.
fn own_address(address: Ipv4Addr) -> Result<(), NetlinkError> {
    if address.is_loopback() || address.is_unspecified() {
        return Ok(());
    }
    let mut links = Links::here()?;
    if links.addresses()?.iter().any(|(_, present)| present.address() == address) {
        return Ok(());
    }
    let loopback = links.index("lo")?;
    links.set_up(loopback)?;
    links.add_address(loopback, Cidr::host(address), AddressScope::Host)
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; 65_535];
    loop {
        let Ok(room) = Arc::clone(&shared.room).acquire_owned().await else { return };
        // An error here is about an earlier answer that nobody received.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
        tokio::spawn(async move {
            let reply = shared.answer(&query).await;
            if let Some(bytes) = answer::encode(&query, &reply, true) {
                let _ = socket.send_to(&bytes, from).await;
            }
            drop(room);
        });
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok(room) = Arc::clone(&shared.room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _ = serve_stream(stream, &shared).await;
                    drop(room);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "A DNS connection could not be accepted");
                // Usually all descriptors are in use: without a pause this would spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_stream(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    while let Ok(read) = timeout(IDLE_MAX, forward::read_framed(&mut stream)).await {
        let query = Message::from_vec(&read?).map_err(io::Error::other)?;
        let reply = shared.answer(&query).await;
        if let Some(bytes) = answer::encode(&query, &reply, false) {
            forward::write_framed(&mut stream, &bytes).await?;
        }
    }
    Ok(())
}

impl Shared {
    async fn answer(&self, query: &Message) -> Message {
        match answer::decide(&self.zone(), query, self.ttl_seconds) {
            Decision::Reply(reply) => reply,
            Decision::Forward => self.forwarder.ask(query).await.unwrap_or_else(|| {
                let mut reply = answer::reply_to(query);
                reply.metadata.response_code = ResponseCode::ServFail;
                reply
            }),
            Decision::Follow { mut reply, target, kind } => {
                let mut question = Message::query();
                question.metadata.recursion_desired = true;
                question.add_query(Query::query(target, kind));
                // An alias may name another Service, but a chain of aliases is followed by whoever is asked next.
                let found = match answer::decide(&self.zone(), &question, self.ttl_seconds) {
                    Decision::Reply(inner) | Decision::Follow { reply: inner, .. } => Some(inner),
                    Decision::Forward => self.forwarder.ask(&question).await,
                };
                reply.answers.extend(found.into_iter().flat_map(|inner| inner.answers));
                reply
            }
        }
    }

    fn zone(&self) -> Arc<Zone> {
        let newest = self.services.borrow().clone();
        let mut zone = self.zone.lock();
        if !Arc::ptr_eq(&zone.0, &newest) {
            *zone = (Arc::clone(&newest), Arc::new(Zone::new(&self.domain, newest)));
        }
        Arc::clone(&zone.1)
    }
}
