//! `inspect --stats`: a table of values.

use super::render::{BAD, DIM, paint};
use crate::checkpoint::Tensor;
use crate::ops::stats::Stats;

/// Lays out one line a tensor.
pub(super) fn table(tensors: &[&Tensor], stats: &[Option<Stats>]) -> String {
    let width = tensors.iter().map(|t| t.stored.to_string().len()).max().unwrap_or(0).max(6);
    let head = format!(
        "{:<width$}  {:<5} {:>10} {:>10} {:>10} {:>10} {:>10}  {:>6}  not finite",
        "tensor", "dtype", "min", "max", "mean", "std", "rms", "zero"
    );
    let mut text = format!("{}\n", paint(DIM, head));
    for (tensor, stats) in tensors.iter().zip(stats) {
        let (name, dtype) = (tensor.stored.to_string(), tensor.dtype.to_string());
        let Some(stats) = stats else {
            text += &format!("{name:<width$}  {dtype:<5} not a floating type\n");
            continue;
        };
        let zero = 100.0 * stats.zeros as f64 / tensor.elements().max(1) as f64;
        text += &format!(
            "{name:<width$}  {dtype:<5} {:>10} {:>10} {:>10} {:>10} {:>10}  {zero:>5.1}%  {}\n",
            number(stats.min),
            number(stats.max),
            number(stats.mean),
            number(stats.std),
            number(stats.rms),
            not_finite(stats)
        );
    }
    text
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.3e}"))
}

fn not_finite(stats: &Stats) -> String {
    match (stats.nan, stats.infinite) {
        (0, 0) => "–".into(),
        (nan, infinite) => paint(BAD, format!("{nan} NaN, {infinite} infinite")),
    }
}
