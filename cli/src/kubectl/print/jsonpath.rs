//! JSONPath templates: `{range .items[*]}{.metadata.name}{"\n"}{end}`.
//!
//! `Spec:` Kubernetes "JSONPath Support": fields, unions, slices, recursive descent, filters, `range`; quoted texts between braces.

use std::cmp::Ordering;

use anyhow::{anyhow, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Debug)]
pub struct JsonPath {
    nodes: Vec<Node>,
    allow_missing: bool,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug)]
enum Step {
    Root,
    Field(String),
    Wildcard,
    Recursive,
    Slice { from: Option<i64>, to: Option<i64>, by: i64 },
    Index(i64),
    Union(Vec<Vec<Step>>),
    Filter { left: Operand, operator: String, right: Option<Operand> },
}

#[derive(Debug)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

impl JsonPath {
    /// Reads a template. What is missing in an object is an error when the template is followed.
    ///
    /// # Errors
    /// Where the template is wrong.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut parser = Parser { letters: text.chars().collect(), at: 0 };
        let (nodes, ended) = parser.nodes()?;
        if ended {
            bail!("not in range, nothing to end");
        }
        Ok(Self { nodes, allow_missing: false })
    }

    /// Reads a template. What is missing in an object is nothing.
    ///
    /// # Errors
    /// Where the template is wrong.
    pub fn parse_allowing_missing(text: &str) -> anyhow::Result<Self> {
        Ok(Self { allow_missing: true, ..Self::parse(text)? })
    }

    /// What the template makes of an object.
    ///
    /// # Errors
    /// When a path cannot be followed.
    pub fn text(&self, object: &Value) -> anyhow::Result<String> {
        let mut out = String::new();
        for group in self.groups(object)? {
            let texts: Vec<String> = group.iter().map(json_text).collect();
            out.push_str(&texts.join(" "));
        }
        Ok(out)
    }

    /// Everything that the template's paths lead to.
    ///
    /// # Errors
    /// When a path cannot be followed.
    pub fn values(&self, object: &Value) -> anyhow::Result<Vec<Value>> {
        Ok(self.groups(object)?.into_iter().flatten().collect())
    }

    fn groups(&self, object: &Value) -> anyhow::Result<Vec<Vec<Value>>> {
        let mut out = Vec::new();
        let walk = Walk { root: object, allow_missing: self.allow_missing };
        walk.nodes(&self.nodes, object, &mut out)?;
        Ok(out)
    }
}

struct Walk<'a> {
    root: &'a Value,
    allow_missing: bool,
}

