//! Go templates: `{{range .items}}{{.metadata.name}}{{"\n"}}{{end}}`.
//!
//! `Spec:` Go's `text/template` with fields, variables, pipelines, `if`, `range`, `with`, and the functions that scripts for kubectl use.
//! Templates that define templates are not read.

use std::cmp::Ordering;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use serde_json::Value;

use super::jsonpath::go_text;

/// A parsed template.
#[derive(Debug)]
pub struct GoTemplate {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Action),
    If(Action, Vec<Node>, Vec<Node>),
    With(Action, Vec<Node>, Vec<Node>),
    Range { variables: Vec<String>, over: Vec<Command>, body: Vec<Node>, otherwise: Vec<Node> },
}

/// A pipeline whose value may go into a variable.
#[derive(Debug)]
struct Action {
    variable: Option<String>,
    pipeline: Vec<Command>,
}

/// A function or value with its arguments.
type Command = Vec<Operand>;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Field(String),
    /// A field of what stands right before it.
    Further(String),
    Variable(String),
    Literal(Value),
    Dot,
    Open,
    Close,
    Pipe,
    Assign,
    Comma,
}

#[derive(Debug)]
enum Operand {
    Literal(Value),
    Path { from: Option<String>, fields: Vec<String> },
    Function(String),
    Group(Vec<Command>, Vec<String>),
}

enum Piece {
    Text(String),
    Action(String),
}

impl GoTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// Where it is wrong.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut pieces = pieces(text)?.into_iter();
        let (nodes, ended) = block(&mut pieces)?;
        match ended {
            None => Ok(Self { nodes }),
            Some(word) => bail!("unexpected {{{{{word}}}}}"),
        }
    }

    /// What the template makes of an object.
    ///
    /// # Errors
    /// When a field cannot be followed or a function is misused.
    pub fn text(&self, object: &Value) -> anyhow::Result<String> {
        let mut run = Run { variables: vec![("$".to_owned(), object.clone())], out: String::new() };
        run.nodes(&self.nodes, object)?;
        Ok(run.out)
    }
}

/// Text and actions, blanks trimmed where `{{-` and `-}}` ask for it.
fn pieces(mut text: &str) -> anyhow::Result<Vec<Piece>> {
    let mut found = Vec::new();
    let mut trim_next = false;
    while let Some(start) = text.find("{{") {
        let after = &text[start + 2..];
        let Some(end) = end_of_action(after) else { bail!("unclosed action") };
        let mut before = &text[..start];
        let mut inside = &after[..end];
        if trim_next {
            before = before.trim_start();
        }
        if let Some(rest) = inside.strip_prefix("- ") {
            before = before.trim_end();
            inside = rest;
        }
        trim_next = inside.ends_with(" -");
        inside = inside.strip_suffix(" -").unwrap_or(inside);
        found.push(Piece::Text(before.to_owned()));
        if !inside.trim_start().starts_with("/*") {
            found.push(Piece::Action(inside.trim().to_owned()));
        }
        text = &after[end + 2..];
    }
    found.push(Piece::Text(if trim_next { text.trim_start() } else { text }.to_owned()));
    Ok(found)
}

/// Where `}}` is, outside of quotes.
fn end_of_action(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), _) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(letter),
            (None, '}') if text[at..].starts_with("}}") => return Some(at),
            (None, _) => {}
        }
    }
    None
}

/// Nodes up to `end` or `else`, which is returned with what follows it.
fn block(pieces: &mut impl Iterator<Item = Piece>) -> anyhow::Result<(Vec<Node>, Option<String>)> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let inside = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(inside) => inside,
        };
        let (word, rest) = inside.split_once(char::is_whitespace).unwrap_or((&inside, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(inside))),
            "if" | "with" => nodes.push(branch(word, rest, pieces)?),
            "range" => {
                let mut tokens = tokens(rest)?;
                let mut variables = Vec::new();
                if let Some(at) = tokens.iter().position(|token| *token == Token::Assign) {
                    for token in tokens.drain(..=at) {
                        match token {
                            Token::Variable(name) => variables.push(name),
                            Token::Comma | Token::Assign => {}
                            _ => bail!("range can only initialize variables"),
                        }
                    }
                }
                let over = pipeline(&mut Tokens { tokens, at: 0 })?;
                let (body, ended) = block(pieces)?;
                let otherwise = if ended.as_deref() == Some("else") { block(pieces)?.0 } else { Vec::new() };
                nodes.push(Node::Range { variables, over, body, otherwise });
            }
            "define" | "template" | "block" | "break" | "continue" => bail!("this kubectl has no {{{{{word}}}}}: use the real kubectl"),
            _ => nodes.push(Node::Print(action(&inside)?)),
        }
    }
    Ok((nodes, None))
}

