//! The model's own keys, as tables: one row a key, in the order of llama.cpp's converter.
//!
//! `{arch}` in a key is the architecture's GGUF name. A source that yields nothing writes
//! nothing. Source: llama.cpp at 0c1e57098, `conversion/`.

use serde_json::{Map, Value as Json};

use super::ExportError;
use crate::arch::{Architecture, LayerKind, LinearConfig, ModelConfig, VisionConfig};
use crate::gguf::{Array, Metadata, Value};

/// What keys are computed from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The config.
    pub config: &'a ModelConfig,
    /// MTP layers that are written.
    pub mtp_layers: u64,
    /// The number of the file type.
    pub file_type: u32,
    /// preprocessor_config.json, under what processor_config.json overrides.
    pub preprocessor: &'a Map<String, Json>,
}

impl<'a> Facts<'a> {
    fn linear(&self) -> Option<&'a LinearConfig> {
        self.config.text.linear.as_ref()
    }

    fn vision(&self) -> Option<&'a VisionConfig> {
        self.config.vision.as_ref()
    }

    fn rope(&self) -> Option<&'a Map<String, Json>> {
        let text = self.config.raw_text();
        let params = text.get("rope_parameters").filter(|v| !v.is_null());
        params.or_else(|| text.get("rope_scaling"))?.as_object()
    }

    /// Returns the kind of position scaling if it is one that GGUF can say and that is complete.
    fn scaling(&self) -> Option<&'a str> {
        let rope = self.rope()?;
        let kind = rope.get("rope_type").or_else(|| rope.get("type"))?.as_str()?;
        match kind {
            "linear" | "yarn" if rope.get("factor").and_then(Json::as_f64).is_some() => Some(kind),
            "su" | "longrope" => Some("longrope"),
            _ => None,
        }
    }

    fn scaling_number(&self, kinds: &[&str], fields: &[&str]) -> Option<f64> {
        let rope = self.rope().filter(|_| self.scaling().is_some_and(|k| kinds.contains(&k)))?;
        fields.iter().find_map(|field| rope.get(*field)?.as_f64())
    }

    fn mrope_section(&self) -> Option<Vec<i32>> {
        let list = self.rope()?.get("mrope_section")?.as_array()?;
        let number = |v: &Json| v.as_i64().and_then(|n| i32::try_from(n).ok());
        let mut section: Vec<i32> = list.iter().take(4).filter_map(number).collect();
        section.resize(4, 0);
        Some(section)
    }

    fn image_statistics(&self, field: &str) -> Option<Vec<f32>> {
        let list = self.preprocessor.get(field)?.as_array()?;
        list.iter().map(|v| v.as_f64().map(|n| n as f32)).collect()
    }
}

