//! Every value, looked at for NaN and infinity.

use rayon::prelude::*;

use super::{Check, Finding};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::progress::{Progress, Unit};
use crate::units;

const CHUNK_BYTES: usize = 4 << 20;

/// Adds each tensor that holds a NaN or an infinity.
pub(super) fn check(checkpoint: &Checkpoint, findings: &mut Vec<Finding>, progress: &dyn Progress) {
    let tensors: Vec<&Tensor> =
        checkpoint.tensors().iter().filter(|t| t.dtype.is_float()).collect();
    progress.start("scan", tensors.iter().map(|t| t.len_bytes()).sum(), Unit::Bytes);
    for file in checkpoint.files() {
        progress.item_start(&file.name, file.len_bytes());
    }
    let counts: Vec<u64> = tensors
        .par_iter()
        .map(|tensor| {
            let chunks = checkpoint.data(tensor).par_chunks(CHUNK_BYTES);
            let counted = chunks.map(|chunk| {
                progress.advance(&checkpoint.files()[tensor.file].name, chunk.len() as u64);
                count_bad(tensor.dtype, chunk)
            });
            counted.sum()
        })
        .collect();
    progress.finish();
    for (tensor, count) in tensors.iter().zip(counts).filter(|(_, count)| *count > 0) {
        let message = format!("holds {} that are NaN or infinite", units::plural(count, "value"));
        findings.push(Finding::error(Check::Values, tensor.stored.to_string(), message));
    }
}

/// Counts the values whose exponent is all ones, which NaN and the infinities share.
fn count_bad(dtype: Dtype, bytes: &[u8]) -> u64 {
    let halves = |mask: u16| {
        let values = bytes.as_chunks::<2>().0.iter();
        values.filter(|b| u16::from_le_bytes(**b) & mask == mask).count() as u64
    };
    match dtype {
        Dtype::Bf16 => halves(0x7f80),
        Dtype::F16 => halves(0x7c00),
        _ => {
            let values = bytes.as_chunks::<4>().0.iter();
            let mask = 0x7f80_0000;
            values.filter(|b| u32::from_le_bytes(**b) & mask == mask).count() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::count_bad;
    use crate::dtype::{Dtype, narrow_from_f32};

    #[test]
    fn only_what_is_not_finite_is_counted() {
        let values = [0.0, -1.5, f32::NAN, f32::INFINITY, 60000.0, f32::NEG_INFINITY, 1e-40];
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let mut bytes = vec![0; values.len() * dtype.size_bytes()];
            narrow_from_f32(dtype, &values, &mut bytes);
            assert_eq!(count_bad(dtype, &bytes), 3, "{dtype}");
        }
    }
}
