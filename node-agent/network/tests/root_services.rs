//! Service rules in real namespaces. Needs root; fails, never skips, without it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod world;

use std::{collections::BTreeSet, io::Write, net::Ipv4Addr, sync::Arc};

use trierarch_network::{Endpoint, Protocol, Service, ServiceKey, ServicePort, ServiceRules, ServiceSnapshot, TrafficPolicy};
use world::{Node, OUTSIDE, World, ask_udp, read_line, rules_config, tally};

const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 7);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(10, 131, 0, 77);

fn service(protocol: Protocol, endpoints: Vec<Endpoint>) -> Service {
    let port = ServicePort { name: String::new(), protocol, port: 80, node_port: Some(30080), endpoints };
    Service { cluster_ips: vec![VIRTUAL], ports: vec![port], ..Service::default() }
}

fn snapshot(service: Service) -> ServiceSnapshot {
    ServiceSnapshot { services: [(ServiceKey::new("shop", "web"), Arc::new(service))].into() }
}

/// Applies the service and says how many changes went to the kernel, and whether the table was replaced.
fn apply(node: &Node, service: Service) -> (usize, bool) {
    let snapshot = snapshot(service);
    let applied = node.space.block_on(node.services.apply(&snapshot)).unwrap();
    // What the kernel has must be what the text of the rules says, whichever way it came there.
    let rules = node.services.present().unwrap();
    let expected: BTreeSet<&String> = rules.chains.keys().collect();
    let listed = node.space.look("nft", &["list", "table", "ip", "trierarch"]);
    for chain in expected {
        assert!(listed.contains(&format!("chain {chain} {{")), "{chain} is not in\n{listed}");
    }
    let chains = listed.lines().filter(|line| line.contains("chain ") && line.contains("shop/web")).count();
    assert_eq!(chains, rules.chains.len(), "{listed}");
    (applied.changes, applied.replaced)
}

fn apply_change(node: &Node, service: Service) {
    let (changes, replaced) = apply(node, service);
    assert!(changes > 0 && !replaced, "{changes} changes, replaced: {replaced}");
}

#[test]
fn clients_everywhere_reach_endpoints_everywhere() {
    let world = World::new();
    let ((a, a_ip), (b, b_ip), (c, c_ip)) = (world.one.pod("a"), world.one.pod("b"), world.two.pod("c"));
    b.serve("b", 8080);
    c.serve("c", 8080);
    let endpoints = vec![Endpoint::ready(b_ip, 8080).here(), Endpoint::ready(c_ip, 8080)];
    assert!(apply(&world.one, service(Protocol::Tcp, vec![])).1, "the first time, the table is loaded whole");
    assert_eq!(a.tcp(VIRTUAL, 80), "ConnectionRefused");
    assert_eq!(a.udp(VIRTUAL, 81), "ConnectionRefused");
    assert_eq!(world.one.space.tcp(VIRTUAL, 80), "ConnectionRefused");
    assert_eq!(world.outside.tcp(world.one.ip, 30080), "ConnectionRefused");
    apply_change(&world.one, service(Protocol::Tcp, endpoints[..1].to_vec()));
    assert_eq!(a.tcp(VIRTUAL, 80), format!("b {a_ip}"));
    apply_change(&world.one, service(Protocol::Tcp, endpoints.clone()));
    assert_eq!(apply(&world.one, service(Protocol::Tcp, endpoints)), (0, false), "nothing to do");

    let from_pod = tally((0..40).map(|_| a.tcp(VIRTUAL, 80)));
    assert_eq!(from_pod.keys().cloned().collect::<Vec<_>>(), [format!("b {a_ip}"), format!("c {a_ip}")]);
    assert!(from_pod.values().all(|count| *count > 5), "{from_pod:?}");
    let node_ip = world.one.ip;
    let from_node = tally((0..20).map(|_| world.one.space.tcp(VIRTUAL, 80)));
    assert_eq!(from_node.into_keys().collect::<Vec<_>>(), [format!("b {node_ip}"), format!("c {node_ip}")]);
    let from_outside = tally((0..20).map(|_| world.outside.tcp(node_ip, 30080)));
    assert_eq!(from_outside.into_keys().collect::<Vec<_>>(), [format!("b {node_ip}"), format!("c {node_ip}")]);
    let itself = tally((0..20).map(|_| b.tcp(VIRTUAL, 80)));
    assert_eq!(itself.into_keys().collect::<Vec<_>>(), [format!("b {node_ip}"), format!("c {b_ip}")], "hairpin");
    assert_eq!(tally((0..20).map(|_| a.tcp(node_ip, 30080))).len(), 2, "a pod by its node's address");
    assert_eq!(tally((0..20).map(|_| world.one.space.tcp(node_ip, 30080))).len(), 2, "the node by its own address");
    assert_eq!(a.tcp(VIRTUAL, 81), "ConnectionRefused", "a port nobody has");
    assert_eq!(a.tcp(Ipv4Addr::new(10, 96, 9, 9), 80), "ConnectionRefused", "an address nobody has");
    apply_change(&world.one, service(Protocol::Tcp, vec![]));
    assert_eq!(a.tcp(VIRTUAL, 80), "ConnectionRefused");
    let gone = ServiceSnapshot::default();
    world.one.space.block_on(world.one.services.apply(&gone)).unwrap();
    let left = world.one.space.look("nft", &["list", "table", "ip", "trierarch"]);
    assert!(!left.contains("shop"), "{left}");
}

