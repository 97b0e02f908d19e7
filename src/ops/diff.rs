//! `diff`: two checkpoints, tensor by tensor, under their canonical names.
//!
//! Values are widened to f32 and compared in f64; sums are made chunk by chunk in order, so that
//! the result does not depend on the number of threads. Memory is a few chunks a thread.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::arch::Repeat;
use crate::checkpoint::{Tensor, TensorSet};
use crate::dtype::{Dtype, widen_to_f32};
use crate::name::escape;
use crate::progress::{Progress, Unit};

/// Elements compared at a time.
const CHUNK: usize = 1 << 18;

/// How one tensor differs.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct TensorDiff {
    /// The canonical name, escaped.
    pub name: String,
    /// The layer, for tensors of text layers.
    pub layer: Option<usize>,
    /// The element type in the first checkpoint.
    pub dtype_a: String,
    /// The element type in the second.
    pub dtype_b: String,
    /// The number of elements.
    pub elements: u64,
    /// Elements whose bits differ; after widening, if the types differ.
    pub changed: u64,
    /// ‖a−b‖ ÷ ‖a‖; absent for integers, when the first tensor is zero, and where values are not
    /// finite.
    pub rel_l2: Option<f64>,
    /// The largest |a−b| where neither is NaN; absent for integers.
    pub max_abs: Option<f64>,
    /// How many elements of the first tensor are NaN.
    pub nan_a: u64,
    /// How many of the second.
    pub nan_b: u64,
    #[serde(skip)]
    square_diff: f64,
    #[serde(skip)]
    square_a: f64,
}

/// The same tensor in two shapes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Reshaped {
    /// The canonical name, escaped.
    pub name: String,
    /// The shape in the first checkpoint.
    pub shape_a: Vec<u64>,
    /// The shape in the second.
    pub shape_b: Vec<u64>,
}

/// A layer as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct LayerDiff {
    /// The layer.
    pub layer: usize,
    /// ‖a−b‖ ÷ ‖a‖ over all its tensors; absent when the first checkpoint's are zero, or where
    /// values are not finite.
    pub rel_l2: Option<f64>,
}

/// All differences.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct Diff {
    /// The number of tensors without any difference.
    pub identical: usize,
    /// Tensors that differ in bits or type, the largest relative difference first.
    pub changed: Vec<TensorDiff>,
    /// Tensors that only the second has, sorted.
    pub added: Vec<String>,
    /// Tensors that only the first has, sorted.
    pub removed: Vec<String>,
    /// Tensors whose shapes differ, sorted.
    pub reshaped: Vec<Reshaped>,
    /// Tensors that hold NaN in either checkpoint, identical ones too, sorted.
    pub nan: Vec<String>,
    /// Text layers, in order; empty if the architecture is not known.
    pub layers: Vec<LayerDiff>,
}

impl Diff {
    /// Says whether there is no difference at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
            && self.added.is_empty()
            && self.removed.is_empty()
            && self.reshaped.is_empty()
    }
}

/// Compares two sets of tensors.
#[must_use]
pub fn diff(a: &TensorSet, b: &TensorSet, progress: &dyn Progress) -> Diff {
    let names = |set: &TensorSet, other: &TensorSet| -> Vec<String> {
        let alone = set.tensors().iter().filter(|t| other.find(&t.name).is_none());
        alone.map(|t| escape(&t.name)).collect()
    };
    let pairs: Vec<(&Tensor, &Tensor)> =
        a.tensors().iter().filter_map(|t| Some((t, b.find(&t.name)?))).collect();
    let (same_shape, other_shape): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(a, b)| a.shape == b.shape);
    let total = same_shape.iter().map(|(a, _)| a.len_bytes()).sum();
    progress.start("diff", total, Unit::Bytes);
    progress.item_start("tensors", total);
    let diffs: Vec<TensorDiff> = same_shape
        .par_iter()
        .map(|(x, y)| {
            let one = compare((x, a.data(x)), (y, b.data(y)));
            progress.advance("tensors", x.len_bytes());
            one
        })
        .collect();
    progress.finish();
    let layers = by_layer(&diffs);
    let nan = diffs.iter().filter(|d| d.nan_a + d.nan_b > 0).map(|d| d.name.clone()).collect();
    let (identical, mut changed): (Vec<_>, Vec<_>) =
        diffs.into_iter().partition(|d| d.changed == 0 && d.dtype_a == d.dtype_b);
    let weight = |d: &TensorDiff| d.rel_l2.unwrap_or(f64::INFINITY);
    changed.sort_by(|p, q| weight(q).total_cmp(&weight(p)).then_with(|| p.name.cmp(&q.name)));
    Diff {
        identical: identical.len(),
        changed,
        added: names(b, a),
        removed: names(a, b),
        reshaped: other_shape
            .into_iter()
            .map(|(x, y)| Reshaped {
                name: escape(&x.name),
                shape_a: x.shape.clone(),
                shape_b: y.shape.clone(),
            })
            .collect(),
        nan,
        layers,
    }
}

