//! JSON as Go writes it: four blanks of indentation, and `<`, `>`, `&` escaped.

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Indented JSON with a line end.
pub fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let mut writer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"    "));
    // writing values to memory cannot fail
    let _written = value.serialize(&mut writer);
    let mut text = escaped(&String::from_utf8_lossy(&out));
    text.push('\n');
    text
}

/// JSON on one line.
pub fn compact(value: &Value) -> String {
    escaped(&value.to_string())
}

fn escaped(text: &str) -> String {
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\u{8}', '\u{c}']) && !text.contains("\\b") && !text.contains("\\f") {
        return text.to_owned();
    }
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_reads_as_go_writes_it() {
        assert_eq!(
            pretty(&json!({"b": [], "a": {"x": "<&>"}, "c": {}})),
            "{\n    \"a\": {\n        \"x\": \"\\u003c\\u0026\\u003e\"\n    },\n    \"b\": [],\n    \"c\": {}\n}\n"
        );
        assert_eq!(compact(&json!({"a": 1})), "{\"a\":1}");
    }
}
