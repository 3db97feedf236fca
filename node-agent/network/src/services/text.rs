//! The table of Services as `nft` reads it: loaded whole when an agent starts, in place of what an earlier one left.

use std::{fmt::Write, net::Ipv4Addr};

use super::{
    nft::ServiceRulesConfig,
    rules::{Refusal, Rule, RuleSet, Target},
    snapshot::Protocol,
};

/// The table's name.
pub(crate) const TABLE: &str = "trierarch";
/// The bit of the packet mark that asks for masquerading; upstream uses the same.
pub(crate) const MASQUERADE_MARK: u32 = 0x4000;

/// The whole table.
pub fn table(rules: &RuleSet, node: &ServiceRulesConfig) -> String {
    let mut text = format!("add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
    sets(&mut text, rules, node);
    base_chains(&mut text, node);
    // A chain must exist before a rule or an element names it; `nft` reads the whole block first, so the order is free.
    for (name, chain) in &rules.chains {
        let _ = writeln!(text, "\tchain {name} {{");
        for rule in chain {
            let _ = writeln!(text, "\t\t{}", rule_text(rule));
        }
        let _ = writeln!(text, "\t}}");
    }
    text.push_str("}\n");
    text
}

/// A rule as `nft` writes it.
pub fn rule_text(rule: &Rule) -> String {
    let mark = format!("meta mark set meta mark | {MASQUERADE_MARK:#x}");
    match rule {
        Rule::Masquerade => mark,
        Rule::MasqueradeUnlessFrom(block) => format!("ip saddr != {block} {mark}"),
        Rule::GotoIfFrom(block, chain) => format!("ip saddr {block} goto {chain}"),
        Rule::GotoIfFromNode(chain) => format!("fib saddr type local goto {chain}"),
        Rule::GotoIfRemembered { set, chain } => format!("ip saddr @{set} goto {chain}"),
        Rule::Remember { set } => format!("update @{set} {{ ip saddr }}"),
        Rule::Spread(protocol, backends) => match backends.as_slice() {
            [(ip, port)] => format!("meta l4proto {} dnat to {ip}:{port}", protocol.name()),
            many => {
                let numbered: Vec<String> = many.iter().enumerate().map(|(n, (ip, port))| format!("{n} : {ip} . {port}")).collect();
                let (protocol, count, map) = (protocol.name(), many.len(), numbered.join(", "));
                format!("meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {map} }}")
            }
        },
        Rule::SpreadChains(chains) => match chains.as_slice() {
            [chain] => format!("goto {chain}"),
            many => {
                let numbered: Vec<String> = many.iter().enumerate().map(|(n, chain)| format!("{n} : goto {chain}")).collect();
                format!("numgen random mod {} vmap {{ {} }}", many.len(), numbered.join(", "))
            }
        },
        Rule::Drop => "drop".to_owned(),
    }
}

fn sets(text: &mut String, rules: &RuleSet, node: &ServiceRulesConfig) {
    let target = |(ip, protocol, port): &Target| format!("{ip} . {} . {port}", protocol.name());
    let node_port = |(protocol, port): &(Protocol, u16)| format!("{} . {port}", protocol.name());
    let refusal = |refusal: &Refusal| match refusal {
        Refusal::Reject => "goto refusal".to_owned(),
        Refusal::Drop => "drop".to_owned(),
    };
    let (by_ip, by_port) = ("ipv4_addr . inet_proto . inet_service : verdict", "inet_proto . inet_service : verdict");
    set(text, "map service_ips", by_ip, rules.service_ips.iter().map(|(k, chain)| format!("{} : goto {chain}", target(k))));
    set(text, "map node_ports", by_port, rules.node_ports.iter().map(|(k, chain)| format!("{} : goto {chain}", node_port(k))));
    set(text, "map refused", by_ip, rules.refused.iter().map(|(k, r)| format!("{} : {}", target(k), refusal(r))));
    set(text, "map refused_ports", by_port, rules.refused_ports.iter().map(|(k, r)| format!("{} : {}", node_port(k), refusal(r))));
    set(text, "set hairpin", "ipv4_addr . ipv4_addr", rules.hairpin.iter().map(|ip| format!("{ip} . {ip}")));
    set(text, "set node_ips", "ipv4_addr", node.node_ips.iter().map(Ipv4Addr::to_string));
    set(text, "set local_ips", "ipv4_addr", node.local_ips.iter().map(Ipv4Addr::to_string));
    for (name, seconds) in &rules.affinity {
        let _ = writeln!(text, "\tset {name} {{\n\t\ttype ipv4_addr\n\t\tflags dynamic,timeout\n\t\ttimeout {seconds}s\n\t}}");
    }
}

fn set(text: &mut String, head: &str, kind: &str, elements: impl Iterator<Item = String>) {
    let elements: Vec<String> = elements.collect();
    let _ = writeln!(text, "\t{head} {{\n\t\ttype {kind}");
    if !elements.is_empty() {
        let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(", "));
    }
    let _ = writeln!(text, "\t}}");
}

/// The chains every packet begins in; they never change while the agent runs.
fn base_chains(text: &mut String, node: &ServiceRulesConfig) {
    let services = node.service_cidr.masked();
    let clear = !MASQUERADE_MARK;
    let _ = write!(
        text,
        "\tchain refusal {{
\t\tmeta l4proto tcp reject with tcp reset
\t\treject
\t}}
\tchain refuse {{
\t\tip daddr @local_ips return
\t\tip daddr . meta l4proto . th dport vmap @refused
\t\tip daddr @node_ips meta l4proto . th dport vmap @refused_ports
\t}}
\tchain refuse_prerouting {{
\t\ttype filter hook prerouting priority -110
\t\tct state new jump refuse
\t}}
\tchain refuse_output {{
\t\ttype filter hook output priority -110
\t\tct state new jump refuse
\t}}
\tchain services {{
\t\tip daddr @local_ips return
\t\tip daddr . meta l4proto . th dport vmap @service_ips
\t\tip daddr @node_ips meta l4proto . th dport vmap @node_ports
\t}}
\tchain prerouting {{
\t\ttype nat hook prerouting priority dstnat
\t\tjump services
\t}}
\tchain output {{
\t\ttype nat hook output priority -100
\t\tjump services
\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat
\t\tmeta mark & {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} meta mark set meta mark & {clear:#x} masquerade
\t\tip saddr . ip daddr @hairpin masquerade
\t}}
\tchain unknown_forward {{
\t\ttype filter hook forward priority filter
\t\tct state new ip daddr {services} goto refusal
\t}}
\tchain unknown_output {{
\t\ttype filter hook output priority filter
\t\toifname != \"lo\" ct state new ip daddr {services} goto refusal
\t}}
"
    );
}
