//! What applies lead to. The cases of `integration/recorded/apply.yaml` hold what Kubernetes answers to the same.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Registry;

fn now(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn row(api_version: &str, kind: &str) -> std::sync::Arc<Kind> {
    Registry::with_builtins().by_kind(api_version, kind).unwrap()
}

fn by<'a>(manager: &'a str) -> Writer<'a> {
    Writer { manager, subresource: "", now: now(0) }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|entry| entry["manager"] == manager).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn a_conflict_names_every_field_and_manager() {
    let kind = row("v1", "ConfigMap");
    let one = apply(&kind, None, &map(json!({"k": "v", "l": "w"})), &by("one"), false).unwrap();
    let two = apply(&kind, Some(&one), &map(json!({"k": "v"})), &by("two"), false).unwrap();
    assert!(two["metadata"]["managedFields"].as_array().unwrap().iter().any(|entry| entry["time"].is_null()), "nothing changed, no time");
    let error = apply(&kind, Some(&two), &map(json!({"k": "x"})), &by("one"), false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"two\": .data.k");
    let error = apply(&kind, Some(&two), &map(json!({"k": "x", "l": "y"})), &by("three"), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"one\":\n- .data.k\n- .data.l\nconflicts with \"two\":\n- .data.k"
    );
    assert_eq!((error.reason, error.causes.len()), (Reason::Conflict, 3));
    assert_eq!(error.causes[0].reason, "FieldManagerConflict");
    let forced = apply(&kind, Some(&two), &map(json!({"k": "x"})), &by("three"), true).unwrap();
    assert_eq!(owned(&forced, "one"), json!({"f:data": {"f:l": {}}}));
    assert_eq!(owned(&forced, "two"), Value::Null);
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_owns_it() {
    let kind = row("v1", "Service");
    let service = |ports: Value, finalizers: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "finalizers": finalizers}, "spec": {"ports": ports}});
    let both = json!([{"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let live = apply(&kind, None, &service(both, json!(["t/a"])), &by("one"), false).unwrap();
    let tls = json!([{"name": "tls", "port": 443, "protocol": "TCP"}]);
    let live = apply(&kind, Some(&live), &service(tls, json!(["t/b"])), &by("two"), false).unwrap();
    let dns = json!([{"name": "dns", "port": 53, "protocol": "UDP"}]);
    let live = apply(&kind, Some(&live), &service(dns, json!([])), &by("one"), false).unwrap();
    let names: Vec<&str> = live["spec"]["ports"].as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dns", "tls"]);
    assert_eq!(live["metadata"]["finalizers"], json!(["t/b"]));
}

#[test]
fn a_whole_is_owned_as_one() {
    let kind = row("v1", "Service");
    let select = |selector: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": selector, "ports": [{"port": 80}]}});
    let live = apply(&kind, None, &select(json!({"app": "x"})), &by("one"), false).unwrap();
    let error = apply(&kind, Some(&live), &select(json!({"app": "x", "tier": "y"})), &by("two"), false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.selector");
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_in_upstreams_words() {
    let kind = row("apps/v1", "Deployment");
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "paused": "yes", "replicas": "text", "template": {"spec": {"containers": [1], "volumes": {"a": "b"}, "x": "y"}}}});
    let error = apply(&kind, None, &config, &by("one"), false).unwrap_err();
    assert_eq!(
        error.message,
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): errors:\n  .spec.paused: expected boolean, got &{yes}\n  \
         .spec.replicas: expected numeric (int or float), got string\n  .spec.template.spec.containers: element 0: associative list with \
         keys may not have non-map elements\n  .spec.template.spec.volumes: expected list, got &{map[a:b]}\n  \
         .spec.template.spec.x: field not declared in schema"
    );
    assert_eq!(error.to_status()["code"], 500);
    assert!(error.to_status().get("reason").is_none());
    let twice =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 443}, {"port": 443}]}});
    let error = apply(&row("v1", "Service"), None, &twice, &by("one"), false).unwrap_err();
    assert!(error.message.ends_with(".spec.ports: duplicate entries for key [port=443,protocol=\"TCP\"]"), "{}", error.message);
    let managed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "managedFields": []}});
    let error = apply(&row("v1", "ConfigMap"), None, &managed, &by("one"), false).unwrap_err();
    assert_eq!(error.message, "metadata.managedFields must be nil");
    let error = apply(&row("v1", "Secret"), None, &map(json!({})), &by("one"), false).unwrap_err();
    assert_eq!(error.message, "invalid object type: /v1, Kind=ConfigMap");
}

#[test]
fn what_was_there_before_anybody_applied_has_an_owner() {
    let kind = row("v1", "ConfigMap");
    let live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "u"}, "data": {"k": "v"}});
    let error = apply(&kind, Some(&live), &map(json!({"k": "w"})), &by("one"), false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.k");
    let applied = apply(&kind, Some(&live), &map(json!({"l": "w"})), &by("one"), false).unwrap();
    assert_eq!(owned(&applied, "before-first-apply"), json!({"f:data": {".": {}, "f:k": {}}}));
}

