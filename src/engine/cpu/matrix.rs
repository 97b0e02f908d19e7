//! Weights in tiles of 16 rows, and their products with activations.
//!
//! A tile holds the same column of 16 rows side by side, so that one vector register computes 16
//! outputs and no sum across lanes is needed. bf16 weights stay bf16 and are widened in the
//! register: that is exact, and halves what decode must read.

use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;
use rayon::prelude::*;

use super::pages;
use super::quantised::{self, Activations, BLOCK, BlockTile};
use super::simd::{Kernel, LANES, run};
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use crate::dtype::{Dtype, widen_to_f32};
use crate::engine::backend::{Rows, WeightPrecision};
use crate::quant::q8_0;

/// Multiply-adds below which threads cost more than they give.
const PARALLEL_MIN: usize = 1 << 20;

/// A weight `[rows, columns]`, row-major in its source.
pub struct Matrix {
    rows: usize,
    columns: usize,
    storage: Storage,
}

enum Storage {
    /// `[tile][column][16]`.
    F32(Vec<[f32; LANES]>),
    /// `[tile][column][16]`, bf16 bits.
    Bf16(Vec<[u16; LANES]>),
    /// `[tile][block]`.
    Q8(Vec<BlockTile>),
}

impl Matrix {
    /// Lays out the rows of all parts, one part after the other.
    ///
    /// Q8_0 needs finite values and columns in multiples of 32; a matrix without keeps its own
    /// precision.
    pub fn new(parts: &[Rows<'_>], precision: WeightPrecision) -> Self {
        let columns = parts[0].columns;
        let rows = parts.iter().map(|part| part.bytes.len() / part.row_bytes()).sum();
        let lines = Lines { parts, rows, columns };
        let quantise = precision == WeightPrecision::Q8_0 && columns.is_multiple_of(BLOCK);
        let quantised = if quantise { lines.quantised() } else { None };
        let storage = match quantised {
            Some(tiles) => Storage::Q8(tiles),
            None if parts.iter().all(|part| part.dtype == Dtype::Bf16) => {
                Storage::Bf16(lines.bf16())
            }
            None => Storage::F32(lines.f32()),
        };
        Self { rows, columns, storage }
    }

    /// Returns the number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the bytes that the weights take.
    pub fn size_bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(data) => size_of_val(&data[..]),
            Storage::Bf16(data) => size_of_val(&data[..]),
            Storage::Q8(data) => size_of_val(&data[..]),
        }
    }

    /// Widens row `index` into `out[columns]`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        let (tile, lane) = (index / LANES, index % LANES);
        match &self.storage {
            Storage::F32(data) => {
                let tile = &data[tile * self.columns..];
                out.iter_mut().zip(tile).for_each(|(o, column)| *o = column[lane]);
            }
            Storage::Bf16(data) => {
                let tile = &data[tile * self.columns..];
                out.iter_mut().zip(tile).for_each(|(o, column)| *o = widen(column[lane]));
            }
            Storage::Q8(data) => {
                let tile = &data[tile * (self.columns / BLOCK)..];
                for (values, block) in out.chunks_mut(BLOCK).zip(tile) {
                    block.dequantise(lane, values);
                }
            }
        }
    }

    /// Computes `out[n, rows] = x[n, columns] · weightᵀ`.
    pub fn multiply(&self, x: &[f32], out: &mut [f32], scratch: &mut Activations) {
        self.multiply_rows(x, out, 0..self.rows.div_ceil(LANES), scratch);
    }

    /// As [`Matrix::multiply`], for the outputs of some tiles of 16 rows only.
    pub fn multiply_rows(
        &self,
        x: &[f32],
        out: &mut [f32],
        tiles: std::ops::Range<usize>,
        scratch: &mut Activations,
    ) {
        let count = x.len() / self.columns;
        let first = tiles.start * LANES;
        let width = (tiles.end * LANES).min(self.rows) - first;
        assert_eq!(out.len(), count * width, "output of a product");
        if matches!(self.storage, Storage::Q8(_)) {
            scratch.quantise(x, self.columns);
        }
        let job = Product {
            matrix: self,
            x,
            activations: scratch,
            count,
            width,
            first: tiles.start,
            out: OutPtr(out.as_mut_ptr()),
        };
        if count * width * self.columns < PARALLEL_MIN || rayon::current_num_threads() == 1 {
            job.tiles(tiles);
            return;
        }
        // Pairs of tiles, in enough pieces that no thread waits long for the last.
        let pieces = rayon::current_num_threads() * 4;
        let step = tiles.len().div_ceil(pieces).next_multiple_of(2);
        tiles.clone().into_par_iter().step_by(step).for_each(|start| {
            job.tiles(start..(start + step).min(tiles.end));
        });
    }
}

