//! Sets of fields and their JSON form `FieldsV1` (`Spec:` Kubernetes "Server-Side Apply"; structured-merge-diff, `fieldpath`).
//!
//! ```text
//! f:NAME            a field of a struct or an entry of a map
//! k:{"name":"c"}    an item of a list, by its keys
//! v:"x"             an item of a set
//! i:0               an item by its place
//! .                 the thing itself, beside what is below it
//! ```

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A field or an entry of a map.
    Field(String),
    /// An item of a list, by its keys, sorted by name.
    Key(Vec<(String, Scalar)>),
    /// An item of a set.
    Value(Scalar),
    /// An item by its place.
    Index(i64),
}

/// A value that names an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scalar {
    /// A number.
    Number(Number),
    /// A text.
    String(String),
    /// `true` or `false`.
    Bool(bool),
    /// Anything else, as JSON.
    Other(String),
}

/// A number that compares by value, whole or not.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// Whole.
    Int(i64),
    /// Not whole, or too large.
    Float(f64),
}

impl Number {
    #[expect(clippy::cast_precision_loss, reason = "upstream compares whole and other numbers as floats too")]
    fn as_f64(self) -> f64 {
        match self {
            Self::Int(whole) => whole as f64,
            Self::Float(float) => float,
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => left.cmp(right),
            _ => self.as_f64().total_cmp(&other.as_f64()),
        }
    }
}

impl From<&Value> for Scalar {
    fn from(value: &Value) -> Self {
        match value {
            Value::Number(number) => Self::Number(match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Number::Int(whole),
                (None, float) => Number::Float(float.unwrap_or_default()),
            }),
            Value::String(text) => Self::String(text.clone()),
            Value::Bool(flag) => Self::Bool(*flag),
            other => Self::Other(other.to_string()),
        }
    }
}

impl Scalar {
    /// As Go's JSON encoder writes it.
    fn to_json(&self) -> String {
        match self {
            Self::Number(Number::Int(whole)) => whole.to_string(),
            Self::Number(Number::Float(float)) => Value::from(*float).to_string(),
            Self::String(text) => go_json_text(text),
            Self::Bool(flag) => flag.to_string(),
            Self::Other(json) => json.clone(),
        }
    }

    /// As messages show it.
    fn to_display(&self) -> String {
        match self {
            Self::String(text) => format!("{text:?}"),
            other => other.to_json(),
        }
    }
}

/// A JSON text in which the characters special to HTML are escaped, as Go escapes them.
fn go_json_text(text: &str) -> String {
    let plain = Value::from(text).to_string();
    if !plain.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return plain;
    }
    let mut out = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}

impl Element {
    /// Reads `f:spec` and its like; `None` for sorts that are not known, which are ignored.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((sort, rest)) = text.split_at_checked(2) else { return Err("key must be 2 characters long:".to_owned()) };
        if !sort.ends_with(':') {
            return Err(format!("missing colon: {text}"));
        }
        let json = |rest: &str| serde_json::from_str::<Value>(rest).map_err(|error| error.to_string());
        Ok(Some(match sort {
            "f:" => Self::Field(rest.to_owned()),
            "v:" => Self::Value(Scalar::from(&json(rest)?)),
            "i:" => Self::Index(rest.parse().map_err(|error| format!("{error}"))?),
            "k:" => match json(rest)? {
                Value::Object(map) => Self::Key(map.iter().map(|(name, value)| (name.clone(), Scalar::from(value))).collect()),
                _ => return Err(format!("expected an object: {text}")),
            },
            _ => return Ok(None),
        }))
    }

    /// As a name in `FieldsV1`.
    pub fn to_text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let members: Vec<String> = keys.iter().map(|(name, value)| format!("{}:{}", go_json_text(name), value.to_json())).collect();
                format!("k:{{{}}}", members.join(","))
            }
            Self::Value(value) => format!("v:{}", value.to_json()),
            Self::Index(at) => format!("i:{at}"),
        }
    }

    /// As messages show it: `.spec`, `[name="c"]`, `[="x"]`, `[0]`.
    pub fn to_display(&self) -> String {
        match self {
            Self::Field(name) => format!(".{name}"),
            Self::Key(keys) => {
                let members: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={}", value.to_display())).collect();
                format!("[{}]", members.join(","))
            }
            Self::Value(value) => format!("[={}]", value.to_display()),
            Self::Index(at) => format!("[{at}]"),
        }
    }
}

