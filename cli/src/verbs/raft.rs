//! `trierarch raft`: the state of the replicated store, member by member.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use trierarch_client::{Client, Config, Request, kubeconfig};

use crate::cluster::topology::{API_PORT, Host, Topology};

/// Arguments of `raft`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the cluster is kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What can be asked.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Term, leader, log and members as each master sees them
    Status {
        /// Output format
        #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
        output: String,
    },
    /// Hand leadership to another master
    Transfer {
        /// Its name, such as m2; the most advanced one if left out
        to: Option<String>,
    },
}

/// Carries it out.
///
/// # Errors
/// When no master answers.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let data_dir = std::path::absolute(&args.data_dir)?;
    let topology = crate::cluster::load(&data_dir)?
        .with_context(|| format!("no cluster is up in {}: start one with trierarch up", data_dir.display()))?;
    let resolved = kubeconfig::load(&[topology.kubeconfig()])?.resolve(None, "trierarch-raft")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.action {
            Action::Status { output } => {
                let mut rows = Vec::new();
                for host in &topology.masters {
                    rows.push((host.name.clone(), status_of(host, &resolved.config).await));
                }
                show(&rows, output)
            }
            Action::Transfer { to } => {
                let query = match to {
                    None => String::new(),
                    Some(name) => format!("?to={}", member_id(&topology, &resolved.config, name).await?),
                };
                let client = Client::new(resolved.config)?;
                client
                    .request(Request { method: http::Method::POST, path: format!("/raft/v1/transfer{query}"), ..Request::default() })
                    .await?;
                println!("Leadership was handed over.");
                Ok(())
            }
        }
    })
}

async fn status_of(host: &Host, config: &Config) -> Result<Value, trierarch_client::Error> {
    let mut config = config.clone();
    config.servers = vec![format!("https://{}:{}", host.address, API_PORT)];
    config.timeout = Duration::from_secs(2);
    Client::new(config)?.get("/raft/v1/status").await
}

/// The number by which the store knows a master.
async fn member_id(topology: &Topology, config: &Config, name: &str) -> anyhow::Result<u64> {
    let names = || topology.masters.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
    let host =
        topology.masters.iter().find(|host| host.name == name).with_context(|| format!("no master {name:?}; there are {}", names()))?;
    let status = status_of(host, config).await.with_context(|| format!("master {name} does not answer"))?;
    status["node_id"].as_u64().with_context(|| format!("master {name} does not say which member it is"))
}

/// A number as text, so that it can be aligned.
fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn show(rows: &[(String, Result<Value, trierarch_client::Error>)], output: &str) -> anyhow::Result<()> {
    if output == "json" {
        let all: serde_json::Map<String, Value> = rows
            .iter()
            .map(|(name, status)| (name.clone(), status.as_ref().map_or_else(|error| Value::String(error.to_string()), Value::clone)))
            .collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!(
        "{:<8}{:<11}{:>6}{:>8}{:>10}{:>11}{:>10}{:>11}",
        "MASTER", "ROLE", "TERM", "LEADER", "LAST LOG", "COMMITTED", "APPLIED", "REVISION"
    );
    for (name, status) in rows {
        match status {
            Ok(status) => println!(
                "{:<8}{:<11}{:>6}{:>8}{:>10}{:>11}{:>10}{:>11}",
                name,
                status["role"].as_str().unwrap_or_default(),
                number(&status["term"]),
                status["leader"].as_u64().map_or_else(|| "-".to_owned(), |id| id.to_string()),
                number(&status["last_log"]),
                number(&status["committed"]),
                number(&status["applied"]),
                number(&status["revision"])
            ),
            Err(error) => println!("{name:<8}{error}"),
        }
    }
    for (name, status) in rows {
        let Ok(status) = status else { continue };
        for field in ["no_quorum", "read_only"] {
            if let Some(why) = status[field].as_str() {
                println!("{name}: {}: {why}", field.replace('_', " "));
            }
        }
    }
    Ok(())
}
