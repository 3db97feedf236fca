//! YAML as kubectl writes it.
//!
//! `Spec:` YAML 1.1 in the style of go-yaml v2: keys in natural order, lists not indented, literal blocks for texts of several lines,
//! double quotes around what would otherwise read as something else than text.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::Value;

/// A document.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(map, 0, &mut out),
        Value::Array(list) if !list.is_empty() => sequence(list, 0, &mut out),
        other => {
            out.push_str(&scalar(other, 0, 0));
            out.push('\n');
        }
    }
    out
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn mapping(map: &serde_json::Map<String, Value>, indent: usize, out: &mut String) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_by(|left, right| natural(left, right));
    for (at, key) in keys.into_iter().enumerate() {
        if at > 0 {
            pad(indent, out);
        }
        out.push_str(&key_text(key));
        out.push(':');
        match &map[key] {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                pad(indent + 2, out);
                mapping(inner, indent + 2, out);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                pad(indent, out);
                sequence(list, indent, out);
            }
            other => {
                out.push(' ');
                out.push_str(&scalar(other, indent, indent + key_text(key).chars().count() + 2));
                out.push('\n');
            }
        }
    }
}

fn sequence(list: &[Value], indent: usize, out: &mut String) {
    for (at, item) in list.iter().enumerate() {
        if at > 0 {
            pad(indent, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => mapping(inner, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => sequence(inner, indent + 2, out),
            other => {
                out.push_str(&scalar(other, indent, indent + 2));
                out.push('\n');
            }
        }
    }
}

fn scalar(value: &Value, indent: usize, column: usize) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        Value::String(text) => string(text, indent, column),
    }
}

/// A text in its style; `column` is where it begins.
fn string(text: &str, indent: usize, column: usize) -> String {
    let facts = Facts::of(text);
    if text.contains('\n') && facts.block {
        return literal(text, indent + 2);
    }
    let plain = facts.plain && !reads_as_something_else(text);
    if plain {
        return folded(text, indent + 2, column, false);
    }
    if facts.single && !reads_as_something_else(text) && !text.contains('\n') {
        let quoted = format!("'{}'", text.replace('\'', "''"));
        return folded(&quoted, indent + 2, column, false);
    }
    folded(&double_quoted(text), indent + 2, column, true)
}

/// Lines are broken at the first single blank after this column.
const WIDTH: usize = 80;

fn folded(text: &str, indent: usize, mut column: usize, escaped: bool) -> String {
    if column + text.len() <= WIDTH {
        return text.to_owned();
    }
    let letters: Vec<char> = text.chars().collect();
    let mut out = String::new();
    let mut after_blank = false;
    // the first and last letters of a quoted text are its quotes
    let inside = |at: usize| at > 0 && at + 1 < letters.len();
    for (at, letter) in letters.iter().copied().enumerate() {
        let next_is_blank = letters.get(at + 1) == Some(&' ');
        if letter == ' ' && !after_blank && column > WIDTH && inside(at) && (escaped || !next_is_blank) {
            out.push('\n');
            pad(indent, &mut out);
            column = indent;
            if escaped && next_is_blank {
                out.push('\\');
                column += 1;
            }
            after_blank = true;
            continue;
        }
        after_blank = letter == ' ';
        out.push(letter);
        column += 1;
    }
    out
}

fn key_text(text: &str) -> String {
    let facts = Facts::of(text);
    if text.contains('\n') || reads_as_something_else(text) {
        double_quoted(text)
    } else if facts.plain {
        text.to_owned()
    } else if facts.single {
        format!("'{}'", text.replace('\'', "''"))
    } else {
        double_quoted(text)
    }
}

/// Which styles can hold a text.
struct Facts {
    plain: bool,
    single: bool,
    block: bool,
}

