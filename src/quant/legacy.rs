//! Q4_0, Q4_1, Q5_0, Q5_1: blocks of 32 values with one f16 scale, and a minimum in the `_1` types.
//!
//! Without importance weights the scale comes from the largest value or the range alone; with
//! them it is searched. Source: `quantize_row_q{4,5}_{0,1}_{ref,impl}` of ggml at 0c1e57098.

use half::f16;

use super::k_affine::weighted;
use super::kind::{CHUNK, Kind, Level, SubBlocks, Weights, scale_importance, square_sum};
use super::scalar::{Found, ROUND, Search, inverse};
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

/// Cuts `v`, at most 127 or not finite, to a whole number; 0 for what is not finite, as on x86.
#[inline(always)]
fn truncate(v: f32) -> i8 {
    // The number stands in the lowest bits of the sum; those of infinity and NaN are 0.
    (v.trunc() + ROUND).to_bits() as i8
}

/// Codes around `half`, from the largest value alone.
#[inline(always)]
fn around<L: Level>(x: &[f32; 32], half: i8) -> Codes {
    let d = L::largest(x) / -f32::from(half);
    let id = inverse(d);
    let middle = f32::from(half) + 0.5;
    let mut codes = [0; 32];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = truncate(x * id + middle).min(2 * half - 1) as u8;
    }
    Codes { d, min: 0.0, codes }
}

/// Codes from 0 to `nmax`, from the range alone. Only four-bit codes are held to `nmax` by ggml;
/// five-bit ones cannot pass it either: the largest is `31 ± 31 ulp`.
#[inline(always)]
fn from_least<L: Level>(x: &[f32; 32], nmax: i8) -> Codes {
    let (min, max) = L::range(x);
    let d = (max - min) / f32::from(nmax);
    let id = inverse(d);
    let mut codes = [0; 32];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = truncate((x - min) * id + 0.5).min(nmax) as u8;
    }
    Codes { d, min, codes }
}

/// What the four types differ in.
trait Legacy {
    const BLOCK_BYTES: usize;
    /// The search with importance weights.
    const WEIGHTED: SubBlocks;
    /// Chooses codes without such weights.
    fn alike<L: Level>(x: &[f32; 32]) -> Codes;
    fn pack(block: &Codes, out: &mut [u8]);
}

/// Quantises block after block.
#[inline(always)]
fn quantize<T: Legacy, L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let Some(importance) = importance else {
        let outs = out.chunks_exact_mut(T::BLOCK_BYTES);
        for (x, out) in row.as_chunks::<32>().0.iter().zip(outs) {
            T::pack(&T::alike::<L>(x), out);
        }
        return;
    };
    let energy = square_sum(row) / row.len() as f32;
    let (mut w, mut found) = ([0.0; CHUNK], [Found::default(); CHUNK / 32]);
    let outs = out.chunks_mut(CHUNK / 32 * T::BLOCK_BYTES);
    for ((x, q), out) in row.chunks(CHUNK).zip(importance.chunks(CHUNK)).zip(outs) {
        let (w, found) = (&mut w[..x.len()], &mut found[..x.len() / 32]);
        scale_importance(x, q, energy, w);
        L::scales(&T::WEIGHTED, x, Some(w), found);
        let blocks = x.as_chunks::<32>().0.iter().zip(&*found);
        for ((x, found), out) in blocks.zip(out.chunks_exact_mut(T::BLOCK_BYTES)) {
            let mut codes = [0; 32];
            T::WEIGHTED.search.codes(x, found, &mut codes);
            T::pack(&Codes { d: found.scale, min: -found.min, codes }, out);
        }
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
    for (byte, codes) in out.iter_mut().zip(codes.as_chunks::<8>().0) {
        let bits = u64::from_le_bytes(*codes) >> 4 & 0x0101_0101_0101_0101;
        // Moves bit 0 of byte i to bit 56 + i; no two of the moved bits meet.
        *byte = (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
}

fn read_f16(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Reads the codes; `high` has the fifth bits.
fn unpack(low: &[u8], high: u32) -> [i8; 32] {
    std::array::from_fn(|i| {
        let code = low[i % 16] >> (i / 16 * 4) & 15;
        (code | ((high >> i & 1) as u8) << 4) as i8
    })
}

impl Legacy for Q4_0 {
    const BLOCK_BYTES: usize = 18;
    const WEIGHTED: SubBlocks = symmetric(8);

    #[inline(always)]
    fn alike<L: Level>(x: &[f32; 32]) -> Codes {
        around::<L>(x, 8)
    }

    #[inline(always)]
    fn pack(block: &Codes, out: &mut [u8]) {
        out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
        pack_low(&block.codes, &mut out[2..]);
    }
}

impl Kind for Q4_0 {
    const TYPE: TensorType = TensorType::Q4_0;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = read_f16(block, 0);
            *out = unpack(&block[2..], 0).map(|code| f32::from(code - 8) * d);
        }
    }
}

impl Legacy for Q4_1 {
    const BLOCK_BYTES: usize = 20;
    const WEIGHTED: SubBlocks = weighted(32, 15);

    #[inline(always)]
    fn alike<L: Level>(x: &[f32; 32]) -> Codes {
        from_least::<L>(x, 15)
    }

    #[inline(always)]
    fn pack(block: &Codes, out: &mut [u8]) {
        out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
        out[2..4].copy_from_slice(&f16::from_f32(block.min).to_le_bytes());
        pack_low(&block.codes, &mut out[4..]);
    }
}

impl Kind for Q4_1 {
    const TYPE: TensorType = TensorType::Q4_1;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<20>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, min) = (read_f16(block, 0), read_f16(block, 2));
            *out = unpack(&block[4..], 0).map(|code| f32::from(code) * d + min);
        }
    }
}

impl Legacy for Q5_0 {
    const BLOCK_BYTES: usize = 22;
    const WEIGHTED: SubBlocks = symmetric(16);

    #[inline(always)]
    fn alike<L: Level>(x: &[f32; 32]) -> Codes {
        around::<L>(x, 16)
    }

    #[inline(always)]
    fn pack(block: &Codes, out: &mut [u8]) {
        out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
        pack_high(&block.codes, &mut out[2..6]);
        pack_low(&block.codes, &mut out[6..]);
    }
}

impl Kind for Q5_0 {
    const TYPE: TensorType = TensorType::Q5_0;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<22>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = read_f16(block, 0);
            let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
            *out = unpack(&block[6..], high).map(|code| f32::from(code - 16) * d);
        }
    }
}

impl Legacy for Q5_1 {
    const BLOCK_BYTES: usize = 24;
    const WEIGHTED: SubBlocks = weighted(32, 31);

    #[inline(always)]
    fn alike<L: Level>(x: &[f32; 32]) -> Codes {
        from_least::<L>(x, 31)
    }

    #[inline(always)]
    fn pack(block: &Codes, out: &mut [u8]) {
        out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
        out[2..4].copy_from_slice(&f16::from_f32(block.min).to_le_bytes());
        pack_high(&block.codes, &mut out[4..8]);
        pack_low(&block.codes, &mut out[8..]);
    }
}

impl Kind for Q5_1 {
    const TYPE: TensorType = TensorType::Q5_1;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<24>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, min) = (read_f16(block, 0), read_f16(block, 2));
            let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
            *out = unpack(&block[8..], high).map(|code| f32::from(code) * d + min);
        }
    }
}
