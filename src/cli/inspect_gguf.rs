//! `inspect` of a GGUF file: its keys, and its tensors by type.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use super::inspect::{Contents, Document, TensorRow, glob, no_match, table_line};
use super::outcome::Outcome;
use super::render::{DIM, STRONG, paint};
use super::resolve::Local;
use crate::error::Result;
use crate::gguf::reader::TensorEntry;
use crate::gguf::{Array, Gguf, GgufFileError, Value};
use crate::name::escape;
use crate::ops::inspect::Group;
use crate::units;

/// Elements of an array that are shown.
const SHOWN: usize = 3;

/// Characters of a string that are shown to people.
const TEXT_LEN_MAX: usize = 60;

/// The head of a GGUF file.
#[derive(Serialize, JsonSchema)]
pub(super) struct Head {
    /// The version of the format.
    version: u32,
    /// The keys and their values.
    metadata: BTreeMap<String, KeyValue>,
    /// The number of tensors, their elements and bytes.
    total: Group,
    /// By type, the most bytes first.
    types: Vec<Group>,
}

/// Reads the head of the file and lays it out.
///
/// # Errors
/// The file is no sound GGUF.
pub(super) fn show(local: &Local, pattern: Option<&str>) -> Result<Outcome> {
    let gguf = Gguf::open(&local.path)
        .map_err(|fault| GgufFileError { path: local.path.clone(), fault })?;
    let groups = by_type(&gguf);
    let listed: Vec<&TensorEntry> = match pattern.map(glob) {
        Some(glob) => gguf.tensors.iter().filter(|t| glob.is_match(&t.spec.name)).collect(),
        None => Vec::new(),
    };
    if let Some(pattern) = pattern.filter(|_| listed.is_empty()) {
        return Err(no_match(pattern, gguf.tensors.iter().map(|t| t.spec.name.as_str())).into());
    }
    let head = Head {
        version: gguf.version,
        metadata: gguf.metadata.iter().map(|(k, v)| (k.to_owned(), key_value(v))).collect(),
        total: total(&gguf),
        types: groups.clone(),
    };
    let document = Document {
        checkpoint: &local.label,
        commit: None,
        contents: Contents::Gguf { gguf: head },
        tensors: listed.iter().map(|t| row(t)).collect(),
    };
    let text = match pattern {
        Some(_) => listed.iter().map(|t| line(t)).collect(),
        None => human(&gguf, &groups),
    };
    let outcome = Outcome::new(&document).human(text).quiet(&local.label);
    Ok(match pattern {
        Some(_) => outcome,
        None => outcome.hint("hint: --tensor 'blk.0.*' for single tensors"),
    })
}

fn add(group: &mut Group, tensor: &TensorEntry) {
    group.tensors += 1;
    group.parameters += tensor.spec.elements().unwrap_or(0);
    group.len_bytes += tensor.len_bytes;
}

fn total(gguf: &Gguf) -> Group {
    let mut total = Group { name: "total".into(), ..Group::default() };
    gguf.tensors.iter().for_each(|tensor| add(&mut total, tensor));
    total
}

/// Counts tensors by type, the most bytes first.
fn by_type(gguf: &Gguf) -> Vec<Group> {
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    for tensor in &gguf.tensors {
        add(groups.entry(tensor.spec.tensor_type.name()).or_default(), tensor);
    }
    let named = groups.into_iter().map(|(name, group)| Group { name: name.into(), ..group });
    let mut list: Vec<Group> = named.collect();
    list.sort_by_key(|group| std::cmp::Reverse(group.len_bytes));
    list
}

/// The value of a key.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum KeyValue {
    /// A scalar as it is.
    Scalar(Json),
    /// Of an array, which may have a quarter of a million elements, how it begins.
    Array {
        /// The elements' type, as llama.cpp names it.
        array_of: &'static str,
        /// How many elements it has.
        len: usize,
        /// The first of them.
        first: Vec<Json>,
    },
}

fn key_value(value: &Value) -> KeyValue {
    match value {
        Value::Array(array) => {
            let (array_of, first) = array_start(array);
            KeyValue::Array { array_of, len: array.len(), first }
        }
        scalar => KeyValue::Scalar(scalar_value(scalar)),
    }
}