impl Facts {
    fn of(text: &str) -> Self {
        let (mut indicators, mut special, mut space_break, mut break_space) = (false, false, false, false);
        let mut previous = '\0';
        let letters: Vec<char> = text.chars().collect();
        if text.starts_with("---") || text.starts_with("...") {
            indicators = true;
        }
        for (at, letter) in letters.iter().copied().enumerate() {
            let next_is_blank = letters.get(at + 1).is_none_or(|next| matches!(next, ' ' | '\t' | '\n' | '\r'));
            if at == 0 {
                indicators |=
                    matches!(letter, '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`');
                indicators |= matches!(letter, '?' | ':' | '-') && next_is_blank;
            } else {
                indicators |= letter == ':' && next_is_blank;
                indicators |= letter == '#' && matches!(previous, ' ' | '\t' | '\n');
            }
            special |= !printable(letter);
            space_break |= letter == '\n' && previous == ' ';
            break_space |= letter == ' ' && previous == '\n';
            previous = letter;
        }
        let edge = text.starts_with([' ', '\n']) || text.ends_with([' ', '\n']);
        let broken = space_break || special;
        Self {
            plain: !(text.is_empty() || indicators || edge || broken || break_space || text.contains('\n')),
            single: !(broken || break_space),
            block: !(broken || text.ends_with(' ')),
        }
    }
}

fn printable(letter: char) -> bool {
    matches!(letter, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && letter != '\u{feff}' || letter > '\u{ffff}'
}

fn literal(text: &str, indent: usize) -> String {
    let mut out = "|".to_owned();
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    if !text.ends_with('\n') {
        out.push('-');
    } else if text.len() == 1 || text.ends_with("\n\n") {
        out.push('+');
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(indent, &mut out);
            out.push_str(line);
        }
    }
    out
}

fn double_quoted(text: &str) -> String {
    let mut out = "\"".to_owned();
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{a0}' => out.push_str("\\_"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            other if printable(other) => out.push(other),
            other if u32::from(other) <= 0xff => {
                let _in_memory = write!(out, "\\x{:02X}", u32::from(other));
            }
            other => {
                let _in_memory = write!(out, "\\u{:04X}", u32::from(other));
            }
        }
    }
    out.push('"');
    out
}

const WORDS: &[&str] = &[
    "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n", "N", "no", "No", "NO",
    "false", "False", "FALSE", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
    "-.Inf", "-.INF", "<<",
];

/// Whether a reader of YAML 1.1 would take the plain text for null, a truth value, a number or a time.
fn reads_as_something_else(text: &str) -> bool {
    WORDS.contains(&text) || is_number(text) || is_base_60(text) || is_time(text)
}

fn is_number(text: &str) -> bool {
    let Some(first) = text.chars().next() else {
        return false;
    };
    if !(first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
        return false;
    }
    let plain: String = text.replace('_', "");
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let in_base = |digits: &str, base: u32| !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(base));
    for (prefix, base) in [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2), ("0o", 8), ("0O", 8)] {
        if let Some(digits) = unsigned.strip_prefix(prefix) {
            return in_base(digits, base);
        }
    }
    if in_base(unsigned, 10) {
        return true;
    }
    // digits, a fraction, an exponent
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.chars().all(|digit| digit.is_ascii_digit());
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent.is_none_or(|exponent| in_base(exponent, 10))
}

/// `10:30` was a number once.
fn is_base_60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.contains(':') || !unsigned.starts_with(|letter: char| letter.is_ascii_digit()) {
        return false;
    }
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let digit = |letter: char| letter.is_ascii_digit() || letter == '_';
    first.chars().all(digit)
        && fraction.chars().all(digit)
        && parts.all(|part| match part.as_bytes() {
            [one] => one.is_ascii_digit(),
            [ten, one] => (b'0'..=b'5').contains(ten) && one.is_ascii_digit(),
            _ => false,
        })
}

fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits != 4 || bytes.get(4) != Some(&b'-') {
        return false;
    }
    let date_ends = text.find(['T', 't', ' ']).unwrap_or(text.len());
    let (date, rest) = text.split_at(date_ends);
    let mut parts = date.split('-');
    let year_month_day = [parts.next(), parts.next(), parts.next(), parts.next()];
    let [Some(_), Some(month), Some(day), None] = year_month_day else {
        return false;
    };
    let short = |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if !short(month) || !short(day) {
        return false;
    }
    if rest.is_empty() {
        return day.len() == 2 && month.len() == 2;
    }
    format!("{}T{}", date, &rest[1..]).parse::<jiff::Timestamp>().is_ok() || rest.starts_with(' ') && rest.contains(':')
}

