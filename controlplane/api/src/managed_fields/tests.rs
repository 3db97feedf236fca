//! Who owns what after which writes. `integration/recorded/managers.yaml` holds what Kubernetes answers to the same.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Registry;

fn row(api_version: &str, kind: &str) -> std::sync::Arc<Kind> {
    Registry::with_builtins().by_kind(api_version, kind).unwrap()
}

fn by(manager: &str, second: i64) -> Writer<'_> {
    Writer { manager, subresource: "", now: jiff::Timestamp::from_second(1_800_000_000 + second).unwrap() }
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|entry| entry["manager"] == manager).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "u"}, "data": data})
}

fn created(data: Value) -> Value {
    let mut object = map(data);
    track_update(&row("v1", "ConfigMap"), None, &mut object, &by("creator", 0));
    object
}

#[test]
fn a_creator_owns_what_it_set_and_an_updater_takes_what_it_changes() {
    let old = created(json!({"k": "v", "l": "w", "m": "x"}));
    assert_eq!(owned(&old, "creator"), json!({"f:data": {".": {}, "f:k": {}, "f:l": {}, "f:m": {}}}));
    let mut new = map(json!({"k": "v", "l": "changed", "n": "added"}));
    track_update(&row("v1", "ConfigMap"), Some(&old), &mut new, &by("updater", 5));
    assert_eq!(owned(&new, "creator"), json!({"f:data": {".": {}, "f:k": {}}}));
    assert_eq!(owned(&new, "updater"), json!({"f:data": {"f:l": {}, "f:n": {}}}));
    assert_eq!(new["metadata"]["managedFields"][1]["time"], "2027-01-15T08:00:05Z");
}

#[test]
fn defaults_belong_to_the_creator_and_lists_go_by_their_keys() {
    let kind = row("v1", "Pod");
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pod = crate::decode::checked(&kind, pod).unwrap().object;
    (kind.rules.default)(&mut pod);
    track_update(&kind, None, &mut pod, &by("creator", 0));
    // as recorded from Kubernetes
    assert_eq!(
        owned(&pod, "creator"),
        json!({
            "f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
                    "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}},
                "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
                "f:terminationGracePeriodSeconds": {},
            },
        })
    );
}

#[test]
fn a_subresource_has_its_own_entry_and_owns_only_its_part() {
    let kind = row("v1", "Pod");
    let spec = json!({"containers": [{"name": "c", "image": "i", "resources": {}}]});
    let mut old = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"}, "spec": spec, "status": {}});
    track_update(&kind, None, &mut old, &by("creator", 0));
    let mut new = old.clone();
    new["spec"]["nodeName"] = "n".into();
    new["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]});
    let writer = Writer { subresource: "status", ..by("kubelet", 0) };
    track_update(&kind, Some(&old), &mut new, &writer);
    let entry = &new["metadata"]["managedFields"][1];
    assert_eq!(entry["subresource"], "status");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:phase": {}, "f:podIPs": {".": {}, "k:{\"ip\":\"10.0.0.1\"}": {".": {}, "f:ip": {}}}}})
    );
    // the same, written to the main resource, is nobody's
    let mut main = old.clone();
    main["status"] = json!({"phase": "Running"});
    track_update(&kind, Some(&old), &mut main, &by("other", 0));
    assert_eq!(main["metadata"]["managedFields"], old["metadata"]["managedFields"]);
}

#[test]
fn resets_broken_lists_and_stated_ones() {
    let kind = row("v1", "ConfigMap");
    let old = created(json!({"k": "v"}));
    for reset in [json!([]), json!([{}])] {
        let mut new = old.clone();
        new["metadata"]["managedFields"] = reset;
        track_update(&kind, Some(&old), &mut new, &by("resetter", 0));
        assert!(new["metadata"].get("managedFields").is_none());
        // an untracked object stays so
        let mut later = new.clone();
        later["data"]["k"] = "w".into();
        track_update(&kind, Some(&new), &mut later, &by("later", 0));
        assert!(later["metadata"].get("managedFields").is_none());
    }
    let mut broken = old.clone();
    broken["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Nothing", "apiVersion": "v1"}]);
    track_update(&kind, Some(&old), &mut broken, &by("x", 0));
    assert_eq!(broken["metadata"]["managedFields"], old["metadata"]["managedFields"]);
    let mut stated = old.clone();
    stated["metadata"]["managedFields"] =
        json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}}}]);
    let list = stated["metadata"]["managedFields"].clone();
    track_update(&kind, Some(&old), &mut stated, &by("y", 0));
    assert_eq!(stated["metadata"]["managedFields"], list);
}

#[test]
fn the_oldest_updaters_are_put_together() {
    let kind = row("v1", "ConfigMap");
    let mut object = created(json!({"k": "v"}));
    for at in 0..12 {
        let mut new = object.clone();
        new["data"][format!("k-{at:02}")] = "x".into();
        track_update(&kind, Some(&object), &mut new, &by(&format!("m-{at:02}"), at + 1));
        object = new;
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), UPDATERS_MAX);
    assert_eq!(owned(&object, "ancient-changes"), json!({"f:data": {".": {}, "f:k": {}, "f:k-00": {}, "f:k-01": {}, "f:k-02": {}}}));
    assert_eq!(entries[0]["time"], "2027-01-15T08:00:03Z", "the newest time of those put together");
}

#[test]
fn writers_through_another_group_are_forgotten() {
    let kind = row("v1", "ConfigMap");
    let mut old = created(json!({"k": "v"}));
    old["metadata"]["managedFields"][0]["apiVersion"] = "events.k8s.io/v1".into();
    let mut new = old.clone();
    new["data"]["k"] = "w".into();
    track_update(&kind, Some(&old), &mut new, &by("old", 0));
    assert_eq!(new["metadata"]["managedFields"].as_array().unwrap().len(), 1);
}

fn any_data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-e]", "[x-z]", 0..5).prop_map(|data| json!(data))
}

proptest! {
    #[test]
    fn every_field_has_one_updater_and_a_write_that_changes_nothing_changes_nothing(
        states in prop::collection::vec((any_data(), "[m-o]"), 1..8),
    ) {
        let kind = row("v1", "ConfigMap");
        let mut object = created(json!({"a": "x"}));
        for (at, (data, manager)) in states.iter().enumerate() {
            let mut new = map(data.clone());
            track_update(&kind, Some(&object), &mut new, &by(manager, i64::try_from(at).unwrap()));
            let managers = Managers::parse(new["metadata"].get("managedFields")).unwrap();
            for name in data.as_object().unwrap().keys() {
                let path = ["data", name].map(|name| crate::merge::field_set::Element::Field(name.to_owned()));
                prop_assert_eq!(managers.0.values().filter(|owned| owned.fields.contains(&path)).count(), 1, "{}", name);
            }
            let mut again = new.clone();
            track_update(&kind, Some(&new), &mut again, &by("idle", 99));
            prop_assert_eq!(&again, &new);
            object = new;
            if object["metadata"].get("managedFields").is_none() {
                break;
            }
        }
    }
}
