//! The extremes of a block as integers, which the compiler takes many at a time: floats have an
//! order that it may not change.

/// Orders as the values do, with -0 before 0.
#[inline(always)]
fn key(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

#[inline(always)]
fn value(key: i32) -> f32 {
    f32::from_bits((key ^ (((key >> 31) as u32) >> 1) as i32) as u32)
}

/// Returns the least and the greatest value by [`key`].
#[inline(always)]
fn extremes(x: &[f32; 32]) -> (f32, f32) {
    // Loops of their own, and no `map`: these the compiler turns into vectors.
    let mut keys = [0; 32];
    for (key_of, x) in keys.iter_mut().zip(x) {
        *key_of = key(*x);
    }
    let mut min = i32::MAX;
    for key in &keys {
        min = min.min(*key);
    }
    let mut max = i32::MIN;
    for key in &keys {
        max = max.max(*key);
    }
    (value(min), value(max))
}

/// [`super::kind::Level::largest`].
#[inline(always)]
pub fn largest(x: &[f32; 32]) -> f32 {
    let (min, max) = extremes(x);
    if max > -min {
        return max;
    }
    if max < -min {
        return min;
    }
    let first = x.iter().find(|x| x.abs() == max);
    first.map_or(0.0, |first| if *first == 0.0 { 0.0 } else { *first })
}

/// [`super::kind::Level::range`].
#[inline(always)]
pub fn range(x: &[f32; 32]) -> (f32, f32) {
    let (min, max) = extremes(x);
    let first_zero = || x.iter().copied().find(|x| *x == 0.0).unwrap_or(0.0);
    let one = |extreme: f32| if extreme == 0.0 { first_zero() } else { extreme };
    (one(min), one(max))
}

#[cfg(test)]
mod tests {
    use super::super::kind::{Level as _, Plain};
    use super::{largest, range};

    /// Equal to the scalar ones, bit for bit, where signs and ties matter.
    #[test]
    fn extremes_are_those_of_the_scalar_code() {
        let pool = [0.0, -0.0, 1.0, -1.0, 1.0, -1.0, 0.5, -0.25, 1e-45, -1e-45, 3e9, -3e9];
        let mut state = 1_u32;
        for round in 0..20_000_u32 {
            let x: [f32; 32] = std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                pool[(state >> 16) as usize % (1 + round as usize % pool.len())]
            });
            assert_eq!(largest(&x).to_bits(), Plain::largest(&x).to_bits(), "{x:?}");
            let ((a, b), (c, d)) = (range(&x), Plain::range(&x));
            assert_eq!([a, b].map(f32::to_bits), [c, d].map(f32::to_bits), "{x:?}");
        }
    }
}
