//! The text models of Qwen3.5 and Qwen3, written once over [`Backend`].
//!
//! Source: transformers 5.17 `modeling_qwen3_5.py` and `modeling_qwen3.py`. Activations are f32.
//! A layer is `h += mixer(norm(h)); h += mlp(norm(h))`, the mixer being a gated delta rule or
//! full attention. Projections that read the same row are one matrix here.
//!
//! `T` tokens, `H` hidden, `I` intermediate, `N` query heads, `G` key-value heads of `D`;
//! `KD`, `VD` key and value widths of a delta layer, `HV` its value heads, `V` vocabulary.

use crate::arch::{LayerKind, LinearConfig, ModelConfig, TextConfig};
use crate::engine::backend::{AttentionWeights, Backend, Batch, DeltaWeights};
use crate::engine::weights::{Find, Weights, WeightsError};

/// A model ready to run.
pub struct Model<B: Backend> {
    backend: B,
    config: TextConfig,
    /// `[V, H]`.
    embed: B::Matrix,
    /// `[V, H]`; none when it is the embedding.
    head: Option<B::Matrix>,
    norm: B::Vector,
    layers: Vec<Layer<B>>,
}

struct Layer<B: Backend> {
    input_norm: B::Vector,
    mixer: Mixer<B>,
    post_norm: B::Vector,
    /// `[2I, H]`: gate, up.
    gate_up: B::Matrix,
    /// `[H, I]`.
    down: B::Matrix,
}

enum Mixer<B: Backend> {
    Delta {
        config: LinearConfig,
        /// `[2KD + 2VD + 2HV, H]`: q, k, v, z, b, a.
        in_proj: B::Matrix,
        weights: DeltaWeights<B::Vector>,
        /// `[H, VD]`.
        out_proj: B::Matrix,
    },
    Attention {
        /// `[N·D (twice with a gate) + 2·G·D, H]`: q, k, v.
        qkv: B::Matrix,
        weights: AttentionWeights<B::Vector>,
        /// `[H, N·D]`.
        o_proj: B::Matrix,
    },
}

/// Buffers that forward passes use again and again.
pub struct Workspace<B: Backend> {
    hidden: B::Buffer,
    normed: B::Buffer,
    projected: B::Buffer,
    mixed: B::Buffer,
    delta: B::Buffer,
}

impl<B: Backend> Default for Workspace<B> {
    fn default() -> Self {
        Self {
            hidden: B::Buffer::default(),
            normed: B::Buffer::default(),
            projected: B::Buffer::default(),
            mixed: B::Buffer::default(),
            delta: B::Buffer::default(),
        }
    }
}

impl<B: Backend> Model<B> {
    /// Takes in the weights.
    ///
    /// # Errors
    /// [`WeightsError`]: a tensor is missing or not what the config says.
    pub fn load(
        backend: B,
        config: &ModelConfig,
        find: Find<'_, '_>,
    ) -> Result<Self, WeightsError> {
        let weights = Weights::check(config, find)?;
        let head = "lm_head.weight";
        let text = config.text.clone();
        let kinds = text.layer_kinds.iter().enumerate();
        Ok(Self {
            embed: backend.matrix(&[weights.rows("model.embed_tokens.weight")]),
            head: weights.has(head).then(|| backend.matrix(&[weights.rows(head)])),
            norm: backend.vector(weights.values("model.norm.weight")),
            layers: kinds
                .map(|(index, kind)| Layer::load(&backend, &text, &weights, index, *kind))
                .collect(),
            config: text,
            backend,
        })
    }

    /// Returns the numbers of the model.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Returns what computes.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Makes the cache of an empty sequence.
    pub fn cache(&self) -> B::Cache {
        self.backend.cache(&self.config)
    }

