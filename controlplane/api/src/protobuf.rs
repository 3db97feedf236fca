//! `application/vnd.kubernetes.protobuf`: an encoding at the edge, generic over the table of facts. There is no second object model: bytes become
//! JSON on the way in and JSON becomes bytes on the way out.
//!
//! Spec: Kubernetes API concepts, "Protobuf encoding" (magic number and `runtime.Unknown` envelope); protocol buffers, "Encoding" (wire format).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use crate::decode::{micro_time, time_text};
use crate::schema::{Field, Schema, Type, named};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Every body begins with it.
const MAGIC: &[u8; 4] = b"k8s\0";
/// Messages nest no deeper than this; a body that does is refused before the stack is in danger.
const DEPTH_MAX: u32 = 64;

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The first four bytes are others.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// The bytes break off or a length is wrong.
    #[error("proto: unexpected end of message")]
    Truncated,
    /// A field has another wire type than its schema says.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// The field's JSON name.
        field: String,
        /// What was found.
        wire: u8,
    },
    /// A text is not UTF-8.
    #[error("proto: field {0} contains invalid UTF-8")]
    Utf8(String),
    /// No such kind.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Unknown {
        /// `apiVersion` of the envelope.
        api_version: String,
        /// `kind` of the envelope.
        kind: String,
    },
    /// Nested too deeply.
    #[error("proto: message is nested more than {DEPTH_MAX} levels deep")]
    Depth,
}

/// What is in the envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion`, maybe empty.
    pub api_version: String,
    /// `kind`, maybe empty.
    pub kind: String,
    /// The message.
    pub raw: &'a [u8],
    /// Media type of `raw` if it is no protobuf.
    pub content_type: String,
}

/// One field as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
}

impl Wire<'_> {
    const fn number(&self) -> u8 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32 => 5,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Truncated)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtobufError> {
        let length = usize::try_from(length).map_err(|_too_long| ProtobufError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// The next field's number and content; `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.array()?),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                // no Kubernetes type has a field of this wire type: it is passed over
                self.array::<4>()?;
                Wire::Fixed32
            }
            _ => return Err(ProtobufError::Truncated),
        };
        Ok(Some((tag >> 3, wire)))
    }
}

/// Opens a body.
///
/// # Errors
/// [`ProtobufError`] when it is none.
pub fn open(body: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?);
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[], content_type: String::new() };
    while let Some((number, wire)) = reader.field()? {
        let Wire::Bytes(bytes) = wire else { continue };
        match number {
            1 => {
                let mut inner = Reader(bytes);
                while let Some((number, wire)) = inner.field()? {
                    let Wire::Bytes(bytes) = wire else { continue };
                    match number {
                        1 => envelope.api_version = text(bytes, "apiVersion")?,
                        2 => envelope.kind = text(bytes, "kind")?,
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = bytes,
            4 => envelope.content_type = text(bytes, "contentType")?,
            _ => {}
        }
    }
    Ok(envelope)
}

fn text(bytes: &[u8], field: &str) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_invalid| ProtobufError::Utf8(field.to_owned()))
}

/// The JSON of a whole body, whose schema is looked up by what its envelope says: a kind of the API, or one that every group shares, such as
/// `DeleteOptions`.
///
/// # Errors
/// [`ProtobufError`], or [`ProtobufError::Unknown`] for a kind that the table does not hold.
pub fn to_json(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = open(body)?;
    if envelope.content_type == "application/json" {
        return serde_json::from_slice(envelope.raw).map_err(|_invalid| ProtobufError::Truncated);
    }
    let schema = schema_of(&envelope.api_version, &envelope.kind)
        .ok_or_else(|| ProtobufError::Unknown { api_version: envelope.api_version.clone(), kind: envelope.kind.clone() })?;
    decode(body, &schema)
}

/// The schema of a kind of the API, or of one that every group shares.
fn schema_of(api_version: &str, kind: &str) -> Option<Arc<Schema>> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let group = group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    named(&format!("{group}.{version}.{kind}")).or_else(|| named(&format!("meta.v1.{kind}")))
}

