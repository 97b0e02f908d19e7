//! Qwen3.5 and Qwen3.6 dense: gated delta rule layers, every fourth one full attention.
//!
//! Names and shapes: transformers 5.17 `modeling_qwen3_5.py`; GGUF side: llama.cpp at 0c1e57098.

use super::config::LayerKind::{FullAttention, LinearAttention};
use super::rule::{
    Dim, Fused, GgufType, Part, Presence, QuantClass, Repeat, TensorRule, Transform,
};

use Dim as D;
use Fused::{GateUpProj, InProjBa, InProjQkvz, No, QkvProj};
use GgufType::{F32, Out, PatchEmbed};
use Part::{Mtp, Text, Vision};
use Presence::{Required, UnlessTied};
use QuantClass::{AttnOutput, AttnV, Base, FfnDown, Output, TokenEmbd};
use Repeat::{Deepstack, EveryLayer, LayersOf, MtpLayer, Once, VisionBlock};
use Transform as T;

const LINEAR: Repeat = LayersOf(LinearAttention);
const FULL: Repeat = LayersOf(FullAttention);

/// Makes one line of the table; a function only so that the columns align.
#[allow(clippy::too_many_arguments, reason = "one argument a column of the table")]
const fn row(
    part: Part,
    repeat: Repeat,
    hf: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
    gguf_type: GgufType,
    transform: Transform,
    fused: Fused,
) -> TensorRule {
    TensorRule { hf, gguf, part, repeat, presence: Required, shape, gguf_type, transform, fused }
}

