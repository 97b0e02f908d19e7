//! The searches for the scale of a sub-block, a sub-block a lane.
//!
//! Each lane keeps the order of [`super::scalar`], so the bits are the same; steps that only some
//! lanes accept are chosen by masks.

use super::kind::{SubBlocks, Weights};
use super::lanes::{Lanes, Pair};
use super::scalar::{Error, Found, Grid, Search, TABLE, TINY};

/// The lanes of four AVX-512 registers.
const LANES_MAX: usize = 64;

/// Searches the scales of sub-blocks: [`super::kind::Level::scales`] with registers of type `V`.
#[inline(always)]
pub fn scales<V: Lanes>(search: &SubBlocks, x: &[f32], given: Option<&[f32]>, found: &mut [Found]) {
    if let Search::Greedy { nmax } = search.search {
        // Each step waits for the one before: the more registers, the less waiting.
        let count = <Pair<Pair<V>>>::COUNT;
        for (x, found) in x.chunks(count * search.len).zip(found.chunks_mut(count)) {
            greedy_group::<Pair<Pair<V>>>(nmax, search.len, x, found);
        }
        return;
    }
    let count = <Pair<V>>::COUNT;
    for (i, found) in found.chunks_mut(count).enumerate() {
        let range = i * count * search.len..(i * count + found.len()) * search.len;
        let given = given.map(|given| &given[range.clone()]);
        if found.len() > V::COUNT {
            group::<Pair<V>>(search, &x[range], given, found);
        } else {
            group::<V>(search, &x[range], given, found);
        }
    }
}

/// Searches at most as many sub-blocks as there are lanes.
#[inline(always)]
fn group<V: Lanes>(search: &SubBlocks, x: &[f32], given: Option<&[f32]>, found: &mut [Found]) {
    let zero = V::splat(0.0);
    let (mut lanes, mut weights) = ([zero; 32], [zero; 32]);
    let lanes = transpose(x, search.len, &mut lanes);
    let w = match given {
        Some(given) => transpose(given, search.len, &mut weights),
        None => fill(search.weights, lanes, &mut weights),
    };
    let lanes_found = match &search.search {
        Search::Affine(grid) => affine(grid, lanes, w),
        Search::Symmetric { nmax } => symmetric(*nmax, lanes, w),
        Search::Greedy { nmax } => [greedy(*nmax, lanes), zero, zero, zero],
        Search::Table => [table(lanes, w), zero, zero, zero],
    };
    give(lanes_found, found);
}

#[inline(always)]
fn greedy_group<V: Lanes>(nmax: i32, len: usize, x: &[f32], found: &mut [Found]) {
    let zero = V::splat(0.0);
    let mut lanes = [zero; 32];
    give([greedy(nmax, transpose(x, len, &mut lanes)), zero, zero, zero], found);
}

/// Hands out what the lanes found: scales, minima, inverse scales, bases.
#[inline(always)]
fn give<V: Lanes>(lanes: [V; 4], found: &mut [Found]) {
    let mut values = [[0.0; LANES_MAX]; 4];
    for (lanes, values) in lanes.into_iter().zip(&mut values) {
        lanes.store(values);
    }
    let [scales, mins, iscales, bases] = &values;
    for (i, found) in found.iter_mut().enumerate() {
        *found = Found { scale: scales[i], min: mins[i], iscale: iscales[i], base: bases[i] };
    }
}

/// Puts sub-block `i` of `len` values into lane `i`; lanes without one are 0.
#[inline(always)]
fn transpose<'a, V: Lanes>(x: &[f32], len: usize, out: &'a mut [V; 32]) -> &'a [V] {
    let mut turned = [0.0_f32; LANES_MAX * 32];
    for (lane, x) in x.chunks_exact(len).enumerate() {
        for (i, x) in x.iter().enumerate() {
            turned[i * V::COUNT + lane] = *x;
        }
    }
    for (out, turned) in out[..len].iter_mut().zip(turned.chunks_exact(V::COUNT)) {
        *out = V::load(turned);
    }
    &out[..len]
}

