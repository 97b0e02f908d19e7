//! The gated delta rule layer between its projections.
//!
//! The rule is run token by token, in prefill too: the columns of a head's state are independent,
//! so 32 of them at a time stay in the first-level cache over all tokens of a segment, and the
//! scan costs a few percent of the projections. A chunked form would save little and would make
//! prefill and decode round differently.

use rayon::prelude::*;

use super::math::{dot, exp, rms_norm, sigmoid, silu, softplus};
use super::simd::{Kernel, run};
use crate::arch::LinearConfig;
use crate::engine::backend::{DeltaWeights, Segment};

/// State columns that are scanned together.
const COLUMNS: usize = 32;
/// Multiply-adds below which threads cost more than they give.
const PARALLEL_MIN: usize = 1 << 19;

/// What a sequence remembers of one layer.
#[derive(Debug, Clone)]
pub struct DeltaState {
    /// The last inputs of the convolution, oldest first: `[kernel - 1, channels]`.
    conv: Vec<f32>,
    /// `[value heads][column block][key head dim][32]`, missing columns zero.
    state: Vec<[f32; COLUMNS]>,
}

impl DeltaState {
    /// Makes the state of an empty sequence.
    pub fn new(config: &LinearConfig) -> Self {
        let shape = Shape::new(config);
        Self {
            conv: vec![0.0; (shape.taps - 1) * shape.channels()],
            state: vec![[0.0; COLUMNS]; shape.value_heads * shape.blocks() * shape.key_head_dim],
        }
    }

    /// Returns the bytes held.
    pub fn size_bytes(&self) -> usize {
        size_of_val(&self.conv[..]) + size_of_val(&self.state[..])
    }
}

/// The config's numbers as lengths.
#[derive(Debug, Clone, Copy)]
struct Shape {
    key_heads: usize,
    value_heads: usize,
    key_head_dim: usize,
    value_head_dim: usize,
    taps: usize,
}

impl Shape {
    fn new(config: &LinearConfig) -> Self {
        Self {
            key_heads: config.num_key_heads as usize,
            value_heads: config.num_value_heads as usize,
            key_head_dim: config.key_head_dim as usize,
            value_head_dim: config.value_head_dim as usize,
            taps: config.conv_kernel_dim as usize,
        }
    }

    fn key_dim(&self) -> usize {
        self.key_heads * self.key_head_dim
    }

    fn value_dim(&self) -> usize {
        self.value_heads * self.value_head_dim
    }

    fn channels(&self) -> usize {
        2 * self.key_dim() + self.value_dim()
    }

    /// Width of `[q | k | v | z | b | a]`.
    fn projected(&self) -> usize {
        self.channels() + self.value_dim() + 2 * self.value_heads
    }

    fn blocks(&self) -> usize {
        self.value_head_dim.div_ceil(COLUMNS)
    }
}

/// One segment's share of the operation.
pub struct DeltaRule<'a> {
    shape: Shape,
    eps: f32,
    weights: &'a DeltaWeights<Vec<f32>>,
    /// `[len, projected]`.
    projected: &'a [f32],
}

impl<'a> DeltaRule<'a> {
    /// Prepares the operation for the rows of one segment.
    pub fn new(
        config: &LinearConfig,
        eps: f32,
        weights: &'a DeltaWeights<Vec<f32>>,
        projected: &'a [f32],
        segment: Segment,
    ) -> Self {
        let shape = Shape::new(config);
        let width = shape.projected();
        let rows = segment.offset * width..(segment.offset + segment.len) * width;
        Self { shape, eps, weights, projected: &projected[rows] }
    }

    /// Writes `[len, value_dim]` and advances the state.
    pub fn run(&self, cache: &mut DeltaState, out: &mut [f32]) {
        let mixed = self.convolve(cache);
        let gates = self.gates();
        let read = self.scan(&mut cache.state, &mixed, &gates);
        self.gated_norm(&read, out);
    }

    fn len(&self) -> usize {
        self.projected.len() / self.shape.projected()
    }

