//! From bytes to an object as a Go API server would read it: fields checked against the schema, unknown ones reported and dropped,
//! zero values and texts normalised (`Spec:` API conventions; apimachinery `runtime.StrictDecodingError`).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::quantity::Quantity;
use crate::schema::{Field, Schema, Type};
use crate::status::ApiError;

/// What becomes of unknown and duplicate fields (the `fieldValidation` parameter).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped in silence.
    Ignore,
    /// Dropped with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; empty means `Warn`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded object and what was wrong with its fields, without being wrong enough to refuse it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object: known fields only, normalised.
    pub object: Value,
    /// Such as `unknown field "spec.foo"`.
    pub strict: Vec<String>,
}

impl Decoded {
    /// The object and the texts for `Warning:` headers.
    ///
    /// # Errors
    /// `BadRequest` when `validation` is strict and there is something to report.
    pub fn finish(self, kind: &Kind, validation: FieldValidation) -> Result<(Value, Vec<String>), ApiError> {
        match validation {
            FieldValidation::Ignore => Ok((self.object, Vec::new())),
            FieldValidation::Warn => Ok((self.object, self.strict)),
            FieldValidation::Strict if self.strict.is_empty() => Ok((self.object, Vec::new())),
            FieldValidation::Strict => Err(cannot_be_handled(kind, &self.object, &strict_error(&self.strict))),
        }
    }
}

/// `strict decoding error: unknown field "a", unknown field "b"`.
pub fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

fn cannot_be_handled(kind: &Kind, body: &Value, why: &str) -> ApiError {
    let named = body.get("kind").and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(&kind.kind);
    let stated = body.get("apiVersion").and_then(Value::as_str).filter(|text| !text.is_empty());
    let version = stated.map_or(kind.version.as_ref(), |stated| stated.rsplit('/').next().unwrap_or_default());
    ApiError::bad_request(format!("{named} in version {version:?} cannot be handled as a {}: {why}", kind.kind))
}

/// Where upstream's table of kinds is made; its errors name it.
pub const SCHEME: &str = "pkg/runtime/scheme.go:111";

/// What is said to an object of another kind.
fn other_kind(kind: &Kind, version: &str, name: &str) -> String {
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let short = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    let known = name == "List" || crate::schema::named(&format!("{short}.{version}.{name}")).is_some();
    if !known {
        let full = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        return format!("no kind {name:?} is registered for version {full:?} in scheme {SCHEME:?}");
    }
    let own = if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() };
    format!("converting ({version}.{name}) to ({own}.{}): unknown conversion", kind.kind)
}

/// 400 for a body in which no object of the kind can be seen.
pub fn unrecognized(kind: &Kind, body: &[u8], why: &str) -> ApiError {
    ApiError::bad_request(format!("the object provided is unrecognized (must be of type {}): {why} ({})", kind.kind, summary(body)))
}

/// The beginning of a body: as text if it looks like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    use fmt::Write as _;
    const SHOWN_MAX: usize = 30;
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let shown = &body[..body.len().min(SHOWN_MAX)];
    let mut text = if body[0] == b'{' {
        String::from_utf8_lossy(shown).into_owned()
    } else {
        shown.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    if body.len() > SHOWN_MAX {
        text.push_str(" ...");
    }
    text
}

/// The object of a request's JSON body for this row; `apiVersion` and `kind` are filled in when they are missing.
///
/// # Errors
/// `BadRequest` for bytes that are no JSON, another kind, and values of wrong types.
pub fn object(kind: &Kind, body: &[u8], validation: FieldValidation) -> Result<(Value, Vec<String>), ApiError> {
    let (value, duplicates) = parse_json(body).map_err(|why| unrecognized(kind, body, &format!("{NO_KIND}{why}")))?;
    tracked(kind, body, value, duplicates, validation)
}

/// [`object`] for a value that was parsed from another format; `body` is where it came from, `duplicates` what was there twice.
///
/// # Errors
/// As [`object`].
pub fn tracked(
    kind: &Kind,
    body: &[u8],
    value: Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let value = if value.is_null() { Value::Object(Map::new()) } else { value };
    if let Some(why) = no_kind(&value) {
        return Err(unrecognized(kind, body, &why));
    }
    let mut decoded = checked(kind, value)?;
    decoded.strict.splice(0..0, duplicates);
    if decoded.strict.len() > 1 {
        sort_as_written(body, &mut decoded.strict);
    }
    decoded.finish(kind, validation)
}

