//! Secret.

use base64::Engine as _;
use serde_json::Value;

use super::age;
use super::config_map::{SIZE_MAX, decoded_len, immutable};
use super::json::{count, fill, has, made, members, set, unset, word};
use crate::names;
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, Rules, as_given, as_given_update};

/// Secret's decisions.
pub const RULES: Rules = Rules {
    default,
    prepare_create: as_given,
    prepare_update: |new, old, facts| {
        // clients that never sent a type keep the old one
        if word(new, "type").is_empty() {
            set(new, "type", word(old, "type"));
        }
        as_given_update(new, old, facts);
    },
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column::new("Type", "string", "What the Secret is for."),
        Column::new("Data", "string", "How many entries it holds."),
        AGE_COLUMN,
    ],
    cells: |object, now| {
        vec![
            super::text(object, &["metadata", "name"]).into(),
            word(object, "type").into(),
            count(object, "data").into(),
            age::age(object, now).into(),
        ]
    },
    own_fields: true,
    field: |object, name| (name == "type").then(|| word(object, "type").to_owned()),
    ..Rules::PLAIN
};

fn default(secret: &mut Value) {
    if let Some(Value::Object(plain)) = unset(secret, "stringData")
        && !plain.is_empty()
    {
        let data = made(secret, "data");
        for (key, value) in plain {
            set(data, &key, base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    }
    fill(secret, "type", "Opaque");
}

fn validate(secret: &Value, problems: &mut Problems) {
    let data = Path::new("data");
    let mut size = 0;
    for (key, value) in members(secret, "data") {
        for message in names::config_key(key) {
            problems.invalid(&data.key(key), key.as_str(), message);
        }
        size += decoded_len(value);
    }
    if size > SIZE_MAX {
        problems.too_long(&data, SIZE_MAX);
    }
    let json_at = |key: &str, problems: &mut Problems| match secret["data"][key].as_str() {
        None => problems.required(&data.key(key), ""),
        Some(text) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
            if serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).is_err() {
                problems.invalid(&data.key(key), "<secret contents redacted>", "invalid character in JSON");
            }
        }
    };
    match word(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if super::text(secret, &["metadata", "annotations", key]).is_empty() {
                problems.required(&Path::new("metadata").child("annotations").key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => json_at(".dockercfg", problems),
        "kubernetes.io/dockerconfigjson" => json_at(".dockerconfigjson", problems),
        "kubernetes.io/basic-auth" if !has(&secret["data"], "username") && !has(&secret["data"], "password") => {
            problems.required(&data.key("username"), "");
            problems.required(&data.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if word(&secret["data"], "ssh-privatekey").is_empty() => {
            problems.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(&secret["data"], key) {
                    problems.required(&data.key(key), "");
                }
            }
        }
        _ => {}
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    if word(new, "type") != word(old, "type") {
        problems.invalid(&Path::new("type"), word(new, "type"), "field is immutable");
    }
    immutable(new, old, &["data"], problems);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"data": {"a": "AAAA", "b": "BBBB"}, "stringData": {"a": "hello"}});
        default(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "aGVsbG8=", "b": "BBBB"}, "type": "Opaque"}));
    }

    #[test]
    fn types_demand_their_keys() {
        let mut problems = Problems::default();
        validate(&json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), &mut problems);
        assert_eq!(problems.0.iter().map(ToString::to_string).collect::<Vec<_>>(), ["data[tls.key]: Required value"]);
    }
}
