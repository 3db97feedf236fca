//! `-o custom-columns=NAME:.metadata.name,...` and `-o custom-columns-file=FILE`.

use anyhow::bail;
use serde_json::Value;

use super::jsonpath::{self, JsonPath};
use super::tabs;

/// Columns with the path of their cells.
#[derive(Debug)]
pub struct CustomColumns {
    columns: Vec<(String, JsonPath)>,
}

impl CustomColumns {
    /// Reads `HEADER:PATH,HEADER:PATH`.
    ///
    /// # Errors
    /// kubectl's words for what is wrong.
    pub fn parse(spec: &str) -> anyhow::Result<Self> {
        if spec.is_empty() {
            bail!("custom-columns format specified but no custom columns given");
        }
        let mut columns = Vec::new();
        for part in spec.split(',') {
            let Some((header, path)) = part.split_once(':') else {
                bail!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>");
            };
            columns.push((header.to_owned(), JsonPath::parse_allowing_missing(&jsonpath::relaxed(path)?)?));
        }
        Ok(Self { columns })
    }

    /// Reads a file whose first line holds the headers and whose second the paths.
    ///
    /// # Errors
    /// When a line is missing or their numbers differ.
    pub fn parse_template(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let headers: Vec<&str> = lines.next().map(|line| line.split_whitespace().collect()).unwrap_or_default();
        let Some(second) = lines.next() else {
            bail!(
                "invalid template, missing spec line. Expected format is one line of space separated column headers, one line of space separated column specs"
            )
        };
        let paths: Vec<&str> = second.split_whitespace().collect();
        if headers.len() != paths.len() {
            bail!("number of headers ({}) and field specifications ({}) don't match", headers.len(), paths.len());
        }
        let columns = headers
            .into_iter()
            .zip(paths)
            .map(|(header, path)| Ok((header.to_owned(), JsonPath::parse_allowing_missing(&jsonpath::relaxed(path)?)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { columns })
    }

    /// The table of some objects.
    ///
    /// # Errors
    /// When a path cannot be followed.
    pub fn print(&self, objects: &[&Value], headers: bool) -> anyhow::Result<String> {
        let mut text = String::new();
        if headers {
            text.push_str(&self.columns.iter().map(|(header, _)| header.as_str()).collect::<Vec<_>>().join("\t"));
            text.push('\n');
        }
        for object in objects {
            let cells: Vec<String> = self.columns.iter().map(|(_, path)| cell(path, object)).collect::<anyhow::Result<_>>()?;
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        Ok(tabs::align(&text, 6, 3))
    }
}

fn cell(path: &JsonPath, object: &Value) -> anyhow::Result<String> {
    let found: Vec<String> = path
        .values(object)?
        .into_iter()
        .map(|value| match value {
            Value::Null => "<none>".to_owned(),
            other => jsonpath::go_text(&other),
        })
        .collect();
    Ok(if found.is_empty() { "<none>".to_owned() } else { found.join(",") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_paths_and_absence_shows() {
        let columns = CustomColumns::parse("NAME:.metadata.name,IMAGES:.spec.containers[*].image,NO:.nothing").expect("it is a spec");
        let pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"image": "a:1"}, {"image": "b:2"}]}});
        assert_eq!(columns.print(&[&pod], true).expect("it prints"), "NAME   IMAGES    NO\nx      a:1,b:2   <none>\n");
        let template = CustomColumns::parse_template("NAME  KIND\nmetadata.name {.kind}\n").expect("it is a template");
        assert_eq!(template.print(&[&pod], false).expect("it prints"), "x     <none>\n");
    }

    #[test]
    fn what_is_no_spec_is_refused() {
        assert!(CustomColumns::parse("").is_err() && CustomColumns::parse("NAME").is_err());
        assert!(CustomColumns::parse_template("A B\n.x\n").is_err() && CustomColumns::parse_template("A").is_err());
    }
}
