//! Q4_0, Q4_1, Q5_0, Q5_1: blocks of 32 values with one f16 scale, and a minimum in the `_1` types.
//!
//! Without importance weights the scale comes from the largest value or the range alone; with
//! them it is searched. Source: `quantize_row_q{4,5}_{0,1}_{ref,impl}` of ggml at 0c1e57098.

use half::f16;

use super::k_affine::weighted;
use super::kind::{Kind, Level, SubBlocks, Weights, scale_importance, square_sum};
use super::scalar::{Search, inverse, largest};
use crate::gguf::TensorType;

/// Four bits a value.
pub struct Q4_0;
/// Four bits a value, and a minimum.
pub struct Q4_1;
/// Five bits a value.
pub struct Q5_0;
/// Five bits a value, and a minimum.
pub struct Q5_1;

/// A block before it is packed.
struct Codes {
    d: f32,
    /// What is stored as the minimum, by the `_1` types.
    min: f32,
    codes: [u8; 32],
}

/// Cuts to a whole number, and to its lowest byte, as x86 does it: 0 for what is out of range.
#[inline(always)]
fn truncate(v: f32) -> i8 {
    const LIMIT: f32 = 2_147_483_648.0;
    if (-LIMIT..LIMIT).contains(&v) { v as i32 as i8 } else { 0 }
}

/// Codes around `half`, from the largest value alone.
#[inline(always)]
fn around(x: &[f32; 32], half: i8) -> Codes {
    let d = largest(x).0 / -f32::from(half);
    let id = inverse(d);
    let middle = f32::from(half) + 0.5;
    let codes = x.map(|x| truncate(x * id + middle).min(2 * half - 1) as u8);
    Codes { d, min: 0.0, codes }
}

/// Codes from 0 to `nmax`, from the range alone. Only four-bit codes are held to `nmax` by ggml;
/// five-bit ones cannot pass it either: the largest is `31 ± 31 ulp`.
#[inline(always)]
fn from_least(x: &[f32; 32], nmax: i8) -> Codes {
    let (mut min, mut max) = (f32::MAX, -f32::MAX);
    for x in x {
        min = if *x < min { *x } else { min };
        max = if *x > max { *x } else { max };
    }
    let d = (max - min) / f32::from(nmax);
    let id = inverse(d);
    Codes { d, min, codes: x.map(|x| truncate((x - min) * id + 0.5).min(nmax) as u8) }
}

/// Quantises block after block: `alike` without importance weights, `search` with them.
#[inline(always)]
fn quantize_blocks<const BYTES: usize>(
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    (alike, search): (impl Fn(&[f32; 32]) -> Codes, &SubBlocks),
    pack: impl Fn(&Codes, &mut [u8; BYTES]),
) {
    let blocks = row.as_chunks::<32>().0;
    let outs = out.as_chunks_mut::<BYTES>().0;
    let Some(importance) = importance else {
        for (x, out) in blocks.iter().zip(outs) {
            pack(&alike(x), out);
        }
        return;
    };
    let energy = square_sum(row) / row.len() as f32;
    for ((x, q), out) in blocks.iter().zip(importance.as_chunks::<32>().0).zip(outs) {
        let (mut w, mut codes) = ([0.0; 32], [0; 32]);
        scale_importance(x, q, energy, &mut w);
        let (d, min) = search.one(x, Some(&w), 0, &mut codes);
        pack(&Codes { d, min: -min, codes }, out);
    }
}

const fn symmetric(nmax: i32) -> SubBlocks {
    SubBlocks { len: 32, search: Search::Symmetric { nmax }, weights: Weights::Square }
}

/// Writes the lower four bits: a byte has those of two values that are 16 apart.
#[inline(always)]
fn pack_low(codes: &[u8; 32], out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = codes[i] & 15 | codes[i + 16] << 4;
    }
}

/// Writes the fifth bits, in order.
#[inline(always)]
fn pack_high(codes: &[u8; 32], out: &mut [u8]) {
    let bits = codes.iter().rev().fold(0_u32, |bits, code| bits << 1 | u32::from(code >> 4 & 1));
    out.copy_from_slice(&bits.to_le_bytes());
}

fn read_f16(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Reads the codes; `high` has the fifth bits.
fn unpack(low: &[u8], high: u32) -> [i8; 32] {
    std::array::from_fn(|i| {
        let code = low[i % 16] >> (i / 16 * 4) & 15;
        (code | (high >> i & 1) as u8 * 16) as i8
    })
}

impl Kind for Q4_0 {
    const TYPE: TensorType = TensorType::Q4_0;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let how = (|x: &[f32; 32]| around(x, 8), &symmetric(8));
        quantize_blocks::<18>(row, importance, out, how, |block, out| {
            out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
            pack_low(&block.codes, &mut out[2..]);
        });
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = read_f16(block, 0);
            *out = unpack(&block[2..], 0).map(|code| f32::from(code - 8) * d);
        }
    }
}

impl Kind for Q4_1 {
    const TYPE: TensorType = TensorType::Q4_1;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let how = (|x: &[f32; 32]| from_least(x, 15), &weighted(32, 15));
        quantize_blocks::<20>(row, importance, out, how, |block, out| {
            out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
            out[2..4].copy_from_slice(&f16::from_f32(block.min).to_le_bytes());
            pack_low(&block.codes, &mut out[4..]);
        });
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<20>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, min) = (read_f16(block, 0), read_f16(block, 2));
            *out = unpack(&block[4..], 0).map(|code| f32::from(code) * d + min);
        }
    }
}

impl Kind for Q5_0 {
    const TYPE: TensorType = TensorType::Q5_0;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let how = (|x: &[f32; 32]| around(x, 16), &symmetric(16));
        quantize_blocks::<22>(row, importance, out, how, |block, out| {
            out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
            pack_high(&block.codes, &mut out[2..6]);
            pack_low(&block.codes, &mut out[6..]);
        });
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<22>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = read_f16(block, 0);
            let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
            *out = unpack(&block[6..], high).map(|code| f32::from(code - 16) * d);
        }
    }
}

impl Kind for Q5_1 {
    const TYPE: TensorType = TensorType::Q5_1;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let how = (|x: &[f32; 32]| from_least(x, 31), &weighted(32, 31));
        quantize_blocks::<24>(row, importance, out, how, |block, out| {
            out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
            out[2..4].copy_from_slice(&f16::from_f32(block.min).to_le_bytes());
            pack_high(&block.codes, &mut out[4..8]);
            pack_low(&block.codes, &mut out[8..]);
        });
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<24>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, min) = (read_f16(block, 0), read_f16(block, 2));
            let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
            *out = unpack(&block[8..], high).map(|code| f32::from(code) * d + min);
        }
    }
}
