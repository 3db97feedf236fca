//! What people see of a report: text for a terminal, JSON for programs, a page for everybody.

mod chronicle;
mod curves;
mod markup;
pub mod page;
pub mod text;
mod timeline;

use crate::report::Report;

/// The whole report for programs.
///
/// # Errors
/// None that can happen: every part of a report has a form in JSON.
pub fn json(report: &Report) -> serde_json::Result<String> {
    serde_json::to_string_pretty(report)
}
