//! The vocabulary of an architecture table: one [`TensorRule`] a tensor pattern.
//!
//! Everything that knows a tensor by name reads it here: verify, strip, export, diff, the engine.
//! Shapes are row-major, `[out, in]`, as safetensors stores them.

use super::config::{LayerKind, TextConfig, VisionConfig};

/// The part of a checkpoint a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The language model itself.
    Text,
    /// The multi-token-prediction head.
    Mtp,
    /// The vision tower.
    Vision,
}

/// How often a rule applies, and to which layers. `{}` in a name is the layer's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Once a checkpoint.
    Once,
    /// In every text layer.
    EveryLayer,
    /// In text layers of one kind.
    LayersOf(LayerKind),
    /// In every MTP layer.
    MtpLayer,
    /// In every block of the vision tower.
    VisionBlock,
    /// In every deep-stack merger of the vision tower.
    Deepstack,
}

/// When a tensor that the rule names must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Whenever its part is.
    Required,
    /// Only when the head is not tied to the embedding; a stored duplicate is tolerated.
    UnlessTied,
}

/// One axis of a shape, in terms of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the config's own fields")]
pub enum Dim {
    One,
    Vocab,
    Hidden,
    TwiceHidden,
    Intermediate,
    HeadDim,
    /// `num_attention_heads × head_dim`.
    Query,
    /// Query rows, and gate rows where the architecture has an output gate.
    QueryGate,
    /// `num_key_value_heads × head_dim`.
    KeyValue,
    LinearKeyHeads,
    LinearValueHeads,
    LinearValueHeadDim,
    /// `linear_num_value_heads × linear_value_head_dim`.
    LinearValue,
    /// `2 × keys + values`: the channels of the convolution.
    LinearQkv,
    ConvKernel,
    VisionHidden,
    VisionThreeHidden,
    VisionIntermediate,
    VisionInChannels,
    VisionTemporalPatch,
    VisionPatch,
    VisionPositions,
    /// `hidden_size × spatial_merge_size²`.
    VisionMerged,
    VisionOut,
}

/// How values change on their way to GGUF. Each has its inverse beside it in `gguf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// Copied.
    Copy,
    /// `w + 1`, in f32: the norm's weight is stored around zero.
    AddOne,
    /// `-exp(w)`, and permuted by value head.
    NegExp,
    /// Rows permuted by value head, each head `linear_value_head_dim` rows.
    ValueHeadRows,
    /// Entries permuted by value head, each head one entry.
    ValueHeadEntries,
    /// The value rows behind the query and key rows are permuted by value head.
    QkvValueRows,
    /// As [`Transform::QkvValueRows`], and the middle axis of length one is dropped.
    ConvChannels,
    /// Columns permuted by value head.
    ValueHeadColumns,
    /// `[C, 3, 2, p, p]` becomes two tensors, one a temporal slice.
    SplitTemporal,
}

/// What a matrix is to the mixtures of types: some carry more of a model than others, and get
/// more bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantClass {
    /// The head.
    Output,
    /// The embedding, which stands in for the head where that is tied to it.
    TokenEmbd,
    /// Attention values, alone or fused with queries and keys.
    AttnV,
    /// What comes out of attention.
    AttnOutput,
    /// The way back from the feed-forward network's inner width.
    FfnDown,
    /// All others: the file type's own type.
    Base,
}

/// The element type of a tensor in GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// The type that `--outtype` asks for, or what its mixture has for the class.
    Out(QuantClass),
    /// Always F32.
    F32,
    /// F16 for `--outtype f16`, F32 otherwise.
    PatchEmbed,
}

/// The fused parameter of vLLM that a tensor is one part of.
///
/// vLLM does not notice when such a part is missing: it leaves it uninitialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are vLLM's")]
pub enum Fused {
    No,
    QkvProj,
    GateUpProj,
    InProjQkvz,
    InProjBa,
}

impl Fused {
    /// Returns vLLM's name of the parameter.
    #[must_use]
    pub fn vllm_name(self) -> Option<&'static str> {
        match self {
            Self::No => None,
            Self::QkvProj => Some("qkv_proj"),
            Self::GateUpProj => Some("gate_up_proj"),
            Self::InProjQkvz => Some("in_proj_qkvz"),
            Self::InProjBa => Some("in_proj_ba"),
        }
    }
}

