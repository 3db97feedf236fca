//! What JSON of a kind may hold: fields, types, how lists merge, what a zero value becomes.
//!
//! Built-in kinds are read from `facts/types.txt` when first asked for, and shared from then on.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use serde_json::Value;

use crate::kind::Kind;

const FACTS: &str = include_str!("../facts/types.txt");

/// The fields of an object.
#[derive(Debug)]
pub struct Schema {
    /// Such as `core.v1.PodSpec`; empty for a schema without a name.
    pub name: Cow<'static, str>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Server-side apply owns it as a whole.
    pub atomic: bool,
    /// Fields that are not listed are kept as they are.
    pub open: bool,
    /// The structs whose fields stand among these: name of the struct, protobuf number.
    pub inlined: Vec<(Cow<'static, str>, u32)>,
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Its JSON name.
    pub name: Cow<'static, str>,
    /// What it holds.
    pub kind: Type,
    /// A Go pointer: zero values are kept when they were given.
    pub pointer: bool,
    /// A zero value is left out.
    pub omit_empty: bool,
    /// A zero struct is left out.
    pub omit_zero: bool,
    /// OpenAPI calls it required.
    pub required: bool,
    /// Strategic merge patch merges the list's items (else the list is replaced).
    pub patch_merge: bool,
    /// Strategic merge patch takes `$retainKeys`.
    pub patch_retain_keys: bool,
    /// The member that names an item in a strategic merge patch.
    pub merge_key: Option<Cow<'static, str>>,
    /// How server-side apply merges.
    pub list: ListType,
    /// Whether [`Field::list`] is stated by the type, rather than inferred.
    pub list_stated: bool,
    /// The struct or map under this field is owned as a whole.
    pub atomic: bool,
    /// A constant that stands for a missing value.
    pub default: Option<Value>,
    /// Protobuf field number, 0 if none.
    pub number: u32,
    /// Which of [`Schema::inlined`] it comes from.
    pub inlined: Option<usize>,
}

/// How a list merges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Owned as a whole.
    Atomic,
    /// Each value is an item.
    Set,
    /// Items are named by these members.
    Map(Vec<Cow<'static, str>>),
}

/// What a value is.
#[derive(Debug)]
pub enum Type {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A number.
    Float64,
    /// Base64 text.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// An integer or text.
    IntOrString,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Such as `1m30s`.
    Duration,
    /// Any JSON.
    Any,
    /// A list.
    List(Box<Type>),
    /// An object with arbitrary keys.
    Map(Box<Type>),
    /// An object with known fields.
    Struct(Reference),
    /// A named type of a scalar, list or map.
    Named(Arc<NamedType>),
}

/// A name for another type.
#[derive(Debug)]
pub struct NamedType {
    /// Such as `core.v1.Protocol`.
    pub name: &'static str,
    /// What it is.
    pub base: Type,
    /// Its values, if it is an enumeration.
    pub values: Vec<&'static str>,
}

/// A schema elsewhere, looked up when first used.
#[derive(Debug)]
pub struct Reference {
    name: Cow<'static, str>,
    cell: OnceLock<Arc<Schema>>,
}

impl Reference {
    /// A reference to a schema that has no name.
    pub fn to(schema: Arc<Schema>) -> Self {
        let cell = OnceLock::new();
        let name = schema.name.clone();
        cell.get_or_init(|| schema);
        Self { name, cell }
    }

    /// The name in the table of facts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema.
    pub fn schema(&self) -> &Arc<Schema> {
        self.cell.get_or_init(|| named(&self.name).unwrap_or_else(|| Arc::new(Schema::open())))
    }
}

impl Type {
    /// Without names.
    pub fn base(&self) -> &Self {
        match self {
            Self::Named(named) => named.base.base(),
            other => other,
        }
    }

    /// The schema of an object with known fields.
    pub fn schema(&self) -> Option<&Arc<Schema>> {
        match self.base() {
            Self::Struct(reference) => Some(reference.schema()),
            _ => None,
        }
    }