/// The JSON of a whole body whose schema is known; `apiVersion` and `kind` come from the envelope.
///
/// # Errors
/// [`ProtobufError`].
pub fn decode(body: &[u8], schema: &Schema) -> Result<Value, ProtobufError> {
    let envelope = open(body)?;
    let mut object = message(envelope.raw, schema, DEPTH_MAX)?;
    for (name, value) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !value.is_empty() {
            object.insert(name.to_owned(), Value::String(value));
        }
    }
    Ok(Value::Object(object))
}

fn message(bytes: &[u8], schema: &Schema, depth: u32) -> Result<Map<String, Value>, ProtobufError> {
    let mut object = Map::new();
    fields(bytes, schema, None, &mut object, depth.checked_sub(1).ok_or(ProtobufError::Depth)?)?;
    for field in &schema.fields {
        // Go writes zero values of plain fields; JSON leaves them out where it says `omitempty`
        if field.omit_empty && !field.pointer && object.get(field.name.as_ref()).is_some_and(is_zero) {
            object.remove(field.name.as_ref());
        }
    }
    Ok(object)
}

/// Reads the fields of a message, or of a struct inlined into it, into the same JSON object.
fn fields(bytes: &[u8], schema: &Schema, inlined: Option<usize>, object: &mut Map<String, Value>, depth: u32) -> Result<(), ProtobufError> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        let field = schema.fields.iter().find(|field| field.inlined == inlined && u64::from(field.number) == number);
        if let Some(field) = field {
            value(wire, field, object, depth)?;
            continue;
        }
        if inlined.is_some() {
            continue;
        }
        let inner = schema.inlined.iter().position(|(_, at)| u64::from(*at) == number && number > 0);
        if let (Some(at), Wire::Bytes(bytes)) = (inner, wire) {
            fields(bytes, schema, Some(at), object, depth.checked_sub(1).ok_or(ProtobufError::Depth)?)?;
        }
    }
    Ok(())
}

fn value(wire: Wire<'_>, field: &Field, object: &mut Map<String, Value>, depth: u32) -> Result<(), ProtobufError> {
    let name = field.name.as_ref();
    match (&field.kind, field.kind.base()) {
        // a named list is a message with `items`
        (Type::Named(_), Type::List(item)) => {
            let Wire::Bytes(bytes) = wire else { return Err(wrong(name, &wire)) };
            object.insert(name.to_owned(), items(bytes, item, name, depth)?);
        }
        (_, Type::List(item)) => {
            let entry = object.entry(name.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = entry {
                match (wire, item.base()) {
                    // numbers may come packed
                    (Wire::Bytes(bytes), Type::Int32 | Type::Int64 | Type::Bool) => {
                        let mut reader = Reader(bytes);
                        while !reader.0.is_empty() {
                            list.push(single(Wire::Varint(reader.varint()?), item, name, depth)?);
                        }
                    }
                    (wire, _) => list.push(single(wire, item, name, depth)?),
                }
            }
        }
        (_, Type::Map(inner)) => {
            let Wire::Bytes(bytes) = wire else { return Err(wrong(name, &wire)) };
            let entry = object.entry(name.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            let (mut key, mut content) = (String::new(), None);
            let mut reader = Reader(bytes);
            while let Some((number, wire)) = reader.field()? {
                match (number, wire) {
                    (1, Wire::Bytes(bytes)) => key = text(bytes, name)?,
                    (2, wire) => content = Some(single(wire, inner, name, depth)?),
                    _ => {}
                }
            }
            if let Value::Object(map) = entry {
                map.insert(key, content.unwrap_or_else(|| zero(inner)));
            }
        }
        _ => {
            let content = single(wire, &field.kind, name, depth)?;
            // an empty Time is none
            if !content.is_null() {
                object.insert(name.to_owned(), content);
            }
        }
    }
    Ok(())
}

fn wrong(field: &str, wire: &Wire<'_>) -> ProtobufError {
    ProtobufError::WireType { field: field.to_owned(), wire: wire.number() }
}

fn items(bytes: &[u8], item: &Type, name: &str, depth: u32) -> Result<Value, ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let mut list = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            list.push(single(wire, item, name, depth)?);
        }
    }
    Ok(Value::Array(list))
}

