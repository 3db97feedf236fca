//! The Swagger 2.0 document as protobuf, the form that kubectl before 1.28 validates and patches with (`Spec:` gnostic `openapi.v2.Document`,
//! media type `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`).
//!
//! Each message is a table: JSON name, field number, shape. Members that a table does not name are vendor extensions (`x-...`) or left out.

use serde_json::Value;

use crate::protobuf::{put_bytes, put_number};

/// How a JSON member is written.
enum Shape {
    Text,
    Bool,
    Integer,
    Texts,
    /// A value of any shape, as YAML text (of which JSON is a part).
    Any,
    Anys,
    Message(&'static Message),
    Messages(&'static Message),
    /// A JSON object: a message that holds its members, name and value, under this field number.
    Named(u32, &'static Message),
    /// A message around the value, or around each item of a list, in field 1.
    Wrapped(&'static Shape),
    /// `additionalProperties`: a schema or a boolean.
    Additional,
    /// The parameters of an operation: in the body, the path or the query.
    Parameters,
}

struct Message {
    fields: &'static [(&'static str, u32, Shape)],
    /// Where `x-...` members go; 0: nowhere.
    extensions: u32,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Shape::Text),
        ("info", 2, Shape::Message(&INFO)),
        ("paths", 8, Shape::Named(2, &PATH_ITEM)),
        ("definitions", 9, Shape::Named(1, &SCHEMA)),
    ],
    extensions: 16,
};
static INFO: Message = Message { fields: &[("title", 1, Shape::Text), ("version", 2, Shape::Text)], extensions: 7 };
static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Shape::Message(&OPERATION)),
        ("put", 3, Shape::Message(&OPERATION)),
        ("post", 4, Shape::Message(&OPERATION)),
        ("delete", 5, Shape::Message(&OPERATION)),
        ("options", 6, Shape::Message(&OPERATION)),
        ("head", 7, Shape::Message(&OPERATION)),
        ("patch", 8, Shape::Message(&OPERATION)),
        ("parameters", 9, Shape::Parameters),
    ],
    extensions: 10,
};
static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Shape::Texts),
        ("description", 3, Shape::Text),
        ("operationId", 5, Shape::Text),
        ("produces", 6, Shape::Texts),
        ("consumes", 7, Shape::Texts),
        ("parameters", 8, Shape::Parameters),
        ("responses", 9, Shape::Named(1, &RESPONSE_VALUE)),
        ("schemes", 10, Shape::Texts),
        ("deprecated", 11, Shape::Bool),
    ],
    extensions: 13,
};
/// `ResponseValue` and `SchemaItem` are unions whose first member is the one we use: a table of one field that takes the whole value.
static RESPONSE_VALUE: Message = Message { fields: &[("", 1, Shape::Message(&RESPONSE))], extensions: 0 };
static RESPONSE: Message =
    Message { fields: &[("description", 1, Shape::Text), ("schema", 2, Shape::Wrapped(&Shape::Message(&SCHEMA)))], extensions: 5 };
static BODY: Message = Message {
    fields: &[
        ("description", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("required", 4, Shape::Bool),
        ("schema", 5, Shape::Message(&SCHEMA)),
    ],
    extensions: 6,
};
static QUERY: Message = Message {
    fields: &[
        ("required", 1, Shape::Bool),
        ("in", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("name", 4, Shape::Text),
        ("type", 6, Shape::Text),
        ("format", 7, Shape::Text),
        ("uniqueItems", 20, Shape::Bool),
    ],
    extensions: 23,
};
static IN_PATH: Message = Message {
    fields: &[
        ("required", 1, Shape::Bool),
        ("in", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("name", 4, Shape::Text),
        ("type", 5, Shape::Text),
        ("format", 6, Shape::Text),
        ("uniqueItems", 19, Shape::Bool),
    ],
    extensions: 22,
};
static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("title", 3, Shape::Text),
        ("description", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("maxLength", 11, Shape::Integer),
        ("minLength", 12, Shape::Integer),
        ("pattern", 13, Shape::Text),
        ("maxItems", 14, Shape::Integer),
        ("minItems", 15, Shape::Integer),
        ("uniqueItems", 16, Shape::Bool),
        ("required", 19, Shape::Texts),
        ("enum", 20, Shape::Anys),
        ("additionalProperties", 21, Shape::Additional),
        ("type", 22, Shape::Wrapped(&Shape::Text)),
        ("items", 23, Shape::Wrapped(&Shape::Message(&SCHEMA))),
        ("allOf", 24, Shape::Messages(&SCHEMA)),
        ("properties", 25, Shape::Named(1, &SCHEMA)),
    ],
    extensions: 31,
};

/// The bytes of a Swagger 2.0 document.
pub fn encode(document: &Value) -> Vec<u8> {
    message(document, &DOCUMENT)
}

fn message(value: &Value, table: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, number, shape) in table.fields {
        let member = if name.is_empty() { Some(value) } else { value.get(name) };
        if let Some(member) = member {
            put(&mut out, *number, member, shape);
        }
    }
    if table.extensions != 0 {
        for (name, member) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            let mut extension = Vec::new();
            put_bytes(&mut extension, 1, name.as_bytes());
            put(&mut extension, 2, member, &Shape::Any);
            put_bytes(&mut out, table.extensions, &extension);
        }
    }
    out
}

