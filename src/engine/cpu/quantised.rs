//! Q8_0 weights and activations: blocks of 32 values with one scale.
//!
//! Weights are those of [`crate::quant::q8_0`], bit for bit what an exported file holds.
//! Activations get an f32 scale a block. Products of
//! a block are summed in whole numbers, blocks in f32.

use half::f16;

use super::simd::{Kernel, LANES};
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level, run};
use crate::quant::q8_0;

/// Values a block.
pub const BLOCK: usize = 32;
/// Groups of four values in a block: what one lane of a dot-product instruction takes.
const GROUPS: usize = BLOCK / 4;

/// One block of 16 rows of weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockTile {
    /// The rows' scales as f16 bits.
    scales: [u16; LANES],
    /// `[group][row][4]`, each value plus 128: the instruction wants unsigned weights.
    quants: [[[u8; 4]; LANES]; GROUPS],
}

impl BlockTile {
    /// Rows of zeroes.
    pub const ZERO: Self = Self { scales: [0; LANES], quants: [[[128; 4]; LANES]; GROUPS] };

    /// Takes in one row's block, as it lies in a file.
    pub fn set(&mut self, lane: usize, block: &[u8; q8_0::BLOCK_BYTES]) {
        self.scales[lane] = u16::from_le_bytes([block[0], block[1]]);
        for (group, four) in self.quants.iter_mut().zip(block[2..].as_chunks::<4>().0) {
            // Adds 128 to each of four signed bytes.
            group[lane] = (u32::from_ne_bytes(*four) ^ 0x8080_8080).to_ne_bytes();
        }
    }

    /// Widens one row's 32 values.
    pub fn dequantise(&self, lane: usize, out: &mut [f32]) {
        let scale = f16::from_bits(self.scales[lane]).to_f32();
        for (i, value) in out.iter_mut().enumerate() {
            *value = (i32::from(self.quants[i / 4][lane][i % 4]) - 128) as f32 * scale;
        }
    }
}

/// Rows of activations, quantised.
#[derive(Debug, Default)]
pub struct Activations {
    quants: Vec<i8>,
    scales: Vec<f32>,
    /// 128 × the sum of the block's quants: what the weights' offset adds to a dot product.
    offsets: Vec<i32>,
    blocks: usize,
}

/// One row of [`Activations`].
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    quants: &'a [[i8; 4]],
    scales: &'a [f32],
    offsets: &'a [i32],
}

impl Activations {
    /// Quantises `[rows, width]`; `width` is a multiple of [`BLOCK`].
    pub fn quantise(&mut self, x: &[f32], width: usize) {
        self.blocks = width / BLOCK;
        let blocks = x.len() / BLOCK;
        self.quants.resize(x.len(), 0);
        self.scales.resize(blocks, 0.0);
        self.offsets.resize(blocks, 0);
        let outputs = self.quants.as_chunks_mut::<BLOCK>().0.iter_mut();
        let blocks = x.as_chunks::<BLOCK>().0.iter().zip(outputs);
        for ((values, quants), (scale, offset)) in
            blocks.zip(self.scales.iter_mut().zip(&mut self.offsets))
        {
            (*scale, *offset) = super::simd::run(QuantiseBlock { values, quants });
        }
    }

    /// Returns row `index`.
    pub fn row(&self, index: usize) -> Row<'_> {
        let blocks = index * self.blocks..(index + 1) * self.blocks;
        let quants = &self.quants[blocks.start * BLOCK..blocks.end * BLOCK];
        Row {
            quants: quants.as_chunks::<4>().0,
            scales: &self.scales[blocks.clone()],
            offsets: &self.offsets[blocks],
        }
    }
}

struct QuantiseBlock<'a> {
    values: &'a [f32; BLOCK],
    quants: &'a mut [i8; BLOCK],
}

impl Kernel for QuantiseBlock<'_> {
    type Output = (f32, i32);

    #[inline(always)]
    fn call(self) -> (f32, i32) {
        const ROUND: f32 = 12_582_912.0;
        let mut most = 0.0f32;
        for value in self.values {
            let size = value.abs();
            most = if size > most { size } else { most };
        }
        let scale = most / 127.0;
        let inverse = if most == 0.0 { 0.0 } else { 127.0 / most };
        let mut sum = 0i32;
        for (quant, value) in self.quants.iter_mut().zip(self.values) {
            let rounded = (value.mul_add(inverse, ROUND) - ROUND) as i32;
            sum += rounded;
            *quant = rounded as i8;
        }
        (scale, sum * 128)
    }
}

