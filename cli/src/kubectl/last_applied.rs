//! The annotation in which `apply` keeps the file that it applied last.

use serde_json::{Value, json};

use super::print::json as json_text;

/// Its name.
pub const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The file's object with itself in the annotation.
pub fn with_annotation(object: &Value) -> Value {
    let mut bare = object.clone();
    if !bare["metadata"].is_object() {
        bare["metadata"] = json!({});
    }
    if !bare["metadata"]["annotations"].is_object() {
        bare["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = bare["metadata"]["annotations"].as_object_mut() {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{}\n", json_text::compact(&bare));
    bare["metadata"]["annotations"][ANNOTATION] = Value::String(text);
    bare
}

/// What was applied last; `{}` if that is unknown.
pub fn read(live: &Value) -> Value {
    live["metadata"]["annotations"][ANNOTATION].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| json!({}))
}

/// Without members that are null: a create must say the same as a later change would.
pub fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_holds_everything_but_itself() {
        let file = json!({"kind": "Pod", "metadata": {"name": "x"}, "spec": {"a": null}});
        let once = with_annotation(&file);
        assert_eq!(
            once["metadata"]["annotations"][ANNOTATION],
            "{\"kind\":\"Pod\",\"metadata\":{\"annotations\":{},\"name\":\"x\"},\"spec\":{\"a\":null}}\n"
        );
        assert_eq!(with_annotation(&once), once);
        assert_eq!(read(&once)["metadata"]["name"], "x");
        assert_eq!(read(&file), json!({}));
        let mut bare = file;
        without_nulls(&mut bare);
        assert_eq!(bare["spec"], json!({}));
    }
}