#[test]
fn endpoints_may_be_hosts() {
    let world = World::new();
    let (a, _) = world.one.pod("a");
    world.outside.serve("outside", 6443);
    apply(&world.one, service(Protocol::Tcp, vec![Endpoint::ready(OUTSIDE, 6443)]));
    assert_eq!(a.tcp(VIRTUAL, 80), format!("outside {}", world.one.ip), "a host knows no way to pods");
    assert_eq!(world.one.space.tcp(VIRTUAL, 80), format!("outside {}", world.one.ip));
    world.one.space.serve("one", 6443);
    apply_change(&world.one, service(Protocol::Tcp, vec![Endpoint::ready(world.one.ip, 6443).here()]));
    assert!(a.tcp(VIRTUAL, 80).starts_with("one "));
    assert!(world.one.space.tcp(VIRTUAL, 80).starts_with("one "));
    assert!(world.outside.tcp(world.one.ip, 30080).starts_with("one "));
}

#[test]
fn many_endpoints_share_the_work() {
    let world = World::new();
    let ((a, _), (b, b_ip)) = (world.one.pod("a"), world.one.pod("b"));
    let mut endpoints: Vec<Endpoint> = (0..300).map(|n| Endpoint::ready(b_ip, 10_000 + n).here()).collect();
    apply(&world.one, service(Protocol::Tcp, vec![]));
    apply_change(&world.one, service(Protocol::Tcp, endpoints.clone()));
    assert_eq!(
        world.one.space.look("nft", &["list", "chain", "ip", "trierarch", "svc-shop/web/tcp/80"]).matches("10.244.1.2 .").count(),
        300
    );
    endpoints.truncate(3);
    apply_change(&world.one, service(Protocol::Tcp, endpoints));
    for port in 10_000..10_003 {
        b.serve(&port.to_string(), port);
    }
    assert_eq!(tally((0..60).map(|_| a.tcp(VIRTUAL, 80))).len(), 3);
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let world = World::new();
    let ((a, _), (b, b_ip), (c, c_ip)) = (world.one.pod("a"), world.one.pod("b"), world.two.pod("c"));
    b.serve("b", 8080);
    c.serve("c", 8080);
    let sticky = |endpoints: Vec<Endpoint>| Service { affinity_seconds: Some(100), ..service(Protocol::Tcp, endpoints) };
    let (at_b, at_c) = (Endpoint::ready(b_ip, 8080).here(), Endpoint::ready(c_ip, 8080));
    apply(&world.one, service(Protocol::Tcp, vec![at_b.clone(), at_c.clone()]));
    apply_change(&world.one, sticky(vec![at_b.clone(), at_c.clone()]));
    let answers = tally((0..20).map(|_| a.tcp(VIRTUAL, 80)));
    assert_eq!(answers.len(), 1, "{answers:?}");
    let other = if answers.keys().next().unwrap().starts_with('b') { at_c.clone() } else { at_b.clone() };
    apply_change(&world.one, sticky(vec![other]));
    assert_ne!(tally((0..5).map(|_| a.tcp(VIRTUAL, 80))), answers, "its endpoint is gone");
    let mut short = sticky(vec![at_b.clone(), at_c.clone()]);
    short.affinity_seconds = Some(1);
    apply_change(&world.one, short);
    assert!(world.one.space.look("nft", &["list", "table", "ip", "trierarch"]).contains("timeout 1s"));
    apply_change(&world.one, service(Protocol::Tcp, vec![at_b, at_c]));
    assert_eq!(tally((0..40).map(|_| a.tcp(VIRTUAL, 80))).len(), 2, "no affinity any more");
}

