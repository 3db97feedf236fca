//! `create service clusterip|nodeport|loadbalancer|externalname`.

use anyhow::bail;
use serde_json::{Value, json};

use super::Common;

/// Arguments of `create service`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(clap::Subcommand, Debug)]
enum Kind {
    /// An address inside the cluster
    Clusterip {
        /// Its name
        name: String,
        /// Ports, as PORT or PORT:TARGET (may be repeated)
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<String>,
        /// The address; None for none at all
        #[arg(long)]
        clusterip: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// A port on every node
    Nodeport {
        /// Its name
        name: String,
        /// Ports, as PORT or PORT:TARGET (may be repeated)
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<String>,
        /// The port on the nodes
        #[arg(long, default_value_t = 0)]
        node_port: u16,
        #[command(flatten)]
        common: Common,
    },
    /// An address outside the cluster
    Loadbalancer {
        /// Its name
        name: String,
        /// Ports, as PORT or PORT:TARGET (may be repeated)
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Another DNS name
    Externalname {
        /// Its name
        name: String,
        /// The DNS name
        #[arg(long)]
        external_name: String,
        /// Ports, as PORT or PORT:TARGET (may be repeated)
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
}

/// The flags of every way to create.
pub fn common(args: &Args) -> &Common {
    match &args.kind {
        Kind::Clusterip { common, .. }
        | Kind::Nodeport { common, .. }
        | Kind::Loadbalancer { common, .. }
        | Kind::Externalname { common, .. } => common,
    }
}

/// The object.
///
/// # Errors
/// When ports are wrong or missing.
pub fn object(args: &Args) -> anyhow::Result<Value> {
    match &args.kind {
        Kind::Clusterip { name, tcp, clusterip, .. } => {
            let headless = clusterip.as_deref() == Some("None");
            if tcp.is_empty() && !headless {
                bail!("at least one tcp port specifier must be provided");
            }
            let mut spec = json!({"type": "ClusterIP"});
            if let Some(address) = clusterip {
                spec["clusterIP"] = json!(address);
            }
            service(name, spec, tcp, 0)
        }
        Kind::Nodeport { name, tcp, node_port, .. } => {
            if tcp.is_empty() {
                bail!("at least one tcp port specifier must be provided");
            }
            service(name, json!({"type": "NodePort"}), tcp, *node_port)
        }
        Kind::Loadbalancer { name, tcp, .. } => {
            if tcp.is_empty() {
                bail!("at least one tcp port specifier must be provided");
            }
            service(name, json!({"type": "LoadBalancer"}), tcp, 0)
        }
        Kind::Externalname { name, external_name, tcp, .. } => {
            service(name, json!({"type": "ExternalName", "externalName": external_name}), tcp, 0)
        }
    }
}

fn service(name: &str, mut spec: Value, tcp: &[String], node_port: u16) -> anyhow::Result<Value> {
    spec["selector"] = json!({"app": name});
    let ports: Vec<Value> = tcp.iter().map(|text| port(text, node_port)).collect::<anyhow::Result<_>>()?;
    if !ports.is_empty() {
        spec["ports"] = json!(ports);
    }
    Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec,
        "status": {"loadBalancer": {}}}))
}

fn port(text: &str, node_port: u16) -> anyhow::Result<Value> {
    let (port, target) = text.split_once(':').unwrap_or((text, text));
    let Ok(number) = port.parse::<u16>() else { bail!("invalid port number: {port:?}") };
    let target = target.parse::<u16>().map_or_else(|_name| json!(target), |number| json!(number));
    let mut entry = json!({"name": text.replace(':', "-"), "port": number, "protocol": "TCP", "targetPort": target});
    if node_port > 0 {
        entry["nodePort"] = json!(node_port);
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_after_themselves() {
        assert_eq!(port("80:8080", 0).expect("a port"), json!({"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080}));
        assert_eq!(port("80:web", 30000).expect("a port")["targetPort"], "web");
        assert!(port("x", 0).is_err());
    }
}
