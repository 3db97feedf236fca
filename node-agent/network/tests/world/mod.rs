//! A small world of real network namespaces: a bridge, nodes on it, pods behind nodes, servers and clients in all of them.
//!
//! Everything lives in namespaces without a name, so it is gone when the test process ends, however it ends.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeMap,
    future::Future,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use trierarch_network::{
    Attachment, Bridge, Cidr, HostPort, NetnsRef, Peer, PodAttachment, PodNetwork, PodNetworkConfig, ServiceRules, ServiceRulesConfig,
    netns,
};

pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 131, 0, 50);
pub(crate) const BRIDGE: &str = "tritest0";
const PATIENCE: Duration = Duration::from_secs(2);

/// A network namespace to run things in.
#[derive(Clone)]
pub(crate) struct Space(pub(crate) Arc<OwnedFd>);

impl Space {
    pub(crate) fn new() -> Space {
        Space(netns::unnamed().expect("these tests need root"))
    }

    pub(crate) fn netns(&self) -> NetnsRef {
        NetnsRef::Fd(Arc::clone(&self.0))
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in_netns(netns::borrow(&self.0), work).expect("the work does not panic")
    }

    /// Runs asynchronous code on an executor whose every thread is in the namespace.
    pub(crate) fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work))
    }

    /// The output of a program that looks at the namespace.
    pub(crate) fn look(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(|| Command::new(program).args(arguments).output().unwrap());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A TCP and UDP server that says `name` and whom it sees.
    pub(crate) fn serve(&self, name: &str, port: u16) {
        let (listener, socket) = self.run(|| (TcpListener::bind(("0.0.0.0", port)).unwrap(), UdpSocket::bind(("0.0.0.0", port)).unwrap()));
        let (tcp, udp) = (name.to_owned(), name.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let tcp = tcp.clone();
                thread::spawn(move || {
                    let from = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
                    let _ = stream.write_all(format!("{tcp} {from}\n").as_bytes());
                    // Then an echo, for connections that are to outlive something.
                    let mut buffer = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..length]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{udp} {}\n", from.ip()).as_bytes(), from);
            }
        });
    }

    pub(crate) fn connect(&self, to: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        self.run(|| {
            let stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    }

    /// What a server says over TCP: its name and whom it sees; or the kind of error.
    pub(crate) fn tcp(&self, to: Ipv4Addr, port: u16) -> String {
        match self.connect(to, port) {
            Ok(mut stream) => read_line(&mut stream).unwrap_or_else(|e| format!("{:?}", e.kind())),
            Err(e) => format!("{:?}", e.kind()),
        }
    }

    pub(crate) fn udp(&self, to: Ipv4Addr, port: u16) -> String {
        let socket = self.udp_socket();
        ask_udp(&socket, to, port)
    }

    pub(crate) fn udp_socket(&self) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

pub(crate) fn ask_udp(socket: &UdpSocket, to: Ipv4Addr, port: u16) -> String {
    let mut buffer = [0; 64];
    let asked = socket.connect((to, port)).and_then(|()| socket.send(b"?")).and_then(|_| socket.recv(&mut buffer));
    match asked {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).trim().to_owned(),
        Err(e) => format!("{:?}", e.kind()),
    }
}

pub(crate) fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

pub(crate) struct Node {
    pub(crate) space: Space,
    pub(crate) ip: Ipv4Addr,
    pub(crate) pods: PodNetwork,
    pub(crate) config: PodNetworkConfig,
    pub(crate) services: ServiceRules,
    folder: tempfile::TempDir,
}

impl Node {
    fn new(number: u8, tunnel: bool, host: &Space) -> Node {
        let (space, ip) = (Space::new(), Ipv4Addr::new(10, 131, 0, 20 + number));
        attach(host, &format!("tritest-n{number}"), &space, ip);
        let folder = tempfile::tempdir().unwrap();
        let config = PodNetworkConfig {
            node_ip: ip,
            pod_cidr: Cidr::new(Ipv4Addr::new(10, 244, number, 0), 24).unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            mtu: None,
            always_tunnel: tunnel,
            state_dir: folder.path().to_owned(),
        };
        let pods = space.block_on(PodNetwork::open(config.clone())).unwrap();
        let services = ServiceRules::new(rules_config(ip));
        Node { space, ip, pods, config, services, folder }
    }

    pub(crate) fn pod(&self, id: &str) -> (Space, Ipv4Addr) {
        self.pod_with_ports(id, vec![])
    }

    pub(crate) fn pod_with_ports(&self, id: &str, host_ports: Vec<HostPort>) -> (Space, Ipv4Addr) {
        let space = Space::new();
        let pod = PodAttachment { id: id.to_owned(), netns: space.netns(), host_ports };
        let address = self.space.block_on(self.pods.attach(&pod)).unwrap();
        (space, address.ip)
    }
}

pub(crate) fn rules_config(ip: Ipv4Addr) -> ServiceRulesConfig {
    ServiceRulesConfig {
        node_ips: vec![ip],
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        local_ips: vec![Ipv4Addr::new(10, 96, 0, 10)],
    }
}

/// A bridge with two nodes and a stranger on it.
pub(crate) struct World {
    pub(crate) host: Space,
    pub(crate) one: Node,
    pub(crate) two: Node,
    pub(crate) outside: Space,
}

impl World {
    pub(crate) fn new() -> World {
        World::with_tunnel(false)
    }

    pub(crate) fn with_tunnel(tunnel: bool) -> World {
        let host = Space::new();
        host.block_on(Bridge::ensure(BRIDGE, "10.131.0.1/24".parse().unwrap())).unwrap();
        let (one, two, outside) = (Node::new(1, tunnel, &host), Node::new(2, tunnel, &host), Space::new());
        attach(&host, "tritest-out", &outside, OUTSIDE);
        let peers: Vec<Peer> = [&one, &two].iter().map(|node| Peer { node_ip: node.ip, pod_cidr: node.config.pod_cidr }).collect();
        for node in [&one, &two] {
            node.space.block_on(node.pods.set_peers(&peers)).unwrap();
        }
        World { host, one, two, outside }
    }
}

pub(crate) fn attach(host: &Space, link: &str, space: &Space, ip: Ipv4Addr) {
    let attachment = Attachment { link: link.to_owned(), netns: space.netns(), interface: "eth0".to_owned(), ip };
    host.block_on(async {
        let bridge = Bridge::ensure(BRIDGE, "10.131.0.1/24".parse().unwrap()).await.unwrap();
        bridge.attach(attachment).await.unwrap();
    });
}

/// How often each answer came.
pub(crate) fn tally(answers: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        *tally.entry(answer).or_default() += 1;
    }
    tally
}
