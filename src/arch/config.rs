//! `config.json` as typed numbers, defaults filled in, every number capped.
//!
//! Only what shapes and the forward pass need is typed; [`ModelConfig::raw`] keeps the rest for
//! rewriting. Defaults are those of transformers 5.17 `configuration_qwen3_5.py`.

use serde_json::{Map, Value};

use super::Architecture;
use crate::error::{Diagnose, Kind};
use crate::name;

/// Largest value accepted for any dimension or count: products of three stay below 2^63.
const DIM_MAX: u64 = 1 << 20;

/// Why a config was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("config.json is not a JSON object")]
    NotAnObject(#[source] Option<serde_json::Error>),
    /// Neither `architectures` nor `model_type` names something that we know.
    #[error("architecture `{found}` is not supported")]
    UnknownArchitecture {
        /// What the config says, escaped.
        found: String,
    },
    /// A field is missing and has no default.
    #[error("config.json has no `{field}`")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field is there, and cannot be.
    #[error("config.json: `{field}` is {got}, expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds, escaped and shortened.
        got: String,
        /// What it must hold.
        expected: String,
    },
}

impl Diagnose for ConfigError {
    fn kind(&self) -> Kind {
        Kind::BadData
    }

    fn id(&self) -> &'static str {
        match self {
            Self::UnknownArchitecture { .. } => "unsupported_architecture",
            _ => "bad_config",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::UnknownArchitecture { .. } => {
                vec![format!("supported: {}", Architecture::supported().join(", "))]
            }
            _ => vec!["compare config.json with that of the base model".into()],
        }
    }
}

/// The kind of a text layer, as `layer_types` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// `linear_attention`: gated delta rule.
    LinearAttention,
    /// `full_attention`.
    FullAttention,
}

/// Sizes of the gated delta rule layers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the config's own fields")]
pub struct LinearConfig {
    pub num_key_heads: u64,
    pub num_value_heads: u64,
    pub key_head_dim: u64,
    pub value_head_dim: u64,
    pub conv_kernel_dim: u64,
}

impl LinearConfig {
    /// Returns `num_key_heads × key_head_dim`.
    #[must_use]
    pub fn key_dim(&self) -> u64 {
        self.num_key_heads * self.key_head_dim
    }

    /// Returns `num_value_heads × value_head_dim`.
    #[must_use]
    pub fn value_dim(&self) -> u64 {
        self.num_value_heads * self.value_head_dim
    }
}

/// The text model's numbers.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "named after the config's own fields")]
pub struct TextConfig {
    pub vocab_size: u64,
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub num_hidden_layers: u64,
    pub num_attention_heads: u64,
    pub num_key_value_heads: u64,
    pub head_dim: u64,
    pub max_position_embeddings: u64,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// Share of `head_dim` that is rotated; 1 for Qwen3.
    pub partial_rotary_factor: f64,
    /// Query rows carry a gate for the attention's output.
    pub attn_output_gate: bool,
    /// One entry a layer.
    pub layer_kinds: Vec<LayerKind>,
    /// `None` for an architecture without such layers.
    pub linear: Option<LinearConfig>,
    /// MTP layers that the config declares; the tensors may say otherwise.
    pub mtp_num_hidden_layers: u64,
    pub tie_word_embeddings: bool,
}

/// The vision tower's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the config's own fields")]
pub struct VisionConfig {
    pub depth: u64,
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub num_heads: u64,
    pub in_channels: u64,
    pub patch_size: u64,
    pub temporal_patch_size: u64,
    pub spatial_merge_size: u64,
    pub out_hidden_size: u64,
    pub num_position_embeddings: u64,
    pub deepstack_visual_indexes: Vec<u64>,
}

/// A checkpoint's config: what it is, its numbers, and the JSON it came from.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// The architecture.
    pub architecture: Architecture,
    /// True for a text-only config (`qwen3_5_text`, `qwen3`), false for one with `text_config`.
    pub text_only: bool,
    /// The text model.
    pub text: TextConfig,
    /// The vision tower, if the config declares one.
    pub vision: Option<VisionConfig>,
    /// The whole JSON object, in the order of the file.
    pub raw: Map<String, Value>,
}

impl ModelConfig {
    /// Parses the bytes of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`]: not an object, unknown architecture, a number missing, of the wrong type
    /// or over the cap.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|e| ConfigError::NotAnObject(Some(e)))?;
        let Value::Object(raw) = value else { return Err(ConfigError::NotAnObject(None)) };
        let architecture = Architecture::detect(&raw)?;
        let nested = raw.get("text_config").and_then(Value::as_object);
        let text = parse_text(architecture, &raw, nested)?;
        let vision = match raw.get("vision_config").and_then(Value::as_object) {
            Some(map) if nested.is_some() => Some(parse_vision(map)?),
            _ => None,
        };
        Ok(Self { architecture, text_only: nested.is_none(), text, vision, raw })
    }

    /// Returns the object that holds the text model's fields: `text_config`, or the whole.
    #[must_use]
    pub fn raw_text(&self) -> &Map<String, Value> {
        self.raw.get("text_config").and_then(Value::as_object).unwrap_or(&self.raw)
    }
}