    /// The type as Go's decoder prints it.
    pub fn go_name(&self) -> String {
        match self {
            Self::String => "string".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Int32 => "int32".to_owned(),
            Self::Int64 => "int64".to_owned(),
            Self::Float64 => "float64".to_owned(),
            Self::Bytes => "[]uint8".to_owned(),
            Self::Quantity => "resource.Quantity".to_owned(),
            Self::IntOrString => "intstr.IntOrString".to_owned(),
            Self::Time => "v1.Time".to_owned(),
            Self::MicroTime => "v1.MicroTime".to_owned(),
            Self::Duration => "v1.Duration".to_owned(),
            Self::Any => "interface {}".to_owned(),
            Self::List(item) => format!("[]{}", item.go_name()),
            Self::Map(value) => format!("map[string]{}", value.go_name()),
            Self::Struct(reference) => go_type(&reference.name).to_owned(),
            Self::Named(named) => go_type(named.name).to_owned(),
        }
    }
}

/// `core.v1.PodSpec` becomes `v1.PodSpec`.
fn go_type(name: &str) -> &str {
    match name.rmatch_indices('.').nth(1) {
        Some((at, _)) => &name[at + 1..],
        None => name,
    }
}

impl Schema {
    /// Anything goes.
    pub fn open() -> Self {
        Self { name: Cow::Borrowed(""), fields: Vec::new(), atomic: false, open: true, inlined: Vec::new() }
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok().map(|at| &self.fields[at])
    }

    /// The type's own name, as in `Go struct field PodSpec.`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    /// The name in OpenAPI documents: `io.k8s.api.core.v1.PodSpec`.
    pub fn openapi_name(&self) -> String {
        openapi_name(&self.name)
    }
}

/// The name in OpenAPI documents of a name in the table of facts.
pub fn openapi_name(name: &str) -> String {
    match name.split('.').next() {
        Some("meta") => format!("io.k8s.apimachinery.pkg.apis.{name}"),
        Some("resource") if name == "resource.Quantity" => format!("io.k8s.apimachinery.pkg.api.{name}"),
        Some("intstr") => format!("io.k8s.apimachinery.pkg.util.{name}"),
        Some("runtime") => format!("io.k8s.apimachinery.pkg.{name}"),
        _ => format!("io.k8s.api.{name}"),
    }
}

/// The schema of a row's objects. A kind without facts gets an open one, so that nothing is lost.
pub fn of(kind: &Kind) -> Arc<Schema> {
    named(&table_name(kind)).unwrap_or_else(|| {
        static UNKNOWN: OnceLock<Arc<Schema>> = OnceLock::new();
        Arc::clone(UNKNOWN.get_or_init(|| Arc::new(Schema { open: true, ..object_frame() })))
    })
}

/// The name of a row's type in the table of facts.
pub fn table_name(kind: &Kind) -> String {
    let group = match kind.group.as_ref() {
        "" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        group => group.split('.').next().unwrap_or_default(),
    };
    format!("{group}.{}.{}", kind.version, kind.kind)
}

/// `apiVersion`, `kind` and `metadata` of an object whose kind is unknown.
fn object_frame() -> Schema {
    Schema {
        fields: lines_to_fields(["apiVersion string o", "kind string o", "metadata meta.v1.ObjectMeta o"].into_iter()).0,
        ..Schema::open()
    }
}

/// The schema of a type by its name in the table of facts, such as `core.v1.Binding` or `meta.v1.DeleteOptions`.
pub fn named(name: &str) -> Option<Arc<Schema>> {
    static KNOWN: OnceLock<RwLock<HashMap<&'static str, Arc<Schema>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(RwLock::default);
    if let Some(schema) = known.read().get(name) {
        return Some(Arc::clone(schema));
    }
    let (name, block) = index().get_key_value(name)?;
    let (mut fields, inlined) = lines_to_fields(block.lines().skip(1));
    fields.sort_by(|left, right| left.name.cmp(&right.name));
    let head = block.lines().next().unwrap_or_default();
    if head.contains(" =") {
        return None;
    }
    let schema = Schema { name: Cow::Borrowed(name), fields, atomic: head.ends_with(" a"), open: false, inlined };
    Some(Arc::clone(known.write().entry(name).or_insert_with(|| Arc::new(schema))))
}

/// The names of all types in the table.
pub fn names() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<&'static str> = index().keys().copied().collect();
    names.sort_unstable();
    names.into_iter()
}

