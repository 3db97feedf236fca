//! `get`: objects as tables, or in any other form; once or as they change.

use std::pin::pin;

use anyhow::bail;
use futures::StreamExt as _;
use serde_json::{Value, json};
use trierarch_api::{ApiError, Reason};
use trierarch_client::{Request, watch};

use crate::kubectl::errors::{self, Usage};
use crate::kubectl::manifest::FileArgs;
use crate::kubectl::output::{emit, emit_bytes, note};
use crate::kubectl::print::jsonpath::{self, JsonPath, SortKey};
use crate::kubectl::print::printer::list_of;
use crate::kubectl::print::table::{TableOptions, TablePrinter, sort_rows};
use crate::kubectl::print::{OutputArgs, Printer};
use crate::kubectl::select::{self, CHUNK, Narrow, Wanted};
use crate::kubectl::session::Session;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

/// Arguments of `get`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl get pods -o wide                                 pods of the namespace, with nodes and addresses
  kubectl get deploy,svc -l app=shop                       several types, by label
  kubectl get pod/a svc/b                                  some objects of several types
  kubectl get pods -A --field-selector spec.nodeName=n1    what runs on a node
  kubectl get pods -w                                      and every change of them
  kubectl get pods -o jsonpath='{.items[*].status.podIP}'
  kubectl get nodes -o custom-columns=NAME:.metadata.name,CPU:.status.capacity.cpu")]
pub struct Args {
    /// TYPE, TYPE NAME..., TYPE/NAME..., or several types with commas
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Only objects with these labels, as in app=shop,tier!=db
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Only objects with these fields, as in status.phase=Running
    #[arg(long)]
    pub field_selector: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub all_namespaces: bool,
    /// Print, then print what changes
    #[arg(short, long)]
    pub watch: bool,
    /// Print what changes only
    #[arg(long)]
    pub watch_only: bool,
    /// With a watch: say what happened to each object
    #[arg(long)]
    pub output_watch_events: bool,
    /// A missing object is no failure
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Without the line of column names
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub no_headers: bool,
    /// With a column of all labels
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub show_labels: bool,
    /// With a column for each of these labels
    #[arg(short = 'L', long, value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// With the type before each name
    #[arg(long)]
    pub show_kind: bool,
    /// Order by this path, as in .metadata.creationTimestamp
    #[arg(long)]
    pub sort_by: Option<String>,
    /// A subresource, such as status or scale
    #[arg(long)]
    pub subresource: Option<String>,
    /// Print what the server answers at this address
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// How many objects the server is asked for at once
    #[arg(long, default_value_t = CHUNK)]
    pub chunk_size: u32,
    /// Let the server choose the columns
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub server_print: bool,
}

impl Args {
    fn validate(&self) -> anyhow::Result<()> {
        if self.raw.is_some() {
            if self.watch || self.watch_only || !self.what.is_empty() || self.selector.is_some() {
                bail!("arguments may not be passed when --raw is specified");
            }
            return Ok(());
        }
        if self.what.is_empty() && self.files.is_empty() {
            note(
                "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n",
            );
            let hint = "Use \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).";
            return Err(Usage { verb: "get", message: format!("Required resource not specified.\n{hint}") }.into());
        }
        if self.output_watch_events && !(self.watch || self.watch_only) {
            return Err(Usage {
                verb: "get",
                message: "--output-watch-events option can only be used with --watch or --watch-only".to_owned(),
            }
            .into());
        }
        if self.show_labels && self.output.output.as_deref().is_some_and(|form| !form.is_empty() && form != "wide") {
            bail!("--show-labels option cannot be used with {} printer", self.output.output.as_deref().unwrap_or_default());
        }
        Ok(())
    }

    fn narrow(&self) -> Narrow {
        Narrow {
            labels: self.selector.clone(),
            fields: self.field_selector.clone(),
            all_namespaces: self.all_namespaces,
            all: false,
            chunk: if self.sort_by.is_some() { 0 } else { self.chunk_size },
        }
    }
}

/// Carries it out.
///
/// # Errors
/// In kubectl's words.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    args.validate()?;
    if let Some(path) = &args.raw {
        let response = session.send(Request::get(path.clone())).await?;
        return emit_bytes(&response.body);
    }
    let printer = args.output.printer()?;
    let discovery = session.discovery().await?;
    let narrow = args.narrow();
    let wanted = if args.files.is_empty() {
        select::arguments(&discovery, &args.what, &session.namespace, &narrow)?
    } else {
        if !args.what.is_empty() {
            bail!("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well");
        }
        select::files(&discovery, args.files.load()?, session)?
    };
    if args.watch || args.watch_only {
        return follow(session, &args, wanted, printer.as_ref(), &narrow).await;
    }
    match printer {
        Some(printer) => objects(session, &args, wanted, &printer, &narrow).await,
        None => tables(session, &args, wanted, &narrow).await,
    }
}