/// A scalar as a JSON value.
fn scalar_value(value: &Value) -> Json {
    match value {
        Value::U8(n) => (*n).into(),
        Value::I8(n) => (*n).into(),
        Value::U16(n) => (*n).into(),
        Value::I16(n) => (*n).into(),
        Value::U32(n) => (*n).into(),
        Value::I32(n) => (*n).into(),
        Value::F32(n) => (*n).into(),
        Value::Bool(b) => (*b).into(),
        Value::Str(text) => text.as_str().into(),
        Value::U64(n) => (*n).into(),
        Value::I64(n) => (*n).into(),
        Value::F64(n) => (*n).into(),
        Value::Array(_) => Json::Null,
    }
}

/// The elements' type, as llama.cpp names it, and the first elements.
fn array_start(array: &Array) -> (&'static str, Vec<Json>) {
    fn start<T: Clone + Into<Json>>(values: &[T]) -> Vec<Json> {
        values.iter().take(SHOWN).map(|value| value.clone().into()).collect()
    }
    match array {
        Array::U8(v) => ("u8", start(v)),
        Array::I8(v) => ("i8", start(v)),
        Array::U16(v) => ("u16", start(v)),
        Array::I16(v) => ("i16", start(v)),
        Array::U32(v) => ("u32", start(v)),
        Array::I32(v) => ("i32", start(v)),
        Array::F32(v) => ("f32", start(v)),
        Array::Bool(v) => ("bool", start(v)),
        Array::Str(v) => ("str", start(v)),
        Array::U64(v) => ("u64", start(v)),
        Array::I64(v) => ("i64", start(v)),
        Array::F64(v) => ("f64", start(v)),
    }
}

fn row(tensor: &TensorEntry) -> TensorRow<'_> {
    TensorRow {
        name: &tensor.spec.name,
        stored: None,
        dtype: tensor.spec.tensor_type.name(),
        shape: &tensor.spec.shape,
        len_bytes: tensor.len_bytes,
        file: None,
        offset_bytes: tensor.offset,
        stats: None,
    }
}

fn line(tensor: &TensorEntry) -> String {
    let (dtype, shape) = (tensor.spec.tensor_type.name(), format!("{:?}", tensor.spec.shape));
    let bytes = units::bytes(tensor.len_bytes);
    format!("{dtype:<7} {shape:<18} {bytes:>9}  {}\n", escape(&tensor.spec.name))
}

fn human(gguf: &Gguf, types: &[Group]) -> String {
    let total = total(gguf);
    let text = |key: &str| gguf.metadata.get(key).and_then(Value::as_str).map(escape);
    let head: Vec<String> = [
        Some(format!("GGUF v{}", gguf.version)),
        text("general.architecture"),
        text("general.name"),
        Some(format!("{} parameters", units::count(total.parameters))),
        Some(units::bytes(total.len_bytes)),
        text("general.license"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut out = format!("{}\n\n", paint(STRONG, head.join(" · ")));
    out += &paint(DIM, "type             tensors  parameters      bytes   share");
    out.push('\n');
    for group in types {
        out += &table_line("", group, total.len_bytes, "");
    }
    let width = gguf.metadata.iter().map(|(key, _)| escape(key).len()).max().unwrap_or(0);
    out += &format!("\n{}\n", paint(DIM, format!("{:<width$}  value", "key")));
    for (key, value) in gguf.metadata.iter() {
        out += &format!("{:<width$}  {}\n", escape(key), shown(value));
    }
    out
}

fn shown(value: &Value) -> String {
    match value {
        Value::Str(text) => cut(text),
        Value::Array(array) => {
            let (element, first) = array_start(array);
            let first: Vec<String> = first.iter().map(|v| cut(&v.to_string())).collect();
            let more = if array.len() > first.len() { ", …" } else { "" };
            format!("{} × {element}: {}{more}", array.len(), first.join(", "))
        }
        scalar => scalar_value(scalar).to_string(),
    }
}

/// One line of bounded length.
fn cut(text: &str) -> String {
    let short: String = text.chars().take(TEXT_LEN_MAX).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{}{dots}", escape(&short))
}
