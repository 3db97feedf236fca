//! Rules, their text, their differences and what packets meet.

use proptest::prelude::*;
use std::sync::Arc;

use super::*;
use crate::services::{
    diff::{Change, Element, diff, stale, udp_targets_changed},
    text,
    tracer::{Fate, Packet, World, trace},
};

const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 7);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 131, 0, 21);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const BALANCER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

fn pod(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, n)
}

fn node() -> ServiceRulesConfig {
    ServiceRulesConfig {
        node_ips: vec![NODE],
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        local_ips: vec![Ipv4Addr::new(10, 96, 0, 10)],
    }
}

fn service(endpoints: Vec<Endpoint>) -> Service {
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: Some(30080), endpoints };
    Service { cluster_ips: vec![VIRTUAL], ports: vec![port], ..Service::default() }
}

fn snapshot(service: Service) -> ServiceSnapshot {
    ServiceSnapshot { services: [(ServiceKey::new("shop", "web"), Arc::new(service))].into() }
}

fn of(service: Service) -> RuleSet {
    rules(&snapshot(service), &node())
}

fn fates(rules: &RuleSet, source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> BTreeSet<String> {
    (0..4)
        .map(|n| {
            let packet = Packet { source, destination, protocol: Protocol::Tcp, port };
            let mut world = World { draw: &mut |count| n % count, remembered: &mut BTreeSet::new() };
            match trace(rules, &node(), packet, &mut world) {
                Fate::Sent { to, masqueraded } => format!("{}:{}{}", to.0, to.1, if masqueraded { " masqueraded" } else { "" }),
                fate => format!("{fate:?}").to_lowercase(),
            }
        })
        .collect()
}

fn check(rules: &RuleSet, source: Ipv4Addr, destination: Ipv4Addr, port: u16, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
    assert_eq!(fates(rules, source, destination, port), expected, "from {source} to {destination}:{port}");
}

#[test]
fn a_cluster_ip_leads_to_every_ready_endpoint() {
    let mut unready = Endpoint::ready(pod(7), 8080);
    unready.ready = false;
    let rules = of(service(vec![Endpoint::ready(pod(5), 8080).here(), Endpoint::ready(pod(6), 8080), unready]));
    check(&rules, pod(9), VIRTUAL, 80, &["10.244.1.5:8080", "10.244.1.6:8080"]);
    check(&rules, NODE, VIRTUAL, 80, &["10.244.1.5:8080 masqueraded", "10.244.1.6:8080 masqueraded"]);
    check(&rules, pod(5), VIRTUAL, 80, &["10.244.1.5:8080 masqueraded", "10.244.1.6:8080"]);
    check(&rules, OUTSIDE, NODE, 30080, &["10.244.1.5:8080 masqueraded", "10.244.1.6:8080 masqueraded"]);
    check(&rules, pod(9), VIRTUAL, 81, &["rejected"]);
    check(&rules, pod(9), pod(5), 80, &["untouched"]);
    check(&rules, pod(9), Ipv4Addr::new(10, 96, 0, 10), 53, &["untouched"]);
}

#[test]
fn nobody_behind_a_service_is_said_at_once() {
    let rules = of(service(vec![]));
    check(&rules, pod(9), VIRTUAL, 80, &["rejected"]);
    check(&rules, OUTSIDE, NODE, 30080, &["rejected"]);
}

#[test]
fn ending_endpoints_serve_while_no_other_does() {
    let ending = |serving| Endpoint { ready: false, serving, terminating: true, ..Endpoint::ready(pod(5), 8080) };
    check(&of(service(vec![ending(true)])), pod(9), VIRTUAL, 80, &["10.244.1.5:8080"]);
    check(&of(service(vec![ending(false)])), pod(9), VIRTUAL, 80, &["rejected"]);
    check(&of(service(vec![ending(true), Endpoint::ready(pod(6), 8080)])), pod(9), VIRTUAL, 80, &["10.244.1.6:8080"]);
}

#[test]
fn local_policies_keep_to_this_node() {
    let endpoints = vec![Endpoint::ready(pod(5), 8080).here(), Endpoint::ready(pod(6), 8080)];
    let mut local = service(endpoints.clone());
    local.external_policy = TrafficPolicy::Local;
    local.load_balancer_ips = vec![BALANCER];
    let rules = of(local.clone());
    check(&rules, OUTSIDE, NODE, 30080, &["10.244.1.5:8080"]);
    check(&rules, OUTSIDE, BALANCER, 80, &["10.244.1.5:8080"]);
    check(&rules, pod(9), BALANCER, 80, &["10.244.1.5:8080", "10.244.1.6:8080"]);
    check(&rules, NODE, NODE, 30080, &["10.244.1.5:8080 masqueraded", "10.244.1.6:8080 masqueraded"]);
    local.ports[0].endpoints.remove(0);
    check(&of(local), OUTSIDE, NODE, 30080, &["dropped"]);

    let mut internal = service(endpoints);
    internal.internal_policy = TrafficPolicy::Local;
    check(&of(internal.clone()), pod(9), VIRTUAL, 80, &["10.244.1.5:8080"]);
    internal.ports[0].endpoints.remove(0);
    check(&of(internal), pod(9), VIRTUAL, 80, &["dropped"]);
}

#[test]
fn a_balancer_admits_only_its_ranges() {
    let mut service = service(vec![Endpoint::ready(pod(5), 8080)]);
    service.load_balancer_ips = vec![BALANCER];
    service.load_balancer_source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    let rules = of(service);
    check(&rules, OUTSIDE, BALANCER, 80, &["10.244.1.5:8080 masqueraded"]);
    check(&rules, Ipv4Addr::new(198, 51, 100, 1), BALANCER, 80, &["dropped"]);
    check(&rules, Ipv4Addr::new(198, 51, 100, 1), NODE, 30080, &["10.244.1.5:8080 masqueraded"]);
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let mut sticky = service(vec![Endpoint::ready(pod(5), 8080), Endpoint::ready(pod(6), 8080)]);
    sticky.affinity_seconds = Some(10);
    let rules = of(sticky);
    let mut remembered = BTreeSet::new();
    let packet = Packet { source: pod(9), destination: VIRTUAL, protocol: Protocol::Tcp, port: 80 };
    let draws: Vec<Fate> = [1, 0, 0]
        .iter()
        .map(|n| trace(&rules, &node(), packet, &mut World { draw: &mut |count| n % count, remembered: &mut remembered }))
        .collect();
    let second = Fate::Sent { to: (pod(6), 8080), masqueraded: false };
    assert_eq!(draws, [second, second, second]);
}

#[test]
fn headless_and_external_name_have_no_rules() {
    let headless = Service { headless: true, cluster_ips: vec![], ..service(vec![Endpoint::ready(pod(5), 80)]) };
    assert_eq!(of(headless), RuleSet::default());
    let alias = Service { external_name: Some("example.test".into()), ..Service::default() };
    assert_eq!(of(alias), RuleSet::default());
}

#[test]
fn the_text_is_what_nft_reads() {
    let rules = of(service(vec![Endpoint::ready(pod(5), 8080).here(), Endpoint::ready(pod(6), 8080)]));
    let text = text::table(&rules, &node());
    for line in [
        "elements = { 10.96.7.7 . tcp . 80 : goto svc-shop/web/tcp/80 }",
        "elements = { tcp . 30080 : goto ext-shop/web/tcp/80 }",
        "elements = { 10.244.1.5 . 10.244.1.5 }",
        "ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x4000",
        "meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.1.5 . 8080, 1 : 10.244.1.6 . 8080 }",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn a_new_endpoint_changes_two_chains_only() {
    let before = of(service(vec![Endpoint::ready(pod(5), 8080)]));
    let after = of(service(vec![Endpoint::ready(pod(5), 8080), Endpoint::ready(pod(6), 8080)]));
    let changes = diff(&before, &after);
    let chains: Vec<&str> = changes
        .iter()
        .map(|change| match change {
            Change::SetRules { chain, .. } => chain.as_str(),
            other => panic!("{other:?} is one change too many"),
        })
        .collect();
    assert_eq!(chains, ["ext-shop/web/tcp/80", "svc-shop/web/tcp/80"]);
}

#[test]
fn the_first_endpoint_takes_the_refusal_away() {
    let changes = diff(&of(service(vec![])), &of(service(vec![Endpoint::ready(pod(5), 8080)])));
    let target = (VIRTUAL, Protocol::Tcp, 80);
    assert!(changes.contains(&Change::RemoveElement(Element::Refused(target, Refusal::Reject))));
    assert!(changes.contains(&Change::AddElement(Element::ServiceIp(target, "svc-shop/web/tcp/80".into()))));
}

#[test]
fn udp_flows_to_lost_endpoints_are_stale() {
    let udp = |endpoints| {
        let mut service = service(endpoints);
        service.ports[0].protocol = Protocol::Udp;
        of(service)
    };
    let (old, new) = (udp(vec![Endpoint::ready(pod(5), 8080), Endpoint::ready(pod(6), 8080)]), udp(vec![Endpoint::ready(pod(6), 8080)]));
    assert!(udp_targets_changed(&old, &new));
    assert!(!udp_targets_changed(&new, &new));
    let stale = |to, by| stale(&old, &new, &[NODE], to, by);
    assert!(stale((VIRTUAL, 80), (pod(5), 8080)));
    assert!(!stale((VIRTUAL, 80), (pod(6), 8080)));
    assert!(stale((NODE, 30080), (pod(5), 8080)));
    assert!(stale((NODE, 30080), (NODE, 30080)), "a flow from before the Service existed");
    assert!(!stale((NODE, 53), (NODE, 53)));
    assert!(!stale((pod(5), 8080), (pod(5), 8080)));
}

/// A kernel in miniature: applies changes as the real one would, and refuses what it would refuse.
#[derive(Default)]
struct Kernel {
    rules: RuleSet,
}

impl Kernel {
    fn used(&self, chain: &str) -> bool {
        let named = |rules: &[Rule]| {
            rules.iter().any(|rule| match rule {
                Rule::GotoIfFrom(_, c) | Rule::GotoIfFromNode(c) | Rule::GotoIfRemembered { chain: c, .. } => c == chain,
                Rule::SpreadChains(chains) => chains.iter().any(|c| c == chain),
                _ => false,
            })
        };
        self.rules.chains.values().any(|rules| named(rules))
            || self.rules.service_ips.values().chain(self.rules.node_ports.values()).any(|c| c == chain)
    }

    fn set_used(&self, set: &str) -> bool {
        self.rules.chains.values().flatten().any(|rule| match rule {
            Rule::GotoIfRemembered { set: s, .. } | Rule::Remember { set: s } => s == set,
            _ => false,
        })
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::AddSet { name, seconds } => assert!(self.rules.affinity.insert(name, seconds).is_none()),
            Change::AddChain { name } => assert!(self.rules.chains.insert(name, vec![]).is_none()),
            Change::SetRules { chain, rules } => {
                for rule in &rules {
                    match rule {
                        Rule::GotoIfFrom(_, c) | Rule::GotoIfFromNode(c) => assert!(self.rules.chains.contains_key(c)),
                        Rule::GotoIfRemembered { set, chain } => {
                            assert!(self.rules.affinity.contains_key(set) && self.rules.chains.contains_key(chain));
                        }
                        Rule::Remember { set } => assert!(self.rules.affinity.contains_key(set)),
                        Rule::SpreadChains(chains) => assert!(chains.iter().all(|c| self.rules.chains.contains_key(c))),
                        _ => {}
                    }
                }
                *self.rules.chains.get_mut(&chain).expect("the chain exists") = rules;
            }
            Change::RemoveElement(element) => match element {
                Element::ServiceIp(key, _) => assert!(self.rules.service_ips.remove(&key).is_some()),
                Element::NodePort(key, _) => assert!(self.rules.node_ports.remove(&key).is_some()),
                Element::Refused(key, _) => assert!(self.rules.refused.remove(&key).is_some()),
                Element::RefusedPort(key, _) => assert!(self.rules.refused_ports.remove(&key).is_some()),
                Element::Hairpin(ip) => assert!(self.rules.hairpin.remove(&ip)),
            },
            Change::AddElement(element) => match element {
                Element::ServiceIp(key, chain) => {
                    assert!(self.rules.chains.contains_key(&chain));
                    assert!(self.rules.service_ips.insert(key, chain).is_none());
                }
                Element::NodePort(key, chain) => {
                    assert!(self.rules.chains.contains_key(&chain));
                    assert!(self.rules.node_ports.insert(key, chain).is_none());
                }
                Element::Refused(key, refusal) => assert!(self.rules.refused.insert(key, refusal).is_none()),
                Element::RefusedPort(key, refusal) => assert!(self.rules.refused_ports.insert(key, refusal).is_none()),
                Element::Hairpin(ip) => assert!(self.rules.hairpin.insert(ip)),
            },
            Change::RemoveChain { name } => {
                assert!(!self.used(&name), "{name} is still used");
                assert!(self.rules.chains.remove(&name).is_some_and(|rules| rules.is_empty()));
            }
            Change::RemoveSet { name } => {
                assert!(!self.set_used(&name), "{name} is still used");
                assert!(self.rules.affinity.remove(&name).is_some());
            }
        }
    }
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    (1u8..6, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(n, ready, serving, terminating, local)| Endpoint {
        ip: pod(n),
        port: 8080,
        ready,
        serving,
        terminating,
        local,
        hostname: None,
    })
}

fn any_service(n: u8) -> impl Strategy<Value = Service> {
    let policy = || prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let shape = (any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![Just(None), Just(Some(10)), Just(Some(20))]);
    (proptest::collection::vec(any_endpoint(), 0..5), policy(), policy(), protocol, shape).prop_map(
        move |(endpoints, internal_policy, external_policy, protocol, (node_port, balancer, ranges, affinity_seconds))| Service {
            cluster_ips: vec![Ipv4Addr::new(10, 96, 1, n)],
            load_balancer_ips: if balancer { vec![Ipv4Addr::new(203, 0, 113, n)] } else { vec![] },
            load_balancer_source_ranges: if ranges { vec!["192.0.2.0/24".parse().unwrap()] } else { vec![] },
            affinity_seconds,
            internal_policy,
            external_policy,
            ports: vec![ServicePort {
                name: String::new(),
                protocol,
                port: 80,
                node_port: node_port.then_some(30000 + u16::from(n)),
                endpoints,
            }],
            ..Service::default()
        },
    )
}

pub(crate) fn any_snapshot() -> impl Strategy<Value = ServiceSnapshot> {
    let services = (0u8..3).map(|n| proptest::option::of(any_service(n).prop_map(move |service| (n, service)))).collect::<Vec<_>>();
    services.prop_map(|services| ServiceSnapshot {
        services: services.into_iter().flatten().map(|(n, s)| (ServiceKey::new("ns", format!("s{n}")), Arc::new(s))).collect(),
    })
}

proptest! {
    #[test]
    fn changes_lead_from_any_rules_to_any_others(from in any_snapshot(), to in any_snapshot()) {
        let (old, new) = (rules(&from, &node()), rules(&to, &node()));
        let mut kernel = Kernel { rules: old.clone() };
        for change in diff(&old, &new) {
            kernel.apply(change);
        }
        prop_assert_eq!(&kernel.rules, &new);
        prop_assert!(diff(&new, &new).is_empty());
    }

    #[test]
    fn packets_only_reach_endpoints_of_their_service(snapshot in any_snapshot(), service in 0u8..3, draw in 0usize..5) {
        let rules = rules(&snapshot, &node());
        let key = ServiceKey::new("ns", format!("s{service}"));
        let Some(found) = snapshot.services.get(&key) else { return Ok(()) };
        let packet = Packet { source: pod(99), destination: found.cluster_ips[0], protocol: found.ports[0].protocol, port: 80 };
        let mut world = World { draw: &mut |count| draw % count, remembered: &mut BTreeSet::new() };
        if let Fate::Sent { to, .. } = trace(&rules, &node(), packet, &mut world) {
            let endpoint = found.ports[0].endpoints.iter().any(|e| (e.ip, e.port) == to && (e.ready || e.serving && e.terminating));
            prop_assert!(endpoint);
            let ready_elsewhere = found.ports[0].endpoints.iter().any(|e| e.ready && (found.internal_policy == TrafficPolicy::Cluster || e.local));
            let ready = found.ports[0].endpoints.iter().any(|e| e.ready && (e.ip, e.port) == to);
            prop_assert!(ready || !ready_elsewhere);
        }
    }
}
