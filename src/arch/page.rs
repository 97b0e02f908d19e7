//! An architecture's table as a page of documentation.

use std::fmt::Write as _;

use super::rule::Dim;
use super::{
    Architecture, Fused, GgufType, LayerKind, NAMES, Part, Presence, QuantClass, Repeat, Transform,
};

impl Architecture {
    /// Every supported architecture.
    pub const ALL: [Self; 2] = [Self::Qwen3_5, Self::Qwen3];

    /// Returns the name of its page in `docs/formats/`.
    #[must_use]
    pub fn page_name(self) -> &'static str {
        match self {
            Self::Qwen3_5 => "qwen3_5.md",
            Self::Qwen3 => "qwen3.md",
        }
    }

    /// Writes the table out as Markdown, one line a tensor pattern.
    #[must_use]
    pub fn page(self) -> String {
        let classes: Vec<String> = NAMES
            .iter()
            .filter(|(_, _, architecture)| *architecture == self)
            .map(|(class, model_type, _)| format!("`{class}` (`{model_type}`)"))
            .collect();
        let mut page = format!(
            "# Tensors of {}\n\nWritten from the table in `src/arch/` by `just docs`. In GGUF: \
             `{}`. `{{}}` is the number of the layer or block. Shapes are row-major, `[out, in]`, \
             in the words of config.json. Other layouts of the Hugging Face names are brought to \
             these first.\n",
            classes.join(", "),
            self.gguf_name()
        );
        for (part, title) in [
            (Part::Text, "Text"),
            (Part::Mtp, "Multi-token prediction"),
            (Part::Vision, "Vision tower"),
        ] {
            let rules: Vec<_> = self.tensors().iter().filter(|rule| rule.part == part).collect();
            if rules.is_empty() {
                continue;
            }
            write!(page, "\n## {title}\n\n{HEAD}").expect("strings grow");
            for rule in rules {
                let shape: Vec<&str> = rule.shape.iter().map(|dim| dim_words(*dim)).collect();
                writeln!(
                    page,
                    "| `{}` | `{}` | {} | [{}] | {} | {} | {} |",
                    rule.hf,
                    rule.gguf,
                    repeat_words(rule.repeat, rule.presence),
                    shape.join(", "),
                    type_words(rule.gguf_type),
                    transform_words(rule.transform),
                    fused_words(rule.fused),
                )
                .expect("strings grow");
            }
        }
        page
    }
}

const HEAD: &str = "\
| Hugging Face | GGUF | stands | shape | GGUF type | change on the way | fused in vLLM |
|---|---|---|---|---|---|---|
";

fn dim_words(dim: Dim) -> &'static str {
    match dim {
        Dim::One => "1",
        Dim::Vocab => "vocab_size",
        Dim::Hidden => "hidden_size",
        Dim::TwiceHidden => "2 × hidden_size",
        Dim::Intermediate => "intermediate_size",
        Dim::HeadDim => "head_dim",
        Dim::Query => "num_attention_heads × head_dim",
        Dim::QueryGate => "num_attention_heads × head_dim (× 2 with attn_output_gate)",
        Dim::KeyValue => "num_key_value_heads × head_dim",
        Dim::LinearKeyHeads => "linear_num_key_heads",
        Dim::LinearValueHeads => "linear_num_value_heads",
        Dim::LinearValueHeadDim => "linear_value_head_dim",
        Dim::LinearValue => "linear_num_value_heads × linear_value_head_dim",
        Dim::LinearQkv => {
            "2 × linear_num_key_heads × linear_key_head_dim + linear_num_value_heads × \
             linear_value_head_dim"
        }
        Dim::ConvKernel => "linear_conv_kernel_dim",
        Dim::VisionHidden => "hidden_size",
        Dim::VisionThreeHidden => "3 × hidden_size",
        Dim::VisionIntermediate => "intermediate_size",
        Dim::VisionInChannels => "in_channels",
        Dim::VisionTemporalPatch => "temporal_patch_size",
        Dim::VisionPatch => "patch_size",
        Dim::VisionPositions => "num_position_embeddings",
        Dim::VisionMerged => "hidden_size × spatial_merge_size²",
        Dim::VisionOut => "out_hidden_size",
    }
}

fn repeat_words(repeat: Repeat, presence: Presence) -> &'static str {
    match (repeat, presence) {
        (Repeat::Once, Presence::UnlessTied) => "once, unless tie_word_embeddings",
        (Repeat::Once, Presence::Required) => "once",
        (Repeat::EveryLayer, _) => "in every layer",
        (Repeat::LayersOf(LayerKind::LinearAttention), _) => "in linear_attention layers",
        (Repeat::LayersOf(LayerKind::FullAttention), _) => "in full_attention layers",
        (Repeat::MtpLayer, _) => "in every MTP layer",
        (Repeat::VisionBlock, _) => "in every vision block",
        (Repeat::Deepstack, _) => "in every deep-stack merger",
    }
}

fn type_words(gguf_type: GgufType) -> &'static str {
    match gguf_type {
        GgufType::Out(QuantClass::Base) => "`--outtype`",
        GgufType::Out(QuantClass::Output) => "`--outtype`, as the head",
        GgufType::Out(QuantClass::TokenEmbd) => "`--outtype`, as the embedding",
        GgufType::Out(QuantClass::AttnV) => "`--outtype`, as attention values",
        GgufType::Out(QuantClass::AttnOutput) => "`--outtype`, as attention's output",
        GgufType::Out(QuantClass::FfnDown) => "`--outtype`, as ffn_down",
        GgufType::F32 => "F32",
        GgufType::PatchEmbed => "F16 for f16, else F32",
    }
}

fn transform_words(transform: Transform) -> &'static str {
    match transform {
        Transform::Copy => "none",
        Transform::AddOne => "w + 1",
        Transform::NegExp => "−exp(w), by value head",
        Transform::ValueHeadRows => "rows by value head",
        Transform::ValueHeadEntries => "entries by value head",
        Transform::QkvValueRows => "value rows by value head",
        Transform::ConvChannels => "value rows by value head, middle axis dropped",
        Transform::ValueHeadColumns => "columns by value head",
        Transform::SplitTemporal => "one tensor a temporal slice",
    }
}

fn fused_words(fused: Fused) -> String {
    fused.vllm_name().map_or_else(|| "–".into(), |name| format!("`{name}`"))
}
