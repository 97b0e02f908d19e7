//! The searches for the scale of a sub-block, one value after the other: the oracle of
//! [`super::search`].
//!
//! The order of every sum is that of ggml's reference code, since another order rounds otherwise.
//! Source: `make_qx_quants`, `make_q3_quants`, `make_qkx2_quants`, `make_qkx3_quants` and
//! `make_qp_quants` of ggml at 0c1e57098.

/// Below this magnitude a sub-block counts as zero.
pub const TINY: f32 = 1e-15;

/// Adding this leaves the nearest whole number, ties to even, in the lower bits of the mantissa.
pub const ROUND: f32 = 12_582_912.0;

/// The values that the codes of the IQ4 types stand for.
pub const TABLE: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Halfway between neighbours of [`TABLE`]; a value on it takes the upper neighbour.
///
/// ggml compares the distances to both, which are exact around these points: the neighbours of a
/// value there and the value itself have one exponent.
pub const MIDPOINTS: [f32; 15] = {
    let mut all = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        all[i] = (TABLE[i] as i16 + TABLE[i + 1] as i16) as f32 / 2.0;
        i += 1;
    }
    all
};

/// How the scale of a sub-block is searched.
#[derive(Debug, Clone, Copy)]
pub enum Search {
    /// A scale and a minimum, codes from 0.
    Affine(Grid),
    /// A scale, codes around 0: a grid of scales around that of the largest value.
    Symmetric {
        /// Codes go from minus this to this less one.
        nmax: i32,
    },
    /// A scale, codes around 0: code after code is bettered.
    Greedy {
        /// As for [`Self::Symmetric`].
        nmax: i32,
    },
    /// A scale, codes into [`TABLE`].
    Table,
}

/// The steps of [`Search::Affine`].
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// The largest code.
    pub nmax: i32,
    /// What the first step adds to `nmax`.
    pub first: f32,
    /// What each further step adds.
    pub step: f32,
    /// The last step's number; the first is 0.
    pub last: i32,
    /// What is summed to tell which step is best.
    pub error: Error,
}

/// The weighted error of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Its magnitude.
    Magnitude,
    /// Its square.
    Square,
}

/// What the search of a sub-block found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// The scale.
    pub scale: f32,
    /// What is subtracted from the scaled codes: 0 but for [`Search::Affine`].
    pub min: f32,
    /// The codes are those of `iscale * (x - base)`, where [`Search::codes`] knows them; `iscale`
    /// is 0 for a sub-block without a scale.
    pub iscale: f32,
    /// See `iscale`.
    pub base: f32,
}

/// A scale and a minimum, which is added.
type Line = (f32, f32);

impl Search {
    /// Searches the sub-block `x` of at most 32 values with weights `w`.
    pub fn one(&self, x: &[f32], w: &[f32]) -> Found {
        match *self {
            Self::Affine(grid) => affine(&grid, x, w),
            Self::Symmetric { nmax } => symmetric(nmax, x, w),
            Self::Greedy { nmax } => {
                Found { scale: greedy(nmax, x, &mut [0; 32]), ..Found::default() }
            }
            Self::Table => Found { scale: table(x, w), ..Found::default() },
        }
    }

    /// Writes the codes that the search ended with, from 0; nothing for [`Search::Table`].
    #[inline(always)]
    pub fn codes(&self, x: &[f32], found: &Found, codes: &mut [u8]) {
        match *self {
            Self::Affine(grid) => encode(&grid, x, (found.iscale, found.base), codes),
            Self::Symmetric { .. } if found.iscale == 0.0 => codes.fill(0),
            Self::Symmetric { nmax } => {
                for (code, x) in codes.iter_mut().zip(x) {
                    *code = (nearest_in(found.iscale * x, -nmax, nmax - 1) + nmax) as u8;
                }
            }
            Self::Greedy { nmax } => {
                greedy(nmax, x, codes);
            }
            Self::Table => {}
        }
    }
}