impl<'a> Walk<'a> {
    fn nodes(&self, nodes: &[Node], current: &'a Value, out: &mut Vec<Vec<Value>>) -> anyhow::Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push(vec![Value::String(text.clone())]),
                Node::Path(steps) => out.push(self.steps(steps, vec![current])?.into_iter().cloned().collect()),
                Node::Range(steps, body) => {
                    for item in self.steps(steps, vec![current])? {
                        self.nodes(body, item, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn steps(&self, steps: &[Step], mut current: Vec<&'a Value>) -> anyhow::Result<Vec<&'a Value>> {
        let mut after_recursion = false;
        for step in steps {
            current = self.step(step, current, after_recursion)?;
            after_recursion = matches!(step, Step::Recursive);
        }
        Ok(current)
    }

    fn step(&self, step: &Step, current: Vec<&'a Value>, after_recursion: bool) -> anyhow::Result<Vec<&'a Value>> {
        let mut next = Vec::new();
        match step {
            Step::Root => next.push(self.root),
            Step::Field(name) => {
                for value in current {
                    match value.get(name) {
                        Some(found) => next.push(found),
                        None if after_recursion || self.allow_missing || value.is_null() => {}
                        None => bail!("{name} is not found"),
                    }
                }
            }
            Step::Wildcard => {
                for value in current {
                    match value {
                        Value::Array(list) => next.extend(list),
                        Value::Object(map) => next.extend(map.values()),
                        _ => {}
                    }
                }
            }
            Step::Recursive => {
                for value in current {
                    descend(value, &mut next);
                }
            }
            Step::Index(index) => {
                for value in current {
                    let Value::Array(list) = value else {
                        if value.is_null() || after_recursion {
                            continue;
                        }
                        bail!("{} is not array or slice", go_text(value));
                    };
                    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                    let at = if *index < 0 { index + length } else { *index };
                    match usize::try_from(at).ok().and_then(|at| list.get(at)) {
                        Some(found) => next.push(found),
                        None if list.is_empty() && self.allow_missing => {}
                        None => bail!("array index out of bounds: index {index}, length {length}"),
                    }
                }
            }
            Step::Slice { from, to, by } => {
                for value in current {
                    let Value::Array(list) = value else { continue };
                    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                    let place = |at: i64| (if at < 0 { at + length } else { at }).clamp(0, length);
                    let (start, end) = (place(from.unwrap_or(0)), place(to.unwrap_or(length)));
                    let mut at = start;
                    while at < end {
                        next.extend(usize::try_from(at).ok().and_then(|at| list.get(at)));
                        at += (*by).max(1);
                    }
                }
            }
            Step::Union(paths) => {
                for path in paths {
                    next.extend(self.steps(path, current.clone())?);
                }
            }
            Step::Filter { left, operator, right } => {
                for value in current {
                    let items: Vec<&'a Value> = match value {
                        Value::Array(list) => list.iter().collect(),
                        Value::Object(map) => map.values().collect(),
                        _ => continue,
                    };
                    for item in items {
                        if self.keeps(item, left, operator, right.as_ref())? {
                            next.push(item);
                        }
                    }
                }
            }
        }
        Ok(next)
    }

    fn keeps(&self, item: &'a Value, left: &Operand, operator: &str, right: Option<&Operand>) -> anyhow::Result<bool> {
        let lenient = Walk { root: self.root, allow_missing: true };
        let value = |operand: &Operand| -> anyhow::Result<Vec<Value>> {
            Ok(match operand {
                Operand::Literal(value) => vec![value.clone()],
                Operand::Path(steps) => lenient.steps(steps, vec![item])?.into_iter().cloned().collect(),
            })
        };
        let left = value(left)?;
        let Some(right) = right else {
            return Ok(!left.is_empty());
        };
        let right = value(right)?;
        let (Some(left), Some(right)) = (left.first(), right.first()) else {
            return Ok(false);
        };
        let order = compare(left, right);
        Ok(match operator {
            "==" => order == Some(Ordering::Equal),
            "!=" => order != Some(Ordering::Equal),
            "<" => order == Some(Ordering::Less),
            "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            ">" => order == Some(Ordering::Greater),
            ">=" => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            other => bail!("unrecognized filter operator {other}"),
        })
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

fn descend<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    out.push(value);
    match value {
        Value::Array(list) => list.iter().for_each(|item| descend(item, out)),
        Value::Object(map) => map.values().for_each(|item| descend(item, out)),
        _ => {}
    }
}

struct Parser {
    letters: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.letters[self.at..].iter().copied().take(word.chars().count()).eq(word.chars());
        if found {
            self.at += word.chars().count();
        }
        found
    }

    /// Nodes up to the end of the text or an `{end}`; whether it was the latter.
    fn nodes(&mut self) -> anyhow::Result<(Vec<Node>, bool)> {
        let mut nodes = Vec::new();
        let mut text = String::new();
        while let Some(letter) = self.peek() {
            self.at += 1;
            if letter != '{' {
                text.push(letter);
                continue;
            }
            if !text.is_empty() {
                nodes.push(Node::Text(std::mem::take(&mut text)));
            }
            if self.action(&mut nodes)? {
                return Ok((nodes, true));
            }
        }
        if !text.is_empty() {
            nodes.push(Node::Text(text));
        }
        Ok((nodes, false))
    }

    /// What stands between braces; whether it ended a range.
    fn action(&mut self, nodes: &mut Vec<Node>) -> anyhow::Result<bool> {
        loop {
            self.blanks();
            match self.peek() {
                None => bail!("unclosed action"),
                Some('}') => {
                    self.at += 1;
                    return Ok(false);
                }
                Some('"' | '\'') => nodes.push(Node::Text(self.quoted()?)),
                Some(_) if self.word("range") => {
                    let steps = self.path()?;
                    self.blanks();
                    if !self.take("}") {
                        bail!("unclosed action");
                    }
                    let (body, ended) = self.nodes()?;
                    if !ended {
                        bail!("unclosed range: {{end}} is missing");
                    }
                    nodes.push(Node::Range(steps, body));
                    return Ok(false);
                }
                Some(_) if self.word("end") => {
                    self.blanks();
                    if !self.take("}") {
                        bail!("unclosed action");
                    }
                    return Ok(true);
                }
                Some(_) => {
                    let start = self.at;
                    let steps = self.path()?;
                    if self.at == start {
                        bail!("unrecognized character in action: U+{:04X} {:?}", u32::from(self.letters[start]), self.letters[start]);
                    }
                    nodes.push(Node::Path(steps));
                }
            }
        }
    }

    /// A keyword that is followed by something else than a letter.
    fn word(&mut self, word: &str) -> bool {
        let start = self.at;
        if self.take(word) && !self.peek().is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
            return true;
        }
        self.at = start;
        false
    }

    fn quoted(&mut self) -> anyhow::Result<String> {
        let quote = self.peek();
        self.at += 1;
        let mut text = String::new();
        while let Some(letter) = self.peek() {
            self.at += 1;
            if Some(letter) == quote {
                return Ok(text);
            }
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            let escaped = self.peek().ok_or_else(|| anyhow!("unterminated quoted string"))?;
            self.at += 1;
            text.push(match escaped {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            });
        }
        bail!("unterminated quoted string")
    }

    fn path(&mut self) -> anyhow::Result<Vec<Step>> {
        let mut steps = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                Some('$') => {
                    self.at += 1;
                    steps.push(Step::Root);
                }
                Some('@') => self.at += 1,
                Some('.') => {
                    self.at += 1;
                    if self.peek() == Some('.') {
                        self.at += 1;
                        steps.push(Step::Recursive);
                    }
                    self.member(&mut steps);
                }
                Some('[') => {
                    self.at += 1;
                    steps.push(self.bracket()?);
                }
                Some('*') if !steps.is_empty() => {
                    self.at += 1;
                    steps.push(Step::Wildcard);
                }
                // a name without a dot begins a path only
                Some(letter) if steps.is_empty() && (letter.is_alphabetic() || letter == '_') => self.member(&mut steps),
                _ => return Ok(steps),
            }
        }
    }

    fn member(&mut self, steps: &mut Vec<Step>) {
        if self.peek() == Some('*') {
            self.at += 1;
            steps.push(Step::Wildcard);
            return;
        }
        let mut name = String::new();
        while let Some(letter) = self.peek() {
            if letter == '\\' && self.at + 1 < self.letters.len() {
                name.push(self.letters[self.at + 1]);
                self.at += 2;
                continue;
            }
            if letter.is_whitespace() || ".[]{}()|<>=!&,'\"$@*?".contains(letter) {
                break;
            }
            name.push(letter);
            self.at += 1;
        }
        if !name.is_empty() {
            steps.push(Step::Field(name));
        }
    }

    fn bracket(&mut self) -> anyhow::Result<Step> {
        self.blanks();
        if self.take("?(") {
            return self.filter();
        }
        let start = self.at;
        let mut depth = 0;
        let mut quote = None;
        loop {
            let letter = self.peek().ok_or_else(|| anyhow!("unterminated array"))?;
            match (quote, letter) {
                (Some(open), _) if open == letter => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(letter),
                (None, '[') => depth += 1,
                (None, ']') if depth == 0 => break,
                (None, ']') => depth -= 1,
                (None, _) => {}
            }
            self.at += 1;
        }
        let inside: String = self.letters[start..self.at].iter().collect();
        self.at += 1;
        inside_bracket(inside.trim())
    }

    fn filter(&mut self) -> anyhow::Result<Step> {
        let left = self.operand()?;
        self.blanks();
        let operator =
            ["==", "!=", "<=", ">=", "<", ">"].into_iter().find(|operator| self.take(operator)).map(str::to_owned).unwrap_or_default();
        let right = if operator.is_empty() { None } else { Some(self.operand()?) };
        self.blanks();
        if !self.take(")") || !self.take("]") {
            bail!("unterminated filter");
        }
        Ok(Step::Filter { left, operator, right })
    }

    fn operand(&mut self) -> anyhow::Result<Operand> {
        self.blanks();
        match self.peek() {
            Some('"' | '\'') => Ok(Operand::Literal(Value::String(self.quoted()?))),
            Some(letter) if letter.is_ascii_digit() || letter == '-' => {
                let start = self.at;
                while self.peek().is_some_and(|letter| letter.is_ascii_digit() || "-.eE+".contains(letter)) {
                    self.at += 1;
                }
                let text: String = self.letters[start..self.at].iter().collect();
                serde_json::from_str(&text).map(Operand::Literal).map_err(|error| anyhow!("cannot parse number {text}: {error}"))
            }
            Some(_) if self.word("true") => Ok(Operand::Literal(Value::Bool(true))),
            Some(_) if self.word("false") => Ok(Operand::Literal(Value::Bool(false))),
            Some(_) => Ok(Operand::Path(self.path()?)),
            None => bail!("unterminated filter"),
        }
    }
}

fn inside_bracket(inside: &str) -> anyhow::Result<Step> {
    if inside == "*" {
        return Ok(Step::Wildcard);
    }
    let number = |text: &str| text.trim().parse::<i64>();
    if let Ok(index) = number(inside) {
        return Ok(Step::Index(index));
    }
    if !inside.contains(['\'', '"', ',']) && inside.contains(':') {
        let part = |text: Option<&str>| match text.map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => number(text).map(Some).map_err(|error| anyhow!("invalid array index {text}: {error}")),
        };
        let mut parts = inside.split(':');
        let (from, to, by) = (part(parts.next())?, part(parts.next())?, part(parts.next())?);
        if by.is_some_and(|by| by <= 0) {
            bail!("step must be > 0");
        }
        return Ok(Step::Slice { from, to, by: by.unwrap_or(1) });
    }
    let mut paths = Vec::new();
    for part in split_outside_quotes(inside) {
        let part = part.trim();
        let step = if let Some(name) = part.strip_prefix(['\'', '"']) {
            Step::Field(name.strip_suffix(['\'', '"']).unwrap_or(name).replace("\\'", "'"))
        } else if let Ok(index) = number(part) {
            Step::Index(index)
        } else if part.starts_with(['.', '@']) {
            let mut parser = Parser { letters: part.chars().collect(), at: 0 };
            paths.push(parser.path()?);
            continue;
        } else {
            bail!("invalid array index {part}");
        };
        paths.push(vec![step]);
    }
    if paths.len() == 1
        && let Some(mut only) = paths.pop()
        && let Some(step) = only.pop()
    {
        return if only.is_empty() {
            Ok(step)
        } else {
            only.push(step);
            Ok(Step::Union(vec![only]))
        };
    }
    Ok(Step::Union(paths))
}

fn split_outside_quotes(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    for letter in text.chars() {
        match (quote, letter) {
            (None, ',') => {
                parts.push(String::new());
                continue;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
    }
    parts
}

/// A complete template from what people write for short: `metadata.name`, `.metadata.name`, `{.metadata.name}`.
///
/// # Errors
/// When it is no path.
pub fn relaxed(path: &str) -> anyhow::Result<String> {
    if path.is_empty() {
        return Ok(String::new());
    }
    let wrong = || anyhow!("unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{{name1.name2}}' or '{{.name1.name2}}'");
    let inner = match path.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(wrong)?,
        None if path.contains(['{', '}']) => return Err(wrong()),
        None => path,
    };
    let inner = inner.strip_prefix('.').unwrap_or(inner);
    Ok(if inner.starts_with('[') { format!("{{{inner}}}") } else { format!("{{.{inner}}}") })
}

/// A value in a text: texts bare, structures as JSON.
pub fn json_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => super::json::compact(other),
    }
}

