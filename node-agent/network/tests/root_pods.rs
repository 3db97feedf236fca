//! Pods, nodes and the bridge in real namespaces. Needs root; fails, never skips, without it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod world;

use std::{collections::BTreeSet, net::Ipv4Addr};

use trierarch_network::{Bridge, HostPort, PodAttachment, PodNetwork, Protocol, netns};
use world::{BRIDGE, OUTSIDE, Space, World, attach};

#[test]
fn pods_reach_pods_nodes_and_the_outside() {
    let world = World::new();
    let ((a, a_ip), (b, b_ip), (c, c_ip)) = (world.one.pod("a"), world.one.pod("b"), world.two.pod("c"));
    assert_eq!((a_ip, b_ip, c_ip), (Ipv4Addr::new(10, 244, 1, 1), Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 1)));
    for (space, name) in [(&a, "a"), (&b, "b"), (&c, "c"), (&world.one.space, "one"), (&world.outside, "outside"), (&world.host, "host")] {
        space.serve(name, 8080);
    }
    assert_eq!(a.tcp(b_ip, 8080), format!("b {a_ip}"), "on one node");
    assert_eq!(a.tcp(c_ip, 8080), format!("c {a_ip}"), "across nodes, source kept");
    assert_eq!(c.udp(a_ip, 8080), format!("a {c_ip}"));
    assert_eq!(a.tcp(a_ip, 8080), format!("a {a_ip}"), "itself");
    assert_eq!(a.tcp(Ipv4Addr::LOCALHOST, 8080), "a 127.0.0.1");
    assert_eq!(world.one.space.tcp(a_ip, 8080), format!("a {}", world.one.ip), "from its node");
    assert_eq!(world.one.space.tcp(c_ip, 8080), format!("c {}", world.one.ip), "from another node");
    assert_eq!(a.tcp(world.one.ip, 8080), format!("one {a_ip}"), "to its node");
    assert_eq!(c.tcp(world.one.ip, 8080), format!("one {c_ip}"), "to a node that knows the way back");
    assert_eq!(a.tcp(OUTSIDE, 8080), format!("outside {}", world.one.ip), "outside, as its node");
    // An address that only the node's default route leads to: the machine has it besides the bridge's.
    world.host.look("ip", &["address", "add", "192.0.2.1/32", "dev", "lo"]);
    assert_eq!(a.tcp(Ipv4Addr::new(192, 0, 2, 1), 8080), format!("host {}", world.one.ip), "far away");
}

#[test]
fn nodes_without_a_common_link_use_the_tunnel() {
    let world = World::with_tunnel(true);
    let ((a, a_ip), (c, c_ip)) = (world.one.pod("a"), world.two.pod("c"));
    c.serve("c", 8080);
    assert_eq!(a.tcp(c_ip, 8080), format!("c {a_ip}"));
    assert_eq!(world.one.space.tcp(c_ip, 8080), "c 10.244.1.0", "the node's own end of the tunnel");
    assert!(a.look("ip", &["link", "show", "eth0"]).contains("mtu 1450"));
    let route = world.one.space.look("ip", &["route", "show", "10.244.2.0/24"]);
    assert!(route.contains("dev tri-vxlan"), "{route}");
    world.one.space.block_on(world.one.pods.set_peers(&[])).unwrap();
    assert_eq!(world.one.space.look("ip", &["route", "show", "10.244.2.0/24"]), "");
}

#[test]
fn host_ports_lead_to_pods() {
    let world = World::new();
    let port = |host_ip: Option<Ipv4Addr>, protocol, host_port| HostPort { host_ip, protocol, host_port, container_port: 8080 };
    let node = world.one.ip;
    let (a, _) = world.one.pod_with_ports("a", vec![port(Some(Ipv4Addr::LOCALHOST), Protocol::Tcp, 54323)]);
    let (b, _) = world.one.pod_with_ports("b", vec![port(Some(node), Protocol::Tcp, 54323)]);
    let (c, _) = world.one.pod_with_ports("c", vec![port(Some(node), Protocol::Udp, 54323), port(None, Protocol::Tcp, 80)]);
    for (space, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        space.serve(name, 8080);
    }
    let first = |answer: String| answer.split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(first(world.one.space.tcp(Ipv4Addr::LOCALHOST, 54323)), "a");
    assert_eq!(first(world.one.space.tcp(node, 54323)), "b");
    assert_eq!(world.outside.tcp(node, 54323), format!("b {OUTSIDE}"), "source kept");
    assert_eq!(world.outside.udp(node, 54323), format!("c {OUTSIDE}"));
    assert_eq!(first(world.one.space.tcp(Ipv4Addr::LOCALHOST, 80)), "c");
    assert_eq!(first(a.tcp(node, 54323)), "b", "from a pod of the node");
    assert_eq!(first(b.tcp(node, 54323)), "b", "from itself");
    world.one.space.serve("loopback", 9999);
    assert_ne!(first(a.tcp(Ipv4Addr::LOCALHOST, 9999)), "loopback");
    world.one.space.block_on(world.one.pods.detach("b")).unwrap();
    assert_eq!(world.outside.tcp(node, 54323), "ConnectionRefused");
}

