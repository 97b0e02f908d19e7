//! The architectures: one typed table each, from which everything else reads names and shapes.
//!
//! Adding a model size touches nothing here; adding an architecture adds a table, a variant of
//! [`Architecture`], and at most new transforms.

pub mod config;
pub mod layout;
mod page;
mod qwen3;
mod qwen3_5;
pub mod rule;

use serde_json::{Map, Value};

pub use config::{ConfigError, LayerKind, LinearConfig, ModelConfig, TextConfig, VisionConfig};
pub use layout::Namespace;
pub use rule::{Fused, GgufType, Part, Presence, QuantClass, Repeat, TensorRule, Transform};

use crate::name::escape;

/// A supported architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Qwen3.5 and Qwen3.6 dense.
    Qwen3_5,
    /// Qwen3 dense.
    Qwen3,
}

/// `architectures[0]`, then `model_type`, and what they mean.
const NAMES: &[(&str, &str, Architecture)] = &[
    ("Qwen3_5ForConditionalGeneration", "qwen3_5", Architecture::Qwen3_5),
    ("Qwen3_5ForCausalLM", "qwen3_5_text", Architecture::Qwen3_5),
    ("Qwen3ForCausalLM", "qwen3", Architecture::Qwen3),
];

/// A tensor that a config promises.
#[derive(Debug, Clone)]
pub struct ExpectedTensor {
    /// The canonical name.
    pub name: String,
    /// The shape, row-major.
    pub shape: Vec<u64>,
    /// The rule it comes from.
    pub rule: &'static TensorRule,
    /// The layer or block index (0 for rules that apply once).
    pub index: usize,
}

impl Architecture {
    /// Finds the architecture that a config names.
    ///
    /// # Errors
    /// [`ConfigError::UnknownArchitecture`].
    pub fn detect(config: &Map<String, Value>) -> Result<Self, ConfigError> {
        let declared = config
            .get("architectures")
            .and_then(|list| list.get(0))
            .and_then(Value::as_str)
            .unwrap_or_default();
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        NAMES
            .iter()
            .find(|row| row.0 == declared)
            .or_else(|| NAMES.iter().find(|row| declared.is_empty() && row.1 == model_type))
            .map(|row| row.2)
            .ok_or_else(|| {
                let found = if declared.is_empty() { model_type } else { declared };
                ConfigError::UnknownArchitecture { found: escape(found) }
            })
    }

    /// Returns the names that `architectures` may hold.
    #[must_use]
    pub fn supported() -> Vec<&'static str> {
        NAMES.iter().map(|row| row.0).collect()
    }

    /// Returns the table.
    #[must_use]
    pub fn tensors(self) -> &'static [TensorRule] {
        match self {
            Self::Qwen3_5 => qwen3_5::TENSORS,
            Self::Qwen3 => qwen3::TENSORS,
        }
    }

    /// Returns llama.cpp's name of the architecture.
    #[must_use]
    pub fn gguf_name(self) -> &'static str {
        match self {
            Self::Qwen3_5 => "qwen35",
            Self::Qwen3 => "qwen3",
        }
    }

    /// Finds the rule and the layer index of a canonical name.
    #[must_use]
    pub fn find(self, canonical: &str) -> Option<(&'static TensorRule, usize)> {
        self.tensors().iter().find_map(|rule| Some((rule, rule.match_hf(canonical)?)))
    }

    /// Returns every tensor of `parts` that the config promises, in table and layer order.
    ///
    /// The head is among them only when it is not tied. `mtp_layers` is given apart because
    /// configs declare MTP layers that are not there.
    #[must_use]
    pub fn expected(
        self,
        config: &ModelConfig,
        parts: &[Part],
        mtp_layers: u64,
    ) -> Vec<ExpectedTensor> {
        let rules = self.tensors().iter().filter(|rule| {
            let tied = rule.presence == Presence::UnlessTied && config.text.tie_word_embeddings;
            parts.contains(&rule.part) && !tied && (rule.part != Part::Mtp || mtp_layers > 0)
        });
        rules.flat_map(|rule| instances(rule, config, mtp_layers)).collect()
    }
}

fn instances(
    rule: &'static TensorRule,
    config: &ModelConfig,
    mtp_layers: u64,
) -> Vec<ExpectedTensor> {
    let vision = config.vision.as_ref();
    let indices: Vec<usize> = match rule.repeat {
        Repeat::Once => vec![0],
        Repeat::EveryLayer => (0..config.text.layer_kinds.len()).collect(),
        Repeat::LayersOf(kind) => {
            let kinds = config.text.layer_kinds.iter().enumerate();
            kinds.filter(|(_, k)| **k == kind).map(|(i, _)| i).collect()
        }
        Repeat::MtpLayer => (0..mtp_layers as usize).collect(),
        Repeat::VisionBlock => (0..vision.map_or(0, |v| v.depth as usize)).collect(),
        Repeat::Deepstack => (0..vision.map_or(0, |v| v.deepstack_visual_indexes.len())).collect(),
    };
    let Some(shape) = rule.shape(&config.text, vision) else { return Vec::new() };
    indices
        .into_iter()
        .map(|index| ExpectedTensor {
            name: rule.hf_name(index),
            shape: shape.clone(),
            rule,
            index,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Architecture, Part};

    #[test]
    fn layer_indices_are_read_exactly() {
        let (rule, index) =
            Architecture::Qwen3_5.find("model.layers.17.mlp.up_proj.weight").expect("known");
        assert_eq!((rule.part, index), (Part::Text, 17));
        for bad in [
            "model.layers.01.mlp.up_proj.weight",
            "model.layers.x.mlp.up_proj.weight",
            "model.layers..mlp.up_proj.weight",
            "model.layers.1.mlp.up_proj.weight.extra",
        ] {
            assert!(Architecture::Qwen3_5.find(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn no_two_rules_of_a_table_claim_one_name() {
        for architecture in [Architecture::Qwen3_5, Architecture::Qwen3] {
            for rule in architecture.tensors() {
                let name = rule.hf_name(3);
                let claims =
                    architecture.tensors().iter().filter(|r| r.match_hf(&name).is_some()).count();
                assert_eq!(claims, 1, "{name}");
            }
        }
    }
}
