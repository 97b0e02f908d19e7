//! The tensors that a config promises against those that are there.

use std::collections::BTreeMap;
use std::fmt;

use super::set::Tensor;
use crate::arch::{Fused, ModelConfig, Part, Presence};
use crate::dtype::Dtype;
use crate::name::escape;

/// Something about a tensor that the config and the table do not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It should be there.
    Missing {
        /// The canonical name.
        name: String,
        /// The fused parameter of vLLM that it is one part of.
        fused: Fused,
    },
    /// It is there in another shape.
    Shape {
        /// The canonical name.
        name: String,
        /// What the config promises.
        expected: Vec<u64>,
        /// What is stored.
        got: Vec<u64>,
    },
    /// It is there in a type that no loader of this architecture reads as weights.
    Dtype {
        /// The canonical name.
        name: String,
        /// What is stored.
        got: Dtype,
    },
    /// It is there and no line of the table, or no layer of the config, accounts for it.
    Unexpected {
        /// The stored name, escaped.
        name: String,
    },
}

impl Problem {
    /// Returns the name of the tensor.
    #[must_use]
    pub fn tensor(&self) -> &str {
        match self {
            Self::Missing { name, .. }
            | Self::Shape { name, .. }
            | Self::Dtype { name, .. }
            | Self::Unexpected { name } => name,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, fused } => {
                write!(f, "`{name}` is missing")?;
                match fused.vllm_name() {
                    Some(fused) => {
                        write!(f, "; vLLM would leave its part of {fused} uninitialised")
                    }
                    None => Ok(()),
                }
            }
            Self::Shape { name, expected, got } => {
                write!(f, "`{name}` has the shape {got:?}, config.json gives {expected:?}")
            }
            Self::Dtype { name, got } => write!(f, "`{name}` is {got}, not a floating type"),
            Self::Unexpected { name } => write!(f, "`{name}` is not a tensor of this architecture"),
        }
    }
}

/// Compares `tensors` (sorted, rules applied) with what `config` promises for `parts`.
///
/// MTP layers are counted from the tensors, because configs declare layers that are not there:
/// whether that is a fault is the caller's question. Unexpected tensors are reported whatever
/// `parts` is, except those of known parts left out of it. In table order, then by name.
#[must_use]
pub fn compare(config: &ModelConfig, tensors: &[Tensor], parts: &[Part]) -> Vec<Problem> {
    let mtp_layers = mtp_layers_present(tensors);
    let expected = config.architecture.expected(config, parts, mtp_layers);
    let mut rest: BTreeMap<&str, &Tensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut problems = Vec::new();
    for want in expected {
        match rest.remove(want.name.as_str()) {
            None => {
                problems.push(Problem::Missing { name: want.name, fused: want.rule.fused });
            }
            Some(got) if got.shape != want.shape => problems.push(Problem::Shape {
                name: want.name,
                expected: want.shape,
                got: got.shape.clone(),
            }),
            Some(got) if !got.dtype.is_float() => {
                problems.push(Problem::Dtype { name: want.name, got: got.dtype });
            }
            Some(_) => {}
        }
    }
    for tensor in rest.values() {
        problems.extend(leftover(config, tensor, parts));
    }
    problems
}

/// Judges a tensor that the config does not ask for.
fn leftover(config: &ModelConfig, tensor: &Tensor, parts: &[Part]) -> Option<Problem> {
    let unexpected = || Some(Problem::Unexpected { name: escape(tensor.stored.as_str()) });
    let Some((rule, index)) = tensor.rule else { return unexpected() };
    if !parts.contains(&rule.part) {
        return None;
    }
    let duplicate_head = rule.presence == Presence::UnlessTied && config.text.tie_word_embeddings;
    if !duplicate_head {
        return unexpected();
    }
    let expected = rule.shape(&config.text, config.vision.as_ref())?;
    debug_assert_eq!(index, 0, "the head has no layers");
    let got = tensor.shape.clone();
    (got != expected).then(|| Problem::Shape { name: tensor.name.clone(), expected, got })
}

/// Returns the number of MTP layers of which tensors are there: the highest index and one.
#[must_use]
pub fn mtp_layers_present(tensors: &[Tensor]) -> u64 {
    let layers = tensors.iter().filter_map(|t| match t.rule {
        Some((rule, index)) if rule.part == Part::Mtp => Some(index as u64 + 1),
        _ => None,
    });
    layers.max().unwrap_or(0)
}