/// Digits compare as numbers, letters come after everything else.
fn natural(left: &str, right: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut digits = false;
    let mut at = 0;
    while at < a.len() && at < b.len() {
        if a[at] == b[at] {
            digits = a[at].is_ascii_digit();
            at += 1;
            continue;
        }
        let (al, bl) = (a[at].is_alphabetic(), b[at].is_alphabetic());
        if al && bl {
            return a[at].cmp(&b[at]);
        }
        if al || bl {
            return if digits {
                if al { Ordering::Less } else { Ordering::Greater }
            } else if bl {
                Ordering::Less
            } else {
                Ordering::Greater
            };
        }
        let run = |text: &[char]| -> (u64, usize) {
            let digits: String = text.iter().take_while(|letter| letter.is_ascii_digit()).collect();
            (digits.parse().unwrap_or(0), digits.len())
        };
        let ((an, ai), (bn, bi)) = (run(&a[at..]), run(&b[at..]));
        if an != bn {
            return an.cmp(&bn);
        }
        if ai != bi {
            return ai.cmp(&bi);
        }
        return a[at].cmp(&b[at]);
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Value, expected: &str) {
        assert_eq!(text(&value), expected);
    }

    #[test]
    fn structure() {
        check(
            json!({"b": {"c": [1, {"x": 1, "y": [2]}, [3, 4]]}, "a": [], "e": {}, "n": null}),
            "a: []\nb:\n  c:\n  - 1\n  - x: 1\n    \"y\":\n    - 2\n  - - 3\n    - 4\ne: {}\n\"n\": null\n",
        );
    }

    #[test]
    fn texts_are_quoted_where_they_would_read_as_something_else() {
        for (value, expected) in [
            ("", "\"\""),
            ("true", "\"true\""),
            ("no", "\"no\""),
            ("1", "\"1\""),
            ("1.5e3", "\"1.5e3\""),
            ("0x1f", "\"0x1f\""),
            ("10:30", "\"10:30\""),
            ("2026-01-02T03:04:05Z", "\"2026-01-02T03:04:05Z\""),
            ("2026-01-02", "\"2026-01-02\""),
            ("null", "\"null\""),
            ("500m", "500m"),
            ("10.0.0.1", "10.0.0.1"),
            ("a: b", "'a: b'"),
            ("a #b", "'a #b'"),
            ("- a", "'- a'"),
            ("-", "'-'"),
            ("-a", "-a"),
            ("*", "'*'"),
            ("{}", "'{}'"),
            ("it's", "it's"),
            ("'a'", "'''a'''"),
            (" a", "' a'"),
            ("a\tb", "\"a\\tb\""),
            ("a\nb", "|-\n  a\n  b"),
            ("a\nb\n", "|\n  a\n  b"),
            ("a\n\n", "|+\n  a\n"),
            (" a\nb", "|2-\n   a\n  b"),
            ("a \nb", "\"a \\nb\""),
            ("über", "über"),
        ] {
            assert_eq!(string(value, 0, 0), expected, "{value:?}");
        }
    }

    #[test]
    fn long_texts_are_folded() {
        let words = "word ".repeat(40);
        let written = text(&json!({"a": {"key": words.trim_end(), "quoted": format!("x: {}", words.trim_end())}}));
        assert!(written.lines().all(|line| line.len() <= 86) && written.lines().count() > 6, "{written}");
        assert!(written.contains("\n    word"), "{written}");
        let back: Value = serde_yaml::from_str(&written).expect("it is YAML");
        assert_eq!(back["a"]["key"], words.trim_end());
    }

    #[test]
    fn keys_are_in_natural_order() {
        check(json!({"a10": 1, "a2": 1, "b": 1, "B": 1, "_": 1}), "_: 1\nB: 1\na2: 1\na10: 1\nb: 1\n");
    }

    #[test]
    fn what_is_written_reads_back() {
        let value =
            json!({"data": {"k": "line\n  two\n", "weird": "a: b # c", "num": "007", "y": "y"}, "list": [{"a": [[]]}, "x y"], "f": 1.5});
        let back: Value = serde_yaml::from_str(&text(&value)).expect("it is YAML");
        assert_eq!(back, value);
    }
}