fn index() -> &'static HashMap<&'static str, &'static str> {
    static INDEX: OnceLock<HashMap<&'static str, &'static str>> = OnceLock::new();
    INDEX.get_or_init(|| {
        FACTS
            .split('@')
            .filter(|block| !block.is_empty())
            .map(|block| {
                let name = block.split([' ', '\n']).next().unwrap_or_default();
                (name, block.trim_end())
            })
            .collect()
    })
}

fn lines_to_fields(lines: impl Iterator<Item = &'static str>) -> (Vec<Field>, Vec<(Cow<'static, str>, u32)>) {
    let mut fields = Vec::new();
    let mut inlined = Vec::new();
    for line in lines {
        let field = parse_field(line);
        if field.name != "~" {
            fields.push(field);
            continue;
        }
        let Type::Struct(reference) = &field.kind else { continue };
        inlined.push((reference.name.clone(), field.number));
        let at = inlined.len() - 1;
        // the block is read again, rather than shared: fields are plain values and inlined structs are small
        if let Some(block) = index().get(reference.name()) {
            let (mut inner, _) = lines_to_fields(block.lines().skip(1));
            for field in &mut inner {
                field.inlined = Some(at);
            }
            fields.append(&mut inner);
        } else if reference.name() == "meta.v1.TypeMeta" {
            for line in ["apiVersion string o", "kind string o"] {
                fields.push(Field { inlined: Some(at), ..parse_field(line) });
            }
        }
    }
    fields.sort_by(|left, right| left.name.cmp(&right.name));
    (fields, inlined)
}

fn parse_field(line: &'static str) -> Field {
    let (name, rest) = line.split_once(' ').unwrap_or((line, "any"));
    let (expression, mut attributes) = rest.split_once(' ').unwrap_or((rest, ""));
    let pointer = expression.starts_with('*');
    let mut field = Field {
        name: Cow::Borrowed(name),
        kind: parse_type(expression.trim_start_matches('*')),
        pointer,
        omit_empty: false,
        omit_zero: false,
        required: false,
        patch_merge: false,
        patch_retain_keys: false,
        merge_key: None,
        list: ListType::Atomic,
        list_stated: false,
        atomic: false,
        default: None,
        number: 0,
        inlined: None,
    };
    if let Some(at) = attributes.find("d:") {
        field.default = serde_json::from_str(&attributes[at + 2..]).ok();
        attributes = attributes[..at].trim_end();
    }
    for attribute in attributes.split(' ') {
        match attribute.split_once(':') {
            Some(("p", strategy)) => {
                field.patch_merge = strategy.contains("merge");
                field.patch_retain_keys = strategy.contains("retainKeys");
            }
            Some(("k", key)) => field.merge_key = Some(Cow::Borrowed(key)),
            Some(("l", list)) => {
                field.list_stated = true;
                field.list = match list.split_once(':') {
                    Some((_, keys)) => ListType::Map(keys.split(',').map(Cow::Borrowed).collect()),
                    None if list == "set" => ListType::Set,
                    None => ListType::Atomic,
                };
            }
            _ => match attribute {
                "o" => field.omit_empty = true,
                "z" => field.omit_zero = true,
                "r" => field.required = true,
                "a" => field.atomic = true,
                other => field.number = other.strip_prefix('#').and_then(|n| n.parse().ok()).unwrap_or(field.number),
            },
        }
    }
    // a list without a stated type merges as its patch strategy says
    if !field.list_stated && field.patch_merge && matches!(field.kind.base(), Type::List(_)) {
        field.list = field.merge_key.clone().map_or(ListType::Set, |key| ListType::Map(vec![key]));
    }
    field
}

