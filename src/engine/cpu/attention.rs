//! Full attention between its projections: head norms, rotary embedding, paged cache, softmax.
//!
//! Keys and values live in pages of 64 tokens that clones of a sequence share until one writes.
//! Keys lie transposed in a page, so that 64 scores are computed side by side.

use std::sync::Arc;

use rayon::prelude::*;

use super::math::{exp, max, rms_norm, sigmoid, sum_lanes};
use super::simd::{Kernel, LANES, run};
use crate::arch::TextConfig;
use crate::engine::backend::{AttentionWeights, Segment};

/// Tokens a page.
const PAGE: usize = 64;
/// Multiply-adds below which threads cost more than they give.
const PARALLEL_MIN: usize = 1 << 19;

/// Keys and values of one layer, of up to 64 tokens.
#[derive(Debug, Clone)]
struct Page {
    /// `[kv heads][head_dim][64]`.
    keys: Vec<[f32; PAGE]>,
    /// `[kv heads][64][head_dim]`.
    values: Vec<f32>,
}

/// What a sequence remembers of one layer.
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    pages: Vec<Arc<Page>>,
}

impl KeyValues {
    /// Returns the bytes held; pages shared with others count a share each.
    pub fn size_bytes(&self) -> usize {
        let one = |page: &Arc<Page>| {
            let bytes = size_of_val(&page.keys[..]) + size_of_val(&page.values[..]);
            bytes / Arc::strong_count(page)
        };
        self.pages.iter().map(one).sum()
    }

    fn page_mut(&mut self, position: usize, shape: &Shape) -> &mut Page {
        if position / PAGE == self.pages.len() {
            let size = shape.kv_heads * shape.head_dim;
            let page = Page { keys: vec![[0.0; PAGE]; size], values: vec![0.0; size * PAGE] };
            self.pages.push(Arc::new(page));
        }
        Arc::make_mut(&mut self.pages[position / PAGE])
    }
}

/// The config's numbers as lengths.
#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    gated: bool,
}

impl Shape {
    fn new(config: &TextConfig) -> Self {
        let head_dim = config.head_dim as usize;
        Self {
            heads: config.num_attention_heads as usize,
            kv_heads: config.num_key_value_heads as usize,
            head_dim,
            rotary_dim: (head_dim as f64 * config.partial_rotary_factor) as usize / 2 * 2,
            gated: config.attn_output_gate,
        }
    }

    /// Values a query head has in a projected row.
    fn query_width(&self) -> usize {
        if self.gated { 2 * self.head_dim } else { self.head_dim }
    }

    fn projected(&self) -> usize {
        self.heads * self.query_width() + 2 * self.kv_heads * self.head_dim
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// One segment's share of the operation.
pub struct Attention<'a> {
    shape: Shape,
    eps: f32,
    inverse_frequencies: &'a [f32],
    weights: &'a AttentionWeights<Vec<f32>>,
    /// `[len, projected]`.
    projected: &'a [f32],
    position: usize,
}

/// Returns `theta^(-2i/d)` for the rotated pairs, in f32 as transformers has them.
pub fn inverse_frequencies(config: &TextConfig) -> Vec<f32> {
    let dim = Shape::new(config).rotary_dim;
    let theta = config.rope_theta as f32;
    (0..dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / dim as f32)).collect()
}

impl<'a> Attention<'a> {
    /// Prepares the operation for the rows of one segment.
    pub fn new(
        config: &TextConfig,
        inverse_frequencies: &'a [f32],
        weights: &'a AttentionWeights<Vec<f32>>,
        projected: &'a [f32],
        segment: Segment,
    ) -> Self {
        let shape = Shape::new(config);
        let width = shape.projected();
        let rows = segment.offset * width..(segment.offset + segment.len) * width;
        let projected = &projected[rows];
        let eps = config.rms_norm_eps as f32;
        Self { shape, eps, inverse_frequencies, weights, projected, position: segment.position }
    }

    /// Writes `[len, heads × head_dim]` and appends keys and values.
    pub fn run(&self, cache: &mut KeyValues, out: &mut [f32]) {
        let queries = self.rotate_and_store(cache);
        let shape = self.shape;
        let chunk = shape.group() * shape.head_dim;
        let pages = &cache.pages[..];
        let one = |(index, out): (usize, &mut [f32])| {
            let (token, kv_head) = (index / shape.kv_heads, index % shape.kv_heads);
            let queries = &queries[index * chunk..(index + 1) * chunk];
            self.attend(pages, token, kv_head, queries, out);
        };
        let len = out.len() / (chunk * shape.kv_heads);
        if len * (self.position + len) * chunk * shape.kv_heads >= PARALLEL_MIN {
            out.par_chunks_mut(chunk).enumerate().for_each(one);
        } else {
            out.chunks_mut(chunk).enumerate().for_each(one);
        }
    }