    fn row(&self, token: usize) -> &'a [f32] {
        let width = self.shape.projected();
        &self.projected[token * width..(token + 1) * width]
    }

    /// Causal depthwise convolution, SiLU, and unit length of queries and keys: `[len, channels]`.
    fn convolve(&self, cache: &mut DeltaState) -> Vec<f32> {
        let (channels, history) = (self.shape.channels(), self.shape.taps - 1);
        let mut mixed = vec![0.0; self.len() * channels];
        let conv = &cache.conv;
        let input = |token: usize| -> &[f32] {
            match token.checked_sub(history) {
                Some(token) => &self.row(token)[..channels],
                None => &conv[token * channels..(token + 1) * channels],
            }
        };
        let one = |(token, out): (usize, &mut [f32])| {
            for tap in 0..self.shape.taps {
                let weights = &self.weights.conv[tap * channels..(tap + 1) * channels];
                run(Tap { weights, input: input(token + tap), out });
            }
            run(Activate { shape: self.shape, row: out });
        };
        if mixed.len() >= PARALLEL_MIN / 8 {
            mixed.par_chunks_mut(channels).enumerate().for_each(one);
        } else {
            mixed.chunks_mut(channels).enumerate().for_each(one);
        }
        let kept: Vec<f32> =
            (self.len()..self.len() + history).flat_map(|t| input(t).to_vec()).collect();
        cache.conv = kept;
        mixed
    }

    /// `(decay, beta)` of every token and value head.
    fn gates(&self) -> Vec<[f32; 2]> {
        let heads = self.shape.value_heads;
        let start = self.shape.channels() + self.shape.value_dim();
        let one = |token: usize| {
            let (b, a) = self.row(token)[start..].split_at(heads);
            let weights = self.weights;
            (0..heads).map(move |h| {
                let rate = weights.a_log[h].exp() * softplus(a[h] + weights.dt_bias[h]);
                [(-rate).exp(), sigmoid(b[h])]
            })
        };
        (0..self.len()).flat_map(one).collect()
    }

    /// Returns what every head reads: `[value heads][block][len][32]`.
    fn scan(
        &self,
        state: &mut [[f32; COLUMNS]],
        mixed: &[f32],
        gates: &[[f32; 2]],
    ) -> Vec<[f32; COLUMNS]> {
        let shape = self.shape;
        let len = self.len();
        let mut read = vec![[0.0; COLUMNS]; shape.value_heads * shape.blocks() * len];
        let one = |(index, (state, out)): (usize, (&mut [[f32; COLUMNS]], &mut [_]))| {
            let (head, block) = (index / shape.blocks(), index % shape.blocks());
            run(Scan { shape, head, block, mixed, gates, state, out });
        };
        if shape.value_dim() * shape.key_head_dim * len >= PARALLEL_MIN {
            let states = state.par_chunks_mut(shape.key_head_dim);
            states.zip(read.par_chunks_mut(len)).enumerate().for_each(one);
        } else {
            let states = state.chunks_mut(shape.key_head_dim);
            states.zip(read.chunks_mut(len)).enumerate().for_each(one);
        }
        read
    }

    /// Per head: RMS norm with the plain weight, times `silu(z)`.
    fn gated_norm(&self, read: &[[f32; COLUMNS]], out: &mut [f32]) {
        let shape = self.shape;
        let mut head = vec![0.0; shape.blocks() * COLUMNS];
        for (token, row) in out.chunks_mut(shape.value_dim()).enumerate() {
            let z = &self.row(token)[shape.channels()..][..shape.value_dim()];
            let heads = row.chunks_mut(shape.value_head_dim).zip(z.chunks(shape.value_head_dim));
            for (index, (out, z)) in heads.enumerate() {
                for (block, part) in head.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
                    *part = read[(index * shape.blocks() + block) * self.len() + token];
                }
                let (x, weight) = (&head[..shape.value_head_dim], &self.weights.norm);
                run(GatedNorm { x, weight, eps: self.eps, z, out });
            }
        }
    }
}

struct Tap<'a> {
    weights: &'a [f32],
    input: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Tap<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for ((o, w), x) in self.out.iter_mut().zip(self.weights).zip(self.input) {
            *o = w.mul_add(*x, *o);
        }
    }
}

/// SiLU of a row, then each query and key head to unit length, queries scaled.
struct Activate<'a> {
    shape: Shape,
    row: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for x in self.row.iter_mut() {
            *x = silu(*x);
        }
        let (dim, key_dim) = (self.shape.key_head_dim, self.shape.key_dim());
        let heads = self.row[..2 * key_dim].chunks_mut(dim).enumerate();
        for (index, head) in heads {
            let is_query = index < self.shape.key_heads;
            let scale = if is_query { 1.0 / (dim as f32).sqrt() } else { 1.0 };
            let scale = scale / (dot(head, head) + 1e-6).sqrt();
            for x in head.iter_mut() {
                *x *= scale;
            }
        }
    }
}