/// Puts complaints about fields into the order in which the body has them.
fn sort_as_written(body: &[u8], complaints: &mut [String]) {
    let mut found = Found { every: Some(Vec::new()), ..Found::default() };
    let json = Tracked { path: String::new(), found: &mut found }.deserialize(&mut serde_json::Deserializer::from_slice(body));
    if json.is_err() {
        found.every = Some(Vec::new());
        let yaml = Tracked { path: String::new(), found: &mut found }.deserialize(serde_yaml::Deserializer::from_slice(body));
        if yaml.is_err() {
            return;
        }
    }
    let every = found.every.unwrap_or_default();
    complaints.sort_by_key(|complaint| {
        let path = complaint.split_once('"').map_or("", |(_, rest)| rest.trim_end_matches('"'));
        // a field is there twice where it is there again
        let at = if complaint.starts_with("duplicate") { every.iter().rposition(|known| known == path) } else { None };
        at.or_else(|| every.iter().position(|known| known == path)).unwrap_or(usize::MAX)
    });
}

const NO_KIND: &str = "couldn't get version/kind; json parse error: ";

/// Why `apiVersion` and `kind` cannot be read from a value.
fn no_kind(value: &Value) -> Option<String> {
    let Some(map) = value.as_object() else {
        const GO_TYPE: &str =
            "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";
        return Some(format!("{NO_KIND}json: cannot unmarshal {} into Go value of type {GO_TYPE}", json_type(value)));
    };
    for field in ["apiVersion", "kind"] {
        if let Some(found) = map.get(field).filter(|found| !found.is_string() && !found.is_null()) {
            return Some(format!("{NO_KIND}json: cannot unmarshal {} into Go struct field .{field} of type string", json_type(found)));
        }
    }
    let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    (version.matches('/').count() > 1).then(|| format!("unexpected GroupVersion string: {version}"))
}

/// [`object`] for a value that was parsed already (after a patch).
///
/// # Errors
/// As [`object`].
pub fn checked(kind: &Kind, mut value: Value) -> Result<Decoded, ApiError> {
    if let Some(why) = no_kind(&value) {
        return Err(ApiError::bad_request(why));
    }
    let expected = kind.api_version();
    let stated = |field: &str| value[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (version, name) = (stated("apiVersion"), stated("kind"));
    if version.as_ref().is_some_and(|version| *version != expected) || name.as_ref().is_some_and(|name| *name != kind.kind) {
        let why = other_kind(kind, version.as_deref().unwrap_or(&expected), name.as_deref().unwrap_or(&kind.kind));
        return Err(cannot_be_handled(kind, &value, &why));
    }
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(expected));
        map.insert("kind".to_owned(), Value::from(kind.kind.as_ref()));
    }
    let schema = crate::schema::of(kind);
    let mut strict = Vec::new();
    match typed(&schema, &mut value, &mut strict) {
        Ok(()) => Ok(Decoded { object: value, strict }),
        Err(why) => Err(cannot_be_handled(kind, &value, &why)),
    }
}

/// The body of a subresource or an option object, such as `core.v1.Binding` or `meta.v1.DeleteOptions` (names of
/// `facts/types.txt`). Unknown fields are dropped.
///
/// # Errors
/// `BadRequest` for bytes that are no JSON and values of wrong types.
pub fn named(name: &str, body: &[u8]) -> Result<Value, ApiError> {
    let (mut value, _) = parse(body)?;
    let short = name.rsplit('.').next().unwrap_or_default();
    let schema = crate::schema::named(name).ok_or_else(|| ApiError::internal(format!("no schema of {name}")))?;
    typed(&schema, &mut value, &mut Vec::new())
        .map_err(|why| ApiError::bad_request(format!("{short} in version \"v1\" cannot be handled as a {short}: {why}")))?;
    Ok(value)
}

