//! The endpoints of the `kubernetes` Service: the masters that answer, and no others.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use trierarch_api::{ApiError, GroupResource, ObjectKey, Reason};
use trierarch_controllers::Cluster;
use trierarch_raft::{MemberRole, Store};

/// How often the heartbeats are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a new leader listens before it calls anybody dead.
const HEARING: Duration = Duration::from_secs(2);

const SLICES: GroupResource = GroupResource::new("discovery.k8s.io", "endpointslices");
const ENDPOINTS: GroupResource = GroupResource::new("", "endpoints");

/// The slice that lists these masters. One slice has one port: masters on several ports would need several, and no deployment of
/// ours has them.
pub fn slice(masters: &[SocketAddr]) -> Value {
    let mut addresses: Vec<IpAddr> = masters.iter().map(SocketAddr::ip).collect();
    addresses.sort_unstable();
    let port = masters.first().map_or(6443, SocketAddr::port);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// The same in the older form.
pub fn endpoints(masters: &[SocketAddr]) -> Value {
    let mut addresses: Vec<IpAddr> = masters.iter().map(SocketAddr::ip).collect();
    addresses.sort_unstable();
    let port = masters.first().map_or(6443, SocketAddr::port);
    let subset = json!({
        "addresses": addresses.iter().map(|address| json!({"ip": address})).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": if addresses.is_empty() { json!([]) } else { json!([subset]) },
    })
}

/// What a stored object must become: `None` if it says that already.
fn change(stored: Option<&Value>, wanted: &Value) -> Option<Value> {
    let Some(stored) = stored else { return Some(wanted.clone()) };
    let mut next = stored.clone();
    for field in ["endpoints", "ports", "subsets", "addressType"] {
        if let Some(value) = wanted.get(field) {
            next[field] = value.clone();
        }
    }
    (next != *stored).then_some(next)
}

/// Keeps both objects up to date while this master leads. Who lives is what heartbeats say: no master is asked.
pub async fn keep(cluster: Arc<dyn Cluster>, store: Store) {
    // a new leader has heard from nobody yet
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + HEARING, LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answering = store.answering();
        let voters = store.status().members.into_iter().filter(|member| member.role == MemberRole::Voter);
        let living: Vec<SocketAddr> =
            voters.filter(|member| answering.contains(&member.id)).filter_map(|member| member.api_address.parse().ok()).collect();
        if living.is_empty() {
            // deposed just now: it knows nothing that would be worth writing
            continue;
        }
        for (resource, wanted) in [(SLICES, slice(&living)), (ENDPOINTS, endpoints(&living))] {
            if let Err(error) = write(&*cluster, &resource, &wanted).await {
                tracing::debug!(%resource, %error, "Could not write the endpoints of the masters");
            }
        }
    }
}

async fn write(cluster: &dyn Cluster, resource: &GroupResource, wanted: &Value) -> Result<(), ApiError> {
    let key = ObjectKey::new(resource.clone(), "default", "kubernetes");
    let stored = cluster.snapshot().get(resource, "default", "kubernetes");
    let Some(next) = change(stored.as_ref().map(|object| object.value()).as_deref(), wanted) else { return Ok(()) };
    let outcome = if stored.is_some() { cluster.update(&key, next).await } else { cluster.create(resource, "default", next).await };
    match outcome {
        Err(error) if !matches!(error.reason, Reason::Conflict | Reason::AlreadyExists) => Err(error),
        // whoever was faster is looked at again at the next tick
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters() -> Vec<SocketAddr> {
        ["10.0.0.2:6443", "10.0.0.1:6443"].map(|text| text.parse().expect("an address")).to_vec()
    }

    #[test]
    fn what_is_stored_already_is_not_written_again() {
        let wanted = slice(&masters());
        let mut stored = wanted.clone();
        stored["metadata"]["uid"] = json!("u");
        assert_eq!(change(Some(&stored), &wanted), None);
        let fewer = slice(&masters()[1..]);
        let next = change(Some(&stored), &fewer).expect("one is gone");
        assert_eq!(next["metadata"]["uid"], "u", "the object stays the same one");
        assert_eq!(next["endpoints"].as_array().map(Vec::len), Some(1));
        assert_eq!(change(None, &wanted), Some(wanted));
    }

    #[test]
    fn addresses_are_sorted_so_that_nothing_flaps() {
        let mut reversed = masters();
        reversed.reverse();
        assert_eq!(slice(&masters()), slice(&reversed));
        assert_eq!(endpoints(&masters()), endpoints(&reversed));
    }
}
