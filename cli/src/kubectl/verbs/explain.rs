//! `explain`: what the fields of a kind mean, from the server's OpenAPI v3.

use anyhow::bail;
use serde_json::Value;

use crate::kubectl::errors::Plain;
use crate::kubectl::output::emit;
use crate::kubectl::session::Session;

const INDENT: usize = 2;
const WIDTH: usize = 80;
/// So many values show where a line must do.
const ENUM_MAX: usize = 4;

/// Arguments of `explain`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl explain pods
  kubectl explain deploy.spec.strategy
  kubectl explain pod.spec --recursive")]
pub struct Args {
    /// TYPE[.FIELD...]
    pub what: Option<String>,
    /// All fields below, without what they mean
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub recursive: bool,
    /// Of this version of the kind
    #[arg(long)]
    pub api_version: Option<String>,
    /// Accepted: plaintext
    #[arg(short, long, default_value = "plaintext", hide = true)]
    pub output: String,
}

/// Carries it out.
///
/// # Errors
/// When the kind or field does not exist.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let Some(what) = &args.what else {
        bail!("You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources.")
    };
    if args.output != "plaintext" {
        bail!("this kubectl explains in plain text only: use the real kubectl for -o {}", args.output);
    }
    let discovery = session.discovery().await?;
    // the type may have a group: deployments.apps.spec does not, deploy.spec does
    let words: Vec<&str> = what.split('.').collect();
    let mut resource = None;
    for length in (1..=words.len()).rev() {
        if let Ok(found) = discovery.resource(&words[..length].join(".")) {
            resource = Some((found, &words[length..]));
            break;
        }
    }
    let Some((mut resource, fields)) = resource else {
        return Err(Plain(format!("the server doesn't have a resource type {:?}", words[0])).into());
    };
    if let Some(version) = &args.api_version {
        match discovery.by_kind(version, &resource.kind) {
            Some(found) => resource = found,
            None => bail!("couldn't find resource for \"{version}, Kind={}\"", resource.kind),
        }
    }
    let path = if resource.group.is_empty() {
        format!("/openapi/v3/api/{}", resource.version)
    } else {
        format!("/openapi/v3/apis/{}/{}", resource.group, resource.version)
    };
    let document = session.get(&path).await?;
    let schemas = &document["components"]["schemas"];
    let of_kind = |schema: &&Value| {
        schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten().any(|gvk| {
            gvk["kind"] == resource.kind.as_str()
                && gvk["group"].as_str().unwrap_or_default() == resource.group
                && gvk["version"] == resource.version.as_str()
        })
    };
    let Some(schema) = schemas.as_object().into_iter().flat_map(|map| map.values()).find(of_kind) else {
        bail!("couldn't find resource for \"{}, Kind={}\"", resource.api_version(), resource.kind);
    };
    let mut text = String::new();
    if !resource.group.is_empty() {
        text.push_str(&format!("GROUP:      {}\n", resource.group));
    }
    text.push_str(&format!("KIND:       {}\nVERSION:    {}\n\n", resource.kind, resource.version));
    emit(&text)?;
    emit(&explain(schemas, schema, fields, args.recursive)?)
}

/// A schema without references; the text beside a reference is kept.
fn resolved<'a>(schemas: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    match reference.and_then(|name| name.rsplit('/').next()) {
        Some(name) => &schemas[name],
        None => schema,
    }
}

/// The schema of what a list or map holds, else of the thing itself.
fn inner<'a>(schemas: &'a Value, schema: &'a Value) -> &'a Value {
    let schema = resolved(schemas, schema);
    if schema["items"].is_object() {
        return inner(schemas, &schema["items"]);
    }
    if schema["additionalProperties"].is_object() && !schema["properties"].is_object() {
        return inner(schemas, &schema["additionalProperties"]);
    }
    schema
}

fn type_name(schemas: &Value, schema: &Value) -> String {
    let own = resolved(schemas, schema);
    if own["items"].is_object() {
        return format!("[]{}", type_name(schemas, &own["items"]));
    }
    if own["additionalProperties"].is_object() && !own["properties"].is_object() {
        return format!("map[string]{}", type_name(schemas, &own["additionalProperties"]));
    }
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str()).and_then(|name| name.rsplit('.').next());
    match (own["type"].as_str(), reference) {
        (Some("object") | None, Some(name)) if own["properties"].is_object() || own["type"].is_null() || own["type"] == "object" => {
            name.to_owned()
        }
        (Some("object"), None) => "Object".to_owned(),
        (Some(kind), Some(_)) => kind.to_owned(),
        (None, Some(name)) => name.to_owned(),
        (Some(kind), None) => kind.to_owned(),
        (None, None) if own["oneOf"].is_array() || own["x-kubernetes-int-or-string"] == true => "IntOrString".to_owned(),
        (None, None) => "Object".to_owned(),
    }
}