/// A value as Go's `%v` shows it.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            format!("map[{}]", map.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

/// What objects are ordered by: absence first, then numbers and quantities, then texts with numbers in them as numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortKey {
    /// The path leads nowhere.
    Missing,
    /// A truth value.
    Flag(bool),
    /// A number or quantity, in billionths.
    Amount(i128),
    /// A text in pieces: digits as numbers.
    Text(Vec<Piece>),
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    /// Digits.
    Number(u128),
    /// Everything else.
    Letters(String),
}

impl SortKey {
    /// The key of the first value that a path leads to.
    pub fn of(path: &JsonPath, object: &Value) -> Self {
        match path.values(object).ok().and_then(|values| values.into_iter().next()) {
            None | Some(Value::Null) => Self::Missing,
            Some(Value::Bool(flag)) => Self::Flag(flag),
            Some(Value::Number(number)) => match number.as_i64() {
                Some(number) => Self::Amount(i128::from(number) * 1_000_000_000),
                None => Self::text(&number.to_string()),
            },
            Some(Value::String(text)) => match text.parse::<trierarch_api::Quantity>() {
                Ok(quantity) => Self::Amount(i128::from(quantity.millis()) * 1_000_000),
                Err(_no_quantity) => Self::text(&text),
            },
            Some(other) => Self::text(&other.to_string()),
        }
    }

