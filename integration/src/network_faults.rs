//! Broken links between masters: nftables rules in a master's own network namespace, which its clients do not feel.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::cluster::{Cluster, text};

/// Which packets are lost, as the master sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those that come from its peers.
    In,
    /// Those that go to its peers.
    Out,
    /// All of them.
    Both,
}

/// A link between one master and some of its peers that is broken until this is healed or dropped.
pub struct BrokenLink {
    netns: PathBuf,
    healed: bool,
}

impl BrokenLink {
    /// Loses `percent` of the packets between a master and these peers.
    ///
    /// # Errors
    /// What nft printed.
    pub fn new(cluster: &Cluster, master: &str, peers: &[&str], direction: Direction, percent: u8) -> Result<Self> {
        let addresses: Vec<Ipv4Addr> = peers.iter().map(|peer| cluster.address(peer)).collect::<Result<_>>()?;
        let netns = cluster.netns(master);
        load(&netns, &rules(&addresses, direction, percent))?;
        Ok(Self { netns, healed: false })
    }

    /// Cuts a master from all others, in one direction or both.
    ///
    /// # Errors
    /// What nft printed.
    pub fn isolate(cluster: &Cluster, master: &str, direction: Direction) -> Result<Self> {
        let masters = cluster.masters()?;
        let peers: Vec<&str> = masters.iter().map(String::as_str).filter(|name| *name != master).collect();
        Self::new(cluster, master, &peers, direction, 100)
    }

    /// Makes it whole again.
    ///
    /// # Errors
    /// What nft printed.
    pub fn heal(mut self) -> Result<()> {
        self.healed = true;
        load(&self.netns, HEALED)
    }
}

impl Drop for BrokenLink {
    fn drop(&mut self) {
        if !self.healed
            && let Err(error) = load(&self.netns, HEALED)
        {
            eprintln!("could not heal a link: {error:#}");
        }
    }
}

/// Removes the rules, whether they are there or not.
const HEALED: &str = "table inet faults\ndelete table inet faults\n";

/// The rules, in nft's language. They replace those from before.
fn rules(peers: &[Ipv4Addr], direction: Direction, percent: u8) -> String {
    let peers = peers.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ");
    let chance = if percent >= 100 { String::new() } else { format!("numgen random mod 100 < {percent} ") };
    let chain = |hook: &str, side: &str| {
        format!(
            "  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;\n    ip {side} {{ {peers} }} {chance}drop\n  }}\n"
        )
    };
    let chains = match direction {
        Direction::In => chain("input", "saddr"),
        Direction::Out => chain("output", "daddr"),
        Direction::Both => chain("input", "saddr") + &chain("output", "daddr"),
    };
    format!("{HEALED}table inet faults {{\n{chains}}}\n")
}

/// Hands a script to nft inside a network namespace: a thread enters it, and what it starts is in it, too.
fn load(netns: &Path, script: &str) -> Result<()> {
    let namespace = File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    let output = std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            let mut command = Command::new("nft");
            let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            child.stdin.take().context("its input is piped")?.write_all(script.as_bytes())?;
            anyhow::Ok(child.wait_with_output()?)
        });
        entered.join().unwrap_or_else(|_panic| Err(anyhow::anyhow!("the thread panicked")))
    })?;
    ensure!(output.status.success(), "nft ended with {}:\n{}\n{script}", output.status, text(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_peers_direction_and_chance() {
        let peers = [Ipv4Addr::new(10, 0, 0, 12), Ipv4Addr::new(10, 0, 0, 13)];
        let head = "table inet faults\ndelete table inet faults\ntable inet faults {\n";
        let input =
            "  chain input {\n    type filter hook input priority 0; policy accept;\n    ip saddr { 10.0.0.12, 10.0.0.13 } drop\n  }\n";
        assert_eq!(rules(&peers, Direction::In, 100), format!("{head}{input}}}\n"));
        let output =
            "  chain output {\n    type filter hook output priority 0; policy accept;\n    ip daddr { 10.0.0.12, 10.0.0.13 } drop\n  }\n";
        assert_eq!(rules(&peers, Direction::Both, 100), format!("{head}{input}{output}}}\n"));
        let some = rules(&peers, Direction::Out, 30);
        assert!(some.contains("ip daddr { 10.0.0.12, 10.0.0.13 } numgen random mod 100 < 30 drop") && !some.contains("input"), "{some}");
    }
}
