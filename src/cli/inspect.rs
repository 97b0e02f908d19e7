//! `inspect`: what a checkpoint holds, from its headers.

use std::path::Path;

use clap::ValueHint;
use regex::Regex;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::failure::Failure;
use super::inspect_remote::RemoteCheckpoint;
use super::outcome::{self, Outcome};
use super::render::{DIM, STRONG, paint};
use super::resolve::{self, Local, Location};
use super::{inspect_gguf, inspect_stats};
use crate::arch::ModelConfig;
use crate::checkpoint::{CONFIG_FILE, Tensor, TensorSet, read_aux, read_config};
use crate::error::Result;
use crate::gguf::is_gguf;
use crate::name::{escape, suggest};
use crate::ops::inspect::{FileHead, Group, Summary, summarise};
use crate::ops::stats::{Stats, stats};
use crate::units;

/// Show what a checkpoint holds: config, tensors by part, files, licence
///
/// Reads headers only; of a revision that is not in the cache, config, index and headers are read
/// from the Hub and nothing is kept. A single .safetensors file of any architecture and a .gguf
/// file can be shown too.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A checkpoint, safetensors or GGUF file: a path, owner/name@revision, or
    /// hf://owner/name@revision
    #[arg(value_name = "CKPT", value_hint = ValueHint::AnyPath)]
    checkpoint: String,
    /// List single tensors: whole names, in which `*` stands for anything ('model.layers.0.*')
    #[arg(long, value_name = "PATTERN")]
    tensor: Option<String>,
    /// Read the values, and list each tensor with its range, mean, spread, zeros, NaN and infinity
    #[arg(long)]
    stats: bool,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// The checkpoint, as it was named.
    pub checkpoint: &'a str,
    /// The commit, if it was read from the Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{40}$"))]
    pub commit: Option<&'a str>,
    /// What it is, and all of it in numbers.
    #[serde(flatten)]
    pub contents: Contents<'a>,
    /// The tensors that were asked for.
    pub tensors: Vec<TensorRow<'a>>,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "inspect/1";
}

/// What a checkpoint holds, by its format.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "format", rename_all = "lowercase")]
pub(super) enum Contents<'a> {
    /// A folder, or a file of safetensors.
    Safetensors {
        /// Config and tensors.
        summary: &'a Summary,
    },
    /// A GGUF file.
    Gguf {
        /// Keys and tensors.
        gguf: inspect_gguf::Head,
    },
}

/// One tensor.
#[derive(Serialize, JsonSchema)]
pub(super) struct TensorRow<'a> {
    /// Its name, whatever the layout.
    pub name: &'a str,
    /// The name that it is stored under, in safetensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<&'a str>,
    /// The type of its elements, as the format names it.
    pub dtype: &'static str,
    /// Its shape, in the order of the format.
    pub shape: &'a [u64],
    /// Its size.
    pub len_bytes: u64,
    /// The file that holds it; absent for GGUF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<&'a str>,
    /// Where it begins in the data of the file.
    pub offset_bytes: u64,
    /// Its values, if they were asked for; nothing for types that are no floats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
}

/// Runs the command.
///
/// # Errors
/// The checkpoint is not found or a header is unsound; values of what is not on this machine.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    match resolve::locate(&args.checkpoint, ctx)? {
        Location::Local(local) if is_gguf(&local.path) => {
            if args.stats {
                return Err(no_stats("values of a GGUF file are not read", &[]));
            }
            inspect_gguf::show(&local, args.tensor.as_deref())
        }
        Location::Local(local) => show_local(&local, &args, ctx),
        Location::Hub(hub) => {
            if args.stats {
                let help = format!("`tmax-ckpt pull {hub}` fetches it");
                return Err(no_stats("values are read on this machine alone", &[help]));
            }
            let remote = RemoteCheckpoint::read(&hub, ctx)?;
            let shown = Shown {
                label: &remote.label,
                commit: Some(remote.commit.as_str()),
                config: remote.config.as_ref(),
                readme: None,
                set: None,
            };
            let outcome = show(&shown, &remote.heads(), &args, ctx)?;
            Ok(outcome.hint(remote.hint()))
        }
    }
}

fn no_stats(message: &str, help: &[String]) -> crate::error::Error {
    let mut lines = help.to_vec();
    lines.push("without --stats, headers are shown".into());
    Failure::Usage(format!("--stats: {message}"), lines).into()
}

