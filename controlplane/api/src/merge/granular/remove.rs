//! A value without some of its parts.

use serde_json::{Map, Value};

use super::{Shape, element};
use crate::merge::field_set::{Element, FieldSet};

/// The value without these fields and items. What loses its last part becomes null.
pub fn remove(shape: Shape<'_>, value: &Value, gone: &FieldSet) -> Value {
    match (shape.deduced([Some(value), None]), value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Deduced, Value::Object(map)) => {
            let mut kept = Map::new();
            for (name, value) in map {
                match gone.at(&Element::Field(name.clone())) {
                    (true, _) => {}
                    (false, Some(below)) => {
                        kept.insert(name.clone(), remove(shape.entry(name), value, below));
                    }
                    (false, None) => {
                        kept.insert(name.clone(), value.clone());
                    }
                }
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (Shape::Set | Shape::Items(..), Value::Array(list)) => {
            let mut kept = Vec::with_capacity(list.len());
            for item in list {
                let Ok(name) = element(shape, item) else {
                    kept.push(item.clone());
                    continue;
                };
                match gone.at(&name) {
                    (true, _) => {}
                    (false, Some(below)) => kept.push(remove(shape.below(&name), item, below)),
                    (false, None) => kept.push(item.clone()),
                }
            }
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        // parts of what has none by now: a whole that another schema saw in parts
        (Shape::Leaf, Value::Object(_) | Value::Array(_)) => Value::Null,
        (_, other) => other.clone(),
    }
}