/// One line of an architecture table.
#[derive(Debug, Clone, Copy)]
pub struct TensorRule {
    /// The canonical Hugging Face name: `model.`, `lm_head.`, `mtp.` or `model.visual.`.
    pub hf: &'static str,
    /// The GGUF name.
    pub gguf: &'static str,
    /// The part it belongs to.
    pub part: Part,
    /// The layers it stands in.
    pub repeat: Repeat,
    /// Whether it must be there.
    pub presence: Presence,
    /// The shape.
    pub shape: &'static [Dim],
    /// The type in GGUF.
    pub gguf_type: GgufType,
    /// The change on the way to GGUF.
    pub transform: Transform,
    /// vLLM's fused parameter.
    pub fused: Fused,
}

impl TensorRule {
    /// Returns the canonical name in layer `index` (ignored by rules without `{}`).
    #[must_use]
    pub fn hf_name(&self, index: usize) -> String {
        self.hf.replacen("{}", &index.to_string(), 1)
    }

    /// Returns the GGUF name in block `index` (ignored by rules without `{}`).
    #[must_use]
    pub fn gguf_name(&self, index: usize) -> String {
        self.gguf.replacen("{}", &index.to_string(), 1)
    }

    /// Returns the layer index if `name` is an instance of this rule; 0 for rules without `{}`.
    #[must_use]
    pub fn match_hf(&self, name: &str) -> Option<usize> {
        let Some((head, tail)) = self.hf.split_once("{}") else {
            return (self.hf == name).then_some(0);
        };
        let index = name.strip_prefix(head)?.strip_suffix(tail)?;
        let canonical = index == "0" || !index.starts_with('0');
        (canonical && index.len() <= 5 && index.bytes().all(|b| b.is_ascii_digit()))
            .then(|| index.parse().ok())
            .flatten()
    }

    /// Returns the shape promised by the config; `None` for a vision rule without vision config.
    #[must_use]
    pub fn shape(&self, text: &TextConfig, vision: Option<&VisionConfig>) -> Option<Vec<u64>> {
        self.shape.iter().map(|dim| dim.resolve(text, vision)).collect()
    }
}

impl Dim {
    /// Returns the length of the axis; `None` if the config lacks what it is made of.
    ///
    /// No overflow: the configs' fields are capped when parsed.
    #[must_use]
    pub fn resolve(self, text: &TextConfig, vision: Option<&VisionConfig>) -> Option<u64> {
        let linear = text.linear.as_ref();
        Some(match self {
            Self::One => 1,
            Self::Vocab => text.vocab_size,
            Self::Hidden => text.hidden_size,
            Self::TwiceHidden => 2 * text.hidden_size,
            Self::Intermediate => text.intermediate_size,
            Self::HeadDim => text.head_dim,
            Self::Query => text.num_attention_heads * text.head_dim,
            Self::QueryGate => {
                text.num_attention_heads * text.head_dim * if text.attn_output_gate { 2 } else { 1 }
            }
            Self::KeyValue => text.num_key_value_heads * text.head_dim,
            Self::LinearKeyHeads => linear?.num_key_heads,
            Self::LinearValueHeads => linear?.num_value_heads,
            Self::LinearValueHeadDim => linear?.value_head_dim,
            Self::LinearValue => linear?.value_dim(),
            Self::LinearQkv => 2 * linear?.key_dim() + linear?.value_dim(),
            Self::ConvKernel => linear?.conv_kernel_dim,
            Self::VisionHidden => vision?.hidden_size,
            Self::VisionThreeHidden => 3 * vision?.hidden_size,
            Self::VisionIntermediate => vision?.intermediate_size,
            Self::VisionInChannels => vision?.in_channels,
            Self::VisionTemporalPatch => vision?.temporal_patch_size,
            Self::VisionPatch => vision?.patch_size,
            Self::VisionPositions => vision?.num_position_embeddings,
            Self::VisionMerged => {
                vision?.hidden_size * vision?.spatial_merge_size * vision?.spatial_merge_size
            }
            Self::VisionOut => vision?.out_hidden_size,
        })
    }
}