fn parse_text(
    architecture: Architecture,
    root: &Map<String, Value>,
    nested: Option<&Map<String, Value>>,
) -> Result<TextConfig, ConfigError> {
    let map = nested.unwrap_or(root);
    let hybrid = architecture == Architecture::Qwen3_5;
    let num_hidden_layers = required(map, "num_hidden_layers")?;
    let num_attention_heads = required(map, "num_attention_heads")?;
    let hidden_size = required(map, "hidden_size")?;
    let head_dim = match optional(map, "head_dim")? {
        Some(n) => n,
        None if hybrid => 256,
        None => 128,
    };
    let rope = ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|key| map.get(*key).and_then(Value::as_object));
    let number = |key: &'static str, default: f64| -> Result<f64, ConfigError> {
        let value = rope.and_then(|r| r.get(key)).or_else(|| map.get(key));
        positive_number(key, value, default)
    };
    let tie = root.get("tie_word_embeddings").or_else(|| map.get("tie_word_embeddings"));
    let text = TextConfig {
        vocab_size: required(map, "vocab_size")?,
        hidden_size,
        intermediate_size: required(map, "intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: optional(map, "num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings: optional(map, "max_position_embeddings")?.unwrap_or(32768),
        rms_norm_eps: positive_number("rms_norm_eps", map.get("rms_norm_eps"), 1e-6)?,
        rope_theta: number("rope_theta", 10_000.0)?,
        partial_rotary_factor: number("partial_rotary_factor", if hybrid { 0.25 } else { 1.0 })?,
        attn_output_gate: hybrid
            && map.get("attn_output_gate").and_then(Value::as_bool).unwrap_or(true),
        layer_kinds: layer_kinds(map, num_hidden_layers, architecture)?,
        linear: hybrid.then(|| parse_linear(map)).transpose()?,
        mtp_num_hidden_layers: optional(map, "mtp_num_hidden_layers")?.unwrap_or(0),
        tie_word_embeddings: tie.and_then(Value::as_bool).unwrap_or(false),
    };
    check_heads(&text)?;
    Ok(text)
}

/// Head counts that the forward pass divides by.
fn check_heads(text: &TextConfig) -> Result<(), ConfigError> {
    let divides = |field, many: u64, few: u64| {
        if many.is_multiple_of(few) {
            return Ok(());
        }
        let expected = format!("a divisor of {many}");
        Err(ConfigError::Field { field, got: few.to_string(), expected })
    };
    divides("num_key_value_heads", text.num_attention_heads, text.num_key_value_heads)?;
    match &text.linear {
        Some(l) => divides("linear_num_key_heads", l.num_value_heads, l.num_key_heads),
        None => Ok(()),
    }
}

fn parse_linear(map: &Map<String, Value>) -> Result<LinearConfig, ConfigError> {
    let field = |key, default| optional(map, key).map(|n| n.unwrap_or(default));
    Ok(LinearConfig {
        num_key_heads: field("linear_num_key_heads", 16)?,
        num_value_heads: field("linear_num_value_heads", 32)?,
        key_head_dim: field("linear_key_head_dim", 128)?,
        value_head_dim: field("linear_value_head_dim", 128)?,
        conv_kernel_dim: field("linear_conv_kernel_dim", 4)?,
    })
}

fn layer_kinds(
    map: &Map<String, Value>,
    layers: u64,
    architecture: Architecture,
) -> Result<Vec<LayerKind>, ConfigError> {
    let hybrid = architecture == Architecture::Qwen3_5;
    let Some(listed) = map.get("layer_types").filter(|v| !v.is_null()) else {
        let interval = optional(map, "full_attention_interval")?.unwrap_or(4);
        let full = |i: u64| !hybrid || (i + 1).is_multiple_of(interval);
        let kind = |i| if full(i) { LayerKind::FullAttention } else { LayerKind::LinearAttention };
        return Ok((0..layers).map(kind).collect());
    };
    let wrong = || ConfigError::Field {
        field: "layer_types",
        got: shorten(listed),
        expected: format!("{layers} of `linear_attention` or `full_attention`"),
    };
    let list = listed.as_array().filter(|l| l.len() as u64 == layers).ok_or_else(wrong)?;
    list.iter()
        .map(|v| match v.as_str() {
            Some("linear_attention") if hybrid => Ok(LayerKind::LinearAttention),
            Some("full_attention") => Ok(LayerKind::FullAttention),
            _ => Err(wrong()),
        })
        .collect()
}

