//! Cluster DNS with real sockets in real namespaces. Needs root; fails, never skips, without it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod world;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use tokio::sync::{oneshot, watch};
use trierarch_network::{DnsConfig, DnsServer, Endpoint, Protocol, Service, ServiceKey, ServicePort, ServiceSnapshot};
use world::{OUTSIDE, Space, World};

const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn snapshot(endpoints: u8) -> Arc<ServiceSnapshot> {
    let port = |endpoints| ServicePort { name: "https".into(), protocol: Protocol::Tcp, port: 443, node_port: None, endpoints };
    let api = Service { cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 1)], ports: vec![port(vec![])], ..Service::default() };
    let many = (1..=endpoints).map(|n| Endpoint::ready(Ipv4Addr::new(10, 244, 1, n), 443)).collect();
    let peers = Service { headless: true, ports: vec![port(many)], ..Service::default() };
    let alias = Service { external_name: Some("www.example.test".into()), ..Service::default() };
    let services = [("kubernetes", api), ("peers", peers), ("alias", alias)];
    Arc::new(ServiceSnapshot { services: services.into_iter().map(|(n, s)| (ServiceKey::new("default", n), Arc::new(s))).collect() })
}

/// A server in the namespace; it ends when the sender is dropped.
fn start(space: &Space, upstreams: Vec<SocketAddr>) -> (watch::Sender<Arc<ServiceSnapshot>>, oneshot::Sender<()>) {
    let (services, receiver) = watch::channel(snapshot(2));
    let (stop, stopped) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let space = space.clone();
    thread::spawn(move || {
        space.block_on(async move {
            let server = DnsServer::start(DnsConfig { upstreams, ..DnsConfig::default() }, receiver).await.unwrap();
            ready.send(server.addresses().to_vec()).unwrap();
            let _ = stopped.await;
        });
    });
    assert_eq!(is_ready.recv().unwrap(), [SocketAddr::from((DNS, 53))]);
    (services, stop)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn udp(from: &Space, query: &Message) -> Message {
    let socket = from.udp_socket();
    socket.connect((DNS, 53)).unwrap();
    socket.send(&query.to_vec().unwrap()).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

fn tcp(from: &Space, query: &Message) -> Message {
    let mut stream = from.connect(DNS, 53).unwrap();
    let bytes = query.to_vec().unwrap();
    stream.write_all(&[u16::try_from(bytes.len()).unwrap().to_be_bytes().as_slice(), &bytes].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

fn addresses(answer: &Message) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> =
        answer.answers.iter().filter_map(|record| if let RData::A(A(ip)) = record.data { Some(ip) } else { None }).collect();
    found.sort();
    found
}

#[test]
fn pods_and_nodes_ask_for_names() {
    let world = World::new();
    let (pod, _) = world.one.pod("a");
    let (services, _stop) = start(&world.one.space, vec![]);
    // The rules of Services leave the node's own address alone.
    world.one.space.block_on(world.one.services.apply(&snapshot(2))).unwrap();
    for from in [&pod, &world.one.space] {
        for ask in [udp, tcp] {
            let answer = ask(from, &query("kubernetes.default.svc.cluster.local.", RecordType::A));
            assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 96, 0, 1)]);
            assert!(answer.metadata.authoritative);
            let missing = ask(from, &query("nobody.default.svc.cluster.local.", RecordType::A));
            assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
            let foreign = ask(from, &query("example.test.", RecordType::A));
            assert_eq!(foreign.metadata.response_code, ResponseCode::ServFail, "nobody to forward to");
        }
    }
    let peers = query("peers.default.svc.cluster.local.", RecordType::A);
    assert_eq!(addresses(&udp(&pod, &peers)).len(), 2);
    services.send(snapshot(200)).unwrap();
    let cut = udp(&pod, &peers);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(addresses(&tcp(&pod, &peers)).len(), 200);
    services.send(snapshot(0)).unwrap();
    assert_eq!(udp(&pod, &peers).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn other_names_are_forwarded_and_kept() {
    let world = World::new();
    let (pod, _) = world.one.pod("a");
    // An upstream server that answers each question with a new address: a repeated answer was kept.
    let socket = world.outside.run(|| std::net::UdpSocket::bind((OUTSIDE, 5353)).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        for n in 1.. {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
            let name = answer.queries[0].name().clone();
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, n)))));
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
    // A server that hears and never answers, and one that does.
    let _silent = world.outside.run(|| std::net::UdpSocket::bind((OUTSIDE, 9)).unwrap());
    let nobody = SocketAddr::from((OUTSIDE, 9));
    let (_services, _stop) = start(&world.one.space, vec![nobody, SocketAddr::from((OUTSIDE, 5353))]);
    let first = udp(&pod, &query("www.example.test.", RecordType::A));
    assert_eq!(addresses(&first), [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(addresses(&tcp(&pod, &query("WWW.example.test.", RecordType::A))), addresses(&first), "from memory");
    let alias = udp(&pod, &query("alias.default.svc.cluster.local.", RecordType::A));
    assert!(matches!(alias.answers[0].data, RData::CNAME(_)));
    assert_eq!(addresses(&alias), addresses(&first), "the alias' target comes along");
    let only = udp(&pod, &query("alias.default.svc.cluster.local.", RecordType::CNAME));
    assert_eq!(only.answers.len(), 1);
    assert_eq!(addresses(&udp(&pod, &query("other.example.test.", RecordType::A))), [Ipv4Addr::new(192, 0, 2, 2)]);
}
