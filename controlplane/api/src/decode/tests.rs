use serde_json::json;

use super::*;
use crate::kind::Registry;

fn decode(api_version: &str, kind: &str, body: &Value, validation: FieldValidation) -> Result<(Value, Vec<String>), ApiError> {
    let row = Registry::with_builtins().by_kind(api_version, kind).expect("a built-in row");
    object(&row, body.to_string().as_bytes(), validation)
}

fn refusal(api_version: &str, kind: &str, body: &Value) -> String {
    decode(api_version, kind, body, FieldValidation::Strict).expect_err("refused").message
}

#[test]
fn unknown_fields_are_ignored_warned_of_or_refused() {
    let body =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"foo": 1, "template": {"spec": {"containers": [{"bar": 1}]}}}});
    let (object, warnings) = decode("apps/v1", "Deployment", &body, FieldValidation::Warn).unwrap();
    assert_eq!(warnings, ["unknown field \"spec.foo\"", "unknown field \"spec.template.spec.containers[0].bar\""]);
    assert!(object["spec"].get("foo").is_none());
    assert!(decode("apps/v1", "Deployment", &body, FieldValidation::Ignore).unwrap().1.is_empty());
    assert_eq!(
        refusal("apps/v1", "Deployment", &body),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.foo\", \
         unknown field \"spec.template.spec.containers[0].bar\""
    );
}

#[test]
fn complaints_come_in_the_order_of_the_body() {
    let row = Registry::with_builtins().by_kind("apps/v1", "Deployment").unwrap();
    let body = br#"{"spec": {"unknown": 1, "replicas": 1, "replicas": 2, "other": 1}, "more": 2}"#;
    let (_, warnings) = object(&row, body, FieldValidation::Warn).unwrap();
    let expected =
        ["unknown field \"spec.unknown\"", "duplicate field \"spec.replicas\"", "unknown field \"spec.other\"", "unknown field \"more\""];
    assert_eq!(warnings, expected);
}

#[test]
fn duplicate_fields_are_reported() {
    let row = Registry::with_builtins().by_kind("v1", "ConfigMap").unwrap();
    let (object, warnings) =
        object(&row, br#"{"metadata":{"name":"a","name":"b"},"data":{"x":"1","x":"2"}}"#, FieldValidation::Warn).unwrap();
    assert_eq!(warnings, ["duplicate field \"metadata.name\"", "duplicate field \"data.x\""]);
    assert_eq!((&object["metadata"]["name"], &object["data"]["x"]), (&json!("b"), &json!("2")));
}

#[test]
fn wrong_types_read_as_upstream() {
    for (kind, body, expected) in [
        (
            ("apps/v1", "Deployment"),
            json!({"spec": {"replicas": "three"}}),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field \
             DeploymentSpec.spec.replicas of type int32",
        ),
        (
            ("v1", "Pod"),
            json!({"spec": {"containers": {"name": "x"}}}),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of \
             type []v1.Container",
        ),
        (
            ("v1", "ConfigMap"),
            json!({"metadata": {"labels": {"a": 1}}}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field \
             ObjectMeta.metadata.labels of type string",
        ),
        (
            ("v1", "Pod"),
            json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "lots"}}}]}}),
            "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            ("v1", "Pod"),
            json!({"apiVersion": "apps/v1"}),
            "Pod in version \"v1\" cannot be handled as a Pod: no kind \"Pod\" is registered for version \"apps/v1\" in scheme \
             \"pkg/runtime/scheme.go:111\"",
        ),
        (
            ("v1", "Secret"),
            json!({"data": {"a": "not base64!"}}),
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 3",
        ),
    ] {
        assert_eq!(refusal(kind.0, kind.1, &body), expected, "{body}");
    }
}

#[test]
fn objects_are_normalised_as_a_go_server_writes_them() {
    let body = json!({
        "metadata": {"name": "p", "labels": {}, "annotations": null, "creationTimestamp": null},
        "spec": {
            "nodeName": "", "hostNetwork": false, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "args": [], "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}},
                "livenessProbe": {"httpGet": {"port": 80}, "initialDelaySeconds": 0},
            }],
        },
    });
    let (object, warnings) = decode("v1", "Pod", &body, FieldValidation::Strict).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(
        object,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": 80}},
                }],
            },
            "status": {},
        })
    );
}

#[test]
fn times_are_written_in_utc() {
    let lease = json!({"metadata": {"name": "l"}, "spec": {"renewTime": "2026-01-02T04:04:05+01:00", "holderIdentity": ""}});
    let (object, _) = decode("coordination.k8s.io/v1", "Lease", &lease, FieldValidation::Strict).unwrap();
    assert_eq!(object["spec"], json!({"renewTime": "2026-01-02T03:04:05.000000Z", "holderIdentity": ""}));
    assert_eq!(canonical_time("2026-01-02T03:04:05.999Z", false).unwrap(), "2026-01-02T03:04:05Z");
    assert_eq!(
        canonical_time("yesterday", false).unwrap_err(),
        "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\""
    );
}

#[test]
fn decoding_twice_changes_nothing() {
    for row in Registry::with_builtins().all() {
        let first = checked(&row, json!({"metadata": {"name": "x"}})).unwrap();
        let second = checked(&row, first.object.clone()).unwrap();
        assert_eq!(first, second, "{}", row.kind);
    }
}

#[test]
fn empty_texts_in_maps_stay() {
    let body = json!({"metadata": {"name": "m", "labels": {"a": ""}}, "data": {"k": "", "l": null}, "binaryData": {}});
    let (object, _) = decode("v1", "ConfigMap", &body, FieldValidation::Strict).unwrap();
    assert_eq!((&object["metadata"]["labels"], &object["data"]), (&json!({"a": ""}), &json!({"k": "", "l": ""})));
    assert!(object.get("binaryData").is_none());
}

#[test]
fn unreadable_bodies_are_shown_in_part() {
    let row = Registry::with_builtins().by_kind("v1", "ConfigMap").unwrap();
    let unrecognized = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ";
    for (body, expected) in [
        ("", "unexpected end of JSON input (<empty>)"),
        ("hello", "invalid character 'h' looking for beginning of value (68656c6c6f)"),
        (r#"{"a": 1,}"#, r#"invalid character '}' looking for beginning of object key string ({"a": 1,})"#),
        (r#"{"metadata": {"name": "x"}} trailing"#, r#"invalid character 't' after top-level value ({"metadata": {"name": "x"}} tr ...)"#),
    ] {
        let error = object(&row, body.as_bytes(), FieldValidation::Warn).unwrap_err();
        assert_eq!(error.message, format!("{unrecognized}{expected}"));
    }
}

#[test]
fn nonsense_is_a_bad_request() {
    let row = Registry::with_builtins().by_kind("v1", "Pod").unwrap();
    for body in ["", "{", "nonsense", "[]", "{} {}"] {
        let error = object(&row, body.as_bytes(), FieldValidation::Warn).unwrap_err();
        assert_eq!(error.reason, crate::Reason::BadRequest, "{body}");
    }
}
