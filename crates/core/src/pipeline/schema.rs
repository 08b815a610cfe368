//! The JSON Schema of the file, out of the same grammar that checks it: an editor and `slipway lint`
//! can never disagree about a key.

use schemars::Schema;
use serde_json::{Map, Value, json};

use super::grammar::{FILE, Kind, Table};

/// JSON Schema 2020-12 of `.slipway.yml`.
#[must_use]
pub fn json_schema() -> Schema {
    let mut schema = Map::new();
    schema.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    schema.insert("title".to_owned(), json!("Slipway pipeline file"));
    if let Value::Object(file) = table(&FILE) {
        schema.extend(file);
    }
    Schema::from(schema)
}

fn table(table: &Table) -> Value {
    let properties: Map<String, Value> = table
        .keys
        .iter()
        .map(|key| {
            let mut schema = kind(&key.kind);
            if let Value::Object(fields) = &mut schema {
                fields.insert("description".to_owned(), json!(key.doc));
            }
            (key.name.to_owned(), schema)
        })
        .collect();
    let required: Vec<&str> = table
        .keys
        .iter()
        .filter(|k| k.required)
        .map(|k| k.name)
        .collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    match table.free_prefix {
        None => schema["additionalProperties"] = json!(false),
        Some("") => {}
        Some(prefix) => {
            schema["patternProperties"] = json!({format!("^{prefix}"): {}});
            schema["additionalProperties"] = json!(false);
        }
    }
    schema
}

fn kind(of: &Kind) -> Value {
    match of {
        Kind::Text => json!({"type": "string"}),
        Kind::Scalar => json!({"type": ["string", "boolean", "integer"]}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
        Kind::Number(low, high) => json!({"type": "number", "minimum": low, "maximum": high}),
        Kind::Duration => json!({"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}),
        Kind::Word(words) => json!({"enum": words}),
        Kind::Many(inner) => {
            json!({"anyOf": [kind(inner), {"type": "array", "items": kind(inner)}]})
        }
        Kind::List(inner) => json!({"type": "array", "items": kind(inner)}),
        Kind::MapOf(inner) => json!({"type": "object", "additionalProperties": kind(inner)}),
        Kind::Table(inner) => table(inner),
        Kind::Either(a, b) => json!({"anyOf": [kind(a), kind(b)]}),
        Kind::Maybe(inner) => json!({"anyOf": [{"type": "null"}, kind(inner)]}),
        Kind::Any => json!({}),
    }
}
