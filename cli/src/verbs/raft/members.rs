//! `trierarch raft transfer`, `step-down`, `campaign`, `remove` and `replace`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::reach::Reach;
use crate::cluster::supervisor::{self, Order};

/// Hands leadership over.
///
/// # Errors
/// Nobody took over, or it is refused.
pub async fn transfer(reach: &Reach, to: Option<&str>) -> anyhow::Result<()> {
    let Some(name) = to else {
        reach.post("/raft/v1/transfer").await?;
        println!("Leadership was handed over.");
        return Ok(());
    };
    let group = reach.group().await?;
    let heir = reach.member_of(&group, name)?;
    // it is asked for anyhow: another one may lead by now
    reach.post(&format!("/raft/v1/transfer?to={heir}")).await?;
    match group["leader"] == heir {
        true => println!("Member {heir} leads already."),
        false => println!("Leadership was handed over to member {heir}."),
    }
    Ok(())
}

/// Lets the leader hand leadership over.
///
/// # Errors
/// Nobody leads, or nobody took over.
pub async fn step_down(reach: &Reach) -> anyhow::Result<()> {
    let group = reach.group().await?;
    let leader = group["leader"].as_u64().context("nobody leads")?;
    let address = address_of(&group, leader);
    let master = reach.masters.iter().find(|master| Some(master.address.as_str()) == address).context("the leader is not known here")?;
    reach.post_to(master, "/raft/v1/step-down").await?;
    println!("Master {} handed leadership over.", master.name);
    Ok(())
}

/// Lets a master begin an election.
///
/// # Errors
/// It leads already, or does not vote.
pub async fn campaign(reach: &Reach, name: &str) -> anyhow::Result<()> {
    reach.post_to(reach.master(name)?, "/raft/v1/campaign").await?;
    println!("Master {name} has begun an election; trierarch raft status shows who won.");
    Ok(())
}

/// Removes a member.
///
/// # Errors
/// The others could not go on without it.
pub async fn remove(reach: &Reach, name: &str) -> anyhow::Result<()> {
    let id = reach.member_id(name).await?;
    reach.post(&format!("/raft/v1/remove?id={id}")).await?;
    println!("Member {id} was removed. It must not start again with its directory; as a new member it needs an empty one.");
    Ok(())
}

/// Removes a member, sets its directory aside, and waits until the master votes under a new number.
///
/// # Errors
/// The others could not go on without it (nothing is changed then), or it did not come back in time.
pub async fn replace(reach: &Reach, name: &str, timeout_seconds: u64) -> anyhow::Result<()> {
    let master = reach.master(name)?;
    let Some(topology) = &reach.topology else {
        bail!(
            "this machine does not run the masters. Remove the dead one with\n  trierarch raft remove {name}\nand start another, \
             with an empty --data-dir:\n  trierarch server --join https://... --token-file ..."
        );
    };
    let others = reach.masters.iter().filter(|other| other.name != name).count();
    if others == 0 {
        bail!("{name} is the only master: nothing is left to join; see trierarch raft restore");
    }
    let gone = match reach.member_id(name).await {
        Ok(id) => {
            reach.post(&format!("/raft/v1/remove?id={id}")).await?;
            println!("Member {id} was removed.");
            id
        }
        Err(error) => {
            // an earlier attempt has come so far, unless nobody answers
            reach.group().await?;
            tracing::debug!(%error, "Nothing to remove");
            0
        }
    };
    supervisor::ask(topology, &Order::ReplaceMaster(name.to_owned())).await?;
    let votes_again = async {
        loop {
            let group = reach.group().await.unwrap_or_default();
            let members = group["members"].as_array().into_iter().flatten();
            let mut own = members.filter(|member| member["api_address"] == master.address.as_str() && member["role"] == "Voter");
            if let Some(id) = own.find_map(|member| member["id"].as_u64().filter(|id| *id != gone)) {
                return id;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let id = tokio::time::timeout(Duration::from_secs(timeout_seconds), votes_again).await.map_err(|_elapsed| {
        anyhow::anyhow!("{name} does not vote after {timeout_seconds} s; its log is {}", topology.log(name).display())
    })?;
    println!("Master {name} has caught up and votes as member {id}.");
    Ok(())
}

fn address_of(group: &Value, id: u64) -> Option<&str> {
    let mut members = group["members"].as_array().into_iter().flatten();
    members.find(|member| member["id"] == id).and_then(|member| member["api_address"].as_str())
}
