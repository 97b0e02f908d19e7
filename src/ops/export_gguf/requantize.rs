//! What `llama-quantize` makes of the converter's file: order, shapes, types, keys.
//!
//! There is no such file here: the plan for it is changed, and the rows of the checkpoint are
//! quantised as they are. Source: llama.cpp at 0c1e57098, `src/llama-quant.cpp`.

use std::collections::BTreeMap;

use super::importance::{self, Importance};
use super::mixture::{Choice, Chooser, Model, Tie, Weighting};
use super::plan::{Contents, Options, PlannedTensor};
use super::{Choices, ExportError};
use crate::arch::QuantClass;
use crate::checkpoint::Checkpoint;
use crate::gguf::{FileType, Metadata};
use crate::name;

/// The second step.
pub struct Requantize<'a> {
    /// Where the tensors come from.
    pub checkpoint: &'a Checkpoint,
    /// The user's choices.
    pub options: &'a Options,
    /// The file's type.
    pub file_type: FileType,
    /// MTP layers that are written.
    pub mtp_layers: u64,
}

impl Requantize<'_> {
    /// Puts the keys that the second step sets behind all others.
    pub fn metadata(&self, importance: Option<&Importance>, out: &mut Metadata) {
        out.move_to_end("general.quantization_version");
        out.move_to_end("general.file_type");
        if let Some(importance) = importance {
            importance.write_keys(out);
        }
    }

    /// Orders the tensors, and gives each its type and its weights. Returns what is worth a note.
    ///
    /// # Errors
    /// [`ExportError`]: an expression that matches nothing, an importance matrix of another
    /// model, a type that needs one.
    pub fn tensors(
        &self,
        importance: Option<Importance>,
        tensors: &mut [PlannedTensor],
    ) -> Result<Vec<String>, ExportError> {
        tensors.sort_by(|a, b| place(&a.spec.name).cmp(&place(&b.spec.name)));
        let weighting = if importance.is_some() { Weighting::Imatrix } else { Weighting::None };
        let model = self.model(tensors, weighting);
        for tensor in tensors.iter_mut() {
            let axes = &mut tensor.spec.shape;
            let ones = axes[..axes.len() - 1].iter().take_while(|axis| **axis == 1).count();
            axes.drain(..ones);
            // Of one row: no matrix any more.
            tensor.class = tensor.class.filter(|_| axes.len() > 1);
        }
        self.check_expressions(tensors)?;
        let mut chooser = Chooser::new(self.file_type, &self.options.choices, model);
        let mut fallbacks = BTreeMap::new();
        for tensor in tensors.iter_mut() {
            let Some(class) = tensor.class else { continue };
            let choice = chooser.choose(&tensor.spec.name, class, tensor.row_len);
            let Some(Choice { tensor_type, instead_of }) = choice else { continue };
            tensor.spec.tensor_type = tensor_type;
            if let Some(meant) = instead_of {
                *fallbacks.entry((meant.name(), tensor_type.name())).or_insert(0_u64) += 1;
            }
        }
        let without = importance.map(|importance| importance.assign(tensors)).transpose()?;
        importance::check(self.file_type, tensors, self.options.imatrix.as_deref())?;
        let fallback = |((meant, used), count)| {
            let matrices = if count == 1 { "matrix has" } else { "matrices have" };
            format!("{count} {matrices} rows that are no whole blocks of {meant}: {used} instead")
        };
        let notes = fallbacks.into_iter().map(fallback);
        Ok(notes.chain(without.and_then(|names| importance::note(&names))).collect())
    }

    fn model(&self, tensors: &[PlannedTensor], weighting: Weighting) -> Model {
        let text = &self.checkpoint.config.text;
        let count = |class| tensors.iter().filter(|t| t.class == Some(class)).count() as u64;
        let (blocks, group) = match self.options.contents {
            Contents::Text => (
                text.num_hidden_layers + self.mtp_layers,
                text.num_attention_heads / text.num_key_value_heads.max(1),
            ),
            Contents::Mmproj => (0, 1),
        };
        let tie = if count(QuantClass::Output) == 0 { Tie::Tied } else { Tie::Untied };
        Model { blocks, attn_v: count(QuantClass::AttnV), group, tie, weighting }
    }

    /// Fails if an expression is found in the name of no matrix.
    fn check_expressions(&self, tensors: &[PlannedTensor]) -> Result<(), ExportError> {
        let Choices { tensor_types, .. } = &self.options.choices;
        let matrices = || tensors.iter().filter(|tensor| tensor.class.is_some());
        for choice in tensor_types {
            if matrices().any(|tensor| choice.fits(&tensor.spec.name)) {
                continue;
            }
            let hugging_face = |tensor: &&PlannedTensor| {
                let (rule, index) = self.checkpoint.tensors()[tensor.source].rule?;
                Some(rule.hf_name(index)).filter(|name| choice.fits(name))
            };
            let renamed = matrices().find(|tensor| hugging_face(tensor).is_some());
            let near = match (renamed, tensors.iter().find(|t| choice.fits(&t.spec.name))) {
                (Some(tensor), _) => Some(format!("`{}`", stem(&tensor.spec.name))),
                (None, Some(_)) => None,
                (None, None) => {
                    let stems = matrices().map(|tensor| stem(&tensor.spec.name));
                    name::suggest(stem(choice.pattern()), stems).map(|near| format!("`{near}`"))
                }
            };
            return Err(ExportError::NothingMatches {
                pattern: name::shorten(choice.pattern()),
                near,
            });
        }
        Ok(())
    }
}

/// Returns what sorts as the file's order does: what stands in no block, then block by block.
fn place(name: &str) -> (Option<u64>, &str) {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
    (block, name)
}

/// Returns a name without its block and its ending: `ffn_down` of `blk.3.ffn_down.weight`.
fn stem(name: &str) -> &str {
    let bare = name.strip_suffix(".weight").unwrap_or(name);
    let inner = bare.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, s)| s);
    inner.unwrap_or(bare)
}

#[cfg(test)]
mod tests {
    use super::{place, stem};

    #[test]
    fn blocks_come_by_number_behind_the_rest() {
        let mut names = [
            "blk.10.attn_v.weight",
            "token_embd.weight",
            "blk.9.ssm_a",
            "blk.9.attn_v.weight",
            "output.weight",
            "blk.0.x",
            "output_norm.weight",
        ];
        names.sort_by(|a, b| place(a).cmp(&place(b)));
        let sorted = [
            "output.weight",
            "output_norm.weight",
            "token_embd.weight",
            "blk.0.x",
            "blk.9.attn_v.weight",
            "blk.9.ssm_a",
            "blk.10.attn_v.weight",
        ];
        assert_eq!(names, sorted);
    }

    #[test]
    fn stems_are_what_people_call_tensors() {
        assert_eq!(stem("blk.3.ffn_down.weight"), "ffn_down");
        assert_eq!(stem("blk.4.nextn.eh_proj.weight"), "nextn.eh_proj");
        assert_eq!(stem("output.weight"), "output");
        assert_eq!(stem("ffn_dwn"), "ffn_dwn");
    }
}