fn show_local(local: &Local, args: &Args, ctx: &Context) -> Result<Outcome> {
    let set = TensorSet::open(&local.path)?;
    let (config, readme) = beside(&local.path)?;
    let heads: Vec<FileHead<'_>> = set
        .files()
        .iter()
        .map(|f| FileHead { name: &f.name, len_bytes: f.len_bytes(), header: &f.header })
        .collect();
    let (label, config) = (&local.label, config.as_ref());
    let shown = Shown { label, commit: None, config, readme, set: Some(&set) };
    show(&shown, &heads, args, ctx)
}

/// Reads config and README of a folder; a single file has neither.
fn beside(path: &Path) -> Result<(Option<ModelConfig>, Option<Vec<u8>>)> {
    if !path.join(CONFIG_FILE).exists() {
        return Ok((None, None));
    }
    Ok((Some(read_config(path)?), read_aux(path, "README.md")?))
}

/// What is shown, apart from the heads of its files.
struct Shown<'a> {
    label: &'a str,
    /// The commit, if it was read from the Hub.
    commit: Option<&'a str>,
    config: Option<&'a ModelConfig>,
    readme: Option<Vec<u8>>,
    /// The data, if it is on this machine.
    set: Option<&'a TensorSet>,
}

fn show(shown: &Shown<'_>, heads: &[FileHead<'_>], args: &Args, ctx: &Context) -> Result<Outcome> {
    let (summary, tensors) = summarise(heads, shown.config, shown.readme.as_deref())?;
    let listed = match (&args.tensor, args.stats) {
        (Some(pattern), _) => {
            let pattern = glob(pattern);
            let matches =
                |t: &&Tensor| pattern.is_match(&t.name) || pattern.is_match(t.stored.as_str());
            tensors.iter().filter(matches).collect()
        }
        (None, true) => tensors.iter().collect(),
        (None, false) => Vec::new(),
    };
    if let Some(pattern) = args.tensor.as_ref().filter(|_| listed.is_empty()) {
        return Err(no_match(pattern, tensors.iter().map(|t| t.name.as_str())).into());
    }
    let values: Option<Vec<Option<Stats>>> =
        shown.set.filter(|_| args.stats).map(|set| stats(set, &listed, &*ctx.progress()));
    let mut rows: Vec<TensorRow<'_>> =
        listed.iter().map(|tensor| row(tensor, heads[tensor.file].name)).collect();
    for (row, values) in rows.iter_mut().zip(values.iter().flatten()) {
        row.stats = values.clone();
    }
    let document = Document {
        checkpoint: shown.label,
        commit: shown.commit,
        contents: Contents::Safetensors { summary: &summary },
        tensors: rows,
    };
    let text = match (&values, &args.tensor) {
        (Some(values), _) => inspect_stats::table(&listed, values),
        (None, Some(_)) => listed.iter().map(|t| line(t)).collect(),
        (None, None) => human(&summary),
    };
    let outcome = Outcome::new(&document).human(text).quiet(shown.label);
    Ok(match &args.tensor {
        None if !args.stats => {
            outcome.hint("hint: --tensor 'model.layers.0.*' for single tensors, --stats for values")
        }
        _ => outcome,
    })
}

/// Turns a pattern with `*` into an anchored expression.
pub(super) fn glob(pattern: &str) -> Regex {
    let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).expect("escaped text and `.*` are a regex")
}

/// Makes the error of a pattern that no tensor fits, with the nearest name.
pub(super) fn no_match<'a>(pattern: &str, names: impl Iterator<Item = &'a str> + Clone) -> Failure {
    // The end of a name alone is no name: the pattern has to fit all of it.
    let inside = format!("*{}", pattern.trim_start_matches('*'));
    let fits = glob(&inside);
    let near = if names.clone().any(|name| fits.is_match(name)) {
        Some(inside)
    } else {
        suggest(pattern, names.clone()).or_else(|| names.clone().next()).map(str::to_owned)
    };
    Failure::NoTensor { pattern: escape(pattern), near: near.as_deref().map(escape) }
}

fn row<'a>(tensor: &'a Tensor, file: &'a str) -> TensorRow<'a> {
    TensorRow {
        name: &tensor.name,
        stored: Some(tensor.stored.as_str()),
        dtype: tensor.dtype.safetensors_name(),
        shape: &tensor.shape,
        len_bytes: tensor.len_bytes(),
        file: Some(file),
        offset_bytes: tensor.range.start,
        stats: None,
    }
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

/// One line of a table of groups: name, tensors, parameters, bytes, share of `of` bytes.
pub(super) fn table_line(indent: &str, group: &Group, of: u64, note: &str) -> String {
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