fn widen(bits: u16) -> f32 {
    bf16::from_bits(bits).to_f32()
}

/// The rows of several parts, by one index.
struct Lines<'a> {
    parts: &'a [Rows<'a>],
    rows: usize,
    columns: usize,
}

impl Lines<'_> {
    fn bytes(&self, mut row: usize) -> (Dtype, &[u8]) {
        for part in self.parts {
            let size = part.row_bytes();
            let rows = part.bytes.len() / size;
            if row < rows {
                return (part.dtype, &part.bytes[row * size..(row + 1) * size]);
            }
            row -= rows;
        }
        unreachable!("row beyond the last part")
    }

    /// The rows of a tile, with their lanes.
    fn of_tile(&self, tile: usize) -> impl Iterator<Item = (usize, Dtype, &[u8])> {
        let rows = tile * LANES..((tile + 1) * LANES).min(self.rows);
        rows.map(|row| {
            let (dtype, bytes) = self.bytes(row);
            (row % LANES, dtype, bytes)
        })
    }

    /// Returns none if a value is not finite.
    fn quantised(&self) -> Option<Vec<BlockTile>> {
        let finite = AtomicBool::new(true);
        let tiles = self.rows.div_ceil(LANES);
        let all = gather(tiles, self.columns / BLOCK, |tile, out| {
            let mut values = vec![0.0; self.columns];
            let mut blocks = vec![0; self.columns / BLOCK * q8_0::BLOCK_BYTES];
            out.resize(self.columns / BLOCK, BlockTile::ZERO);
            for (lane, dtype, bytes) in self.of_tile(tile) {
                widen_to_f32(dtype, bytes, &mut values);
                if q8_0::quantize(&values, &mut blocks).is_err() {
                    finite.store(false, Ordering::Relaxed);
                }
                for (tile, block) in out.iter_mut().zip(blocks.as_chunks().0) {
                    tile.set(lane, block);
                }
            }
        });
        finite.into_inner().then_some(all)
    }

    fn f32(&self) -> Vec<[f32; LANES]> {
        gather(self.rows.div_ceil(LANES), self.columns, |tile, out| {
            let mut values = vec![0.0; self.columns];
            out.resize(self.columns, [0.0; LANES]);
            for (lane, dtype, bytes) in self.of_tile(tile) {
                widen_to_f32(dtype, bytes, &mut values);
                out.iter_mut().zip(&values).for_each(|(column, value)| column[lane] = *value);
            }
        })
    }

    fn bf16(&self) -> Vec<[u16; LANES]> {
        gather(self.rows.div_ceil(LANES), self.columns, |tile, out| {
            out.resize(self.columns, [0; LANES]);
            for (lane, _, bytes) in self.of_tile(tile) {
                for (column, value) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    column[lane] = u16::from_le_bytes(*value);
                }
            }
        })
    }
}

/// Makes every tile in parallel, at its place in memory that was asked for once.
///
/// `make` fills an empty vector with the `per_tile` elements of a tile.
fn gather<T: Copy + Send>(
    tiles: usize,
    per_tile: usize,
    make: impl Fn(usize, &mut Vec<T>) + Sync,
) -> Vec<T> {
    let mut all = pages::roomy(tiles * per_tile);
    let room = &mut all.spare_capacity_mut()[..tiles * per_tile];
    room.par_chunks_mut(per_tile).enumerate().for_each_init(Vec::new, |made, (tile, room)| {
        made.clear();
        make(tile, made);
        // Panics unless the tile has all its elements.
        room.write_copy_of_slice(made);
    });
    // SAFETY: every chunk of the room was written, or this point is not reached.
    unsafe { all.set_len(tiles * per_tile) };
    all
}

/// Where threads write: each its own columns of every row.
#[derive(Clone, Copy)]
struct OutPtr(*mut f32);

// SAFETY: `Product::store` writes columns of one tile, and each tile is given to one thread.
unsafe impl Sync for OutPtr {}
// SAFETY: as above.
unsafe impl Send for OutPtr {}

struct Product<'a> {
    matrix: &'a Matrix,
    x: &'a [f32],
    activations: &'a Activations,
    count: usize,
    width: usize,
    /// Tile of the first output column.
    first: usize,
    out: OutPtr,
}

