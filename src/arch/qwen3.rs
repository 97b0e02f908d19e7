//! Qwen3 dense, the architecture of tmax-8b: full attention in every layer, plain RMS norms.
//!
//! Names and shapes: transformers 5.17 `modeling_qwen3.py`; GGUF side: llama.cpp at 0c1e57098.

use super::rule::{
    Dim, Fused, GgufType, Part, Presence, QuantClass, Repeat, TensorRule, Transform,
};

use Dim as D;
use Fused::{GateUpProj, No, QkvProj};
use GgufType::{F32, Out};
use Presence::{Required, UnlessTied};
use QuantClass::{AttnOutput, AttnV, Base, FfnDown, Output, TokenEmbd};
use Repeat::{EveryLayer, Once};

/// Makes one line of the table; a function only so that the columns align.
const fn row(
    repeat: Repeat,
    hf: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
    gguf_type: GgufType,
    fused: Fused,
) -> TensorRule {
    let (part, presence, transform) = (Part::Text, Required, Transform::Copy);
    TensorRule { hf, gguf, part, repeat, presence, shape, gguf_type, transform, fused }
}

/// The tensors of Qwen3 dense.
#[rustfmt::skip]
pub const TENSORS: &[TensorRule] = &[
    TensorRule { presence: UnlessTied, ..
    row(Once, "lm_head.weight", "output.weight", &[D::Vocab, D::Hidden], Out(Output), No) },
    row(Once, "model.embed_tokens.weight", "token_embd.weight", &[D::Vocab, D::Hidden], Out(TokenEmbd), No),
    row(Once, "model.norm.weight", "output_norm.weight", &[D::Hidden], F32, No),
    row(EveryLayer, "model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[D::Hidden], F32, No),
    row(EveryLayer, "model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", &[D::Hidden], F32, No),
    row(EveryLayer, "model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", &[D::Intermediate, D::Hidden], Out(Base), GateUpProj),
    row(EveryLayer, "model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", &[D::Intermediate, D::Hidden], Out(Base), GateUpProj),
    row(EveryLayer, "model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", &[D::Hidden, D::Intermediate], Out(FfnDown), No),
    row(EveryLayer, "model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", &[D::Query, D::Hidden], Out(Base), QkvProj),
    row(EveryLayer, "model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", &[D::KeyValue, D::Hidden], Out(Base), QkvProj),
    row(EveryLayer, "model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", &[D::KeyValue, D::Hidden], Out(AttnV), QkvProj),
    row(EveryLayer, "model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", &[D::Hidden, D::Query], Out(AttnOutput), No),
    row(EveryLayer, "model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", &[D::HeadDim], F32, No),
    row(EveryLayer, "model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", &[D::HeadDim], F32, No),
];