/// One value that is neither a plain list nor a plain map.
fn single(wire: Wire<'_>, kind: &Type, name: &str, depth: u32) -> Result<Value, ProtobufError> {
    if let (Type::Named(_), Type::List(item), Wire::Bytes(bytes)) = (kind, kind.base(), &wire) {
        return items(bytes, item, name, depth);
    }
    Ok(match (kind.base(), wire) {
        (Type::String, Wire::Bytes(bytes)) => Value::String(text(bytes, name)?),
        (Type::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Type::Bool, Wire::Varint(number)) => Value::Bool(number != 0),
        (Type::Int32 | Type::Int64, Wire::Varint(number)) => Value::from(number.cast_signed()),
        (Type::Float64, Wire::Fixed64(bytes)) => Number::from_f64(f64::from_le_bytes(bytes)).map_or(Value::Null, Value::Number),
        (Type::Quantity, Wire::Bytes(bytes)) => Value::String(first_text(bytes, 1, name)?),
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes, name)?,
        (Type::Time, Wire::Bytes(bytes)) => time(bytes)?.map_or(Value::Null, |time| Value::String(time_text(time))),
        (Type::MicroTime, Wire::Bytes(bytes)) => time(bytes)?.map_or(Value::Null, |time| Value::String(micro_time(time))),
        (Type::Duration, Wire::Bytes(bytes)) => Value::String(duration(number(bytes, 1)?.unwrap_or(0).cast_signed())),
        (Type::Any, Wire::Bytes(bytes)) => any(bytes)?,
        (Type::Struct(reference), Wire::Bytes(bytes)) => Value::Object(message(bytes, reference.schema(), depth)?),
        (_, wire) => return Err(wrong(name, &wire)),
    })
}

/// The last varint with this number in a message.
fn number(bytes: &[u8], wanted: u64) -> Result<Option<u64>, ProtobufError> {
    let mut found = None;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        if let (true, Wire::Varint(value)) = (number == wanted, wire) {
            found = Some(value);
        }
    }
    Ok(found)
}

fn first_text(bytes: &[u8], wanted: u64, name: &str) -> Result<String, ProtobufError> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        if let (true, Wire::Bytes(bytes)) = (number == wanted, wire) {
            return text(bytes, name);
        }
    }
    Ok(String::new())
}

/// Spec: apimachinery `intstr`: `type` (0 integer, 1 text), `intVal`, `strVal`.
fn int_or_string(bytes: &[u8], name: &str) -> Result<Value, ProtobufError> {
    Ok(if number(bytes, 1)? == Some(1) {
        Value::String(first_text(bytes, 3, name)?)
    } else {
        Value::from(number(bytes, 2)?.unwrap_or(0).cast_signed())
    })
}

/// `seconds` and `nanos`; `None` without either: the zero time.
fn time(bytes: &[u8]) -> Result<Option<Timestamp>, ProtobufError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let seconds = number(bytes, 1)?.unwrap_or(0).cast_signed();
    let nanos = i32::try_from(number(bytes, 2)?.unwrap_or(0).cast_signed()).unwrap_or(0);
    Ok(Timestamp::new(seconds, nanos).ok())
}

/// Nanoseconds as Go prints a duration: `1h0m0s`, `1.5s`, `2ms`.
fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    if total < 1_000_000_000 {
        let (unit, divisor) = match total {
            0 => return "0s".to_owned(),
            1..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{sign}{}{unit}", fraction(total, divisor));
    }
    let seconds = fraction(total % 60_000_000_000, 1_000_000_000);
    let minutes = total / 60_000_000_000;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

fn fraction(value: u64, divisor: u64) -> String {
    let digits = divisor.ilog10() as usize;
    if digits == 0 || value.is_multiple_of(divisor) {
        return (value / divisor).to_string();
    }
    let text = format!("{}.{:0digits$}", value / divisor, value % divisor);
    text.trim_end_matches('0').to_owned()
}

/// `runtime.RawExtension`, `FieldsV1` and the like: JSON in the message's first field.
fn any(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        if let (1, Wire::Bytes(json)) = (number, wire) {
            return Ok(serde_json::from_slice(json).unwrap_or(Value::Null));
        }
    }
    Ok(Value::Object(Map::new()))
}

