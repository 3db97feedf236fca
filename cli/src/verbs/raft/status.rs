//! `trierarch raft status`.

use serde_json::Value;
use trierarch_client::Error;
use trierarch_raft::experiment::Fault;

use super::fault::left;
use super::reach::Reach;

/// Asks every master and shows the answers side by side.
///
/// # Errors
/// None of its own: what a master does not answer is shown.
pub async fn run(reach: &Reach, output: &str) -> anyhow::Result<()> {
    let statuses = futures::future::join_all(reach.masters.iter().map(|master| reach.status(master))).await;
    let names = reach.masters.iter().map(|master| master.name.clone());
    show(&names.zip(statuses).collect::<Vec<_>>(), output)
}

/// A number as text, so that it can be aligned.
fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn show(rows: &[(String, Result<Value, Error>)], output: &str) -> anyhow::Result<()> {
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
        for (peer, why) in status["refused"].as_object().into_iter().flatten() {
            println!("{name}: does not talk with member {peer}: {}", why.as_str().unwrap_or_default());
        }
        if status["no_quorum"].is_string() {
            println!("{name}: what it knows is at least {:.1} s old", status["heard_ms"].as_f64().unwrap_or_default() / 1000.0);
        }
        for fault in status["faults"].as_array().into_iter().flatten() {
            if let Ok(fault) = serde_json::from_value::<Fault>(fault.clone()) {
                println!("{name}: experiment: {fault}; ends in {}", left(fault.ends_in_ms.unwrap_or_default()));
            }
        }
        for field in ["no_quorum", "read_only", "abstains"] {
            if let Some(why) = status[field].as_str() {
                println!("{name}: {}: {why}", field.replace('_', " "));
            }
        }
    }
    Ok(())
}
