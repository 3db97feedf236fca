//! What verbs that change objects share: dry runs, validation by the server, and how they say what they did.

use std::cell::Cell;

use anyhow::bail;
use serde_json::Value;
use trierarch_client::{PatchKind, Request};

use super::discovery::escape;
use super::output::emit;
use super::print::{OutputArgs, Printer, name};
use super::session::Session;

/// `--dry-run`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DryRunArgs {
    /// Change nothing: client shows what would be sent, server lets the server check it
    #[arg(long = "dry-run", value_name = "none|client|server", num_args = 0..=1, require_equals = true, default_missing_value = "unchanged", default_value = "none")]
    dry_run: String,
}

/// How far a change goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DryRun {
    /// All the way.
    #[default]
    No,
    /// Nothing is sent.
    Client,
    /// The server checks and stores nothing.
    Server,
}

impl DryRunArgs {
    /// What was asked for.
    ///
    /// # Errors
    /// kubectl's words for anything else.
    pub fn parse(&self) -> anyhow::Result<DryRun> {
        Ok(match self.dry_run.as_str() {
            "" | "none" | "false" => DryRun::No,
            "client" => DryRun::Client,
            "server" => DryRun::Server,
            "unchanged" | "true" => {
                super::output::note("W: --dry-run is deprecated and can be replaced with --dry-run=client.");
                DryRun::Client
            }
            other => bail!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\"."),
        })
    }
}

/// `--validate`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ValidateArgs {
    /// What unknown and duplicate fields are: strict (refused), warn, ignore
    #[arg(long, value_name = "strict|warn|ignore", num_args = 0..=1, require_equals = true, default_missing_value = "strict", default_value = "strict")]
    validate: String,
}

impl ValidateArgs {
    /// `fieldValidation` of a request.
    ///
    /// # Errors
    /// kubectl's words for anything else.
    pub fn parse(&self) -> anyhow::Result<&'static str> {
        Ok(match self.validate.as_str() {
            "" | "strict" | "true" => "Strict",
            "warn" => "Warn",
            "ignore" | "false" => "Ignore",
            other => bail!("invalid - validate option {other:?}; must be one of: strict (or true), warn, ignore (or false)"),
        })
    }
}

/// The query of a change.
pub fn query(dry_run: DryRun, manager: &str, validation: &str) -> String {
    let mut parts = Vec::new();
    if dry_run == DryRun::Server {
        parts.push("dryRun=All".to_owned());
    }
    if !manager.is_empty() {
        parts.push(format!("fieldManager={}", escape(manager)));
    }
    if !validation.is_empty() {
        parts.push(format!("fieldValidation={validation}"));
    }
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

/// Sends a patch; returns the object as it is now.
///
/// # Errors
/// As [`Session::json`].
pub async fn patch(session: &Session, path: &str, query: &str, kind: PatchKind, patch: &Value) -> anyhow::Result<Value> {
    let mut request = Request::json(http::Method::PATCH, format!("{path}{query}"), patch);
    request.content_type = Some(kind.content_type().to_owned());
    session.json(request).await
}

/// Says what was done to objects, in the form that `-o` asks for.
pub struct Report {
    printer: Option<Printer>,
    show_managed_fields: bool,
    dry_run: DryRun,
    printed: Cell<usize>,
}

impl Report {
    /// A report that has said nothing.
    ///
    /// # Errors
    /// When `-o` names no form.
    pub fn new(output: &OutputArgs, dry_run: DryRun) -> anyhow::Result<Self> {
        Ok(Self { printer: output.printer()?, show_managed_fields: output.show_managed_fields, dry_run, printed: Cell::new(0) })
    }

    /// Whether objects themselves are printed.
    pub fn shows_objects(&self) -> bool {
        !matches!(self.printer, None | Some(Printer::Name))
    }

    /// One object, and what was done to it.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn show(&self, object: &Value, operation: &str) -> anyhow::Result<()> {
        let Some(printer) = &self.printer else {
            return emit(&format!("{} {operation}{}\n", name::name(object), self.suffix()));
        };
        let mut text = printer.text(object, self.show_managed_fields, self.printed.get() == 0)?;
        if self.printed.replace(self.printed.get() + 1) > 0 && matches!(printer, Printer::Yaml) {
            text.insert_str(0, "---\n");
        }
        emit(&text)
    }

    /// ` (dry run)`, ` (server dry run)` or nothing.
    pub fn suffix(&self) -> &'static str {
        suffix(self.dry_run)
    }
}

/// ` (dry run)`, ` (server dry run)` or nothing.
pub fn suffix(dry_run: DryRun) -> &'static str {
    match dry_run {
        DryRun::No => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood() {
        let dry = |text: &str| DryRunArgs { dry_run: text.to_owned() }.parse();
        assert_eq!((dry("none").expect("fine"), dry("server").expect("fine")), (DryRun::No, DryRun::Server));
        assert!(dry("x").is_err());
        let validate = |text: &str| ValidateArgs { validate: text.to_owned() }.parse();
        assert_eq!((validate("true").expect("fine"), validate("false").expect("fine")), ("Strict", "Ignore"));
        assert!(validate("x").is_err());
        assert_eq!(query(DryRun::Server, "k t", "Strict"), "?dryRun=All&fieldManager=k%20t&fieldValidation=Strict");
        assert_eq!(query(DryRun::No, "", ""), "");
    }
}
