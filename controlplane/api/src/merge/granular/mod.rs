//! How values merge field by field (`Spec:` Kubernetes "Server-Side Apply", merge strategy; structured-merge-diff, `typed`).
//!
//! [`Shape`] says what is owned as a whole and what part by part; the walks follow it: [`compare()`], [`merge()`], [`fields_of`],
//! [`remove()`], [`validate()`].

mod compare;
mod extract;
mod merge;
mod remove;
mod validate;

use std::borrow::Cow;

use serde_json::{Map, Value};

pub use self::compare::{Comparison, compare, same};
pub use self::extract::{fields_of, with_named_fields};
pub use self::merge::merge;
pub use self::remove::remove;
pub use self::validate::validate;
use super::field_set::{Element, Scalar};
use crate::schema::{Field, ListType, Schema, Type};

/// What a value's parts are.
#[derive(Clone, Copy)]
pub enum Shape<'a> {
    /// It has none: a scalar, or something that is owned as a whole.
    Leaf,
    /// Known fields.
    Struct(&'a Schema),
    /// Entries by name.
    Map(&'a Type),
    /// Items that are their own names.
    Set,
    /// Items named by members.
    Items(&'a Type, &'a [Cow<'static, str>]),
    /// Nothing is known: objects have entries, everything else is a leaf.
    Deduced,
}

impl<'a> Shape<'a> {
    /// Of an object.
    pub fn of(schema: &'a Schema) -> Self {
        if schema.atomic { Self::Leaf } else { Self::Struct(schema) }
    }

    /// Of a field.
    pub fn of_field(field: &'a Field) -> Self {
        if field.atomic { Self::Leaf } else { Self::of_type(&field.kind, &field.list) }
    }

    fn of_type(kind: &'a Type, list: &'a ListType) -> Self {
        match kind.base() {
            Type::Struct(reference) => Self::of(reference.schema()),
            Type::Map(value) => Self::Map(value),
            Type::List(item) => match list {
                ListType::Atomic => Self::Leaf,
                ListType::Set => Self::Set,
                ListType::Map(keys) => Self::Items(item, keys),
            },
            _ => Self::Leaf,
        }
    }

    /// Of an item of a list or an entry of a map.
    fn of_item(kind: &'a Type) -> Self {
        Self::of_type(kind, &ListType::Atomic)
    }

    /// Of an entry or a field of this name.
    fn entry(self, name: &str) -> Self {
        match self {
            Self::Struct(schema) => schema.field(name).map_or(Self::Deduced, Self::of_field),
            Self::Map(value) => Self::of_item(value),
            Self::Deduced => Self::Deduced,
            Self::Leaf | Self::Set | Self::Items(..) => Self::Leaf,
        }
    }

    /// Whether the schema lists a field of this name here.
    fn has_field(self, name: &str) -> bool {
        matches!(self, Self::Struct(schema) if schema.field(name).is_some())
    }

    /// Of what is below an element of a path.
    fn below(self, element: &Element) -> Self {
        match (self, element) {
            (_, Element::Field(name)) => self.entry(name),
            (Self::Items(item, _), Element::Key(_)) => Self::of_item(item),
            _ => Self::Leaf,
        }
    }

    /// The shape of these values: what has no entries is a leaf.
    fn deduced(self, values: [Option<&Value>; 2]) -> Self {
        let objects = values.into_iter().flatten().all(|value| value.is_object() || value.is_null());
        if matches!(self, Self::Deduced) && !objects { Self::Leaf } else { self }
    }
}

/// How an item of a list is called.
///
/// # Errors
/// Upstream's text when it lacks its keys.
fn element(shape: Shape<'_>, item: &Value) -> Result<Element, String> {
    let Shape::Items(kind, keys) = shape else {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
            scalar => Ok(Element::Value(Scalar::from(scalar))),
        };
    };
    let map = match item {
        Value::Object(map) => map,
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let schema = kind.schema();
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let default = || schema.and_then(|schema| schema.field(key)).and_then(|field| field.default.as_ref());
        if let Some(value) = map.get(key.as_ref()).or_else(default) {
            found.push((key.to_string(), Scalar::from(value)));
        }
    }
    if found.is_empty() {
        let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            keys.join(" ")
        ));
    }
    found.sort_by(|left, right| left.0.cmp(&right.0));
    Ok(Element::Key(found))
}

/// A path while walking: it is spelt out only where something is found.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Field(&'a str),
    Item(&'a Element),
}

impl<'a> Path<'a> {
    fn field(parent: Option<&'a Self>, name: &'a str) -> Self {
        Self { parent, step: Step::Field(name) }
    }

    fn item(parent: Option<&'a Self>, element: &'a Element) -> Self {
        Self { parent, step: Step::Item(element) }
    }

    fn elements(&self) -> Vec<Element> {
        let mut out = self.parent.map(Path::elements).unwrap_or_default();
        out.push(match self.step {
            Step::Field(name) => Element::Field(name.to_owned()),
            Step::Item(element) => element.clone(),
        });
        out
    }
}

fn spell(path: Option<&Path<'_>>) -> Vec<Element> {
    path.map(Path::elements).unwrap_or_default()
}

fn entries(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|map| !map.is_empty())
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests;