    fn head(&self) -> &B::Matrix {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Runs the tokens of a packed batch and advances its caches.
    ///
    /// The normed last hidden states `[T, H]` stay in the workspace, for [`Model::logits`] and
    /// [`Model::logprobs`]. Ids are below the vocabulary's size; the caller has checked.
    pub fn forward(
        &self,
        ids: &[u32],
        batch: &mut Batch<'_, B::Cache>,
        workspace: &mut Workspace<B>,
    ) {
        let (backend, eps) = (&self.backend, self.config.rms_norm_eps as f32);
        backend.embed(&self.embed, ids, &mut workspace.hidden);
        let mut pending = false;
        for (index, layer) in self.layers.iter().enumerate() {
            let w = &mut *workspace;
            let delta = pending.then_some(&w.delta);
            backend.add_rms_norm(&mut w.hidden, delta, &layer.input_norm, eps, &mut w.normed);
            self.mix(index, layer, batch, w);
            let (delta, norm) = (Some(&w.delta), &layer.post_norm);
            backend.add_rms_norm(&mut w.hidden, delta, norm, eps, &mut w.normed);
            backend.linear(&layer.gate_up, &w.normed, &mut w.projected);
            let width = self.config.intermediate_size as usize;
            backend.swiglu(&w.projected, width, &mut w.mixed);
            backend.linear(&layer.down, &w.mixed, &mut w.delta);
            pending = true;
        }
        let w = workspace;
        let delta = pending.then_some(&w.delta);
        backend.add_rms_norm(&mut w.hidden, delta, &self.norm, eps, &mut w.normed);
    }

    /// `delta = mixer(normed)`, both `[T, H]`.
    fn mix(
        &self,
        index: usize,
        layer: &Layer<B>,
        batch: &mut Batch<'_, B::Cache>,
        w: &mut Workspace<B>,
    ) {
        let backend = &self.backend;
        match &layer.mixer {
            Mixer::Delta { config, in_proj, weights, out_proj } => {
                let eps = self.config.rms_norm_eps as f32;
                backend.linear(in_proj, &w.normed, &mut w.projected);
                backend.delta_rule(index, config, eps, weights, &w.projected, batch, &mut w.mixed);
                backend.linear(out_proj, &w.mixed, &mut w.delta);
            }
            Mixer::Attention { qkv, weights, o_proj } => {
                backend.linear(qkv, &w.normed, &mut w.projected);
                let (config, mixed) = (&self.config, &mut w.mixed);
                backend.attention(index, config, weights, &w.projected, batch, mixed);
                backend.linear(o_proj, &w.mixed, &mut w.delta);
            }
        }
    }

    /// Returns the logits `[rows.len(), V]` of some rows of the last forward pass.
    pub fn logits(&self, workspace: &Workspace<B>, rows: &[usize]) -> Vec<f32> {
        self.backend.logits(self.head(), &workspace.normed, rows)
    }

    /// Returns `ln p(id)` for `(row, id)` pairs over rows of the last forward pass.
    pub fn logprobs(&self, workspace: &Workspace<B>, targets: &[(usize, u32)]) -> Vec<f32> {
        self.backend.logprobs(self.head(), &workspace.normed, targets)
    }
}

impl<B: Backend> Layer<B> {
    fn load(
        backend: &B,
        text: &TextConfig,
        weights: &Weights<'_>,
        index: usize,
        kind: LayerKind,
    ) -> Self {
        let name = |tail: &str| format!("model.layers.{index}.{tail}");
        let vector = |tail: &str| backend.vector(weights.values(&name(tail)));
        let matrix = |tails: &[&str]| {
            let parts: Vec<_> = tails.iter().map(|tail| weights.rows(&name(tail))).collect();
            backend.matrix(&parts)
        };
        let mixer = match (kind, &text.linear) {
            (LayerKind::LinearAttention, Some(config)) => Mixer::Delta {
                config: config.clone(),
                in_proj: matrix(&[
                    "linear_attn.in_proj_qkv.weight",
                    "linear_attn.in_proj_z.weight",
                    "linear_attn.in_proj_b.weight",
                    "linear_attn.in_proj_a.weight",
                ]),
                weights: DeltaWeights {
                    conv: backend.vector(weights.taps(&name("linear_attn.conv1d.weight"))),
                    a_log: vector("linear_attn.A_log"),
                    dt_bias: vector("linear_attn.dt_bias"),
                    norm: vector("linear_attn.norm.weight"),
                },
                out_proj: matrix(&["linear_attn.out_proj.weight"]),
            },
            _ => Mixer::Attention {
                qkv: matrix(&[
                    "self_attn.q_proj.weight",
                    "self_attn.k_proj.weight",
                    "self_attn.v_proj.weight",
                ]),
                weights: AttentionWeights {
                    q_norm: vector("self_attn.q_norm.weight"),
                    k_norm: vector("self_attn.k_norm.weight"),
                },
                o_proj: matrix(&["self_attn.o_proj.weight"]),
            },
        };
        Self {
            input_norm: vector("input_layernorm.weight"),
            mixer,
            post_norm: vector("post_attention_layernorm.weight"),
            gate_up: matrix(&["mlp.gate_proj.weight", "mlp.up_proj.weight"]),
            down: matrix(&["mlp.down_proj.weight"]),
        }
    }
}
