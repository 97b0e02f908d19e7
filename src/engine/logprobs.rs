//! Log-probabilities of given tokens: the fingerprint of a model, and its likelihood of a text.

use super::backend::{Backend, Batch, Segment};
use super::chat::CancelFlag;
use super::model::{Model, Workspace};

/// Tokens a forward pass.
const PIECE: usize = 512;

/// Returns `ln p(id | all before)` for every id but the first. Never holds all logits.
///
/// Ids are within the vocabulary; the caller has checked. f32 throughout, sums of the softmax in
/// chunks of the vocabulary.
///
/// `None` if cancelled, which takes as long as 512 tokens.
pub fn logprobs<B: Backend>(
    model: &Model<B>,
    ids: &[u32],
    cancel: &CancelFlag,
) -> Option<Vec<f32>> {
    logprobs_where(model, ids, |_| true, cancel)
}

/// As [`logprobs`], of the places in `ids` that `wanted` holds of alone: the others cost no head.
pub fn logprobs_where<B: Backend>(
    model: &Model<B>,
    ids: &[u32],
    wanted: impl Fn(usize) -> bool,
    cancel: &CancelFlag,
) -> Option<Vec<f32>> {
    let (mut cache, mut workspace) = (model.cache(), Workspace::default());
    let mut out = Vec::new();
    // The last id predicts nothing that is asked for.
    let context = &ids[..ids.len().saturating_sub(1)];
    for (index, piece) in context.chunks(PIECE).enumerate() {
        if cancel.is_cancelled() {
            return None;
        }
        let position = index * PIECE;
        let segments = vec![Segment { offset: 0, len: piece.len(), position }];
        let mut batch = Batch { segments, caches: vec![&mut cache] };
        model.forward(piece, &mut batch, &mut workspace);
        let targets: Vec<(usize, u32)> = (0..piece.len())
            .filter(|row| wanted(position + row + 1))
            .map(|row| (row, ids[position + row + 1]))
            .collect();
        if !targets.is_empty() {
            out.extend(model.logprobs(&workspace, &targets));
        }
    }
    Some(out)
}