fn zero(kind: &Type) -> Value {
    match kind.base() {
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::IntOrString | Type::Float64 => Value::from(0),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Map(_) | Type::Struct(_) | Type::Any => Value::Object(Map::new()),
        Type::Quantity => Value::from("0"),
        _ => Value::from(""),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// A whole body of an object that says what it is; `None` when the table does not hold its kind.
pub fn to_bytes(object: &Value) -> Option<Vec<u8>> {
    let name = |member: &str| object.get(member).and_then(Value::as_str).unwrap_or_default();
    Some(encode(object, &*schema_of(name("apiVersion"), name("kind"))?))
}

/// A whole body of a list; `None` when the table does not hold its kind. The list itself is never one value.
pub fn list_to_bytes(api_version: &str, kind: &str, metadata: &Value, items: impl Iterator<Item = Arc<Value>>) -> Option<Vec<u8>> {
    let schema = schema_of(api_version, kind)?;
    let field = schema.field("items")?;
    let Type::List(item) = field.kind.base() else { return None };
    let mut raw = Vec::new();
    if let Some(field) = schema.field("metadata") {
        put_field(&mut raw, field.number, metadata, &field.kind);
    }
    for object in items {
        put_field(&mut raw, field.number, &object, item);
    }
    Some(body(api_version, kind, &raw))
}

/// One piece of a watch: the length in four bytes, then the event (`Spec:` apimachinery `meta.v1.WatchEvent`), whose object is a whole body.
pub fn watch_event(told: &str, object: &Value) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    put_bytes(&mut raw, 1, &to_bytes(object)?);
    let mut event = vec![0; 4];
    put_bytes(&mut event, 1, told.as_bytes());
    put_bytes(&mut event, 2, &raw);
    let length = u32::try_from(event.len() - 4).ok()?;
    event[..4].copy_from_slice(&length.to_be_bytes());
    Some(event)
}

/// Reads the first piece of a watch: what is told, of which object, and how many bytes it took. `None` when not all of it is there.
///
/// # Errors
/// [`ProtobufError`]
pub fn read_watch_event(bytes: &[u8]) -> Result<Option<(String, Value, usize)>, ProtobufError> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_too_long| ProtobufError::Truncated)?;
    let Some(event) = rest.get(..length) else { return Ok(None) };
    let (mut told, mut object) = (String::new(), Value::Null);
    let mut reader = Reader(event);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => told = text(bytes, "type")?,
            (2, Wire::Bytes(bytes)) => {
                let mut inner = Reader(bytes);
                while let Some((number, wire)) = inner.field()? {
                    if let (1, Wire::Bytes(bytes)) = (number, wire) {
                        object = to_json(bytes)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Some((told, object, length + 4)))
}

/// A whole body: magic number, envelope, message. Members that the schema does not know are left out, as upstream does.
pub fn encode(object: &Value, schema: &Schema) -> Vec<u8> {
    let name = |member: &str| object.get(member).and_then(Value::as_str).unwrap_or_default();
    let mut raw = Vec::new();
    put_message(&mut raw, object, schema);
    body(name("apiVersion"), name("kind"), &raw)
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut body = MAGIC.to_vec();
    put_bytes(&mut body, 1, &type_meta);
    put_bytes(&mut body, 2, raw);
    put_bytes(&mut body, 3, b"");
    put_bytes(&mut body, 4, b"");
    body
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(crate) fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field) << 3);
    put_varint(out, value);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_message(out: &mut Vec<u8>, object: &Value, schema: &Schema) {
    let Some(members) = object.as_object() else { return };
    // fields of inlined structs are collected, each struct into a message of its own
    let mut inner: Vec<Vec<u8>> = vec![Vec::new(); schema.inlined.len()];
    for (name, value) in members {
        let Some(field) = schema.field(name).filter(|field| field.number > 0) else { continue };
        match field.inlined {
            Some(at) => put_field(&mut inner[at], field.number, value, &field.kind),
            None => put_field(out, field.number, value, &field.kind),
        }
    }
    for ((_, number), bytes) in schema.inlined.iter().zip(inner) {
        if *number > 0 && !bytes.is_empty() {
            put_bytes(out, *number, &bytes);
        }
    }
}