fn branch(word: &str, condition: &str, pieces: &mut impl Iterator<Item = Piece>) -> anyhow::Result<Node> {
    let condition = action(condition)?;
    let (then, ended) = block(pieces)?;
    let otherwise = match ended.as_deref().map(|ended| ended.split_whitespace().collect::<Vec<_>>().join(" ")) {
        None => bail!("unclosed {word}: {{{{end}}}} is missing"),
        Some(ended) if ended == "end" => Vec::new(),
        Some(ended) if ended == "else" => block(pieces)?.0,
        Some(ended) => {
            let Some(rest) = ended.strip_prefix("else if ") else { bail!("unexpected {{{{{ended}}}}}") };
            vec![branch("if", rest, pieces)?]
        }
    };
    Ok(if word == "if" { Node::If(condition, then, otherwise) } else { Node::With(condition, then, otherwise) })
}

fn action(text: &str) -> anyhow::Result<Action> {
    let mut tokens = tokens(text)?;
    let mut variable = None;
    if let [Token::Variable(name), Token::Assign, ..] = tokens.as_slice() {
        variable = Some(name.clone());
        tokens.drain(..2);
    }
    Ok(Action { variable, pipeline: pipeline(&mut Tokens { tokens, at: 0 })? })
}

fn tokens(text: &str) -> anyhow::Result<Vec<Token>> {
    let letters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    let name = |at: &mut usize| {
        let start = *at;
        while letters.get(*at).is_some_and(|letter| letter.is_alphanumeric() || *letter == '_') {
            *at += 1;
        }
        letters[start..*at].iter().collect::<String>()
    };
    while let Some(letter) = letters.get(at).copied() {
        at += 1;
        match letter {
            letter if letter.is_whitespace() => {}
            '(' => found.push(Token::Open),
            ')' => found.push(Token::Close),
            '|' => found.push(Token::Pipe),
            ',' => found.push(Token::Comma),
            '=' => found.push(Token::Assign),
            ':' if letters.get(at) == Some(&'=') => {
                at += 1;
                found.push(Token::Assign);
            }
            '.' => {
                let before = at.checked_sub(2).and_then(|before| letters.get(before)).copied();
                let field = name(&mut at);
                found.push(match before {
                    _ if field.is_empty() => Token::Dot,
                    Some(')' | '_' | '$') => Token::Further(field),
                    Some(before) if before.is_alphanumeric() => Token::Further(field),
                    _ => Token::Field(field),
                });
            }
            '$' => found.push(Token::Variable(format!("${}", name(&mut at)))),
            '"' | '`' => {
                let start = at - 1;
                let mut escaped = false;
                while letters.get(at).is_some_and(|other| escaped || *other != letter) {
                    escaped = !escaped && letter == '"' && letters[at] == '\\';
                    at += 1;
                }
                at += 1;
                let quoted: String = letters.get(start..at).context("unterminated quoted string")?.iter().collect();
                let text = if letter == '`' {
                    quoted[1..quoted.len() - 1].to_owned()
                } else {
                    serde_json::from_str(&quoted).context("a quoted string")?
                };
                found.push(Token::Literal(Value::String(text)));
            }
            letter if letter.is_ascii_digit() || letter == '-' => {
                let start = at - 1;
                while letters.get(at).is_some_and(|letter| letter.is_ascii_digit() || *letter == '.') {
                    at += 1;
                }
                let number: String = letters[start..at].iter().collect();
                found.push(Token::Literal(serde_json::from_str(&number).with_context(|| format!("bad number syntax: {number:?}"))?));
            }
            letter if letter.is_alphabetic() => {
                at -= 1;
                found.push(match name(&mut at).as_str() {
                    "true" => Token::Literal(Value::Bool(true)),
                    "false" => Token::Literal(Value::Bool(false)),
                    "nil" => Token::Literal(Value::Null),
                    word => Token::Word(word.to_owned()),
                });
            }
            other => bail!("unexpected {other:?} in action"),
        }
    }
    Ok(found)
}