/// Multiplies `T` tiles of 16 rows with `M` activations: `out[tile][m][lane]`.
///
/// Each block: whole-number dot products, then one fused multiply-add into the f32 sums.
pub fn multiply<const T: usize, const M: usize>(
    tiles: [&[BlockTile]; T],
    rows: [Row<'_>; M],
) -> [[[f32; LANES]; M]; T] {
    match level() {
        // SAFETY: `level` found AVX-512 with VNNI on this machine.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::multiply_avx512(tiles, rows) },
        // SAFETY: `level` found AVX2 with FMA and F16C on this machine.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::multiply_avx2(tiles, rows) },
        _ => run(Portable { tiles, rows }),
    }
}

struct Portable<'a, const T: usize, const M: usize> {
    tiles: [&'a [BlockTile]; T],
    rows: [Row<'a>; M],
}

impl<const T: usize, const M: usize> Kernel for Portable<'_, T, M> {
    type Output = [[[f32; LANES]; M]; T];

    #[inline(always)]
    fn call(self) -> Self::Output {
        let mut out = [[[0.0; LANES]; M]; T];
        for (tile, out) in self.tiles.iter().zip(&mut out) {
            for (row, out) in self.rows.iter().zip(out) {
                for (b, block) in tile.iter().enumerate() {
                    let mut sums = [-row.offsets[b]; LANES];
                    for (group, x) in block.quants.iter().zip(&row.quants[b * GROUPS..]) {
                        for (sum, weights) in sums.iter_mut().zip(group) {
                            for i in 0..4 {
                                *sum += i32::from(weights[i]) * i32::from(x[i]);
                            }
                        }
                    }
                    for lane in 0..LANES {
                        let scale = f16::from_bits(block.scales[lane]).to_f32() * row.scales[b];
                        out[lane] = scale.mul_add(sums[lane] as f32, out[lane]);
                    }
                }
            }
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BlockTile, GROUPS, LANES, Row};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub fn multiply_avx512<const T: usize, const M: usize>(
        tiles: [&[BlockTile]; T],
        rows: [Row<'_>; M],
    ) -> [[[f32; LANES]; M]; T] {
        let mut sums = [[_mm512_setzero_ps(); M]; T];
        for b in 0..tiles[0].len() {
            let mut dots = [[_mm512_setzero_si512(); M]; T];
            for (m, row) in rows.iter().enumerate() {
                let start = _mm512_set1_epi32(-row.offsets[b]);
                for dots in &mut dots {
                    dots[m] = start;
                }
            }
            for g in 0..GROUPS {
                let mut weights = [_mm512_setzero_si512(); T];
                for (w, tile) in weights.iter_mut().zip(&tiles) {
                    // SAFETY: a group is 16 × 4 = 64 bytes; the load needs no alignment.
                    *w = unsafe { _mm512_loadu_si512(tile[b].quants[g].as_ptr().cast()) };
                }
                for (m, row) in rows.iter().enumerate() {
                    let four = i32::from_ne_bytes(row.quants[b * GROUPS + g].map(|q| q as u8));
                    let x = _mm512_set1_epi32(four);
                    for t in 0..T {
                        dots[t][m] = _mm512_dpbusd_epi32(dots[t][m], weights[t], x);
                    }
                }
            }
            for t in 0..T {
                // SAFETY: the scales are 16 × 2 = 32 bytes; the load needs no alignment.
                let bits = unsafe { _mm256_loadu_si256(tiles[t][b].scales.as_ptr().cast()) };
                let scales = _mm512_cvtph_ps(bits);
                for (m, row) in rows.iter().enumerate() {
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(row.scales[b]));
                    let dot = _mm512_cvtepi32_ps(dots[t][m]);
                    sums[t][m] = _mm512_fmadd_ps(scale, dot, sums[t][m]);
                }
            }
        }
        let mut out = [[[0.0; LANES]; M]; T];
        for t in 0..T {
            for m in 0..M {
                // SAFETY: the target is 16 f32; the store needs no alignment.
                unsafe { _mm512_storeu_ps(out[t][m].as_mut_ptr(), sums[t][m]) };
            }
        }
        out
    }

    /// AVX2 has signed × unsigned only with saturating 16-bit pairs, so the activations give
    /// their sign to the weights: |x| ≤ 127 and |w| ≤ 127 never saturate.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn multiply_avx2<const T: usize, const M: usize>(
        tiles: [&[BlockTile]; T],
        rows: [Row<'_>; M],
    ) -> [[[f32; LANES]; M]; T] {
        let mut out = [[[0.0; LANES]; M]; T];
        let (ones, flip) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
        for t in 0..T {
            for half in 0..2 {
                let mut sums = [_mm256_setzero_ps(); M];
                for (b, block) in tiles[t].iter().enumerate() {
                    let mut dots = [_mm256_setzero_si256(); M];
                    for g in 0..GROUPS {
                        // SAFETY: half a group is 8 × 4 = 32 bytes; no alignment needed.
                        let w = unsafe {
                            _mm256_loadu_si256(block.quants[g][half * 8..].as_ptr().cast())
                        };
                        let w = _mm256_xor_si256(w, flip);
                        for (m, row) in rows.iter().enumerate() {
                            let four = row.quants[b * GROUPS + g].map(|q| q as u8);
                            let x = _mm256_set1_epi32(i32::from_ne_bytes(four));
                            let pairs =
                                _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
                            dots[m] = _mm256_add_epi32(dots[m], _mm256_madd_epi16(pairs, ones));
                        }
                    }
                    // SAFETY: half the scales are 8 × 2 = 16 bytes; no alignment needed.
                    let bits = unsafe { _mm_loadu_si128(block.scales[half * 8..].as_ptr().cast()) };
                    let scales = _mm256_cvtph_ps(bits);
                    for (m, row) in rows.iter().enumerate() {
                        let scale = _mm256_mul_ps(scales, _mm256_set1_ps(row.scales[b]));
                        sums[m] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots[m]), sums[m]);
                    }
                }
                for m in 0..M {
                    // SAFETY: the target is 8 f32; the store needs no alignment.
                    unsafe { _mm256_storeu_ps(out[t][m][half * 8..].as_mut_ptr(), sums[m]) };
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Activations, BLOCK, BlockTile, Kernel as _, Portable, multiply};
    use crate::quant::q8_0;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn tile(rows: &[Vec<f32>]) -> Vec<BlockTile> {
        let mut tile = vec![BlockTile::ZERO; rows[0].len() / BLOCK];
        for (lane, row) in rows.iter().enumerate() {
            let mut blocks = vec![0; row.len() / BLOCK * q8_0::BLOCK_BYTES];
            q8_0::quantize(row, &mut blocks).expect("finite values");
            for (tile, block) in tile.iter_mut().zip(blocks.as_chunks().0) {
                tile.set(lane, block);
            }
        }
        tile
    }

    /// The product of one row's blocks and one quantised activation row, exact in f64: codes and
    /// scales by their definitions, nothing of the code under test.
    fn exact(row: &[f32], x: &[f32]) -> f64 {
        let codes = |values: &[f32], scale: f64| -> Vec<f64> {
            values.iter().map(|v| (f64::from(*v) / scale).round()).collect()
        };
        let most = |values: &[f32]| values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let blocks = row.chunks(BLOCK).zip(x.chunks(BLOCK));
        let one = |(row, x): (&[f32], &[f32])| {
            let (row_scale, x_scale) = (most(row) / 127.0, most(x) / 127.0);
            let stored = f64::from(half::f16::from_f32(row_scale).to_f32());
            let pairs = codes(row, row_scale.into()).into_iter().zip(codes(x, x_scale.into()));
            pairs.map(|(a, b)| a * b).sum::<f64>() * stored * f64::from(x_scale)
        };
        blocks.map(one).sum()
    }

    #[test]
    fn the_machines_instructions_give_the_portable_bits() {
        let rows: Vec<_> = (0..16).map(|i| values(96, i)).collect();
        let x = values(3 * 96, 99);
        let (tile, mut activations) = (tile(&rows), Activations::default());
        activations.quantise(&x, 96);
        let inputs = [0, 1, 2].map(|m| activations.row(m));
        let fast = multiply([&tile[..], &tile[..]], inputs);
        let slow = Portable { tiles: [&tile[..]], rows: inputs }.call();
        assert_eq!(fast[0], slow[0]);
        assert_eq!(fast[1], slow[0]);
        for (lane, row) in rows.iter().enumerate() {
            for m in 0..3 {
                let truth = exact(row, &x[m * 96..(m + 1) * 96]);
                assert!((f64::from(fast[0][m][lane]) - truth).abs() < 3e-6, "{truth}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn avx2_gives_the_portable_bits() {
        if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("f16c") {
            return;
        }
        let rows: Vec<_> = (0..16).map(|i| values(64, i + 50)).collect();
        let (tile, mut activations) = (tile(&rows), Activations::default());
        activations.quantise(&values(2 * 64, 7), 64);
        let inputs = [0, 1].map(|m| activations.row(m));
        // SAFETY: checked above; every machine with AVX2 and F16C has FMA.
        let fast = unsafe { super::x86::multiply_avx2([&tile[..]], inputs) };
        assert_eq!(fast, Portable { tiles: [&tile[..]], rows: inputs }.call());
    }

    #[test]
    fn extremes_do_not_saturate() {
        let rows = vec![vec![-1.0; 32], vec![1.0; 32]];
        let (tile, mut activations) = (tile(&rows), Activations::default());
        activations.quantise(&[-3.0; 32], 32);
        let out = multiply([&tile[..]], [activations.row(0)]);
        assert!((out[0][0][0] - 96.0).abs() < 0.1 && (out[0][0][1] + 96.0).abs() < 0.1);
        assert_eq!(out[0][0][2], 0.0);
    }

    #[test]
    fn rows_come_back_within_half_a_step() {
        let rows = [values(32, 1)];
        let mut back = [0.0; 32];
        tile(&rows)[0].dequantise(0, &mut back);
        for (a, b) in rows[0].iter().zip(back) {
            assert!((a - b).abs() <= 0.51 / 127.0 + 1e-3, "{a} {b}");
        }
    }
}