/// The type of a key, and where its value comes from.
#[derive(Clone, Copy)]
enum Source {
    U32(fn(&Facts<'_>) -> Option<u64>),
    F32(fn(&Facts<'_>) -> Option<f64>),
    Bool(fn(&Facts<'_>) -> Option<bool>),
    Str(fn(&Facts<'_>) -> Option<String>),
    I32s(fn(&Facts<'_>) -> Option<Vec<i32>>),
    F32s(fn(&Facts<'_>) -> Option<Vec<f32>>),
    Bools(fn(&Facts<'_>) -> Option<Vec<bool>>),
}

use Source::{Bool, Bools, F32, F32s, I32s, Str, U32};

type Row = (&'static str, Source);

/// Keys that every text model has.
#[rustfmt::skip]
const TEXT: &[Row] = &[
    ("{arch}.block_count",                          U32(|f| Some(f.config.text.num_hidden_layers + f.mtp_layers))),
    ("{arch}.context_length",                       U32(|f| Some(f.config.text.max_position_embeddings))),
    ("{arch}.embedding_length",                     U32(|f| Some(f.config.text.hidden_size))),
    ("{arch}.feed_forward_length",                  U32(|f| Some(f.config.text.intermediate_size))),
    ("{arch}.attention.head_count",                 U32(|f| Some(f.config.text.num_attention_heads))),
    ("{arch}.attention.head_count_kv",              U32(|f| Some(f.config.text.num_key_value_heads))),
    ("{arch}.rope.scaling.type",                    Str(|f| f.scaling().map(str::to_owned))),
    ("{arch}.rope.scaling.factor",                  F32(|f| f.scaling_number(&["linear", "yarn"], &["factor"]))),
    ("{arch}.rope.scaling.original_context_length", U32(|f| f.scaling_number(&["yarn"], &["original_max_position_embeddings"]).map(|n| n as u64))),
    ("{arch}.rope.scaling.yarn_ext_factor",         F32(|f| f.scaling_number(&["yarn"], &["extrapolation_factor"]))),
    ("{arch}.rope.scaling.yarn_attn_factor",        F32(|f| f.scaling_number(&["yarn"], &["attention_factor", "attn_factor"]))),
    ("{arch}.rope.scaling.yarn_beta_fast",          F32(|f| f.scaling_number(&["yarn"], &["beta_fast"]))),
    ("{arch}.rope.scaling.yarn_beta_slow",          F32(|f| f.scaling_number(&["yarn"], &["beta_slow"]))),
    ("{arch}.rope.dimension_sections",              I32s(|f| f.mrope_section())),
    ("{arch}.rope.freq_base",                       F32(|f| Some(f.config.text.rope_theta))),
    ("{arch}.attention.layer_norm_rms_epsilon",     F32(|f| Some(f.config.text.rms_norm_eps))),
    ("{arch}.attention.key_length",                 U32(|f| Some(f.config.text.head_dim))),
    ("{arch}.attention.value_length",               U32(|f| Some(f.config.text.head_dim))),
    ("general.file_type",                           U32(|f| Some(f.file_type.into()))),
];

/// What Qwen3.5 adds behind [`TEXT`].
#[rustfmt::skip]
const QWEN3_5: &[Row] = &[
    ("{arch}.nextn_predict_layers",                 U32(|f| Some(f.mtp_layers).filter(|n| *n > 0))),
    ("{arch}.ssm.conv_kernel",                      U32(|f| Some(f.linear()?.conv_kernel_dim))),
    ("{arch}.ssm.state_size",                       U32(|f| Some(f.linear()?.key_head_dim))),
    ("{arch}.ssm.group_count",                      U32(|f| Some(f.linear()?.num_key_heads))),
    ("{arch}.ssm.time_step_rank",                   U32(|f| Some(f.linear()?.num_value_heads))),
    ("{arch}.ssm.inner_size",                       U32(|f| Some(f.linear()?.value_dim()))),
    ("{arch}.attention.recurrent_layers",           Bools(|f| Some(recurrent_layers(f)))),
    ("{arch}.full_attention_interval",              U32(|f| Some(full_attention_interval(f)))),
    ("{arch}.rope.dimension_count",                 U32(|f| Some(rotary_dims(f)))),
    // The loader requires the sections: the family's own stand in where the config has none.
    ("{arch}.rope.dimension_sections",              I32s(|f| f.mrope_section().is_none().then(|| vec![11, 11, 10, 0]))),
];

/// The vision file's keys.
#[rustfmt::skip]
const MMPROJ: &[Row] = &[
    ("general.file_type",                           U32(|f| Some(f.file_type.into()))),
    ("clip.has_vision_encoder",                     Bool(|_| Some(true))),
    ("clip.vision.projection_dim",                  U32(|f| Some(f.config.text.hidden_size))),
    ("clip.vision.image_size",                      U32(|f| f.vision().map(image_size))),
    ("clip.vision.patch_size",                      U32(|f| Some(f.vision()?.patch_size))),
    ("clip.vision.embedding_length",                U32(|f| Some(f.vision()?.hidden_size))),
    ("clip.vision.feed_forward_length",             U32(|f| Some(f.vision()?.intermediate_size))),
    ("clip.vision.block_count",                     U32(|f| Some(f.vision()?.depth))),
    ("clip.vision.attention.head_count",            U32(|f| Some(f.vision()?.num_heads))),
    ("clip.vision.image_mean",                      F32s(|f| f.image_statistics("image_mean"))),
    ("clip.vision.image_std",                       F32s(|f| f.image_statistics("image_std"))),
    ("clip.projector_type",                         Str(|_| Some("qwen3vl_merger".into()))),
    ("clip.use_gelu",                               Bool(|_| Some(true))),
    ("clip.vision.spatial_merge_size",              U32(|f| Some(f.vision()?.spatial_merge_size))),
    ("clip.vision.attention.layer_norm_epsilon",    F32(|f| Some(f.config.text.rms_norm_eps))),
    ("clip.vision.is_deepstack_layers",             Bools(|f| f.vision().map(deepstack_layers))),
];

fn recurrent_layers(facts: &Facts<'_>) -> Vec<bool> {
    let text = &facts.config.text;
    let kinds = text.layer_kinds.iter().map(|kind| *kind == LayerKind::LinearAttention);
    kinds.chain((0..facts.mtp_layers).map(|_| false)).collect()
}

fn full_attention_interval(facts: &Facts<'_>) -> u64 {
    facts.config.raw_text().get("full_attention_interval").and_then(Json::as_u64).unwrap_or(4)
}

fn rotary_dims(facts: &Facts<'_>) -> u64 {
    (facts.config.text.head_dim as f64 * facts.config.text.partial_rotary_factor) as u64
}

fn image_size(vision: &VisionConfig) -> u64 {
    ((vision.num_position_embeddings as f64).sqrt() * vision.patch_size as f64) as u64
}

fn deepstack_layers(vision: &VisionConfig) -> Vec<bool> {
    (0..vision.depth).map(|i| vision.deepstack_visual_indexes.contains(&i)).collect()
}

/// Appends the keys of the text model.
///
/// # Errors
/// [`ExportError::KeyRange`]: a number that the key's type does not hold.
pub fn write_text(facts: &Facts<'_>, out: &mut Metadata) -> Result<(), ExportError> {
    write(TEXT, facts, out)?;
    match facts.config.architecture {
        Architecture::Qwen3_5 => write(QWEN3_5, facts, out),
        Architecture::Qwen3 => Ok(()),
    }
}

/// Appends the keys of the vision tower.
///
/// # Errors
/// As [`write_text`].
pub fn write_mmproj(facts: &Facts<'_>, out: &mut Metadata) -> Result<(), ExportError> {
    write(MMPROJ, facts, out)
}

fn write(rows: &[Row], facts: &Facts<'_>, out: &mut Metadata) -> Result<(), ExportError> {
    for (template, source) in rows {
        let key = template.replace("{arch}", facts.config.architecture.gguf_name());
        let value = match source {
            U32(get) => get(facts).map(|n| narrow(&key, n)).transpose()?.map(Value::U32),
            F32(get) => get(facts).map(|n| Value::F32(n as f32)),
            Bool(get) => get(facts).map(Value::Bool),
            Str(get) => get(facts).map(Value::Str),
            I32s(get) => get(facts).map(|v| Value::Array(Array::I32(v))),
            F32s(get) => get(facts).map(|v| Value::Array(Array::F32(v))),
            Bools(get) => get(facts).map(|v| Value::Array(Array::Bool(v))),
        };
        if let Some(value) = value {
            out.push(key, value);
        }
    }
    Ok(())
}

fn narrow(key: &str, value: u64) -> Result<u32, ExportError> {
    u32::try_from(value).map_err(|_| ExportError::KeyRange { key: key.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::{Facts, write_mmproj, write_text};
    use crate::arch::ModelConfig;
    use crate::gguf::{Array, Metadata, Value};

    fn metadata(config: &serde_json::Value, mtp_layers: u64) -> Metadata {
        let config = ModelConfig::parse(config.to_string().as_bytes()).expect("parses");
        let preprocessor = json!({"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]});
        let Some(preprocessor) = preprocessor.as_object() else { unreachable!() };
        let facts = Facts { config: &config, mtp_layers, file_type: 32, preprocessor };
        let mut out = Metadata::new();
        write_text(&facts, &mut out).expect("writes");
        if config.vision.is_some() {
            write_mmproj(&facts, &mut Metadata::new()).expect("writes");
        }
        out
    }

    #[test]
    fn yarn_and_missing_sections() {
        let base = json!({"architectures": ["Qwen3_5ForCausalLM"], "vocab_size": 8,
            "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4,
            "num_attention_heads": 4, "head_dim": 32,
            "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e7,
                "original_max_position_embeddings": 32768, "attention_factor": 1.5}});
        let got = metadata(&base, 1);
        assert_eq!(got.get("qwen35.rope.scaling.type"), Some(&Value::Str("yarn".into())));
        assert_eq!(got.get("qwen35.rope.scaling.factor"), Some(&Value::F32(4.0)));
        let key = "qwen35.rope.scaling.original_context_length";
        assert_eq!(got.get(key), Some(&Value::U32(32768)));
        assert_eq!(got.get("qwen35.rope.scaling.yarn_attn_factor"), Some(&Value::F32(1.5)));
        assert_eq!(got.get("qwen35.rope.dimension_count"), Some(&Value::U32(8)));
        assert_eq!(got.get("qwen35.block_count"), Some(&Value::U32(5)));
        assert_eq!(
            got.get("qwen35.attention.recurrent_layers"),
            Some(&Value::Array(Array::Bool(vec![true, true, true, false, false])))
        );
        let last = got.iter().last().expect("keys");
        let sections = Value::Array(Array::I32(vec![11, 11, 10, 0]));
        assert_eq!(last, ("qwen35.rope.dimension_sections", &sections));
    }

    #[test]
    fn a_number_too_large_for_its_key_is_named() {
        let config = json!({"architectures": ["Qwen3ForCausalLM"], "vocab_size": 8,
            "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 4, "max_position_embeddings": 1_u64 << 33});
        let config = ModelConfig::parse(config.to_string().as_bytes()).expect("parses");
        let facts =
            Facts { config: &config, mtp_layers: 0, file_type: 0, preprocessor: &Map::new() };
        let error = write_text(&facts, &mut Metadata::new()).expect_err("too large");
        assert!(error.to_string().contains("qwen3.context_length"), "{error}");
    }
}