struct Tokens {
    tokens: Vec<Token>,
    at: usize,
}

impl Tokens {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    /// Fields that follow: `.a.b`.
    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while let Some(Token::Further(name)) = self.tokens.get(self.at) {
            fields.push(name.clone());
            self.at += 1;
        }
        fields
    }
}

/// Commands up to the end or a closing bracket.
fn pipeline(tokens: &mut Tokens) -> anyhow::Result<Vec<Command>> {
    let mut commands: Vec<Command> = vec![Vec::new()];
    while let Some(token) = tokens.next() {
        let operand = match token {
            Token::Close => break,
            Token::Pipe => {
                commands.push(Vec::new());
                continue;
            }
            Token::Open => {
                let inner = pipeline(tokens)?;
                Operand::Group(inner, tokens.fields())
            }
            Token::Dot => Operand::Path { from: None, fields: Vec::new() },
            Token::Field(name) => {
                let mut fields = vec![name];
                fields.extend(tokens.fields());
                Operand::Path { from: None, fields }
            }
            Token::Variable(name) => Operand::Path { from: Some(name), fields: tokens.fields() },
            Token::Literal(value) => Operand::Literal(value),
            Token::Word(name) => Operand::Function(name),
            Token::Further(name) => bail!("unexpected <.{name}>"),
            Token::Assign | Token::Comma => bail!("unexpected assignment"),
        };
        if let Some(command) = commands.last_mut() {
            command.push(operand);
        }
    }
    if commands.iter().any(Vec::is_empty) {
        bail!("missing value for command");
    }
    Ok(commands)
}

struct Run {
    variables: Vec<(String, Value)>,
    out: String,
}

impl Run {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> anyhow::Result<()> {
        let scope = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(action) => {
                    let value = self.action(action, dot)?;
                    if action.variable.is_none() {
                        self.out.push_str(&printed(&value));
                    }
                }
                Node::If(condition, then, otherwise) => {
                    let chosen = if truth(&self.action(condition, dot)?) { then } else { otherwise };
                    self.nodes(chosen, dot)?;
                }
                Node::With(condition, then, otherwise) => {
                    let value = self.action(condition, dot)?;
                    if truth(&value) { self.nodes(then, &value)? } else { self.nodes(otherwise, dot)? }
                }
                Node::Range { variables, over, body, otherwise } => {
                    let items: Vec<(Value, Value)> = match self.pipeline(over, dot)? {
                        Value::Array(list) => list.into_iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect(),
                        Value::Object(map) => map.into_iter().map(|(key, item)| (Value::String(key), item)).collect(),
                        Value::Null => Vec::new(),
                        other => bail!("range can't iterate over {}", go_text(&other)),
                    };
                    if items.is_empty() {
                        self.nodes(otherwise, dot)?;
                    }
                    for (key, item) in items {
                        let inner = self.variables.len();
                        match variables.as_slice() {
                            [one] => self.variables.push((one.clone(), item.clone())),
                            [first, second, ..] => {
                                self.variables.push((first.clone(), key));
                                self.variables.push((second.clone(), item.clone()));
                            }
                            [] => {}
                        }
                        self.nodes(body, &item)?;
                        self.variables.truncate(inner);
                    }
                }
            }
        }
        // a variable that was changed inside is known outside; one that was made there is not
        self.variables.truncate(scope.max(1));
        Ok(())
    }

    fn action(&mut self, action: &Action, dot: &Value) -> anyhow::Result<Value> {
        let value = self.pipeline(&action.pipeline, dot)?;
        if let Some(name) = &action.variable {
            match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
                Some((_, slot)) => *slot = value.clone(),
                None => self.variables.push((name.clone(), value.clone())),
            }
        }
        Ok(value)
    }

    fn pipeline(&self, commands: &[Command], dot: &Value) -> anyhow::Result<Value> {
        let mut last: Option<Value> = None;
        for command in commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or_default())
    }

    fn command(&self, command: &Command, last: Option<Value>, dot: &Value) -> anyhow::Result<Value> {
        let Some((first, rest)) = command.split_first() else { bail!("missing value for command") };
        let Operand::Function(name) = first else {
            if !rest.is_empty() || last.is_some() {
                bail!("can't give argument to non-function");
            }
            return self.operand(first, dot);
        };
        let mut arguments: Vec<Value> = rest.iter().map(|operand| self.operand(operand, dot)).collect::<anyhow::Result<_>>()?;
        arguments.extend(last);
        call(name, &arguments)
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> anyhow::Result<Value> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => call(name, &[]),
            Operand::Group(commands, fields) => follow(self.pipeline(commands, dot)?, fields),
            Operand::Path { from: None, fields } => follow(dot.clone(), fields),
            Operand::Path { from: Some(name), fields } => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => follow(value.clone(), fields),
                None => bail!("undefined variable {name:?}"),
            },
        }
    }
}

