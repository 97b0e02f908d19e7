//! The table of block types: what each needs to be written and read.

use half::f16;

use super::iq4::{Iq4Nl, Iq4Xs};
use super::isa::{self, Isa};
use super::k_affine::{Q2K, Q4K, Q5K};
use super::k_symmetric::{Q3K, Q6K};
use super::kind::Kind;
use super::legacy::{Q4_0, Q4_1, Q5_0, Q5_1};
use super::q8_0;
use crate::gguf::TensorType;

/// A value that cannot be quantised: where it stands, and what it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotFinite {
    /// The index in the slice given.
    pub index: usize,
    /// NaN, an infinity, or a value too large for the scale of its block.
    pub value: f32,
}

/// A magnitude that no searched type can store: that of Q6_K ends at `65504 × 128 × 32`, the others
/// before. The squares of much larger values overflow, upon which ggml's search can end in a block
/// of zeros.
const BEYOND: f32 = 4_294_967_296.0;

impl NotFinite {
    /// Describes the first NaN or infinity of `values`, which has one.
    pub(super) fn first(values: &[f32]) -> Self {
        let index = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
        Self { index, value: values[index] }
    }

    /// Fails for the first NaN, infinity, or value that no f16 scale reaches.
    fn check(values: &[f32]) -> Result<(), Self> {
        let fits = |v: &f32| v.abs() < BEYOND;
        if values.iter().fold(true, |all, v| all & fits(v)) {
            return Ok(());
        }
        let index = values.iter().position(|v| !fits(v)).unwrap_or(0);
        Err(Self { index, value: values[index] })
    }

    /// Describes the largest value of the block that starts at `start`.
    fn largest(values: &[f32], start: usize, len: usize) -> Self {
        let block = &values[start..start + len];
        let largest = block.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
        let index = start + block.iter().position(|v| v.abs() == largest).unwrap_or(0);
        Self { index, value: values[index] }
    }
}

/// Checks values, and writes their blocks.
type Quantize = fn(Isa, &[f32], Option<&[f32]>, &mut [u8]) -> Result<(), NotFinite>;

/// A block type that is written: one row of a table.
#[derive(Debug)]
pub struct Codec {
    tensor_type: TensorType,
    /// Where the f16 scales of a block stand, in bytes.
    scales: &'static [usize],
    quantize: Quantize,
    dequantize: fn(&[u8], &mut [f32]),
}

pub(super) static CODECS: &[Codec] = &[
    row::<Q4_0>(),
    row::<Q4_1>(),
    row::<Q5_0>(),
    row::<Q5_1>(),
    Codec {
        tensor_type: TensorType::Q8_0,
        scales: &[0],
        quantize: |isa, row, _, out| match isa {
            Isa::Scalar => q8_0::quantize_scalar(row, out),
            _ => q8_0::quantize(row, out),
        },
        dequantize: q8_0::dequantize,
    },
    row::<Q2K>(),
    row::<Q3K>(),
    row::<Q4K>(),
    row::<Q5K>(),
    row::<Q6K>(),
    row::<Iq4Nl>(),
    row::<Iq4Xs>(),
];

const fn row<K: Kind>() -> Codec {
    Codec {
        tensor_type: K::TYPE,
        scales: K::SCALES,
        quantize: |isa, row, importance, out| {
            NotFinite::check(row)?;
            isa::quantize::<K>(isa, row, importance, out);
            Ok(())
        },
        dequantize: K::dequantize,
    }
}

/// Returns the codec of a block type; `None` for types that are not written.
#[must_use]
pub fn codec(tensor_type: TensorType) -> Option<&'static Codec> {
    CODECS.iter().find(|codec| codec.tensor_type == tensor_type)
}

impl Codec {
    /// Returns the type.
    #[must_use]
    pub fn tensor_type(&self) -> TensorType {
        self.tensor_type
    }

    /// Quantises one whole row of a tensor into `out`, with the fastest code that this processor
    /// runs. `importance` has one weight a column: the mean square of the activations there.
    ///
    /// # Errors
    /// [`NotFinite`] for the first NaN or infinity, or for the largest value of the first block
    /// whose f16 scale is infinite: every weight read from it would be infinite or NaN. `out` is
    /// then partly written.
    ///
    /// # Panics
    /// If `row` is not whole blocks, `out` not of their size, or `importance` not as long as `row`.
    pub fn quantize(
        &self,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), NotFinite> {
        self.quantize_with(Isa::best(), row, importance, out)
    }

    /// Quantises with plain scalar f32 in the order of ggml's reference code: the oracle of
    /// [`Self::quantize`].
    ///
    /// # Errors
    /// As [`Self::quantize`].
    ///
    /// # Panics
    /// As [`Self::quantize`].
    pub fn quantize_scalar(
        &self,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), NotFinite> {
        self.quantize_with(Isa::Scalar, row, importance, out)
    }

    /// Restores values, as ggml does: the inverse, up to rounding, of [`Self::quantize`].
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn dequantize(&self, blocks: &[u8], out: &mut [f32]) {
        self.assert_lengths(out.len(), blocks.len());
        (self.dequantize)(blocks, out);
    }

    /// Quantises with one instruction set, which this processor must have.
    pub(super) fn quantize_with(
        &self,
        isa: Isa,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), NotFinite> {
        self.assert_lengths(row.len(), out.len());
        assert!(importance.is_none_or(|w| w.len() == row.len()), "one weight a column");
        (self.quantize)(isa, row, importance, out)?;
        let (block_len, block_bytes) = self.geometry();
        let is_infinite = |block: &[u8]| {
            let bits = |at: &usize| u16::from_le_bytes([block[*at], block[at + 1]]);
            self.scales.iter().any(|at| !f16::from_bits(bits(at)).is_finite())
        };
        match out.chunks_exact(block_bytes).position(is_infinite) {
            Some(block) => Err(NotFinite::largest(row, block * block_len, block_len)),
            None => Ok(()),
        }
    }

    fn assert_lengths(&self, values: usize, bytes: usize) {
        let want = self.tensor_type.bytes(values as u64);
        assert_eq!(want, Some(bytes as u64), "whole blocks, and their bytes");
    }

    fn geometry(&self) -> (usize, usize) {
        let small = |n: u64| usize::try_from(n).expect("a block is small");
        (small(self.tensor_type.block_len()), small(self.tensor_type.block_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::{NotFinite, codec};
    use crate::gguf::TensorType;

    #[test]
    fn a_value_too_large_for_its_scale_is_named() {
        let codec = codec(TensorType::Q8_0).expect("written");
        let mut row = [1.0_f32; 96];
        (row[40], row[50]) = (-1e7, 2e7);
        let mut out = [0; 102];
        for result in
            [codec.quantize(&row, None, &mut out), codec.quantize_scalar(&row, None, &mut out)]
        {
            assert_eq!(result, Err(NotFinite { index: 50, value: 2e7 }));
        }
    }

    #[test]
    fn types_without_blocks_have_no_codec() {
        for plain in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            assert!(codec(plain).is_none());
        }
    }
}
