//! What objects look like: tables, JSON, YAML, names, JSONPath, columns of one's own. Pure functions from values to text.

pub mod custom_columns;
pub mod go_template;
pub mod json;
pub mod jsonpath;
pub mod name;
pub mod printer;
pub mod table;
pub mod tabs;
pub mod yaml;

pub use printer::{OutputArgs, Printer};
