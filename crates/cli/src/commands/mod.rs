//! One file per family of verbs.

pub(crate) mod agents;
pub(crate) mod builds;
pub(crate) mod deploy;
mod direct;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod lint;
pub(crate) mod pools;
pub(crate) mod project;
pub(crate) mod run;
pub(crate) mod up;

use serde_json::Value;

use crate::client::{Client, Server};
use crate::exit_code::Exit;
use crate::output;

/// `slipway api`.
pub(crate) async fn api(server: &Server, path: &str) -> anyhow::Result<Exit> {
    let path = format!(
        "/{}",
        path.trim_start_matches('/').trim_start_matches("api/v1/")
    );
    output::json(&Client::new(server)?.get(&path).await?);
    Ok(Exit::Ok)
}

/// A field as text; empty when it is not there.
pub(crate) fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