fn follow(mut value: Value, fields: &[String]) -> anyhow::Result<Value> {
    for field in fields {
        value = match value {
            Value::Object(mut map) => map.remove(field).unwrap_or_default(),
            // nothing has no fields, and that is no failure
            Value::Null => Value::Null,
            other => bail!("can't evaluate field {field} in {}", go_text(&other)),
        };
    }
    Ok(value)
}

fn printed(value: &Value) -> String {
    if value.is_null() { "<no value>".to_owned() } else { go_text(value) }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn order(left: &Value, right: &Value) -> anyhow::Result<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left.as_f64().partial_cmp(&right.as_f64()).context("numbers that cannot be compared")
        }
        (Value::String(left), Value::String(right)) => Ok(left.cmp(right)),
        _ => bail!("incompatible types for comparison"),
    }
}

fn call(name: &str, arguments: &[Value]) -> anyhow::Result<Value> {
    let argument = |at: usize| arguments.get(at).with_context(|| format!("wrong number of args for {name}"));
    Ok(match name {
        "not" => Value::Bool(!truth(argument(0)?)),
        "and" => arguments.iter().find(|value| !truth(value)).or(arguments.last()).cloned().unwrap_or_default(),
        "or" => arguments.iter().find(|value| truth(value)).or(arguments.last()).cloned().unwrap_or_default(),
        "eq" => Value::Bool(arguments.iter().skip(1).any(|other| Some(other) == arguments.first())),
        "ne" => Value::Bool(argument(0)? != argument(1)?),
        "lt" => Value::Bool(order(argument(0)?, argument(1)?)?.is_lt()),
        "le" => Value::Bool(order(argument(0)?, argument(1)?)?.is_le()),
        "gt" => Value::Bool(order(argument(0)?, argument(1)?)?.is_gt()),
        "ge" => Value::Bool(order(argument(0)?, argument(1)?)?.is_ge()),
        "len" => match argument(0)? {
            Value::String(text) => Value::from(text.len()),
            Value::Array(list) => Value::from(list.len()),
            Value::Object(map) => Value::from(map.len()),
            other => bail!("len of {}", go_text(other)),
        },
        "index" => {
            let mut value = argument(0)?.clone();
            for key in &arguments[1..] {
                value = match (&value, key) {
                    (Value::Object(map), Value::String(key)) => map.get(key).cloned().unwrap_or_default(),
                    (Value::Array(list), Value::Number(at)) => {
                        let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
                        at.and_then(|at| list.get(at)).cloned().with_context(|| format!("index out of range: {key}"))?
                    }
                    _ => bail!("cannot index {} with {}", go_text(&value), go_text(key)),
                };
            }
            value
        }
        "exists" => {
            let mut value = argument(0)?.clone();
            let mut there = true;
            for key in &arguments[1..] {
                let next = match (&value, key) {
                    (Value::Object(map), Value::String(key)) => map.get(key).cloned(),
                    (Value::Array(list), Value::Number(at)) => {
                        at.as_u64().and_then(|at| usize::try_from(at).ok()).and_then(|at| list.get(at)).cloned()
                    }
                    _ => None,
                };
                there = next.is_some();
                value = next.unwrap_or_default();
            }
            Value::Bool(there && !value.is_null())
        }
        "base64decode" => {
            let text = argument(0)?.as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).context("base64 decode failed")?;
            Value::String(String::from_utf8_lossy(&bytes).into_owned())
        }
        "print" => Value::String(arguments.iter().map(printed).collect()),
        "println" => Value::String(arguments.iter().map(printed).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => Value::String(formatted(argument(0)?.as_str().unwrap_or_default(), &arguments[1..])),
        other => bail!("function {other:?} not defined"),
    })
}