/// A path as messages show it: `.spec.containers[name="c"].image`.
pub fn path_text(path: &[Element]) -> String {
    path.iter().map(Element::to_display).collect()
}

/// A set of fields. A field may be in it with or without those below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<Element, Node>,
}

/// Never both no member and nothing below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    /// The set of these fields, each given by its names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(path.iter().map(|name| Element::Field((*name).to_owned())));
        }
        set
    }

    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let Value::Object(map) = value else { return Err(format!("expected an object, got {value}")) };
        Ok(Self::parse_node(map)?.below)
    }

    fn parse_node(map: &Map<String, Value>) -> Result<Node, String> {
        let mut node = Node::default();
        for (key, value) in map {
            if key == "." {
                node.member = true;
                continue;
            }
            let Some(element) = Element::parse(key)? else { continue };
            let Value::Object(inner) = value else { return Err(format!("expected an object below {key}")) };
            node.below.nodes.insert(element, Self::parse_node(inner)?);
        }
        // a name with nothing below it is the field itself
        node.member |= node.below.nodes.is_empty();
        Ok(node)
    }

    /// Its JSON form.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (element, node) in &self.nodes {
            let Value::Object(mut below) = node.below.to_value() else { continue };
            if node.member && !below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(element.to_text(), Value::Object(below));
        }
        Value::Object(map)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a field. The empty path, the whole object, is never in a set.
    pub fn insert(&mut self, path: impl IntoIterator<Item = Element>) {
        let mut path = path.into_iter();
        let Some(first) = path.next() else { return };
        let mut node = self.nodes.entry(first).or_default();
        for element in path {
            node = node.below.nodes.entry(element).or_default();
        }
        node.member = true;
    }

    /// Whether the field is in it.
    pub fn contains(&self, path: &[Element]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let mut set = self;
        for element in parents {
            match set.nodes.get(element) {
                Some(node) => set = &node.below,
                None => return false,
            }
        }
        set.nodes.get(last).is_some_and(|node| node.member)
    }

    /// Whether this step is in it, and what is below it.
    pub fn at(&self, element: &Element) -> (bool, Option<&Self>) {
        match self.nodes.get(element) {
            Some(node) => (node.member, Some(&node.below).filter(|below| !below.is_empty())),
            None => (false, None),
        }
    }

    /// Adds what is in `other`.
    pub fn unite(&mut self, other: &Self) {
        for (element, theirs) in &other.nodes {
            match self.nodes.entry(element.clone()) {
                Entry::Vacant(free) => {
                    free.insert(theirs.clone());
                }
                Entry::Occupied(mut mine) => {
                    let mine = mine.get_mut();
                    mine.member |= theirs.member;
                    mine.below.unite(&theirs.below);
                }
            }
        }
    }

    /// Takes away the fields that are in `other`; those below them stay.
    pub fn subtract(&mut self, other: &Self) {
        for (element, theirs) in &other.nodes {
            let Entry::Occupied(mut entry) = self.nodes.entry(element.clone()) else { continue };
            let mine = entry.get_mut();
            mine.member &= !theirs.member;
            mine.below.subtract(&theirs.below);
            if mine.is_empty() {
                entry.remove();
            }
        }
    }

    /// Takes away the fields that are in `other` and everything below them.
    pub fn subtract_trees(&mut self, other: &Self) {
        for (element, theirs) in &other.nodes {
            let Entry::Occupied(mut entry) = self.nodes.entry(element.clone()) else { continue };
            if theirs.member {
                entry.remove();
                continue;
            }
            let mine = entry.get_mut();
            mine.below.subtract_trees(&theirs.below);
            if mine.is_empty() {
                entry.remove();
            }
        }
    }

    /// The fields that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (element, mine) in &self.nodes {
            let Some(theirs) = other.nodes.get(element) else { continue };
            let node = Node { member: mine.member && theirs.member, below: mine.below.intersection(&theirs.below) };
            if !node.is_empty() {
                out.nodes.insert(element.clone(), node);
            }
        }
        out
    }

    /// Whether any field is in both.
    pub fn meets(&self, other: &Self) -> bool {
        let (few, many) = if self.nodes.len() <= other.nodes.len() { (self, other) } else { (other, self) };
        few.nodes.iter().any(|(element, mine)| {
            many.nodes.get(element).is_some_and(|theirs| (mine.member && theirs.member) || mine.below.meets(&theirs.below))
        })
    }

    /// Every step with what is below it, for a walk that rebuilds the set: `keep` says whether the step becomes a member.
    #[must_use]
    pub fn map_members(&self, keep: &mut dyn FnMut(&Element, bool, &Self) -> (bool, Self)) -> Self {
        let mut out = Self::default();
        for (element, node) in &self.nodes {
            let (member, below) = keep(element, node.member, &node.below);
            let node = Node { member, below };
            if !node.is_empty() {
                out.nodes.insert(element.clone(), node);
            }
        }
        out
    }

    /// Every field: on each level first the members, then what is below each.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        fn walk(set: &FieldSet, path: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
            for (element, _) in set.nodes.iter().filter(|(_, node)| node.member) {
                path.push(element.clone());
                out.push(path.clone());
                path.pop();
            }
            for (element, node) in &set.nodes {
                path.push(element.clone());
                walk(&node.below, path, out);
                path.pop();
            }
        }
        let mut out = Vec::new();
        walk(self, &mut Vec::new(), &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::parse(&value).unwrap()
    }

    #[test]
    fn the_json_form_is_upstreams() {
        let value = json!({"f:spec": {
            "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}}}}},
            "f:replicas": {},
        }, "f:metadata": {"f:finalizers": {".": {}, "v:\"a/b\\u003cc\"": {}}}});
        let parsed = set(value.clone());
        // a lone `.` says no more than nothing at all
        let mut canonical = value;
        canonical["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:ports"]["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"] = json!({});
        assert_eq!(parsed.to_value(), canonical);
        let texts: Vec<String> = parsed.paths().iter().map(|path| path_text(path)).collect();
        assert_eq!(
            texts,
            [
                ".metadata.finalizers",
                ".metadata.finalizers[=\"a/b<c\"]",
                ".spec.replicas",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].image",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]",
            ]
        );
    }

    #[test]
    fn unknown_sorts_are_ignored_and_broken_ones_refused() {
        assert!(set(json!({"x:new": {}})).is_empty());
        assert_eq!(set(json!({"f:a": {"x:new": {}}})).to_value(), json!({"f:a": {}}));
        for broken in [json!({"a": {}}), json!({"spec": {}}), json!({"i:x": {}}), json!({"k:1": {}}), json!({"v:{": {}}), json!([])] {
            assert!(FieldSet::parse(&broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let mut ports: Vec<Element> = ["k:{\"port\":443}", "k:{\"port\":80}", "k:{\"port\":80.5}"]
            .iter()
            .map(|text| Element::parse(text).unwrap().unwrap())
            .collect();
        ports.sort();
        assert_eq!(ports.iter().map(Element::to_text).collect::<Vec<_>>(), ["k:{\"port\":80}", "k:{\"port\":80.5}", "k:{\"port\":443}"]);
    }

    #[test]
    fn taking_away_spares_or_takes_what_is_below() {
        let all = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let mut one = all.clone();
        one.subtract(&set(json!({"f:a": {}})));
        assert_eq!(one.to_value(), json!({"f:a": {"f:b": {}}, "f:c": {}}));
        let mut tree = all;
        tree.subtract_trees(&set(json!({"f:a": {}})));
        assert_eq!(tree.to_value(), json!({"f:c": {}}));
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let element = prop_oneof![
            "[a-c]".prop_map(Element::Field),
            (0_i64..3).prop_map(|port| Element::Key(vec![("port".to_owned(), Scalar::Number(Number::Int(port)))])),
            "[<a]".prop_map(|text| Element::Value(Scalar::String(text))),
        ];
        prop::collection::vec(prop::collection::vec(element, 1..4), 0..12).prop_map(|paths| {
            let mut set = FieldSet::default();
            for path in paths {
                set.insert(path);
            }
            set
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(set in any_set()) {
            prop_assert_eq!(FieldSet::parse(&set.to_value()).unwrap(), set);
        }

        #[test]
        fn sets_obey_their_laws(a in any_set(), b in any_set()) {
            let mut union = a.clone();
            union.unite(&b);
            for path in a.paths().iter().chain(&b.paths()) {
                prop_assert!(union.contains(path));
            }
            let mut rest = a.clone();
            rest.subtract(&b);
            let common = a.intersection(&b);
            for path in a.paths() {
                prop_assert_eq!(b.contains(&path), common.contains(&path));
                prop_assert_eq!(b.contains(&path), !rest.contains(&path));
            }
            prop_assert_eq!(a.meets(&b), !common.is_empty());
            rest.unite(&common);
            prop_assert_eq!(rest, a);
        }
    }
}
