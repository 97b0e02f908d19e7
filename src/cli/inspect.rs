//! `inspect`: what a checkpoint holds, from its headers.

use clap::ValueHint;
use regex::Regex;
use serde_json::json;

use super::context::Context;
use super::outcome::Outcome;
use super::render::{DIM, STRONG, paint};
use super::resolve;
use crate::checkpoint::{CONFIG_FILE, Tensor, TensorSet, read_aux, read_config};
use crate::error::Result;
use crate::name::escape;
use crate::ops::inspect::{FileHead, Group, Summary, summarise};
use crate::units;

/// Show what a checkpoint holds: config, tensors by part, files, licence
///
/// Reads headers only. A single .safetensors file of any architecture can be shown too.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A checkpoint or safetensors file: a path, owner/name@revision, or hf://owner/name@revision
    #[arg(value_name = "CKPT", value_hint = ValueHint::AnyPath)]
    checkpoint: String,
    /// List single tensors; `*` stands for anything, as in 'model.layers.0.*'
    #[arg(long, value_name = "PATTERN")]
    tensor: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The checkpoint is not found or a header is unsound.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let local = resolve::resolve_one(&args.checkpoint, ctx)?;
    let set = TensorSet::open(&local.path)?;
    let has_config = local.path.join(CONFIG_FILE).exists();
    let config = if has_config { Some(read_config(&local.path)?) } else { None };
    let readme = if has_config { read_aux(&local.path, "README.md")? } else { None };
    let heads: Vec<FileHead<'_>> = set
        .files()
        .iter()
        .map(|f| FileHead { name: &f.name, len_bytes: f.len_bytes(), header: &f.header })
        .collect();
    let (summary, tensors) = summarise(&heads, config.as_ref(), readme.as_deref())?;
    let listed: Vec<&Tensor> = match &args.tensor {
        Some(pattern) => {
            let pattern = glob(pattern);
            let matches =
                |t: &&Tensor| pattern.is_match(&t.name) || pattern.is_match(t.stored.as_str());
            tensors.iter().filter(matches).collect()
        }
        None => Vec::new(),
    };
    let rows: Vec<_> = listed.iter().map(|t| row(t, &set)).collect();
    let document = json!({"checkpoint": local.label, "summary": summary, "tensors": rows});
    let text = match &args.tensor {
        Some(_) => listed.iter().map(|t| line(t)).collect(),
        None => human(&summary),
    };
    let outcome = Outcome::new("inspect", &document).human(text).quiet(local.label);
    Ok(match &args.tensor {
        Some(pattern) if listed.is_empty() => outcome
            .problem(format!("no tensor is called `{}`", escape(pattern)), no_match(&tensors)),
        Some(_) => outcome,
        None => outcome.hint("hint: --tensor 'model.layers.0.*' for single tensors"),
    })
}

/// Turns a pattern with `*` into an anchored expression.
fn glob(pattern: &str) -> Regex {
    let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).expect("escaped text and `.*` are a regex")
}

fn no_match(tensors: &[Tensor]) -> Vec<String> {
    let first = tensors.first().map(|t| format!("the first is `{}`", escape(&t.name)));
    first.into_iter().collect()
}

fn row(tensor: &Tensor, set: &TensorSet) -> serde_json::Value {
    json!({
        "name": tensor.name, "stored": tensor.stored.as_str(),
        "dtype": tensor.dtype.safetensors_name(), "shape": tensor.shape,
        "len_bytes": tensor.len_bytes(), "file": set.files()[tensor.file].name,
        "offset_bytes": tensor.range.start,
    })
}

fn line(tensor: &Tensor) -> String {
    let bytes = units::bytes(tensor.len_bytes());
    let shape = format!("{:?}", tensor.shape);
    format!("{:<5} {shape:<18} {bytes:>9}  {}\n", tensor.dtype.to_string(), tensor.stored)
}

fn human(summary: &Summary) -> String {
    let dtypes: Vec<&str> = summary.dtypes.iter().map(|g| g.name.as_str()).collect();
    let head: Vec<String> = [
        summary.model_type.clone(),
        summary.architecture.clone(),
        Some(dtypes.join("+")),
        Some(format!("{} parameters", units::count(summary.total.parameters))),
        Some(units::bytes(summary.total.len_bytes)),
        Some(units::plural(summary.files.len() as u64, "file")),
        summary.tied.map(|tied| if tied { "tied".into() } else { "untied".into() }),
        summary.license.clone(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut text = format!("{}\n\n", paint(STRONG, head.join(" · ")));
    text += &paint(DIM, "part             tensors  parameters      bytes   share");
    text.push('\n');
    for part in &summary.parts {
        let note = match part.total.name.as_str() {
            "vision" => "`strip` drops these",
            _ => "",
        };
        text += &table_line("", &part.total, summary.total.len_bytes, note);
        for group in &part.groups {
            let note = match group.name.as_str() {
                "layers" if summary.linear_layers > 0 => format!(
                    "{} linear, {} full attention",
                    summary.linear_layers, summary.full_layers
                ),
                "layers" => format!("{} full attention", summary.full_layers),
                _ => String::new(),
            };
            text += &table_line("  ", group, summary.total.len_bytes, &note);
        }
    }
    text
}

fn table_line(indent: &str, group: &Group, of: u64, note: &str) -> String {
    let share = group.len_bytes as f64 / of.max(1) as f64;
    let bar = "█".repeat((share * 20.0).round() as usize);
    let name = format!("{indent}{}", group.name);
    let line = format!(
        "{name:<16} {:>7}  {:>10}  {:>9}  {:>5.1}%  {bar:<20}  {note}",
        group.tensors,
        units::count(group.parameters),
        units::bytes(group.len_bytes),
        share * 100.0
    );
    format!("{}\n", line.trim_end())
}