#[test]
fn local_policies_keep_the_source_and_the_node() {
    let world = World::new();
    let ((a, a_ip), (b, b_ip), (c, c_ip)) = (world.one.pod("a"), world.one.pod("b"), world.two.pod("c"));
    b.serve("b", 8080);
    c.serve("c", 8080);
    let (at_b, at_c) = (Endpoint::ready(b_ip, 8080).here(), Endpoint::ready(c_ip, 8080));
    let local = |endpoints| Service {
        external_policy: TrafficPolicy::Local,
        internal_policy: TrafficPolicy::Local,
        external_ips: vec![EXTERNAL],
        ..service(Protocol::Tcp, endpoints)
    };
    apply(&world.one, local(vec![]));
    apply_change(&world.one, local(vec![at_b, at_c.clone()]));
    assert_eq!(tally((0..10).map(|_| world.outside.tcp(world.one.ip, 30080))).into_keys().collect::<Vec<_>>(), [format!("b {OUTSIDE}")]);
    assert_eq!(tally((0..10).map(|_| a.tcp(VIRTUAL, 80))).into_keys().collect::<Vec<_>>(), [format!("b {a_ip}")]);
    assert_eq!(tally((0..20).map(|_| a.tcp(EXTERNAL, 80))).len(), 2, "a pod uses all endpoints of an external address");
    apply_change(&world.one, local(vec![at_c]));
    assert_eq!(a.tcp(VIRTUAL, 80), "TimedOut", "dropped: other nodes have endpoints");
}

#[test]
fn udp_clients_are_led_away_from_lost_endpoints() {
    let world = World::new();
    let ((a, a_ip), (b, b_ip), (c, c_ip)) = (world.one.pod("a"), world.one.pod("b"), world.two.pod("c"));
    b.serve("b", 8080);
    c.serve("c", 8080);
    apply(&world.one, service(Protocol::Udp, vec![]));
    assert_eq!(a.udp(VIRTUAL, 80), "ConnectionRefused");
    apply_change(&world.one, service(Protocol::Udp, vec![Endpoint::ready(b_ip, 8080).here()]));
    // One socket, so that the flow is the same before and after.
    let socket = a.udp_socket();
    assert_eq!(ask_udp(&socket, VIRTUAL, 80), format!("b {a_ip}"));
    let outside = world.outside.udp_socket();
    assert_eq!(ask_udp(&outside, world.one.ip, 30080), format!("b {}", world.one.ip));
    apply_change(&world.one, service(Protocol::Udp, vec![Endpoint::ready(c_ip, 8080)]));
    assert_eq!(ask_udp(&socket, VIRTUAL, 80), format!("c {a_ip}"));
    assert_eq!(ask_udp(&outside, world.one.ip, 30080), format!("c {}", world.one.ip));
}

#[test]
fn connections_outlive_the_agent_and_a_lost_table() {
    let world = World::new();
    let ((a, a_ip), (b, b_ip)) = (world.one.pod("a"), world.one.pod("b"));
    b.serve("b", 8080);
    let wanted = || service(Protocol::Tcp, vec![Endpoint::ready(b_ip, 8080).here()]);
    apply(&world.one, wanted());
    let mut stream = a.connect(VIRTUAL, 80).unwrap();
    assert_eq!(read_line(&mut stream).unwrap(), format!("b {a_ip}"));
    let again = ServiceRules::new(rules_config(world.one.ip));
    assert!(world.one.space.block_on(again.apply(&snapshot(wanted()))).unwrap().replaced);
    stream.write_all(b"still here\n").unwrap();
    assert_eq!(read_line(&mut stream).unwrap(), "still here");
    assert_eq!(a.tcp(VIRTUAL, 80), format!("b {a_ip}"));

    // Somebody emptied the tables: the next change puts everything back.
    world.one.space.look("nft", &["flush", "ruleset"]);
    let mut changed = wanted();
    changed.ports[0].node_port = Some(30081);
    assert!(world.one.space.block_on(again.apply(&snapshot(changed))).unwrap().replaced);
    assert_eq!(a.tcp(VIRTUAL, 80), format!("b {a_ip}"));
}