/// The tensors of Qwen3.5 dense.
#[rustfmt::skip]
pub const TENSORS: &[TensorRule] = &[
    TensorRule { presence: UnlessTied, ..
    row(Text, Once, "lm_head.weight", "output.weight", &[D::Vocab, D::Hidden], Out(Output), T::Copy, No) },
    row(Text, Once, "model.embed_tokens.weight", "token_embd.weight", &[D::Vocab, D::Hidden], Out(TokenEmbd), T::Copy, No),
    row(Text, Once, "model.norm.weight", "output_norm.weight", &[D::Hidden], F32, T::AddOne, No),

    row(Text, EveryLayer, "model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[D::Hidden], F32, T::AddOne, No),
    row(Text, EveryLayer, "model.layers.{}.post_attention_layernorm.weight", "blk.{}.post_attention_norm.weight", &[D::Hidden], F32, T::AddOne, No),
    row(Text, EveryLayer, "model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", &[D::Intermediate, D::Hidden], Out(Base), T::Copy, GateUpProj),
    row(Text, EveryLayer, "model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", &[D::Intermediate, D::Hidden], Out(Base), T::Copy, GateUpProj),
    row(Text, EveryLayer, "model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", &[D::Hidden, D::Intermediate], Out(FfnDown), T::Copy, No),

    row(Text, FULL, "model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", &[D::QueryGate, D::Hidden], Out(Base), T::Copy, QkvProj),
    row(Text, FULL, "model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", &[D::KeyValue, D::Hidden], Out(Base), T::Copy, QkvProj),
    row(Text, FULL, "model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", &[D::KeyValue, D::Hidden], Out(AttnV), T::Copy, QkvProj),
    row(Text, FULL, "model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", &[D::Hidden, D::Query], Out(AttnOutput), T::Copy, No),
    row(Text, FULL, "model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", &[D::HeadDim], F32, T::AddOne, No),
    row(Text, FULL, "model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", &[D::HeadDim], F32, T::AddOne, No),

    row(Text, LINEAR, "model.layers.{}.linear_attn.in_proj_qkv.weight", "blk.{}.attn_qkv.weight", &[D::LinearQkv, D::Hidden], Out(AttnV), T::QkvValueRows, InProjQkvz),
    row(Text, LINEAR, "model.layers.{}.linear_attn.in_proj_z.weight", "blk.{}.attn_gate.weight", &[D::LinearValue, D::Hidden], Out(Base), T::ValueHeadRows, InProjQkvz),
    row(Text, LINEAR, "model.layers.{}.linear_attn.in_proj_b.weight", "blk.{}.ssm_beta.weight", &[D::LinearValueHeads, D::Hidden], Out(Base), T::ValueHeadEntries, InProjBa),
    row(Text, LINEAR, "model.layers.{}.linear_attn.in_proj_a.weight", "blk.{}.ssm_alpha.weight", &[D::LinearValueHeads, D::Hidden], Out(Base), T::ValueHeadEntries, InProjBa),
    row(Text, LINEAR, "model.layers.{}.linear_attn.conv1d.weight", "blk.{}.ssm_conv1d.weight", &[D::LinearQkv, D::One, D::ConvKernel], F32, T::ConvChannels, No),
    row(Text, LINEAR, "model.layers.{}.linear_attn.dt_bias", "blk.{}.ssm_dt.bias", &[D::LinearValueHeads], F32, T::ValueHeadEntries, No),
    row(Text, LINEAR, "model.layers.{}.linear_attn.A_log", "blk.{}.ssm_a", &[D::LinearValueHeads], F32, T::NegExp, No),
    row(Text, LINEAR, "model.layers.{}.linear_attn.norm.weight", "blk.{}.ssm_norm.weight", &[D::LinearValueHeadDim], F32, T::Copy, No),
    row(Text, LINEAR, "model.layers.{}.linear_attn.out_proj.weight", "blk.{}.ssm_out.weight", &[D::Hidden, D::LinearValue], Out(Base), T::ValueHeadColumns, No),

    row(Mtp, Once, "mtp.fc.weight", "blk.{}.nextn.eh_proj.weight", &[D::Hidden, D::TwiceHidden], Out(Base), T::Copy, No),
    row(Mtp, Once, "mtp.pre_fc_norm_embedding.weight", "blk.{}.nextn.enorm.weight", &[D::Hidden], F32, T::AddOne, No),
    row(Mtp, Once, "mtp.pre_fc_norm_hidden.weight", "blk.{}.nextn.hnorm.weight", &[D::Hidden], F32, T::AddOne, No),
    row(Mtp, Once, "mtp.norm.weight", "blk.{}.nextn.shared_head_norm.weight", &[D::Hidden], F32, T::AddOne, No),
    row(Mtp, MtpLayer, "mtp.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[D::Hidden], F32, T::AddOne, No),
    row(Mtp, MtpLayer, "mtp.layers.{}.post_attention_layernorm.weight", "blk.{}.post_attention_norm.weight", &[D::Hidden], F32, T::AddOne, No),
    row(Mtp, MtpLayer, "mtp.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", &[D::Intermediate, D::Hidden], Out(Base), T::Copy, GateUpProj),
    row(Mtp, MtpLayer, "mtp.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", &[D::Intermediate, D::Hidden], Out(Base), T::Copy, GateUpProj),
    row(Mtp, MtpLayer, "mtp.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", &[D::Hidden, D::Intermediate], Out(FfnDown), T::Copy, No),
    row(Mtp, MtpLayer, "mtp.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", &[D::QueryGate, D::Hidden], Out(Base), T::Copy, QkvProj),
    row(Mtp, MtpLayer, "mtp.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", &[D::KeyValue, D::Hidden], Out(Base), T::Copy, QkvProj),
    row(Mtp, MtpLayer, "mtp.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", &[D::KeyValue, D::Hidden], Out(AttnV), T::Copy, QkvProj),
    row(Mtp, MtpLayer, "mtp.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", &[D::Hidden, D::Query], Out(AttnOutput), T::Copy, No),
    row(Mtp, MtpLayer, "mtp.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", &[D::HeadDim], F32, T::AddOne, No),
    row(Mtp, MtpLayer, "mtp.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", &[D::HeadDim], F32, T::AddOne, No),

    row(Vision, Once, "model.visual.patch_embed.proj.weight", "v.patch_embd.weight", &[D::VisionHidden, D::VisionInChannels, D::VisionTemporalPatch, D::VisionPatch, D::VisionPatch], PatchEmbed, T::SplitTemporal, No),
    row(Vision, Once, "model.visual.patch_embed.proj.bias", "v.patch_embd.bias", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, Once, "model.visual.pos_embed.weight", "v.position_embd.weight", &[D::VisionPositions, D::VisionHidden], F32, T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.norm1.weight", "v.blk.{}.ln1.weight", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.norm1.bias", "v.blk.{}.ln1.bias", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.norm2.weight", "v.blk.{}.ln2.weight", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.norm2.bias", "v.blk.{}.ln2.bias", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.attn.qkv.weight", "v.blk.{}.attn_qkv.weight", &[D::VisionThreeHidden, D::VisionHidden], Out(AttnV), T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.attn.qkv.bias", "v.blk.{}.attn_qkv.bias", &[D::VisionThreeHidden], F32, T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.attn.proj.weight", "v.blk.{}.attn_out.weight", &[D::VisionHidden, D::VisionHidden], Out(Base), T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.attn.proj.bias", "v.blk.{}.attn_out.bias", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.mlp.linear_fc1.weight", "v.blk.{}.ffn_up.weight", &[D::VisionIntermediate, D::VisionHidden], Out(Base), T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.mlp.linear_fc1.bias", "v.blk.{}.ffn_up.bias", &[D::VisionIntermediate], F32, T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.mlp.linear_fc2.weight", "v.blk.{}.ffn_down.weight", &[D::VisionHidden, D::VisionIntermediate], Out(FfnDown), T::Copy, No),
    row(Vision, VisionBlock, "model.visual.blocks.{}.mlp.linear_fc2.bias", "v.blk.{}.ffn_down.bias", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, Once, "model.visual.merger.norm.weight", "v.post_ln.weight", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, Once, "model.visual.merger.norm.bias", "v.post_ln.bias", &[D::VisionHidden], F32, T::Copy, No),
    row(Vision, Once, "model.visual.merger.linear_fc1.weight", "mm.0.weight", &[D::VisionMerged, D::VisionMerged], Out(Base), T::Copy, No),
    row(Vision, Once, "model.visual.merger.linear_fc1.bias", "mm.0.bias", &[D::VisionMerged], F32, T::Copy, No),
    row(Vision, Once, "model.visual.merger.linear_fc2.weight", "mm.2.weight", &[D::VisionOut, D::VisionMerged], Out(Base), T::Copy, No),
    row(Vision, Once, "model.visual.merger.linear_fc2.bias", "mm.2.bias", &[D::VisionOut], F32, T::Copy, No),
    row(Vision, Deepstack, "model.visual.deepstack_merger_list.{}.norm.weight", "v.deepstack.{}.norm.weight", &[D::VisionMerged], F32, T::Copy, No),
    row(Vision, Deepstack, "model.visual.deepstack_merger_list.{}.norm.bias", "v.deepstack.{}.norm.bias", &[D::VisionMerged], F32, T::Copy, No),
    row(Vision, Deepstack, "model.visual.deepstack_merger_list.{}.linear_fc1.weight", "v.deepstack.{}.fc1.weight", &[D::VisionMerged, D::VisionMerged], Out(Base), T::Copy, No),
    row(Vision, Deepstack, "model.visual.deepstack_merger_list.{}.linear_fc1.bias", "v.deepstack.{}.fc1.bias", &[D::VisionMerged], F32, T::Copy, No),
    row(Vision, Deepstack, "model.visual.deepstack_merger_list.{}.linear_fc2.weight", "v.deepstack.{}.fc2.weight", &[D::VisionOut, D::VisionMerged], Out(Base), T::Copy, No),
    row(Vision, Deepstack, "model.visual.deepstack_merger_list.{}.linear_fc2.bias", "v.deepstack.{}.fc2.bias", &[D::VisionOut], F32, T::Copy, No),
];
