//! `-o`: which of the forms an object is printed in.

use anyhow::bail;
use serde_json::{Value, json};

use super::custom_columns::CustomColumns;
use super::go_template::GoTemplate;
use super::jsonpath::JsonPath;
use super::{json, name, yaml};

/// The output flags of verbs that print objects.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct OutputArgs {
    /// How to print: json, yaml, name, wide, jsonpath=TEMPLATE, jsonpath-as-json=TEMPLATE, jsonpath-file=FILE, go-template=TEMPLATE, custom-columns=SPEC, custom-columns-file=FILE
    #[arg(short, long, value_name = "FORM")]
    pub output: Option<String>,
    /// Keep managedFields in JSON and YAML
    #[arg(long)]
    pub show_managed_fields: bool,
    /// A template for -o jsonpath or -o go-template; alone, a Go template
    #[arg(long, value_name = "TEMPLATE")]
    pub template: Option<String>,
    /// Whether a path that leads nowhere is passed over
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_missing_template_keys: bool,
}

/// A form of printing.
#[derive(Debug)]
pub enum Printer {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `pod/x`.
    Name,
    /// A template.
    JsonPath(JsonPath, String),
    /// A template, its values as a JSON list.
    JsonPathAsJson(JsonPath),
    /// Columns of one's own.
    Columns(CustomColumns),
    /// A Go template.
    GoTemplate(GoTemplate, String),
}

const ALLOWED: &str = "custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,template,templatefile,wide,yaml";

impl OutputArgs {
    /// The printer that is asked for; `None` for the table and `wide`.
    ///
    /// # Errors
    /// kubectl's words for a form that does not exist or a template that is wrong.
    pub fn printer(&self) -> anyhow::Result<Option<Printer>> {
        let Some(output) = self.output.as_deref() else {
            return match &self.template {
                Some(template) if !template.is_empty() => Ok(Some(Printer::GoTemplate(GoTemplate::parse(template)?, template.clone()))),
                _ => Ok(None),
            };
        };
        let (form, argument) = match output.split_once('=') {
            Some((form, argument)) => (form, Some(argument.to_owned())),
            None => (output, self.template.clone()),
        };
        let path = |template: &str| {
            if self.allow_missing_template_keys { JsonPath::parse_allowing_missing(template) } else { JsonPath::parse(template) }
        };
        let needed = |what: &str| {
            let named = if form.starts_with("go-") { "template" } else { form };
            argument.clone().ok_or_else(|| anyhow::anyhow!("{named} format specified but no {what} given"))
        };
        Ok(Some(match form {
            "" | "wide" => return Ok(None),
            "json" => Printer::Json,
            "yaml" => Printer::Yaml,
            "name" => Printer::Name,
            "jsonpath" => {
                let template = braced(&needed("template")?);
                Printer::JsonPath(path(&template)?, template)
            }
            "jsonpath-as-json" => Printer::JsonPathAsJson(path(&braced(&needed("template")?))?),
            "jsonpath-file" => {
                let template = read(&needed("template file")?)?;
                Printer::JsonPath(path(&template)?, template)
            }
            "custom-columns" => Printer::Columns(CustomColumns::parse(&argument.unwrap_or_default())?),
            "custom-columns-file" => Printer::Columns(CustomColumns::parse_template(&read(&needed("custom-columns file")?)?)?),
            "go-template" | "template" => {
                let template = needed("template")?;
                Printer::GoTemplate(
                    GoTemplate::parse(&template)
                        .map_err(|error| anyhow::anyhow!("error parsing template {template}, template: output:1: {error}"))?,
                    template,
                )
            }
            "go-template-file" | "templatefile" => {
                let template = read(&needed("template file")?)?;
                Printer::GoTemplate(
                    GoTemplate::parse(&template)
                        .map_err(|error| anyhow::anyhow!("error parsing template {template}, template: output:1: {error}"))?,
                    template,
                )
            }
            "kyaml" => bail!("this kubectl has no kyaml: use -o yaml, or the real kubectl"),
            _ => bail!("unable to match a printer suitable for the output format {output:?}, allowed formats are: {ALLOWED}"),
        }))
    }