fn put_field(out: &mut Vec<u8>, number: u32, value: &Value, kind: &Type) {
    match (kind, kind.base(), value) {
        (_, _, Value::Null) => {}
        (Type::Named(_), Type::List(item), Value::Array(list)) => {
            let mut message = Vec::new();
            for value in list {
                put_field(&mut message, 1, value, item);
            }
            put_bytes(out, number, &message);
        }
        (_, Type::List(item), Value::Array(list)) => {
            for value in list {
                put_field(out, number, value, item);
            }
        }
        (_, Type::Map(inner), Value::Object(map)) => {
            for (key, value) in map {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put_field(&mut entry, 2, value, inner);
                put_bytes(out, number, &entry);
            }
        }
        (_, base, value) => put_single(out, number, value, base),
    }
}

fn put_single(out: &mut Vec<u8>, number: u32, value: &Value, kind: &Type) {
    let text = value.as_str().unwrap_or_default();
    let mut message = Vec::new();
    match kind {
        Type::String => return put_bytes(out, number, text.as_bytes()),
        Type::Bytes => return put_bytes(out, number, &STANDARD.decode(text).unwrap_or_default()),
        Type::Bool => return put_number(out, number, u64::from(value.as_bool().unwrap_or_default())),
        Type::Int32 | Type::Int64 => return put_number(out, number, value.as_i64().unwrap_or_default().cast_unsigned()),
        Type::Float64 => {
            put_varint(out, u64::from(number) << 3 | 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
            return;
        }
        Type::Quantity => match value {
            Value::Number(number) => put_bytes(&mut message, 1, number.to_string().as_bytes()),
            _ => put_bytes(&mut message, 1, text.as_bytes()),
        },
        Type::IntOrString => {
            put_number(&mut message, 1, u64::from(value.is_string()));
            put_number(&mut message, 2, value.as_i64().unwrap_or_default().cast_unsigned());
            put_bytes(&mut message, 3, text.as_bytes());
        }
        Type::Time | Type::MicroTime => {
            let Ok(time) = text.parse::<Timestamp>() else { return };
            put_number(&mut message, 1, time.as_second().cast_unsigned());
            put_number(&mut message, 2, i64::from(time.subsec_nanosecond()).cast_unsigned());
        }
        Type::Duration => put_number(&mut message, 1, parse_duration(text).cast_unsigned()),
        Type::Any => put_bytes(&mut message, 1, value.to_string().as_bytes()),
        Type::Struct(reference) => put_message(&mut message, value, reference.schema()),
        // lists, maps and names were taken apart before
        Type::List(_) | Type::Map(_) | Type::Named(_) => return,
    }
    put_bytes(out, number, &message);
}

/// Reads what [`duration`] writes.
fn parse_duration(text: &str) -> i64 {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let factor = match unit {
            "h" => 3.6e12,
            "m" => 6e10,
            "s" => 1e9,
            "ms" => 1e6,
            "µs" | "us" => 1e3,
            _ => 1.0,
        };
        nanos += number.parse::<f64>().unwrap_or(0.0) * factor;
        rest = tail;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a float saturates when it becomes an integer")]
    let whole = (sign * nanos).round() as i64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn round_trip(name: &str, object: &Value) {
        let schema = named(name).expect("the table has it");
        assert_eq!(decode(&encode(object, &schema), &schema).as_ref(), Ok(object), "{name}");
    }

    #[test]
    fn objects_come_back_as_they_went() {
        round_trip(
            "core.v1.ConfigMap",
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"x": "y", "z": ""}, "creationTimestamp": "2026-11-22T12:00:00Z"}, "data": {"k": "v"}, "binaryData": {"b": "AAEC"}, "immutable": false}),
        );
        round_trip(
            "core.v1.Pod",
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m"}},
                        "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 3}, "ports": [{"containerPort": 80}]}],
                    "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "c", "defaultMode": 420}}],
                    "terminationGracePeriodSeconds": 0}}),
        );
        round_trip(
            "apps.v1.Deployment",
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
                "spec": {"selector": {"matchLabels": {"a": "b"}}, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
                    "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}}}),
        );
        round_trip(
            "coordination.v1.Lease",
            &json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"renewTime": "2026-11-22T12:00:00.123456Z", "leaseDurationSeconds": 40}}),
        );
    }

    #[test]
    fn a_watch_comes_in_pieces_that_say_how_long_they_are() {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "7"}, "data": {"k": "v"}});
        let mut stream = watch_event("ADDED", &object).expect("the table has it");
        let first = stream.len();
        stream.extend(watch_event("ERROR", &json!({"apiVersion": "v1", "kind": "Status", "code": 410})).expect("the table has it"));
        let (told, read, took) = read_watch_event(&stream).expect("readable").expect("whole");
        assert_eq!((told.as_str(), &read, took), ("ADDED", &object, first));
        let (told, read, _) = read_watch_event(&stream[took..]).expect("readable").expect("whole");
        assert_eq!((told.as_str(), &read["code"]), ("ERROR", &json!(410)));
        assert_eq!(read_watch_event(&stream[..first - 1]), Ok(None));
        assert!(watch_event("ADDED", &json!({"apiVersion": "x/v1", "kind": "Unknown"})).is_none());
    }

    #[test]
    fn a_list_is_written_item_by_item() {
        let item = Arc::new(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}));
        let meta = json!({"resourceVersion": "9"});
        let bytes = list_to_bytes("v1", "ConfigMapList", &meta, [Arc::clone(&item), item].into_iter()).expect("the table has it");
        let plain = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
        assert_eq!(to_json(&bytes), Ok(json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": meta, "items": [plain, plain]})));
    }

    #[test]
    fn bytes_that_a_client_wrote() {
        // kubectl 1.32.4: `kubectl create configmap k1 --from-literal=a=b -v=10` shows them
        let mut body =
            b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1c\x0a\x12\x0a\x02k1\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0".to_vec();
        body.extend_from_slice(b"\x12\x06\x0a\x01a\x12\x01b\x1a\0\x22\0");
        let schema = named("core.v1.ConfigMap").expect("the table has it");
        let object = decode(&body, &schema).expect("readable");
        assert_eq!(to_json(&body).as_ref(), Ok(&object));
        assert_eq!(object, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "k1"}, "data": {"a": "b"}}));
    }

    #[test]
    fn damage_is_refused() {
        let schema = named("core.v1.Pod").expect("the table has it");
        assert_eq!(decode(b"{}", &schema), Err(ProtobufError::Magic));
        let whole = encode(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}), &schema);
        for end in 5..whole.len() - 4 {
            // a cut inside a field is seen; one between fields leaves a shorter envelope
            let _read_or_refused = decode(&whole[..end], &schema);
        }
        assert!(decode(&whole[..whole.len() - 8], &schema).is_err());
        let mut deep = Vec::new();
        for _ in 0..100 {
            let mut outer = Vec::new();
            put_bytes(&mut outer, 1, &deep);
            deep = outer;
        }
        let schema = named("meta.v1.LabelSelector").expect("the table has it");
        let mut body = MAGIC.to_vec();
        put_bytes(&mut body, 2, &deep);
        // nothing in this schema nests: it is read as far as it goes and no further
        let _read_or_refused = decode(&body, &schema);
    }

    /// Numbers that look random and repeat with their seed.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    /// Any value of a type; a third of the fields of a struct are there.
    #[allow(clippy::cast_possible_truncation, reason = "a roll of the dice is small")]
    fn sample(kind: &Type, dice: &mut Dice, depth: u32) -> Value {
        match kind.base() {
            Type::String => Value::from(["", "a", "täxt", "x/y"][dice.roll(4) as usize]),
            Type::Bool => Value::from(dice.roll(2) == 0),
            Type::Int32 => Value::from(dice.roll(1 << 32) as u32 as i32),
            Type::Int64 => Value::from([0, 1, -1, i64::MAX, i64::MIN][dice.roll(5) as usize]),
            Type::Float64 => Value::from([0.0, 1.5, -2.25][dice.roll(3) as usize]),
            Type::Bytes => Value::from(["", "AAEC", "/w=="][dice.roll(3) as usize]),
            Type::Quantity => Value::from(["0", "100m", "1Gi", "5"][dice.roll(4) as usize]),
            Type::IntOrString => [Value::from(0), Value::from(-7), Value::from("25%"), Value::from("")][dice.roll(4) as usize].clone(),
            Type::Time => Value::from(["2026-11-22T12:00:00Z", "1970-01-01T00:00:01Z"][dice.roll(2) as usize]),
            Type::MicroTime => Value::from(["2026-11-22T12:00:00.123456Z", "2026-11-22T12:00:00.000000Z"][dice.roll(2) as usize]),
            Type::Duration => Value::from(["0s", "1m30s", "1.5s"][dice.roll(3) as usize]),
            Type::Any => json!({"any": [1, "two", {"three": null}]}),
            Type::List(item) => (0..dice.roll(3)).map(|_| sample(item, dice, depth)).collect(),
            Type::Map(inner) => Value::Object((0..dice.roll(3)).map(|at| (format!("k{at}"), sample(inner, dice, depth))).collect()),
            Type::Struct(reference) => object(reference.schema(), dice, depth),
            Type::Named(_) => Value::Null,
        }
    }

    fn object(schema: &Schema, dice: &mut Dice, depth: u32) -> Value {
        let mut members = Map::new();
        for field in &schema.fields {
            if depth > 0 && dice.roll(3) == 0 && field.number > 0 {
                members.insert(field.name.to_string(), sample(&field.kind, dice, depth - 1));
            }
        }
        Value::Object(members)
    }

    #[test]
    fn every_kind_keeps_everything_on_the_way_to_protobuf_and_back() {
        let mut dice = Dice(7);
        for row in crate::Registry::with_builtins().all() {
            let schema = crate::schema::of(&row);
            for _ in 0..200 {
                let mut value = object(&schema, &mut dice, 7);
                value["apiVersion"] = row.api_version().into();
                value["kind"] = row.kind.as_ref().into();
                let Ok(decoded) = crate::decode::checked(&row, value) else {
                    panic!("a sample of {} does not fit its schema", schema.name)
                };
                let bytes = encode(&decoded.object, &schema);
                let back = crate::decode::checked(&row, to_json(&bytes).expect("readable")).expect("fits").object;
                if let Some(path) = difference("", &decoded.object, &back) {
                    panic!("{}: {path}", schema.name);
                }
            }
        }
    }

    fn difference(path: &str, left: &Value, right: &Value) -> Option<String> {
        match (left, right) {
            (Value::Object(a), Value::Object(b)) => {
                let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                keys.into_iter().find_map(|key| {
                    difference(&format!("{path}.{key}"), a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null))
                })
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).enumerate().find_map(|(at, (a, b))| difference(&format!("{path}[{at}]"), a, b))
            }
            // only JSON tells an empty list or map from none
            (Value::Array(list), Value::Null) if list.is_empty() => None,
            (Value::Object(map), Value::Null) if map.is_empty() => None,
            (a, b) => (a != b).then(|| format!("{path}: {a} became {b}")),
        }
    }

    #[test]
    fn durations_read_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (2_000_000, "2ms"),
            (-5_000_000_000, "-5s"),
        ] {
            assert_eq!(duration(nanos), text);
            assert_eq!(parse_duration(text), nanos, "{text}");
        }
    }
}
