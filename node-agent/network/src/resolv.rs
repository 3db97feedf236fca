//! What a pod's `/etc/resolv.conf` says.
//!
//! Spec: Kubernetes "DNS for Services and Pods", `spec.dnsPolicy` and `spec.dnsConfig`.

/// A node's or a pod's resolver settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// Each as `name` or `name:value`.
    pub options: Vec<String>,
}

/// `spec.dnsPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsPolicy {
    /// The cluster's DNS, except for pods in the host's network, which get the node's.
    #[default]
    ClusterFirst,
    /// The cluster's DNS, also for pods in the host's network.
    ClusterFirstWithHostNet,
    /// The node's resolver.
    Default,
    /// Nothing but `spec.dnsConfig`.
    None,
}

impl DnsPolicy {
    /// The policy of that name; anything unknown counts as `ClusterFirst`, the default.
    pub fn from_kubernetes(text: &str) -> DnsPolicy {
        match text {
            "ClusterFirstWithHostNet" => DnsPolicy::ClusterFirstWithHostNet,
            "Default" => DnsPolicy::Default,
            "None" => DnsPolicy::None,
            _ => DnsPolicy::ClusterFirst,
        }
    }
}

/// `spec.dnsConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsOverrides {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// Names with optional values.
    pub options: Vec<(String, Option<String>)>,
}

/// What the content depends on.
#[derive(Debug, Clone, Copy)]
pub struct PodDns<'a> {
    pub policy: DnsPolicy,
    pub host_network: bool,
    pub namespace: &'a str,
    pub overrides: Option<&'a DnsOverrides>,
    /// The cluster's domain, such as `cluster.local`.
    pub cluster_domain: &'a str,
    /// The cluster's DNS address, such as `10.96.0.10`.
    pub cluster_dns: &'a str,
    /// What the node's own `resolv.conf` says.
    pub host: &'a Resolver,
}

/// The most name servers a libc reads.
const NAMESERVERS_MAX: usize = 3;
/// The limits of a search list in Kubernetes.
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;

/// The content of a pod's `resolv.conf`.
pub fn resolv_conf(pod: &PodDns<'_>) -> String {
    render(&pod_resolver(pod))
}

/// The resolver settings of a pod, after policy, overrides and limits.
pub fn pod_resolver(pod: &PodDns<'_>) -> Resolver {
    let cluster = match pod.policy {
        DnsPolicy::ClusterFirst => !pod.host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
        DnsPolicy::Default | DnsPolicy::None => false,
    };
    let mut resolver = match pod.policy {
        DnsPolicy::None => Resolver::default(),
        _ if cluster => {
            let mut searches = vec![
                format!("{}.svc.{}", pod.namespace, pod.cluster_domain),
                format!("svc.{}", pod.cluster_domain),
                pod.cluster_domain.to_owned(),
            ];
            searches.extend(pod.host.searches.iter().cloned());
            Resolver { nameservers: vec![pod.cluster_dns.to_owned()], searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => pod.host.clone(),
    };
    if let Some(overrides) = pod.overrides {
        resolver.nameservers.extend(overrides.nameservers.iter().cloned());
        resolver.searches.extend(overrides.searches.iter().cloned());
        resolver.options = merged_options(&resolver.options, &overrides.options);
    }
    resolver.nameservers = unique(resolver.nameservers);
    resolver.nameservers.truncate(NAMESERVERS_MAX);
    resolver.searches = fitting(unique(resolver.searches));
    resolver
}

/// Reads a `resolv.conf`. Lines that are not understood are left out; of several `search` lines the last counts.
pub fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => resolver.searches = words.map(|word| strip_dot(word).to_owned()).collect(),
            Some("options") => resolver.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    resolver
}

/// The text of a `resolv.conf`.
pub fn render(resolver: &Resolver) -> String {
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        text += &format!("search {}\n", resolver.searches.join(" "));
    }
    for nameserver in &resolver.nameservers {
        text += &format!("nameserver {nameserver}\n");
    }
    if !resolver.options.is_empty() {
        text += &format!("options {}\n", resolver.options.join(" "));
    }
    text
}

