//! The operations that the models need, and nothing about how they are computed.
//!
//! A forward pass works on a packed batch: the new tokens of several sequences one after the
//! other, each sequence a [`Segment`]. Activations are `[tokens, width]`, row-major. Operations
//! are as coarse as a GPU wants its kernels: one call a fused step. What a sequence remembers
//! (convolution inputs, recurrent state, keys and values) is the backend's own [`Backend::Cache`].

use crate::arch::{LinearConfig, TextConfig};
use crate::dtype::Dtype;

/// Rows of a weight as they lie in the checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// F32, F16 or BF16.
    pub dtype: Dtype,
    /// Little-endian values, row after row.
    pub bytes: &'a [u8],
    /// Values a row.
    pub columns: usize,
}

impl Rows<'_> {
    /// Returns the bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.columns * self.dtype.size_bytes()
    }
}

/// How matrices are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightPrecision {
    /// Every weight has exactly the value of the checkpoint.
    #[default]
    Exact,
    /// Blocks of 32 eight-bit values with a scale.
    Q8_0,
}

/// The new tokens of one sequence in a packed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Row of its first token.
    pub offset: usize,
    /// Number of tokens.
    pub len: usize,
    /// Tokens of the sequence that the cache already holds.
    pub position: usize,
}

/// Weights of a gated delta rule layer that are not plain projections.
#[derive(Debug)]
pub struct DeltaWeights<V> {
    /// `[kernel, channels]`: tap-major, the last tap is the current token.
    pub conv: V,
    /// `[value heads]`.
    pub a_log: V,
    /// `[value heads]`.
    pub dt_bias: V,
    /// `[value head dim]`, used as it is.
    pub norm: V,
}

/// Weights of an attention layer that are not plain projections.
#[derive(Debug)]
pub struct AttentionWeights<V> {
    /// `[head_dim]`, effective: `1 + w` where the model has it so.
    pub q_norm: V,
    /// `[head_dim]`, effective.
    pub k_norm: V,
}

/// What computes.
///
/// Outputs are resized as needed; their old contents are lost. Every row of a result depends on
/// the rows of its own sequence alone.
pub trait Backend: Send + Sync {
    /// Activations `[tokens, width]` in f32.
    type Buffer: Send + Default;
    /// A weight matrix.
    type Matrix: Send + Sync;
    /// A small f32 weight.
    type Vector: Send + Sync;
    /// What one sequence remembers. A clone shares what it can.
    type Cache: Send + Clone;

    /// Takes in a matrix `[rows, columns]`, the parts' rows one after the other.
    fn matrix(&self, parts: &[Rows<'_>]) -> Self::Matrix;

    /// Takes in a small weight.
    fn vector(&self, values: Vec<f32>) -> Self::Vector;

    /// Makes the cache of an empty sequence.
    fn cache(&self, config: &TextConfig) -> Self::Cache;

    /// Returns about how many bytes a cache takes by itself.
    fn cache_bytes(&self, cache: &Self::Cache) -> usize;

    /// Gathers rows: `out[t] = table[ids[t]]`.
    fn embed(&self, table: &Self::Matrix, ids: &[u32], out: &mut Self::Buffer);

    /// Computes `out = x · weightᵀ`.
    fn linear(&self, weight: &Self::Matrix, x: &Self::Buffer, out: &mut Self::Buffer);

    /// Adds `delta` (if any) to `hidden`, then `out = hidden · rsqrt(mean hidden² + eps) · weight`.
    fn add_rms_norm(
        &self,
        hidden: &mut Self::Buffer,
        delta: Option<&Self::Buffer>,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Buffer,
    );

    /// Computes `out = silu(gate) · up` from rows `[gate | up]`, each half `width` long.
    fn swiglu(&self, gate_up: &Self::Buffer, width: usize, out: &mut Self::Buffer);

    /// The mixer of a gated delta rule layer between its projections.
    ///
    /// Rows of `projected` are `[q | k | v | z | b | a]`. Causal convolution and SiLU over
    /// `q | k | v`, gates, the delta rule in f32, gated norm; rows of `out` are
    /// `[value heads × value head dim]`. Advances the caches' state of `layer`.
    #[allow(clippy::too_many_arguments, reason = "one kernel's operands")]
    fn delta_rule(
        &self,
        layer: usize,
        config: &LinearConfig,
        eps: f32,
        weights: &DeltaWeights<Self::Vector>,
        projected: &Self::Buffer,
        batch: &mut Batch<'_, Self::Cache>,
        out: &mut Self::Buffer,
    );

    /// The mixer of a full attention layer between its projections.
    ///
    /// Rows of `projected` are `[q | k | v]`; with an output gate each query head is
    /// `[query | gate]`. Head norms, partial rotary embedding, write of keys and values, causal
    /// softmax attention in f32, gate; rows of `out` are `[heads × head_dim]`.
    fn attention(
        &self,
        layer: usize,
        config: &TextConfig,
        weights: &AttentionWeights<Self::Vector>,
        projected: &Self::Buffer,
        batch: &mut Batch<'_, Self::Cache>,
        out: &mut Self::Buffer,
    );

    /// Computes the logits of some rows: `[rows.len(), vocabulary]` on the host, in f32.
    fn logits(&self, head: &Self::Matrix, x: &Self::Buffer, rows: &[usize]) -> Vec<f32>;

    /// Returns `ln p(target)` of row `t` for every `(t, target)`, without holding all logits.
    fn logprobs(&self, head: &Self::Matrix, x: &Self::Buffer, targets: &[(usize, u32)])
    -> Vec<f32>;
}

/// The sequences of one forward pass: where their tokens are, and what they remember.
pub struct Batch<'a, C> {
    /// One a sequence, in the order of the rows, without gaps.
    pub segments: Vec<Segment>,
    /// One a segment.
    pub caches: Vec<&'a mut C>,
}

impl<C> Batch<'_, C> {
    /// Returns the number of rows.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.segments.iter().map(|segment| segment.len).sum()
    }
}
