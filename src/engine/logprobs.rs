//! Log-probabilities of given tokens: the fingerprint of a model, and its likelihood of a text.

use super::backend::{Backend, Batch, Segment};
use super::model::{Model, Workspace};

/// Tokens a forward pass.
const PIECE: usize = 512;

/// Returns `ln p(id | all before)` for every id but the first. Never holds all logits.
///
/// Ids are within the vocabulary; the caller has checked. f32 throughout, sums of the softmax in
/// chunks of the vocabulary.
pub fn logprobs<B: Backend>(model: &Model<B>, ids: &[u32]) -> Vec<f32> {
    let (mut cache, mut workspace) = (model.cache(), Workspace::default());
    let mut out = Vec::with_capacity(ids.len().saturating_sub(1));
    // The last id predicts nothing that is asked for.
    let context = &ids[..ids.len().saturating_sub(1)];
    for (index, piece) in context.chunks(PIECE).enumerate() {
        let position = index * PIECE;
        let segments = vec![Segment { offset: 0, len: piece.len(), position }];
        let mut batch = Batch { segments, caches: vec![&mut cache] };
        model.forward(piece, &mut batch, &mut workspace);
        let next = ids[position + 1..].iter().copied();
        let targets: Vec<(usize, u32)> = next.take(piece.len()).enumerate().collect();
        out.extend(model.logprobs(&workspace, &targets));
    }
    out
}
