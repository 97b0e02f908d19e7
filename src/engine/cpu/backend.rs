//! The operations of [`Backend`] on the CPU.

use rayon::prelude::*;

use super::attention::{Attention, KeyValues, inverse_frequencies};
use super::delta::{DeltaRule, DeltaState};
use super::math::{AddRmsNorm, SwiGlu, log_sum_exp};
use super::matrix::Matrix;
use super::quantised::Activations;
use super::simd::{LANES, run};
use crate::arch::{LayerKind, LinearConfig, TextConfig};
use crate::engine::backend::{
    AttentionWeights, Backend, Batch, DeltaWeights, Rows, WeightPrecision,
};

/// Vocabulary entries whose logits are held at once while log-probabilities are computed.
const VOCABULARY_CHUNK: usize = 4096;

/// The CPU.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuBackend {
    precision: WeightPrecision,
}

impl CpuBackend {
    /// Makes a backend that keeps matrices in `precision`.
    #[must_use]
    pub fn new(precision: WeightPrecision) -> Self {
        Self { precision }
    }
}

/// What one sequence remembers.
#[derive(Debug, Clone)]
pub struct CpuCache {
    layers: Vec<LayerCache>,
}

#[derive(Debug, Clone)]
enum LayerCache {
    Delta(DeltaState),
    Attention(KeyValues),
}

impl Backend for CpuBackend {
    type Buffer = Vec<f32>;
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Cache = CpuCache;

    fn matrix(&self, parts: &[Rows<'_>]) -> Matrix {
        Matrix::new(parts, self.precision)
    }

    fn vector(&self, values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn cache(&self, config: &TextConfig) -> CpuCache {
        let layer = |kind: &LayerKind| match (kind, &config.linear) {
            (LayerKind::LinearAttention, Some(linear)) => {
                LayerCache::Delta(DeltaState::new(linear))
            }
            _ => LayerCache::Attention(KeyValues::default()),
        };
        CpuCache { layers: config.layer_kinds.iter().map(layer).collect() }
    }

    fn cache_bytes(&self, cache: &CpuCache) -> usize {
        let layer = |layer: &LayerCache| match layer {
            LayerCache::Delta(state) => state.size_bytes(),
            LayerCache::Attention(pages) => pages.size_bytes(),
        };
        cache.layers.iter().map(layer).sum()
    }

    fn embed(&self, table: &Matrix, ids: &[u32], out: &mut Vec<f32>) {
        out.resize(ids.len() * table.columns(), 0.0);
        for (row, id) in out.chunks_mut(table.columns()).zip(ids) {
            table.row(*id as usize, row);
        }
    }

    fn linear(&self, weight: &Matrix, x: &Vec<f32>, out: &mut Vec<f32>) {
        out.resize(x.len() / weight.columns() * weight.rows(), 0.0);
        weight.multiply(x, out, &mut Activations::default());
    }

    fn add_rms_norm(
        &self,
        hidden: &mut Vec<f32>,
        delta: Option<&Vec<f32>>,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut Vec<f32>,
    ) {
        out.resize(hidden.len(), 0.0);
        let width = weight.len();
        let rows = hidden.chunks_mut(width).zip(out.chunks_mut(width)).enumerate();
        for (row, (hidden, out)) in rows {
            let delta = delta.map_or(&[][..], |d| &d[row * width..(row + 1) * width]);
            run(AddRmsNorm { hidden, delta, weight, eps, out });
        }
    }

    fn swiglu(&self, gate_up: &Vec<f32>, width: usize, out: &mut Vec<f32>) {
        out.resize(gate_up.len() / 2, 0.0);
        for (gate_up, out) in gate_up.chunks(2 * width).zip(out.chunks_mut(width)) {
            run(SwiGlu { gate_up, out });
        }
    }

    fn delta_rule(
        &self,
        layer: usize,
        config: &LinearConfig,
        eps: f32,
        weights: &DeltaWeights<Vec<f32>>,
        projected: &Vec<f32>,
        batch: &mut Batch<'_, CpuCache>,
        out: &mut Vec<f32>,
    ) {
        let width = config.value_dim() as usize;
        out.resize(batch.tokens() * width, 0.0);
        for (segment, cache) in batch.segments.iter().zip(&mut batch.caches) {
            let rows = segment.offset * width..(segment.offset + segment.len) * width;
            let LayerCache::Delta(state) = &mut cache.layers[layer] else {
                unreachable!("caches are made from the config that the layers are made from");
            };
            DeltaRule::new(config, eps, weights, projected, *segment).run(state, &mut out[rows]);
        }
    }

    fn attention(
        &self,
        layer: usize,
        config: &TextConfig,
        weights: &AttentionWeights<Vec<f32>>,
        projected: &Vec<f32>,
        batch: &mut Batch<'_, CpuCache>,
        out: &mut Vec<f32>,
    ) {
        let width = (config.num_attention_heads * config.head_dim) as usize;
        out.resize(batch.tokens() * width, 0.0);
        let frequencies = inverse_frequencies(config);
        for (segment, cache) in batch.segments.iter().zip(&mut batch.caches) {
            let rows = segment.offset * width..(segment.offset + segment.len) * width;
            let LayerCache::Attention(pages) = &mut cache.layers[layer] else {
                unreachable!("caches are made from the config that the layers are made from");
            };
            Attention::new(config, &frequencies, weights, projected, *segment)
                .run(pages, &mut out[rows]);
        }
    }

    fn logits(&self, head: &Matrix, x: &Vec<f32>, rows: &[usize]) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * head.rows()];
        let x = gather(x, head.columns(), rows.iter().copied());
        head.multiply(&x, &mut out, &mut Activations::default());
        out
    }

    /// Log-sum-exp over chunks of the vocabulary; each row's chunks are merged in order.
    fn logprobs(&self, head: &Matrix, x: &Vec<f32>, targets: &[(usize, u32)]) -> Vec<f32> {
        let count = targets.len();
        let x = gather(x, head.columns(), targets.iter().map(|t| t.0));
        let mut picked = vec![0.0f32; count];
        let mut sums = vec![f32::NEG_INFINITY; count];
        let (mut logits, mut scratch) = (Vec::new(), Activations::default());
        for first in (0..head.rows()).step_by(VOCABULARY_CHUNK) {
            let width = VOCABULARY_CHUNK.min(head.rows() - first);
            logits.resize(count * width, 0.0);
            let tiles = first / LANES..(first + width).div_ceil(LANES);
            head.multiply_rows(&x, &mut logits, tiles, &mut scratch);
            let rows = logits.par_chunks(width).zip(targets);
            let rows = rows.zip(sums.par_iter_mut().zip(&mut picked));
            rows.for_each(|((row, (_, target)), (sum, picked))| {
                *sum = log_add(*sum, log_sum_exp(row));
                if let Some(logit) = (*target as usize).checked_sub(first).and_then(|i| row.get(i))
                {
                    *picked = *logit;
                }
            });
        }
        picked.iter().zip(sums).map(|(logit, sum)| logit - sum).collect()
    }
}

fn gather(x: &[f32], width: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    rows.flat_map(|row| &x[row * width..(row + 1) * width]).copied().collect()
}

/// `ln(e^a + e^b)`.
fn log_add(a: f32, b: f32) -> f32 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f32::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}