    fn row(&self, token: usize) -> &'a [f32] {
        let width = self.shape.projected();
        &self.projected[token * width..(token + 1) * width]
    }

    /// Norms and rotates queries and keys; returns the queries `[len, heads, head_dim]`.
    fn rotate_and_store(&self, cache: &mut KeyValues) -> Vec<f32> {
        let Shape { heads, kv_heads, head_dim: dim, .. } = self.shape;
        let len = self.projected.len() / self.shape.projected();
        let mut queries = vec![0.0; len * heads * dim];
        let mut key = vec![0.0; dim];
        for (token, out) in queries.chunks_mut(heads * dim).enumerate() {
            let row = self.row(token);
            let rotation = self.rotation(self.position + token);
            for (head, out) in out.chunks_mut(dim).enumerate() {
                let x = &row[head * self.shape.query_width()..][..dim];
                self.norm_and_rotate(x, &self.weights.q_norm, &rotation, out);
            }
            let (keys, values) = row[heads * self.shape.query_width()..].split_at(kv_heads * dim);
            let page = cache.page_mut(self.position + token, &self.shape);
            let slot = (self.position + token) % PAGE;
            for head in 0..kv_heads {
                let x = &keys[head * dim..(head + 1) * dim];
                self.norm_and_rotate(x, &self.weights.k_norm, &rotation, &mut key);
                let columns = &mut page.keys[head * dim..(head + 1) * dim];
                columns.iter_mut().zip(&key).for_each(|(column, k)| column[slot] = *k);
                page.values[(head * PAGE + slot) * dim..][..dim]
                    .copy_from_slice(&values[head * dim..(head + 1) * dim]);
            }
        }
        queries
    }

    /// `(cos, sin)` of every rotated pair; angles in f32 as transformers has them.
    fn rotation(&self, position: usize) -> Vec<(f32, f32)> {
        let angle = |f: &f32| position as f32 * f;
        self.inverse_frequencies.iter().map(|f| (angle(f).cos(), angle(f).sin())).collect()
    }

    /// RMS norm of a head, then its first dimensions rotated as halves.
    fn norm_and_rotate(&self, x: &[f32], weight: &[f32], rotation: &[(f32, f32)], out: &mut [f32]) {
        run(HeadNorm { x, weight, eps: self.eps, out });
        let (first, second) = out[..self.shape.rotary_dim].split_at_mut(rotation.len());
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(rotation) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    /// Attends with the query heads that share one key head.
    fn attend(
        &self,
        pages: &[Arc<Page>],
        token: usize,
        kv_head: usize,
        queries: &[f32],
        out: &mut [f32],
    ) {
        let dim = self.shape.head_dim;
        let count = self.position + token + 1;
        let pages = &pages[..count.div_ceil(PAGE)];
        let heads = queries.chunks(dim).zip(out.chunks_mut(dim)).enumerate();
        let mut scores = vec![[0.0f32; PAGE]; pages.len()];
        for (index, (query, out)) in heads {
            run(Softmax { query, pages, kv_head, count, scores: &mut scores, out });
            if self.shape.gated {
                let head = kv_head * self.shape.group() + index;
                let gate = &self.row(token)[(2 * head + 1) * dim..][..dim];
                run(Gate { gate, out });
            }
        }
    }
}

struct HeadNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for HeadNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        rms_norm(self.x, self.weight, self.eps, self.out);
    }
}

struct Gate<'a> {
    gate: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (o, g) in self.out.iter_mut().zip(self.gate) {
            *o *= sigmoid(*g);
        }
    }
}

/// `softmax(q·kᵀ / √d) · v` of one query over the first `count` tokens.
struct Softmax<'a> {
    query: &'a [f32],
    pages: &'a [Arc<Page>],
    kv_head: usize,
    count: usize,
    /// Room for the scores of all pages.
    scores: &'a mut [[f32; PAGE]],
    out: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let dim = self.query.len();
        let scale = 1.0 / (dim as f32).sqrt();
        for (page, scores) in self.pages.iter().zip(self.scores.iter_mut()) {
            *scores = page_scores(self.query, &page.keys[self.kv_head * dim..][..dim], scale);
        }
        let scores = self.scores.as_flattened_mut();
        // What lies behind the token in its page is other tokens' or nobody's.
        scores[self.count..].fill(f32::NEG_INFINITY);
        let most = max(scores);
        let mut lanes = [0.0f32; LANES];
        for chunk in scores.as_chunks_mut::<LANES>().0 {
            for (sum, score) in lanes.iter_mut().zip(chunk) {
                *score = exp(*score - most);
                *sum += *score;
            }
        }
        let inverse = 1.0 / sum_lanes(lanes);
        self.out.fill(0.0);
        for (index, page) in self.pages.iter().enumerate() {
            let count = (self.count - index * PAGE).min(PAGE);
            let values = &page.values[self.kv_head * PAGE * dim..][..count * dim];
            add_values(&self.scores[index][..count], values, self.out);
        }
        for o in self.out.iter_mut() {
            *o *= inverse;
        }
    }
}

/// 64 scores side by side.
#[inline(always)]
fn page_scores(query: &[f32], keys: &[[f32; PAGE]], scale: f32) -> [f32; PAGE] {
    let mut scores = [0.0f32; PAGE];
    for (q, column) in query.iter().zip(keys) {
        for j in 0..PAGE {
            scores[j] = q.mul_add(column[j], scores[j]);
        }
    }
    for score in &mut scores {
        *score *= scale;
    }
    scores
}

/// `out += Σ_j p[j] · v[j]`, 64 dimensions at a time in registers.
#[inline(always)]
fn add_values(weights: &[f32], values: &[f32], out: &mut [f32]) {
    const WIDTH: usize = 64;
    let dim = out.len();
    let (wide, rest) = out.as_chunks_mut::<WIDTH>();
    let start = wide.len() * WIDTH;
    for (index, out) in wide.iter_mut().enumerate() {
        let mut sums = *out;
        for (weight, row) in weights.iter().zip(values.chunks_exact(dim)) {
            let row = &row[index * WIDTH..(index + 1) * WIDTH];
            for c in 0..WIDTH {
                sums[c] = weight.mul_add(row[c], sums[c]);
            }
        }
        *out = sums;
    }
    for (weight, row) in weights.iter().zip(values.chunks_exact(dim)) {
        for (o, v) in rest.iter_mut().zip(&row[start..]) {
            *o = weight.mul_add(*v, *o);
        }
    }
}