/// Fills in the weights that come from the values alone.
#[inline(always)]
fn fill<'a, V: Lanes>(weights: Weights, x: &[V], w: &'a mut [V; 32]) -> &'a [V] {
    let w = &mut w[..x.len()];
    match weights {
        Weights::Magnitude => {
            for (w, x) in w.iter_mut().zip(x) {
                *w = x.abs();
            }
        }
        Weights::Square => {
            for (w, x) in w.iter_mut().zip(x) {
                *w = *x * *x;
            }
        }
        Weights::Spread => {
            let mut sum = V::splat(0.0);
            for x in x {
                sum = sum + *x * *x;
            }
            let root = (sum / V::splat(x.len() as f32)).sqrt();
            for (w, x) in w.iter_mut().zip(x) {
                *w = root + x.abs();
            }
        }
    }
    w
}

#[inline(always)]
fn affine<V: Lanes>(grid: &Grid, x: &[V], w: &[V]) -> [V; 4] {
    let zero = V::splat(0.0);
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
    for (x, w) in x.iter().zip(w).skip(1) {
        (min, max) = (x.min(min), x.max(max));
        (sum_w, sum_x) = (sum_w + *w, sum_x + *w * *x);
    }
    min = zero.min(min);
    let (least, is_wide) = (min, min.less(max));
    let nmax = V::splat(grid.nmax as f32);
    let mut codes = [zero; 32];
    let codes = &mut codes[..x.len()];
    let mut start = (nmax / (max - min), min);
    let mut scale = V::splat(1.0) / start.0;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (start.0 * (*x - min)).whole(0, grid.nmax);
    }
    let mut best = error(grid.error, x, w, (scale, min), codes);
    for step in 0..=grid.last {
        let around = V::splat(grid.first + grid.step * step as f32 + grid.nmax as f32);
        let iscale = around / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for ((code, x), w) in codes.iter_mut().zip(x).zip(w) {
            let l = (iscale * (*x - min)).whole(0, grid.nmax);
            *code = l;
            let wl = *w * l;
            (sum_l, sum_l2, sum_xl) = (sum_l + wl, sum_l2 + wl * l, sum_xl + wl * *x);
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        let free_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        let free_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        let above = zero.less(free_min);
        let fit_scale = V::select(above, sum_xl / sum_l2, free_scale);
        let fit_min = V::select(above, zero, free_min);
        let error = error(grid.error, x, w, (fit_scale, fit_min), codes);
        let accept = V::and(zero.less(det), error.less(best));
        best = V::select(accept, error, best);
        scale = V::select(accept, fit_scale, scale);
        start = (V::select(accept, iscale, start.0), V::select(accept, min, start.1));
        min = V::select(accept, fit_min, min);
    }
    // Not `0 - min`: the sign of a zero is stored by the types of 32 values.
    let min = V::splat(-1.0) * V::select(is_wide, min, least);
    [V::select(is_wide, scale, zero), min, V::select(is_wide, start.0, zero), start.1]
}

#[inline(always)]
fn error<V: Lanes>(error: Error, x: &[V], w: &[V], (scale, min): (V, V), codes: &[V]) -> V {
    let mut sum = V::splat(0.0);
    for ((x, w), code) in x.iter().zip(w).zip(codes) {
        let rest = scale * *code + min - *x;
        let measure = match error {
            Error::Magnitude => rest.abs(),
            Error::Square => rest * rest,
        };
        sum = sum + *w * measure;
    }
    sum
}

/// Returns the value of largest magnitude, the first of several, and its magnitude.
#[inline(always)]
fn largest<V: Lanes>(x: &[V]) -> (V, V) {
    let (mut max, mut amax) = (V::splat(0.0), V::splat(0.0));
    for x in x {
        let above = amax.less(x.abs());
        (max, amax) = (V::select(above, *x, max), V::select(above, x.abs(), amax));
    }
    (max, amax)
}

