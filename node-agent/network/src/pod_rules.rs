//! The nftables rules that pods need besides Services: host ports, and masquerading of what leaves the cluster.
//!
//! They have a table of their own, so that replacing the rules of Services never touches them.

use std::{collections::BTreeMap, fmt::Write, net::Ipv4Addr};

use crate::{Cidr, apply::HostPort};

/// The table's name.
pub(crate) const TABLE: &str = "trierarch-pods";

/// What the rules are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodRules {
    pub(crate) pod_cidr: Cidr,
    pub(crate) cluster_cidr: Cidr,
    /// Nodes that know the way back to pods: no masquerading towards them.
    pub(crate) direct: Vec<Ipv4Addr>,
    pub(crate) host_ports: BTreeMap<String, (Ipv4Addr, Vec<HostPort>)>,
}

impl PodRules {
    /// The whole table, loaded in one transaction in place of an older one.
    pub(crate) fn text(&self) -> String {
        let (pods, cluster) = (self.pod_cidr.masked(), self.cluster_cidr.masked());
        let mut text = format!("add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
        let (mut given, mut any, mut hairpin) = (Vec::new(), Vec::new(), Vec::new());
        for (pod, ports) in self.host_ports.values() {
            for port in ports {
                let key = format!("{} . {}", port.protocol.name(), port.host_port);
                let to = format!("{pod} . {}", port.container_port);
                match port.host_ip.filter(|ip| !ip.is_unspecified()) {
                    Some(ip) => given.push(format!("{ip} . {key} : {to}")),
                    None => any.push(format!("{key} : {to}")),
                }
            }
            if !ports.is_empty() {
                hairpin.push(format!("{pod} . {pod}"));
            }
        }
        let direct: Vec<String> = self.direct.iter().map(Ipv4Addr::to_string).collect();
        let mut set = |head: &str, kind: &str, mut elements: Vec<String>| {
            elements.sort();
            // Two pods cannot have the same host port; if a leftover claims one twice, the first keeps it and the load succeeds.
            elements.dedup_by(|b, a| b.split(" : ").next() == a.split(" : ").next());
            let _ = writeln!(text, "\t{head} {{\n\t\ttype {kind}");
            if !elements.is_empty() {
                let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(", "));
            }
            let _ = writeln!(text, "\t}}");
        };
        set("map host_ports", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service", given);
        set("map any_host_ports", "inet_proto . inet_service : ipv4_addr . inet_service", any);
        set("set hairpin", "ipv4_addr . ipv4_addr", hairpin);
        set("set direct", "ipv4_addr", direct);
        for (chain, hook) in [("prerouting", "dstnat + 10"), ("output", "-90")] {
            let _ = write!(
                text,
                "\tchain {chain} {{\n\
                 \t\ttype nat hook {chain} priority {hook}\n\
                 \t\tdnat ip to ip daddr . meta l4proto . th dport map @host_ports\n\
                 \t\tfib daddr type local dnat ip to meta l4proto . th dport map @any_host_ports\n\
                 \t}}\n"
            );
        }
        let _ = write!(
            text,
            "\tchain postrouting {{\n\
             \t\ttype nat hook postrouting priority srcnat + 10\n\
             \t\tip saddr . ip daddr @hairpin masquerade\n\
             \t\tip saddr 127.0.0.0/8 oifname != \"lo\" ct status dnat masquerade\n\
             \t\tip saddr {pods} ip daddr != {cluster} ip daddr != @direct masquerade\n\
             \t}}\n\
             \tchain forward {{\n\
             \t\ttype filter hook forward priority filter\n\
             \t\tct state invalid drop\n\
             \t}}\n\
             \tchain loopback {{\n\
             \t\ttype filter hook input priority filter\n\
             \t\tiifname != \"lo\" ip daddr 127.0.0.0/8 ct state != {{ established, related }} drop\n\
             \t}}\n\
             }}\n"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn host_ports_lead_to_pods() {
        let port = |host_ip: Option<&str>, protocol, host_port| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            protocol,
            host_port,
            container_port: 8080,
        };
        let pod = Ipv4Addr::new(10, 244, 1, 5);
        let rules = PodRules {
            pod_cidr: "10.244.1.0/24".parse().unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            direct: vec![Ipv4Addr::new(10, 131, 0, 22)],
            host_ports: [(
                "a".to_owned(),
                (
                    pod,
                    vec![
                        port(Some("127.0.0.1"), Protocol::Tcp, 54323),
                        port(None, Protocol::Udp, 53),
                        port(Some("0.0.0.0"), Protocol::Tcp, 80),
                    ],
                ),
            )]
            .into(),
        };
        let text = rules.text();
        assert!(text.contains("elements = { 127.0.0.1 . tcp . 54323 : 10.244.1.5 . 8080 }"), "{text}");
        assert!(text.contains("elements = { tcp . 80 : 10.244.1.5 . 8080, udp . 53 : 10.244.1.5 . 8080 }"), "{text}");
        assert!(text.contains("elements = { 10.244.1.5 . 10.244.1.5 }"), "{text}");
        assert!(text.contains("ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 ip daddr != @direct masquerade"), "{text}");
    }
}
