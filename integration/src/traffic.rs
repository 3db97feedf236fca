//! Clients inside the cluster that ask a Service without pause and count what fails: they notice when pods stop serving.
//!
//! A client needs no master for its work, so it goes on while masters die.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::cluster::Cluster;
use crate::wait::until;

/// Asks `http://shop/cgi-bin/health`, once by the Service's address and once by its name, and keeps the counts in /tmp/counts.
const SCRIPT: &str = r#"
address=0 address_failed=0 name=0 name_failed=0
ask() { timeout 10 wget -q -O /dev/null "http://$1/cgi-bin/health"; }
while :; do
  if ask "$SHOP_SERVICE_HOST"; then address=$((address + 1)); else address_failed=$((address_failed + 1)); echo "$(date -u +%T) address"; fi
  if ask shop; then name=$((name + 1)); else name_failed=$((name_failed + 1)); echo "$(date -u +%T) name"; fi
  echo "$address $address_failed $name $name_failed" >/tmp/counts.new && mv /tmp/counts.new /tmp/counts
  usleep 50000
done
"#;

/// What a client has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Requests that were answered, by address.
    pub by_address: u64,
    /// Requests that failed, by address.
    pub by_address_failed: u64,
    /// Requests that were answered, by name.
    pub by_name: u64,
    /// Requests that failed, by name.
    pub by_name_failed: u64,
}

impl Counts {
    /// All requests that failed.
    pub fn failed(&self) -> u64 {
        self.by_address_failed + self.by_name_failed
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        let mut next = || numbers.next();
        Some(Self { by_address: next()?, by_address_failed: next()?, by_name: next()?, by_name_failed: next()? })
    }
}

/// One client on each node.
pub struct Traffic {
    nodes: Vec<String>,
}

fn pod(node: &str) -> String {
    format!("client-{node}")
}

impl Traffic {
    /// Starts a client on each of these nodes and waits until each has been answered.
    ///
    /// # Errors
    /// When a client does not start, or is not answered in time.
    pub fn start(cluster: &Cluster, nodes: &[&str], patience: Duration) -> Result<Self> {
        for node in nodes {
            cluster.create(&json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod(node), "labels": {"app": "client"}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "client", "image": "shop:1", "command": ["sh", "-c", SCRIPT]}],
                },
            }))?;
        }
        let traffic = Self { nodes: nodes.iter().map(|node| (*node).to_owned()).collect() };
        for node in nodes {
            traffic.goes_on(cluster, node, 2, patience)?;
        }
        Ok(traffic)
    }

    /// What the client on a node has counted so far.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn counts(&self, cluster: &Cluster, node: &str) -> Result<Counts> {
        // the agent of the node may be starting again
        let (counts, _) = until("the client's counts", Duration::from_secs(60), || {
            let text = cluster.kubectl(&["exec", &pod(node), "--", "cat", "/tmp/counts"])?;
            Counts::parse(&text).with_context(|| format!("{text:?}"))
        })?;
        Ok(counts)
    }

    /// Waits until the client on a node has been answered `count` more times both ways.
    ///
    /// # Errors
    /// When it has not after `patience`.
    pub fn goes_on(&self, cluster: &Cluster, node: &str, count: u64, patience: Duration) -> Result<()> {
        let from = self.counts(cluster, node).unwrap_or_default();
        until("answers", patience, || {
            let now = self.counts(cluster, node)?;
            let enough = now.by_address >= from.by_address + count && now.by_name >= from.by_name + count;
            ensure!(enough, "on {node} {from:?} became {now:?}:\n{}", self.failures(cluster, node));
            Ok(())
        })?;
        Ok(())
    }

    /// When requests of the client on a node failed.
    pub fn failures(&self, cluster: &Cluster, node: &str) -> String {
        cluster.kubectl(&["logs", &pod(node), "--tail=10"]).unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Removes the clients.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn stop(self, cluster: &Cluster) -> Result<()> {
        for node in &self.nodes {
            cluster.kubectl(&["delete", "pod", &pod(node), "--ignore-not-found"])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn counts_are_read_as_the_script_writes_them() {
        let counts = Counts::parse("10 1 9 2\n").unwrap();
        assert_eq!((counts.by_address, counts.by_name, counts.failed()), (10, 9, 3));
        assert!(Counts::parse("10 1 9").is_none());
    }
}