fn address(args: &Args, wanted: &Wanted) -> String {
    match wanted {
        Wanted::One { resource, namespace, name, .. } => {
            let path = resource.path(namespace.as_deref(), name);
            args.subresource.as_ref().map_or_else(|| path.clone(), |sub| format!("{path}/{sub}"))
        }
        Wanted::All { resource, namespace } => resource.path(namespace.as_deref(), ""),
    }
}

fn resource_of(wanted: &Wanted) -> &crate::kubectl::discovery::Resource {
    match wanted {
        Wanted::One { resource, .. } | Wanted::All { resource, .. } => resource,
    }
}

async fn read(session: &Session, args: &Args, wanted: &Wanted, narrow: &Narrow, accept: Option<&str>) -> anyhow::Result<Value> {
    let path = address(args, wanted);
    let more = if args.sort_by.is_some() && accept.is_some() { "includeObject=Object" } else { "" };
    match wanted {
        Wanted::All { resource, .. } => {
            select::list(session, &path, narrow, accept, more).await.map_err(|error| select::list_failure(resource, narrow, error))
        }
        Wanted::One { .. } => {
            let path = if more.is_empty() { path } else { format!("{path}?{more}") };
            session.json(Request { accept: accept.map(str::to_owned), ..Request::get(path) }).await
        }
    }
}

fn sorter(args: &Args) -> anyhow::Result<Option<JsonPath>> {
    args.sort_by.as_deref().map(|path| JsonPath::parse_allowing_missing(&jsonpath::relaxed(path)?)).transpose()
}

fn table_options(args: &Args, wanted: &Wanted, with_kind: bool) -> TableOptions {
    let resource = resource_of(wanted);
    TableOptions {
        wide: args.output.is_wide(),
        no_headers: args.no_headers,
        with_namespace: args.all_namespaces && resource.namespaced,
        show_labels: args.show_labels,
        label_columns: args.label_columns.clone(),
        kind: with_kind.then(|| resource.kind_name()),
    }
}

/// A table of an object that came without one.
fn as_table(answer: Value) -> Value {
    if answer["kind"] == "Table" {
        return answer;
    }
    let now = crate::kubectl::clock::now();
    let rows: Vec<Value> = crate::kubectl::print::printer::items(&answer)
        .into_iter()
        .map(|object| {
            let age = crate::kubectl::duration::age(&object["metadata"]["creationTimestamp"], now);
            json!({"cells": [object["metadata"]["name"], age], "object": object})
        })
        .collect();
    json!({"kind": "Table", "rows": rows, "columnDefinitions": [
        {"name": "Name", "type": "string", "format": "name", "priority": 0}, {"name": "Age", "type": "string", "priority": 0}]})
}

async fn tables(session: &Session, args: &Args, wanted: Vec<Wanted>, narrow: &Narrow) -> anyhow::Result<()> {
    let accept = args.server_print.then_some(TABLE);
    let sorter = sorter(args)?;
    let mut failures = Vec::new();
    let mut read_tables: Vec<(Wanted, Value)> = Vec::new();
    for one in wanted {
        match read(session, args, &one, narrow, accept).await {
            Ok(answer) => {
                let mut table = as_table(answer);
                if let Some(path) = &sorter {
                    sort_rows(&mut table, |object| SortKey::of(path, object));
                }
                read_tables.push((one, table));
            }
            Err(error) if args.ignore_not_found && errors::is(&error, Reason::NotFound) => {}
            Err(error) => failures.push(error),
        }
    }
    let kinds: Vec<String> = read_tables.iter().map(|(wanted, _)| resource_of(wanted).group_resource()).collect();
    let with_kind = args.show_kind || kinds.iter().any(|kind| *kind != kinds[0]);
    let all_namespaced = !args.all_namespaces && read_tables.iter().all(|(wanted, _)| resource_of(wanted).namespaced);
    let mut written = String::new();
    let mut at = 0;
    while at < read_tables.len() {
        // neighbours of one kind share a header and their widths
        let end = (at..kinds.len()).find(|other| kinds[*other] != kinds[at]).unwrap_or(kinds.len());
        let group: Vec<&Value> = read_tables[at..end].iter().map(|(_, table)| table).collect();
        let text = TablePrinter::new(table_options(args, &read_tables[at].0, with_kind)).print(&group, None);
        if !text.is_empty() && !written.is_empty() && !args.no_headers {
            written.push('\n');
        }
        written.push_str(&text);
        at = end;
    }
    emit(&written)?;
    if written.is_empty() && !args.ignore_not_found && failures.is_empty() {
        if all_namespaced {
            note(format!("No resources found in {} namespace.", session.namespace));
        } else {
            note("No resources found");
        }
    }
    errors::aggregate(failures)
}