    /// Whether `-o wide` was asked for.
    pub fn is_wide(&self) -> bool {
        self.output.as_deref() == Some("wide")
    }
}

/// A path without braces is accepted as a whole.
fn braced(template: &str) -> String {
    if template.contains('{') || template.is_empty() { template.to_owned() } else { format!("{{{template}}}") }
}

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow::anyhow!("error reading template {path}, open {path}: no such file or directory"),
        _ => anyhow::anyhow!("error reading template {path}, {error}"),
    })
}

impl Printer {
    /// The text of one object (or list).
    ///
    /// # Errors
    /// When a template cannot be followed.
    pub fn text(&self, object: &Value, show_managed_fields: bool, headers: bool) -> anyhow::Result<String> {
        let kept;
        let object = if show_managed_fields || !matches!(self, Self::Json | Self::Yaml) {
            object
        } else {
            kept = without_managed_fields(object);
            &kept
        };
        Ok(match self {
            Self::Json => json::pretty(object),
            Self::Yaml => yaml::text(object),
            Self::Name => items(object).into_iter().map(|item| name::name(item) + "\n").collect(),
            Self::JsonPath(path, template) => {
                path.text(object).map_err(|error| anyhow::anyhow!("error executing jsonpath {template:?}: {error}"))?
            }
            Self::JsonPathAsJson(path) => json::pretty(&Value::Array(path.values(object)?)),
            Self::GoTemplate(template, source) => {
                template.text(object).map_err(|error| anyhow::anyhow!("error executing template {source:?}: {error}"))?
            }
            Self::Columns(columns) => columns.print(&items(object), headers)?,
        })
    }
}

/// The objects of a list, or the object itself.
pub fn items(object: &Value) -> Vec<&Value> {
    match object["items"].as_array() {
        Some(list) if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => list.iter().collect(),
        _ => vec![object],
    }
}

/// A `v1` List of these objects.
pub fn list_of(objects: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects})
}

/// The object without what only servers read.
pub fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(&mut object);
    if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
        && let Some(list) = object["items"].as_array_mut()
    {
        list.iter_mut().for_each(strip);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(form: &str, object: &Value) -> anyhow::Result<String> {
        let args = OutputArgs { output: Some(form.to_owned()), allow_missing_template_keys: true, ..OutputArgs::default() };
        args.printer()?.expect("the form is no table").text(object, false, true)
    }

    #[test]
    fn every_form_prints() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "managedFields": [1]}});
        let list = list_of(vec![pod.clone(), pod.clone()]);
        assert_eq!(print("name", &list).expect("prints"), "pod/x\npod/x\n");
        assert_eq!(print("yaml", &pod).expect("prints"), "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n");
        assert!(!print("json", &list).expect("prints").contains("managedFields"));
        assert_eq!(print("jsonpath={.metadata.name}", &pod).expect("prints"), "x");
        assert_eq!(print("jsonpath=.metadata.name", &pod).expect("prints"), "x");
        assert_eq!(print("jsonpath-as-json={.items[*].kind}", &list).expect("prints"), "[\n    \"Pod\",\n    \"Pod\"\n]\n");
        assert_eq!(print("custom-columns=N:.metadata.name", &list).expect("prints"), "N\nx\nx\n");
    }

    #[test]
    fn forms_that_do_not_exist_are_named() {
        let error = print("nope", &Value::Null).expect_err("no such form").to_string();
        assert!(error.starts_with("unable to match a printer suitable for the output format \"nope\", allowed formats are: "), "{error}");
        assert!(
            print("go-template={{.x", &Value::Null)
                .expect_err("open")
                .to_string()
                .starts_with("error parsing template {{.x, template: output:1: ")
        );
        assert_eq!(print("go-template={{.x}}", &json!({"x": 1})).expect("it prints"), "1");
        assert_eq!(
            print("jsonpath", &Value::Null).expect_err("no template").to_string(),
            "jsonpath format specified but no template given"
        );
    }
}