fn put(out: &mut Vec<u8>, number: u32, value: &Value, shape: &Shape) {
    let items = || value.as_array().into_iter().flatten();
    match shape {
        Shape::Text => put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Shape::Bool => put_number(out, number, u64::from(value.as_bool().unwrap_or_default())),
        Shape::Integer => put_number(out, number, value.as_u64().unwrap_or_default()),
        Shape::Texts => items().for_each(|item| put(out, number, item, &Shape::Text)),
        Shape::Any => {
            let mut any = Vec::new();
            put_bytes(&mut any, 2, value.to_string().as_bytes());
            put_bytes(out, number, &any);
        }
        Shape::Anys => items().for_each(|item| put(out, number, item, &Shape::Any)),
        Shape::Message(table) => put_bytes(out, number, &message(value, table)),
        Shape::Messages(table) => items().for_each(|item| put_bytes(out, number, &message(item, table))),
        Shape::Named(inner, table) => {
            let mut members = Vec::new();
            for (name, member) in value.as_object().into_iter().flatten() {
                let mut named = Vec::new();
                put_bytes(&mut named, 1, name.as_bytes());
                put_bytes(&mut named, 2, &message(member, table));
                put_bytes(&mut members, *inner, &named);
            }
            put_bytes(out, number, &members);
        }
        Shape::Wrapped(shape) => {
            let mut wrapper = Vec::new();
            match value {
                Value::Array(list) => list.iter().for_each(|item| put(&mut wrapper, 1, item, shape)),
                one => put(&mut wrapper, 1, one, shape),
            }
            put_bytes(out, number, &wrapper);
        }
        Shape::Additional => {
            let mut either = Vec::new();
            match value {
                Value::Bool(open) => put_number(&mut either, 2, u64::from(*open)),
                schema => put_bytes(&mut either, 1, &message(schema, &SCHEMA)),
            }
            put_bytes(out, number, &either);
        }
        Shape::Parameters => items().for_each(|item| put_bytes(out, number, &parameter(item))),
    }
}

/// `ParametersItem { parameter: Parameter { body | non_body { query | path } } }`
fn parameter(value: &Value) -> Vec<u8> {
    let within = |number: u32, bytes: &[u8]| {
        let mut out = Vec::new();
        put_bytes(&mut out, number, bytes);
        out
    };
    let parameter = match value["in"].as_str() {
        Some("body") => within(1, &message(value, &BODY)),
        Some("path") => within(2, &within(4, &message(value, &IN_PATH))),
        _ => within(2, &within(3, &message(value, &QUERY))),
    };
    within(1, &parameter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_small_document_is_written_byte_for_byte() {
        let document = json!({"swagger": "2.0", "definitions": {"A": {"type": "object", "x-b": [1], "required": ["c"]}}});
        let schema: &[u8] = b"\x9a\x01\x01c\xb2\x01\x08\x0a\x06object\xfa\x01\x0c\x0a\x03x-b\x12\x05\x12\x03[1]";
        let mut named = b"\x0a\x01A\x12".to_vec();
        named.push(u8::try_from(schema.len()).expect("it is short"));
        named.extend_from_slice(schema);
        let mut expected = b"\x0a\x032.0\x4a".to_vec();
        expected.push(u8::try_from(named.len() + 2).expect("it is short"));
        expected.push(0x0a);
        expected.push(u8::try_from(named.len()).expect("it is short"));
        expected.extend_from_slice(&named);
        assert_eq!(encode(&document), expected);
    }

    #[test]
    fn nothing_of_our_document_is_left_out_unknowingly() {
        fn check(value: &Value, table: &'static Message, path: &str, lost: &mut Vec<String>) {
            for (name, member) in value.as_object().into_iter().flatten() {
                let Some((_, _, shape)) = table.fields.iter().find(|(known, _, _)| known == name) else {
                    if !name.starts_with("x-") {
                        lost.push(format!("{path}.{name}"));
                    }
                    continue;
                };
                match shape {
                    Shape::Message(inner) => check(member, inner, name, lost),
                    Shape::Named(_, inner) if inner.fields.first().is_some_and(|(first, _, _)| !first.is_empty()) => {
                        member.as_object().into_iter().flatten().for_each(|(key, one)| check(one, inner, key, lost));
                    }
                    _ => {}
                }
            }
        }
        let mut lost = Vec::new();
        let document = super::super::v2(&crate::kind::Registry::with_builtins());
        check(&document, &DOCUMENT, "", &mut lost);
        assert!(lost.is_empty(), "{lost:?}");
        assert!(encode(&document).len() > 100_000);
    }
}