impl Product<'_> {
    /// Computes the columns of some tiles, two tiles at a time.
    fn tiles(&self, tiles: std::ops::Range<usize>) {
        let mut tile = tiles.start;
        while tile + 2 <= tiles.end {
            self.tile_group::<2>(tile);
            tile += 2;
        }
        if tile < tiles.end {
            self.tile_group::<1>(tile);
        }
    }

    fn tile_group<const T: usize>(&self, tile: usize) {
        let mut row = 0;
        while row + 4 <= self.count {
            self.block::<T, 4>(tile, row);
            row += 4;
        }
        if row + 2 <= self.count {
            self.block::<T, 2>(tile, row);
            row += 2;
        }
        if row < self.count {
            self.block::<T, 1>(tile, row);
        }
    }

    fn block<const T: usize, const M: usize>(&self, tile: usize, row: usize) {
        let columns = self.matrix.columns;
        let inputs = |m: usize| &self.x[(row + m) * columns..(row + m + 1) * columns];
        let out = match &self.matrix.storage {
            Storage::F32(data) => {
                let tiles = tiles_of::<_, T>(data, tile, columns);
                dense(tiles, std::array::from_fn::<_, M, _>(inputs))
            }
            Storage::Bf16(data) => {
                let tiles = tiles_of::<_, T>(data, tile, columns);
                dense(tiles, std::array::from_fn::<_, M, _>(inputs))
            }
            Storage::Q8(data) => {
                let tiles = tiles_of::<_, T>(data, tile, columns / BLOCK);
                let rows = std::array::from_fn(|m| self.activations.row(row + m));
                quantised::multiply::<T, M>(tiles, rows)
            }
        };
        for (t, values) in out.iter().enumerate() {
            for (m, values) in values.iter().enumerate() {
                self.store(row + m, tile + t, values);
            }
        }
    }

    fn store(&self, row: usize, tile: usize, values: &[f32; LANES]) {
        let column = (tile - self.first) * LANES;
        let count = LANES.min(self.width - column);
        assert!(row < self.count, "row of a product");
        // SAFETY: `out` has count × width elements (asserted by the caller, which holds the
        // slice mutably), row < count and column + count ≤ width; no other thread has this tile.
        let target = unsafe {
            std::slice::from_raw_parts_mut(self.out.0.add(row * self.width + column), count)
        };
        target.copy_from_slice(&values[..count]);
    }
}

fn tiles_of<E, const T: usize>(data: &[E], tile: usize, per_tile: usize) -> [&[E]; T] {
    std::array::from_fn(|t| &data[(tile + t) * per_tile..(tile + t + 1) * per_tile])
}

/// An element that widens to f32.
trait Element: Copy {
    fn widen_lanes(lanes: &[Self; LANES]) -> [f32; LANES];

    /// As [`Element::widen_lanes`], into a register.
    #[cfg(target_arch = "x86_64")]
    fn load_avx512(lanes: &[Self; LANES]) -> std::arch::x86_64::__m512;
}

