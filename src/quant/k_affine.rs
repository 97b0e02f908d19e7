//! Q2_K, Q4_K, Q5_K: superblocks of 256 values, codes with a scale and a minimum a sub-block.
//!
//! Scales and minima are themselves codes of 4 or 6 bits, with an f16 scale each a superblock.
//! Source: `quantize_row_q{2,4,5}_K_{ref,impl}` of ggml at 0c1e57098.

use half::f16;

use super::kind::{self, Block, Kind, Level, Searched, SubBlocks, Weights};
use super::scalar::{Error, Grid, Search, nearest, nearest_in, positive};
use crate::gguf::TensorType;

/// Two bits a value.
pub struct Q2K;
/// Four bits a value.
pub struct Q4K;
/// Five bits a value.
pub struct Q5K;

const fn alike(len: usize, nmax: i32, (first, last): (f32, i32), weights: Weights) -> SubBlocks {
    let error =
        if matches!(weights, Weights::Magnitude) { Error::Magnitude } else { Error::Square };
    SubBlocks { len, search: Search::Affine(Grid { nmax, first, step: 0.1, last, error }), weights }
}

/// The grid with importance weights, whatever the codes.
pub const fn weighted(len: usize, nmax: i32) -> SubBlocks {
    let grid = Grid { nmax, first: -0.9, step: 0.05, last: 36, error: Error::Square };
    SubBlocks { len, search: Search::Affine(grid), weights: Weights::Spread }
}

/// The stored form of a superblock's scales, or of its minima.
struct Stored<const N: usize> {
    d: f16,
    codes: [u8; N],
}

impl<const N: usize> Stored<N> {
    /// Chooses codes up to `nmax` for `values`: from the largest alone without weights.
    #[inline(always)]
    fn choose(values: [f32; N], sums: Option<&[f32; N]>, nmax: i32) -> Self {
        let mut codes = [0; N];
        if let Some(sums) = sums {
            let d = f16::from_f32(positive(nmax, &values, sums, &mut codes));
            return Self { d, codes };
        }
        let max = values.iter().fold(0.0_f32, |max, v| if *v > max { *v } else { max });
        let inverse = if max > 0.0 { nmax as f32 / max } else { 0.0 };
        for (code, value) in codes.iter_mut().zip(values) {
            *code = nearest(inverse * value) as u8;
        }
        if nmax == 63 {
            codes = codes.map(|code| code.min(63));
        }
        Self { d: f16::from_f32(max / nmax as f32), codes }
    }
}

/// Returns a superblock's scales and its minima as they are stored.
#[inline(always)]
fn choose<const N: usize>(block: &Block<'_>, nmax: i32) -> (Stored<N>, Stored<N>) {
    let sums = block.weight_sums::<N>();
    let scales = std::array::from_fn(|i| block.found[i].scale);
    let mins = std::array::from_fn(|i| block.found[i].min);
    (Stored::choose(scales, sums.as_ref(), nmax), Stored::choose(mins, sums.as_ref(), nmax))
}

/// Returns the codes of the values for the stored scales and minima.
#[inline(always)]
fn codes<const N: usize>(
    block: &Block<'_>,
    scales: &Stored<N>,
    mins: &Stored<N>,
    nmax: i32,
) -> [u8; 256] {
    let mut codes = [0; 256];
    let len = 256 / N;
    let (scale, min) = (scales.d.to_f32(), mins.d.to_f32());
    for (i, codes) in codes.chunks_exact_mut(len).enumerate() {
        let d = scale * f32::from(scales.codes[i]);
        if d == 0.0 {
            block.found_codes(i, codes);
            continue;
        }
        let dm = min * f32::from(mins.codes[i]);
        for (code, x) in codes.iter_mut().zip(&block.x[i * len..]) {
            *code = nearest_in((x + dm) / d, 0, nmax) as u8;
        }
    }
    codes
}

impl Searched for Q2K {
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 84;
    const ALIKE: SubBlocks = alike(16, 3, (-0.5, 15), Weights::Magnitude);
    const WEIGHTED: SubBlocks = weighted(16, 3);
    const ENERGY: Option<f32> = Some(1.0);

    #[inline(always)]
    fn pack(block: &Block<'_>, out: &mut [u8]) {
        let (mut scales, mut mins) = choose::<16>(block, 15);
        let codes_of = scales.codes.iter_mut().zip(&mut mins.codes);
        for ((scale, min), byte) in codes_of.zip(&mut *out) {
            // What is too large for its half of the byte runs into the other.
            *byte = *scale | *min << 4;
            (*scale, *min) = (*byte & 15, *byte >> 4);
        }
        pack_two_bits(&codes(block, &scales, &mins, 3), &mut out[16..80]);
        out[80..82].copy_from_slice(&scales.d.to_le_bytes());
        out[82..84].copy_from_slice(&mins.d.to_le_bytes());
    }
}

/// Writes 256 codes of two bits: a byte has those of four values that are 32 apart.
#[inline(always)]
pub fn pack_two_bits(codes: &[u8; 256], out: &mut [u8]) {
    for (half, out) in codes.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = half[i] | half[i + 32] << 2 | half[i + 64] << 4 | half[i + 96] << 6;
        }
    }
}