/// Rounds to the nearest whole number, ties to even, as long as `|v| < 2^22`. Beyond, and for
/// NaN, it returns what ggml does: other bits of the mantissa.
#[inline(always)]
pub fn nearest(v: f32) -> i32 {
    ((v + ROUND).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Rounds and clamps.
#[inline(always)]
pub fn nearest_in(v: f32, least: i32, most: i32) -> i32 {
    nearest(v).min(most).max(least)
}

/// Returns the place of the nearest value of [`TABLE`]; 15 for NaN.
#[inline(always)]
pub fn table_index(v: f32) -> usize {
    MIDPOINTS.len() - MIDPOINTS.iter().filter(|midpoint| v < **midpoint).count()
}

/// Returns `1 / d`, 0 for 0.
#[inline(always)]
pub fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Returns the value of largest magnitude, the first of several, and its magnitude.
#[inline(always)]
pub fn largest(x: &[f32]) -> (f32, f32) {
    let (mut max, mut amax) = (0.0_f32, 0.0_f32);
    for value in x {
        if value.abs() > amax {
            (max, amax) = (*value, value.abs());
        }
    }
    (max, amax)
}

fn affine(grid: &Grid, x: &[f32], w: &[f32]) -> Found {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
    for (x, w) in x.iter().zip(w).skip(1) {
        min = if *x < min { *x } else { min };
        max = if *x > max { *x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    min = if min > 0.0 { 0.0 } else { min };
    if max <= min {
        return Found { min: -min, ..Found::default() };
    }
    let nmax = grid.nmax as f32;
    let mut start = (nmax / (max - min), min);
    let mut scale = 1.0 / start.0;
    let mut codes = [0; 32];
    let codes = &mut codes[..x.len()];
    encode(grid, x, start, codes);
    let mut best = error(grid, x, w, (scale, min), codes);
    for step in 0..=grid.last {
        // From the minimum accepted last, not from the smallest value.
        let tried = ((grid.first + grid.step * step as f32 + nmax) / (max - min), min);
        encode(grid, x, tried, codes);
        let Some(fit) = fit(x, w, codes, (sum_w, sum_x)) else { continue };
        let error = error(grid, x, w, fit, codes);
        if error < best {
            (best, start) = (error, tried);
            (scale, min) = fit;
        }
    }
    Found { scale, min: -min, iscale: start.0, base: start.1 }
}

/// Writes the codes of the values for an inverse scale and a minimum.
#[inline(always)]
fn encode(grid: &Grid, x: &[f32], (iscale, min): (f32, f32), codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        *code = nearest_in(iscale * (x - min), 0, grid.nmax) as u8;
    }
}

/// Returns the scale and the minimum, at most 0, of least squared error for these codes.
fn fit(x: &[f32], w: &[f32], codes: &[u8], (sum_w, sum_x): (f32, f32)) -> Option<Line> {
    let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
    for ((x, w), code) in x.iter().zip(w).zip(codes) {
        let l = f32::from(*code);
        sum_l += w * l;
        sum_l2 += w * l * l;
        sum_xl += w * l * x;
    }
    let det: f32 = sum_w * sum_l2 - sum_l * sum_l;
    (det > 0.0).then(|| {
        let scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        let min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        if min > 0.0 { (sum_xl / sum_l2, 0.0) } else { (scale, min) }
    })
}

fn error(grid: &Grid, x: &[f32], w: &[f32], (scale, min): Line, codes: &[u8]) -> f32 {
    let mut sum = 0.0;
    for ((x, w), code) in x.iter().zip(w).zip(codes) {
        let rest = scale * f32::from(*code) + min - x;
        sum += w * if grid.error == Error::Magnitude { rest.abs() } else { rest * rest };
    }
    sum
}

/// Also finds the scale of a whole block from those of its sub-blocks.
pub fn symmetric(nmax: i32, x: &[f32], w: &[f32]) -> Found {
    let (max, amax) = largest(x);
    if amax < TINY {
        return Found::default();
    }
    let code = |iscale: f32, x: f32| nearest_in(iscale * x, -nmax, nmax - 1);
    let sums = |iscale: f32| {
        let (mut sum_lx, mut sum_l2) = (0.0_f32, 0.0_f32);
        for (x, w) in x.iter().zip(w) {
            let l = code(iscale, *x) as f32;
            sum_lx += w * x * l;
            sum_l2 += w * l * l;
        }
        (sum_lx, sum_l2)
    };
    let mut best_iscale = -(nmax as f32) / max;
    let (sum_lx, sum_l2) = sums(best_iscale);
    let mut scale = if sum_l2 == 0.0 { 0.0 } else { sum_lx / sum_l2 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|step| *step != 0) {
        let iscale = -(nmax as f32 + 0.1 * step as f32) / max;
        let (sum_lx, sum_l2) = sums(iscale);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            best_iscale = iscale;
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    Found { scale, min: 0.0, iscale: best_iscale, base: 0.0 }
}

fn greedy(nmax: i32, x: &[f32], codes: &mut [u8]) -> f32 {
    let (max, amax) = largest(x);
    if amax < TINY {
        codes.fill(0);
        return 0.0;
    }
    let iscale = -(nmax as f32) / max;
    let mut values = [0.0_f32; 32];
    let (mut sum_lx, mut sum_l2) = (0.0_f32, 0.0_f32);
    for (l, x) in values.iter_mut().zip(x) {
        *l = nearest_in(iscale * x, -nmax, nmax - 1) as f32;
        let w = x * x;
        sum_lx += w * x * *l;
        sum_l2 += w * *l * *l;
    }
    for _ in 0..5 {
        let mut changed = 0;
        for (l, x) in values.iter_mut().zip(x) {
            let w = x * x;
            let mut rest_lx = sum_lx - w * x * *l;
            if rest_lx > 0.0 {
                let mut rest_l2 = sum_l2 - w * *l * *l;
                let new = nearest_in(x * rest_l2 / rest_lx, -nmax, nmax - 1) as f32;
                if new == *l {
                    continue;
                }
                rest_lx += w * x * new;
                rest_l2 += w * new * new;
                if rest_l2 > 0.0 && rest_lx * rest_lx * sum_l2 > sum_lx * sum_lx * rest_l2 {
                    (*l, sum_lx, sum_l2) = (new, rest_lx, rest_l2);
                    changed += 1;
                }
            }
        }
        if changed == 0 {
            break;
        }
    }
    for (code, l) in codes.iter_mut().zip(values) {
        *code = (l as i32 + nmax) as u8;
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

fn table(x: &[f32], w: &[f32]) -> f32 {
    let (max, amax) = largest(x);
    if amax < TINY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut sum_qx, mut sum_q2) = (0.0_f32, 0.0_f32);
        for (x, w) in x.iter().zip(w) {
            let q = f32::from(TABLE[table_index(inverse * x)]);
            sum_qx += w * q * x;
            sum_q2 += w * q * q;
        }
        (sum_qx, sum_q2)
    };
    let least = f32::from(TABLE[0]);
    let (sum_qx, sum_q2) = sums(1.0 / (-max / least));
    let mut scale = if sum_q2 > 0.0 { sum_qx / sum_q2 } else { 0.0 };
    let mut best = scale * sum_qx;
    for step in -7..=7 {
        let (sum_qx, sum_q2) = sums((step as f32 + least) / max);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            scale = sum_qx / sum_q2;
            best = scale * sum_qx;
        }
    }
    scale
}

/// Finds the scale of a block from those of its sub-blocks, which are not negative, and their
/// codes, at most `nmax`.
pub fn positive(nmax: i32, x: &[f32], w: &[f32], codes: &mut [u8]) -> f32 {
    let max = x.iter().fold(0.0_f32, |max, x| if max > *x { max } else { *x });
    if max < TINY {
        codes.fill(0);
        return 0.0;
    }
    let mut iscale = nmax as f32 / max;
    let error = |scale: f32, code: &dyn Fn(f32) -> f32| {
        let mut sum = 0.0;
        for (x, w) in x.iter().zip(w) {
            let rest = x - scale * code(*x);
            sum += w * rest * rest;
        }
        sum
    };
    // Here alone a code is not clamped, only cut to a byte.
    let mut best = error(1.0 / iscale, &|x| f32::from(nearest(iscale * x) as u8));
    for step in (-4..=4).filter(|step| *step != 0) {
        let tried = (0.1 * step as f32 + nmax as f32) / max;
        let error = error(1.0 / tried, &|x| nearest(tried * x).min(nmax) as f32);
        if error < best {
            (best, iscale) = (error, tried);
        }
    }
    better(nmax, x, w, iscale, codes)
}

/// Starts from the codes of `iscale` and betters code after code.
fn better(nmax: i32, x: &[f32], w: &[f32], iscale: f32, codes: &mut [u8]) -> f32 {
    let (mut sum_lx, mut sum_l2) = (0.0_f32, 0.0_f32);
    for ((x, w), code) in x.iter().zip(w).zip(&mut *codes) {
        let l = nearest(iscale * x).min(nmax);
        *code = l as u8;
        sum_lx += w * x * l as f32;
        sum_l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = 0;
        for ((x, w), code) in x.iter().zip(w).zip(&mut *codes) {
            let l = f32::from(*code);
            let mut rest_lx = sum_lx - w * x * l;
            let mut rest_l2 = sum_l2 - w * l * l;
            if rest_lx > 0.0 && rest_l2 > 0.0 {
                let new = nearest(x * rest_l2 / rest_lx).min(nmax);
                if new == i32::from(*code) {
                    continue;
                }
                rest_lx += w * x * new as f32;
                rest_l2 += w * new as f32 * new as f32;
                if rest_lx * rest_lx * sum_l2 > sum_lx * sum_lx * rest_l2 {
                    (*code, sum_lx, sum_l2) = (new as u8, rest_lx, rest_l2);
                    changed += 1;
                }
            }
        }
        if changed == 0 {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}
