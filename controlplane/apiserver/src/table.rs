//! The Table form: columns and cells that the server renders (`Spec:` meta.k8s.io/v1 Table).

use jiff::Timestamp;
use serde_json::{Value, json};
use trierarch_api::{ApiError, Kind};

use crate::request::Options;

/// What a row carries of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// Reads `includeObject`.
    ///
    /// # Errors
    /// 400 for other values.
    pub fn parse(options: &Options) -> Result<Self, ApiError> {
        match options.text("includeObject") {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// A table of rows.
pub fn table(kind: &Kind, rows: Vec<Value>, list_meta: Value, headers: bool) -> Value {
    let columns: Value = if headers {
        kind.rules
            .columns
            .iter()
            .map(|column| {
                json!({
                    "name": column.name, "type": column.kind, "format": column.format,
                    "description": column.description, "priority": column.priority,
                })
            })
            .collect()
    } else {
        Value::Null
    };
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "columnDefinitions": columns, "rows": rows })
}

/// An object's row.
pub fn row(kind: &Kind, value: &Value, include: Include, now: Timestamp) -> Value {
    let mut row = json!({ "cells": (kind.rules.cells)(value, now) });
    match include {
        Include::None => row["object"] = Value::Null,
        Include::Metadata => {
            row["object"] = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"] });
        }
        Include::Object => row["object"] = value.clone(),
    }
    row
}