fn explain(schemas: &Value, root: &Value, fields: &[&str], recursive: bool) -> anyhow::Result<String> {
    let mut current = root;
    let mut text = String::new();
    let mut described = root["description"].as_str().unwrap_or_default().to_owned();
    for (at, field) in fields.iter().enumerate() {
        let property = &inner(schemas, current)["properties"][field];
        if property.is_null() {
            bail!("field {field:?} does not exist");
        }
        if at + 1 == fields.len() {
            text.push_str(&format!("FIELD: {field} <{}>{}\n\n", type_name(schemas, property), enumeration(property)));
        }
        let own = property["description"].as_str().unwrap_or_default();
        let below = inner(schemas, property)["description"].as_str().unwrap_or_default();
        described = if own.is_empty() || own == below || below.is_empty() {
            format!("{own}{}", if own.is_empty() { below } else { "" })
        } else {
            format!("{own}\n{below}")
        };
        current = property;
    }
    text.push_str(if fields.is_empty() { "DESCRIPTION:\n" } else { "\nDESCRIPTION:\n" });
    let described = if described.is_empty() { "<empty>".to_owned() } else { described };
    for paragraph in described.split('\n') {
        text.push_str(&wrapped(paragraph, 4));
    }
    text.push_str("    \n");
    let target = inner(schemas, current);
    if let Some(properties) = target["properties"].as_object() {
        text.push_str("FIELDS:\n");
        list(schemas, target, properties, INDENT, recursive, &mut Vec::new(), &mut text);
    }
    text.push('\n');
    Ok(text)
}

fn enumeration(property: &Value) -> String {
    let values: Vec<&str> = property["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if values.is_empty() { String::new() } else { format!("\nENUM:\n    {}", values.join("\n    ")) }
}

fn list(
    schemas: &Value,
    target: &Value,
    properties: &serde_json::Map<String, Value>,
    indent: usize,
    recursive: bool,
    above: &mut Vec<String>,
    text: &mut String,
) {
    let required: Vec<&str> = target["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut names: Vec<&String> = properties.keys().collect();
    names.sort_by_key(|name| (!required.contains(&name.as_str()) || recursive, name.to_owned()));
    if !recursive {
        names.sort();
    }
    let pad = " ".repeat(indent);
    for name in names {
        let property = &properties[name];
        let kind = type_name(schemas, property);
        let mark = if required.contains(&name.as_str()) { " -required-" } else { "" };
        text.push_str(&format!("{pad}{name}\t<{kind}>{mark}\n"));
        let values: Vec<&str> = property["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !values.is_empty() {
            let more = if recursive && values.len() > ENUM_MAX { ", ...." } else { "" };
            let shown = if recursive { &values[..values.len().min(ENUM_MAX)] } else { &values };
            text.push_str(&format!("{pad}enum: {}{more}\n", shown.join(", ")));
        }
        if recursive {
            let below = inner(schemas, property);
            if let Some(inner_properties) = below["properties"].as_object() {
                // schemas of schemas contain themselves
                if above.contains(&kind) {
                    continue;
                }
                above.push(kind);
                list(schemas, below, inner_properties, indent + INDENT, recursive, above, text);
                above.pop();
            }
            continue;
        }
        let described =
            property["description"].as_str().filter(|own| !own.is_empty()).or_else(|| resolved(schemas, property)["description"].as_str());
        for paragraph in described.unwrap_or("<no description>").split('\n') {
            text.push_str(&wrapped(paragraph, 4));
        }
        text.push('\n');
    }
}

/// A paragraph in lines of at most 80 letters, indented.
fn wrapped(paragraph: &str, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut out = String::new();
    let mut current = String::new();
    let mut first = true;
    // blanks that stand together, and those that lead, stay
    for word in paragraph.split(' ') {
        if !first && !current.trim_start().is_empty() && current.chars().count() + 1 + word.chars().count() > WIDTH - indent {
            out.push_str(&format!("{pad}{}\n", current.trim_end()));
            current.clear();
            first = true;
        }
        if first && word.is_empty() && !out.is_empty() {
            continue;
        }
        if !first {
            current.push(' ');
        }
        current.push_str(word);
        first = false;
    }
    let current = current.trim_end();
    out.push_str(&format!("{pad}{current}\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schemas() -> Value {
        json!({
            "io.x.Spec": {"type": "object", "description": "What is wanted.", "required": ["name"], "properties": {
                "name": {"type": "string", "description": "Its name."}, "list": {"type": "array", "items": {"$ref": "#/components/schemas/io.x.Spec"}}}},
            "io.x.Thing": {"type": "object", "description": "A thing.", "properties": {
                "spec": {"description": "The spec.", "allOf": [{"$ref": "#/components/schemas/io.x.Spec"}]}, "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}
        })
    }

    #[test]
    fn fields_have_types_and_meanings() {
        let schemas = schemas();
        let text = explain(&schemas, &schemas["io.x.Thing"], &[], false).expect("it exists");
        assert!(text.contains("  labels\t<map[string]string>\n    <no description>\n\n  spec\t<Spec>\n    The spec.\n"), "{text}");
        let below = explain(&schemas, &schemas["io.x.Thing"], &["spec", "list"], false).expect("it exists");
        assert!(below.starts_with("FIELD: list <[]Spec>\n") && below.contains("name\t<string> -required-\n"), "{below}");
        assert!(explain(&schemas, &schemas["io.x.Thing"], &["zzz"], false).is_err());
        let all = explain(&schemas, &schemas["io.x.Thing"], &[], true).expect("it ends");
        assert!(all.contains("    list\t<[]Spec>\n"), "{all}");
    }

    #[test]
    fn paragraphs_are_wrapped() {
        let text = wrapped(&"word ".repeat(30), 4);
        assert!(text.lines().all(|line| line.len() <= 80 && line.starts_with("    ")) && text.lines().count() == 2);
        assert_eq!(wrapped("  * 'a'  - b", 4), "      * 'a'  - b\n");
    }
}
