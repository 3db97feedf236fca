//! Tables that the server has filled (`meta.k8s.io/v1` Table): which columns show, with which widths.

use serde_json::Value;

/// How a table shows.
#[derive(Clone, Debug, Default)]
pub struct TableOptions {
    /// Also the columns of lower priority.
    pub wide: bool,
    /// Without the line of names.
    pub no_headers: bool,
    /// With the namespace first.
    pub with_namespace: bool,
    /// With all labels last.
    pub show_labels: bool,
    /// With these labels as columns.
    pub label_columns: Vec<String>,
    /// `Some("deployment.apps")`: names carry their kind.
    pub kind: Option<String>,
}

/// Prints tables that follow each other under one header, with columns that never get narrower.
#[derive(Debug, Default)]
pub struct TablePrinter {
    options: TableOptions,
    columns: Vec<Value>,
    printed_header: bool,
    widths: Vec<usize>,
}

const WIDTH_MIN: usize = 6;
const PADDING: usize = 3;

impl TablePrinter {
    /// A printer that has printed nothing yet.
    pub fn new(options: TableOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// The lines of several tables, aligned together. `event` is the type of a watch event, if that is to show.
    pub fn print(&mut self, tables: &[&Value], event: Option<&str>) -> String {
        let mut lines = Vec::new();
        for table in tables {
            self.lines(table, event, &mut lines);
        }
        self.align(&lines)
    }

    fn lines(&mut self, table: &Value, event: Option<&str>, lines: &mut Vec<Vec<String>>) {
        let empty = Vec::new();
        let given = table["columnDefinitions"].as_array().unwrap_or(&empty);
        if !given.is_empty() && *given != self.columns {
            self.columns.clone_from(given);
            self.printed_header = false;
        }
        let rows = table["rows"].as_array().unwrap_or(&empty);
        if rows.is_empty() {
            return;
        }
        if !self.printed_header && !self.options.no_headers {
            lines.push(self.header(event.is_some()));
        }
        self.printed_header = true;
        lines.extend(rows.iter().map(|row| self.row(row, event)));
    }

    fn shown(&self) -> impl Iterator<Item = (usize, &Value)> {
        self.columns.iter().enumerate().filter(|(_, column)| self.options.wide || column["priority"].as_i64().unwrap_or(0) == 0)
    }

    fn header(&self, with_event: bool) -> Vec<String> {
        let mut cells = Vec::new();
        if with_event {
            cells.push("EVENT".to_owned());
        }
        if self.options.with_namespace {
            cells.push("NAMESPACE".to_owned());
        }
        cells.extend(self.shown().map(|(_, column)| column["name"].as_str().unwrap_or_default().to_uppercase()));
        for label in &self.options.label_columns {
            cells.push(label.rsplit('/').next().unwrap_or_default().to_uppercase());
        }
        if self.options.show_labels {
            cells.push("LABELS".to_owned());
        }
        cells
    }

    fn row(&self, row: &Value, event: Option<&str>) -> Vec<String> {
        let metadata = &row["object"]["metadata"];
        let mut cells = Vec::new();
        if let Some(event) = event {
            cells.push(format!("{event:<8}"));
        }
        if self.options.with_namespace {
            cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for (at, column) in self.shown() {
            let mut cell = cell_text(&row["cells"][at]);
            if let Some(kind) = &self.options.kind
                && column["format"] == "name"
                && column["type"] == "string"
            {
                cell = format!("{kind}/{cell}");
            }
            cells.push(cell);
        }
        let labels = &metadata["labels"];
        for label in &self.options.label_columns {
            cells.push(labels[label].as_str().unwrap_or("").to_owned());
        }
        if self.options.show_labels {
            cells.push(labels_text(labels));
        }
        cells
    }

    fn align(&mut self, lines: &[Vec<String>]) -> String {
        for line in lines {
            for (column, cell) in line.iter().enumerate() {
                let width = WIDTH_MIN.max(cell.chars().count() + PADDING);
                match self.widths.get_mut(column) {
                    Some(known) => *known = width.max(*known),
                    None => self.widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for line in lines {
            for (column, cell) in line.iter().enumerate() {
                out.push_str(cell);
                if column + 1 < line.len() {
                    out.extend(std::iter::repeat_n(' ', self.widths[column].saturating_sub(cell.chars().count())));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// Labels in one cell.
pub fn labels_text(labels: &Value) -> String {
    let pairs: Vec<String> =
        labels.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn cell_text(cell: &Value) -> String {
    let text = match cell {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // a cell is one line, and no terminal takes commands from it
    let shown = match text.find(['\n', '\r', '\u{c}']) {
        Some(at) => format!("{}...", &text[..at]),
        None => text,
    };
    shown.replace('\u{1b}', "^[")
}

/// Orders the rows of a table by the given key of each row's object.
pub fn sort_rows(table: &mut Value, key: impl Fn(&Value) -> super::jsonpath::SortKey) {
    if let Some(rows) = table["rows"].as_array_mut() {
        rows.sort_by_cached_key(|row| key(&row["object"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Value {
        json!({"columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "priority": 0}, {"name": "Restarts", "type": "integer"}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["shop-1", 3, "10.0.0.1"], "object": {"metadata": {"name": "shop-1", "namespace": "web", "labels": {"app": "shop", "b": "c"}}}},
                     {"cells": ["x\nsecond line", null, null], "object": {"metadata": {"name": "x", "namespace": "default"}}}]})
    }

    #[test]
    fn columns_of_lower_priority_need_wide() {
        let mut narrow = TablePrinter::new(TableOptions::default());
        assert_eq!(narrow.print(&[&pods()], None), "NAME     RESTARTS\nshop-1   3\nx...     \n");
        let mut wide = TablePrinter::new(TableOptions { wide: true, no_headers: true, ..TableOptions::default() });
        assert_eq!(wide.print(&[&pods()], None), "shop-1   3     10.0.0.1\nx...           \n");
    }

    #[test]
    fn namespaces_kinds_and_labels_are_added() {
        let options = TableOptions {
            with_namespace: true,
            show_labels: true,
            label_columns: vec!["example.com/app".to_owned(), "app".to_owned()],
            kind: Some("pod".to_owned()),
            ..TableOptions::default()
        };
        let text = TablePrinter::new(options).print(&[&pods()], None);
        assert_eq!(
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>(),
            ["NAMESPACE NAME RESTARTS APP APP LABELS", "web pod/shop-1 3 shop app=shop,b=c", "default pod/x... <none>"]
        );
    }

    #[test]
    fn one_header_for_tables_that_follow_and_widths_are_kept() {
        let mut printer = TablePrinter::new(TableOptions::default());
        let first = printer.print(&[&pods()], None);
        let mut next = pods();
        next["columnDefinitions"] = json!([]);
        next["rows"] = json!([{"cells": ["y", 0]}]);
        assert_eq!(printer.print(&[&next], None), "y        0\n");
        assert!(first.starts_with("NAME"));
        let mut empty = pods();
        empty["rows"] = json!([]);
        assert_eq!(TablePrinter::new(TableOptions::default()).print(&[&empty], None), "");
    }
}