    fn text(text: &str) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut digits = String::new();
        let finish = |digits: &mut String, pieces: &mut Vec<Piece>| {
            if !digits.is_empty() {
                pieces.push(Piece::Number(digits.parse().unwrap_or(u128::MAX)));
                digits.clear();
            }
        };
        for letter in text.chars() {
            if letter.is_ascii_digit() {
                digits.push(letter);
                continue;
            }
            finish(&mut digits, &mut pieces);
            match pieces.last_mut() {
                Some(Piece::Letters(letters)) => letters.push(letter),
                _ => pieces.push(Piece::Letters(letter.to_string())),
            }
        }
        finish(&mut digits, &mut pieces);
        Self::Text(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Value {
        json!({"kind": "List", "items": [
            {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "status": {"n": 1, "ready": true},
             "spec": {"containers": [{"name": "c1", "image": "i1"}, {"name": "c2", "image": "i2"}]}},
            {"metadata": {"name": "b"}, "status": {"n": 2, "ready": false}, "spec": {"containers": [{"name": "c3", "image": "i3"}]}}]})
    }

    fn check(template: &str, expected: &str) {
        let path = JsonPath::parse_allowing_missing(template).expect("it is a template");
        assert_eq!(path.text(&pods()).expect("it can be followed"), expected, "{template}");
    }

    #[test]
    fn paths() {
        check("{.kind}", "List");
        check("{$.kind} is {.kind}", "List is List");
        check("{.items[*].metadata.name}", "a b");
        check("{.items[0].metadata.name}", "a");
        check("{.items[-1:].metadata.name}", "b");
        check("{.items[0:1].metadata.name}", "a");
        check("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x");
        check("{.items[0].metadata.labels['app\\.kubernetes\\.io/name']}".replace("\\.", ".").as_str(), "x");
        check("{..image}", "i1 i2 i3");
        check("{.items[0].status}", "{\"n\":1,\"ready\":true}");
        check(
            "{.items[*]['metadata.name', 'status']}".replace("'metadata.name', ", "").as_str(),
            "{\"n\":1,\"ready\":true} {\"n\":2,\"ready\":false}",
        );
        check("{.items[0]['kind','status'].n}", "1");
        check("{.nothing.at.all}", "");
    }

    #[test]
    fn filters() {
        check("{.items[?(@.metadata.name==\"b\")].status.n}", "2");
        check("{.items[?(@.status.n>1)].metadata.name}", "b");
        check("{.items[?(@.status.n<=1)].metadata.name}", "a");
        check("{.items[?(@.status.ready==true)].metadata.name}", "a");
        check("{.items[?(@.metadata.labels)].metadata.name}", "a");
        check("{.items[*].spec.containers[?(@.name!='c1')].image}", "i2 i3");
    }

    #[test]
    fn ranges() {
        check("{range .items[*]}{.metadata.name}{\"\\t\"}{.status.n}{\"\\n\"}{end}", "a\t1\nb\t2\n");
        check("{range .items[*]}[{range .spec.containers[*]}{.name};{end}]{end}!", "[c1;c2;][c3;]!");
        check("{range .nothing[*]}x{end}", "");
    }

    #[test]
    fn mistakes_are_told() {
        for template in ["{.a", "{range .items[*]}", "{end}", "{.items[x]}", "{.items[?(@.a==]}", "{\"open}"] {
            assert!(JsonPath::parse(template).is_err(), "{template}");
        }
        let strict = JsonPath::parse("{.nothing}").expect("it is a template");
        assert_eq!(strict.text(&pods()).expect_err("it is missing").to_string(), "nothing is not found");
        let beyond = JsonPath::parse_allowing_missing("{.items[7]}").expect("it is a template");
        assert_eq!(beyond.text(&pods()).expect_err("it is short").to_string(), "array index out of bounds: index 7, length 2");
    }

    #[test]
    fn short_forms_become_templates() {
        for path in ["metadata.name", ".metadata.name", "{metadata.name}", "{.metadata.name}"] {
            assert_eq!(relaxed(path).expect("it is a path"), "{.metadata.name}");
        }
        assert!(relaxed("{.a").is_err());
    }

    #[test]
    fn keys_order_as_people_count() {
        let path = JsonPath::parse_allowing_missing("{.k}").expect("it is a template");
        let key = |value: Value| SortKey::of(&path, &json!({"k": value}));
        assert!(key(json!("pod-2")) < key(json!("pod-10")) && key(json!(2)) < key(json!(10)) && key(json!("500m")) < key(json!("1")));
        assert!(SortKey::of(&path, &json!({})) < key(json!("a")));
        assert_eq!(go_text(&json!({"a": [1, "b", null]})), "map[a:[1 b <nil>]]");
    }
}