/// Puts an object into the form that a Go server would write it in: what the schema does not know is dropped, zero values follow their
/// tags. Use it after defaults and strategies, before storing.
pub fn normalise(kind: &Kind, value: &mut Value) {
    // what a rule wrote has the right types; what it has not is kept as it is
    let mut copy = value.clone();
    if typed(&crate::schema::of(kind), &mut copy, &mut Vec::new()).is_ok() {
        *value = copy;
    }
}

/// Checks and normalises in place. `strict` receives unknown fields.
///
/// # Errors
/// Upstream's text of the first value that has the wrong type.
pub fn typed(schema: &Schema, value: &mut Value, strict: &mut Vec<String>) -> Result<(), String> {
    let mut decoder = Decoder { strict, names: Vec::new(), path: String::new(), owner: schema.short_name().to_owned(), error: None };
    if !value.is_object() {
        return Err(format!("json: cannot unmarshal {} into Go value of type {}", json_type(value), schema.name));
    }
    decoder.object(schema, value);
    decoder.error.map_or(Ok(()), Err)
}

struct Decoder<'a> {
    strict: &'a mut Vec<String>,
    /// Names of the fields above, as Go's error names them.
    names: Vec<String>,
    /// The exact path, as strict errors name it.
    path: String,
    /// The struct whose field is being read.
    owner: String,
    error: Option<String>,
}