#[inline(always)]
fn symmetric<V: Lanes>(nmax: i32, x: &[V], w: &[V]) -> [V; 4] {
    let zero = V::splat(0.0);
    let (max, amax) = largest(x);
    let (mut scale, mut best, mut start) = (zero, zero, zero);
    for step in 0..19 {
        // The scale of the largest value alone comes first, then those around it.
        let around = [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9][step];
        let iscale = V::splat(-(nmax as f32 + 0.1 * around as f32)) / max;
        let (mut sum_lx, mut sum_l2) = (zero, zero);
        for (x, w) in x.iter().zip(w) {
            let l = (iscale * *x).whole(-nmax, nmax - 1);
            (sum_lx, sum_l2) = (sum_lx + *w * *x * l, sum_l2 + *w * l * l);
        }
        let fit = sum_lx / sum_l2;
        if step == 0 {
            scale = V::select(sum_l2.differs(zero), fit, zero);
            (best, start) = (scale * sum_lx, iscale);
        } else {
            let better = (best * sum_l2).less(sum_lx * sum_lx);
            let accept = V::and(zero.less(sum_l2), better);
            scale = V::select(accept, fit, scale);
            best = V::select(accept, fit * sum_lx, best);
            start = V::select(accept, iscale, start);
        }
    }
    let is_tiny = amax.less(V::splat(TINY));
    [V::select(is_tiny, zero, scale), zero, V::select(is_tiny, zero, start), zero]
}

#[inline(always)]
fn greedy<V: Lanes>(nmax: i32, x: &[V]) -> V {
    let zero = V::splat(0.0);
    let (max, amax) = largest(x);
    let iscale = V::splat(-(nmax as f32)) / max;
    let mut codes = [zero; 32];
    let codes = &mut codes[..x.len()];
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for (code, x) in codes.iter_mut().zip(x) {
        let (l, w) = ((iscale * *x).whole(-nmax, nmax - 1), *x * *x);
        *code = l;
        (sum_lx, sum_l2) = (sum_lx + w * *x * l, sum_l2 + w * l * l);
    }
    for _ in 0..5 {
        let mut changed = false;
        for (code, x) in codes.iter_mut().zip(x) {
            let (l, w) = (*code, *x * *x);
            let wx = w * *x;
            let rest_lx = sum_lx - wx * l;
            let rest_l2 = sum_l2 - w * l * l;
            let new = (*x * rest_l2 / rest_lx).whole(-nmax, nmax - 1);
            let new_lx = rest_lx + wx * new;
            let new_l2 = rest_l2 + w * new * new;
            let better = (sum_lx * sum_lx * new_l2).less(new_lx * new_lx * sum_l2);
            let possible = V::and(zero.less(rest_lx), zero.less(new_l2));
            let accept = V::and(V::and(possible, new.differs(l)), better);
            *code = V::select(accept, new, l);
            sum_lx = V::select(accept, new_lx, sum_lx);
            sum_l2 = V::select(accept, new_l2, sum_l2);
            changed |= V::any(accept);
        }
        // A lane without a change has none in any further round either.
        if !changed {
            break;
        }
    }
    let scale = V::select(zero.less(sum_l2), sum_lx / sum_l2, zero);
    V::select(amax.less(V::splat(TINY)), zero, scale)
}

#[inline(always)]
fn table<V: Lanes>(x: &[V], w: &[V]) -> V {
    let zero = V::splat(0.0);
    let (max, amax) = largest(x);
    let least = V::splat(f32::from(TABLE[0]));
    let (mut scale, mut best) = (zero, zero);
    for step in -8..=7 {
        let is_first = step == -8;
        let inverse = if is_first {
            V::splat(1.0) / ((zero - max) / least)
        } else {
            (V::splat(step as f32) + least) / max
        };
        let (mut sum_qx, mut sum_q2) = (zero, zero);
        for (x, w) in x.iter().zip(w) {
            let q = (inverse * *x).nearest_of_table();
            let wq = *w * q;
            (sum_qx, sum_q2) = (sum_qx + wq * *x, sum_q2 + wq * q);
        }
        let fit = sum_qx / sum_q2;
        let above = zero.less(sum_q2);
        if is_first {
            scale = V::select(above, fit, zero);
            best = scale * sum_qx;
        } else {
            let accept = V::and(above, (best * sum_q2).less(sum_qx * sum_qx));
            scale = V::select(accept, fit, scale);
            best = V::select(accept, fit * sum_qx, best);
        }
    }
    V::select(amax.less(V::splat(TINY)), zero, scale)
}
