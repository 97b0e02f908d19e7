//! Q3_K, Q6_K: superblocks of 16 × 16 values, codes around 0 with a scale a sub-block.
//!
//! Scales are themselves codes of 6 or 8 bits, signed, with an f16 scale a superblock.
//! Source: `quantize_row_q{3,6}_K_{ref,impl}` of ggml at 0c1e57098.

use half::f16;

use super::k_affine::pack_two_bits;
use super::kind::{self, Block, Kind, Level, Searched, SubBlocks, Weights};
use super::scalar::{Search, TINY, largest, nearest, nearest_in, symmetric};
use crate::gguf::TensorType;

/// Three bits a value.
pub struct Q3K;
/// Six bits a value.
pub struct Q6K;

/// Returns the codes, from 0, of the values for the stored scales.
#[inline(always)]
fn codes(block: &Block<'_>, d: f16, scales: &[i8; 16], nmax: i32) -> [u8; 256] {
    let mut codes = [0; 256];
    let d = d.to_f32();
    let outs = codes.as_chunks_mut::<16>().0.iter_mut();
    for (i, (codes, x)) in outs.zip(block.x.as_chunks::<16>().0).enumerate() {
        let scale = d * f32::from(scales[i]);
        if scale == 0.0 {
            block.found_codes(i, codes);
            continue;
        }
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (nearest_in(x / scale, -nmax, nmax - 1) + nmax) as u8;
        }
    }
    codes
}

impl Searched for Q3K {
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 110;
    const ALIKE: SubBlocks =
        SubBlocks { len: 16, search: Search::Greedy { nmax: 4 }, weights: Weights::Square };
    const WEIGHTED: SubBlocks =
        SubBlocks { len: 16, search: Search::Symmetric { nmax: 4 }, weights: Weights::Square };
    const ENERGY: Option<f32> = Some(2.0);

    #[inline(always)]
    fn pack(block: &Block<'_>, out: &mut [u8]) {
        let scales: [f32; 16] = std::array::from_fn(|i| block.found[i].scale);
        let (d, stored) = match block.weight_sums::<16>() {
            Some(sums) => {
                let found = symmetric(32, &scales, &sums);
                let mut stored = [0; 16];
                Search::Symmetric { nmax: 32 }.codes(&scales, &found, &mut stored);
                (found.scale, stored)
            }
            None => three_bit_scales(&scales),
        };
        let d = f16::from_f32(d);
        pack_six_bits(&stored, &mut out[96..108]);
        let codes = codes(block, d, &stored.map(|s| s as i8 - 32), 4);
        let (high, low) = out.split_at_mut(32);
        high.fill(0);
        for (bit, part) in codes.as_chunks::<32>().0.iter().enumerate() {
            for (byte, code) in high.iter_mut().zip(part) {
                *byte |= code >> 2 << bit;
            }
        }
        pack_two_bits(&codes.map(|code| code & 3), &mut low[..64]);
        out[108..110].copy_from_slice(&d.to_le_bytes());
    }
}

/// Returns the scale of the scales, and their codes from 0: from the largest alone.
#[inline(always)]
fn three_bit_scales(scales: &[f32; 16]) -> (f32, [u8; 16]) {
    let (max, _) = largest(scales);
    if max == 0.0 {
        return (0.0, [0; 16]);
    }
    let iscale = -32.0 / max;
    let code = |scale: &f32| ((nearest(iscale * scale) as i8).clamp(-32, 31) + 32) as u8;
    (1.0 / iscale, scales.each_ref().map(code))
}

/// Writes 16 codes of six bits: the lower four in eight bytes, the upper two in four.
#[inline(always)]
fn pack_six_bits(codes: &[u8; 16], out: &mut [u8]) {
    for i in 0..8 {
        out[i] = codes[i] & 15 | codes[i + 8] << 4;
    }
    for i in 0..4 {
        let high = |part: usize| codes[4 * part + i] >> 4 << (2 * part);
        out[8 + i] = high(0) | high(1) | high(2) | high(3);
    }
}

impl Searched for Q6K {
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 210;
    const ALIKE: SubBlocks =
        SubBlocks { len: 16, search: Search::Symmetric { nmax: 32 }, weights: Weights::Square };
    const WEIGHTED: SubBlocks = Self::ALIKE;
    const ENERGY: Option<f32> = None;

    #[inline(always)]
    fn pack(block: &Block<'_>, out: &mut [u8]) {
        let scales: [f32; 16] = std::array::from_fn(|i| block.found[i].scale);
        let (max, amax) = largest(&scales);
        if amax < TINY {
            out.fill(0);
            return;
        }
        let iscale = -128.0 / max;
        let d = f16::from_f32(1.0 / iscale);
        let stored = scales.map(|scale| nearest(iscale * scale).min(127) as i8);
        let codes = codes(block, d, &stored, 32);
        let (low, rest) = out.split_at_mut(128);
        let (high, tail) = rest.split_at_mut(64);
        let lows = low.as_chunks_mut::<64>().0.iter_mut().zip(high.as_chunks_mut::<32>().0);
        for (codes, (low, high)) in codes.as_chunks::<128>().0.iter().zip(lows) {
            for i in 0..32 {
                let [a, b, c, d] = [codes[i], codes[i + 32], codes[i + 64], codes[i + 96]];
                low[i] = a & 15 | c << 4;
                low[i + 32] = b & 15 | d << 4;
                high[i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
            }
        }
        for (byte, scale) in tail.iter_mut().zip(stored) {
            *byte = scale as u8;
        }
        tail[16..].copy_from_slice(&d.to_le_bytes());
    }
}

impl Kind for Q3K {
    const TYPE: TensorType = TensorType::Q3_K;
    const SCALES: &'static [usize] = &[108];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        kind::quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<110>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = f16::from_le_bytes([block[108], block[109]]).to_f32();
            let q = &block[96..108];
            for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scale = q[i % 8] >> (i / 8 * 4) & 15 | (q[8 + i % 4] >> (i / 4 * 2) & 3) << 4;
                let scale = d * f32::from(scale as i8 - 32);
                let (low, high) = (32 + i / 8 * 32 + i % 2 * 16, i % 2 * 16);
                for ((value, q), h) in out.iter_mut().zip(&block[low..]).zip(&block[high..]) {
                    let code = q >> (i % 8 / 2 * 2) & 3 | (h >> (i / 2) & 1) << 2;
                    *value = scale * f32::from(code as i8 - 4);
                }
            }
        }
    }
}

impl Kind for Q6K {
    const TYPE: TensorType = TensorType::Q6_K;
    const SCALES: &'static [usize] = &[208];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        kind::quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = f16::from_le_bytes([block[208], block[209]]).to_f32();
            for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scale = d * f32::from(block[192 + i] as i8);
                let (half, part, offset) = (i / 8, i % 8 / 2, i % 2 * 16);
                let low = &block[64 * half + part % 2 * 32 + offset..];
                let high = &block[128 + 32 * half + offset..];
                for ((value, q), h) in out.iter_mut().zip(low).zip(high) {
                    let code = q >> (part / 2 * 4) & 15 | (h >> (part * 2) & 3) << 4;
                    *value = scale * f32::from(code as i8 - 32);
                }
            }
        }
    }
}
