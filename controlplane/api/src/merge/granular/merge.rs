//! A configuration laid over an object.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value};

use super::{Shape, element, entries, items};
use crate::merge::field_set::Element;

/// `live` with what `config` states. Nothing is taken away. Items keep the order of `live`, except those that `config` orders.
pub fn merge(shape: Shape<'_>, live: &Value, config: &Value) -> Value {
    walk(shape, Some(live), Some(config)).unwrap_or(Value::Null)
}

fn walk(shape: Shape<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let whole = || config.or(live).cloned();
    match shape.deduced([live, config]) {
        Shape::Leaf => whole(),
        Shape::Struct(_) | Shape::Map(_) | Shape::Deduced => {
            let (theirs, ours) = (entries(live), entries(config));
            if theirs.is_none() && ours.is_none() {
                return whole();
            }
            let mut out = Map::new();
            for (name, value) in theirs.into_iter().flatten() {
                if let Some(merged) = walk(shape.entry(name), Some(value), ours.and_then(|ours| ours.get(name))) {
                    out.insert(name.clone(), merged);
                }
            }
            for (name, value) in ours.into_iter().flatten() {
                if theirs.is_none_or(|theirs| !theirs.contains_key(name))
                    && let Some(merged) = walk(shape.entry(name), None, Some(value))
                {
                    out.insert(name.clone(), merged);
                }
            }
            if out.is_empty() { None } else { Some(Value::Object(out)) }
        }
        Shape::Set | Shape::Items(..) => {
            let (theirs, ours) = (items(live), items(config));
            if theirs.is_empty() && ours.is_empty() {
                return whole();
            }
            let merged = lists(shape, theirs, ours);
            if merged.is_empty() { None } else { Some(Value::Array(merged)) }
        }
    }
}

/// Both lists zipped: an item only `live` has stays before the next one that both have; common items come in `config`'s order.
fn lists(shape: Shape<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let name = |item: &Value| element(shape, item).ok();
    let theirs: Vec<(Element, &Value)> = live.iter().filter_map(|item| Some((name(item)?, item))).collect();
    let ours: Vec<(Element, &Value)> = config.iter().filter_map(|item| Some((name(item)?, item))).collect();
    // items of one name in the live list cannot be merged: the configured one takes their place
    let mut by_name: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (name, item) in &theirs {
        by_name.entry(name).and_modify(|found| *found = None).or_insert(Some(item));
    }
    let configured: BTreeMap<&Element, &Value> = ours.iter().map(|(name, item)| (name, *item)).collect();
    let mut common: VecDeque<&Element> = ours.iter().map(|(name, _)| name).filter(|name| by_name.contains_key(name)).collect();
    let mut next = common.pop_front();
    let mut done: Vec<&Element> = Vec::new();
    let mut out = Vec::with_capacity(theirs.len().max(ours.len()));
    let mut put = |name: &Element, live: Option<&Value>, config: Option<&Value>| {
        out.extend(walk(shape.below(name), live, config));
    };
    let (mut left, mut right) = (0, 0);
    while left < theirs.len() || right < ours.len() {
        if let (Some((mine, _)), Some((wanted, item))) = (theirs.get(left), ours.get(right)) {
            if mine == wanted {
                put(mine, by_name.get(mine).copied().flatten(), Some(item));
                done.push(mine);
                left += 1;
                right += 1;
                next = common.pop_front();
                continue;
            }
            if configured.contains_key(mine) && next.is_some_and(|next| next != mine) {
                // common, but another common one comes first
                left += 1;
                continue;
            }
        }
        if let Some((mine, item)) = theirs.get(left) {
            if !configured.contains_key(mine) {
                put(mine, Some(item), None);
                left += 1;
                continue;
            }
            if done.contains(&mine) {
                left += 1;
            }
        }
        if let Some((wanted, item)) = ours.get(right) {
            put(wanted, by_name.get(wanted).copied().flatten(), Some(item));
            done.push(wanted);
            right += 1;
            if next == Some(wanted) {
                next = common.pop_front();
            }
        }
    }
    out
}
