//! From stored bytes to the form a client asked for. JSON of an object is spliced, never serialized again.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};
use trierarch_api::{Kind, Object, protobuf};

use crate::dispatch::Answer;
use crate::negotiate::{Chosen, Encoding, Form};
use crate::pipeline::Ctx;
use crate::table;

/// Compact JSON.
pub fn to_bytes(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// A document in the chosen encoding.
pub fn write(value: &Value, chosen: Chosen) -> Bytes {
    match chosen.encoding {
        Encoding::Yaml => Bytes::from(serde_yaml::to_string(value).unwrap_or_default()),
        Encoding::Json if chosen.pretty => {
            let mut out = serde_json::to_vec_pretty(value).unwrap_or_default();
            out.push(b'\n');
            Bytes::from(out)
        }
        Encoding::Json => to_bytes(value),
        // chosen only for kinds that have this form
        Encoding::Protobuf => Bytes::from(protobuf::to_bytes(value).unwrap_or_default()),
    }
}

/// The object as JSON, seen through a row; shared with other readers where nothing must be rewritten.
pub fn shared_value(object: &Object, requested: &Kind) -> Arc<Value> {
    if object.resource_version == 0 || converts(requested, &object.kind) { Arc::new(value_of(object, requested)) } else { object.value() }
}

/// Whether a stored object must be rewritten to be read through a row (the second Event group).
pub fn converts(requested: &Kind, stored: &Kind) -> bool {
    requested.group != stored.group || requested.version != stored.version
}

/// The object as JSON, seen through a row.
pub fn value_of(object: &Object, requested: &Kind) -> Value {
    let mut value = (*object.value()).clone();
    if object.resource_version == 0
        && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
    {
        // a dry run's object has no version yet
        metadata.remove("resourceVersion");
    }
    if converts(requested, &object.kind) {
        crate::pipeline::decode::convert(&object.kind, requested, &mut value);
    }
    value
}

/// Appends the object's compact JSON, seen through a row.
pub fn append_json(object: &Object, requested: &Kind, out: &mut BytesMut) {
    if object.resource_version == 0 || converts(requested, &object.kind) {
        out.put_slice(&to_bytes(&value_of(object, requested)));
    } else {
        object.write_json(out);
    }
}

/// One object in the chosen form.
pub fn object(object: &Object, requested: &Arc<Kind>, chosen: Chosen, include: table::Include) -> Bytes {
    match chosen.form {
        Form::Object if chosen.encoding == Encoding::Json && !chosen.pretty => {
            let mut out = BytesMut::with_capacity(1024);
            append_json(object, requested, &mut out);
            out.freeze()
        }
        Form::Object => write(&shared_value(object, requested), chosen),
        Form::Metadata => write(&partial(object), chosen),
        Form::Table => {
            let value = value_of(object, requested);
            let rows = vec![table::row(requested, &value, include, crate::clock::now())];
            let list_meta = json!({ "resourceVersion": object.resource_version.to_string() });
            write(&table::table(requested, rows, list_meta, true), chosen)
        }
    }
}

/// `PartialObjectMetadata` of an object.
pub fn partial(object: &Object) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.value()["metadata"] })
}

/// A write's answer, with what the client was warned of.
pub fn answer(code: u16, stored: &Object, requested: &Arc<Kind>, chosen: Chosen, ctx: &Ctx) -> Answer {
    let body = object(stored, requested, chosen, table::Include::Metadata);
    with_warnings(Answer::full(code, chosen.content_type(), body), ctx)
}

/// Adds `Warning:` headers.
pub fn with_warnings(mut answer: Answer, ctx: &Ctx) -> Answer {
    for text in ctx.warnings() {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        answer = answer.header("warning", format!("299 - \"{quoted}\""));
    }
    answer
}
