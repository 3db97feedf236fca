//! Label and field selectors (`Spec:` Kubernetes "Labels and Selectors", "Field Selectors").

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::names;

/// Text or JSON that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are the API's")]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether a label's value (`None`: not there) satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|wanted| wanted == value);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(among),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |text: &str| text.parse::<i64>().ok();
                match (value.and_then(number), self.values.first().and_then(|text| number(text))) {
                    (Some(left), Some(right)) if self.operator == Operator::GreaterThan => left > right,
                    (Some(left), Some(right)) => left < right,
                    _ => false,
                }
            }
        }
    }

    fn check(&self) -> Result<(), SelectorError> {
        let refuse = |path: &str, value: String, why: &str| Err(SelectorError(format!("{path}: Invalid value: {value}: {why}")));
        if let Some(why) = joined(names::qualified_name(&self.key)) {
            return refuse("key", format!("{:?}", self.key), &why);
        }
        let shown = serde_json::to_string(&self.values).unwrap_or_default();
        match self.operator {
            Operator::In | Operator::NotIn if self.values.is_empty() => {
                return refuse("values", shown, "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if self.values.len() != 1 => {
                return refuse("values", shown, "exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !self.values.is_empty() => {
                return refuse("values", shown, "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if self.values.len() != 1 {
                    return refuse("values", shown, "for 'Gt', 'Lt' operators, exactly one value is required");
                }
                if self.values[0].parse::<i64>().is_err() {
                    return refuse("values[0]", format!("{:?}", self.values[0]), "for 'Gt', 'Lt' operators, the value must be an integer");
                }
            }
            _ => {}
        }
        for (index, value) in self.values.iter().enumerate() {
            if let Some(why) = joined(names::label_value(value)) {
                return refuse(&format!("values[{index}][{}]", self.key), format!("{value:?}"), &why);
            }
        }
        Ok(())
    }
}

fn joined(problems: Vec<String>) -> Option<String> {
    if problems.is_empty() { None } else { Some(problems.join("; ")) }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort();
        let values = values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// A conjunction of requirements on labels. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    nothing: bool,
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self { nothing: true, requirements: Vec::new() }
    }

    /// A selector from the query parameter's text: `a=b,c!=d,e in (f,g),!h,i>5`.
    ///
    /// # Errors
    /// [`SelectorError`] in upstream's wording.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Parser { tokens: tokens(text), at: 0 }.requirements()?;
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(Self { nothing: false, requirements })
    }

    /// A selector from a `LabelSelector` object. Null selects nothing, `{}` everything, as controllers read it.
    ///
    /// # Errors
    /// [`SelectorError`] for unknown operators and bad keys.
    pub fn from_json(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements: Vec<Requirement> = map_requirements(&selector["matchLabels"]);
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression["values"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
            requirements.push(Requirement { key: expression["key"].as_str().unwrap_or_default().to_owned(), operator, values });
        }
        requirements.iter().try_for_each(Requirement::check)?;
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(Self { nothing: false, requirements })
    }

    /// A selector from a plain map (`Service` and `ReplicationController` selectors). An empty or missing map selects nothing when
    /// `empty_is_nothing`, else everything.
    pub fn from_map(labels: &Value, empty_is_nothing: bool) -> Self {
        let requirements = map_requirements(labels);
        if requirements.is_empty() && empty_is_nothing { Self::nothing() } else { Self { nothing: false, requirements } }
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it can match no object.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Its parts.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }

    /// [`LabelSelector::matches`] on the JSON of `metadata.labels`.
    pub fn matches_json(&self, labels: &Value) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }

    /// The value that an exact match on this label demands, if it demands one.
    pub fn exact(&self, key: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.key == key && matches!(r.operator, Operator::Equals | Operator::DoubleEquals | Operator::In) && r.values.len() == 1)
            .map(|r| r.values[0].as_str())
    }
}

