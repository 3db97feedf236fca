//! What changed between two states of an object.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Path, Shape, element, entries, items, spell};
use crate::merge::field_set::{Element, FieldSet, Number, Scalar};

/// The fields in which two states differ. No field is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only the new state has them.
    pub added: FieldSet,
    /// Both have them, with other values.
    pub modified: FieldSet,
    /// Only the old state has them.
    pub removed: FieldSet,
}

impl Comparison {
    /// Whether the states are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without these fields and what is below them.
    #[must_use]
    pub fn without(mut self, fields: &FieldSet) -> Self {
        self.added.subtract_trees(fields);
        self.modified.subtract_trees(fields);
        self.removed.subtract_trees(fields);
        self
    }
}

/// The difference between two states.
pub fn compare(shape: Shape<'_>, old: &Value, new: &Value) -> Comparison {
    let mut out = Comparison::default();
    walk(shape, None, Some(old), Some(new), &mut out);
    out
}

/// Whether two values are equal; numbers compare by value.
pub fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.is_f64() != b.is_f64() && a.as_f64() == b.as_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => left == right,
    }
}

fn walk(shape: Shape<'_>, path: Option<&Path<'_>>, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) {
    match shape.deduced([old, new]) {
        Shape::Struct(_) | Shape::Map(_) | Shape::Deduced => {
            let (before, after) = (entries(old), entries(new));
            if before.is_none() && after.is_none() {
                return leaf(path, old, new, out);
            }
            for (name, value) in before.into_iter().flatten() {
                let path = Path::field(path, name);
                walk(shape.entry(name), Some(&path), Some(value), after.and_then(|after| after.get(name)), out);
            }
            for (name, value) in after.into_iter().flatten() {
                if before.is_none_or(|before| !before.contains_key(name)) {
                    walk(shape.entry(name), Some(&Path::field(path, name)), None, Some(value), out);
                }
            }
        }
        Shape::Set | Shape::Items(..) => {
            let (before, after) = (items(old), items(new));
            if before.is_empty() && after.is_empty() {
                return leaf(path, old, new, out);
            }
            // most lists did not change
            if before != after {
                lists(shape, path, before, after, out);
            }
        }
        Shape::Leaf => return leaf(path, old, new, out),
    }
    if old.is_none() {
        out.added.insert(spell(path));
    } else if new.is_none() {
        out.removed.insert(spell(path));
    }
}

fn leaf(path: Option<&Path<'_>>, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) {
    match (old, new) {
        (None, _) => out.added.insert(spell(path)),
        (_, None) => out.removed.insert(spell(path)),
        (Some(old), Some(new)) if !same(old, new) => out.modified.insert(spell(path)),
        _ => {}
    }
}

fn lists(shape: Shape<'_>, path: Option<&Path<'_>>, old: &[Value], new: &[Value], out: &mut Comparison) {
    let mut found: BTreeMap<Element, [Vec<&Value>; 2]> = BTreeMap::new();
    for (side, list) in [old, new].into_iter().enumerate() {
        for (at, item) in list.iter().enumerate() {
            // an item without a name is known by its place
            let name =
                element(shape, item).unwrap_or_else(|_| Element::Value(Scalar::Number(Number::Int(i64::try_from(at).unwrap_or(i64::MAX)))));
            found.entry(name).or_default()[side].push(item);
        }
    }
    for (name, [old, new]) in &found {
        let below = shape.below(name);
        let here = Path::item(path, name);
        match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => walk(below, Some(&here), old.first().copied(), new.first().copied(), out),
            // items of one name are one leaf
            ([_, _, ..], [_, _, ..]) => {
                if old.len() != new.len() || old.iter().zip(new).any(|(old, new)| !same(old, new)) {
                    out.modified.insert(spell(Some(&here)));
                }
            }
            ([_, _, ..], rest) => {
                if let [single] = rest {
                    walk(below, Some(&here), None, Some(single), out);
                }
                out.removed.insert(spell(Some(&here)));
            }
            (rest, _) => {
                if let [single] = rest {
                    walk(below, Some(&here), Some(single), None, out);
                }
                out.added.insert(spell(Some(&here)));
            }
        }
    }
}