fn strip_dot(name: &str) -> &str {
    // A search of the root alone is kept as it is.
    if name == "." { name } else { name.trim_end_matches('.') }
}

fn merged_options(base: &[String], overrides: &[(String, Option<String>)]) -> Vec<String> {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = base.iter().filter(|option| !overrides.iter().any(|(n, _)| *n == name(option))).cloned().collect();
    for (name, value) in overrides {
        merged.push(match value {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.clone(),
        });
    }
    merged
}

fn unique(list: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    list.into_iter().filter(|item| seen.insert(item.clone())).collect()
}

fn fitting(searches: Vec<String>) -> Vec<String> {
    let mut characters = 0;
    let mut fit = Vec::new();
    for search in searches.into_iter().take(SEARCHES_MAX) {
        characters += search.len() + usize::from(!fit.is_empty());
        if characters > SEARCH_CHARACTERS_MAX {
            break;
        }
        fit.push(search);
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Resolver {
        parse("# from the provider\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.test.\noptions edns0 ndots:2\n")
    }

    fn check(policy: DnsPolicy, host_network: bool, overrides: Option<&DnsOverrides>, expected: &str) {
        let host = host();
        let pod = PodDns {
            policy,
            host_network,
            namespace: "shop",
            overrides,
            cluster_domain: "cluster.local",
            cluster_dns: "10.96.0.10",
            host: &host,
        };
        assert_eq!(resolv_conf(&pod), expected);
    }

    const CLUSTER: &str =
        "search shop.svc.cluster.local svc.cluster.local cluster.local example.test\nnameserver 10.96.0.10\noptions ndots:5\n";
    const NODE: &str = "search example.test\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions edns0 ndots:2\n";

    #[test]
    fn the_policy_chooses_the_resolver() {
        check(DnsPolicy::ClusterFirst, false, None, CLUSTER);
        check(DnsPolicy::ClusterFirst, true, None, NODE);
        check(DnsPolicy::ClusterFirstWithHostNet, true, None, CLUSTER);
        check(DnsPolicy::Default, false, None, NODE);
        check(DnsPolicy::None, false, None, "");
    }

    #[test]
    fn overrides_add_names_and_replace_options() {
        let overrides = DnsOverrides {
            nameservers: vec!["1.1.1.1".into(), "10.96.0.10".into()],
            searches: vec!["resolv.conf.local".into(), "cluster.local".into()],
            options: vec![("ndots".into(), Some("2".into())), ("edns0".into(), None)],
        };
        check(
            DnsPolicy::None,
            false,
            Some(&overrides),
            "search resolv.conf.local cluster.local\nnameserver 1.1.1.1\nnameserver 10.96.0.10\noptions ndots:2 edns0\n",
        );
        check(
            DnsPolicy::ClusterFirst,
            false,
            Some(&overrides),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.test resolv.conf.local\n\
             nameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
        );
    }

    #[test]
    fn limits_cut_the_tail() {
        let overrides = DnsOverrides {
            nameservers: (1..9).map(|n| format!("192.0.2.{n}")).collect(),
            searches: (0..40).map(|n| format!("s{n}.test")).collect(),
            options: vec![],
        };
        let host = Resolver::default();
        let pod = PodDns {
            policy: DnsPolicy::None,
            host_network: false,
            namespace: "a",
            overrides: Some(&overrides),
            cluster_domain: "cluster.local",
            cluster_dns: "10.96.0.10",
            host: &host,
        };
        let resolver = pod_resolver(&pod);
        assert_eq!(resolver.nameservers.len(), 3);
        assert_eq!(resolver.searches.len(), 32);
    }

    #[test]
    fn a_rendered_file_reads_back() {
        assert_eq!(parse(&render(&host())), host());
    }
}
