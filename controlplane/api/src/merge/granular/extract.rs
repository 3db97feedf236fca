//! The fields that an object mentions.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Path, Shape, element, entries, items, spell};
use crate::merge::field_set::{Element, FieldSet};

/// Every leaf and every item of a value.
pub fn fields_of(shape: Shape<'_>, value: &Value) -> FieldSet {
    let mut out = FieldSet::default();
    walk(shape, None, value, &mut out);
    out
}

fn walk(shape: Shape<'_>, path: Option<&Path<'_>>, value: &Value, out: &mut FieldSet) {
    let shape = shape.deduced([Some(value), None]);
    match shape {
        Shape::Leaf => out.insert(spell(path)),
        Shape::Struct(_) | Shape::Map(_) | Shape::Deduced => {
            for (name, value) in entries(Some(value)).into_iter().flatten() {
                let path = Path::field(path, name);
                walk(shape.entry(name), Some(&path), value, out);
                if value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty) || !shape.has_field(name) {
                    out.insert(path.elements());
                }
            }
        }
        Shape::Set | Shape::Items(..) => {
            let mut found: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
            for item in items(Some(value)) {
                if let Ok(name) = element(shape, item) {
                    found.entry(name).or_default().push(item);
                }
            }
            for (name, same) in &found {
                let path = Path::item(path, name);
                // items of one name are one leaf
                if let [only] = same.as_slice() {
                    walk(shape.below(name), Some(&path), only, out);
                }
                out.insert(path.elements());
            }
        }
    }
}

/// The set with every field that the schema lists as a member, where something below it is in the set. Entries of maps stay as they are.
pub fn with_named_fields(shape: Shape<'_>, set: &FieldSet) -> FieldSet {
    set.map_members(&mut |element, member, below| {
        let named = matches!(element, Element::Field(name) if shape.has_field(name));
        (member || (named && !below.is_empty()), with_named_fields(shape.below(element), below))
    })
}
