//! IQ4_NL, IQ4_XS: four-bit codes into an uneven table of values.
//!
//! IQ4_NL has an f16 scale a block of 32; IQ4_XS one a superblock of 8 × 32, and signed codes of
//! six bits for the scales of its sub-blocks. Source: `quantize_row_iq4_nl_impl` of ggml at
//! 0c1e57098, with 7 steps to either side.

use half::f16;

use super::kind::{self, Block, Kind, Level, Searched, SubBlocks, Weights};
use super::scalar::{MIDPOINTS, Search, TABLE, inverse, largest, nearest_in};
use crate::gguf::TensorType;

/// Blocks of 32.
pub struct Iq4Nl;
/// Superblocks of 256.
pub struct Iq4Xs;

const SEARCH: SubBlocks = SubBlocks { len: 32, search: Search::Table, weights: Weights::Square };

/// Writes the codes of 32 values: a byte has those of two that are 16 apart.
#[inline(always)]
fn pack_codes(x: &[f32; 32], inverse: f32, out: &mut [u8]) {
    // Midpoint by midpoint over all values: the other way round is slower by half.
    let mut codes = [0_i32; 32];
    for midpoint in MIDPOINTS {
        for (code, x) in codes.iter_mut().zip(x) {
            let below = inverse * x < midpoint;
            *code += i32::from(!below);
        }
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = (codes[i] | codes[i + 16] << 4) as u8;
    }
}

/// Restores 32 values.
fn unpack_codes(scale: f32, codes: &[u8], out: &mut [f32; 32]) {
    let (first, second) = out.split_at_mut(16);
    for ((a, b), q) in first.iter_mut().zip(second).zip(codes) {
        *a = scale * f32::from(TABLE[usize::from(q & 15)]);
        *b = scale * f32::from(TABLE[usize::from(q >> 4)]);
    }
}

impl Searched for Iq4Nl {
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 18;
    const ALIKE: SubBlocks = SEARCH;
    const WEIGHTED: SubBlocks = SEARCH;
    const ENERGY: Option<f32> = Some(2.0);

    #[inline(always)]
    fn pack(block: &Block<'_>, out: &mut [u8]) {
        let scale = block.found[0].scale;
        out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        pack_codes(&block.x.as_chunks().0[0], inverse(scale), &mut out[2..]);
    }
}

impl Searched for Iq4Xs {
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 136;
    const ALIKE: SubBlocks = SEARCH;
    const WEIGHTED: SubBlocks = SEARCH;
    const ENERGY: Option<f32> = Some(2.0);

    #[inline(always)]
    fn pack(block: &Block<'_>, out: &mut [u8]) {
        let scales: [f32; 8] = std::array::from_fn(|i| block.found[i].scale);
        let d = -largest(&scales).0 / 32.0;
        let id = inverse(d);
        let (head, codes) = out.split_at_mut(8);
        head[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        head[2..].fill(0);
        let mut high = 0_u16;
        let subs = block.x.as_chunks::<32>().0.iter().zip(codes.chunks_exact_mut(16));
        for (i, (x, codes)) in subs.enumerate() {
            let l = nearest_in(id * scales[i], -32, 31);
            pack_codes(x, inverse(d * l as f32), codes);
            let stored = (l + 32) as u16;
            head[4 + i / 2] |= (stored as u8 & 15) << (i % 2 * 4);
            high |= stored >> 4 << (2 * i);
        }
        head[2..4].copy_from_slice(&high.to_le_bytes());
    }
}

impl Kind for Iq4Nl {
    const TYPE: TensorType = TensorType::IQ4_NL;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        kind::quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            unpack_codes(f16::from_le_bytes([block[0], block[1]]).to_f32(), &block[2..], out);
        }
    }
}

impl Kind for Iq4Xs {
    const TYPE: TensorType = TensorType::IQ4_XS;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        kind::quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<136>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
            let high = u16::from_le_bytes([block[2], block[3]]);
            for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let low = block[4 + i / 2] >> (i % 2 * 4) & 15;
                let scale = i32::from(low) | i32::from(high >> (2 * i) & 3) << 4;
                unpack_codes(d * (scale - 32) as f32, &block[8 + 16 * i..], out);
            }
        }
    }
}
