//! A pod's name and its managed `/etc/hosts`.

use k8s_openapi::api::core::v1::Pod;

const HOSTNAME_MAX: usize = 63;

/// What the pod's host name, domain and kernel node name are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// `spec.hostname`, or the pod's name cut to what the kernel takes.
    pub hostname: String,
    /// The fully qualified domain, if the pod has a subdomain.
    pub domain: Option<String>,
    /// What `uname -n` says.
    pub node_name: String,
}

/// The names of a pod.
pub fn pod_name(pod: &Pod, cluster_domain: &str) -> PodName {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let text = |value: Option<&String>| value.filter(|v| !v.is_empty()).cloned();
    if let Some(name) = text(spec.and_then(|s| s.hostname_override.as_ref())) {
        return PodName { hostname: name.clone(), domain: None, node_name: name };
    }
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let cut = if own.len() > HOSTNAME_MAX { own[..HOSTNAME_MAX].trim_end_matches(['-', '.']) } else { own };
    let hostname = text(spec.and_then(|s| s.hostname.as_ref())).unwrap_or_else(|| cut.to_owned());
    let domain = text(spec.and_then(|s| s.subdomain.as_ref())).map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"));
    let node_name = match (&domain, spec.and_then(|s| s.set_hostname_as_fqdn)) {
        (Some(domain), Some(true)) => format!("{hostname}.{domain}"),
        _ => hostname.clone(),
    };
    PodName { hostname, domain, node_name }
}

/// The text of `/etc/hosts`; `node_hosts` is the node's own file, for pods in its network.
pub fn hosts_file(pod: &Pod, name: &PodName, ips: &[String], node_hosts: Option<&str>) -> String {
    let mut out = match node_hosts {
        Some(text) => format!("# Kubernetes-managed hosts file (host network).\n{text}"),
        None => {
            let mut text = String::from("# Kubernetes-managed hosts file.\n");
            for (ip, names) in [
                ("127.0.0.1", "localhost"),
                ("::1", "localhost ip6-localhost ip6-loopback"),
                ("fe00::0", "ip6-localnet"),
                ("fe00::0", "ip6-mcastprefix"),
                ("fe00::1", "ip6-allnodes"),
                ("fe00::2", "ip6-allrouters"),
            ] {
                text.push_str(&format!("{ip}\t{names}\n"));
            }
            for ip in ips {
                match &name.domain {
                    Some(domain) => text.push_str(&format!("{ip}\t{0}.{domain}\t{0}\n", name.hostname)),
                    None => text.push_str(&format!("{ip}\t{}\n", name.hostname)),
                }
            }
            text
        }
    };
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn names_follow_the_spec() {
        let name = pod_name(&pod(json!({"containers": [], "subdomain": "web", "setHostnameAsFQDN": true})), "cluster.local");
        assert_eq!(name.domain.as_deref(), Some("web.ns.svc.cluster.local"));
        assert_eq!((name.hostname.as_str(), name.node_name.as_str()), ("web-0", "web-0.web.ns.svc.cluster.local"));
        assert_eq!(pod_name(&pod(json!({"containers": [], "hostname": "h"})), "c").node_name, "h");
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let pod = pod(json!({"containers": [], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts_file(&pod, &pod_name(&pod, "c"), &["10.0.0.9".into()], None);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n") && text.contains("\n10.0.0.9\tweb-0\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        assert!(
            hosts_file(&pod, &pod_name(&pod, "c"), &[], Some("x y\n"))
                .starts_with("# Kubernetes-managed hosts file (host network).\nx y\n")
        );
    }
}
