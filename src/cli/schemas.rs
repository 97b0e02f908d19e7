//! The JSON Schemas of the documents that the program prints, for `docs/schemas/`.
//!
//! Fields are only added within a version, so the schemas allow fields that they do not name.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::outcome::{Document, schema_name};
use super::{
    bars, bench_engine, bench_select, cache, completions, config, diff, doctor, export,
    export_gguf, inspect, logprobs, man, pull, render, score, select, select_nll, select_plan,
    steps, strip, verify,
};

/// Returns the name of each document (`tmax-ckpt.verify/1`) and its schema, sorted.
#[must_use]
pub fn all() -> Vec<(String, Value)> {
    let mut all = vec![
        schema::<bars::Event<'_>>(),
        schema::<bench_engine::Document>(),
        schema::<bench_select::Cell>(),
        schema::<bench_select::Cells>(),
        schema::<cache::Contents<'_>>(),
        schema::<cache::Folder<'_>>(),
        schema::<cache::Removed<'_>>(),
        schema::<completions::Document<'_>>(),
        schema::<config::Files>(),
        schema::<config::Shown>(),
        schema::<diff::Document<'_>>(),
        schema::<doctor::Document>(),
        schema::<export::Document<'_>>(),
        schema::<export_gguf::Document<'_>>(),
        schema::<inspect::Document<'_>>(),
        schema::<logprobs::Document<'_>>(),
        schema::<man::Document<'_>>(),
        schema::<pull::Document<'_>>(),
        schema::<render::ErrorDocument<'_>>(),
        schema::<score::JobDocument<'_>>(),
        schema::<score::PlanDocument<'_>>(),
        schema::<score::TrialLine<'_>>(),
        schema::<select::Document<'_>>(),
        schema::<select_nll::Order<'_>>(),
        schema::<select_nll::OrderPlan<'_>>(),
        schema::<select_plan::PlanDocument<'_>>(),
        schema::<steps::Document<'_>>(),
        schema::<strip::Document<'_>>(),
        schema::<verify::Document<'_>>(),
    ];
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Returns the name of the file with the schema of a document: `verify-1.json`.
#[must_use]
pub fn file_name(document: &str) -> String {
    let name = document.strip_prefix("tmax-ckpt.").unwrap_or(document);
    format!("{}.json", name.replace('/', "-"))
}

/// Returns name and schema of what is printed of `D`: its fields, and `schema` before them.
fn schema<D: Document>() -> (String, Value) {
    let name = schema_name::<D>();
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut own = settings.into_generator().into_root_schema_for::<D>();
    let mut properties = Map::new();
    properties.insert("schema".into(), json!({"const": &name}));
    if let Some(Value::Object(fields)) = own.remove("properties") {
        properties.extend(fields);
    }
    let mut required = vec![Value::from("schema")];
    if let Some(Value::Array(fields)) = own.remove("required") {
        required.extend(fields);
    }
    own.insert("title".into(), name.clone().into());
    own.insert("properties".into(), properties.into());
    own.insert("required".into(), required.into());
    // What a reader wants to know first comes first.
    let first = ["$schema", "title", "description", "type", "properties", "required", "oneOf"];
    let mut schema = Map::new();
    for key in first {
        schema.extend(own.remove(key).map(|value| (key.to_owned(), value)));
    }
    schema.extend(own.as_object().cloned().into_iter().flatten());
    (name, schema.into())
}