impl Decoder<'_> {
    fn object(&mut self, schema: &Schema, value: &mut Value) {
        let Value::Object(map) = value else { return };
        let taken = std::mem::take(map);
        let outer = std::mem::replace(&mut self.owner, schema.short_name().to_owned());
        for (name, mut member) in taken {
            let Some(field) = schema.field(&name) else {
                if schema.open {
                    map.insert(name, member);
                } else {
                    self.strict.push(format!("unknown field {:?}", self.below(&name)));
                }
                continue;
            };
            let path_end = self.path.len();
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(&name);
            self.names.push(name.clone());
            let keep = self.field(field, &mut member);
            self.names.pop();
            self.path.truncate(path_end);
            if keep {
                map.insert(name, member);
            }
        }
        for field in &schema.fields {
            if !map.contains_key(field.name.as_ref())
                && let Some(zero) = written_zero(field)
            {
                map.insert(field.name.to_string(), zero);
            }
        }
        self.owner = outer;
    }

    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Whether the member is written again.
    fn field(&mut self, field: &Field, value: &mut Value) -> bool {
        if value.is_null() {
            return false;
        }
        self.value(&field.kind, value);
        // an empty list asks to forget who owns what
        if field.pointer || (field.name == "managedFields" && self.owner == "ObjectMeta") {
            return true;
        }
        match field.kind.base() {
            Type::Struct(_) | Type::Time | Type::MicroTime => !(field.omit_zero && is_zero(value)),
            Type::Any => true,
            // Go leaves out a map without members, not one whose members are empty
            Type::Map(_) | Type::List(_) if field.omit_empty || field.omit_zero => !is_without_members(value),
            _ if field.omit_empty || field.omit_zero => !is_zero(value),
            _ => true,
        }
    }

    fn value(&mut self, kind: &Type, value: &mut Value) {
        let expected = match (kind.base(), &mut *value) {
            (Type::Any, _) => return,
            (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) => return,
            (Type::Int32 | Type::Int64, Value::Number(number)) => {
                let fits = match kind.base() {
                    Type::Int32 => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                    _ => number.as_i64().is_some(),
                };
                if !fits {
                    let shown = format!("number {number}");
                    self.mismatch(&shown, kind);
                }
                return;
            }
            (Type::Float64, Value::Number(_)) => return,
            (Type::Bytes, Value::String(text)) => {
                let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                if let Err(at) = base64_error(&clean) {
                    self.fail(format!("illegal base64 data at input byte {at}"));
                } else {
                    *text = clean;
                }
                return;
            }
            (Type::Quantity, Value::String(text)) => {
                match Quantity::canonical(text) {
                    Ok(canonical) => *text = canonical,
                    Err(error) => self.fail(error.to_string()),
                }
                return;
            }
            (Type::Quantity, Value::Number(number)) => {
                match Quantity::canonical(&number.to_string()) {
                    Ok(canonical) => *value = Value::String(canonical),
                    Err(error) => self.fail(error.to_string()),
                }
                return;
            }
            (Type::Quantity, _) => {
                self.fail(crate::quantity::QuantityError::Syntax.to_string());
                return;
            }
            (Type::IntOrString, Value::String(_)) => return,
            (Type::IntOrString, Value::Number(number)) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return,
            (Type::IntOrString, Value::Number(number)) => {
                let text = format!("json: cannot unmarshal number {number} into Go value of type int32");
                self.fail(text);
                return;
            }
            (Type::IntOrString, other) => {
                let text = format!("json: cannot unmarshal {} into Go value of type int32", json_type(other));
                self.fail(text);
                return;
            }
            (Type::Time, Value::String(text)) => {
                match canonical_time(text, false) {
                    Ok(canonical) => *text = canonical,
                    Err(error) => self.fail(error),
                }
                return;
            }
            (Type::MicroTime, Value::String(text)) => {
                match canonical_time(text, true) {
                    Ok(canonical) => *text = canonical,
                    Err(error) => self.fail(error),
                }
                return;
            }
            (Type::Time | Type::MicroTime | Type::Duration, other) if !other.is_string() => {
                let text = format!("json: cannot unmarshal {} into Go value of type string", json_type(other));
                self.fail(text);
                return;
            }
            (Type::Duration, _) => return,
            (Type::List(item), Value::Array(items)) => {
                for (index, entry) in items.iter_mut().enumerate() {
                    let end = self.path.len();
                    self.path.push_str(&format!("[{index}]"));
                    self.element(item, entry);
                    self.path.truncate(end);
                }
                return;
            }
            (Type::Map(inner), Value::Object(map)) => {
                for (key, entry) in map.iter_mut() {
                    let end = self.path.len();
                    self.path.push('.');
                    self.path.push_str(key);
                    self.element(inner, entry);
                    self.path.truncate(end);
                }
                return;
            }
            (Type::Struct(reference), Value::Object(_)) => {
                let schema = std::sync::Arc::clone(reference.schema());
                self.object(&schema, value);
                return;
            }
            (_, other) => json_type(other),
        };
        self.mismatch(expected, kind);
    }

    /// An item of a list or a value of a map: null becomes the zero value.
    fn element(&mut self, kind: &Type, value: &mut Value) {
        if value.is_null() {
            *value = if matches!(kind.base(), Type::Bytes) { Value::from("") } else { zero_of(kind) };
            return;
        }
        self.value(kind, value);
    }

    fn mismatch(&mut self, found: &str, kind: &Type) {
        let text = format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {}",
            self.owner,
            self.names.join("."),
            kind.go_name()
        );
        self.fail(text);
    }

    fn fail(&mut self, text: String) {
        self.error.get_or_insert(text);
    }
}

/// What Go writes for a field that was not set; `None` when it writes nothing.
fn written_zero(field: &Field) -> Option<Value> {
    if field.pointer || field.omit_zero {
        return if field.pointer && !field.omit_empty && !field.omit_zero { Some(Value::Null) } else { None };
    }
    match field.kind.base() {
        // an empty struct is not empty to Go
        Type::Struct(reference) => {
            let mut value = Value::Object(Map::new());
            let schema = std::sync::Arc::clone(reference.schema());
            let mut unused = Vec::new();
            Decoder { strict: &mut unused, names: Vec::new(), path: String::new(), owner: String::new(), error: None }
                .object(&schema, &mut value);
            Some(value)
        }
        Type::Time | Type::MicroTime => Some(Value::Null),
        Type::Any if field.omit_empty => None,
        _ if field.omit_empty => None,
        _ => Some(zero_of(&field.kind)),
    }
}

fn zero_of(kind: &Type) -> Value {
    match kind.base() {
        Type::String => Value::from(""),
        Type::Bool => Value::from(false),
        Type::Int32 | Type::Int64 | Type::Float64 | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::from("0"),
        Type::Duration => Value::from("0s"),
        Type::Struct(reference) => {
            let mut value = Value::Object(Map::new());
            let mut unused = Vec::new();
            Decoder { strict: &mut unused, names: Vec::new(), path: String::new(), owner: String::new(), error: None }
                .object(reference.schema(), &mut value);
            value
        }
        Type::Bytes | Type::Time | Type::MicroTime | Type::Any | Type::List(_) | Type::Map(_) | Type::Named(_) => Value::Null,
    }
}

