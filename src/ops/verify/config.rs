//! What the config says against what the tensors show.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Check, Finding};
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::units;

/// Adds every disagreement.
pub(super) fn check(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    check_mtp(checkpoint, findings);
    check_vision(checkpoint, findings);
    check_tie(checkpoint, findings);
    check_dtype(checkpoint, findings);
}

fn check_mtp(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    let declared = checkpoint.config.text.mtp_num_hidden_layers;
    let present = checkpoint.mtp_layers_present();
    let message = match (declared, present) {
        (a, b) if a == b => return,
        (_, 0) => format!(
            "is {declared}, and no mtp tensor is there: speculative decoding would run on random \
             weights, and llama.cpp's own converter writes a file that does not load"
        ),
        _ => format!("is {declared}, of {} tensors are there", units::plural(present, "layer")),
    };
    findings.push(Finding::warning(Check::Config, "mtp_num_hidden_layers", message));
}

fn check_vision(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    if checkpoint.config.vision.is_some() && !checkpoint.has_vision() {
        let message = "is there, and no vision tensor is: vLLM 0.19.1 needs --language-model-only";
        findings.push(Finding::warning(Check::Config, "vision_config", message));
    }
}

fn check_tie(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    let field = "tie_word_embeddings";
    let root = checkpoint.config.raw.get(field).and_then(Value::as_bool);
    let text = checkpoint.config.raw_text().get(field).and_then(Value::as_bool);
    if let (Some(root), Some(text)) = (root, text)
        && root != text
    {
        let message = format!("is {root} at the root and {text} in text_config");
        findings.push(Finding::warning(Check::Config, field, message));
    }
    if !checkpoint.stored_duplicate_head() {
        return;
    }
    let head = checkpoint.find("lm_head.weight");
    let embedding = checkpoint.find("model.embed_tokens.weight");
    let (Some(head), Some(embedding)) = (head, embedding) else { return };
    if head.dtype == embedding.dtype && checkpoint.data(head) == checkpoint.data(embedding) {
        let message = "repeats the embedding that it is tied to; `strip` drops it";
        findings.push(Finding::warning(Check::Tensors, head.stored.to_string(), message));
    } else {
        let message = "differs from the embedding that tie_word_embeddings ties it to: loaders \
                       that obey the config ignore it";
        findings.push(Finding::error(Check::Tensors, head.stored.to_string(), message));
    }
}

/// The type of most of the bytes must be the declared one; single F32 tensors are usual.
fn check_dtype(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    let declared = ["dtype", "torch_dtype"].iter().find_map(|key| {
        let config = &checkpoint.config;
        let value = config.raw_text().get(*key).or_else(|| config.raw.get(*key))?;
        Dtype::from_torch(value.as_str()?)
    });
    let mut bytes: BTreeMap<Dtype, u64> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        *bytes.entry(tensor.dtype).or_default() += tensor.len_bytes();
    }
    let most = bytes.into_iter().max_by_key(|(_, n)| *n).map(|(dtype, _)| dtype);
    if let (Some(declared), Some(most)) = (declared, most)
        && declared != most
    {
        let message = format!("declares {declared}, most of the tensors are {most}");
        findings.push(Finding::warning(Check::Config, "dtype", message));
    }
}