/// The rule for 32 columns of one head's state over all tokens.
///
/// `S ← decay·S; d = (v − kᵀS)·beta; S ← S + k⊗d; o = qᵀS`, in f32. The decay is applied while
/// the state is written, so that it is read twice and written once a token.
struct Scan<'a> {
    shape: Shape,
    head: usize,
    block: usize,
    mixed: &'a [f32],
    gates: &'a [[f32; 2]],
    /// `[key head dim][32]`.
    state: &'a mut [[f32; COLUMNS]],
    /// `[len][32]`.
    out: &'a mut [[f32; COLUMNS]],
}

impl Kernel for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let shape = self.shape;
        let dim = shape.key_head_dim;
        let key_head = self.head / (shape.value_heads / shape.key_heads);
        let start = self.block * COLUMNS;
        let width = COLUMNS.min(shape.value_head_dim - start);
        let state = &mut self.state[..dim];
        for (token, out) in self.out.iter_mut().enumerate() {
            let row = &self.mixed[token * shape.channels()..(token + 1) * shape.channels()];
            let q = &row[key_head * dim..][..dim];
            let k = &row[shape.key_dim() + key_head * dim..][..dim];
            let v = &row[2 * shape.key_dim() + self.head * shape.value_head_dim + start..][..width];
            let [decay, beta] = self.gates[token * shape.value_heads + self.head];
            let mut delta = [0.0f32; COLUMNS];
            delta[..width].copy_from_slice(v);
            let memory = read_state(state, k);
            for c in 0..COLUMNS {
                delta[c] = (-decay).mul_add(memory[c], delta[c]) * beta;
            }
            *out = update_state(state, k, q, decay, &delta);
        }
    }
}

/// `kᵀS`, in two running sums.
#[inline(always)]
fn read_state(state: &[[f32; COLUMNS]], k: &[f32]) -> [f32; COLUMNS] {
    let (mut even, mut odd) = ([0.0f32; COLUMNS], [0.0f32; COLUMNS]);
    let (pairs, rest) = state.as_chunks::<2>();
    let (keys, last) = k.as_chunks::<2>();
    for (rows, k) in pairs.iter().zip(keys) {
        for c in 0..COLUMNS {
            even[c] = k[0].mul_add(rows[0][c], even[c]);
            odd[c] = k[1].mul_add(rows[1][c], odd[c]);
        }
    }
    for (row, k) in rest.iter().zip(last) {
        for c in 0..COLUMNS {
            even[c] = k.mul_add(row[c], even[c]);
        }
    }
    for c in 0..COLUMNS {
        even[c] += odd[c];
    }
    even
}

/// `S ← decay·S + k⊗delta`; returns `qᵀS`.
#[inline(always)]
fn update_state(
    state: &mut [[f32; COLUMNS]],
    k: &[f32],
    q: &[f32],
    decay: f32,
    delta: &[f32; COLUMNS],
) -> [f32; COLUMNS] {
    let (mut even, mut odd) = ([0.0f32; COLUMNS], [0.0f32; COLUMNS]);
    let (pairs, rest) = state.as_chunks_mut::<2>();
    let (keys, last_key) = k.as_chunks::<2>();
    let (queries, last_query) = q.as_chunks::<2>();
    for (rows, (k, q)) in pairs.iter_mut().zip(keys.iter().zip(queries)) {
        for c in 0..COLUMNS {
            rows[0][c] = k[0].mul_add(delta[c], decay * rows[0][c]);
            rows[1][c] = k[1].mul_add(delta[c], decay * rows[1][c]);
            even[c] = q[0].mul_add(rows[0][c], even[c]);
            odd[c] = q[1].mul_add(rows[1][c], odd[c]);
        }
    }
    for (row, (k, q)) in rest.iter_mut().zip(last_key.iter().zip(last_query)) {
        for c in 0..COLUMNS {
            row[c] = k.mul_add(delta[c], decay * row[c]);
            even[c] = q.mul_add(row[c], even[c]);
        }
    }
    for c in 0..COLUMNS {
        even[c] += odd[c];
    }
    even
}

struct GatedNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    z: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for GatedNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        rms_norm(self.x, self.weight, self.eps, self.out);
        for (o, z) in self.out.iter_mut().zip(self.z) {
            *o *= z / (1.0 + exp(-z));
        }
    }
}