fn is_without_members(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        other => other.is_null(),
    }
}

/// Whether Go calls it zero: nothing in it was set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

/// What Go's decoder calls a value.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Where standard base64 stops being valid.
fn base64_error(text: &str) -> Result<(), usize> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).map(|_| ()).map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
        base64::DecodeError::InvalidLength(length) => length / 4 * 4,
        base64::DecodeError::InvalidPadding => text.trim_end_matches('=').len(),
    })
}

/// RFC 3339 in UTC with seconds, or with six digits of fraction.
///
/// # Errors
/// Go's text for a time that cannot be parsed.
pub fn canonical_time(text: &str, micro: bool) -> Result<String, String> {
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let parsed = if text.contains('T') { text.parse::<jiff::Timestamp>().ok() } else { None };
    match parsed {
        Some(time) => Ok(if micro { micro_time(time) } else { time_text(time) }),
        None => Err(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")),
    }
}

/// A `metav1.Time`.
pub fn time_text(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A `metav1.MicroTime`.
pub fn micro_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The JSON of a body and the duplicate fields in it, such as `duplicate field "spec.replicas"`. The last of them counts.
///
/// # Errors
/// `BadRequest` when it is no JSON.
pub fn parse(body: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    parse_json(body).map_err(|why| ApiError::bad_request(format!("{NO_KIND}{why}")))
}

fn parse_json(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = track(&mut reader).and_then(|parsed| reader.end().map(|()| parsed));
    parsed.map_err(|error| go_syntax_error(body, &error))
}

/// Any format's value, and the fields that were in it twice.
///
/// # Errors
/// The format's own.
pub fn track<'de, D: Deserializer<'de>>(reader: D) -> Result<(Value, Vec<String>), D::Error> {
    let mut found = Found::default();
    let value = Tracked { path: String::new(), found: &mut found }.deserialize(reader)?;
    Ok((value, found.duplicates))
}

/// Go's words for the commonest syntax errors.
fn go_syntax_error(body: &[u8], error: &serde_json::Error) -> String {
    if body.iter().all(u8::is_ascii_whitespace) || error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let mut offset = 0;
    for line in body.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1)) {
        offset += line.len();
    }
    let at = (offset + error.column()).saturating_sub(1).min(body.len().saturating_sub(1));
    let found = body.get(at).copied().map_or('?', char::from);
    let text = error.to_string();
    let what = if text.contains("key must be a string") || (text.contains("trailing comma") && found == '}') {
        "looking for beginning of object key string"
    } else if text.contains("expected `:`") {
        "after object key"
    } else if text.contains("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.contains("expected `,` or `]`") {
        "after array element"
    } else if text.contains("trailing characters") && at > 0 {
        "after top-level value"
    } else {
        "looking for beginning of value"
    };
    format!("invalid character '{found}' {what}")
}

/// What is noted of fields on the way.
#[derive(Default)]
struct Found {
    /// Such as `duplicate field "spec.replicas"`.
    duplicates: Vec<String>,
    /// The path of every field, if somebody asks for it.
    every: Option<Vec<String>>,
}

struct Tracked<'a> {
    path: String,
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for Tracked<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tracked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a JSON number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let seed = Tracked { path: format!("{}[{}]", self.path, out.len()), found: &mut *self.found };
            match items.next_element_seed(seed)? {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        const DEPTH_MAX: usize = 4096;
        let mut out = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if path.len() > DEPTH_MAX * 64 {
                return Err(A::Error::custom("exceeded max depth"));
            }
            if let Some(every) = &mut self.found.every {
                every.push(path.clone());
            }
            let value = members.next_value_seed(Tracked { path: path.clone(), found: &mut *self.found })?;
            if out.insert(key, value).is_some() {
                self.found.duplicates.push(format!("duplicate field {path:?}"));
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests;