fn parse_type(expression: &'static str) -> Type {
    if let Some(item) = expression.strip_prefix("[]") {
        return Type::List(Box::new(parse_type(item.trim_start_matches('*'))));
    }
    if let Some(rest) = expression.strip_prefix("map[") {
        let value = rest.split_once(']').map_or("any", |(_, value)| value);
        return Type::Map(Box::new(parse_type(value.trim_start_matches('*'))));
    }
    match expression {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" | "uint8" | "byte" => Type::Int32,
        "int64" | "int" => Type::Int64,
        "float64" => Type::Float64,
        "bytes" => Type::Bytes,
        "resource.Quantity" => Type::Quantity,
        "intstr.IntOrString" => Type::IntOrString,
        "meta.v1.Time" => Type::Time,
        "meta.v1.MicroTime" => Type::MicroTime,
        "meta.v1.Duration" => Type::Duration,
        "any" | "runtime.Object" | "runtime.Unknown" => Type::Any,
        "meta.v1.FieldsV1" => any_of_name("meta.v1.FieldsV1"),
        "runtime.RawExtension" => any_of_name("runtime.RawExtension"),
        name => match index().get_key_value(name) {
            Some((name, block)) if block.lines().next().unwrap_or_default().contains(" =") => Type::Named(named_type(name, block)),
            _ => Type::Struct(Reference { name: Cow::Borrowed(name), cell: OnceLock::new() }),
        },
    }
}

/// Any JSON that OpenAPI knows by a name.
fn any_of_name(name: &'static str) -> Type {
    Type::Named(Arc::new(NamedType { name, base: Type::Any, values: Vec::new() }))
}

fn named_type(name: &'static str, block: &'static str) -> Arc<NamedType> {
    static KNOWN: OnceLock<RwLock<HashMap<&'static str, Arc<NamedType>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(RwLock::default);
    if let Some(found) = known.read().get(name) {
        return Arc::clone(found);
    }
    let definition = block.split_once(" =").map_or("any", |(_, definition)| definition);
    let mut words = definition.split_whitespace();
    let base = parse_type(words.next().unwrap_or("any"));
    let values = if words.next() == Some("e") { words.collect() } else { Vec::new() };
    Arc::clone(known.write().entry(name).or_insert_with(|| Arc::new(NamedType { name, base, values })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Registry;

    #[test]
    fn every_row_has_facts_and_every_reference_resolves() {
        for row in Registry::with_builtins().all() {
            let schema = named(&table_name(&row)).unwrap_or_else(|| panic!("no facts of {}", table_name(&row)));
            assert!(schema.field("metadata").is_some() && schema.field("apiVersion").is_some(), "{}", schema.name);
        }
        // whatever a row, a list or a request leads to is in the table
        let mut open: Vec<String> = Registry::with_builtins().all().iter().map(|row| table_name(row)).collect();
        open.extend(
            ["meta.v1.DeleteOptions", "meta.v1.Status", "core.v1.PodList", "policy.v1.Eviction", "core.v1.Binding"].map(str::to_owned),
        );
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let schema = named(&name).unwrap_or_else(|| panic!("no facts of {name}"));
            assert!(schema.fields.is_sorted_by(|a, b| a.name < b.name), "{name} has sorted, distinct fields");
            for field in &schema.fields {
                let mut kind = field.kind.base();
                while let Type::List(inner) | Type::Map(inner) = kind {
                    kind = inner.base();
                }
                if let Type::Struct(reference) = kind {
                    open.push(reference.name().to_owned());
                }
            }
        }
        assert!(seen.len() > 150, "the walk reached {} types only", seen.len());
    }

    #[test]
    fn facts_of_a_pod() {
        let pod = named("core.v1.PodSpec").unwrap();
        let containers = pod.field("containers").unwrap();
        assert!(containers.patch_merge && !containers.omit_empty);
        assert_eq!(containers.merge_key.as_deref(), Some("name"));
        assert_eq!(containers.list, ListType::Map(vec!["name".into()]));
        assert_eq!(containers.kind.go_name(), "[]v1.Container");
        let Type::List(item) = &containers.kind else { panic!("a list") };
        let ports = item.schema().unwrap().field("ports").unwrap();
        assert_eq!(ports.list, ListType::Map(vec!["containerPort".into(), "protocol".into()]));
        let Type::List(port) = &ports.kind else { panic!("a list") };
        assert_eq!(port.schema().unwrap().field("protocol").unwrap().default, Some(Value::from("TCP")));
        assert!(named("core.v1.Volume").unwrap().field("configMap").is_some(), "inlined fields are found");
        assert_eq!(openapi_name("meta.v1.ObjectMeta"), "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    }
}
