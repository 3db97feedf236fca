//! Takes out of an answer what no two runs have in common: uids, times, versions, random names.

use std::collections::BTreeMap;

use serde_json::Value;

use super::sequence::Answer;

/// What was seen so far in one sequence.
pub(crate) struct Normal {
    managed_fields: bool,
    uids: Vec<String>,
    known: BTreeMap<String, Value>,
    sent: String,
}

impl Normal {
    /// Nothing seen yet.
    pub(crate) fn new(managed_fields: bool) -> Self {
        Self { managed_fields, uids: Vec::new(), known: BTreeMap::new(), sent: String::new() }
    }

    /// What a client sent comes back as it is.
    pub(crate) fn sent(&mut self, body: &str) {
        self.sent.push_str(body);
    }

    /// A value that has a name from now on.
    pub(crate) fn known(&mut self, name: &str, value: &Value) {
        self.known.insert(name.to_owned(), value.clone());
    }

    /// Makes an answer comparable.
    pub(crate) fn apply(&mut self, answer: &mut Answer) {
        let mut body = std::mem::take(&mut answer.body);
        self.value("", &mut body);
        answer.body = body;
        for warning in &mut answer.warnings {
            *warning = self.text(warning);
        }
    }

    fn value(&mut self, key: &str, value: &mut Value) {
        if let Some((name, _)) = self.known.iter().find(|(_, known)| known.is_number() && *known == value) {
            *value = Value::from(format!("${{{name}}}"));
            return;
        }
        match value {
            Value::Object(map) => {
                if !self.managed_fields {
                    map.remove("managedFields");
                }
                if key == "columnDefinitions" {
                    // the words that describe a column are each server's own
                    map.remove("description");
                }
                for (key, value) in map {
                    self.value(key, value);
                }
            }
            Value::Array(items) => {
                if key == "managedFields" {
                    // their order depends on the second in which each was written
                    items.sort_by_key(|entry| ["manager", "operation", "apiVersion", "subresource"].map(|name| entry[name].to_string()));
                }
                for item in items {
                    // an item is looked at under the name of its list
                    self.value(key, item);
                }
            }
            Value::String(text) => *text = self.named(key, text),
            _ => {}
        }
    }

    fn named(&mut self, key: &str, text: &str) -> String {
        if key == "resourceVersion" && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text != "0" {
            return "RV".to_owned();
        }
        if key == "continue" && !text.is_empty() {
            return "CONTINUE".to_owned();
        }
        if key == "cells" && is_age(text) {
            return "AGE".to_owned();
        }
        if text.starts_with("eyJ") {
            return "JWT".to_owned();
        }
        if !self.sent.contains(text) && text.parse::<jiff::Timestamp>().is_ok() {
            return if text.contains('.') { "MICROTIME" } else { "TIME" }.to_owned();
        }
        self.text(text)
    }

    fn text(&mut self, text: &str) -> String {
        let mut out = self.without_uids(text);
        for (name, value) in &self.known {
            if let Some(value) = value.as_str().filter(|value| value.len() > 3) {
                out = out.replace(value, &format!("${{{name}}}"));
            }
        }
        if let Some(at) = out.find("kube-api-access-") {
            let end = at + "kube-api-access-".len();
            let rest = out.get(end + 5..).unwrap_or_default().to_owned();
            out.truncate(end);
            out.push_str("SUFFIX");
            out.push_str(&rest);
        }
        out
    }

    /// Uids in the order in which they appeared.
    fn without_uids(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            match rest.get(..36).filter(|candidate| is_uid(candidate) && !self.sent.contains(*candidate)) {
                Some(uid) => {
                    let at = self.uids.iter().position(|known| known == uid).unwrap_or_else(|| {
                        self.uids.push(uid.to_owned());
                        self.uids.len() - 1
                    });
                    out.push_str(&format!("UID-{at}"));
                    rest = &rest[36..];
                }
                None => {
                    out.push(character);
                    rest = &rest[character.len_utf8()..];
                }
            }
        }
        out
    }
}

fn is_uid(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, byte)| if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

fn is_age(text: &str) -> bool {
    text.ends_with('s') && text.len() > 1 && text[..text.len() - 1].bytes().all(|byte| byte.is_ascii_digit() || byte == b'm')
}
