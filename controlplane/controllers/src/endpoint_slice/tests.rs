//! What the slices of a Service say, and that few of them change.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use trierarch_api::{Object, ObjectKey};

use super::*;
use crate::endpoint_slice_mirroring::Mirroring;
use crate::endpoints::tests::{pod, service, settle};
use crate::fake::FakeCluster;
use crate::resources::ENDPOINTS;

fn world(spec: Value) -> (Arc<FakeCluster>, ObjectKey) {
    let cluster = FakeCluster::new();
    let key = cluster.add(service(spec)).key();
    (cluster, key)
}

fn slices(cluster: &FakeCluster) -> Vec<Arc<Object>> {
    cluster.list(&ENDPOINT_SLICES)
}

fn addresses(cluster: &FakeCluster) -> Vec<String> {
    let mut all: Vec<String> = slices(cluster)
        .iter()
        .flat_map(|slice| slice.value()["endpoints"].as_array().cloned().unwrap_or_default())
        .map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn a_service_has_one_empty_slice_until_there_are_pods() {
    let (cluster, key) = world(json!({"selector": {"app": "web"}, "ports": [{"name": "p", "port": 80, "targetPort": "http"}]}));
    settle(&cluster, &EndpointSliceController, &key);
    assert_eq!(slices(&cluster).len(), 1);
    let pod = cluster.add(pod("a", "10.0.0.1", true));
    settle(&cluster, &EndpointSliceController, &key);
    let slice = slices(&cluster)[0].value();
    assert_eq!(slices(&cluster).len(), 1);
    assert_eq!(slice["ports"], json!([{"name": "p", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(slice["endpoints"][0]["conditions"], json!({"ready": true, "serving": true, "terminating": false}));
    assert_eq!((slice["endpoints"][0]["nodeName"].as_str(), slice["addressType"].as_str()), (Some("n1"), Some("IPv4")));
    assert_eq!(slices(&cluster)[0].labels[SERVICE_NAME], "web");
    cluster.change(&pod.key(), |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2027-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    });
    settle(&cluster, &EndpointSliceController, &key);
    assert_eq!(slices(&cluster)[0].value()["endpoints"][0]["conditions"], json!({"ready": false, "serving": true, "terminating": true}));
}

#[test]
fn named_ports_may_differ_between_pods() {
    let (cluster, key) = world(json!({"selector": {"app": "web"}, "ports": [{"name": "p", "port": 80, "targetPort": "http"}]}));
    cluster.add(pod("a", "10.0.0.1", true));
    let mut other = pod("b", "10.0.0.2", true);
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
    cluster.add(other);
    settle(&cluster, &EndpointSliceController, &key);
    let mut ports: Vec<i64> = slices(&cluster).iter().map(|slice| slice.value()["ports"][0]["port"].as_i64().unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
}

#[test]
fn hand_written_endpoints_are_mirrored_and_follow() {
    let (cluster, _) = world(json!({"ports": [{"port": 80}]}));
    let endpoints = cluster.add(json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": "1.2.3.4"}], "notReadyAddresses": [{"ip": "1.2.3.5"}], "ports": [{"port": 80}]}],
    }));
    settle(&cluster, &Mirroring, &endpoints.key());
    assert_eq!(addresses(&cluster), ["1.2.3.4", "1.2.3.5"]);
    cluster.change(&endpoints.key(), |endpoints| endpoints["subsets"][0]["addresses"][0]["ip"] = json!("2.3.4.5"));
    settle(&cluster, &Mirroring, &endpoints.key());
    assert_eq!(addresses(&cluster), ["1.2.3.5", "2.3.4.5"]);
    assert_eq!(slices(&cluster).len(), 1);
    cluster.remove(&endpoints.key());
    settle(&cluster, &Mirroring, &endpoints.key());
    assert!(slices(&cluster).is_empty());
    assert!(cluster.list(&ENDPOINTS).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn all_pods_are_there_once_and_slices_stay_small(rounds in proptest::collection::vec((0..160_usize, 0..160_usize), 1..5)) {
        let (cluster, key) = world(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
        let mut serial = 0;
        for (come, go) in rounds {
            for _ in 0..come {
                serial += 1;
                cluster.add(pod(&format!("p{serial:04}"), &format!("10.1.{}.{}", serial / 250, serial % 250), true));
            }
            for pod in cluster.list(&PODS).iter().step_by(2).take(go) {
                cluster.remove(&pod.key());
            }
            settle(&cluster, &EndpointSliceController, &key);
            let mut wanted: Vec<String> =
                cluster.list(&PODS).iter().map(|pod| pod.value()["status"]["podIP"].as_str().unwrap().to_owned()).collect();
            wanted.sort();
            prop_assert_eq!(addresses(&cluster), wanted);
            prop_assert!(slices(&cluster).iter().all(|slice| slice.value()["endpoints"].as_array().is_none_or(|all| all.len() <= 100)));
        }
    }
}