/// `%s`, `%v`, `%d`, `%q`, `%t`, with widths.
fn formatted(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut values = arguments.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut width = String::new();
        while letters.peek().is_some_and(|letter| letter.is_ascii_digit() || *letter == '-') {
            width.extend(letters.next());
        }
        let text = match letters.next() {
            Some('%') => "%".to_owned(),
            Some('q') => values.next().map(|value| format!("{:?}", go_text(value))).unwrap_or_default(),
            Some(verb) => values.next().map_or_else(|| format!("%!{verb}(MISSING)"), go_text),
            None => "%!(NOVERB)".to_owned(),
        };
        let size = width.trim_start_matches('-').parse().unwrap_or(0);
        out.push_str(&if width.starts_with('-') { format!("{text:<size$}") } else { format!("{text:>size$}") });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(template: &str, expected: &str) {
        let object = json!({"kind": "List", "n": 2, "items": [{"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"k": "aGk="}}, {"metadata": {"name": "b"}}]});
        let text = GoTemplate::parse(template).and_then(|parsed| parsed.text(&object));
        assert_eq!(text.expect(template), expected, "{template}");
    }

    #[test]
    fn fields_ranges_and_conditions() {
        check("{{.kind}} {{.nothing}} {{.nothing.at.all}}", "List <no value> <no value>");
        check("{{range .items}}{{.metadata.name}}{{\"\\n\"}}{{end}}", "a\nb\n");
        check("{{range $i, $e := .items}}{{$i}}={{$e.metadata.name}};{{end}}", "0=a;1=b;");
        check("{{range .items}}{{if .metadata.labels}}yes{{else}}no{{end}} {{end}}", "yes no ");
        check("{{range .nothing}}x{{else}}none{{end}}", "none");
        check("{{with .nothing}}x{{else if .kind}}y{{end}}", "y");
        check("{{range .items}} {{- .metadata.name -}} {{end}}", "ab");
        check("{{/* nothing */}}{{`}}`}}", "}}");
    }

    #[test]
    fn pipelines_variables_and_functions() {
        check("{{len .items}} {{index .items 1 \"metadata\" \"name\"}}", "2 b");
        check("{{(index .items 0).data.k | base64decode}}", "hi");
        check("{{if and (eq .kind \"List\") (gt .n 1)}}many{{end}}", "many");
        check("{{$x := .kind}}{{$x}}{{$x = \"y\"}}{{$x}}", "Listy");
        check("{{printf \"%-4s|%3d|%q\" .kind .n \"z\"}}", "List|  2|\"z\"");
        check("{{exists .items 0 \"metadata\"}}{{exists . \"nothing\"}}{{not true}}", "truefalsefalse");
        check("{{range $k, $v := (index .items 0).metadata}}{{$k}} {{end}}", "labels name ");
    }

    #[test]
    fn mistakes_are_told() {
        for template in ["{{.a", "{{if .a}}", "{{end}}", "{{template \"x\"}}", "{{|}}", "{{\"open}}"] {
            assert!(GoTemplate::parse(template).is_err(), "{template}");
        }
        for template in ["{{.a.b}}", "{{nope .}}", "{{$x}}", "{{range 5}}{{end}}"] {
            assert!(GoTemplate::parse(template).expect(template).text(&json!({"a": 1})).is_err(), "{template}");
        }
    }
}