async fn objects(session: &Session, args: &Args, wanted: Vec<Wanted>, printer: &Printer, narrow: &Narrow) -> anyhow::Result<()> {
    let sorter = sorter(args)?;
    let single = matches!(wanted.as_slice(), [Wanted::One { .. }]);
    let mut failures = Vec::new();
    let mut all = Vec::new();
    for one in wanted {
        match read(session, args, &one, narrow, None).await {
            Ok(mut answer) => match &one {
                Wanted::One { .. } => all.push(answer),
                Wanted::All { resource, .. } => all.extend(select::items_of(resource, &mut answer)),
            },
            Err(error) if args.ignore_not_found && errors::is(&error, Reason::NotFound) => {}
            Err(error) => failures.push(error),
        }
    }
    if (single && !failures.is_empty()) || (all.is_empty() && args.ignore_not_found) {
        return errors::aggregate(failures);
    }
    if let Some(path) = &sorter {
        all.sort_by_cached_key(|object| SortKey::of(path, object));
    }
    let object = match (single, all.len()) {
        (true, 1) => all.remove(0),
        _ => list_of(all),
    };
    emit(&printer.text(&object, args.output.show_managed_fields, !args.no_headers)?)?;
    errors::aggregate(failures)
}

async fn follow(session: &Session, args: &Args, wanted: Vec<Wanted>, printer: Option<&Printer>, narrow: &Narrow) -> anyhow::Result<()> {
    let [one] = wanted.as_slice() else {
        bail!("you may only specify a single resource type");
    };
    let accept = if printer.is_none() && args.server_print { Some(TABLE) } else { None };
    let first = match read(session, args, one, narrow, accept).await {
        Err(error) if args.ignore_not_found && errors::is(&error, Reason::NotFound) => {
            return Ok(());
        }
        outcome => outcome?,
    };
    let mut shown = Shown { args, printer, table: TablePrinter::new(table_options(args, one, args.show_kind)) };
    if !args.watch_only {
        shown.show(&first, "ADDED")?;
    }
    let (resource, namespace, selection, version) = match one {
        Wanted::All { resource, namespace } => {
            (resource, namespace, narrow.clone(), first["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned())
        }
        // a watch from "now" of a single object begins with the object itself
        Wanted::One { resource, namespace, name, .. } => {
            let fields = Some(format!("metadata.name={name}"));
            (resource, namespace, Narrow { fields, ..Narrow::default() }, "0".to_owned())
        }
    };
    let mut skip = matches!(one, Wanted::One { .. });
    let query = select::query(&selection, 0, "");
    let separator = if query.is_empty() { "?" } else { "&" };
    let path = format!("{}{query}{separator}resourceVersion={version}&watch=true", resource.path(namespace.as_deref(), ""));
    let request = Request { accept: accept.map(str::to_owned), timeout: session.request_timeout(), ..Request::get(path) };
    let mut lines = pin!(watch::lines(session.stream(request).await?));
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_slice(&line?)?;
        let kind = event["type"].as_str().unwrap_or_default();
        match kind {
            "BOOKMARK" => continue,
            "ERROR" => {
                let code = event["object"]["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
                return Err(trierarch_client::Error::Api(ApiError::from_status(&event["object"], code)).into());
            }
            _ => {}
        }
        if std::mem::take(&mut skip) && !args.watch_only {
            // its columns are known already, and so is what it says
            continue;
        }
        shown.show(&event["object"], kind)?;
    }
    Ok(())
}

struct Shown<'a> {
    args: &'a Args,
    printer: Option<&'a Printer>,
    table: TablePrinter,
}

impl Shown<'_> {
    fn show(&mut self, object: &Value, event: &str) -> anyhow::Result<()> {
        let with_events = self.args.output_watch_events;
        let Some(printer) = self.printer else {
            let table = as_table(object.clone());
            return emit(&self.table.print(&[&table], with_events.then_some(event)));
        };
        for item in crate::kubectl::print::printer::items(object) {
            let document =
                if with_events && !matches!(printer, Printer::Name) { json!({"type": event, "object": item}) } else { item.clone() };
            let mut text = printer.text(&document, self.args.output.show_managed_fields, false)?;
            if matches!(printer, Printer::Yaml) {
                text.insert_str(0, "---\n");
            }
            emit(&text)?;
        }
        Ok(())
    }
}