#[test]
fn an_agent_that_restarts_finds_its_pods() {
    let world = World::new();
    let node = &world.one;
    let port = HostPort { host_ip: None, protocol: Protocol::Tcp, host_port: 80, container_port: 8080 };
    let (kept, kept_ip) = node.pod_with_ports("kept", vec![port]);
    let (_gone, gone_ip) = node.pod("gone");
    kept.serve("kept", 8080);
    let again = node.space.block_on(PodNetwork::open(node.config.clone())).unwrap();
    let wanted: BTreeSet<String> = ["kept", "new"].map(str::to_owned).into();
    assert_eq!(node.space.block_on(again.reconcile(&wanted)).unwrap(), ["new"]);
    assert_eq!(again.list().iter().map(|pod| pod.ip).collect::<Vec<_>>(), [kept_ip]);
    assert_eq!(node.space.tcp(kept_ip, 8080), format!("kept {}", node.ip));
    assert_eq!(world.outside.tcp(node.ip, 80), format!("kept {OUTSIDE}"));
    let links = node.space.look("ip", &["-o", "link"]);
    assert_eq!(links.matches(": tri").count(), 1, "{links}");

    let fresh = Space::new();
    let attachment = PodAttachment { id: "new".into(), netns: fresh.netns(), host_ports: vec![] };
    let first = node.space.block_on(again.attach(&attachment)).unwrap();
    assert_ne!(first.ip, gone_ip, "a freed address rests");
    assert_eq!(node.space.block_on(again.attach(&attachment)).unwrap(), first, "attaching again changes nothing");
    std::fs::remove_file(node.config.state_dir.join("addresses.json")).unwrap();
    let amnesiac = node.space.block_on(PodNetwork::open(node.config.clone())).unwrap();
    assert_eq!(node.space.block_on(amnesiac.reconcile(&wanted)).unwrap(), Vec::<String>::new(), "links tell what the record lost");
    assert_eq!(amnesiac.list().len(), 2);
}

#[test]
fn nothing_is_left_behind() {
    let world = World::with_tunnel(true);
    let node = &world.one;
    let _pod = node.pod("a");
    node.space.block_on(node.pods.remove_all()).unwrap();
    node.space.block_on(node.services.remove()).unwrap();
    assert_eq!(node.space.look("nft", &["list", "tables"]), "");
    assert!(!node.space.look("ip", &["-o", "link"]).contains(": tri"));
    assert!(!node.space.look("ip", &["route"]).contains("10.244"));

    // Repeating is fine, also where something is there already.
    attach(&world.host, "tritest-out", &world.outside, OUTSIDE);
    world.host.block_on(Bridge::detach("tritest-out")).unwrap();
    world.host.block_on(Bridge::detach("tritest-out")).unwrap();
    world.host.block_on(Bridge::remove(BRIDGE)).unwrap();
    world.host.block_on(Bridge::remove(BRIDGE)).unwrap();
    assert!(!world.host.look("ip", &["-o", "link"]).contains("tri"));
    assert_eq!(world.host.look("nft", &["list", "tables"]), "");
    assert!(!world.outside.look("ip", &["-o", "link"]).contains("eth0"));
}

#[test]
fn a_namespace_can_be_kept_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/tritest-ns");
    let made = Space(netns::create_netns(&path).unwrap());
    let mark = |space: &Space| space.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    let kept = Space(netns::create_netns(&path).unwrap());
    assert_eq!(mark(&made), mark(&kept), "the second call finds the first one's");
    netns::delete_netns(&path).unwrap();
    netns::delete_netns(&path).unwrap();
    assert!(!path.exists());
}
