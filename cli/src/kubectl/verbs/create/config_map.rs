//! `create configmap`.

use serde_json::{Value, json};

use super::Common;
use super::sources::{self, SourceArgs};

/// Arguments of `create configmap`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its name
    pub name: String,
    #[command(flatten)]
    pub sources: SourceArgs,
    #[command(flatten)]
    pub common: Common,
}

/// The object.
///
/// # Errors
/// When data cannot be read.
pub fn object(args: &Args) -> anyhow::Result<Value> {
    let (texts, binaries) = sources::config_map_data(args.sources.read("ConfigMap")?);
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": args.name}});
    for (field, data) in [("data", texts), ("binaryData", binaries)] {
        if data.as_object().is_some_and(|map| !map.is_empty()) {
            object[field] = data;
        }
    }
    Ok(object)
}