impl Element for f32 {
    #[inline(always)]
    fn widen_lanes(lanes: &[Self; LANES]) -> [f32; LANES] {
        *lanes
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn load_avx512(lanes: &[Self; LANES]) -> std::arch::x86_64::__m512 {
        // SAFETY: 16 f32 are 64 bytes; only `dense_avx512` calls this, which needs AVX-512.
        unsafe { std::arch::x86_64::_mm512_loadu_ps(lanes.as_ptr()) }
    }
}

impl Element for u16 {
    #[inline(always)]
    fn widen_lanes(lanes: &[Self; LANES]) -> [f32; LANES] {
        lanes.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn load_avx512(lanes: &[Self; LANES]) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: 16 bf16 are 32 bytes; only `dense_avx512` calls this, which needs AVX-512.
        unsafe {
            let bits = _mm256_loadu_si256(lanes.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }
    }
}

/// Multiplies with the best instructions of this machine; the bits are those of [`Dense`].
fn dense<E: Element, const T: usize, const M: usize>(
    tiles: [&[[E; LANES]]; T],
    rows: [&[f32]; M],
) -> [[[f32; LANES]; M]; T] {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: `level` found AVX-512 on this machine.
        return unsafe { dense_avx512(tiles, rows) };
    }
    run(Dense { tiles, rows })
}

/// [`Dense`] spelled in registers: fast in builds that do not vectorise, too.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn dense_avx512<E: Element, const T: usize, const M: usize>(
    tiles: [&[[E; LANES]]; T],
    rows: [&[f32]; M],
) -> [[[f32; LANES]; M]; T] {
    use std::arch::x86_64::*;
    let columns = rows[0].len();
    let tiles = tiles.map(|tile| &tile[..columns]);
    let rows = rows.map(|row| &row[..columns]);
    let mut sums = [[_mm512_setzero_ps(); M]; T];
    for column in 0..columns {
        for t in 0..T {
            let weights = E::load_avx512(&tiles[t][column]);
            for m in 0..M {
                let x = _mm512_set1_ps(rows[m][column]);
                sums[t][m] = _mm512_fmadd_ps(weights, x, sums[t][m]);
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

/// `T` tiles times `M` rows; each output is one chain of fused multiply-adds over the columns.
struct Dense<'a, E, const T: usize, const M: usize> {
    tiles: [&'a [[E; LANES]]; T],
    rows: [&'a [f32]; M],
}

impl<E: Element, const T: usize, const M: usize> Kernel for Dense<'_, E, T, M> {
    type Output = [[[f32; LANES]; M]; T];

    #[inline(always)]
    fn call(self) -> Self::Output {
        let columns = self.rows[0].len();
        let tiles = self.tiles.map(|tile| &tile[..columns]);
        let rows = self.rows.map(|row| &row[..columns]);
        let mut sums = [[[0.0f32; LANES]; M]; T];
        for column in 0..columns {
            for t in 0..T {
                let weights = E::widen_lanes(&tiles[t][column]);
                for m in 0..M {
                    let x = rows[m][column];
                    for lane in 0..LANES {
                        sums[t][m][lane] = weights[lane].mul_add(x, sums[t][m][lane]);
                    }
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::{Activations, Dense, LANES, Matrix, dense};
    use crate::dtype::Dtype;
    use crate::engine::backend::{Rows, WeightPrecision};

    fn values(count: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 504.5 - 1.0;
        (0..count).map(value).collect()
    }

    fn product(matrix: &Matrix, x: &[f32], count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count * matrix.rows()];
        matrix.multiply(x, &mut out, &mut Activations::default());
        out
    }

    #[test]
    fn the_machines_instructions_give_the_portable_bits() {
        use crate::engine::cpu::simd::Kernel as _;
        let weights = values(2 * 40 * LANES);
        let tiles = weights.as_chunks::<LANES>().0;
        let tiles = [&tiles[..40], &tiles[40..]];
        let x = values(3 * 40);
        let rows = [&x[..40], &x[40..80], &x[80..]];
        assert_eq!(dense(tiles, rows), Dense { tiles, rows }.call());
        let narrow: Vec<[u16; LANES]> = tiles
            .concat()
            .iter()
            .map(|lanes| lanes.map(|value| half::bf16::from_f32(value).to_bits()))
            .collect();
        let tiles = [&narrow[..40], &narrow[40..]];
        assert_eq!(dense(tiles, rows), Dense { tiles, rows }.call());
    }

    /// Both dtypes and Q8_0, sizes off the tile, one and two parts, one to seven rows.
    #[test]
    fn products_agree_with_plain_sums_and_do_not_depend_on_the_batch() {
        let (rows, columns, count) = (37, 64, 7);
        let weights = values(rows * columns);
        let x = values(count * columns + 11).split_off(11);
        let f32_bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let bf16 = |w: &f32| half::bf16::from_f32(*w).to_le_bytes();
        let bf16_bytes: Vec<u8> = weights.iter().flat_map(bf16).collect();
        for (dtype, bytes, precision, tolerance) in [
            (Dtype::F32, &f32_bytes, WeightPrecision::Exact, 1e-5),
            (Dtype::Bf16, &bf16_bytes, WeightPrecision::Exact, 0.05),
            (Dtype::F32, &f32_bytes, WeightPrecision::Q8_0, 0.15),
        ] {
            let border = 5 * columns * dtype.size_bytes();
            let part = |bytes| Rows { dtype, bytes, columns };
            let parts = [part(&bytes[..border]), part(&bytes[border..])];
            let matrix = Matrix::new(&parts, precision);
            let all = product(&matrix, &x, count);
            for row in 0..count {
                let input = &x[row * columns..(row + 1) * columns];
                let alone = product(&matrix, input, 1);
                assert_eq!(alone, &all[row * rows..(row + 1) * rows], "{dtype} row {row}");
                for (o, line) in alone.iter().zip(weights.chunks(columns)) {
                    let truth: f32 = line.iter().zip(input).map(|(a, b)| a * b).sum();
                    assert!((o - truth).abs() < tolerance, "{dtype} {o} {truth}");
                }
            }
            let mut back = vec![0.0; columns];
            matrix.row(36, &mut back);
            for (a, b) in back.iter().zip(&weights[36 * columns..]) {
                assert!((a - b).abs() < 0.01, "{a} {b}");
            }
        }
    }
}
