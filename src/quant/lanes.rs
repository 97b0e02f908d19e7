//! Registers of f32 of one instruction set each, behind one trait.
//!
//! Every operation rounds as its scalar counterpart does, so a lane computes the same bits as a
//! loop over its values. Methods are `#[inline(always)]`: they compile to the instructions they
//! name only inside a function that enables these ([`super::isa`]).

use std::arch::x86_64::{
    __m256, __m512, __mmask16, _CMP_LT_OQ, _CMP_NEQ_UQ, _CMP_NLT_UQ, _mm256_add_epi32,
    _mm256_add_ps, _mm256_and_ps, _mm256_andnot_ps, _mm256_blendv_ps, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_div_ps, _mm256_loadu_ps, _mm256_max_ps,
    _mm256_min_ps, _mm256_movemask_ps, _mm256_mul_ps, _mm256_or_ps, _mm256_permutevar8x32_ps,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_sqrt_ps, _mm256_storeu_ps,
    _mm256_sub_epi32, _mm256_sub_ps, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps,
    _mm512_and_epi32, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_div_ps,
    _mm512_loadu_ps, _mm512_mask_add_epi32, _mm512_mask_blend_ps, _mm512_maskz_set1_epi32,
    _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_or_epi32, _mm512_permutexvar_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_sqrt_ps, _mm512_storeu_ps, _mm512_sub_ps,
};
use std::ops::{Add, Div, Mul, Sub};

use super::scalar::{MIDPOINTS, ROUND, TABLE};

/// The mantissa of an f32, and the exponent of numbers whose lowest bit is 1.
const MANTISSA: i32 = 0x007f_ffff;
const WHOLE: i32 = 0x4b00_0000;

/// Some f32 side by side.
pub trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// How many.
    const COUNT: usize;
    /// A choice for each.
    type Mask: Copy;
    /// Returns the same value in every lane.
    fn splat(value: f32) -> Self;
    /// Reads the first values of a slice.
    fn load(values: &[f32]) -> Self;
    /// Writes to the start of a slice.
    fn store(self, out: &mut [f32]);
    /// Returns the square root.
    fn sqrt(self) -> Self;
    /// Returns the magnitude.
    fn abs(self) -> Self;
    /// Returns `if self < other { self } else { other }`.
    fn min(self, other: Self) -> Self;
    /// Returns `if self > other { self } else { other }`.
    fn max(self, other: Self) -> Self;
    /// Says where `self < other`.
    fn less(self, other: Self) -> Self::Mask;
    /// Says where `self != other`, NaN included.
    fn differs(self, other: Self) -> Self::Mask;
    /// Says where both choices are true.
    fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    /// Says whether a choice is true anywhere.
    fn any(mask: Self::Mask) -> bool;
    /// Returns `yes` where the choice is true, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// Rounds and clamps: [`super::scalar::nearest_in`], as f32.
    fn whole(self, least: i32, most: i32) -> Self;
    /// Returns the nearest value of [`TABLE`]: that of [`super::scalar::table_index`].
    fn nearest_of_table(self) -> Self;
}

/// Picks the entries `first`, `first + step`, … of a table.
const fn every(table: [f32; 15], first: usize, step: usize) -> [f32; 8] {
    let mut picked = [0.0; 8];
    let mut i = 0;
    while first + i * step < 15 {
        picked[i] = table[first + i * step];
        i += 1;
    }
    picked
}

/// The levels of a binary search: which midpoint comes after each outcome so far.
const LEVELS: [[f32; 8]; 4] = [
    every(MIDPOINTS, 7, 8),
    every(MIDPOINTS, 3, 8),
    every(MIDPOINTS, 1, 4),
    every(MIDPOINTS, 0, 2),
];

/// [`TABLE`], and its even and its odd entries.
const VALUES: ([f32; 16], [f32; 8], [f32; 8]) = {
    let (mut all, mut even, mut odd) = ([0.0; 16], [0.0; 8], [0.0; 8]);
    let mut i = 0;
    while i < 16 {
        all[i] = TABLE[i] as f32;
        if i % 2 == 0 {
            even[i / 2] = all[i];
        } else {
            odd[i / 2] = all[i];
        }
        i += 1;
    }
    (all, even, odd)
};

/// Eight lanes: AVX2.
#[derive(Clone, Copy)]
pub struct Eight(__m256);

/// Sixteen lanes: AVX-512.
#[derive(Clone, Copy)]
pub struct Sixteen(__m512);

// SAFETY of every block below: the types are made only inside functions that enable AVX2 or
// AVX-512 F, which `super::isa` calls only on processors that have them.

impl Add for Eight {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
}

impl Sub for Eight {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
}

impl Mul for Eight {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
}

impl Div for Eight {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_div_ps(self.0, other.0) })
    }
}

impl Lanes for Eight {
    const COUNT: usize = 8;
    type Mask = __m256;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values: &[f32; 8] = values.first_chunk().expect("eight values");
        // SAFETY: see above; the load needs no alignment.
        Self(unsafe { _mm256_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out: &mut [f32; 8] = out.first_chunk_mut().expect("eight values");
        // SAFETY: see above; the store needs no alignment.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) };
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn less(self, other: Self) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn differs(self, other: Self) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cmp_ps::<_CMP_NEQ_UQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn and(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_and_ps(a, b) }
    }

    #[inline(always)]
    fn any(mask: __m256) -> bool {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(mask) != 0 }
    }

    #[inline(always)]
    fn select(mask: __m256, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
    }

