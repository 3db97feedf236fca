//! CertificateSigningRequest (`Spec:` Kubernetes "Certificates and Certificate Signing Requests"). Whether the request itself is readable is
//! for the signers to say; that it is there is said here.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;

use super::age;
use super::json::{count, has, items, number, or, set, word};
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, RequestFacts, Rules, copy_field, drop_status, keep_status};

/// CertificateSigningRequest's decisions.
pub const RULES: Rules = Rules {
    prepare_create,
    prepare_update,
    validate,
    columns: &[
        NAME_COLUMN,
        AGE_COLUMN,
        Column::new("SignerName", "string", "Who is asked to sign."),
        Column::new("Requestor", "string", "Who asked."),
        Column::new("RequestedDuration", "string", "How long the certificate should be valid."),
        Column::new("Condition", "string", "What became of it."),
    ],
    cells,
    own_fields: true,
    field: |request, name| (name == "spec.signerName").then(|| word(&request["spec"], "signerName").to_owned()),
    ..Rules::PLAIN
};

/// Who asks is what the server knows, never what the client says.
fn prepare_create(request: &mut Value, facts: &RequestFacts) {
    drop_status(request, facts);
    if let Some(spec) = request.get_mut("spec").filter(|spec| spec.is_object()) {
        set(spec, "username", facts.user.as_str());
        set(spec, "groups", facts.groups.clone());
    }
}

/// The spec never changes.
fn prepare_update(new: &mut Value, old: &Value, facts: &RequestFacts) {
    keep_status(new, old, facts);
    copy_field(new, old, "spec");
}

fn validate(request: &Value, problems: &mut Problems) {
    let (spec, path) = (&request["spec"], Path::new("spec"));
    let pem = base64::engine::general_purpose::STANDARD.decode(word(spec, "request")).unwrap_or_default();
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE REQUEST-----") {
        let shown = spec.get("request").cloned().unwrap_or(Value::Null);
        problems.invalid(&path.child("request"), shown, "PEM block type must be CERTIFICATE REQUEST");
    }
    if count(spec, "usages") == 0 {
        problems.required(&path.child("usages"), "");
    }
    let signer = word(spec, "signerName");
    if signer.is_empty() {
        problems.required(&path.child("signerName"), "");
    } else if !signer.contains('/') {
        problems.invalid(
            &path.child("signerName"),
            signer,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    }
    if has(spec, "expirationSeconds") && number(spec, "expirationSeconds") < 600 {
        problems.invalid(
            &path.child("expirationSeconds"),
            number(spec, "expirationSeconds"),
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

fn cells(request: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&request["spec"], &request["status"]);
    let duration = if has(spec, "expirationSeconds") { age::human(number(spec, "expirationSeconds")) } else { "<none>".to_owned() };
    let mut conditions: Vec<&str> = ["Approved", "Denied", "Failed"]
        .into_iter()
        .filter(|kind| items(status, "conditions").any(|condition| word(condition, "type") == *kind))
        .collect();
    if conditions.is_empty() {
        conditions.push("Pending");
    }
    if !word(status, "certificate").is_empty() {
        conditions.push("Issued");
    }
    vec![
        super::text(request, &["metadata", "name"]).into(),
        age::age(request, now).into(),
        or(word(spec, "signerName"), "<none>").into(),
        word(spec, "username").into(),
        duration.into(),
        conditions.join(",").into(),
    ]
}
