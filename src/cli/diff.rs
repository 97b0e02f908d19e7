//! `diff`: two checkpoints, tensor by tensor.

use std::path::Path;

use clap::ValueHint;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::render::{DIM, paint};
use super::resolve;
use crate::checkpoint::{CONFIG_FILE, TensorSet, read_config};
use crate::error::Result;
use crate::name::few;
use crate::ops::diff::{Diff, LayerDiff, diff};
use crate::units;

/// Compare two checkpoints tensor by tensor: names, types, shapes, values
///
/// Tensors are matched by what they are, whatever layout either checkpoint has. Exit code 1 says
/// that there are differences; `-q` prints the names of the tensors that differ.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The first checkpoint or safetensors file
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath)]
    a: String,
    /// The second one
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath)]
    b: String,
    /// Show this many changed tensors, the most changed first; 0 for the summary alone
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// The first checkpoint, as it was named.
    a: &'a str,
    /// The second one.
    b: &'a str,
    /// Whether there is no difference.
    equal: bool,
    /// All differences.
    diff: &'a Diff,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "diff/1";
}

/// Runs the command.
///
/// # Errors
/// A checkpoint is not found or unsound.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let first = resolve::resolve_one(&args.a, ctx)?;
    let second = resolve::resolve_one(&args.b, ctx)?;
    let (a, b) = (open(&first.path)?, open(&second.path)?);
    let found = diff(&a, &b, &*ctx.progress());
    let document =
        Document { a: &first.label, b: &second.label, equal: found.is_empty(), diff: &found };
    let outcome = Outcome::new(&document).human(human(&found, args.top)).quiet(names(&found));
    Ok(if found.is_empty() { outcome } else { outcome.negative() })
}

/// Opens tensors; layers are known where a config of a supported architecture is.
fn open(path: &Path) -> Result<TensorSet> {
    let mut set = TensorSet::open(path)?;
    if path.join(CONFIG_FILE).exists()
        && let Ok(config) = read_config(path)
    {
        set.apply_rules(config.architecture);
    }
    Ok(set)
}

/// The names of all tensors that differ, one a line.
fn names(found: &Diff) -> String {
    let changed = found.changed.iter().map(|t| t.name.as_str());
    let reshaped = found.reshaped.iter().map(|t| t.name.as_str());
    let alone = found.added.iter().chain(&found.removed).map(String::as_str);
    let mut names: Vec<&str> = changed.chain(reshaped).chain(alone).collect();
    names.sort_unstable();
    names.join("\n")
}

fn human(found: &Diff, top: usize) -> String {
    let common = found.identical + found.changed.len() + found.reshaped.len();
    let mut text = format!(
        "{} in both: {} identical, {} changed, {} reshaped; {} added, {} removed\n",
        units::plural(common as u64, "tensor"),
        found.identical,
        found.changed.len(),
        found.reshaped.len(),
        found.added.len(),
        found.removed.len()
    );
    if !found.nan.is_empty() {
        let tensors = units::plural(found.nan.len() as u64, "tensor");
        text += &format!("NaN in {tensors} of either: {}\n", few(&found.nan));
    }
    for tensor in &found.reshaped {
        text += &format!("  {}  {:?} ≠ {:?}\n", tensor.name, tensor.shape_a, tensor.shape_b);
    }
    for (mark, names) in [("+", &found.added), ("-", &found.removed)] {
        for name in names.iter().take(top) {
            text += &format!("  {mark} {name}\n");
        }
        if names.len() > top {
            text += &format!("  {mark} … {} more\n", names.len() - top);
        }
    }
    if !found.changed.is_empty() && top > 0 {
        text += &changed_table(found, top);
    }
    text + &by_layer(&found.layers)
}

/// The tensors that changed most.
fn changed_table(found: &Diff, top: usize) -> String {
    let width = found.changed.iter().take(top).map(|t| t.name.len()).max().unwrap_or(0).max(6);
    let head =
        format!("{:<width$}  {:>8}  {:>8}  {:>12}", "tensor", "rel-l2", "max-abs", "bits changed");
    let mut text = format!("\n{}\n", paint(DIM, head));
    for tensor in found.changed.iter().take(top) {
        let number = |value: Option<f64>| value.map_or("–".into(), |v| format!("{v:.1e}"));
        let share = 100.0 * tensor.changed as f64 / tensor.elements.max(1) as f64;
        let types = if tensor.dtype_a == tensor.dtype_b {
            String::new()
        } else {
            format!("  {} → {}", tensor.dtype_a, tensor.dtype_b)
        };
        let nan = match (tensor.nan_a, tensor.nan_b) {
            (0, 0) => String::new(),
            (a, b) => format!("  NaN {a} → {b}"),
        };
        text += &format!(
            "{:<width$}  {:>8}  {:>8}  {share:>11.1}%{types}{nan}\n",
            tensor.name,
            number(tensor.rel_l2),
            number(tensor.max_abs)
        );
    }
    text
}

/// The layers as blocks, and the range of what they stand for.
fn by_layer(layers: &[LayerDiff]) -> String {
    let known = layers.iter().filter_map(|layer| Some((layer.layer, layer.rel_l2?)));
    let most = known.clone().max_by(|a, b| a.1.total_cmp(&b.1));
    let least = known.min_by(|a, b| a.1.total_cmp(&b.1));
    let (Some((_, least)), Some((at, most)), [first, .., last]) = (least, most, layers) else {
        return String::new();
    };
    format!(
        "by layer  {} {} {}  rel-l2 {least:.1e} to {most:.1e} (layer {at})\n",
        first.layer,
        sparkline(layers, most),
        last.layer
    )
}

/// One block a layer, as high as its relative difference.
fn sparkline(layers: &[LayerDiff], most: f64) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let block = |value: Option<f64>| match value.unwrap_or(most) / most {
        share if share.is_finite() => BLOCKS[(share * 7.0).round() as usize],
        _ => BLOCKS[0],
    };
    layers.iter().map(|layer| block(layer.rel_l2)).collect()
}
