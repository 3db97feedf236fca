//! A member that was away while the others went on.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use trierarch_integration::wait::now;

use crate::{PATIENCE, World};

/// Requests on their way at the same time.
const IN_FLIGHT: usize = 64;
/// Objects that are written again and again.
const OBJECTS: usize = 500;
/// The aim is 5 s for 100,000 entries. Three times that fails the test, because the machine does other things too.
const BACK_WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn catches_up(world: &mut World) -> Result<()> {
    let entries = if world.long { 100_000 } else { 2_000 };
    let (leader, follower) = world.leader_and_follower()?;
    let pid = Pid::from_raw(world.cluster.pid(follower)?);
    kill(pid, Signal::SIGSTOP)?;
    let began = now();
    let written = write(&world.cluster.entrance(leader)?, entries);
    let took = began.elapsed();
    kill(pid, Signal::SIGCONT)?;
    written?;
    let returned = now();
    world.cluster.up_to_date(follower, PATIENCE)?;
    let back = returned.elapsed();
    println!("     {entries} entries in {:.1} s; the member was up to date {} ms after it came back", took.as_secs_f64(), back.as_millis());
    ensure!(back <= BACK_WITHIN, "it took {back:?}");
    Ok(())
}

/// Writes so many entries through one master.
fn write(entrance: &Kubeconfig, entries: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = Config::from_custom_kubeconfig(entrance.clone(), &KubeConfigOptions::default()).await?;
        let api: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config)?);
        let object = |number: usize| -> Result<ConfigMap> {
            let name = format!("away-{}", number % OBJECTS);
            Ok(serde_json::from_value(json!({"metadata": {"name": name}, "data": {"number": number.to_string()}}))?)
        };
        let (api, post) = (&api, &PostParams::default());
        let made =
            futures::stream::iter((0..OBJECTS).map(object)).map_ok(|object| async move { anyhow::Ok(api.create(post, &object).await?) });
        made.try_buffer_unordered(IN_FLIGHT).try_for_each(|_| futures::future::ok(())).await?;
        let changed = futures::stream::iter((OBJECTS..entries).map(object)).map_ok(|object| async move {
            let name = object.metadata.name.clone().unwrap_or_default();
            anyhow::Ok(api.replace(&name, post, &object).await?)
        });
        changed.try_buffer_unordered(IN_FLIGHT).try_for_each(|_| futures::future::ok(())).await
    })
}