fn map_requirements(labels: &Value) -> Vec<Requirement> {
    labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        })
        .collect()
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Sign(sign) => sign,
            Self::End => "",
        }
    }

    /// `in` and `notin` are words where a value may stand.
    fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Sign(sign @ ("in" | "notin")) => Some(sign),
            _ => None,
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    const SIGNS: &str = "=!(),><";
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        if SIGNS.contains(first) {
            let sign = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"].into_iter().find(|sign| rest.starts_with(sign)).unwrap_or("!");
            out.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let end = rest.find(|c: char| SIGNS.contains(c) || matches!(c, ' ' | '\t' | '\r' | '\n')).unwrap_or(rest.len());
            out.push(match &rest[..end] {
                "in" => Token::Sign("in"),
                "notin" => Token::Sign("notin"),
                word => Token::Word(word.to_owned()),
            });
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }
    out.push(Token::End);
    out
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn refuse<T>(found: &Token, expected: &str) -> Result<T, SelectorError> {
        Err(SelectorError(format!("found '{}', expected: {expected}", found.text())))
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(out),
                Token::Word(_) | Token::Sign("!" | "in" | "notin") => {}
                other => return Self::refuse(other, "!, identifier, or 'end of string'"),
            }
            let requirement = self
                .requirement()
                .and_then(|r| r.check().map(|()| r))
                .map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?;
            out.push(requirement);
            match self.next() {
                Token::End => return Ok(out),
                Token::Sign(",") => {
                    let after = self.peek();
                    if after.word().is_none() && *after != Token::Sign("!") {
                        return Self::refuse(after, "identifier after ','");
                    }
                }
                other => return Self::refuse(&other, "',' or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = *self.peek() == Token::Sign("!");
        if absent {
            self.next();
        }
        let token = self.next();
        let Some(key) = token.word().map(str::to_owned) else { return Self::refuse(&token, "identifier") };
        if let Some(why) = joined(names::qualified_name(&key)) {
            return Err(SelectorError(format!("<nil>: Invalid value: {key:?}: {why}")));
        }
        if absent {
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
        }
        let operator = match self.next() {
            Token::Sign("in") => Operator::In,
            Token::Sign("notin") => Operator::NotIn,
            Token::Sign("=") => Operator::Equals,
            Token::Sign("==") => Operator::DoubleEquals,
            Token::Sign("!=") => Operator::NotEquals,
            Token::Sign(">") => Operator::GreaterThan,
            Token::Sign("<") => Operator::LessThan,
            other => return Self::refuse(&other, "in, notin, =, ==, !=, gt, lt"),
        };
        let values = if matches!(operator, Operator::In | Operator::NotIn) { self.set()? } else { vec![self.exact_value()?] };
        Ok(Requirement { key, operator, values })
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(String::new());
        }
        let token = self.next();
        match token.word() {
            Some(word) => Ok(word.to_owned()),
            None => Self::refuse(&token, "identifier"),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        let open = self.next();
        if open != Token::Sign("(") {
            return Err(SelectorError(format!("found '{}' expected: '('", open.text())));
        }
        let mut values = Vec::new();
        let mut wants_value = true;
        loop {
            let token = self.next();
            match token {
                Token::Sign(")") => {
                    if wants_value {
                        values.push(String::new());
                    }
                    break;
                }
                Token::Sign(",") => {
                    if wants_value {
                        values.push(String::new());
                    }
                    wants_value = true;
                }
                other => match other.word() {
                    Some(word) if wants_value => {
                        values.push(word.to_owned());
                        wants_value = false;
                    }
                    Some(_) => return Self::refuse(&other, "',' or ')'"),
                    None if wants_value => return Self::refuse(&other, "',', ')' or identifier"),
                    None => return Self::refuse(&other, "',' or ')'"),
                },
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

/// One comparison of a field selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldTerm {
    /// Such as `spec.nodeName`.
    pub field: String,
    /// The value it must have, or must not have.
    pub value: String,
    /// Whether it must have it.
    pub equal: bool,
}

/// A conjunction of comparisons of fields. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// A selector from the query parameter's text: `metadata.name=x,status.phase!=Running`.
    ///
    /// # Errors
    /// [`SelectorError`] in upstream's wording.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let refuse = || SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"));
            let (at, sign) = (0..part.len())
                .filter(|at| part.is_char_boundary(*at))
                .find_map(|at| ["!=", "==", "="].into_iter().find(|sign| part[at..].starts_with(sign)).map(|sign| (at, sign)))
                .ok_or_else(refuse)?;
            terms.push(FieldTerm { field: part[..at].to_owned(), value: unescape(&part[at + sign.len()..])?, equal: sign != "!=" });
        }
        Ok(Self { terms })
    }

    /// Selects the object with this name.
    pub fn name(name: &str) -> Self {
        Self { terms: vec![FieldTerm { field: "metadata.name".to_owned(), value: name.to_owned(), equal: true }] }
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Its parts.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The value that an equality on this field demands, if there is one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether an object is selected; `field` gives the values of its fields.
    pub fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|term| (field(&term.field).unwrap_or_default() == term.value) == term.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let sign = if term.equal { "=" } else { "!=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{sign}{value}", term.field)?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                Some(next) => {
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: {:?}", format!("\\{next}"))));
                }
                None => return Err(SelectorError("invalid field selector: invalid escape sequence: \"\\\\\"".to_owned())),
            },
            ',' | '=' => {
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {c:?}")));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn selectors_match_as_written() {
        let object = labels(&[("app", "web"), ("tier", "front"), ("n", "7"), ("in", "x")]);
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app in (web, db)", true),
            ("app notin (web,db)", false),
            ("missing notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("n>6", true),
            ("n<6", false),
            ("app=", false),
            ("in=x", true),
            ("in in (x)", true),
            ("app in (,)", false),
        ] {
            assert_eq!(LabelSelector::parse(text).expect(text).matches(&object), expected, "{text}");
        }
    }

    #[test]
    fn refusals_read_as_upstream() {
        for (text, expected) in [
            ("app=web,", "found '', expected: identifier after ','"),
            ("app web", "unable to parse requirement: found 'web', expected: in, notin, =, ==, !=, gt, lt"),
            ("=web", "found '=', expected: !, identifier, or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ] {
            assert_eq!(LabelSelector::parse(text).expect_err(text).to_string(), expected);
        }
    }

    #[test]
    fn label_selector_objects() {
        let selector = LabelSelector::from_json(&json!({
            "matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]
        }))
        .unwrap();
        assert!(selector.matches(&labels(&[("app", "web"), ("tier", "b")])));
        assert!(!selector.matches(&labels(&[("app", "web")])));
        assert_eq!(selector.to_string(), "app=web,tier in (a,b)");
        assert!(LabelSelector::from_json(&Value::Null).unwrap().is_nothing());
        assert!(LabelSelector::from_json(&json!({})).unwrap().is_everything());
        let bad = LabelSelector::from_json(&json!({"matchExpressions": [{"key": "a", "operator": "Has"}]})).unwrap_err();
        assert_eq!(bad.to_string(), "\"Has\" is not a valid label selector operator");
    }

    #[test]
    fn field_selectors() {
        let selector = FieldSelector::parse("status.phase!=Running,metadata.name=a\\,b").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a,b"));
        assert!(selector.matches(|field| (field == "metadata.name").then(|| "a,b".to_owned())));
        assert!(!selector.matches(|field| Some(if field == "metadata.name" { "a,b" } else { "Running" }.to_owned())));
        assert_eq!(FieldSelector::parse("nonsense").unwrap_err().to_string(), "invalid selector: 'nonsense'; can't understand 'nonsense'");
        assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
    }
}