/// Defaults: transformers 5.17 `Qwen3_5VisionConfig`.
fn parse_vision(map: &Map<String, Value>) -> Result<VisionConfig, ConfigError> {
    let field = |key, default| optional(map, key).map(|n| n.unwrap_or(default));
    let deepstack = match map.get("deepstack_visual_indexes") {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => value
            .as_array()
            .filter(|list| list.len() <= 64)
            .and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>())
            .ok_or_else(|| ConfigError::Field {
                field: "deepstack_visual_indexes",
                got: shorten(value),
                expected: "a short list of block numbers".into(),
            })?,
    };
    Ok(VisionConfig {
        depth: field("depth", 27)?,
        hidden_size: field("hidden_size", 1152)?,
        intermediate_size: field("intermediate_size", 4304)?,
        num_heads: field("num_heads", 16)?,
        in_channels: field("in_channels", 3)?,
        patch_size: field("patch_size", 16)?,
        temporal_patch_size: field("temporal_patch_size", 2)?,
        spatial_merge_size: field("spatial_merge_size", 2)?,
        out_hidden_size: field("out_hidden_size", 3584)?,
        num_position_embeddings: field("num_position_embeddings", 2304)?,
        deepstack_visual_indexes: deepstack,
    })
}

fn required(map: &Map<String, Value>, field: &'static str) -> Result<u64, ConfigError> {
    optional(map, field)?.ok_or(ConfigError::Missing { field })
}

/// Reads a count; zero is allowed only where the field counts optional things.
fn optional(map: &Map<String, Value>, field: &'static str) -> Result<Option<u64>, ConfigError> {
    let value = match map.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let least = u64::from(field != "mtp_num_hidden_layers");
    let most = match field {
        "max_position_embeddings" => 1 << 40,
        "num_hidden_layers" | "mtp_num_hidden_layers" | "depth" => 1024,
        _ => DIM_MAX,
    };
    match value.as_u64() {
        Some(n) if (least..=most).contains(&n) => Ok(Some(n)),
        _ => Err(ConfigError::Field {
            field,
            got: shorten(value),
            expected: format!("a whole number from {least} to {most}"),
        }),
    }
}

fn positive_number(
    field: &'static str,
    value: Option<&Value>,
    default: f64,
) -> Result<f64, ConfigError> {
    match value {
        None | Some(Value::Null) => Ok(default),
        Some(value) => match value.as_f64() {
            Some(n) if n.is_finite() && n > 0.0 => Ok(n),
            _ => Err(ConfigError::Field {
                field,
                got: shorten(value),
                expected: "a number above zero".into(),
            }),
        },
    }
}

fn shorten(value: &Value) -> String {
    name::shorten(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::{ConfigError, LayerKind, ModelConfig};
    use crate::arch::Architecture;

    fn config(extra: &str) -> String {
        format!(
            r#"{{"architectures":["Qwen3_5ForCausalLM"],"model_type":"qwen3_5_text",
            "vocab_size":320,"hidden_size":64,"intermediate_size":160,"num_hidden_layers":8,
            "num_attention_heads":4,"num_key_value_heads":2{extra}}}"#
        )
    }

    #[test]
    fn defaults_are_filled_in() {
        let parsed = ModelConfig::parse(config("").as_bytes()).expect("parses");
        assert_eq!(parsed.architecture, Architecture::Qwen3_5);
        assert!(parsed.text_only);
        assert_eq!(parsed.text.head_dim, 256);
        assert_eq!(parsed.text.layer_kinds[3], LayerKind::FullAttention);
        assert_eq!(parsed.text.layer_kinds[4], LayerKind::LinearAttention);
    }

    #[test]
    fn impossible_numbers_are_refused_by_name() {
        for (extra, field) in [
            (r#","head_dim":-1"#, "head_dim"),
            (r#","head_dim":1e30"#, "head_dim"),
            (r#","head_dim":0"#, "head_dim"),
            (r#","rms_norm_eps":"x""#, "rms_norm_eps"),
            (r#","layer_types":["full_attention"]"#, "layer_types"),
            (r#","linear_num_key_heads":3"#, "linear_num_key_heads"),
        ] {
            let error = ModelConfig::parse(config(extra).as_bytes()).expect_err(extra);
            assert!(error.to_string().contains(field), "{extra}: {error}");
        }
    }

    #[test]
    fn unknown_architectures_name_the_known() {
        use crate::error::Diagnose as _;
        let error = ModelConfig::parse(br#"{"architectures":["LlamaForCausalLM"]}"#)
            .expect_err("not supported");
        assert!(matches!(error, ConfigError::UnknownArchitecture { .. }));
        assert!(error.help()[0].contains("Qwen3_5ForCausalLM"));
    }
}