#[derive(Clone, Copy, Default)]
struct Sums {
    changed: u64,
    square_diff: f64,
    square_a: f64,
    max_abs: f64,
    nan_a: u64,
    nan_b: u64,
}

fn compare(a: (&Tensor, &[u8]), b: (&Tensor, &[u8])) -> TensorDiff {
    let ((x, x_bytes), (y, y_bytes)) = (a, b);
    let floats = x.dtype.is_float() && y.dtype.is_float();
    let sums = if floats {
        compare_floats(x.dtype, x_bytes, y.dtype, y_bytes)
    } else {
        Sums { changed: changed_integers(x, x_bytes, y, y_bytes), ..Sums::default() }
    };
    let rel_l2 = match (sums.square_diff, sums.square_a) {
        (0.0, _) => Some(0.0),
        (_, 0.0) => None,
        (d, a) => Some((d / a).sqrt()),
    };
    let layer = x.rule.and_then(|(rule, index)| {
        matches!(rule.repeat, Repeat::EveryLayer | Repeat::LayersOf(_)).then_some(index)
    });
    TensorDiff {
        name: escape(&x.name),
        layer,
        dtype_a: x.dtype.to_string(),
        dtype_b: y.dtype.to_string(),
        elements: x.elements(),
        changed: sums.changed,
        rel_l2: rel_l2.filter(|ratio| floats && ratio.is_finite()),
        max_abs: floats.then_some(sums.max_abs),
        nan_a: sums.nan_a,
        nan_b: sums.nan_b,
        square_diff: sums.square_diff,
        square_a: sums.square_a,
    }
}

/// Counts unequal elements of integers; of two types, every element counts.
fn changed_integers(x: &Tensor, x_bytes: &[u8], y: &Tensor, y_bytes: &[u8]) -> u64 {
    if x.dtype != y.dtype {
        return x.elements();
    }
    let size = x.dtype.size_bytes();
    x_bytes.chunks(size).zip(y_bytes.chunks(size)).filter(|(p, q)| p != q).count() as u64
}

fn compare_floats(a: Dtype, a_bytes: &[u8], b: Dtype, b_bytes: &[u8]) -> Sums {
    let chunks =
        a_bytes.par_chunks(CHUNK * a.size_bytes()).zip(b_bytes.par_chunks(CHUNK * b.size_bytes()));
    let sums: Vec<Sums> = chunks.map(|(x, y)| compare_chunk(a, x, b, y)).collect();
    sums.into_iter().fold(Sums::default(), |mut all, one| {
        all.changed += one.changed;
        all.square_diff += one.square_diff;
        all.square_a += one.square_a;
        all.max_abs = all.max_abs.max(one.max_abs);
        all.nan_a += one.nan_a;
        all.nan_b += one.nan_b;
        all
    })
}

fn compare_chunk(a: Dtype, a_bytes: &[u8], b: Dtype, b_bytes: &[u8]) -> Sums {
    let mut x = vec![0.0; a_bytes.len() / a.size_bytes()];
    let mut y = vec![0.0; x.len()];
    widen_to_f32(a, a_bytes, &mut x);
    widen_to_f32(b, b_bytes, &mut y);
    let mut sums = Sums::default();
    for (p, q) in x.iter().zip(&y) {
        // Widening is exact, so bits differ here if and only if they differ in the file.
        sums.changed += u64::from(p.to_bits() != q.to_bits());
        let difference = f64::from(*p) - f64::from(*q);
        sums.square_diff += difference * difference;
        sums.square_a += f64::from(*p) * f64::from(*p);
        sums.max_abs = sums.max_abs.max(difference.abs());
        sums.nan_a += u64::from(p.is_nan());
        sums.nan_b += u64::from(q.is_nan());
    }
    sums
}

fn by_layer(diffs: &[TensorDiff]) -> Vec<LayerDiff> {
    let mut layers: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for diff in diffs {
        if let Some(layer) = diff.layer {
            let sums = layers.entry(layer).or_default();
            sums.0 += diff.square_diff;
            sums.1 += diff.square_a;
        }
    }
    let ratio = |d: f64, a: f64| if d == 0.0 { 0.0 } else { (d / a).sqrt() };
    layers
        .into_iter()
        .map(|(layer, (d, a))| LayerDiff {
            layer,
            rel_l2: Some(ratio(d, a)).filter(|r| r.is_finite()),
        })
        .collect()
}