/// Writes the first 16 bytes, the same for Q4_K and Q5_K: d, dmin, and 2 × 8 codes of six bits,
/// and sets the codes to what is read there.
#[inline(always)]
fn pack_head(scales: &mut Stored<8>, mins: &mut Stored<8>, out: &mut [u8]) {
    out[..2].copy_from_slice(&scales.d.to_le_bytes());
    out[2..4].copy_from_slice(&mins.d.to_le_bytes());
    let (s, m) = (&scales.codes, &mins.codes);
    for i in 0..4 {
        out[4 + i] = s[i] | s[i + 4] >> 4 << 6;
        out[8 + i] = m[i] | m[i + 4] >> 4 << 6;
        out[12 + i] = s[i + 4] & 15 | (m[i + 4] & 15) << 4;
    }
    (scales.codes, mins.codes) = unpack_head(&out[4..16]);
}

/// Reads the codes of the scales and of the minima.
#[inline(always)]
fn unpack_head(q: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        (scales[i], mins[i]) = (q[i] & 63, q[i + 4] & 63);
        scales[i + 4] = q[i + 8] & 15 | q[i] >> 6 << 4;
        mins[i + 4] = q[i + 8] >> 4 | q[i + 4] >> 6 << 4;
    }
    (scales, mins)
}

/// Writes the lower four bits of 256 codes: a byte has those of two values that are 32 apart.
#[inline(always)]
fn pack_four_bits(codes: &[u8; 256], out: &mut [u8]) {
    for (part, out) in codes.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = part[i] & 15 | part[i + 32] << 4;
        }
    }
}

impl Searched for Q4K {
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 144;
    const ALIKE: SubBlocks = alike(32, 15, (-1.0, 20), Weights::Spread);
    const WEIGHTED: SubBlocks = weighted(32, 15);
    const ENERGY: Option<f32> = Some(2.0);

    #[inline(always)]
    fn pack(block: &Block<'_>, out: &mut [u8]) {
        let (mut scales, mut mins) = choose::<8>(block, 63);
        pack_head(&mut scales, &mut mins, out);
        pack_four_bits(&codes(block, &scales, &mins, 15), &mut out[16..]);
    }
}

impl Searched for Q5K {
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 176;
    const ALIKE: SubBlocks = alike(32, 31, (-0.5, 15), Weights::Spread);
    const WEIGHTED: SubBlocks = weighted(32, 31);
    const ENERGY: Option<f32> = Some(2.0);

    #[inline(always)]
    fn pack(block: &Block<'_>, out: &mut [u8]) {
        let (mut scales, mut mins) = choose::<8>(block, 63);
        scales.codes = scales.codes.map(|code| code.min(63));
        mins.codes = mins.codes.map(|code| code.min(63));
        pack_head(&mut scales, &mut mins, out);
        let codes = codes(block, &scales, &mins, 31);
        let (high, low) = out[16..].split_at_mut(32);
        high.fill(0);
        for (bit, part) in codes.as_chunks::<32>().0.iter().enumerate() {
            for (byte, code) in high.iter_mut().zip(part) {
                *byte |= code >> 4 << bit;
            }
        }
        pack_four_bits(&codes, low);
    }
}

/// Reads the scale and the minimum of each sub-block of Q4_K or Q5_K.
fn read_head(block: &[u8]) -> [(f32, f32); 8] {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    let dmin = f16::from_le_bytes([block[2], block[3]]).to_f32();
    let (scales, mins) = unpack_head(&block[4..16]);
    std::array::from_fn(|i| (d * f32::from(scales[i]), dmin * f32::from(mins[i])))
}

impl Kind for Q2K {
    const TYPE: TensorType = TensorType::Q2_K;
    const SCALES: &'static [usize] = &[80, 82];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        kind::quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<84>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = f16::from_le_bytes([block[80], block[81]]).to_f32();
            let dmin = f16::from_le_bytes([block[82], block[83]]).to_f32();
            for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let (scale, min) = (d * f32::from(block[i] & 15), dmin * f32::from(block[i] >> 4));
                let from = 16 + i / 8 * 32 + i % 2 * 16;
                for (value, q) in out.iter_mut().zip(&block[from..]) {
                    *value = scale * f32::from(q >> (i % 8 / 2 * 2) & 3) - min;
                }
            }
        }
    }
}

impl Kind for Q4K {
    const TYPE: TensorType = TensorType::Q4_K;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        kind::quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let head = read_head(block);
            for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (scale, min) = head[i];
                for (value, q) in out.iter_mut().zip(&block[16 + i / 2 * 32..]) {
                    *value = scale * f32::from(q >> (i % 2 * 4) & 15) - min;
                }
            }
        }
    }
}

impl Kind for Q5K {
    const TYPE: TensorType = TensorType::Q5_K;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        kind::quantize::<Self, L>(row, importance, out);
    }

    fn dequantize(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.as_chunks::<176>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let head = read_head(block);
            let high = &block[16..48];
            for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (scale, min) = head[i];
                for ((value, q), h) in out.iter_mut().zip(&block[48 + i / 2 * 32..]).zip(high) {
                    let code = q >> (i % 2 * 4) & 15 | (h >> i & 1) << 4;
                    *value = scale * f32::from(code) - min;
                }
            }
        }
    }
}