    #[inline(always)]
    fn whole(self, least: i32, most: i32) -> Self {
        // SAFETY: see above.
        let bits = unsafe {
            let sum = _mm256_add_ps(self.0, _mm256_set1_ps(ROUND));
            let mantissa = _mm256_and_ps(sum, _mm256_castsi256_ps(_mm256_set1_epi32(MANTISSA)));
            Self(_mm256_or_ps(mantissa, _mm256_castsi256_ps(_mm256_set1_epi32(WHOLE))))
        };
        let (least, most) = (ROUND + least as f32, ROUND + most as f32);
        bits.min(Self::splat(most)).max(Self::splat(least)) - Self::splat(ROUND)
    }

    #[inline(always)]
    fn nearest_of_table(self) -> Self {
        // SAFETY: see above; indices are below 8 at every level.
        unsafe {
            let mut index = _mm256_setzero_si256();
            let mut upper = _mm256_castsi256_ps(index);
            for (level, midpoints) in LEVELS.iter().enumerate() {
                if level > 0 {
                    let twice = _mm256_add_epi32(index, index);
                    index = _mm256_sub_epi32(twice, _mm256_castps_si256(upper));
                }
                let midpoint = _mm256_permutevar8x32_ps(Self::load(midpoints).0, index);
                upper = _mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, midpoint);
            }
            let even = _mm256_permutevar8x32_ps(Self::load(&VALUES.1).0, index);
            let odd = _mm256_permutevar8x32_ps(Self::load(&VALUES.2).0, index);
            Self(_mm256_blendv_ps(even, odd, upper))
        }
    }
}

impl Add for Sixteen {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
}

impl Sub for Sixteen {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
}

impl Mul for Sixteen {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
}

impl Div for Sixteen {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
}

impl Lanes for Sixteen {
    const COUNT: usize = 16;
    type Mask = __mmask16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values: &[f32; 16] = values.first_chunk().expect("sixteen values");
        // SAFETY: see above; the load needs no alignment.
        Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out: &mut [f32; 16] = out.first_chunk_mut().expect("sixteen values");
        // SAFETY: see above; the store needs no alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) };
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn less(self, other: Self) -> __mmask16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn differs(self, other: Self) -> __mmask16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn and(a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn any(mask: __mmask16) -> bool {
        mask != 0
    }

    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
    }

    #[inline(always)]
    fn whole(self, least: i32, most: i32) -> Self {
        // SAFETY: see above.
        let bits = unsafe {
            let sum = _mm512_castps_si512(_mm512_add_ps(self.0, _mm512_set1_ps(ROUND)));
            let mantissa = _mm512_and_epi32(sum, _mm512_set1_epi32(MANTISSA));
            Self(_mm512_castsi512_ps(_mm512_or_epi32(mantissa, _mm512_set1_epi32(WHOLE))))
        };
        let (least, most) = (ROUND + least as f32, ROUND + most as f32);
        bits.min(Self::splat(most)).max(Self::splat(least)) - Self::splat(ROUND)
    }

    #[inline(always)]
    fn nearest_of_table(self) -> Self {
        // SAFETY: see above; indices are below 8 at every level, below 16 at the end.
        unsafe {
            let one = _mm512_set1_epi32(1);
            let midpoint = _mm512_set1_ps(LEVELS[0][0]);
            let upper = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, midpoint);
            let mut index = _mm512_maskz_set1_epi32(upper, 1);
            for level in &LEVELS[1..] {
                let mut both = [0.0; 16];
                both[..8].copy_from_slice(level);
                let midpoint = _mm512_permutexvar_ps(index, Self::load(&both).0);
                let upper = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, midpoint);
                index = _mm512_add_epi32(index, index);
                index = _mm512_mask_add_epi32(index, upper, index, one);
            }
            Self(_mm512_permutexvar_ps(index, Self::load(&VALUES.0).0))
        }
    }
}

/// Two registers side by side, so that the instructions of one do not wait for each other alone.
#[derive(Clone, Copy)]
pub struct Pair<V>(V, V);

impl<V: Lanes> Add for Pair<V> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0, self.1 + other.1)
    }
}

impl<V: Lanes> Sub for Pair<V> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0, self.1 - other.1)
    }
}

impl<V: Lanes> Mul for Pair<V> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.0 * other.0, self.1 * other.1)
    }
}

impl<V: Lanes> Div for Pair<V> {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(self.0 / other.0, self.1 / other.1)
    }
}

impl<V: Lanes> Lanes for Pair<V> {
    const COUNT: usize = 2 * V::COUNT;
    type Mask = (V::Mask, V::Mask);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(V::splat(value), V::splat(value))
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        Self(V::load(values), V::load(&values[V::COUNT..]))
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        self.0.store(out);
        self.1.store(&mut out[V::COUNT..]);
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt(), self.1.sqrt())
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs(), self.1.abs())
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0), self.1.min(other.1))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0), self.1.max(other.1))
    }

    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        (self.0.less(other.0), self.1.less(other.1))
    }

    #[inline(always)]
    fn differs(self, other: Self) -> Self::Mask {
        (self.0.differs(other.0), self.1.differs(other.1))
    }

    #[inline(always)]
    fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        (V::and(a.0, b.0), V::and(a.1, b.1))
    }

    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        V::any(mask.0) | V::any(mask.1)
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Self(V::select(mask.0, yes.0, no.0), V::select(mask.1, yes.1, no.1))
    }

    #[inline(always)]
    fn whole(self, least: i32, most: i32) -> Self {
        Self(self.0.whole(least, most), self.1.whole(least, most))
    }

    #[inline(always)]
    fn nearest_of_table(self) -> Self {
        Self(self.0.nearest_of_table(), self.1.nearest_of_table())
    }
}