#[test]
fn kubectl_takes_over_what_it_applied_by_itself() {
    let kind = row("v1", "ConfigMap");
    let annotation = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"annotations":{},"name":"a"},"data":{"k":"1","l":"2"}}"#;
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "u", "annotations": {LAST_APPLIED: annotation}}, "data": {"k": "1", "l": "2"}});
    managed_fields::track_update(&kind, None, &mut live, &by("kubectl-client-side-apply"));
    let config = map(json!({"k": "5"}));
    assert!(apply(&kind, Some(&live), &config, &by("other"), false).is_err());
    let taken = apply(&kind, Some(&live), &config, &by("kubectl"), false).unwrap();
    assert_eq!(taken["data"], json!({"k": "5", "l": "2"}));
    assert_eq!(
        taken["metadata"]["annotations"][LAST_APPLIED],
        "{\"apiVersion\":\"v1\",\"data\":{\"k\":\"5\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}\n"
    );
    // somebody else changed it since
    let mut changed = live.clone();
    changed["data"]["k"] = "3".into();
    managed_fields::track_update(&kind, Some(&live), &mut changed, &by("other"));
    let error = apply(&kind, Some(&changed), &config, &by("kubectl"), false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"other\" using v1: .data.k");
}

#[test]
fn values_are_stored_as_the_server_writes_them() {
    let kind = row("v1", "Pod");
    let pod = |cpu: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}})
    };
    let live = apply(&kind, None, &pod("1000m"), &by("one"), false).unwrap();
    assert_eq!(live["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
}

/// ConfigMaps and Services of few names and values, so that managers meet.
fn any_config() -> impl Strategy<Value = Value> {
    let data = prop::collection::btree_map("[a-d]", "[x-y]", 0..4);
    let labels = prop::collection::btree_map("[a-b]", "[x-y]", 0..3);
    let finalizers = prop::collection::btree_set("t/[a-c]", 0..3);
    (data, labels, finalizers).prop_map(|(data, labels, finalizers)| {
        let mut config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        if !data.is_empty() {
            config["data"] = json!(data);
        }
        if !labels.is_empty() {
            config["metadata"]["labels"] = json!(labels);
        }
        if !finalizers.is_empty() {
            config["metadata"]["finalizers"] = json!(finalizers);
        }
        config
    })
}

fn any_ports() -> impl Strategy<Value = Value> {
    prop::collection::btree_map((1_i64..4, prop_oneof![Just("TCP"), Just("UDP")]), ("[a-b]", any::<bool>()), 0..4).prop_map(|ports| {
        let ports: Vec<Value> = ports
            .into_iter()
            .map(|((port, protocol), (name, bare))| {
                // a missing protocol stands for TCP
                if bare && protocol == "TCP" {
                    json!({"port": port, "name": name})
                } else {
                    json!({"port": port, "name": name, "protocol": protocol})
                }
            })
            .collect();
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}})
    })
}

fn fields(object: &Value, manager: &str) -> crate::merge::field_set::FieldSet {
    match owned(object, manager) {
        Value::Null => crate::merge::field_set::FieldSet::default(),
        fields => crate::merge::field_set::FieldSet::parse(&fields).unwrap(),
    }
}

fn check_laws(kind: &Kind, first: &Value, second: &Value, third: &Value) -> Result<(), TestCaseError> {
    let schema = crate::schema::of(kind);
    let shape = Shape::of(&schema);
    let live = apply(kind, None, first, &by("one"), false).unwrap();
    let Ok(live) = apply(kind, Some(&live), second, &by("two"), false) else {
        let forced = apply(kind, Some(&live), second, &by("two"), true).unwrap();
        // force takes from others what it changed, and nothing else
        let mut lost = fields(&live, "one");
        lost.subtract(&fields(&forced, "one"));
        let changed = granular::compare(shape, &live, &forced);
        for path in lost.paths() {
            let touched = changed.modified.contains(&path) || changed.added.contains(&path) || changed.removed.contains(&path);
            prop_assert!(touched, "lost {}", path_text(&path));
        }
        return Ok(());
    };
    // without force, nobody loses what it alone owns
    prop_assert_eq!(fields(&live, "one"), {
        let mut own = granular::fields_of(shape, first);
        strip(&mut own);
        own
    });
    // applying the same again changes nothing, not even the times
    let again = apply(kind, Some(&live), second, &Writer { now: now(60), ..by("two") }, false).unwrap();
    prop_assert_eq!(&again, &live);
    // what the first no longer applies is gone, unless the second applies it
    let Ok(less) = apply(kind, Some(&live), third, &by("one"), false) else { return Ok(()) };
    let mut expected = granular::fields_of(shape, third);
    expected.unite(&granular::fields_of(shape, second));
    let mut left = granular::fields_of(shape, &less);
    strip(&mut left);
    strip(&mut expected);
    // what a server writes of an object of which nothing is set
    left.subtract_trees(&FieldSet::of_fields(&[&["status"], &["metadata", "managedFields"]]));
    left.subtract(&FieldSet::of_fields(&[&["spec"]]));
    left.subtract(&granular::with_named_fields(shape, &expected));
    prop_assert!(left.is_empty(), "left over: {:?}", left.paths().iter().map(|path| path_text(path)).collect::<Vec<_>>());
    Ok(())
}

proptest! {
    #[test]
    fn applies_of_maps_and_sets_obey_their_laws(first in any_config(), second in any_config(), third in any_config()) {
        check_laws(&row("v1", "ConfigMap"), &first, &second, &third)?;
    }

    #[test]
    fn applies_of_lists_obey_their_laws(first in any_ports(), second in any_ports(), third in any_ports()) {
        check_laws(&row("v1", "Service"), &first, &second, &third)?;
    }
}
